"""A compromised primary writes what it likes into what it replicates (R-33)."""

import base64
import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec

from tests.replication.clusters import ok, read, settle, write
from tests.replication.pair import join, prepare, status
from tests.support.undercroft import Client, Undercroft, disk_server, restart, until
from undercroft.barrier.seal_store import (
    CONFIG_KEY,
    KEYRING_KEY,
    ROOT_KEY_KEY,
    SealConfig,
    open_keyring,
    open_root_key,
    read_config,
)
from undercroft.node.state import CLUSTER_KEY
from undercroft.replication.authority import AUTHORITY_KEY
from undercroft.replication.role import ROLE_KEY
from undercroft.request.mounts import Mount
from undercroft.storage.keys import SHARED, SYSTEM, key
from undercroft.storage.location import location
from undercroft.storage.store import Store

OF_ONE_NODE = (CONFIG_KEY, ROOT_KEY_KEY, KEYRING_KEY, CLUSTER_KEY, AUTHORITY_KEY, ROLE_KEY)


def poison(server: Undercroft, file: Path, port: int) -> None:
    """With the server down: shared entries as whoever has its keys might write them."""
    store = Store.open(location(server.log.parent / "data"), writable=True)
    try:
        with store.snapshot() as view:
            config = read_config(view)
            assert config is not None
            root_key = open_root_key(view, config, base64.b64decode(server.keys[0]))
            store.set_keyring(open_keyring(view, root_key).keyring(root_key))
        with store.snapshot() as view:
            own = {name: view.get(name) for name in OF_ONE_NODE}
        own[CONFIG_KEY] = msgspec.msgpack.encode(SealConfig("shamir", 3, 2))
        batch = store.batch()
        tx = batch.transaction()
        tx.allow_shared()
        for name, value in own.items():  # named as a node's own are, with the primary's content
            assert value is not None, name
            tx.put(SHARED + name[1:], value)
        listener = {"type": "tcp", "address": f"127.0.0.1:{port}", "tls_disable": True}
        device = {"type": "file", "path": "theirs/", "options": {"file_path": str(file)}}
        for name, body in (
            ("audit/theirs", device),
            ("core/audit/theirs", device),
            ("listener/theirs", listener),
            ("config/listener", listener),
            ("plugin-catalog/secret/theirs", {"command": str(file), "sha256": "00" * 32}),
        ):
            tx.put(key(SHARED, SYSTEM, name), json.dumps(body).encode())
        options = {"file_path": str(file), "plugin_dir": str(file.parent)}
        for number, kind in enumerate(("plugin", "file", "exec"), 1):
            mount = Mount(bytes([number]) * 16, f"{kind}/", kind, f"{kind}_1", options=options)
            tx.put(key(SHARED, SYSTEM, f"mounts/{mount.uuid}"), msgspec.msgpack.encode(mount))
        batch.accept(tx)
        batch.commit()
    finally:
        store.close()


def shown(client: Client) -> dict[str, Any]:
    """What the secondary's own file says, as the server tells it."""
    seal = client.request("GET", "sys/seal-status").body
    devices = client.request("GET", "sys/audit").body["data"]
    return {
        "seal": {name: seal[name] for name in ("type", "t", "n", "storage_type", "cluster_id")},
        "audit": {path: device["options"] for path, device in devices.items()},
        "mode": status(client)["mode"],
    }


def ports(server: Undercroft) -> set[int]:
    """What the processes of a server listen on."""
    inodes = set()
    for pid in [server.process.pid, *server.children().values()]:
        for opened in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a connection may be closed meanwhile
                if found := re.match(r"socket:\[(\d+)\]", os.readlink(opened)):
                    inodes.add(found[1])
    listening = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            listening.add(int(fields[1].rpartition(":")[2], 16))
    return listening


def test_threat_r_33_poisoned_entries_set_neither_files_nor_ports_nor_seal_of_a_secondary(
    tmp_path: Path,
) -> None:
    for name in ("primary", "secondary", "theirs"):
        (tmp_path / name).mkdir()
    own, theirs = tmp_path / "own.log", tmp_path / "theirs" / "written"
    audit = f'audit "file" "own" {{\n  options {{ file_path = "{own}" }}\n}}\n'
    with (
        disk_server(tmp_path / "primary") as primary,
        disk_server(tmp_path / "secondary", audit) as secondary,
    ):
        prepare(primary.client)
        ok(primary.client, "primary/enable")
        join(primary.client, secondary, "osaka")
        write(primary.client, "before", 1)
        settle(secondary.client, primary.client)
        before, listening = shown(secondary.client), ports(secondary)
        assert listening
        primary.kill()
        poison(primary, theirs, 1)
        restart(primary, tmp_path / "primary")
        settle(secondary.client, primary.client)
        for again in (False, True):
            if again:  # what is read at a start alone
                secondary.kill()
                restart(secondary, tmp_path / "secondary")  # its own shares open it, still
                until(lambda: status(secondary.client).get("state") == "stream-wals", secondary)
            mounts = secondary.client.request("GET", "sys/mounts").body["data"]
            for kind in ("plugin", "file", "exec"):
                assert f"{kind}/" in mounts, "what the primary wrote has come"
                assert secondary.client.request("GET", f"{kind}/any").status >= 400
            assert shown(secondary.client) == before
            assert ports(secondary) == listening
            assert list(theirs.parent.iterdir()) == []
            assert read(secondary.client, "before") == 1
            size = own.stat().st_size
            secondary.client.request("GET", "kv1/any")
            until(lambda size=size: own.stat().st_size > size)
