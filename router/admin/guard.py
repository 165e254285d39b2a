"""Who asks the admin API: constant-time comparison, and a bound on guesses."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from router.edge.headers import AUTHORIZATION, Headers
from router.errors import ADMIN_UNKNOWN, RATE_LIMITED, RouterError
from router.snapshot import Administrator

FREE_GUESSES: Final = 10
"""Wrong credentials that an address may send at once."""
SECONDS_PER_GUESS: Final = 6.0
"""After so long it may send another one."""
MOST_ADDRESSES: Final = 10_000
MAX_SECRET_BYTES: Final = 512
_IPV6_SITE_BITS: Final = 64


class Guard:
    """Knows administrators by what they send. One per process: guesses at other workers are counted there."""

    def __init__(self, admins: Callable[[], Mapping[str, Administrator]], *, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._admins = admins
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address -> (guesses that count still, when that was so)."""

    def knows(self, headers: Headers) -> Administrator | None:
        """Who sent these headers; None: nobody that is known. Every administrator is compared, whoever it is."""
        scheme, _, credential = headers.get(AUTHORIZATION, b"").partition(b" ")
        digest = hashlib.sha256(credential.strip()[:MAX_SECRET_BYTES]).digest()
        found = None
        for admin in self._admins().values():
            if hmac.compare_digest(admin.secret_digest, digest):
                found = admin
        return found if scheme.lower() == b"bearer" else None

    def admit(self, headers: Headers, address: str) -> Administrator:
        """The administrator who asks from this address.

        A correct secret is let in whatever others sent from there: many people may share an address, and a secret is too long to be
        found by guessing.

        Raises:
            RouterError: 401; 429 if too many wrong credentials came from there.
        """
        if AUTHORIZATION not in headers:
            raise RouterError(ADMIN_UNKNOWN, "No credential was sent. Send 'Authorization: Bearer <secret of an administrator>'.")
        admin = self.knows(headers)
        if admin is not None:
            return admin
        now, place = self._clock(), _place(address)
        count, at = self._wrong.get(place, (0.0, now))
        count = max(0.0, count - (now - at) / SECONDS_PER_GUESS)
        if count > FREE_GUESSES - 1:
            wait = (count - FREE_GUESSES + 1) * SECONDS_PER_GUESS
            message = f"Too many wrong credentials came from this address; it may try again in {wait:.0f} s."
            raise RouterError(RATE_LIMITED, message, retry_after_seconds=wait)
        self._wrong[place] = (count + 1, now)
        self._wrong.move_to_end(place)
        if len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        raise RouterError(ADMIN_UNKNOWN, "This is no administrator's credential. Keys of clients are none.")


def _place(address: str) -> str:
    """What guesses are counted by: an IPv4 address; of IPv6 the network, for everybody has millions of addresses in his own."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((int(parsed) >> _IPV6_SITE_BITS << _IPV6_SITE_BITS, _IPV6_SITE_BITS)))
