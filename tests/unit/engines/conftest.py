"""KV mounts over a store of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.calls import Calls
from undercroft.engines.kv import engine_for
from undercroft.request.mounts import Mount


def kv_mount(version: str) -> Mount:
    return Mount(b"k" * 16, "kv/", "kv", "kv_1", options={"version": version})


@pytest.fixture
def v1(tmp_path: Path) -> Iterator[Calls]:
    mount = kv_mount("1")
    calls = Calls(tmp_path, engine_for(mount), mount)
    yield calls
    calls.close()


@pytest.fixture
def v2(tmp_path: Path) -> Iterator[Calls]:
    mount = kv_mount("2")
    calls = Calls(tmp_path, engine_for(mount), mount)
    yield calls
    calls.close()
