"""Batch tokens: the entry itself, sealed under the keyring, is the token. Nothing is stored.

`b.` and the base64url text of term, nonce, ciphertext and tag. So it works wherever the keyring is,
and it cannot be renewed, revoked, counted, or given children or a cubbyhole.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec

from undercroft.errors import Corrupt, InvalidRequest
from undercroft.request.token_entry import BATCH_PREFIX, TokenEntry
from undercroft.storage.view import Snapshot

# What fits into a header beside everything else; 200 policies of 20 letters are 6 KiB.
CHARS_MAX: Final = 16 * 1024
_PURPOSE: Final = b"batch token"


def seal_batch(view: Snapshot, entry: TokenEntry) -> str:
    """The token's text. Raises InvalidRequest when policies and metadata make it too long."""
    sealed = view.seal_text(_PURPOSE, msgspec.msgpack.encode(entry))
    text = BATCH_PREFIX + urlsafe_b64encode(sealed).rstrip(b"=").decode()
    if len(text) > CHARS_MAX:
        raise InvalidRequest("too many policies or too much metadata for a batch token")
    return text


def open_batch(view: Snapshot, text: str) -> TokenEntry | None:
    """The entry, or None for anything that was not sealed here. Raises Sealed."""
    if len(text) > CHARS_MAX:
        return None
    body = text[len(BATCH_PREFIX) :]
    try:
        sealed = urlsafe_b64decode(body + "=" * (-len(body) % 4))
        entry = msgspec.msgpack.decode(view.open_text(_PURPOSE, sealed), type=TokenEntry)
    except (binascii.Error, ValueError, Corrupt, msgspec.MsgspecError):
        return None
    return entry if entry.type == "batch" and entry.expires_ms else None
