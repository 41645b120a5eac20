"""Two TLS contexts shake hands over a socket pair; certificates of the present, for real clocks."""

import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from undercroft.replication import authority
from undercroft.replication.authority import Authority, Named
from undercroft.replication.role import Credentials

SET_ID = "0b6c2b9e-6f0d-4d0f-9a39-6a2f3a3f7c11"
TICKET = "5f" * 16
_SECONDS = 10.0


class Session(NamedTuple):
    """What both sides know after a handshake that went well."""

    version: str | None
    alpn: str | None  # what the server chose
    certificate: bytes | None  # the client's, as the server sees it
    tickets: bool  # whether the client could resume
    said: bytes  # by the client, as the server heard it


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def client_of(ca: Authority, at_ms: int = 0, secondary_id: str = "osaka") -> Credentials:
    key, public = authority.new_key()
    named = Named(secondary_id, TICKET)
    return Credentials(
        authority.issue_client(ca, named, public, at_ms or now_ms()), key, ca.certificate
    )


def server_of(ca: Authority, at_ms: int = 0, set_id: str = SET_ID) -> Credentials:
    key, public = authority.new_key()
    return Credentials(
        authority.issue_server(ca, set_id, public, at_ms or now_ms()), key, ca.certificate
    )


def server_context(ca: Authority, own: Credentials) -> ssl.SSLContext:
    return authority.server_context(ca, own.certificate, own.key)


def shake(server: ssl.SSLContext, client: ssl.SSLContext, set_id: str = SET_ID) -> Session:
    """Raises what either side raises: SSLError, OSError."""
    near, far = socket.socketpair()
    near.settimeout(_SECONDS)
    far.settimeout(_SECONDS)

    def answer() -> tuple[bytes, str | None, str | None, bytes | None]:
        with server.wrap_socket(far, server_side=True) as side:
            said = side.recv(16)
            side.sendall(b"welcome")
            return said, side.version(), side.selected_alpn_protocol(), side.getpeercert(True)

    with ThreadPoolExecutor(1) as pool, near, far:
        answered = pool.submit(answer)
        try:
            with client.wrap_socket(near, server_hostname=authority.server_name(set_id)) as side:
                side.sendall(b"hello")
                side.recv(16)  # TLS 1.3: only now the client knows what the server thinks of it
                resumable = side.session is not None and side.session.has_ticket
        except ssl.SSLCertVerificationError:
            raise
        except OSError:
            near.close()
            answered.result()  # the reason, if it was the server that broke off
            raise
        said, version, alpn, certificate = answered.result()
    return Session(version, alpn, certificate, resumable, said)
