"""The two lines of a request as one audit device writes them. Fields are Vault's.

A line is put together from parts that rarely change (who asks, which mount), kept encoded, and
parts that are new. What is kept holds hashes, never a token, unless the device is `log_raw`.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from undercroft.durations import rfc3339
from undercroft.request.audit_devices import FileOptions
from undercroft.request.model import Auth, Operation, RawBody, Request, Response, WrapInfo
from undercroft.request.mounts import Mount
from undercroft.request.redact import Showing, redact, redact_json

if TYPE_CHECKING:
    from undercroft.request.tokens import TokenEntry

_KEPT_MAX: Final = 8192  # callers, and mounts, whose parts are kept encoded

_json: Final = msgspec.json.Encoder().encode
_NOBODY: Final = b'{"token_type":"default"'
_ALLOWED: Final = b',"policy_results":{"allowed":true}}'
_DENIED: Final = b',"policy_results":{"allowed":false}}'
_PATH: Final = b',"namespace":{"id":"root"},"path":'
_LISTS: Final = (Operation.LIST, Operation.SCAN)


class Parts:
    """What both lines of a request have in common, encoded."""

    __slots__ = ("auth", "request")

    def __init__(self, auth: bytes, request: bytes) -> None:
        self.auth = auth
        self.request = request


class EntryFormat:
    """How one device writes entries: `showing` is its way with texts, from its own salt."""

    def __init__(self, showing: Showing, options: FileOptions) -> None:
        self._showing = showing
        self._options = options
        self._prefix = options.prefix.encode()
        # By accessor; a hit counts only for the very entry it was made from.
        self._callers: dict[str, tuple[TokenEntry, Parts]] = {}
        self._mounts: dict[bytes, tuple[Mount, bytes]] = {}

    # lines

    def request_line(self, time: bytes, parts: Parts, error: str = "") -> bytes:
        told = b',"error":' + _json(error) if error else b""
        head = self._prefix + b'{"time":"' + time + b'","type":"request","auth":'
        return head + parts.auth + b',"request":' + parts.request + told + b"}\n"

    def response_line(self, time: bytes, parts: Parts, answer: bytes, error: str = "") -> bytes:
        told = b',"error":' + _json(error) if error else b""
        head = self._prefix + b'{"time":"' + time + b'","type":"response","auth":' + parts.auth
        return head + b',"request":' + parts.request + b',"response":' + answer + told + b"}\n"

    # who and what was asked

    def parts(
        self,
        request: Request,
        mount: Mount | None,
        token: "TokenEntry | None",
        headers: Mapping[str, bool],
        error: str,
    ) -> Parts:
        denied = "permission denied" in error
        if token is None:
            who, sent = _NOBODY, self._sent_token(request)
            auth = who + (b"}" if denied else _ALLOWED)
        else:
            caller = self._caller(request, token)
            auth, sent = caller.auth + (_DENIED if denied else _ALLOWED), caller.request
        asked = [b'{"id":', _json(request.id), b',"operation":', _json(request.operation)]
        if mount is not None:
            asked.append(self._mount(mount))
        asked += (sent, _PATH, _json(request.path))
        if request.body or request.query:
            asked += (b',"data":', _json(self._request_data(request, mount)))
        asked += (b',"remote_address":', _json(request.remote_address))
        asked.append(b',"remote_port":%d' % request.remote_port)
        if request.wrap_ttl_seconds:
            asked.append(b',"wrap_ttl":%d' % request.wrap_ttl_seconds)
        if headers:
            asked.append(self._headers(request, headers))
        asked.append(b"}")
        return Parts(auth, b"".join(asked))

    def _caller(self, request: Request, token: "TokenEntry") -> Parts:
        """`auth` without its end, and the token's fields of `request`."""
        known = self._callers.get(token.accessor)
        if known is not None and known[0] is token:
            return known[1]
        accessor, sent = self._accessor(token.accessor), self._showing.text(request.token)
        asked = _json({"client_token": sent, "client_token_accessor": accessor})
        made = Parts(_json(_token_fields(token, sent, accessor))[:-1], b"," + asked[1:-1])
        if token.accessor:  # batch tokens have none, and nothing else tells two of them apart
            if len(self._callers) >= _KEPT_MAX:
                self._callers.clear()
            self._callers[token.accessor] = (token, made)
        return made

    def _sent_token(self, request: Request) -> bytes:
        """A token that is not ours, or that an open route did not look at, is a secret still."""
        if not request.token:
            return b""
        return b',"client_token":' + _json(self._showing.text(request.token))

    def _accessor(self, accessor: str) -> str:
        if not accessor or not self._options.hmac_accessor:
            return accessor
        return self._showing.text(accessor)

    def _mount(self, mount: Mount) -> bytes:
        known = self._mounts.get(mount.id)
        if known is not None and known[0] is mount:
            return known[1]
        if len(self._mounts) >= _KEPT_MAX:
            self._mounts.clear()
        fields = {
            "mount_point": mount.path,
            "mount_type": mount.type,
            "mount_accessor": mount.accessor,
            "mount_class": "auth" if mount.path.startswith("auth/") else "secret",
        }
        made = b"," + _json(fields)[1:-1]
        self._mounts[mount.id] = (mount, made)
        return made

    def _request_data(self, request: Request, mount: Mount | None) -> dict[str, Any]:
        """Parameters and body together, as handlers get them."""
        showing = self._showing
        clear = () if mount is None else mount.config.audit_non_hmac_request_keys or ()
        data: dict[str, Any] = redact(request.query, showing, clear) if request.query else {}
        if not request.body:
            return data
        body = redact_json(request.body, showing, clear)
        if type(body) is not dict:  # no handler takes it; its hash stands for it
            return {**data, "body": showing.data(request.body)}
        return {**data, **body} if data else body

    def _headers(self, request: Request, headers: Mapping[str, bool]) -> bytes:
        shown = {
            name: [self._showing.text(value) if headers[name] else value]
            for name, value in request.headers.items()
            if name in headers
        }
        return b',"headers":' + _json(shown) if shown else b""

    # what was answered

    def answer(self, request: Request, mount: Mount | None, response: Response | None) -> bytes:
        """The part `response` of a request that was served; no Response means nothing to say."""
        shown: dict[str, Any] = {}
        if response is not None:
            shown = self._response(response, request.operation, _clear_answers(mount))
        return self._with_mount(mount, shown)

    def refusal(self, mount: Mount | None, error: str) -> bytes:
        """The part `response` of a request that failed."""
        return self._with_mount(mount, {"data": {"error": self._showing.text(error)}})

    def _with_mount(self, mount: Mount | None, shown: dict[str, Any]) -> bytes:
        if mount is None:
            return _json(shown)
        head = b"{" + self._mount(mount)[1:]
        return head + (b"," + _json(shown)[1:] if shown else b"}")

    def _response(
        self, response: Response, operation: Operation, clear: Collection[str]
    ) -> dict[str, Any]:
        showing = self._showing
        shown: dict[str, Any] = {}
        if response.auth is not None:
            shown["auth"] = self._issued(response.auth)
        if response.lease_id:
            shown["secret"] = {"lease_id": response.lease_id}
        if response.raw is not None:
            shown["data"] = _raw_body(response.raw, showing)
        elif response.data is not None:
            shown["data"] = redact(response.data, showing, clear)
            if self._options.elide_list_responses and operation in _LISTS:
                shown["data"] = _elided(shown["data"])
        if response.warnings:
            shown["warnings"] = response.warnings
        if response.headers:
            shown["headers"] = {k: [showing.text(v)] for k, v in response.headers.items()}
        if response.wrap_info is not None:
            shown["wrap_info"] = self._wrapped(response.wrap_info)
        return shown

    def _issued(self, auth: Auth) -> dict[str, Any]:
        fields = {
            "client_token": self._showing.text(auth.client_token) if auth.client_token else "",
            "accessor": self._accessor(auth.accessor),
            "display_name": auth.display_name,
            "policies": auth.token_policies or auth.policies,
            "token_policies": auth.token_policies,
            "identity_policies": auth.identity_policies,
            "metadata": auth.metadata,
            "num_uses": auth.num_uses,
            "entity_id": auth.entity_id,
            "token_type": auth.token_type,
            "token_ttl": auth.lease_duration,
        }
        return {name: value for name, value in fields.items() if value}

    def _wrapped(self, info: WrapInfo) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "ttl": info.ttl,
            "token": self._showing.text(info.token),
            "accessor": self._accessor(info.accessor),
            "creation_time": info.creation_time,
            "creation_path": info.creation_path,
        }
        if info.wrapped_accessor:
            shown["wrapped_accessor"] = self._accessor(info.wrapped_accessor)
        return shown


