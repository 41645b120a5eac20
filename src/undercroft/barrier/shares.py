"""Key shares as people hand them in: parsing one, and collecting them until there are enough."""

import base64
import binascii
from typing import Final

from undercroft.barrier.constant import same
from undercroft.barrier.keyring import KEY_BYTES
from undercroft.barrier.shamir import combine
from undercroft.errors import InvalidRequest

SHARE_BYTES_MIN: Final = 16
SHARE_BYTES_MAX: Final = KEY_BYTES + 1  # the key and its coordinate
_HEX_LENGTHS: Final = (2 * KEY_BYTES, 2 * SHARE_BYTES_MAX)


def parse_share(text: str) -> bytes:
    """A share in hexadecimal or base64, as init gave it out. Raises InvalidRequest.

    What has the length of a share in hexadecimal is hexadecimal: base64 of that many characters
    would be far too long a share.
    """
    try:
        if len(text) in _HEX_LENGTHS:
            share = binascii.unhexlify(text)
        else:
            share = base64.b64decode(text, validate=True)
    except ValueError:
        raise InvalidRequest("'key' must be a valid hex or base64 string") from None
    check_share(share)
    return share


def check_share(share: bytes) -> None:
    """Raises InvalidRequest for what is too short or too long to be one."""
    if len(share) < SHARE_BYTES_MIN:
        raise InvalidRequest(f"invalid key: key is shorter than minimum {SHARE_BYTES_MIN} bytes")
    if len(share) > SHARE_BYTES_MAX:
        raise InvalidRequest(f"invalid key: key is longer than maximum {SHARE_BYTES_MAX} bytes")


class Collected:
    """Shares handed in so far; the same share counts once."""

    def __init__(self) -> None:
        self._shares: list[bytes] = []

    def __len__(self) -> int:
        return len(self._shares)

    def __repr__(self) -> str:
        return f"<Collected {len(self._shares)}>"

    def add(self, share: bytes) -> bool:
        """False if it is there already."""
        known = [same(share, other) for other in self._shares]  # all of them, every time
        if any(known):
            return False
        self._shares.append(share)
        return True

    def combine(self) -> bytes:
        """The key, if these are the right shares. Raises InvalidRequest when they cannot be."""
        try:
            return combine(self._shares)
        except ValueError as error:
            raise InvalidRequest(f"invalid key: failed to compute combined key: {error}") from None
