"""The errors that cross module borders, by whose fault they are.

An error is raised where the fact is known and carries it in its message; the HTTP edge
(`http/failure.py`) alone decides status and body. A message never holds a secret, a token, a key
or a value that a caller sent: name the field instead.
"""


def _listed(text: str) -> str:
    """The form in which Vault tells errors of its router."""
    return f"1 error occurred:\n\t* {text}\n\n"


class UndercroftError(Exception):
    """Base of every error that a client may be told about. `message` goes into `errors[0]`.

    `keep_writes`: the pipeline commits what the handler wrote before it raised; otherwise an error
    undoes the whole request.
    """

    keep_writes = False

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidRequest(UndercroftError):
    """The caller sent something that cannot be served: 400."""


class Refused(InvalidRequest):
    """A login that failed and whose failure is on record (lockout counters): 400, writes stand."""

    keep_writes = True


class PermissionDenied(UndercroftError):
    """No token, a bad token, or a policy that does not allow it: 403."""

    def __init__(self, message: str = "permission denied", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)


class NotFound(UndercroftError):
    """Nothing there: 404. With an empty message the body is `{"errors": []}` (convention 02)."""


class UnsupportedPath(NotFound):
    """No route has this path: 404."""

    def __init__(self, message: str = _listed("unsupported path"), *, hint: str = "") -> None:
        super().__init__(message, hint=hint)


class UnsupportedOperation(UndercroftError):
    """The path exists, the verb does not: 405."""

    def __init__(self, message: str = _listed("unsupported operation"), *, hint: str = "") -> None:
        super().__init__(message, hint=hint)


class TooLarge(UndercroftError):
    """The request's body is over the limit: 413."""


class UnsupportedMediaType(UndercroftError):
    """PATCH without `application/merge-patch+json`: 415."""


class Behind(UndercroftError):
    """The state here is older than the client wants (X-Vault-Index): 412, to be tried again."""


class Sealed(UndercroftError):
    """The barrier is closed: 503."""

    def __init__(self, message: str = "Vault is sealed", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)


class Unavailable(UndercroftError):
    """Nothing was applied; the caller may try again after `retry_after_seconds`: 503."""

    def __init__(self, message: str, *, retry_after_seconds: int = 1, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class StorageFull(UndercroftError):
    """The disk, or the quota on it, is full; nothing was applied: 507."""


class StorageFailed(UndercroftError):
    """The store can no longer promise durability (an fsync failed): no write is taken any more."""


class Corrupt(UndercroftError):
    """A stored entry does not authenticate or does not parse: 500, never served."""


class Internal(UndercroftError):
    """Our own fault: 500 with a fixed text; the cause goes to the log."""


class AuditFailed(UndercroftError):
    """No audit device could record the request, so it must not be served: 500 (AUD-11)."""

    def __init__(self, message: str = "internal error", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)


class ReadOnly(Exception):  # control flow, not a failure
    """A handler wrote through a read-only view: run the request one hop up (DESIGN idea 2)."""


class NeedsPrimary(Exception):  # control flow, not a failure
    """A handler of a secondary wrote shared data: the primary of the set must run the request."""
