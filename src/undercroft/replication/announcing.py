"""Telling old primaries that their epoch is over, until they have heard it.

A promoted cluster, and every member that went over to it, does so: the old primary, whenever it
comes back, is fenced by whoever reaches it first.
"""

import asyncio
from typing import Final

from undercroft.observe.logs import get_logger
from undercroft.replication import changes
from undercroft.replication.following import dial
from undercroft.replication.lineage import Lineage
from undercroft.replication.link import SessionLink
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.secondary import SecondarySession
from undercroft.replication.role import Announcement
from undercroft.replication.serving import Node

log = get_logger("replication")

_RETRY_SECONDS: Final = 1.0
_REFUSED_RETRY_SECONDS: Final = 30.0


class Announcing:
    """One old primary. It is `secondary.Host` for the short sessions that bring the claim."""

    def __init__(self, node: Node, announcement: Announcement, claim: bytes) -> None:
        self._node = node
        self.announcement = announcement
        self._claim = claim
        self._session: SecondarySession | None = None
        self._reason = ""
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            for address in self.announcement.addresses:
                told = await self._tell(address)
                if told is None:
                    continue
                if told.accepted:
                    log.info("the old primary knows that its epoch is over", address=address)
                    self._node.link.commit(changes.Announced(address), lambda done: None)
                    return
                if told.reason != self._reason:
                    self._reason = told.reason
                    log.warn("the old primary refused our claim", reason=told.reason)
                await asyncio.sleep(_REFUSED_RETRY_SECONDS)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _tell(self, address: str) -> frames.Announced | None:
        """None: it was not reached."""
        answered: asyncio.Future[frames.Announced | None] = (
            asyncio.get_running_loop().create_future()
        )

        def finish(told: frames.Announced | None) -> None:
            if not answered.done():
                answered.set_result(told)

        def make(link: SessionLink) -> SecondarySession:
            self._session = SecondarySession(
                self._node.state, self, self._node.clock, intent=frames.CLAIM
            )
            self._session.announce(self._claim, finish)
            return self._session

        try:
            link = await dial(
                address,
                self.announcement.credentials,
                self._node.role.set_id,
                make,
                lambda link: finish(None),
            )
        except (OSError, TimeoutError):
            return None
        try:
            return await asyncio.wait_for(answered, 10.0)
        except TimeoutError:
            return None
        finally:
            link.close()

    def stop(self) -> None:
        self._task.cancel()

    # secondary.Host

    def cluster_id(self) -> str:
        return self._node.services.state.cluster_id

    def cluster_addr(self) -> str:
        return self._node.services.state.cluster_addr

    def api_addr(self) -> str:
        return self._node.services.state.api_addr

    def local_mounts(self) -> tuple[str, ...]:
        return ()

    def is_partial(self) -> bool:
        return False

    def welcomed(self) -> None: ...

    def learned(self, lineage: Lineage, addresses: tuple[str, ...], api_addr: str) -> None: ...

    def newer_epoch(self, rank: tuple[int, bytes]) -> None: ...

    def copied(self) -> None: ...

    def certified(self, certificate: bytes, authority: bytes) -> None: ...

    def claimed(self, claim: bytes) -> None: ...
