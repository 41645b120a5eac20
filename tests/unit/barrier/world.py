"""A node without its sockets: the real store, pipeline, engines and seal, committed as the writer
commits, with a clock that moves only when a test moves it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from undercroft.barrier.keyring import Keyring
from undercroft.barrier.seal import SealManager
from undercroft.config import Seal
from undercroft.engines import registry
from undercroft.engines.base import Services
from undercroft.errors import ReadOnly, UndercroftError
from undercroft.node.state import CLUSTER_KEY, Cluster, NodeState
from undercroft.observe.metrics import Metrics
from undercroft.request.audit import Auditor
from undercroft.request.model import Operation, Request, Response
from undercroft.request.mounts import MountTable
from undercroft.request.pipeline import Facts, Pipeline
from undercroft.request.policies import PolicyStore
from undercroft.request.tokens import Limits, TokenStore
from undercroft.storage.keys import SHARED, TOKENS, key
from undercroft.storage.store import Store
from undercroft.storage.view import Snapshot, Transaction

START_MS = 1_800_000_000_000
ENTRY = key(SHARED, TOKENS, "an entry")
DEFAULT_SEAL = Seal()


@dataclass(frozen=True)
class Ask:
    """One request of a batch."""

    path: str
    body: dict[str, Any] | None = None
    operation: Operation = Operation.UPDATE
    token: str = ""


class World:
    """`restart` is a new process on the same files; `seal` is the configuration's stanza."""

    def __init__(self, directory: Path, seal: Seal = DEFAULT_SEAL) -> None:
        self.directory = directory
        self.now_ms = START_MS
        self.config = SimpleNamespace(enable_unauthenticated_access=())
        self.events: list[str] = []
        self.fail_bootstrap = False
        self.token = ""
        self.start(seal)

    def start(self, seal: Seal) -> None:
        self.seal_settings = seal
        self.directory.mkdir(exist_ok=True)
        self.store = Store.open(self.directory, writable=True, durable=False)
        self.services = Services(
            settings=self.config,  # type: ignore[arg-type]
            state=NodeState(seal_type=seal.type),
            mounts=MountTable(),
            tokens=TokenStore(Limits()),
            policies=PolicyStore(),
            metrics=Metrics(),
            audit=Auditor(),
            engines=registry.ENGINES,
        )
        self.manager = SealManager(
            seal,
            on_keyring=self._on_keyring,
            on_sealed=self._on_sealed,
            on_progress=self._publish,
            bootstrap=self._bootstrap,
        )
        self.services.seal = self.manager
        self.pipeline = Pipeline(self.services)
        self._publish()

    def restart(self, seal: Seal | None = None) -> None:
        self.store.close()
        self.start(seal or self.seal_settings)

    # what the node does when told

    def _bootstrap(self, tx: Transaction, now_ms: int) -> str:
        tx.put(CLUSTER_KEY, msgspec.msgpack.encode(Cluster("c-id", "c-name")))
        self.services.mounts.bootstrap(tx)
        self.services.policies.bootstrap(tx, now_ms)
        token = self.services.tokens.bootstrap(tx, now_ms)
        if self.fail_bootstrap:
            raise RuntimeError("bootstrap failed at its last step")
        return token

    def _on_keyring(self, keyring: Keyring) -> None:
        self.events.append(f"keyring {keyring.active.term}")
        self.store.set_keyring(keyring)
        self._publish(sealed=False, cluster_name="c-name", cluster_id="c-id")

    def _on_sealed(self) -> None:
        self.events.append("sealed")
        self.store.set_keyring(None)
        self._publish(sealed=True, cluster_name="", cluster_id="")

    def _publish(self, **changes: Any) -> None:
        facts = self.see(self.manager.status)
        self.services.state = msgspec.structs.replace(self.services.state, **facts, **changes)

    # the store

    def see(self, work: Callable[[Snapshot], Any]) -> Any:
        with self.store.snapshot() as view:
            return work(view)

    def change(self, work: Callable[[Transaction], Any]) -> Any:
        """One commit, then its effects; an exception undoes it."""
        batch = self.store.batch(lambda: self.now_ms)
        try:
            tx = batch.transaction()
            result = work(tx)
            batch.accept(tx)
            batch.commit()
        except BaseException:
            batch.abort()
            raise
        for effect in tx.after_commit:
            effect()
        return result

    def put(self, value: bytes, name: bytes = ENTRY) -> None:
        self.change(lambda tx: tx.put(name, value))

    def get(self, name: bytes = ENTRY) -> bytes | None:
        found: bytes | None = self.see(lambda view: view.get(name))
        return found

    # requests

    def batch(self, *asked: Ask, commit: bool = True) -> list[Any]:
        """Requests of one commit: a Response or the error of each."""
        batch = self.store.batch(lambda: self.now_ms)
        answers, effects = [], list[Callable[[], None]]()
        for ask in asked:
            tx = batch.transaction()
            answers.append(self._execute(tx, ask))
            effects += tx.after_commit
            batch.accept(tx)
        if not commit:
            batch.abort()
            return answers
        batch.commit()
        for effect in effects:
            effect()
        return answers

    def _request(self, ask: Ask) -> Request:
        body = b"" if ask.body is None else msgspec.json.encode(ask.body)
        return Request("r", ask.operation, ask.path, ask.token, body)

    def _execute(self, tx: Transaction, ask: Ask) -> Response | UndercroftError:
        try:
            return self.pipeline.execute(self._request(ask), tx, self.now_ms)
        except UndercroftError as error:
            return error

    def ask(
        self, path: str, operation: Operation = Operation.UPDATE, token: str = "", **body: Any
    ) -> Any:
        """One request; its body as clients see it, or None for 204. Raises its error."""
        (answer,) = self.batch(Ask(path, body, operation, token))
        if isinstance(answer, UndercroftError):
            raise answer
        if answer.raw is not None:
            return msgspec.json.decode(answer.raw.body)
        return answer.data

    def ask_worker(self, path: str, token: str = "") -> str:
        """Where a worker's read ends: `answered`, or `forwarded` to the writer."""
        seal, self.services.seal = self.services.seal, None
        try:
            with self.store.snapshot() as view:
                request = self._request(Ask(path, None, Operation.READ, token))
                self.pipeline.run(self.pipeline.admit(request, view, self.now_ms, Facts()))
            return "answered"
        except ReadOnly:
            return "forwarded"
        finally:
            self.services.seal = seal

    # short forms

    def init(self, shares: int = 5, threshold: int = 3, **more: int) -> list[str]:
        """Initialise; answers the shares (or recovery shares) and keeps the root token."""
        counts = {"secret_shares": shares, "secret_threshold": threshold} if shares else {}
        body = self.ask("sys/init", **counts, **more)
        self.token = body["root_token"]
        return list(body.get("recovery_keys") or body["keys"])

    def unseal(self, *shares: str) -> Any:
        return [self.ask("sys/unseal", key=share) for share in shares][-1]

    def opened(self, shares: int = 5, threshold: int = 3) -> list[str]:
        made = self.init(shares, threshold)
        self.unseal(*made[:threshold])
        return made

    def auto_unseal(self) -> bool:
        """What the node does at start."""
        keyring = self.see(self.manager.auto_unseal)
        if keyring is None:
            return False
        self.manager.adopt(keyring)
        self.change(self.manager.rewrap)
        return True

    def read(self, path: str) -> Any:
        return self.ask(path, Operation.READ, self.token)

    def maintain(self) -> str:
        """One turn of the writer's housekeeping; the name of what it did."""
        work = self.see(lambda view: self.manager.maintain(view, self.now_ms))
        if work is None:
            return ""
        self.change(lambda tx: work(tx, self.now_ms))
        name: str = work.__name__
        return name
