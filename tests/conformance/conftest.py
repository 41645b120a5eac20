"""One OpenBao and one Undercroft for all conformance tests of a worker process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.pair import Pair
from tests.support.oracle import Oracle
from tests.support.undercroft import dev_server


@pytest.fixture(scope="session")
def pair(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with dev_server(Path(tmp_path_factory.mktemp("undercroft"))) as server:
        yield Pair(oracle, server.client)
