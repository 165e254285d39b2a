"""Network addresses, as far as money depends on them."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def in_url(host: str) -> str:
    """The host as it stands in a URL before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
