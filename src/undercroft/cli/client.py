"""One HTTP request to a server, with nothing but the standard library: it starts in milliseconds.

What it keeps: the token goes to the server that was named and nowhere else (no redirect to another
host, none from https to http), and no error repeats what was sent.
"""

import argparse
import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from undercroft import __version__
from undercroft.cli import jsontext
from undercroft.cli.failure import RemoteError, UsageError
from undercroft.cli.token_file import current_token

ADDRESS_DEFAULT: Final = "https://127.0.0.1:8200"
TIMEOUT_SECONDS: Final = 60.0
ANSWER_BYTES_MAX: Final = 256 << 20  # several times the longest request body
_REDIRECTS: Final = (301, 302, 307, 308)


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any  # decoded JSON, or None
    retry_after_seconds: float | None = None

    @property
    def errors(self) -> list[str]:
        found = self.body.get("errors") if isinstance(self.body, dict) else None
        return [str(error) for error in found] if isinstance(found, list) else []


@dataclass
class Client:
    """Where to ask, and as whom."""

    address: str
    token: str = field(default="", repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    context: ssl.SSLContext | None = None
    server_name: str = ""

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        """The answer to a request below `/v1/`. Raises RemoteError for a status of 400 and more
        that is not in `accept`."""
        url = f"{self.address}/v1/{quote(path, safe='/')}"
        if query:
            url += "?" + urlencode(query)
        payload = None if body is None else jsontext.encode(body).encode()
        answer, target = self._send(method, url, payload)
        if answer.status in _REDIRECTS and target:
            answer, _ = self._send(method, self._redirected(url, target), payload)
        if answer.status >= 400 and answer.status not in accept:
            raise _refusal(method, url, answer)
        return answer

    def _send(self, method: str, url: str, payload: bytes | None) -> tuple[Answer, str]:
        parts = urlsplit(url)
        headers = {
            "User-Agent": f"undercroft/{__version__}",
            "X-Vault-Request": "true",
            **self.headers,
        }
        if self.token:
            headers["X-Vault-Token"] = self.token
        if payload is not None:
            headers["Content-Type"] = "application/json"
        connection = self._connect(parts)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        try:
            connection.request(method, target, payload, headers)
            response = connection.getresponse()
            raw = response.read(ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.address, error) from None
        finally:
            connection.close()
        if len(raw) > ANSWER_BYTES_MAX:
            raise RemoteError(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
        retry_after = _seconds(response.headers.get("Retry-After", ""))
        answer = Answer(response.status, _decoded(raw), retry_after)
        return answer, response.headers.get("Location", "")

    def _connect(self, parts: SplitResult) -> http.client.HTTPConnection:
        assert parts.hostname is not None, "addresses are checked when the client is made"
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
        context = self.context or ssl.create_default_context()
        if not self.server_name:
            return http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=TIMEOUT_SECONDS, context=context
            )
        return _NamedConnection(parts.hostname, parts.port, context, self.server_name)

    def _redirected(self, url: str, target: str) -> str:
        here, there = urlsplit(url), urlsplit(target)
        if not there.scheme:
            return f"{here.scheme}://{here.netloc}{target}"
        if here.scheme == "https" and there.scheme != "https":
            raise RemoteError("the server redirects from https to http; not followed")
        if self.token and there.hostname != here.hostname:
            raise RemoteError(
                "the server redirects to another host; the token is not sent there",
                hint=f"use -address={there.scheme}://{there.netloc} if that is your server",
            )
        return target


class _NamedConnection(http.client.HTTPSConnection):
    """TLS to an address, verified against another name (-tls-server-name)."""

    def __init__(self, host: str, port: int | None, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=TIMEOUT_SECONDS, context=context)
        self._tls, self._name = context, name

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


def client_from(values: argparse.Namespace, *, with_token: bool = True) -> Client:
    """The client that the flags and the environment describe. Raises UsageError."""
    address = (values.address or ADDRESS_DEFAULT).rstrip("/")
    parts = urlsplit(address)
    try:
        fine = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        fine = False
    if not fine or parts.username or parts.query:
        raise UsageError(
            "the address must be like https://vault.example.com:8200",
            hint="see -address and VAULT_ADDR",
        )
    return Client(
        address,
        current_token() if with_token else "",
        _headers(values),
        _tls_context(values) if parts.scheme == "https" else None,
        values.tls_server_name or "",
    )


def _headers(values: argparse.Namespace) -> dict[str, str]:
    headers = {}
    for text in values.header or ():
        name, equals, value = text.partition("=")
        if not equals or not name.replace("-", "").isalnum() or not value.isprintable():
            raise UsageError("-header must be NAME=VALUE")
        if name.lower().startswith("x-vault-"):
            raise UsageError("-header cannot set headers that begin with X-Vault-")
        headers[name] = value
    if values.namespace:
        headers["X-Vault-Namespace"] = values.namespace
    if getattr(values, "wrap_ttl", None):
        headers["X-Vault-Wrap-TTL"] = values.wrap_ttl
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        raise UsageError("a namespace, TTL or header holds characters that a header cannot")
    return headers


def _tls_context(values: argparse.Namespace) -> ssl.SSLContext:
    if bool(values.client_cert) != bool(values.client_key):
        raise UsageError("-client-cert and -client-key go together")
    try:
        context = ssl.create_default_context(
            cafile=values.ca_cert or None, capath=None if values.ca_cert else values.ca_path
        )
        if values.ca_path and not values.ca_cert:
            _load_directory(context, values.ca_path)
        if values.client_cert:
            context.load_cert_chain(values.client_cert, values.client_key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the certificates cannot be used: {getattr(error, 'strerror', '') or 'not PEM'}",
            hint="see -ca-cert, -ca-path, -client-cert, -client-key",
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if values.tls_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_directory(context: ssl.SSLContext, path: str) -> None:
    """All PEM files of a directory; OpenSSL alone would take only those named by their hash."""
    from pathlib import Path

    for file in sorted(Path(path).iterdir()):
        if file.is_file():
            context.load_verify_locations(cafile=str(file))


def _seconds(text: str) -> float | None:
    """Of Retry-After; a date counts as nothing."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _decoded(raw: bytes) -> Any:
    try:
        return jsontext.decode(raw) if raw.strip() else None
    except (ValueError, RecursionError):
        return None


_HINTS: Final = {
    403: "log in with `undercroft login`, or see which policies the token has",
    503: "if the server is sealed: `undercroft operator unseal`",
}


def _refusal(method: str, url: str, answer: Answer) -> RemoteError:
    told = "; ".join(" ".join(error.split()) for error in answer.errors) or "no reason given"
    hints = [f"{method} {url.partition('?')[0]}"]
    if answer.status in _HINTS:
        hints.append(_HINTS[answer.status])
    return RemoteError(
        f"the server answers {answer.status}: {told}",
        hint="\n".join(hints),
        status=answer.status,
        retry_after_seconds=answer.retry_after_seconds,
    )


def _unreachable(address: str, error: Exception) -> RemoteError:
    hint = "see -address and VAULT_ADDR"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate does not verify: {error.verify_message}"
        hint = "name its CA with -ca-cert or VAULT_CACERT"
    elif isinstance(error, ssl.SSLError):
        why, hint = "it does not speak TLS", "for a server without TLS the address is http://…"
    elif isinstance(error, http.client.HTTPException):
        why = "it does not answer with HTTP"
        hint = "if it speaks TLS the address is https://…"
    else:
        why = getattr(error, "strerror", "") or "it does not answer in time"
    return RemoteError(f"cannot talk to {address}: {why}", hint=hint)
