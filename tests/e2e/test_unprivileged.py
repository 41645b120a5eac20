"""The server as a user without privileges, as it is run in production."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.undercroft import Client, Undercroft, free_port, until

NOBODY = 65534

# Modules are loaded first: the Python that runs the tests may be another user's.
RUN = f"""
import os, sys
import undercroft.node.run
from undercroft.cli.main import main
from undercroft.cli import server
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
sys.argv[0] = "undercroft"
sys.exit(main())
"""


CLUSTER_PORT = free_port()


def listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Undercroft]:
    port, cluster_port, data = free_port(), CLUSTER_PORT, tmp_path / "data"
    data.mkdir(mode=0o700)
    config = tmp_path / "config.hcl"
    config.write_text(
        f'storage "lmdb" {{ path = "{data}" }}\n'
        f'listener "tcp" {{\n  address = "127.0.0.1:{port}"\n  tls_disable = true\n'
        f'  cluster_address = "127.0.0.1:{cluster_port}"\n}}\n'
        f'cluster_addr = "https://127.0.0.1:{cluster_port}"\nworkers = 1\n'
    )
    if os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(0o755)
    log = tmp_path / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, "server", f"-config={config}"],
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd=tmp_path,
        )
    running = Undercroft(process, Client("127.0.0.1", port), log)
    try:
        until(lambda: running.client.request("GET", "sys/seal-status").status == 200, running)
        yield running
    finally:
        running.kill()


def test_a_server_of_an_ordinary_user_does_all_that_a_server_does(server: Undercroft) -> None:
    client = server.client
    made = client.request("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
    client.token, server.keys = made.body["root_token"], made.body["keys"]
    server.unseal()
    assert client.request("POST", "sys/mounts/kv", {"type": "kv"}).status == 204
    assert client.request("POST", "kv/a", {"b": "c"}).status == 204
    assert client.request("POST", "sys/replication/primary/enable").status == 200
    assert client.request("GET", "kv/a").body["data"] == {"b": "c"}
    until(lambda: listens(CLUSTER_PORT), server)
    assert {"writer", "replicator", "worker-0"} <= server.children().keys()
    assert client.request("PUT", "sys/seal").status == 204
    assert server.stop() == 0
