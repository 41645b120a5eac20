"""What really happened, seen from outside; and the invariants, by name.

The oracle knows every record that any cluster ever committed, by its chain, which names one history
only. So it can tell what a position stands for, and which writes a history has.
"""

from typing import TYPE_CHECKING, NamedTuple

from undercroft.replication.lineage import Lineage
from undercroft.storage.wal import START, WITHHELD, Position, SharedRecord, operations_of

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster


class Violation(AssertionError):
    """An invariant does not hold."""


class Known(NamedTuple):
    """A record of some history: the chain before it, and the root of the state behind it.

    No root behind the promotion of a cluster in the middle of a comparison: who forces that makes a
    state that no log tells.
    """

    record: SharedRecord
    before: bytes
    root: bytes
    writer: str


class Oracle:
    def __init__(self) -> None:
        self.known: dict[bytes, Known] = {}
        self.writers: dict[tuple[int, bytes], str] = {}
        self.closed: dict[tuple[int, bytes], str] = {}  # epochs ended by a switchover
        self.acknowledged: set[bytes] = set()
        self.vague = False  # some state is one that no log tells: see Known
        self.calls: set[int] = set()  # forwards that ran

    def wrote(
        self, cluster: "Cluster", lineage: Lineage, before: Position, record: SharedRecord
    ) -> None:
        rank = lineage.rank
        writer = self.writers.setdefault(rank, cluster.name)
        if writer != cluster.name:
            raise Violation(f"ONE-WRITER: {cluster.name} and {writer} write in epoch {rank[0]}")
        if rank in self.closed:
            raise Violation(f"SWITCHOVER: {cluster.name} writes in an epoch it handed over")
        if lineage.current.number != record.epoch:
            raise Violation(f"EPOCH: {cluster.name} writes {record.epoch} in {rank[0]}")
        earlier = self.known.get(before.chain)
        vague = cluster.disk.role.comparing or (earlier is not None and not earlier.root)
        self.vague |= vague
        root = b"" if vague else cluster.disk.tree.root(b"s")
        self.known[record.chain] = Known(record, before.chain, root, cluster.name)

    def ran(self, call: int) -> None:
        if call in self.calls:
            raise Violation("FORWARD-ONCE: a forwarded call ran twice")
        self.calls.add(call)

    def history(self, position: Position) -> set[bytes]:
        """Chains of all records up to a position."""
        found: set[bytes] = set()
        chain = position.chain
        while chain != START.chain:
            known = self.known.get(chain)
            if known is None:
                raise Violation("HISTORY: a position that nobody ever wrote")
            found.add(chain)
            chain = known.before
        return found

    def check_root(self, cluster: "Cluster") -> None:
        """STATE-OF-POSITION: an unfiltered member that follows has the state of its position."""
        position = cluster.disk.shared
        known = self.known.get(position.chain)
        if known is not None and known.root and cluster.disk.tree.root(b"s") != known.root:
            raise Violation(f"STATE-OF-POSITION: {cluster.name} at {position.seq} differs")

    def check_quarantine(self, cluster: "Cluster") -> None:
        """QUARANTINE-WHOLE: what a cluster had and its history has not any more is set aside."""
        disk = cluster.disk
        history = self.history(disk.shared)
        for chain, position in disk.held.items():
            if chain in history or position.seq <= disk.unheld:
                continue
            record = disk.records_held[chain]
            for index, (kind, *_) in enumerate(operations_of(record.body)):
                if kind == WITHHELD or disk.was_set_aside(record, index):
                    continue
                raise Violation(
                    f"QUARANTINE-WHOLE: {cluster.name} dropped "
                    f"{position.epoch}/{position.seq} in silence"
                )

    def check_nothing_lost(self, primary: "Cluster", clusters: list["Cluster"]) -> None:
        """ACK-KEPT: every acknowledged write is in the history that won, or set aside."""
        history = self.history(primary.disk.shared)
        for chain in self.acknowledged - history:
            record = self.known[chain].record
            if any(record.seq <= cluster.disk.unheld for cluster in clusters):
                continue  # it was older than the log that is kept
            for index, _ in enumerate(operations_of(record.body)):
                if not any(cluster.disk.was_set_aside(record, index) for cluster in clusters):
                    raise Violation(f"ACK-KEPT: {record.epoch}/{record.seq} is lost")
