"""A node, put together: what the supervisor prepares and what each child process runs."""

import asyncio
import base64
import contextlib
import gc
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from undercroft import __version__
from undercroft.barrier.keyring import Keyring
from undercroft.barrier.seal import Initialized, SealManager
from undercroft.config import Listener as ListenerSettings
from undercroft.config import Settings
from undercroft.engines import registry
from undercroft.engines.base import Services
from undercroft.engines.system.health import remember_version
from undercroft.errors import InvalidRequest, UndercroftError
from undercroft.http.listener import Listener
from undercroft.node.replicator import Replicator
from undercroft.node.state import CLUSTER_KEY, Cluster, NodeState
from undercroft.node.supervisor import (
    DRAIN_SECONDS,
    Child,
    Supervisor,
    listen,
    listen_unix,
    worker_count,
)
from undercroft.node.worker import Worker
from undercroft.node.writer import WorkerLink, Writer
from undercroft.observe import logs
from undercroft.observe.metrics import Metrics
from undercroft.replication import activation, control
from undercroft.request import index
from undercroft.request.audit import Auditor
from undercroft.request.mounts import Mount, MountTable, new_accessor, new_mount_id
from undercroft.request.policies import PolicyStore
from undercroft.request.tokens import Limits, TokenStore
from undercroft.storage.directory import locked_directory, memory_directory
from undercroft.storage.location import clean, location, name_of
from undercroft.storage.store import Retention, Store
from undercroft.storage.view import Transaction

log = logs.get_logger("core")

SOCKET_NAME: Final = "writer.sock"
_OF_DAMAGED_PAGES: Final = (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV)  # how LMDB meets them
CONTROL_NAME: Final = "replicator.sock"


@dataclass
class DevOptions:
    """`server -dev`: one key share, unsealed, KV v2 at secret/."""

    root_token: str = ""
    on_ready: Callable[[str, str], None] = field(default=lambda key, token: None)


@dataclass
class Node:
    """What the children inherit."""

    settings: Settings
    directory: Path
    durable: bool
    metrics: Metrics
    listeners: list[tuple[ListenerSettings, list[socket.socket]]]
    writer_socket: socket.socket
    writer_path: str
    started_ms: int
    dev: DevOptions | None
    cluster_sockets: list[socket.socket]
    control_socket: socket.socket
    control_path: str


def build_services(node: Node) -> Services:
    """The services of one process; every process has its own."""
    settings = node.settings
    state = NodeState(
        seal_type=settings.seal.type,
        storage_type="inmem" if not node.durable else "lmdb",
        api_addr=settings.api_addr,
        cluster_addr=settings.cluster_addr,
        started_ms=node.started_ms,
    )
    return Services(
        settings=settings,
        state=state,
        mounts=MountTable(),
        tokens=TokenStore(Limits(settings.default_lease_ttl, settings.max_lease_ttl)),
        policies=PolicyStore(),
        metrics=node.metrics,
        audit=Auditor(
            settings.audit,
            data_directory=node.directory if node.durable else None,
            metrics=node.metrics,
            warn=log.warn,
        ),
        ask_replicator=partial(control.ask, node.control_path),
        has_cluster_port=bool(node.cluster_sockets),
        engines=registry.ENGINES,
    )


def bootstrap(node: Node, services: Services) -> Callable[[Transaction, int], str]:
    """What a new cluster starts with, in the transaction of its initialisation.

    Answers the root token.
    """

    def run_bootstrap(tx: Transaction, now_ms: int) -> str:
        cluster_id = str(uuid.uuid4())
        name = node.settings.cluster_name or f"undercroft-cluster-{cluster_id[:8]}"
        tx.put(CLUSTER_KEY, msgspec.msgpack.encode(Cluster(cluster_id, name)))
        services.mounts.bootstrap(tx)
        index.make_key(tx)
        services.policies.bootstrap(tx, now_ms)
        if node.dev is not None:
            options = {"version": "2"}
            secret = Mount(new_mount_id(), "secret/", "kv", new_accessor("kv"), options=options)
            services.mounts.put(tx, secret)
        root_id = node.dev.root_token if node.dev is not None else ""
        return services.tokens.bootstrap(tx, now_ms, root_id)

    return run_bootstrap


# the writer's process


def writer_main(node: Node) -> None:
    uvloop.run(_writer(node))


