"""One listening socket of one worker: TLS, the choice of protocol, time limits, draining."""

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

from undercroft.errors import InvalidRequest
from undercroft.http.failure import plain, to_http
from undercroft.http.forwarded import Forwarded
from undercroft.http.http1 import Http1, head_of
from undercroft.http.http2 import Http2
from undercroft.http.limits import CONNECTIONS_MAX, Limits, Usage
from undercroft.http.message import App, HttpRequest, HttpResponse
from undercroft.observe.logs import get_logger

if TYPE_CHECKING:
    from undercroft.config import Listener as Settings

log = get_logger("listener")

_SWEEP_SECONDS: Final = 1.0
_VERSIONS: Final = {"tls12": ssl.TLSVersion.TLSv1_2, "tls13": ssl.TLSVersion.TLSv1_3}


class Listener:
    """Serves `app` on an already bound socket."""

    def __init__(
        self, settings: "Settings", app: App, sock: socket.socket, usage: Usage | None = None
    ) -> None:
        self._settings = settings
        self._socket = sock
        self._usage = usage or Usage()
        self._limits = limits_of(settings)
        self._app = _behind_proxy(settings, _with_own_rules(settings, app))
        self._context = None if settings.tls_disable else server_context(settings)
        self._newest = self._context
        self._connections: set[Http1 | Http2] = set()
        self._server: asyncio.Server | None = None
        self._drained = asyncio.Event()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        more: dict[str, Any] = {}
        if self._context is not None:
            self._context.sni_callback = self._use_newest
            more = {
                "ssl": self._context,
                "ssl_handshake_timeout": self._limits.read_header_seconds,
            }
        self._server = await loop.create_server(self._connection, sock=self._socket, **more)
        loop.call_later(_SWEEP_SECONDS, self._sweep)

    def reload(self) -> None:
        """New connections get the certificates that are on disk now; bad ones change nothing."""
        if self._context is None:
            return
        try:
            self._newest = server_context(self._settings)
        except InvalidRequest as error:
            log.error("kept the old certificates", error=error.message)

    def _use_newest(self, handshake: ssl.SSLObject, _name: str, _context: ssl.SSLContext) -> None:
        """A handshake goes on with the context of the last reload.

        Loading into the context in use would keep an old certificate beside a new one whose key is
        of another kind.
        """
        if self._newest is not None:
            handshake.context = self._newest

    async def drain(self, seconds: float) -> None:
        """Take no new connection, finish what is in flight, end what then is left."""
        if self._server is None:
            return
        self._server.close()
        self._drained.clear()  # set by every moment at which nobody was connected
        for connection in list(self._connections):
            connection.drain()
        if self._connections:
            try:
                await asyncio.wait_for(self._drained.wait(), seconds)
            except TimeoutError:
                for connection in list(self._connections):
                    connection.abort()

    def _connection(self) -> asyncio.Protocol:
        if self._usage.connections >= CONNECTIONS_MAX:
            return _Refusal()
        if self._context is not None:
            return _Chooser(self)
        return self.make(Http1)

    def make(self, kind: type[Http1] | type[Http2]) -> Http1 | Http2:
        clock = asyncio.get_running_loop().time
        connection = kind(self._app, self._limits, self._usage, clock, self._closed)
        self._connections.add(connection)
        self._usage.connections += 1
        return connection

    def _closed(self, connection: Any) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._usage.connections -= 1
        if not self._connections:
            self._drained.set()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(_SWEEP_SECONDS, self._sweep)
        now = loop.time()
        for connection in list(self._connections):
            try:
                connection.sweep(now)
            except Exception as error:
                # One connection's trouble must not switch off everybody's time limits.
                log.exception("a connection was ended", error)
                connection.abort()


class _Refusal(asyncio.Protocol):
    """One connection too many: told to come again, before anything is read from it."""

    _BODY: Final = plain(503, "too many connections").body
    _ANSWER: Final = b"%bContent-Length: %d\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%b" % (
        head_of(503, "application/json"),
        len(_BODY),
        _BODY,
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        refused = cast(asyncio.Transport, transport)
        handshake = refused.get_extra_info("ssl_object")
        if handshake is not None and handshake.selected_alpn_protocol() == "h2":
            refused.abort()
            return
        refused.write(self._ANSWER)
        refused.close()


class _Chooser(asyncio.Protocol):
    """Waits for the handshake's choice of protocol, then hands the transport over."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        connection = self._listener.make(Http2 if chosen == "h2" else Http1)
        cast(asyncio.Transport, transport).set_protocol(connection)
        connection.connection_made(transport)


def limits_of(settings: "Settings") -> Limits:
    return Limits(
        request_bytes=settings.max_request_size,
        request_seconds=settings.max_request_duration,
        read_header_seconds=settings.http_read_header_timeout,
        read_seconds=settings.http_read_timeout,
        write_seconds=settings.http_write_timeout or Limits().write_seconds,
        idle_seconds=settings.http_idle_timeout,
    )


def server_context(settings: "Settings") -> ssl.SSLContext:
    """TLS 1.2 or newer, HTTP/2 offered. Raises InvalidRequest naming what does not load."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.tls_min_version or "tls12"]
    if settings.tls_max_version:
        context.maximum_version = _VERSIONS[settings.tls_max_version]
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(
            "cannot load tls_cert_file and tls_key_file", hint=_reason(error)
        ) from None
    if settings.tls_require_and_verify_client_cert:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(settings.tls_client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest("cannot load tls_client_ca_file", hint=_reason(error)) from None
    return context


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _with_own_rules(settings: "Settings", app: App) -> App:
    """What this listener shows to anyone, and what it keeps back."""
    open_metrics = settings.telemetry.unauthenticated_metrics_access
    redacted = settings.redacted
    if not open_metrics and not redacted:
        return app

    def serve(http: HttpRequest) -> HttpResponse | asyncio.Future[HttpResponse]:
        http.open_metrics, http.redacted = open_metrics, redacted
        return app(http)

    return serve


def _behind_proxy(settings: "Settings", app: App) -> App:
    if not settings.x_forwarded_for_authorized_addrs:
        return app
    forwarded = Forwarded(
        settings.x_forwarded_for_authorized_addrs,
        settings.x_forwarded_for_hop_skips,
        reject_not_authorized=settings.x_forwarded_for_reject_not_authorized,
        reject_not_present=settings.x_forwarded_for_reject_not_present,
    )

    def serve(http: HttpRequest) -> HttpResponse | asyncio.Future[HttpResponse]:
        try:
            forwarded.apply(http)
        except InvalidRequest as error:
            return to_http(error)
        return app(http)

    return serve
