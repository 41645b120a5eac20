"""The auth method userpass: names and passwords kept by this server.

Names are ASCII letters, digits, `_ . -`, of one case: every spelling that reaches a user is the one
canonical name, in storage, in lockout counters and as alias (ID-08, LOG-02). Passwords are hashed
and verified in `prepare`, in a worker; `apply` runs in the writer and takes the verdict only for
the very hash that was looked at.
"""

import re
from hashlib import sha256
from typing import Any, Final

import msgspec

from undercroft.engines.auth.token_params import (
    FIELDS as TOKEN_FIELDS,
)
from undercroft.engines.auth.token_params import (
    LEGACY_FIELDS,
    TokenParams,
    auth_of,
    check_login_from,
    legacy_in_use,
    params_data,
    parse_params,
)
from undercroft.engines.base import (
    Call,
    Engine,
    Field,
    Handler,
    Kind,
    Route,
    deletes,
    lists,
    reads,
    writes,
)
from undercroft.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Refused,
    Unavailable,
    UnsupportedPath,
)
from undercroft.request.lockouts import forget_failures, is_locked, record_failure
from undercroft.request.model import Auth, Operation, Response
from undercroft.request.passwords import check_hash, hash_password, verify_password
from undercroft.request.policy_names import check_policy_names
from undercroft.request.tokens import TokenEntry

_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
_NAME_CHARS_MAX: Final = 256
_WRONG: Final = "invalid username or password"


class User(msgspec.Struct, frozen=True):
    """Stored below `user/`. `legacy` are the older parameter names that answers repeat."""

    password_hash: str
    params: TokenParams = TokenParams()
    legacy: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<User {self.params!r}>"


def canonical(name: str) -> str:
    """The one spelling of a user's name. Raises UnsupportedPath for what is no name."""
    lower = name.lower()
    if len(name) > _NAME_CHARS_MAX or not name.isascii() or not _NAME.fullmatch(lower):
        raise UnsupportedPath
    return lower


def _user_name(call: Call) -> str:
    return canonical(call.params["username"])


def _find(call: Call) -> User | None:
    return call.store.read(f"user/{_user_name(call)}", User)


def _known(call: Call) -> User:
    user = _find(call)
    if user is None:
        raise InvalidRequest("username does not exist")
    return user


# login


class Verdict(msgspec.Struct, frozen=True):
    """What `prepare` found: whether the password fits, and the hash that it was tried on."""

    fits: bool
    seen: bytes  # digest of the hash; b"" for no such user


def _seen(user: User | None) -> bytes:
    return b"" if user is None else sha256(user.password_hash.encode()).digest()


def prepare_login(call: Call) -> dict[str, Any]:
    """Verify the password: the same work whether there is such a user or not (LOG-01)."""
    password = call.get("password") or ""
    if not password:
        raise InvalidRequest("missing password")
    name = _user_name(call)
    if is_locked(call.view, call.mount, name, call.now_ms):
        raise PermissionDenied
    user = _find(call)
    fits = verify_password(user.password_hash if user else None, password)
    return msgspec.structs.asdict(Verdict(fits, _seen(user)))


def login(call: Call) -> Response:
    name, user = _user_name(call), _find(call)
    verdict = msgspec.convert(call.prepared, Verdict)
    if is_locked(call.view, call.mount, name, call.now_ms):
        raise PermissionDenied
    if verdict.seen != _seen(user):  # two digests of hashes: nothing an outsider can steer
        raise Unavailable("the user was changed during the login; try again")
    if user is None or not verdict.fits:
        record_failure(call.view, call.mount, name, call.now_ms)
        raise Refused(_WRONG)
    check_login_from(user.params, call)
    forget_failures(call.view, call.mount.accessor, name)
    auth = auth_of(user.params, call.mount)
    auth.display_name = auth.alias_name = name
    auth.metadata = {"username": name}
    return Response(auth=auth)


def renew(call: Call, entry: TokenEntry) -> Auth:
    """A renewal goes on while the user is there with the policies that the token was given."""
    name = (entry.meta or {}).get("username", "")
    user = call.store.read(f"user/{name}", User)
    if user is None:
        raise InvalidRequest("the user of this token is gone, not renewing")
    auth = auth_of(user.params, call.mount)
    policies = set(check_policy_names(auth.policies))
    if policies - {"default"} != set(entry.policies) - {"default"}:
        raise InvalidRequest("policies have changed, not renewing")
    return auth


# users


def list_users(call: Call) -> Response:
    names = call.store.list("user/")
    if not names:
        raise NotFound
    return Response(data={"keys": names})


def read_user(call: Call) -> Response:
    user = _find(call)
    if user is None:
        raise NotFound
    return Response(data=params_data(user.params, user.legacy))


def prepare_user(call: Call) -> str:
    """The hash of a password that was sent, "" without one."""
    password, given = call.get("password") or "", call.get("password_hash") or ""
    if password and given:
        raise InvalidRequest("only one of password or password_hash may be provided")
    return check_hash(given) if given else hash_password(password) if password else ""


def write_user(call: Call) -> None:
    old = _find(call)
    password_hash = call.prepared or (old.password_hash if old else "")
    if not password_hash:
        raise InvalidRequest("must provide either password or password_hash")
    _store(call, old or User(password_hash), password_hash, call.fields)


def write_password(call: Call) -> None:
    old = _known(call)
    if not call.prepared:
        raise InvalidRequest("must provide either password or password_hash")
    _store(call, old, call.prepared, {})


def write_policies(call: Call) -> None:
    user = _known(call)
    _store(call, user, user.password_hash, call.fields)


def _store(call: Call, old: User, password_hash: str, fields: dict[str, Any]) -> None:
    user = User(
        password_hash,
        parse_params(fields, old.params, legacy=True),
        legacy_in_use(fields, old.legacy),
    )
    call.store.write(f"user/{_user_name(call)}", user)


def delete_user(call: Call) -> None:
    call.store.delete(f"user/{_user_name(call)}")


def _exists(call: Call) -> bool:
    return _find(call) is not None


_PASSWORD: Final = Field("password", Kind.STRING, "The password.")
_HASH: Final = Field("password_hash", Kind.STRING, "Its argon2id hash, made elsewhere.")
_POLICY_FIELDS: Final = tuple(
    f for f in (*TOKEN_FIELDS, *LEGACY_FIELDS) if f.name in ("token_policies", "policies")
)

ENGINE: Final = Engine(
    "userpass",
    (
        Route(
            "login/{username}",
            {
                operation: Handler(login, writes=True, prepare=prepare_login)
                for operation in (Operation.CREATE, Operation.UPDATE)
            },
            fields=(_PASSWORD,),
            lower=("username",),
            open=True,
            summary="Log in with name and password.",
        ),
        Route("users", lists(list_users), summary="List users."),
        Route(
            "users/{username}",
            {
                **reads(read_user),
                **writes(write_user, prepare=prepare_user),
                **deletes(delete_user),
            },
            fields=(_PASSWORD, _HASH, *TOKEN_FIELDS, *LEGACY_FIELDS),
            exists=_exists,
            lower=("username",),
            summary="Read, write or delete a user.",
        ),
        Route(
            "users/{username}/password",
            writes(write_password, prepare=prepare_user),
            fields=(_PASSWORD, _HASH),
            lower=("username",),
            summary="Set a user's password.",
        ),
        Route(
            "users/{username}/policies",
            writes(write_policies),
            fields=_POLICY_FIELDS,
            lower=("username",),
            summary="Set the policies of a user's tokens.",
        ),
    ),
    description="Logins with names and passwords kept here.",
    auth=True,
    renew=renew,
)
