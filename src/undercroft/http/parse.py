"""The head of an HTTP/1 request and the framing of its body: strict, and one reading only.

llhttp (httptools) was tried first: it knows no LIST and no SCAN, which are half of what Vault's
clients send. So the grammar of RFC 9112 is here, without its tolerances: CRLF only, no folded
lines, no space before a colon, one Content-Length or one chunked Transfer-Encoding, never both
(HTTP-08). Sans I/O: bytes in, values out; a `BadRequest` ends the connection.
"""

import re
from typing import Final, NamedTuple

from undercroft.http.limits import HEADERS_MAX

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE: Final = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/1\.([01])" % _TOKEN)
# A whole block of header lines at once, so that the common request costs one match.
_HEADER_BLOCK: Final = re.compile(rb"(?:\r\n%b:[\t\x20-\x7e\x80-\xff]*)*" % _TOKEN)
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
CHUNK_LINE_MAX: Final = 1024

CHUNKED: Final = -1


class BadRequest(Exception):
    """What cannot be read in exactly one way. `status` is 400 but for what is too large or new."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


class Head(NamedTuple):
    """A parsed head. `length` is the body's: 0 for none, CHUNKED, or the Content-Length."""

    method: str
    target: bytes
    headers: dict[bytes, bytes]
    length: int
    keep_alive: bool
    old: bool  # HTTP/1.0


class Block(NamedTuple):
    """What a block of header lines says; clients repeat theirs, so a connection keeps the last."""

    headers: dict[bytes, bytes]
    length: int
    connection: frozenset[bytes]  # its options, in lower case


def parse_head(head: bytes, last: tuple[bytes, Block] | None) -> tuple[Head, tuple[bytes, Block]]:
    """`head` is everything before the empty line. Answers the head, and what to pass as `last`."""
    line, separator, rest = head.partition(b"\r\n")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise BadRequest("the request line does not parse as HTTP/1.1")
    lines = separator + rest
    if last is None or last[0] != lines:
        last = (lines, _parse_block(lines))
    headers, length, connection = last[1]
    old = found[3] == b"0"
    if old:
        keep_alive = b"keep-alive" in connection
        if length == CHUNKED:
            raise BadRequest("HTTP/1.0 has no chunked bodies")
    else:
        keep_alive = b"close" not in connection
        if b"host" not in headers:
            raise BadRequest("the Host header is missing")
    return Head(found[1].decode(), found[2], headers, length, keep_alive, old), last


def _parse_block(lines: bytes) -> Block:
    """`headers` keeps the first of a repeated name (conv 15), framing headers may not repeat.

    Lists are joined: a proxy may say whom it forwards for in a line behind the client's own, and
    the first line alone would let a client name any address.
    """
    if _HEADER_BLOCK.fullmatch(lines) is None:
        raise BadRequest("a header line does not parse")
    headers: dict[bytes, bytes] = {}
    parts = lines.split(b"\r\n")
    if len(parts) > HEADERS_MAX:
        raise BadRequest("the request has too many headers", 431)
    for part in parts[1:]:
        name, _, value = part.partition(b":")
        name = name.lower()
        if name in headers:
            if name in (b"content-length", b"transfer-encoding", b"host"):
                raise BadRequest("a header that may stand once is repeated")
            if name in (b"connection", b"x-forwarded-for", b"x-vault-index"):
                headers[name] += b", " + value.strip(b" \t")
            continue
        headers[name] = value.strip(b" \t")
    options = headers.get(b"connection", b"").lower().split(b",")
    connection = frozenset(option.strip(b" \t") for option in options)
    return Block(headers, _framing(headers, connection), connection)


def _framing(headers: dict[bytes, bytes], connection: frozenset[bytes]) -> int:
    coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if b"upgrade" in connection:
        raise BadRequest("protocol upgrades are not supported")
    if coding is not None:
        if length is not None:
            raise BadRequest("Content-Length and Transfer-Encoding exclude each other")
        if coding.lower() != b"chunked":
            raise BadRequest("the Transfer-Encoding is not supported: use chunked", 501)
        return CHUNKED
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise BadRequest("the Content-Length is not a number")
    return int(length)


class Chunks:
    """A chunked body, cut out of the stream piece by piece."""

    def __init__(self) -> None:
        self._left = 0  # of the chunk being read, its CRLF included; 0: a size line comes next
        self._ending = False  # after the last chunk: trailer lines, until an empty one
        self._trailers = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """The body bytes in `data`, what is left unread, and whether the body is complete.

        Walks over `data`: cutting each chunk off its front would copy the rest every time.
        """
        pieces: list[bytes] = []
        at, end = 0, len(data)
        complete = False
        while at < end and not complete:
            if self._left > 2:
                piece = data[at : at + self._left - 2]
                pieces.append(piece)
                self._left -= len(piece)
                at += len(piece)
                continue
            stop = data.find(b"\r\n", at, at + CHUNK_LINE_MAX + 2)
            if stop < 0:
                if end - at > CHUNK_LINE_MAX or (self._left and data[at:] != b"\r"):
                    raise BadRequest("a chunk does not parse")
                break
            complete = self._on_line(data[at:stop])
            at = stop + 2
        return b"".join(pieces), data[at:], complete

    def _on_line(self, line: bytes) -> bool:
        """Whether it was the last: the empty one behind the trailers."""
        if self._left:
            if line:
                raise BadRequest("a chunk is longer than it said")
            self._left = 0
        elif not self._ending:
            self._start(line)
        elif line:
            self._check_trailer(line)
        else:
            return True
        return False

    def _start(self, line: bytes) -> None:
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise BadRequest("a chunk's size does not parse")
        size = int(found[1], 16)
        self._ending = size == 0
        self._left = size + 2 if size else 0

    def _check_trailer(self, line: bytes) -> None:
        """Trailers are read and dropped: nothing here means anything by one."""
        self._trailers += 1
        if _HEADER_BLOCK.fullmatch(b"\r\n" + line) is None or self._trailers > HEADERS_MAX:
            raise BadRequest("a trailer does not parse")
