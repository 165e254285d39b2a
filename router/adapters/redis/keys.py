"""Every key that this program keeps in Redis. All of a ledger share one hash tag, so scripts work in a cluster."""

from __future__ import annotations

from dataclasses import dataclass


def limit_field(bucket_id: str) -> str:
    """Where the books keep the limit of a bucket's budget; the escaped name of the budget will do, too."""
    return f"{bucket_id.partition('|')[0]}|l"


def lease_field(replica: str) -> str:
    """Where the books keep the end of a lease."""
    return f"|{replica}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under a prefix; `fg` gives `{fg}:...`."""

    prefix: str

    @property
    def books(self) -> str:
        """Hash of all that a reserve must look at, so that it reads once and writes once.

        `<bucket id>|s`, `|h`, `|d`: spent, held, debt, nano-USD. `<budget>|l`: its limit, nano-USD.
        `|<replica>`: end of its lease, ms. A bucket id has two bars, the escaped name of a budget none.
        """
        return f"{{{self.prefix}}}:books"

    @property
    def attempts(self) -> str:
        """Start of the names of attempts that have ended; the attempt id follows. See `reserve.lua`.

        The whole name stands for the attempt in the open holds, the progress and the log.
        """
        return f"{{{self.prefix}}}:a:"

    @property
    def open_holds(self) -> str:
        """Hash: attempt key -> its hold, see `reserve.lua`."""
        return f"{{{self.prefix}}}:open"

    @property
    def progress(self) -> str:
        """Start of the names of progress hashes; the replica follows. Attempt key -> nano-USD burnt."""
        return f"{{{self.prefix}}}:p:"

    @property
    def leases(self) -> str:
        """Zset: replica -> end of its lease, ms."""
        return f"{{{self.prefix}}}:leases"

    @property
    def limits_version(self) -> str:
        """String: the configuration that published the limits."""
        return f"{{{self.prefix}}}:limits:version"

    @property
    def index(self) -> str:
        """Zset: bucket id -> end of its window, ms."""
        return f"{{{self.prefix}}}:index"

    @property
    def log(self) -> str:
        """Stream: one entry per charge, see `settle.lua`."""
        return f"{{{self.prefix}}}:log"

    @property
    def trimmed(self) -> str:
        """Hash: what dropped entries of the log added up to, see `trim.lua`."""
        return f"{{{self.prefix}}}:trimmed"

    @property
    def auditor(self) -> str:
        """String: the replica that compares counters and log now. Expires."""
        return f"{{{self.prefix}}}:auditor"

    @property
    def virtual_keys(self) -> str:
        """Hash: key id -> JSON of `StoredKey`."""
        return f"{{{self.prefix}}}:keys"

    @property
    def pepper(self) -> str:
        """String: the secret under which key secrets are hashed."""
        return f"{{{self.prefix}}}:pepper"
