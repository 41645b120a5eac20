"""From an HTTP request to a `Request`: Vault's conventions, as pure functions.

Everything that decides which path is meant happens here, once. What comes out is the path that
policies judge and that is executed (PATH-IS-PATH, ACL-02): decoded exactly once, without empty or
dot segments in any spelling, without control characters.
"""

import os
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from undercroft.durations import parse_seconds
from undercroft.errors import (
    InvalidRequest,
    NotFound,
    UnsupportedMediaType,
    UnsupportedOperation,
)
from undercroft.http.body import checked_body
from undercroft.http.message import HttpRequest, HttpResponse
from undercroft.request.model import Operation, Request

PATH_BYTES_MAX: Final = 40 * 1024  # a name of 32 KiB and the mount before it
_QUERY_FIELDS_MAX: Final = 100

_METHODS: Final = {
    "GET": Operation.READ,
    "HEAD": Operation.READ,
    "POST": Operation.UPDATE,
    "PUT": Operation.UPDATE,
    "PATCH": Operation.PATCH,
    "DELETE": Operation.DELETE,
    "LIST": Operation.LIST,
    "SCAN": Operation.SCAN,
}
_WITH_BODY: Final = (Operation.UPDATE, Operation.PATCH)
_LISTINGS: Final = (Operation.LIST, Operation.SCAN)
# Nothing to decode, no query: nearly every request. Dots are looked at apart.
_PLAIN: Final = re.compile(rb"/v1(?:/[\w.~:@!$&'()*+,=-]+)+", re.ASCII)
_MISLEADING: Final = re.compile(rb"%(?![0-9a-fA-F]{2})|[;#]")
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_MERGE_PATCH: Final = b"application/merge-patch+json"
# What pass-through and audit settings may ask for; the token's own headers never leave the edge.
_HIDDEN: Final = frozenset((b"x-vault-token", b"authorization", b"cookie", b"proxy-authorization"))
# Which node of the cluster is to answer: there is one, and it is the active one.
_NODE_HEADERS: Final = (
    (b"x-vault-forward", "X-Vault-Forward", (b"", b"active-node")),
    (b"x-vault-inconsistent", "X-Vault-Inconsistent", (b"", b"fail", b"forward-active-node")),
)
_WRAP_FORMATS: Final = ("", "jwt")


