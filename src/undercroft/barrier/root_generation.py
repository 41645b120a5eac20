"""Making a root token when none is left: enough key shares, and a one-time password to hide it.

One attempt at a time in a slot. The nonce names the attempt: with another one, nothing advances
and nothing is lost (SEAL-01). There are two slots, so that whoever may knock without a token (if
the configuration opens that door at all) can neither see, hold nor cancel what operators with a
token do (SEAL-02).

The token travels as base64 without padding of `token XOR password`: neither a proxy that sees the
answer nor a share holder who did not start the attempt learns it.
"""

import base64
import secrets
import string
import uuid
from collections.abc import Callable, Sequence
from typing import Final

from undercroft.barrier.constant import same
from undercroft.barrier.shares import Collected, parse_share
from undercroft.errors import Internal, InvalidRequest, Unavailable

OTP_LENGTH: Final = 26  # as long as a token: `s.` and 24 characters
_ALPHABET: Final = string.ascii_letters + string.digits

IDLE_MS: Final = 10 * 60 * 1000  # an abandoned attempt without a token gives way after that
_BUCKET_SIZE: Final = 10
_BUCKET_REFILL_MS: Final = 6_000  # one more start or cancel without a token


class Attempt:
    """An attempt under way."""

    def __init__(self, otp: str, now_ms: int) -> None:
        self.nonce = str(uuid.uuid4())
        self.otp = otp
        self.touched_ms = now_ms
        self.collected = Collected()

    def __repr__(self) -> str:
        return f"<Attempt progress={len(self.collected)}>"


class Slot:
    """Where one attempt at a time lives; in memory alone, so a restart ends it."""

    def __init__(self) -> None:
        self.attempt: Attempt | None = None

    def start(self, otp: str, now_ms: int) -> str:
        """Answers the password if it was made here, "" if the caller brought it."""
        if otp and len(otp.encode()) != OTP_LENGTH:
            raise InvalidRequest("OTP string has incorrect length")
        if self._occupied(now_ms):
            raise InvalidRequest("root generation already in progress")
        made = "" if otp else "".join(secrets.choice(_ALPHABET) for _ in range(OTP_LENGTH))
        self.attempt = Attempt(otp or made, now_ms)
        return made

    def _occupied(self, now_ms: int) -> bool:
        return self.attempt is not None

    def cancel(self, nonce: str = "") -> None:
        """End the attempt, whichever it is, or only the one of the nonce. Raises InvalidRequest."""
        if nonce and (self.attempt is None or not same(nonce, self.attempt.nonce)):
            raise InvalidRequest("incorrect nonce supplied")
        self.attempt = None

    def update(
        self,
        nonce: str,
        key_text: str,
        required: int,
        now_ms: int,
        *,
        authorise: Callable[[bytes], None],
        issue: Callable[[], str],
    ) -> tuple[int, str]:
        """One more share: answers the progress and, with the last one, the encoded token.

        `authorise` raises when the combined key is not the one: the shares are then forgotten,
        the attempt stays. An attempt yields one token at most: it ends before the token is made,
        so a commit that fails costs a new attempt, never a second token.
        """
        attempt = self.attempt
        if attempt is None:
            raise InvalidRequest("no root generation in progress")
        if not same(nonce, attempt.nonce):
            raise InvalidRequest("incorrect nonce supplied for this root generation operation")
        share = parse_share(key_text)
        if not attempt.collected.add(share):
            raise InvalidRequest(
                "given key has already been provided during this generation operation"
            )
        attempt.touched_ms = now_ms
        progress = len(attempt.collected)
        if progress < required:
            return progress, ""
        collected, attempt.collected = attempt.collected, Collected()
        try:
            authorise(collected.combine())
        except InvalidRequest as error:
            raise InvalidRequest(f"root generation aborted: {error.message}") from None
        self.attempt = None
        return progress, encode_root_token(issue(), attempt.otp)


class OpenSlot(Slot):
    """The slot of callers without a token: starts and cancels are rationed, idlers give way."""

    def __init__(self) -> None:
        super().__init__()
        self._left = _BUCKET_SIZE
        self._refilled_ms = 0

    def ration(self, now_ms: int) -> None:
        """Raises Unavailable when too many have started and cancelled of late."""
        earned = (now_ms - self._refilled_ms) // _BUCKET_REFILL_MS
        if earned > 0:
            self._left = min(_BUCKET_SIZE, self._left + earned)
            self._refilled_ms = now_ms
        if not self._left:
            raise Unavailable(
                "too many root generation attempts",
                retry_after_seconds=_BUCKET_REFILL_MS // 1000,
                hint="use sys/generate-root-token with a token",
            )
        self._left -= 1

    def _occupied(self, now_ms: int) -> bool:
        attempt = self.attempt
        return attempt is not None and now_ms - attempt.touched_ms < IDLE_MS


def encode_root_token(token: str, otp: str) -> str:
    raw, password = token.encode(), otp.encode()
    if len(raw) != len(password):  # never a token that is partly in the clear
        raise Internal("a root token does not have the length of its one-time password")
    return base64.b64encode(_xor(raw, password)).rstrip(b"=").decode()


def decode_root_token(encoded: str, otp: str) -> str:
    """The token, for a command line. Raises InvalidRequest when the two do not belong together."""
    try:
        padded = encoded + "=" * (-len(encoded) % 4)
        hidden = base64.b64decode(padded, validate=True)
    except ValueError:
        raise InvalidRequest("the encoded token is not base64") from None
    password = otp.encode()
    if len(hidden) != len(password):
        raise InvalidRequest("the one-time password does not have the encoded token's length")
    try:
        return _xor(hidden, password).decode("ascii")
    except UnicodeDecodeError:
        raise InvalidRequest("the one-time password is not that of this token") from None


def _xor(a: Sequence[int], b: Sequence[int]) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))
