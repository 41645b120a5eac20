"""Nonces: never twice, never short."""

import os
from pathlib import Path

import pytest

from tests.unit.storage.stores import contents, keyring, open_store, write
from undercroft.barrier import keyring as keyrings
from undercroft.errors import Internal


def test_threat_seal_09_a_million_nonces_are_all_different() -> None:
    ring = keyring()
    encrypt = ring.encrypt
    assert len({encrypt(b"", b"")[4:16] for _ in range(1_000_000)}) == 1_000_000
    assert ring.encryptions == 1_000_000


def test_threat_seal_09_a_forked_process_and_a_restarted_one_draw_their_own() -> None:
    ring = keyring()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"".join(ring.encrypt(b"", b"")[4:16] for _ in range(300)))
        os._exit(0)
    os.waitpid(child, 0)
    ours = {ring.encrypt(b"", b"")[4:16] for _ in range(300)}
    again = {keyring().encrypt(b"", b"")[4:16] for _ in range(300)}
    drawn = os.read(reader, 300 * 12)
    theirs = {drawn[at : at + 12] for at in range(0, len(drawn), 12)}
    os.close(reader)
    os.close(writer)
    assert len(ours | again | theirs) == 900


def broken(_: int) -> bytes:
    raise OSError("no randomness")


@pytest.mark.parametrize(
    ("source", "error"), [(lambda _: bytes(8), Internal), (broken, OSError)], ids=["short", "none"]
)
def test_threat_seal_09_without_enough_randomness_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: object, error: type[Exception]
) -> None:
    store = open_store(tmp_path)
    monkeypatch.setattr(keyrings.os, "urandom", source)
    with pytest.raises(error):
        write(store, {"a": b"1"})
    monkeypatch.undo()
    assert contents(store) == {}
    write(store, {"a": b"1"})
