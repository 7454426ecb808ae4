"""Addresses of clients: in their one form, and as the network that they are in."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

# What one client is given, and so what tells no more than that: as in `private.logged_address`.
_NETWORK_BITS: Final = {4: 24, 6: 48}


def parsed(address: str | None) -> IPv4Address | IPv6Address | None:
    """The address that a text holds; of an IPv4 address in IPv6 form the IPv4 address. None for what is none."""
    try:
        found = ip_address((address or "").strip())
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def network(address: str | None) -> str | None:
    """The first address of the network that it is in (IPv4 /24, IPv6 /48), which names nobody."""
    found = parsed(address)
    if found is None:
        return None
    return str(ip_network((found.packed, _NETWORK_BITS[found.version]), strict=False).network_address)
