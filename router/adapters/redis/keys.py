"""Every key that this program keeps in Redis. All of a ledger share one hash tag, so scripts work in a cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under a prefix; `fg` gives `{fg}:...`."""

    prefix: str

    @property
    def counters(self) -> str:
        """Start of the names of counters; the bucket id follows. Hash: s spent, h held, d debt; nano-USD."""
        return f"{{{self.prefix}}}:b:"

    @property
    def attempts(self) -> str:
        """Start of the names of attempts; the attempt id follows. String, see `reserve.lua`."""
        return f"{{{self.prefix}}}:a:"

    @property
    def open_holds(self) -> str:
        """Start of the names of the sets of open holds; the replica follows."""
        return f"{{{self.prefix}}}:o:"

    @property
    def progress(self) -> str:
        """Start of the names of progress hashes; the replica follows. Attempt id -> nano-USD burnt."""
        return f"{{{self.prefix}}}:p:"

    @property
    def leases(self) -> str:
        """Zset: replica -> end of its lease, ms."""
        return f"{{{self.prefix}}}:leases"

    @property
    def limits(self) -> str:
        """Hash: budget -> limit, nano-USD."""
        return f"{{{self.prefix}}}:limits"

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
    def virtual_keys(self) -> str:
        """Hash: key id -> JSON of `StoredKey`."""
        return f"{{{self.prefix}}}:keys"

    @property
    def pepper(self) -> str:
        """String: the secret under which key secrets are hashed."""
        return f"{{{self.prefix}}}:pepper"
