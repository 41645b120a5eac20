"""One cluster per module, brought back to the role that a test begins with."""

from collections.abc import Iterator

import pytest

from tests.replication.clusters import ok
from tests.replication.pair import status
from tests.support.undercroft import Client, disk_server


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with disk_server(tmp_path_factory.mktemp("alone")) as started:
        yield started.client


@pytest.fixture
def disabled(alone: Client) -> Client:
    """Whatever role the test before has left, it is over."""
    match status(alone)["mode"]:
        case "primary":
            ok(alone, "primary/disable")
        case "secondary":
            ok(alone, "secondary/disable")
    return alone


@pytest.fixture
def primary(disabled: Client) -> Client:
    ok(disabled, "primary/enable")
    return disabled
