"""The embedded runner: the same cycles over the embedded log, by whoever holds the home's lock."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, TypeVar

from privacy_ledger.domain.errors import Fenced, NotCaughtUp
from privacy_ledger.engine.batch import Batch
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.hints import Hints
from privacy_ledger.engine.means import Means
from privacy_ledger.engine.meter import PartitionMeter
from privacy_ledger.engine.pace import Pace
from privacy_ledger.engine.turns import fold_in_turn
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.observe import SILENT, Assigned, Meters, Revoked, Standing
from privacy_ledger.ports.passes import Views
from privacy_ledger.ports.runtime import Clock
from privacy_ledger.streams.roster import Claim

__all__ = ["EmbeddedPasses", "Lane", "Lanes", "Lock"]

T = TypeVar("T")
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
    """One pass with a cycle per partition, opened when the lock is held.

    `is_beside`: nobody reads what it folds yet. Such a lane never holds a command up: it gets one
    cycle per partition and turn, within its `rate` of records a second over all partitions.
    """

    def __init__(
        self,
        declaration: PassDeclaration,
        open_cycle: Callable[[int], PartitionCycle],
        means: Means,
    ) -> None:
        """Take the declaration, how to open a partition's cycle, and what it may write and do."""
        self.declaration = declaration
        self.open_cycle = open_cycle
        self.means = means
        self.cycles: dict[int, PartitionCycle] = {}
        self.meters: dict[int, PartitionMeter] = {}
        self.hints = Hints(means.log, declaration.name)
        self.is_beside = False
        self._paces: dict[int, Pace] = {}

    def pace(self, partition: int) -> Pace:
        """Return the pace of a partition."""
        return self._paces.setdefault(partition, Pace())

    def set_rate(self, rate: float | None, *, partitions: int) -> None:
        """Give each partition its share of the rate."""
        for partition in range(partitions):
            self.pace(partition).rate = None if rate is None else rate / partitions


class Lanes(Protocol):
    """The lanes that there are now."""

    async def current(self) -> tuple[Lane, ...]:
        """Return a lane per pass to run, the same one as long as its declaration stays."""
        ...

    async def required(self) -> tuple[str, ...]:
        """Return the names of the passes that readers wait for."""
        ...

    async def left(self, declaration: PassDeclaration) -> None:
        """Note that a lane was closed for good: keys made since its version was dropped die."""
        ...


