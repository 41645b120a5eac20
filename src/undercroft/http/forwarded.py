"""Whose request it is when a proxy stands in front: `x_forwarded_for_*` of a listener."""

import ipaddress
from collections.abc import Sequence

from undercroft.errors import InvalidRequest
from undercroft.http.message import HttpRequest

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Forwarded:
    """Rewrites `HttpRequest.peer`, as Vault's listener does, for peers that may name a client."""

    def __init__(
        self,
        authorized: Sequence[str],
        hop_skips: int = 0,
        *,
        reject_not_authorized: bool = True,
        reject_not_present: bool = True,
    ) -> None:
        self._authorized: tuple[_Network, ...] = tuple(
            ipaddress.ip_network(text, strict=False) for text in authorized
        )
        self._hop_skips = hop_skips
        self._reject_not_authorized = reject_not_authorized
        self._reject_not_present = reject_not_present

    def apply(self, http: HttpRequest) -> None:
        """Raises InvalidRequest for what the listener's configuration rejects."""
        value = http.headers.get(b"x-forwarded-for")
        if not value:
            if self._reject_not_present:
                raise InvalidRequest("missing x-forwarded-for header and configured to reject")
            return
        if not self._may_name_a_client(http.peer[0]):
            if self._reject_not_authorized:
                raise InvalidRequest(
                    "client address not authorized for x-forwarded-for and configured to reject"
                )
            return
        hops = [part.strip() for part in value.decode("latin-1").split(",")]
        if self._hop_skips >= len(hops):
            raise InvalidRequest("malformed x-forwarded-for: fewer hops than configured to skip")
        try:
            client = ipaddress.ip_address(hops[-1 - self._hop_skips])
        except ValueError:
            raise InvalidRequest("malformed x-forwarded-for: not an address") from None
        http.peer = (str(client), http.peer[1])

    def _may_name_a_client(self, address: str) -> bool:
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False  # a socket without addresses
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped:
            peer = peer.ipv4_mapped  # the listener's socket serves both families
        return any(peer in network for network in self._authorized)
