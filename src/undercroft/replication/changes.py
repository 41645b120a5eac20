"""What the replicator asks the writer to commit: the only ways in which it changes a store.

Each is a frame's payload between the two processes and a method of `Applier` (`node/applier.py`),
run in a transaction of the group commit like any request.
"""

import msgspec

from undercroft.storage.wal import Position


class _Change(msgspec.Struct, frozen=True, array_like=True):
    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class ApplyRecords(_Change, frozen=True, array_like=True, tag=1):
    """The next records of the shared log, encoded; the result counts entries that had diverged."""

    records: list[bytes]


class StoreEntries(_Change, frozen=True, array_like=True, tag=2):
    """Entries as the primary has them (None: gone); the result counts those that differed."""

    entries: list[tuple[bytes, bytes | None]]


class JumpTo(_Change, frozen=True, array_like=True, tag=3):
    """A comparison is over: the state is that of this position."""

    position: Position


class SetAside(_Change, frozen=True, array_like=True, tag=4):
    """Quarantine what the log has behind that place; the result counts entries."""

    behind_seq: int


class AdoptTerms(_Change, frozen=True, array_like=True, tag=5):
    """The primary's key terms (number, key, made at ms)."""

    terms: tuple[tuple[int, bytes, int], ...]
    alternates: tuple[tuple[int, bytes, int], ...]


class LearnAddresses(_Change, frozen=True, array_like=True, tag=6):
    """Where the primary is reached, as it says itself."""

    addresses: tuple[str, ...]
    api_addr: str


class NewCertificate(_Change, frozen=True, array_like=True, tag=7):
    """A secondary's certificate, renewed; `key` is PKCS8 DER."""

    certificate: bytes
    key: bytes
    authority: bytes


class Withhold(_Change, frozen=True, array_like=True, tag=8):
    """The primary keeps the data of these mounts from us."""

    mounts: tuple[bytes, ...]


class FenceBy(_Change, frozen=True, array_like=True, tag=9):
    """A signed claim that somebody brought; the writer checks it again."""

    claim: bytes


class GrantHandover(_Change, frozen=True, array_like=True, tag=10):
    """Stop writing in favour of a secondary; the result is the last place of the log."""

    secondary_id: str


class WithdrawHandover(_Change, frozen=True, array_like=True, tag=11):
    """That secondary is back and has opened no epoch: go on writing."""

    secondary_id: str


class Connected(_Change, frozen=True, array_like=True, tag=12):
    """A secondary has connected with its certificate: its id is in use from now on."""

    secondary_id: str


class KeepClaim(_Change, frozen=True, array_like=True, tag=15):
    """The signed claim of our primary's epoch: to be shown to the primary that we had before."""

    claim: bytes


class Settled(_Change, frozen=True, array_like=True, tag=16):
    """The state is that of its position again, after a comparison."""


class Submitted(_Change, frozen=True, array_like=True, tag=17):
    """A session with the primary that an operator chose has stood."""


class BeginComparison(_Change, frozen=True, array_like=True, tag=14):
    """Entries are about to change without a position: until a JumpTo data may be missing."""


class CorrectDigests(_Change, frozen=True, array_like=True, tag=18):
    """What the digests say of a key's bucket is off by so much: set it right (`scrub.py`)."""

    corrections: list[tuple[bytes, bytes]]


class StoreDigests(_Change, frozen=True, array_like=True, tag=19):
    """What is stored of the digest tree is damaged: store all of it again."""


class Reindexed(_Change, frozen=True, array_like=True, tag=20):
    """The digests are what the entries say; `unreadable`: some entries do not open."""

    unreadable: bool


class Announced(_Change, frozen=True, array_like=True, tag=13):
    """An old primary has acknowledged our epoch: it need not be told again."""

    address: str


Change = (
    ApplyRecords
    | StoreEntries
    | JumpTo
    | SetAside
    | AdoptTerms
    | LearnAddresses
    | NewCertificate
    | Withhold
    | FenceBy
    | GrantHandover
    | WithdrawHandover
    | Connected
    | Announced
    | BeginComparison
    | KeepClaim
    | Settled
    | Submitted
    | CorrectDigests
    | StoreDigests
    | Reindexed
)
