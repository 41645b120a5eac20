"""Password hashes: argon2id, slow on purpose, and so never computed in the writer.

Parameters: 19 MiB, two passes, one lane, the first set that OWASP recommends: about 20 ms of one
core. More memory would buy more, but a login attempt costs an outsider nothing, and every attempt
in flight holds that memory. Hashes say their own parameters, so they can be raised later.
"""

from typing import Final

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError
from argon2.low_level import Type

from undercroft.errors import InvalidRequest

_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Bounds on hashes brought along: a login must not be a way to exhaust the node.
_MEMORY_KIB_MAX: Final = 256 * 1024
_TIME_MAX: Final = 16
_LANES_MAX: Final = 16
_MEMORY_KIB_MIN: Final = 8 * 1024
PASSWORD_BYTES_MAX: Final = 4096

# Of a password that nobody knows: what a login of an unknown user is checked against (LOG-01).
_NOBODY: Final = _HASHER.hash(b"nobody has this password" + bytes(32))


def hash_password(password: str) -> str:
    """Raises InvalidRequest for an endless one."""
    return _HASHER.hash(_checked(password))


def verify_password(stored: str | None, password: str) -> bool:
    """Whether it fits; the same work, and False, where there is no user (`stored` None)."""
    try:
        fits = _HASHER.verify(stored if stored is not None else _NOBODY, _checked(password))
    except (Argon2Error, InvalidHashError):
        return False
    return fits and stored is not None


def check_hash(text: str) -> str:
    """A hash made elsewhere, if logins can be verified against it: argon2id within bounds."""
    try:
        found = extract_parameters(text)
    except (InvalidHashError, ValueError):
        raise InvalidRequest("password_hash is not a valid argon2id hash") from None
    sound = (
        found.type is Type.ID
        and _MEMORY_KIB_MIN <= found.memory_cost <= _MEMORY_KIB_MAX
        and 1 <= found.time_cost <= _TIME_MAX
        and 1 <= found.parallelism <= _LANES_MAX
        and found.hash_len >= 16
    )
    if not sound:
        raise InvalidRequest("password_hash is weaker, or costlier, than this server allows")
    return text


def _checked(password: str) -> bytes:
    try:
        raw = password.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("the password is not valid text") from None
    if len(raw) > PASSWORD_BYTES_MAX:
        raise InvalidRequest(f"the password is longer than {PASSWORD_BYTES_MAX} bytes")
    return raw
