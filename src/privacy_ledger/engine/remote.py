"""`Passes` of a cluster: workers run them; commands watch their positions."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final

from privacy_ledger.domain.errors import NotCaughtUp
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.line_up import LineUp
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.passes import Views

__all__ = ["RemotePasses"]

POLL_FIRST_S: Final = 0.01
"""An erasure waits here until its request is folded: looked often at first, then ever less."""
POLL_MAX_S: Final = 0.1

UntilReadable = Callable[[Collection[tuple[str, int]], float], Awaitable[bool]]
"""Waits at most so many seconds for the transactions that are open in these places (topic, partition)."""


class RemotePasses:
    """Waits for the workers of every pass that readers wait for."""

    def __init__(
        self,
        log: EventLog,
        views: Views,
        line_up: LineUp,
        *,
        source: str,
        written: Callable[[PassDeclaration], Iterable[str]],
        until_readable: UntilReadable,
    ) -> None:
        """Take the log, the views, and the passes over one source that run somewhere.

        `written`: the topics that a pass keeps its state in. `until_readable`: the log's own wait.
        """
        self._log = log
        self._views = views
        self._line_up = line_up
        self._source = source
        self._written = written
        self._until_readable = until_readable

    async def settle(self, offsets: Mapping[int, int] | None = None, *, timeout_s: float = 30.0) -> None:
        """Return when every pass has passed these offsets; see `Passes.settle`.

        A position may stand below an offset that holds no record for a reader (a transaction's
        marker), so with `offsets` None the newest record of each partition is the goal.

        A transaction becomes readable partition by partition. So what is committed and not readable
        yet is waited for: in the source, where the goal is the end as of now, and in what the passes
        keep, whose position may be readable before the views that were written with it.
        """
        source = self._source
        if offsets is None:
            partitions = range(self._log.partitions(source))
            await self._readable([(source, partition) for partition in partitions], timeout_s)
            offsets = {}
            for partition in partitions:
                newest = await self._newest(source, partition)
                if newest >= 0:
                    offsets[partition] = newest
        pending = {
            (name, partition): offset
            for name in await self._line_up.required()
            for partition, offset in offsets.items()
        }
        total, since, pause_s = -1, time.monotonic(), POLL_FIRST_S
        while pending:
            reached = 0
            for (name, partition), offset in list(pending.items()):
                position = await self._views.position(name, partition)
                reached += position.offset + position.slices
                if position.has_passed(offset):
                    del pending[name, partition]
            if not pending:
                break
            if reached > total:
                total, since = reached, time.monotonic()
            elif time.monotonic() - since > timeout_s:
                raise NotCaughtUp(
                    "The workers did not pass what was appended; it is safe. Start a worker with "
                    "`privacy-ledger worker run`, then look again."
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, POLL_MAX_S)
        await self._readable(await self._kept_in(offsets), timeout_s)

    async def _kept_in(self, partitions: Iterable[int]) -> list[tuple[str, int]]:
        """Return the places in which the passes keep what they know of these partitions."""
        current = await self._line_up.current()
        topics = {topic for name in await self._line_up.required() for topic in self._written(current[name])}
        return [(topic, partition) for topic in sorted(topics) for partition in partitions]

    async def _readable(self, places: Collection[tuple[str, int]], timeout_s: float) -> None:
        """Wait until what is written in these places until now is readable, or never will be."""
        if places and not await self._until_readable(places, timeout_s):
            raise NotCaughtUp(
                "What was written is not readable yet; it is safe. See `privacy-ledger doctor`, then look "
                "again."
            )

    async def advance(self) -> bool:
        """Return False: workers run the passes."""
        return False

    async def _newest(self, source: str, partition: int) -> int:
        """Return the offset of the newest record that a reader sees, or -1."""
        end = await self._log.end(source, partition)
        step, after = 16, end - 17
        while True:
            rows = await self._log.read(source, partition, after=max(-1, after), limit=5000)
            newest = rows[-1].offset if rows else -1
            while rows and rows[-1].offset + 1 < end:
                rows = await self._log.read(source, partition, after=newest, limit=5000)
                newest = rows[-1].offset if rows else newest
            if newest >= 0 or after < 0:
                return newest
            step *= 8
            after = end - 1 - step
