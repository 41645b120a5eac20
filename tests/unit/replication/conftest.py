"""One cluster's store; what a test leaves open is collected after it."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.replication.cluster import Cluster
from tests.unit.storage.stores import open_store


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    store = open_store(tmp_path / "store")
    yield Cluster(store)
    store.close()
    gc.collect()
