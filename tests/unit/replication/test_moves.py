"""The rules of role changes: who may write, who stops, and what lifts it again."""

import msgspec
import pytest

from undercroft.errors import InvalidRequest, Unavailable
from undercroft.replication import moves
from undercroft.replication.lineage import Lineage, founded
from undercroft.replication.role import PRIMARY, SECONDARY, Credentials, Fence, Role, Upstream
from undercroft.storage.wal import START, Position

AT = Position(1, 10, bytes(16))
MINE = founded(START, "set", "a", 0, b"mine-id.")
THEIRS = MINE.opened(AT, "b", 0, b"their-id")
PRIMARY_ROLE = Role(PRIMARY, set_id="set")
CONNECTED = Role(SECONDARY, "set", upstream=Upstream("b", Credentials(b"", b"", b""), ("a:1",)))


def fence(lineage: Lineage = THEIRS) -> Fence:
    return Fence(lineage, "b", "https://b", "b:1", 0)


def fenced(role: Role = PRIMARY_ROLE, lineage: Lineage = THEIRS, **facts: bool) -> Role:
    known = {"known": True, "promotable": True, "filtered": False, **facts}
    return moves.fenced(role, MINE, fence(lineage), **known)


def granted(role: Role = PRIMARY_ROLE) -> Role:
    return moves.granted(role, "b", 10, promotable=True, filtered=False, now_ms=0)


def test_a_primary_writes_until_it_is_fenced_or_hands_over() -> None:
    assert moves.refusal(PRIMARY_ROLE) is None
    assert isinstance(moves.refusal(fenced()), Unavailable)
    assert isinstance(moves.refusal(granted()), Unavailable)
    assert moves.refusal(CONNECTED) is not None


def test_who_lacks_data_or_is_comparing_takes_over_only_by_force() -> None:
    moves.check_promotable(CONNECTED, force=False)
    withheld = msgspec.structs.replace(CONNECTED, withheld=(b"mount",))
    comparing = msgspec.structs.replace(CONNECTED, comparing=True)
    with pytest.raises(InvalidRequest):
        moves.check_promotable(withheld, force=False)
    with pytest.raises(Unavailable):
        moves.check_promotable(comparing, force=False)
    for role in (withheld, comparing):
        moves.check_promotable(role, force=True)


@pytest.mark.parametrize(
    "facts", [{"known": False}, {"promotable": False}, {"filtered": True}], ids=str
)
def test_only_who_might_be_promoted_can_fence(facts: dict[str, bool]) -> None:
    with pytest.raises(InvalidRequest):
        fenced(**facts)


def test_a_claim_that_is_no_newer_than_the_fence_known_does_not_count() -> None:
    with pytest.raises(InvalidRequest):
        fenced(role=fenced())
    with pytest.raises(InvalidRequest):
        fenced(lineage=MINE)


def test_a_fence_ends_a_handover() -> None:
    assert fenced(role=granted()).handover is None


def test_a_hello_alone_does_not_void_a_handover() -> None:
    void = moves.handover_is_void
    assert not void(granted(), MINE, "b", MINE, begun_since=False)
    assert void(granted(), MINE, "b", MINE, begun_since=True)
    assert not void(granted(), MINE, "b", THEIRS, begun_since=True)
    assert not void(granted(), MINE, "c", MINE, begun_since=True)


def test_an_epoch_is_opened_behind_the_last_record_and_in_the_session_of_the_grant() -> None:
    assert moves.may_open(10, 10, session_is_newest=True)
    assert not moves.may_open(9, 10, session_is_newest=True)
    assert not moves.may_open(10, 10, session_is_newest=False)


def test_revoking_the_claimant_opens_an_epoch_above_its_claim() -> None:
    overruled = moves.revoked(fenced(), MINE, "b", AT, "a", 0)
    assert moves.refusal(overruled.role) is None
    assert overruled.lineage is not None
    assert overruled.lineage.beats(THEIRS)


def test_revoking_who_is_handed_over_to_beats_the_epoch_it_may_have_opened() -> None:
    overruled = moves.revoked(granted(), MINE, "b", AT, "a", 0)
    assert moves.refusal(overruled.role) is None
    assert overruled.lineage is not None
    assert overruled.lineage.beats(THEIRS)


def test_revoking_another_changes_nothing() -> None:
    overruled = moves.revoked(fenced(), MINE, "c", AT, "a", 0)
    assert overruled.lineage is None
    assert overruled.role.fence is not None
