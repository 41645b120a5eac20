"""A full disk through the API: writes are refused, reads go on, and nobody restarts anything."""

import contextlib
import resource
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.undercroft import Answer, Undercroft, disk_server, until
from undercroft.storage.verify import verify

DISK_BYTES = 4 << 20
VALUE = "x" * 3000


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Callable[[Undercroft, bool], None]]:
    """A file system of 4 MiB at `directory`; answers what makes it full, or gives room again.

    Without the right to mount one, the writer's files are kept from growing instead.
    """
    directory.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(directory)],
        capture_output=True,
    )
    mounted = made.returncode == 0
    ballast = directory / "ballast"

    def fill(server: Undercroft, full: bool) -> None:
        if mounted and full:
            ballast.write_bytes(b"x" * (DISK_BYTES // 4))
        elif mounted:
            ballast.unlink()
        else:
            bytes_max = DISK_BYTES // 2 if full else resource.RLIM_INFINITY
            limits = (bytes_max, resource.RLIM_INFINITY)
            resource.prlimit(server.children()["writer"], resource.RLIMIT_FSIZE, limits)

    try:
        yield fill
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(directory)], check=True)


def refused_for_space(answer: Answer) -> bool:
    """507 in Vault's format, which says what is the matter and what to do."""
    if answer.status != 507:
        return False
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.body) == ["errors"]
    (text,) = answer.body["errors"]
    return "no space" in text


@pytest.fixture(name="disk")
def _disk(tmp_path: Path) -> Iterator[tuple[Undercroft, Callable[[Undercroft, bool], None]]]:
    with small_disk(tmp_path / "data") as fill, disk_server(tmp_path) as server:
        assert server.client.request("POST", "sys/mounts/kv", {"type": "kv"}).status == 204
        fill(server, True)
        yield server, fill


def written_until_full(server: Undercroft) -> int:
    """How many entries `kv/0`, `kv/1` … were acknowledged before the first was refused."""
    for number in range(5000):
        answer = server.client.request("POST", f"kv/{number}", {"number": number, "v": VALUE})
        if answer.status != 204:
            assert refused_for_space(answer), answer
            return number
    raise AssertionError("the disk never was full")


def test_a_full_disk_refuses_writes_while_reads_go_on_until_there_is_room(
    disk: tuple[Undercroft, Callable[[Undercroft, bool], None]], tmp_path: Path
) -> None:
    server, fill = disk
    client, processes = server.client, server.children()
    count = written_until_full(server)
    assert count > 20
    large = {"number": -1, "v": "x" * DISK_BYTES}

    for path in ("kv/large", "kv/0"):
        assert refused_for_space(client.request("POST", path, large))
    assert client.request("GET", "kv/large").status == 404
    for number in range(count):
        found = client.request("GET", f"kv/{number}")
        assert (found.status, found.body["data"]["number"]) == (200, number)
    assert client.request("GET", f"kv/{count}").status == 404
    assert len(client.request("LIST", "kv/").body["data"]["keys"]) == count
    assert client.request("GET", "auth/token/lookup-self").status == 200
    assert client.request("GET", "sys/health").status == 200

    fill(server, False)
    assert client.request("POST", "kv/again", {"number": 7, "v": VALUE}).status == 204
    assert client.request("POST", "auth/token/create", {}).status == 200
    assert client.request("GET", "kv/again").body["data"]["number"] == 7
    assert server.children() == processes, "nothing was restarted for it"
    server.kill()
    assert verify(tmp_path / "data") == []


def test_writers_that_come_together_are_each_told_and_none_is_half_there(
    disk: tuple[Undercroft, Callable[[Undercroft, bool], None]],
) -> None:
    """A group commit that does not fit fails as a whole: each of its requests gets an answer."""
    server, fill = disk
    client = server.client
    written_until_full(server)

    def write(number: int) -> int:
        body = {"number": number, "v": VALUE * 20}
        answer = client.request("POST", f"kv/more/{number}", body)
        assert answer.status == 204 or refused_for_space(answer), answer
        return answer.status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(write, range(200)))
    assert 507 in statuses
    for number, status in enumerate(statuses):
        found = client.request("GET", f"kv/more/{number}").status
        assert found == (200 if status == 204 else 404)
    fill(server, False)
    until(lambda: write(999) == 204, server)
