"""sys/tools: random bytes and hashes, for clients that have no good source of their own."""

import hashlib
import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Final

from undercroft.engines.base import Call, Field, Handler, Kind, Route
from undercroft.errors import InvalidRequest
from undercroft.request.model import Operation, Response

_BYTES_MAX: Final = 131_072
_BYTES_DEFAULT: Final = 32
_SOURCES: Final = ("platform", "seal", "all")
_ALGORITHMS: Final = {
    "sha2-224": hashlib.sha224,
    "sha2-256": hashlib.sha256,
    "sha2-384": hashlib.sha384,
    "sha2-512": hashlib.sha512,
    "sha3-224": hashlib.sha3_224,
    "sha3-256": hashlib.sha3_256,
    "sha3-384": hashlib.sha3_384,
    "sha3-512": hashlib.sha3_512,
}


def random(call: Call) -> Response:
    source, count = call.get("source", "platform"), call.get("bytes", _BYTES_DEFAULT)
    in_path = call.params.get("urlbytes", "")
    if "source" not in call.params and in_path in _SOURCES:  # random/{source}
        source = in_path
    elif in_path:
        if not in_path.isascii() or not in_path.isdigit() or len(in_path) > 9:
            raise InvalidRequest("error parsing url-set byte count: not a number")
        count = int(in_path)
    if source not in _SOURCES:
        raise InvalidRequest('unsupported entropy source; must be "platform" or "seal", or "all"')
    if count < 1:
        raise InvalidRequest("'bytes' cannot be less than 1")
    if count > _BYTES_MAX:
        raise InvalidRequest(f"'bytes' should be less than {_BYTES_MAX}")
    response = Response({"random_bytes": _text(os.urandom(count), call.get("format", "base64"))})
    if source == "seal":
        response.warn("no seal/entropy augmentation available, using platform entropy source")
    return response


def hash_input(call: Call) -> Response:
    algorithm = _ALGORITHMS.get(call.get("algorithm", "sha2-256"))
    if algorithm is None:
        raise InvalidRequest(f"unsupported algorithm; supported: {', '.join(_ALGORITHMS)}")
    try:
        data = b64decode(call.get("input", ""), validate=True)
    except (Base64Error, ValueError):
        raise InvalidRequest("unable to decode input as base64") from None
    return Response({"sum": _text(algorithm(data).digest(), call.get("format", "hex"))})


def _text(data: bytes, form: str) -> str:
    if form == "hex":
        return data.hex()
    if form == "base64":
        return b64encode(data).decode()
    raise InvalidRequest('unsupported encoding format; must be "hex" or "base64"')


_RANDOM: Final = {Operation.UPDATE: Handler(random, summary="Generate random bytes.")}
_HASH: Final = {Operation.UPDATE: Handler(hash_input, summary="Hash the input.")}
_FORMAT: Final = Field("format", doc='"hex" or "base64".')
_RANDOM_FIELDS: Final = (
    Field("bytes", Kind.INT, "How many bytes.", _BYTES_DEFAULT),
    Field("source", doc="`platform`, `seal` or `all`; all are the platform's.", default="platform"),
    Field("urlbytes", doc="How many bytes, or the source."),
    _FORMAT,
)
_HASH_FIELDS: Final = (
    Field("input", doc="The input, in base64."),
    Field("algorithm", doc="One of " + ", ".join(_ALGORITHMS) + ".", default="sha2-256"),
    _FORMAT,
)

ROUTES: Final = (
    Route("tools/random", _RANDOM, _RANDOM_FIELDS, summary="Generate random bytes"),
    Route("tools/random/{urlbytes}", _RANDOM, _RANDOM_FIELDS, summary="Generate random bytes"),
    Route(
        "tools/random/{source}/{urlbytes}", _RANDOM, _RANDOM_FIELDS, summary="Generate random bytes"
    ),
    Route("tools/hash", _HASH, _HASH_FIELDS, summary="Generate a hash sum for input data"),
    Route(
        "tools/hash/{algorithm}", _HASH, _HASH_FIELDS, summary="Generate a hash sum for input data"
    ),
)
