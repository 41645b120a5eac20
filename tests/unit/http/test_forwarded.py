"""Who the client is when a proxy stands in front: believed from some peers, at the right hop."""

import pytest

from undercroft.errors import InvalidRequest
from undercroft.http.forwarded import Forwarded
from undercroft.http.message import HttpRequest


def client(
    value: bytes | None,
    peer: str = "10.0.0.1",
    authorized: tuple[str, ...] = ("10.0.0.0/8", "fd00::/8", "192.0.2.7"),
    **options: int,
) -> str:
    headers = {} if value is None else {b"x-forwarded-for": value}
    http = HttpRequest("GET", b"/v1/a", headers, b"", (peer, 7))
    Forwarded(authorized, **options).apply(http)
    assert http.peer[1] == 7
    return http.peer[0]


def test_the_last_hop_is_the_client() -> None:
    assert client(b"203.0.113.9") == "203.0.113.9"
    assert client(b"6.6.6.6, 203.0.113.9") == "203.0.113.9"
    assert client(b" 6.6.6.6 ,203.0.113.9 ") == "203.0.113.9"


def test_hops_of_proxies_are_skipped_from_the_end() -> None:
    assert client(b"6.6.6.6, 203.0.113.9, 10.0.0.2", hop_skips=1) == "203.0.113.9"
    assert client(b"203.0.113.9, 10.0.0.3, 10.0.0.2", hop_skips=2) == "203.0.113.9"
    with pytest.raises(InvalidRequest, match="fewer hops"):
        client(b"203.0.113.9", hop_skips=1)


def test_a_client_may_have_an_ipv6_address() -> None:
    assert client(b"2001:DB8::1", peer="fd00::1") == "2001:db8::1"


def test_a_peer_of_ipv4_on_a_socket_of_both_families_is_the_same_peer() -> None:
    assert client(b"203.0.113.9", peer="::ffff:10.0.0.1") == "203.0.113.9"
    with pytest.raises(InvalidRequest):
        client(b"203.0.113.9", peer="::ffff:11.0.0.1")


@pytest.mark.parametrize("value", [b"unknown", b"10.0.0.2:99", b"a, ", b"\xff", b"1.2.3", b","])
def test_what_is_no_address_is_refused_and_not_repeated(value: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client(value)
    assert caught.value.message == "malformed x-forwarded-for: not an address"


@pytest.mark.parametrize("peer", ["11.0.0.1", "192.0.2.8", "2001:db8::1"])
def test_a_peer_that_may_not_name_a_client_is_refused_or_is_the_client(peer: str) -> None:
    with pytest.raises(InvalidRequest, match="not authorized"):
        client(b"203.0.113.9", peer=peer)
    assert client(b"203.0.113.9", peer=peer, reject_not_authorized=False) == peer


def test_a_request_without_the_header_is_refused_or_the_peers_own() -> None:
    for value in (None, b""):
        with pytest.raises(InvalidRequest, match="missing"):
            client(value)
        assert client(value, reject_not_present=False) == "10.0.0.1"


def test_a_peer_without_an_address_may_name_nobody() -> None:
    with pytest.raises(InvalidRequest, match="not authorized"):
        client(b"203.0.113.9", peer="")
