"""What a replication session asks the writer for: in order, and nothing more after a refusal."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from tests.unit.pipeline_world import Node, seal_manager
from undercroft.errors import Unavailable
from undercroft.node.frames import (
    Answer,
    Commit,
    Done,
    Execute,
    FromWorker,
    FromWriter,
    Pause,
    Paused,
    Switch,
    Switched,
)
from undercroft.node.writer import WorkerLink, Writer
from undercroft.replication import changes
from undercroft.replication.role import (
    PRIMARY,
    SECONDARY,
    Credentials,
    Role,
    Upstream,
    read_role,
    write_role,
)

UPSTREAM = Upstream("osaka", Credentials(b"", b"", b""), ("127.0.0.1:8201",))


class Link:
    """Keeps what the writer answers."""

    def __init__(self) -> None:
        self.answers: list[FromWriter] = []

    def send(self, frame: FromWriter) -> None:
        self.answers.append(frame)

    def flush(self) -> None:
        """Nothing is buffered here."""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def commit_all(node: Node, *commits: list[Commit]) -> list[str]:
    """Why each was refused ("": it was made). Each list is one group commit."""
    loop = asyncio.new_event_loop()
    link = Link()
    try:
        writer = Writer(
            node.store, node.services, loop, directory=node.directory, stop=lambda: None
        )
        writer.load_role()

        async def run() -> None:
            for commit in commits:
                for frame in commit:
                    writer.submit(cast(WorkerLink, link), frame)
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        loop.run_until_complete(run())
    finally:
        loop.close()
    answers = [answer for answer in link.answers if isinstance(answer, Done | Answer)]
    assert [answer.id for answer in answers] == [f.id for frames in commits for f in frames]
    return [answer.failure for answer in answers if isinstance(answer, Done)]


def become(node: Node, role: Role) -> None:
    with node.transaction() as tx:
        write_role(tx, role)


def withheld(node: Node) -> tuple[bytes, ...]:
    with node.store.snapshot() as view:
        return read_role(view).withheld


BAD = changes.ApplyRecords([b"cut short"])
GOOD = changes.Withhold((bytes(16),))


@pytest.mark.parametrize("apart", [False, True], ids=["in one commit", "in the next commit"])
def test_after_a_refused_change_no_other_of_its_session_is_made(node: Node, apart: bool) -> None:
    """Those that follow take for granted that it was made: keys, say, before what needs them."""
    become(node, Role(SECONDARY, upstream=UPSTREAM))
    bad, good = Commit(1, BAD, session=7), Commit(2, GOOD, session=7)
    failures = commit_all(node, [bad], [good]) if apart else commit_all(node, [bad, good])
    assert failures == ["a shared record is cut short", "a change before it was refused"]
    assert withheld(node) == ()


def test_another_session_and_changes_of_none_go_on(node: Node) -> None:
    become(node, Role(SECONDARY, upstream=UPSTREAM))
    failures = commit_all(node, [Commit(1, BAD, session=7), Commit(2, GOOD, session=8)])
    assert failures[1] == ""
    assert withheld(node) == (bytes(16),)
    assert commit_all(node, [Commit(1, BAD), Commit(2, GOOD)])[1] == ""


@contextmanager
def writing(node: Node) -> Iterator[tuple[Writer, Callable[[Link, FromWorker], FromWriter]]]:
    """A writer, and how a process of the node asks it for something and gets its answer."""
    loop = asyncio.new_event_loop()
    writer = Writer(node.store, node.services, loop, directory=node.directory, stop=lambda: None)
    writer.load_role()

    def ask(link: Link, frame: FromWorker) -> FromWriter:
        worker = cast(WorkerLink, link)
        if isinstance(frame, Pause):
            writer.asked_to_pause(worker, frame)
        elif isinstance(frame, Switch):
            writer.asked_to_switch(worker, frame)
        else:
            assert isinstance(frame, Commit | Execute)
            writer.submit(worker, frame)
            loop.run_until_complete(asyncio.sleep(0))
        return link.answers[-1]

    try:
        yield writer, ask
    finally:
        loop.close()


def write_of(node: Node) -> Execute:
    return Execute(5, node.request("cubbyhole/a", value="1"))


def test_while_somebody_copies_what_is_committed_nothing_else_is(node: Node) -> None:
    become(node, Role(SECONDARY, upstream=UPSTREAM))
    replicator, worker = Link(), Link()
    with writing(node) as (writer, ask):
        assert ask(replicator, Pause()) == Paused()
        before = node.store.position
        answer = ask(worker, write_of(node))
        assert isinstance(answer, Answer)
        assert answer.error is not None
        assert (answer.error.kind, answer.error.retry_after_seconds) == ("Unavailable", 1)
        done = ask(replicator, Commit(6, GOOD))
        assert isinstance(done, Done)
        assert "nothing was applied" in done.failure
        with pytest.raises(Unavailable):
            writer.commit_internal(lambda tx, now_ms: None)
        writer.tick()
        assert node.store.position == before


@pytest.mark.parametrize("end", ["resume", "death", "refusal"])
def test_a_pause_ends_with_who_asked_for_it(node: Node, end: str, tmp_path: Path) -> None:
    become(node, Role(SECONDARY, upstream=UPSTREAM))
    node.services.seal = seal_manager()
    replicator, worker = Link(), Link()
    with writing(node) as (writer, ask):
        ask(replicator, Pause())
        if end == "resume":
            ask(replicator, Pause(on=False))
        elif end == "death":
            writer.lost(cast(WorkerLink, replicator))
        else:
            switched = ask(replicator, Switch(str(tmp_path / "elsewhere")))
            assert isinstance(switched, Switched)
            assert switched.error is not None
        answer = ask(worker, write_of(node))
        assert isinstance(answer, Answer)
        assert answer.error is None


def test_a_session_of_a_former_primary_changes_nothing(node: Node) -> None:
    become(node, Role(PRIMARY))
    assert commit_all(node, [Commit(1, GOOD, session=7)]) == ["this cluster follows no primary now"]
    assert withheld(node) == ()
