"""What the writer does between requests, where something of it cannot be done."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.pipeline_world import Node, seal_manager
from undercroft.errors import Corrupt
from undercroft.node.writer import Writer
from undercroft.request.model import Operation
from undercroft.request.token_entry import id_key


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path)
    node.services.seal = seal_manager()
    return node


@pytest.fixture
def writer(node: Node) -> Iterator[Writer]:
    loop = asyncio.new_event_loop()
    writer = Writer(
        node.store,
        node.services,
        loop,
        lambda: node.now_ms,
        directory=node.directory,
        stop=lambda: None,
    )
    writer.load_role()
    yield writer
    loop.close()


def tokens(node: Node, count: int) -> list[str]:
    """The accessors of as many tokens, which all end in an hour."""
    return [node.token("default", ttl="1h").accessor for _ in range(count)]


def damage(node: Node, accessor: str) -> None:
    key = id_key(accessor)
    with node.store.env.begin(node.store.data, write=True) as txn:
        stored = txn.get(key)
        assert stored is not None
        txn.put(key, stored[:-1] + bytes([stored[-1] ^ 1]))


def left(node: Node, accessors: list[str]) -> list[str]:
    with node.store.snapshot() as view:
        return [accessor for accessor in accessors if view.exists(id_key(accessor))]


def test_a_token_that_cannot_be_read_keeps_no_other_from_being_reaped(
    node: Node, writer: Writer
) -> None:
    accessors = tokens(node, 5)
    damage(node, accessors[2])
    node.now_ms += 3_600_000
    writer.tick()
    assert left(node, accessors) == [accessors[2]]
    assert node.services.metrics.value("undercroft.expire.reaped") == 4


def test_the_log_tells_which_entry_it_is_once_and_without_its_accessor(
    node: Node, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    accessor = tokens(node, 1)[0]
    damage(node, accessor)
    node.now_ms += 3_600_000
    for _ in range(3):
        writer.tick()
    told = [record for record in caplog.records if record.name == "undercroft.storage"]
    fields = [vars(record)["fields"] for record in told]
    assert len(told) == 1
    assert fields[0]["entry"].startswith(f"'id/{accessor[:8]}'...")
    assert accessor not in str(fields)


@pytest.mark.parametrize("error", [Corrupt("the store is damaged"), ValueError("unforeseen")])
def test_what_reaping_meets_keeps_no_other_work_from_being_done_and_is_not_told_each_time(
    node: Node,
    writer: Writer,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(now_ms: int, limit: int) -> list[bytes]:
        raise error

    monkeypatch.setattr(node.store, "due", fail)
    node.ask("sys/mounts/gone", type="kv")
    node.ask("gone/a", value="1")
    node.ask("sys/mounts/gone", Operation.DELETE)
    for _ in range(3):
        writer.tick()
    assert not node.slice()  # nothing of it is left
    told = [record.message for record in caplog.records if record.name == "undercroft.writer"]
    assert told == ["background work failed"]
