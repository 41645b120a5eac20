"""What a replication session asks the writer for: in order, and nothing more after a refusal."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from tests.unit.pipeline_world import Node
from undercroft.node.frames import Answer, Commit, Done, FromWriter
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


def test_a_session_of_a_former_primary_changes_nothing(node: Node) -> None:
    become(node, Role(PRIMARY))
    assert commit_all(node, [Commit(1, GOOD, session=7)]) == ["this cluster follows no primary now"]
    assert withheld(node) == ()
