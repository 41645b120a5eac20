"""Response wrapping: an answer put aside, fetched once with a token made for it alone.

The answer lies in the wrapping token's cubbyhole, where revocation of that token finds it.
Unwrapping reads it and revokes the token in one transaction of the one writer, so of any number of
attempts, at whatever moment the power goes, at most one succeeds (WRAP-01). What is stored are the
parts of the answer, its data as the JSON that it would have been.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from undercroft.durations import rfc3339
from undercroft.errors import InvalidRequest
from undercroft.request.lifetimes import TTL_SECONDS_MAX
from undercroft.request.model import Auth, Response, WrapInfo
from undercroft.request.token_entry import TokenEntry, cubbyhole_prefix
from undercroft.request.tokens import TokenStore
from undercroft.request.wrapping_jwt import sign_jwt, token_of
from undercroft.storage.view import Snapshot

INVALID: Final = "wrapping token is not valid or does not exist"


class Wrapped(msgspec.Struct, frozen=True):
    """One answer put aside; `data` is JSON, b"" for none."""

    data: bytes
    auth: Auth | None
    warnings: list[str] | None
    lease_id: str
    lease_duration: int
    renewable: bool
    wrapped_accessor: str

    def __repr__(self) -> str:
        return "<Wrapped>"


def wrap(
    tx: Snapshot,
    response: Response,
    *,
    tokens: TokenStore,
    ttl_seconds: int,
    creation_path: str,
    now_ms: int,
    form: str = "",
    address: str = "",
    claims: Mapping[str, str] = {},
) -> WrapInfo:
    """Put an answer aside. `form` "jwt" signs the token, with `address` as where to unwrap it.

    Raises ReadOnly on a snapshot (WRAP-03: never the plain answer instead).
    """
    if not 0 < ttl_seconds <= TTL_SECONDS_MAX:
        raise InvalidRequest("the wrap TTL must be positive, and no longer than a hundred years")
    wrapped = Wrapped(
        data=b"" if response.data is None else msgspec.json.encode(response.data),
        auth=response.auth,
        warnings=response.warnings,
        lease_id=response.lease_id,
        lease_duration=response.lease_duration,
        renewable=response.renewable,
        wrapped_accessor=response.auth.accessor if response.auth else "",
    )
    return _put_aside(
        tx, wrapped, tokens, ttl_seconds, creation_path, now_ms, form, address, claims
    )


def _put_aside(
    tx: Snapshot,
    wrapped: Wrapped,
    tokens: TokenStore,
    ttl_seconds: int,
    creation_path: str,
    now_ms: int,
    form: str,
    address: str,
    claims: Mapping[str, str],
) -> WrapInfo:
    token, entry = tokens.issue_wrapping(tx, creation_path, ttl_seconds, now_ms)
    tx.put(_key(entry), msgspec.msgpack.encode(wrapped))
    if form == "jwt":
        token = sign_jwt(tx, token, entry, wrapped.wrapped_accessor, address, claims)
    return WrapInfo(
        token=token,
        accessor=entry.accessor,
        ttl=ttl_seconds,
        creation_time=rfc3339(now_ms),
        creation_path=creation_path,
        wrapped_accessor=wrapped.wrapped_accessor or None,
    )


def _key(entry: TokenEntry) -> bytes:
    return cubbyhole_prefix(entry.accessor) + b"response"


def find(view: Snapshot, text: str, tokens: TokenStore, now_ms: int) -> TokenEntry | None:
    """The entry of a wrapping token, plain or signed, that still can be used; else None."""
    token = token_of(view, text, now_ms)
    entry = tokens.lookup(view, token, now_ms) if token else None
    return entry if entry is not None and entry.is_wrapping else None


def take(tx: Snapshot, entry: TokenEntry, tokens: TokenStore) -> Response:
    """The answer, and the end of its token: both or neither."""
    wrapped = _read(tx, entry)
    tokens.revoke(tx, entry.accessor)
    return Response(
        data=msgspec.Raw(wrapped.data) if wrapped.data else None,
        auth=wrapped.auth,
        warnings=wrapped.warnings,
        lease_id=wrapped.lease_id,
        lease_duration=wrapped.lease_duration,
        renewable=wrapped.renewable,
        status=200,
    )


def rewrap(
    tx: Snapshot,
    entry: TokenEntry,
    *,
    tokens: TokenStore,
    ttl_seconds: int,
    now_ms: int,
    form: str = "",
    address: str = "",
) -> WrapInfo:
    """The same answer behind a new token; the old one ends. `ttl_seconds` 0: as long as before."""
    wrapped = _read(tx, entry)
    tokens.revoke(tx, entry.accessor)
    ttl = ttl_seconds or entry.ttl_seconds
    return _put_aside(tx, wrapped, tokens, ttl, entry.path, now_ms, form, address, {})


def _read(view: Snapshot, entry: TokenEntry) -> Wrapped:
    raw = view.get(_key(entry))
    if raw is None:
        raise InvalidRequest(INVALID)
    return msgspec.msgpack.decode(raw, type=Wrapped)