class EmbeddedPasses:
    """`Passes` of a home: run here when the lock is free, else wait for its holder."""

    def __init__(
        self,
        lanes: Lanes,
        *,
        log: EventLog,
        source: str,
        views: Views,
        clock: Clock,
        lock: Lock,
        meters: Meters = SILENT,
    ) -> None:
        """Take the lanes over one source; `on_acquire` may be set by the wiring (ticks)."""
        self._line_up = lanes
        self._lanes: tuple[Lane, ...] = ()
        self._log = log
        self._source = source
        self._views = views
        self._clock = clock
        self._lock = lock
        self._meters = meters
        self.on_acquire: Callable[[], Awaitable[object]] | None = None
        self._is_open = False
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

    async def advance(self) -> bool:
        """Hold the lock if it is free and run the passes once; return whether this process does."""
        if not await self.hold():
            return False
        await self.drain()
        return True

    async def acquire(self) -> bool:
        """Take the lock if it is free, fence earlier owners and repeat what they left open."""
        if self._is_open:
            return True
        if not self._lock.try_acquire():
            return False
        try:
            await self._unfenced(self._reconcile)
            if self.on_acquire is not None:
                await self.on_acquire()
        except BaseException:
            self.release()
            raise
        self._is_open = True
        return True

    async def _reconcile(self) -> None:
        """Close lanes that are run no more, and open new ones."""
        wanted = await self._line_up.current()
        for lane in self._lanes:
            if lane not in wanted:
                self._close(lane)
                await self._line_up.left(lane.declaration)
        self._lanes = wanted
        partitions = tuple(range(self._log.partitions(self._source)))
        new = [lane for lane in wanted if not lane.cycles]
        for lane in new:
            name = lane.declaration.name
            lane.meters = {p: PartitionMeter(self._meters, pass_name=name, partition=p) for p in partitions}
            self._meters.note(Assigned(pass_name=name, partitions=partitions))
            await lane.hints.begin()
        stored = [{p: lane.open_cycle(p) for p in partitions} for lane in new]
        for cycle in (cycle for cycles in stored for cycle in cycles.values()):
            cycle.check_roll()  # A build that is refused in one place writes nothing in another.
        # All moves first: they fence the passes that something moved from.
        moved = [
            {p: await lane.means.mover.claims(p, cycle) for p, cycle in cycles.items()}
            for lane, cycles in zip(new, stored, strict=True)
        ]
        for lane, claims in zip(new, moved, strict=True):
            lane.cycles = await self._opened(lane, claims)

    async def _opened(
        self, lane: Lane, claims: Mapping[int, Mapping[str, Claim]]
    ) -> dict[int, PartitionCycle]:
        """Return an open cycle per partition; half a lane must never look like a whole one."""
        cycles: dict[int, PartitionCycle] = {}
        for partition in claims:
            await lane.means.log.open_writer(self._writer(lane, partition))
            cycle = lane.open_cycle(partition)
            enrolled = cycle.enrol(now=self._clock.now(), claims=claims[partition])
            if enrolled is not None:
                await self._commit(lane, partition, cycle, enrolled)
            # What an earlier owner decided and may not have finished.
            await lane.means.aftermath.carry_out(cycle.outstanding(), cycle)
            await self._retake_parked(lane, partition, cycle)
            lane.meters[partition].outstanding(cycle)
            lane.meters[partition].stands(Standing.RUNNING)
            cycles[partition] = cycle
        return cycles

    def _close(self, lane: Lane) -> None:
        if lane.cycles:
            self._meters.note(Revoked(pass_name=lane.declaration.name))
        lane.cycles = {}

    def begin_anew(self) -> None:
        """Keep the lock, and forget the cycles: the next drain opens them from what is durable.

        It then carries out what they had decided and not done.
        """
        for lane in self._lanes:
            lane.cycles = {}

    def release(self) -> None:
        """Forget the cycles and free the lock."""
        for lane in self._lanes:
            self._close(lane)
        self._lanes = ()
        self._is_open = False
        self._is_held = False
        self._lock.release()

    async def drain(self) -> int:
        """Run every pass that readers wait for to the end, the others a bit; return the records folded."""

        async def run() -> int:
            await self._reconcile()
            return await self._drain()

        return await self._unfenced(run)

    async def _unfenced(self, work: Callable[[], Awaitable[T]]) -> T:
        """Work, and begin again where a command fences us that drops a version, or brings one to speak.

        It fences whoever folds the version in one partition after the other, so at most so many times.
        What is still to be run is opened again, with what the registry says by then.
        """
        for _ in range(self._log.partitions(self._source)):
            try:
                return await work()
            except Fenced:
                self.begin_anew()
        return await work()

    async def _drain(self) -> int:
        for lane in self._lanes:
            for hint in await lane.hints.look():
                cycle = lane.cycles[hint.partition]
                batch = await cycle.redrive(hint.offset, now=self._clock.now())
                if batch is not None:
                    await self._commit(lane, hint.partition, cycle, batch)
        total, moved = 0, True
        while moved:
            moved = False
            for lane in (lane for lane in self._lanes if not lane.is_beside):
                count = await self._turn(lane)
                total += count
                moved = moved or count > 0
        for lane in (lane for lane in self._lanes if lane.is_beside):
            total += await self._turn(lane)
        return total

    async def _turn(self, lane: Lane) -> int:
        return sum([await self._cycle(lane, partition) for partition in sorted(lane.cycles)])

    async def _cycle(self, lane: Lane, partition: int) -> int:
        """Run one cycle; return how many rows it took, or 1 for slices of other work alone."""
        cycle, meter, pace = lane.cycles[partition], lane.meters[partition], lane.pace(partition)
        limit = pace.allowed(ROWS_PER_CYCLE)
        after = cycle.position.offset
        rows = await lane.means.log.read(self._source, partition, after=after, limit=limit) if limit else ()
        if not rows and not cycle.is_working:
            if limit:
                meter.lag(after, 0, now=self._clock.now())
            return 0

        async def commit(batch: Batch) -> bool:
            await self._commit(lane, partition, cycle, batch)
            return True

        await fold_in_turn(cycle, rows, clock=self._clock, commit=commit)
        if rows:
            pace.took(len(rows))
            behind = await self._log.end(self._source, partition) - rows[-1].offset - 1
            meter.lag(cycle.position.offset, behind, now=self._clock.now())
        meter.outstanding(cycle)
        return max(1, len(rows))

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
        await lane.meters[partition].commit(lane.means.log, batch)
        cycle.settle(batch)
        await lane.means.aftermath.carry_out(batch.work, cycle)

    def _writer(self, lane: Lane, partition: int) -> str:
        return f"{lane.declaration.name}.{partition}"

    async def _ends(self) -> dict[int, int]:
        """Return the last offset of each partition of the ledger."""
        return {
            partition: await self._log.end(self._source, partition) - 1
            for partition in range(self._log.partitions(self._source))
        }

    async def _passed(self, goal: Mapping[int, int]) -> int | None:
        """Return None when every pass that readers wait for has passed the goal, else a figure that grows."""
        total, is_done = 0, True
        for name in await self._line_up.required():
            for partition, offset in goal.items():
                position = await self._views.position(name, partition)
                total += position.offset + position.slices
                is_done = is_done and position.has_passed(offset)
        return None if is_done else total