def _token_fields(token: "TokenEntry", sent: str, accessor: str) -> dict[str, Any]:
    """Names, policies and metadata are shown: they say who it was, and are no secrets."""
    policies = list(token.policies)
    fields = {
        "client_token": sent,
        "accessor": accessor,
        "display_name": token.display_name,
        "policies": policies,
        "token_policies": policies,
        "metadata": token.meta,
        "entity_id": token.entity_id,
        "remaining_uses": token.num_uses,
        "token_type": token.type,
        "token_ttl": token.ttl_seconds,
        "token_issue_time": rfc3339(token.created_ms),
    }
    return {name: value for name, value in fields.items() if value}


def _clear_answers(mount: Mount | None) -> Collection[str]:
    return () if mount is None else mount.config.audit_non_hmac_response_keys or ()


def _raw_body(raw: RawBody, showing: Showing) -> dict[str, Any]:
    """An answer outside the envelope is hashed whole (AUD-04)."""
    return {
        "http_content_type": showing.text(raw.content_type),
        "http_raw_body": showing.data(raw.body),
        "http_status_code": raw.status,
    }


def _elided(data: Any) -> Any:
    """How many keys a list has, instead of which."""
    if type(data) is not dict:
        return data
    counted = {
        n: len(data[n]) for n in ("keys", "key_info") if isinstance(data.get(n), list | dict)
    }
    return {**data, **counted}