class Redirect(Exception):
    """The client is to ask elsewhere (conv 31, 36)."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.response = HttpResponse(307, b"", headers=(("Location", location),))


def request_ids() -> Callable[[], str]:
    """A source of random (version 4) UUID texts; many are drawn at once since each call counts."""
    drawn: list[str] = []

    def new_id() -> str:
        if not drawn:
            digits = os.urandom(16 * 128).hex()
            for at in range(0, len(digits), 32):
                d = digits[at : at + 32]
                variant = "89ab"[int(d[16], 16) & 3]
                drawn.append(f"{d[:8]}-{d[8:12]}-4{d[13:16]}-{variant}{d[17:20]}-{d[20:]}")
        return drawn.pop()

    return new_id


def to_request(http: HttpRequest, request_id: str, remote: str = "") -> Request:
    """Raises Redirect, InvalidRequest, NotFound, UnsupportedOperation, UnsupportedMediaType.

    `remote` is the client's address when a trusted proxy named it; else the peer's.
    """
    headers = http.headers
    target = http.target
    if _PLAIN.fullmatch(target) and b"/." not in target:
        path, query = target[4:].decode(), dict[str, str]()
    else:
        path, query = _parse_target(target)
    if len(target) > PATH_BYTES_MAX and len(path.encode()) > PATH_BYTES_MAX:
        raise InvalidRequest("the path is too long")
    operation = _operation(http.method, path, query)
    if operation in _LISTINGS:
        path = path.rstrip("/") + "/"
    body = b""
    if operation in _WITH_BODY:
        content_type = _media_type(headers.get(b"content-type", b""))
        if operation is Operation.PATCH and content_type != _MERGE_PATCH:
            raise UnsupportedMediaType("PATCH requires Content-Type application/merge-patch+json")
        body = checked_body(http.body, content_type)
    request = Request(
        request_id,
        operation,
        path,
        _token(headers),
        body,
        query,
        remote_address=remote or http.peer[0],
        remote_port=http.peer[1],
        open_metrics=http.open_metrics,
        redacted=http.redacted,
    )
    if len(headers) > 2 or b"host" not in headers or b"x-vault-token" not in headers:
        _apply_headers(request, headers)
    return request


def _apply_headers(request: Request, headers: dict[bytes, bytes]) -> None:
    wrap = headers.get(b"x-vault-wrap-ttl")
    if wrap:
        request.wrap_ttl_seconds = _wrap_ttl(wrap)
        request.wrap_format = _text(headers.get(b"x-vault-wrap-format", b""))
        if request.wrap_format not in _WRAP_FORMATS:
            raise InvalidRequest("X-Vault-Wrap-Format: only jwt is supported")
    namespace = headers.get(b"x-vault-namespace")
    if namespace and namespace.strip(b"/ ") not in (b"", b"root"):
        if request.path.startswith("sys/replication/"):
            raise InvalidRequest("operation only available in root namespace")
        raise NotFound("namespace not found")
    for name, shown, known in _NODE_HEADERS:
        if headers.get(name, b"") not in known:
            raise InvalidRequest(
                f'unknown value for "{shown}" header',
                hint=f"known: {', '.join(value.decode() for value in known if value)}",
            )
    request.headers = {
        _text(name): _text(value) for name, value in headers.items() if name not in _HIDDEN
    }


def _media_type(value: bytes) -> bytes:
    """Without its parameters, in lower case."""
    return value.partition(b";")[0].strip().lower()


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _token(headers: dict[bytes, bytes]) -> str:
    """Conv 15: X-Vault-Token, else `Authorization: Bearer`."""
    token = headers.get(b"x-vault-token")
    if token:
        return token.decode("latin-1")
    authorization = headers.get(b"authorization")
    if authorization and authorization.startswith(b"Bearer "):
        return authorization[7:].strip().decode("latin-1")
    return ""


def _wrap_ttl(value: bytes) -> int | None:
    """Conv 17: seconds or a duration; 0 asks for no wrapping, and less than a second for one.

    Rounded down to 0, such an answer would go out unwrapped.
    """
    try:
        seconds = parse_seconds(_text(value), "X-Vault-Wrap-TTL")
    except InvalidRequest as error:
        raise InvalidRequest(f"error parsing {error.message}") from None
    if seconds < 0:
        raise InvalidRequest("requested wrap ttl cannot be negative")
    return max(1, int(seconds)) if seconds else None


def _operation(method: str, path: str, query: dict[str, str]) -> Operation:
    """The operation; `list`, `scan` and `help` of the query are consumed."""
    operation = _METHODS.get(method)
    if operation is None or (method == "HEAD" and path != "sys/health"):
        raise UnsupportedOperation
    if query:
        listing, scanning = query.pop("list", ""), query.pop("scan", "")
        if query.pop("help", ""):  # of any method: who asks how to write must not write
            return Operation.HELP
        if operation is Operation.READ and (listing or scanning):
            return _listing(_flag(listing), _flag(scanning))
    return operation


def _listing(listing: bool, scanning: bool) -> Operation:
    if listing and scanning:
        raise InvalidRequest("list and scan exclude each other")
    if scanning:
        return Operation.SCAN
    return Operation.LIST if listing else Operation.READ


def _flag(text: str) -> bool:
    if text in ("", "0", "f", "F", "false", "FALSE", "False"):
        return False
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    raise InvalidRequest("list and scan must be booleans")


# the target


def _parse_target(target: bytes) -> tuple[str, dict[str, str]]:
    raw, _, query = target.partition(b"?")
    absolute = _ABSOLUTE.match(raw)
    if absolute:
        raw = raw[absolute.end() :] or b"/"
    if not raw.startswith(b"/") or b"#" in raw:
        raise InvalidRequest("the request target is not a path")
    _redirect_unclean(raw, query)
    path = _decoded(raw)
    if path != "/v1" and not path.startswith("/v1/"):
        if path == "/":
            raise Redirect("/ui/")
        raise NotFound
    if len(path) <= 4:
        raise NotFound
    return path[4:], _query(query)


def _redirect_unclean(raw: bytes, query: bytes) -> None:
    """Conv 31: empty and dot segments as they stand are a redirect to the cleaned path."""
    if b"//" not in raw and b"/." not in raw:
        return
    kept: list[bytes] = []
    segments = raw.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    clean = b"/" + b"/".join(kept)
    if segments[-1] in (b"", b".", b"..") and kept:
        clean += b"/" if segments[-1] == b"" else b""
    if clean != raw:
        location = quote(clean, safe="/%:@!$&'()*+,;=~")
        raise Redirect(location + ("?" + quote(query, safe="/%?:@!$&'()*+,;=~") if query else ""))


def _decoded(raw: bytes) -> str:
    """Decoded once; whatever could be read as another path is refused, not repaired."""
    if re.search(rb"%(?![0-9a-fA-F]{2})", raw):
        raise InvalidRequest("the path has an invalid percent encoding")
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the path is not valid UTF-8") from None
    if not path.isprintable():  # controls, but also what has no width or turns text around
        raise InvalidRequest("the path has control or invisible characters")
    for segment in path.rstrip("/").split("/")[1:]:
        if not segment or _is_dots(segment):
            raise InvalidRequest("the path has empty or dot segments")
    if path.endswith("//"):
        raise InvalidRequest("the path has empty or dot segments")
    return path


def _is_dots(segment: str) -> bool:
    """`.` or `..` in any spelling that something behind us might decode: %2e, `;x`, backslash."""
    if "%" not in segment and ";" not in segment and "\\" not in segment:
        return segment in (".", "..")
    for _ in range(3):
        segment = unquote_to_bytes(segment).decode("utf-8", "replace")
    return any(part.partition(";")[0] in (".", "..") for part in re.split(r"[/\\]", segment))


def _query(query: bytes) -> dict[str, str]:
    if not query:
        return {}
    if _MISLEADING.search(query):  # some end a field at a semicolon; Vault drops such a field
        raise InvalidRequest("the query does not parse")
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=_QUERY_FIELDS_MAX,
            errors="strict",
        )
    except ValueError:
        raise InvalidRequest("the query does not parse") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields.setdefault(name, value)
    return fields
