"""The embedded runner: the same cycles over the embedded log, by whoever holds the home's lock."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from privacy_ledger.domain.errors import NotCaughtUp
from privacy_ledger.engine.aftermath import alarm, carry_out
from privacy_ledger.engine.cycle import Batch, PartitionCycle, Work
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.passes import Views
from privacy_ledger.ports.runtime import Clock

__all__ = ["EmbeddedPasses", "Lane", "Lock"]

ROWS_PER_CYCLE: Final = 2000
POLL_S: Final = 0.05


class Lock(Protocol):
    """Who runs the passes of a home."""

    def try_acquire(self) -> bool:
        """Return whether this process holds it now."""
        ...

    def release(self) -> None:
        """Free it; idempotent."""
        ...


class Lane:
    """One pass with a cycle per partition, opened when the lock is held."""

    def __init__(
        self,
        declaration: PassDeclaration,
        states: StateCodec,
        open_cycle: Callable[[int], PartitionCycle],
    ) -> None:
        """Take the declaration and how to open a partition's cycle."""
        self.declaration = declaration
        self.states = states
        self.open_cycle = open_cycle
        self.cycles: dict[int, PartitionCycle] = {}


class EmbeddedPasses:
    """`Passes` of a home: run here when the lock is free, else wait for its holder."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        log: EventLog,
        vault: KeyVault,
        views: Views,
        clock: Clock,
        lock: Lock,
    ) -> None:
        """Take the lanes; `on_acquire` may be set by the wiring (ticks)."""
        self._lanes = tuple(lanes)
        self._log = log
        self._vault = vault
        self._views = views
        self._clock = clock
        self._lock = lock
        self.on_acquire: Callable[[], Awaitable[object]] | None = None
        self._is_held = False

    async def settle(self, offsets: Mapping[int, int] | None = None, *, timeout_s: float = 30.0) -> None:
        """Return when every pass has passed these offsets; see `Passes.settle`."""
        goal = dict(offsets) if offsets is not None else await self._ends()
        last, since = -1, time.monotonic()
        while True:
            if await self.acquire():
                try:
                    await self.drain()
                finally:
                    if not self._is_held:
                        self.release()
                return
            done = await self._passed(goal)
            if done is None:
                return
            if done > last:
                last, since = done, time.monotonic()
            elif time.monotonic() - since > timeout_s:
                raise NotCaughtUp(
                    "Another process holds this home and its views did not move. What was "
                    "appended is safe; look again with `privacy-ledger doctor`."
                )
            await asyncio.sleep(POLL_S)

    async def hold(self) -> bool:
        """Take the lock for the life of this worker; return whether it was free."""
        self._is_held = await self.acquire()
        return self._is_held

    async def acquire(self) -> bool:
        """Take the lock if it is free, fence earlier owners and repeat what they left open."""
        if any(lane.cycles for lane in self._lanes):
            return True
        if not self._lock.try_acquire():
            return False
        try:
            await self._open_all()
        except BaseException:
            self.release()
            raise
        return True

    async def _open_all(self) -> None:
        """Open every cycle; half an acquisition must never look like a whole one."""
        for lane in self._lanes:
            for partition in range(self._log.partitions(lane.declaration.source)):
                await self._log.open_writer(self._writer(lane, partition))
                cycle = lane.open_cycle(partition)
                lane.cycles[partition] = cycle
                # What an earlier owner decided and may not have finished.
                await self._carry_out(lane, cycle, cycle.outstanding())
                await self._retake_parked(lane, partition, cycle)
        if self.on_acquire is not None:
            await self.on_acquire()

    def release(self) -> None:
        """Forget the cycles and free the lock."""
        for lane in self._lanes:
            lane.cycles.clear()
        self._is_held = False
        self._lock.release()

    async def drain(self) -> int:
        """Run every pass until no partition has anything left; return the records folded.

        A cycle over what is new and a slice of the work in hand take turns.
        """
        total, moved = 0, True
        while moved:
            moved = False
            for lane in self._lanes:
                for partition in sorted(lane.cycles):
                    count = await self._cycle(lane, partition)
                    total += count
                    is_served = await self._serve(lane, partition)
                    moved = moved or count > 0 or is_served
        return total

    async def _cycle(self, lane: Lane, partition: int) -> int:
        """Run one cycle; return how many rows it took."""
        cycle = lane.cycles[partition]
        source = lane.declaration.source
        rows = await self._log.read(source, partition, after=cycle.position.offset, limit=ROWS_PER_CYCLE)
        if not rows:
            return 0
        await self._commit(lane, partition, cycle, await cycle.run(rows, now=self._clock.now()))
        return len(rows)

    async def _serve(self, lane: Lane, partition: int) -> bool:
        """Serve a slice of the work in hand; return whether there was any."""
        cycle = lane.cycles[partition]
        batch = await cycle.serve(now=self._clock.now())
        if batch is not None:
            await self._commit(lane, partition, cycle, batch)
        return batch is not None

    async def _carry_out(self, lane: Lane, cycle: PartitionCycle, work: Work) -> None:
        await carry_out(
            work, cycle, declaration=lane.declaration, log=self._log, vault=self._vault,
            states=lane.states, now=self._clock.now(),
        )  # fmt: skip

    async def _retake_parked(self, lane: Lane, partition: int, cycle: PartitionCycle) -> None:
        """Take parked subjects up again: a repaired build may read what an older one could not."""
        parked = cycle.parked()
        if not parked:
            return
        batch = await cycle.retake(parked, now=self._clock.now())
        if batch is not None:
            await self._commit(lane, partition, cycle, batch)

    async def _commit(self, lane: Lane, partition: int, cycle: PartitionCycle, batch: Batch) -> None:
        """Make a batch durable, and do what it decided."""
        await self._log.append_atomically(batch.writes, writer=self._writer(lane, partition))
        cycle.settle(batch)
        alarm(batch, declaration=lane.declaration)
        await self._carry_out(lane, cycle, batch.work)

    def _writer(self, lane: Lane, partition: int) -> str:
        return f"{lane.declaration.name}.{partition}"

    async def _ends(self) -> dict[int, int]:
        """Return the last offset of each partition of the ledger."""
        source = self._lanes[0].declaration.source
        return {
            partition: await self._log.end(source, partition) - 1
            for partition in range(self._log.partitions(source))
        }

    async def _passed(self, goal: Mapping[int, int]) -> int | None:
        """Return None when every pass has passed the goal, else a figure that grows with progress."""
        total, is_done = 0, True
        for lane in self._lanes:
            for partition, offset in goal.items():
                position = await self._views.position(lane.declaration.name, partition)
                total += position.offset + position.slices
                is_done = is_done and position.has_passed(offset)
        return None if is_done else total
