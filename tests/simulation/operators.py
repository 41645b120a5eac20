"""Operators who do the right things at the wrong moment; and in the end one who tidies up."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.cluster import Cluster
from undercroft.replication import moves
from undercroft.replication.role import BOOTSTRAPPING, DISABLED, PRIMARY, SECONDARY

if TYPE_CHECKING:
    from tests.simulation.world import World


class Operator:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.rng = world.rng

    def act(self, cluster: Cluster) -> None:
        """One call of the API."""
        mode = cluster.role.mode
        if mode == PRIMARY:
            self._at_primary(cluster)
        elif mode == SECONDARY:
            self._at_secondary(cluster)

    def _at_primary(self, cluster: Cluster) -> None:
        members = sorted(cluster.disk.members)
        say = self.world.say
        choice = self.rng.choices(
            ("rotate", "filter", "revoke", "demote", "overrule"), (4, 6, 1, 2, 2)
        )[0]
        if choice == "rotate":
            cluster.rotate()
        elif choice == "demote":
            say(f"{cluster}: demote")
            cluster.demote()
        elif choice == "overrule":
            fence = cluster.role.fence
            if fence is not None:
                say(f"{cluster}: revoke {fence.claimant}, by whom it is fenced")
                cluster.revoke(fence.claimant)
        elif members:
            member = self.rng.choice(members)
            if choice == "revoke":
                say(f"{cluster}: revoke {member}")
                cluster.revoke(member)
            else:
                mounts = self.world.mounts
                some = self.rng.sample(mounts, self.rng.randrange(len(mounts) + 1))
                withheld = frozenset(some) if some else None
                say(f"{cluster}: {member} is filtered: {len(some)} mounts")
                cluster.filter(member, withheld)

    def _at_secondary(self, cluster: Cluster) -> None:
        say = self.world.say
        choice = self.rng.choices(("promote", "force", "detach", "re-parent"), (4, 2, 1, 3))[0]
        if choice == "promote":
            cluster.promote(force=False)
        elif choice == "force":
            if not cluster.role.withheld:
                cluster.promote(force=True)
        elif choice == "detach":
            say(f"{cluster}: detach")
            cluster.follow(None)
        else:
            primaries = [c for c in self.world.clusters if c.role.mode == PRIMARY and c.up]
            if primaries:
                self.re_parent(cluster, self.rng.choice(primaries))

    def re_parent(self, cluster: Cluster, primary: Cluster) -> None:
        promotable = self.rng.random() < 0.9
        upstream = primary.secondary_token(self.world.new_id(cluster), promotable=promotable)
        if upstream is not None:
            self.world.say(f"{cluster}: update-primary to {primary} as {upstream.secondary_id}")
            cluster.follow(upstream)

    # the end

    def tidy_up(self, run_on: Callable[[int], object]) -> Cluster:
        """One primary, and everybody else under it."""
        winner = self._winner(run_on)
        self.world.say(f"the primary is to be {winner}")
        for cluster in self.world.clusters:
            if cluster is not winner and cluster.role.mode == PRIMARY:
                cluster.demote()
        run_on(20)
        for cluster in self.world.clusters:
            if cluster is winner:
                continue
            if cluster.role.mode in (BOOTSTRAPPING, DISABLED):
                self._copy_anew(cluster, winner)
            elif not self._is_under(cluster, winner) or self.rng.random() < 0.2:
                self.re_parent(cluster, winner)
        run_on(20)
        return winner

    def _winner(self, run_on: Callable[[int], object]) -> Cluster:
        clusters = self.world.clusters

        def greatest(some: list[Cluster]) -> Cluster:
            return max(some, key=lambda c: (c.disk.lineage().rank, c.disk.shared.seq))

        writing = [c for c in clusters if moves.refusal(c.role) is None and c.role.mode == PRIMARY]
        if writing:
            return greatest(writing)
        stopped = [c for c in clusters if c.role.mode == PRIMARY]
        if stopped:
            chosen = greatest(stopped)
            fence, handover = chosen.role.fence, chosen.role.handover
            chosen.revoke(fence.claimant if fence else handover.secondary_id)
        else:
            chosen = greatest([c for c in clusters if c.role.mode == SECONDARY])
            chosen.promote(force=True)
        run_on(20)
        assert moves.refusal(chosen.role) is None, f"{chosen} does not become primary"
        return chosen

    def _is_under(self, cluster: Cluster, winner: Cluster) -> bool:
        upstream = cluster.role.upstream
        return (
            upstream is not None
            and upstream.addresses == (winner.name,)
            and upstream.secondary_id in winner.disk.members
            and not cluster.idle
        )

    def _copy_anew(self, cluster: Cluster, winner: Cluster) -> None:
        if self._is_under(cluster, winner):
            return
        upstream = winner.secondary_token(self.world.new_id(cluster))
        assert upstream is not None
        cluster.hang_up("another primary")
        cluster.begin_copy(upstream, winner.role.set_id)