async def _writer(node: Node) -> None:
    node.metrics.attach(1)
    loop = asyncio.get_running_loop()
    stop = _stop_event(loop)
    services = build_services(node)
    replication = node.settings.replication
    retention = Retention(
        replication.logshipper_buffer_length,
        replication.logshipper_buffer_size,
        replication.log_retention_age,
    )
    path = location(node.directory)
    store = Store.open(path, writable=True, durable=node.durable, retention=retention)
    clean(node.directory)
    if store.digests_rebuilt:
        log.warn("the stored digests were damaged and have been made anew: check the disk")
    writer = Writer(store, services, loop, directory=node.directory, stop=stop.set)
    seal = SealManager(
        node.settings.seal,
        on_keyring=lambda keyring: _on_keyring(writer, keyring),
        on_sealed=writer.sealed,
        on_progress=writer.publish_seal,
        bootstrap=bootstrap(node, services),
    )
    services.seal = seal
    writer.publish_seal()
    if node.dev is not None and not services.state.initialized:
        _initialize_dev(node, writer, seal)
    else:
        _auto_unseal(writer, seal)
    loop.add_signal_handler(signal.SIGHUP, _reload, node, services)
    server = await loop.create_unix_server(lambda: WorkerLink(writer), sock=node.writer_socket)
    writer.tick()
    _settle_collector()
    await stop.wait()
    server.close()
    await writer.farewell()
    store.close()


def _on_keyring(writer: Writer, keyring: Keyring) -> None:
    """Unsealed, or rotated. Who we are becomes readable with the keyring."""
    was_sealed = writer.services.state.sealed
    writer.store.set_keyring(keyring)
    with writer.store.snapshot() as view:
        cluster = view.read(CLUSTER_KEY, Cluster)
    assert cluster is not None, "an initialised cluster has a name"
    if was_sealed:
        writer.commit_internal(lambda tx, now_ms: _prepare_opened(writer.services, tx, now_ms))
        log.info("unsealed", cluster=cluster.name)
    writer.unsealed(keyring, cluster_name=cluster.name, cluster_id=cluster.id)


def _prepare_opened(services: Services, tx: Transaction, now_ms: int) -> None:
    """What must be stored before the first request may be served."""
    services.audit.ensure_salts(tx)
    activation.forget_pending_key(tx)  # it does not outlive a seal
    remember_version(tx, now_ms)


def _auto_unseal(writer: Writer, seal: SealManager) -> None:
    """With a key that does not fit the server stays sealed, as OpenBao does: health can tell."""
    try:
        with writer.store.snapshot() as view:
            keyring = seal.auto_unseal(view)
    except InvalidRequest as error:
        log.error("cannot unseal", error=error.message, hint=error.hint)
        return
    if keyring is None:
        log.info("the server is sealed", initialized=writer.services.state.initialized)
        return
    seal.adopt(keyring)
    writer.commit_internal(lambda tx, now_ms: _say_rewrapped(seal.rewrap(tx)))


def _say_rewrapped(done: bool) -> None:
    if done:
        log.info("the root key is wrapped with the current static key now")


def _initialize_dev(node: Node, writer: Writer, seal: SealManager) -> None:
    """`-dev`: what an operator would do by hand, before the first request."""
    assert node.dev is not None
    made: list[Initialized] = []
    writer.commit_internal(
        lambda tx, now_ms: made.append(seal.initialize(tx, shares=1, threshold=1, now_ms=now_ms))
    )
    share = made[0].shares[0]
    writer.commit_internal(lambda tx, now_ms: seal.unseal(tx, share))
    node.dev.on_ready(base64.b64encode(share).decode(), made[0].root_token)


# a worker's process


def worker_main(node: Node, index: int) -> None:
    uvloop.run(_worker(node, index))


async def _worker(node: Node, index: int) -> None:
    node.metrics.attach(2 + index)
    loop = asyncio.get_running_loop()
    stop = _stop_event(loop)
    stopping = asyncio.ensure_future(stop.wait())
    services = build_services(node)
    store = await _open_for_reading(node)
    worker = Worker(
        store,
        services,
        node.writer_path,
        store_name=name_of(node.directory, Path(store.env.path())),
        open_store=partial(_open_named, node),
    )
    del store  # the worker may go on to another one
    connecting = asyncio.ensure_future(worker.connect())
    await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
    listeners = [
        Listener(settings, worker.serve, sockets[index]) for settings, sockets in node.listeners
    ]
    if not stop.is_set():
        for listener in listeners:
            await listener.start()
    loop.add_signal_handler(signal.SIGHUP, _reload, node, services, listeners)
    _settle_collector()
    await stop.wait()
    await asyncio.gather(*(listener.drain(DRAIN_SECONDS) for listener in listeners))
    worker.close()
    worker.store.close()


