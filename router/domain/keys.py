"""Virtual keys: how they look, how they are made from random bytes, and what is kept of them.

`sk-fg-<id>-<secret><crc>`: the id (8 characters) is public and safe in logs; the secret (32) is never kept; the
checksum (6) tells a typing error or a cut-off key from a wrong one without asking the store. All characters but
the prefix are base 62, so that a double click selects the secret as one word.
"""

from __future__ import annotations

import hmac
import zlib
from typing import Final, NamedTuple

PREFIX: Final = "sk-fg-"
ID_LENGTH: Final = 8
SECRET_LENGTH: Final = 32
CRC_LENGTH: Final = 6
RANDOM_BYTES: Final = 64
"""How many random bytes `mint` wants."""

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ALLOWED: Final = frozenset(_ALPHABET)
_LENGTH: Final = len(PREFIX) + ID_LENGTH + 1 + SECRET_LENGTH + CRC_LENGTH
_DASH: Final = len(PREFIX) + ID_LENGTH


class MintedKey(NamedTuple):
    """A new key. `text` is shown once and never kept."""

    key_id: str
    text: str


def mint(random_bytes: bytes, *, key_id: str = "") -> MintedKey:
    """Make a key out of random bytes; with `key_id`, another secret for a key that exists.

    Raises:
        ValueError: fewer than `RANDOM_BYTES` bytes.
    """
    if len(random_bytes) < RANDOM_BYTES:
        raise ValueError(f"a key needs {RANDOM_BYTES} random bytes, not {len(random_bytes)}")
    # 512 random bits taken modulo 62^40 (238 bits): what is left of unevenness is below 2^-270.
    digits = _base62(int.from_bytes(random_bytes[:RANDOM_BYTES], "big"), ID_LENGTH + SECRET_LENGTH)
    key_id, secret = key_id or digits[:ID_LENGTH], digits[ID_LENGTH:]
    head = f"{PREFIX}{key_id}-{secret}"
    return MintedKey(key_id=key_id, text=head + _checksum(head))


def parse(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key; None if this is not a whole and unharmed key of ours."""
    if len(text) != _LENGTH or not text.startswith(PREFIX) or text[_DASH] != "-":
        return None
    key_id, rest = text[len(PREFIX) : _DASH], text[_DASH + 1 :]
    if not _ALLOWED.issuperset(key_id) or not _ALLOWED.issuperset(rest):
        return None
    if _checksum(text[:-CRC_LENGTH]) != text[-CRC_LENGTH:]:
        return None
    return key_id, rest[:SECRET_LENGTH]


def digest(pepper: bytes, text: str) -> str:
    """HMAC-SHA-256 of a whole key under the pepper, in hex: what is kept of it.

    Compare with `hmac.compare_digest`. The secret has 190 random bits, so a slow hash would add nothing.
    """
    return hmac.digest(pepper, text.encode(), "sha256").hex()


def _checksum(head: str) -> str:
    return _base62(zlib.crc32(head.encode()), CRC_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
