"""Networks that a token or a login is bound to: parsing, checking, narrowing."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_interface,
)

from undercroft.errors import InvalidRequest

Network = IPv4Network | IPv6Network


def check_cidrs(values: Iterable[str], field: str) -> list[str]:
    """Canonical text of addresses and networks, in the order given; a full prefix is left out."""
    found: list[str] = []
    for value in values:
        try:
            interface = ip_interface(value.strip())
        except ValueError:
            raise InvalidRequest(f"{field}: not an IP address or a network in CIDR form") from None
        full = interface.network.prefixlen == interface.max_prefixlen
        text = str(interface.ip) if full else str(interface)
        if text not in found:
            found.append(text)
    return found


@lru_cache(maxsize=1024)
def _network(text: str) -> Network:
    return ip_interface(text).network


def is_within(address: str, cidrs: Sequence[str]) -> bool:
    """Whether an address may be used; no networks means any. An unknown address is in none."""
    if not cidrs:
        return True
    try:
        ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # a dual-stack listener shows IPv4 peers so
    return any(ip in _network(cidr) for cidr in cidrs)


def narrow(outer: Sequence[str], inner: Sequence[str]) -> list[str]:
    """The networks within both; raises InvalidRequest when nothing is (TOK-11)."""
    if not outer or not inner:
        return list(inner or outer)
    both: list[str] = []
    for a in outer:
        for b in inner:
            smaller = _smaller(a, b)
            if smaller and smaller not in both:
                both.append(smaller)
    if not both:
        raise InvalidRequest("the bound CIDRs lie outside those of the parent token")
    return both


def _smaller(a: str, b: str) -> str:
    """Of two networks the one inside the other, or nothing: two networks never cross."""
    left, right = _network(a), _network(b)
    if left.version != right.version or not left.overlaps(right):
        return ""
    return a if left.prefixlen >= right.prefixlen else b
