"""Every open store maps its whole address range: what a test leaves open is collected after it."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.storage.shared import Opener
from tests.unit.storage.stores import open_store
from undercroft.storage.store import Retention, Store


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens a store by name, also again after it was closed; all are closed in the end."""
    stores: list[Store] = []

    def opener(name: str, retention: Retention | None = None) -> Store:
        stores.append(open_store(tmp_path / name, retention=retention))
        return stores[-1]

    yield opener
    for store in stores:
        store.close()
