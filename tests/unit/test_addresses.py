"""Which addresses others can reach."""

from __future__ import annotations

import pytest

from router.domain.addresses import is_loopback


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        *((host, True) for host in ("localhost", "127.0.0.1", "127.0.0.2", "::1", "[::1]")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "gpu-room", "", "127.0.0.1.example")),
    ],
)
def test_only_loopback_is_served_without_a_key(host: str, alone: bool) -> None:
    """Anything else could be reached by people whom nobody has given a key."""
    assert is_loopback(host) is alone