async def _open_for_reading(node: Node) -> Store:
    """The writer creates the store; at the very first start it may be a moment behind."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return Store.open(location(node.directory), writable=False, durable=node.durable)
        except UndercroftError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.01)


def _open_named(node: Node, name: str) -> Store:
    return Store.open(node.directory / name, writable=False, durable=node.durable)


# the replicator's process


def replicator_main(node: Node, ended_by: int) -> None:
    """`ended_by`: the signal that the process before died of; 0: none."""
    uvloop.run(_replicator(node, is_reading_deadly=ended_by in _OF_DAMAGED_PAGES))


async def _replicator(node: Node, *, is_reading_deadly: bool) -> None:
    node.metrics.attach(2 + len(node.listeners[0][1]))
    stop = _stop_event(asyncio.get_running_loop())
    services = build_services(node)
    store = await _open_for_reading(node)
    replicator = Replicator(
        store,
        services,
        node.writer_path,
        node.directory,
        node.cluster_sockets,
        store_name=name_of(node.directory, Path(store.env.path())),
        is_reading_deadly=is_reading_deadly,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, node, services)
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(
        lambda: control.ControlLink(replicator.answer), sock=node.control_socket
    )
    _settle_collector()
    await replicator.run(stop)
    server.close()


# both


def _stop_event(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Set by SIGTERM. SIGINT is the supervisor's: a terminal sends it to every process."""
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    return stop


def _settle_collector() -> None:
    """What exists now lives as long as the process: the collector need not walk it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _reload(node: Node, services: Services, listeners: Sequence[Listener] = ()) -> None:
    """SIGHUP: log level and log file, audit files, certificates."""
    logs.reload(node.settings)
    services.audit.reopen()
    for listener in listeners:
        listener.reload()


# the supervisor's process


def run(settings: Settings, dev: DevOptions | None = None) -> int:
    """Run a server until SIGTERM; answers the exit code. Raises UndercroftError before it runs."""
    durable = settings.storage.type != "inmem"
    with _data_directory(settings, durable) as directory:
        # Here a device that cannot be opened ends the start; in a child it would be a restart.
        Auditor(settings.audit, data_directory=directory if durable else None).close()
        count = worker_count(settings)
        listeners = [(ls, _listen(ls.address, count)) for ls in settings.listeners]
        writer_socket, writer_path = listen_unix(directory, SOCKET_NAME)
        node = Node(
            settings,
            directory,
            durable,
            Metrics(processes=count + 3),
            listeners,
            writer_socket,
            writer_path,
            time.time_ns() // 1_000_000,
            dev,
            _cluster_sockets(settings),
            *listen_unix(directory, CONTROL_NAME),
        )
        children = [Child("writer", lambda: writer_main(node))]
        for index in range(count):
            children.append(Child(f"worker-{index}", partial(worker_main, node, index)))
        replicator = Child("replicator", lambda: replicator_main(node, replicator.ended_by))
        children.append(replicator)
        log.info(
            "starting",
            version=__version__,
            workers=count,
            listeners=", ".join(ls.address for ls in settings.listeners),
            storage=settings.storage.type,
        )
        supervisor = Supervisor(children, lambda: logs.reload(settings), node.metrics)
        return supervisor.run()


def _listen(address: str, count: int) -> list[socket.socket]:
    try:
        return listen(address, count)
    except OSError as error:
        raise InvalidRequest(
            f"cannot listen on {address}: {error.strerror}",
            hint="another server may be running there; choose another listener address",
        ) from None


def _cluster_sockets(settings: Settings) -> list[socket.socket]:
    """The cluster ports, which only a replicating node needs: one that is taken ends no start."""
    sockets: list[socket.socket] = []
    for address in dict.fromkeys(ls.cluster_address for ls in settings.listeners):
        try:
            sockets += listen(address, 1)
        except OSError as error:
            log.warn(
                "the cluster port cannot be had: this node cannot be a replication primary",
                address=address,
                error=error.strerror or "",
            )
    return sockets


@contextlib.contextmanager
def _data_directory(settings: Settings, durable: bool) -> Iterator[Path]:
    """The directory of the store, ours alone while this runs."""
    if durable:
        directory = Path(settings.storage.path)
        with locked_directory(directory):
            yield directory
    else:
        with memory_directory() as directory:
            yield directory
