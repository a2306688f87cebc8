"""The engine on Kafka: one pass in one worker process.

Nothing slow happens while the group is divided. Each assigned partition is acquired by a task:
fence the predecessor, restore, check the ledger, seek, resume. Polled rows run through the same
cycle as everywhere, one transaction each; the store follows the commit.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Final, Protocol

from privacy_ledger.domain.errors import BuildRefused, LedgerError, LogUnavailable, StoreFull, StoreUnfit
from privacy_ledger.engine.batch import Batch
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.entrance import Entrance
from privacy_ledger.engine.hints import Hints
from privacy_ledger.engine.means import Means
from privacy_ledger.engine.meter import PartitionMeter
from privacy_ledger.engine.outcomes import STOPPED_RETRY_S, Outcome, Outcomes, reason_of
from privacy_ledger.engine.pace import Pace
from privacy_ledger.engine.progress import RestoreProgress, Restoring
from privacy_ledger.engine.soundness import Place
from privacy_ledger.engine.standby import Following, Standby
from privacy_ledger.engine.stores import Stores
from privacy_ledger.engine.turns import fold_rows, go_on, redrive
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.hints import Redrive
from privacy_ledger.ports.log import Row
from privacy_ledger.ports.observe import SILENT, Assigned, Followed, Meters, Revoked, Standing
from privacy_ledger.ports.observe import Restoring as Restored
from privacy_ledger.ports.runtime import Clock, Ids, StateStore, StoreFolder
from privacy_ledger.ports.transport import OutOfRange, Share, Source, Tail

__all__ = ["KafkaEngine", "Wiring"]

COMMIT_S: Final = 0.1
COMMIT_S_PER_PARTITION: Final = 0.005
ROWS_PER_POLL: Final = 8000
ACQUIRING_AT_ONCE: Final = 8
NOTE_PROGRESS_S: Final = 10.0
LAG_COMMIT_S: Final = 5.0
LAG_NOTE_S: Final = 1.0
POLL_FAILURES_S: Final = 60.0
"""A worker that cannot read for so long ends, and says why: a new one joins from the beginning."""
RETRY_S: Final = 1.0
FENCED_RETRY_S: Final = 3.0

log_line = get_logger()


class Wiring(Protocol):
    """How the engine opens what it owns per partition."""

    @property
    def folder(self) -> StoreFolder:
        """Where this worker keeps its stores; one owner per process."""
        ...

    def open_cycle(self, partition: int, store: StateStore) -> PartitionCycle:
        """Open a cycle over a restored store."""
        ...

    def source(self) -> Source:
        """Return the pass's source, as an unjoined member of its group."""
        ...

    def tail(self) -> Tail:
        """Return an unused reader of the pass's changelogs."""
        ...

    async def confirm(self) -> None:
        """Return when the pass is still to be run as declared; asked once its writer is open.

        Raises:
            Fenced: a version that it folds was dropped meanwhile.
        """
        ...

    @property
    def changelogs(self) -> Mapping[str, bytes]:
        """The pass's changelog topics, and the table code that their keys lack."""
        ...


class _Owned:
    """One assigned partition."""

    def __init__(self, lock: asyncio.Lock, progress: RestoreProgress) -> None:
        self.lock = lock
        self.progress = progress
        self.cycle: PartitionCycle | None = None
        self.is_running = False
        self.noted_at = 0.0
        self.has_residue = False


class KafkaEngine:
    """One pass of one worker; `run` returns after `stop`."""

    def __init__(
        self,
        declaration: PassDeclaration,
        wiring: Wiring,
        means: Means,
        *,
        clock: Clock,
        ids: Ids,
        meters: Meters = SILENT,
    ) -> None:
        """Take the collaborators."""
        self._meters = meters
        self._meter_of: dict[int, PartitionMeter] = {}
        self.pace = Pace()
        self.declaration = declaration
        self._wiring = wiring
        self._clock = clock
        self._source = wiring.source()
        changelogs = dict(wiring.changelogs)
        self._outcomes = Outcomes(declaration.name)
        self._stores = Stores(
            wiring.folder, clock=clock, report=self._outcomes.mended,
            place=lambda partition: Place(
                pass_name=declaration.name, partition=partition, changelogs=changelogs,
                source=declaration.source,
            ),
        )  # fmt: skip
        self._entrance = Entrance(
            declaration, means, clock=clock, ids=ids, stores=self._stores, meter=self._meter,
            confirm=wiring.confirm,
        )  # fmt: skip
        self._standby = Standby(
            wiring.tail(), self._stores, pass_name=declaration.name, changelogs=changelogs
        )
        self._hints = Hints(means.log, declaration.name, every_s=COMMIT_S * 10)
        self._owned: dict[int, _Owned] = {}
        self._share = Share()
        self._generation = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeps: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(ACQUIRING_AT_ONCE)
        self._stopping = asyncio.Event()
        self._failing_since: float | None = None
        self._refusal: BuildRefused | None = None
        self._lag_at = self._seen_at = self._slice_s = 0.0
        self._lag: asyncio.Task[None] | None = None
        self.on_acquired: Callable[[int], None] | None = None

    # Life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Join the group and fold until `stop`; then leave cleanly.

        Raises:
            Fenced: another worker runs under the identity of this one.
            BuildRefused: this build must not run the pass; a worker of another build may.
        """
        following = asyncio.create_task(self._standby.run())
        try:
            await self._hints.begin()
            await self._source.join(self)
            while not self._stopping.is_set():
                await self._poll_patiently()
        finally:
            self._standby.stop()
            tasks = [*self._tasks, *([self._lag] if self._lag is not None else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(
                *tasks, *self._sweeps, following, self._hints.close(), return_exceptions=True
            )
            self._stores.close()
            await self._leave()
        if self._refusal is not None:
            raise self._refusal

    async def _leave(self) -> None:
        """Leave the group; where it cannot be reached, it will notice."""
        try:
            await self._source.leave()
        except LogUnavailable as error:
            log_line.info("group not left", pass_name=self.declaration.name, reason=str(error))

    def stop(self) -> None:
        """Finish the cycle in hand and end `run`."""
        self._stopping.set()

    @property
    def is_ready(self) -> bool:
        """Whether this worker has its share, and every partition of it is restored and folding."""
        return self._share.round > 0 and all(owned.is_running for owned in self._owned.values())

    @property
    def is_registrar(self) -> bool:
        """Whether this worker owns partition 0 of the core pass, and so writes the ticks."""
        return self.declaration.writes_tombstones and 0 in self.running

    @property
    def running(self) -> tuple[int, ...]:
        """The partitions that fold now, ascending."""
        return tuple(sorted(p for p, owned in self._owned.items() if owned.is_running))

    @property
    def restoring(self) -> dict[int, Restoring]:
        """How far each assigned partition is that does not fold yet."""
        return {p: owned.progress.now() for p, owned in sorted(self._owned.items()) if not owned.is_running}

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """What last went wrong in each partition, by name, and whether it is over."""
        return self._outcomes.last

    @property
    def following(self) -> dict[int, Following]:
        """How far each partition is that this worker follows for its owner."""
        return self._standby.following

    # Rebalance: nothing slow, nothing that raises ---------------------------------------------

    def warm(self) -> tuple[int, ...]:
        """Return the partitions of which this worker has a store."""
        return self._stores.kept()

    def assigned(self, share: Share) -> None:
        """Start to acquire what is owned, and follow what is not; the rest is of no use here."""
        self._generation += 1
        self._share = share
        self._standby.follow(share.followed)
        log_line.info("share given", pass_name=self.declaration.name, count=len(share.owned))
        self._meter_of.clear()
        self._meters.note(Assigned(pass_name=self.declaration.name, partitions=share.owned))
        for partition in share.owned:
            progress = RestoreProgress(self.declaration.name, partition)
            self._owned[partition] = _Owned(self._stores.lock(partition), progress)
            self._acquire_later(partition, delay_s=0)
        # Not among the tasks that a rebalance cancels: half a removal must not meet a take-over.
        generation, needed = self._generation, {*share.owned, *share.followed}
        sweeping = asyncio.create_task(
            self._stores.sweep(lambda p: p in needed or generation != self._generation)
        )
        self._sweeps.add(sweeping)
        sweeping.add_done_callback(self._sweeps.discard)

    def revoked(self) -> None:
        """Stop folding everywhere; stores stay open as doubtful until they are restored again."""
        self._generation += 1
        for owned in self._owned.values():
            owned.is_running = False
        self._owned = {}
        self._share = Share()
        self._meters.note(Revoked(pass_name=self.declaration.name))
        for task in self._tasks:
            task.cancel()

    def _acquire_later(self, partition: int, *, delay_s: float) -> None:
        self._spawn(self._acquire(partition, self._generation, delay_s=delay_s))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Acquisition ------------------------------------------------------------------------------

    async def _acquire(self, partition: int, generation: int, *, delay_s: float) -> None:
        """Take a partition over; on failure try again while it is ours."""
        await asyncio.sleep(delay_s)
        try:
            async with self._slots:
                await self._take_over(partition, generation)
        except Exception as error:  # noqa: BLE001 - a task's outermost frame: nothing may stay paused unseen
            delay_s = self._report(partition, error)
            if generation == self._generation and not self._stopping.is_set():
                self._owned[partition].progress.failed(reason_of(error))
                self._acquire_later(partition, delay_s=delay_s)

    async def _take_over(self, partition: int, generation: int) -> None:
        owned = self._owned.get(partition)
        if owned is None or generation != self._generation:
            return
        async with owned.lock:
            started = time.monotonic()
            cycle, records = await self._entrance.enter(
                partition, self._wiring.open_cycle, progress=owned.progress, report=self._outcomes.mended
            )
            if generation != self._generation:
                return
            owned.cycle = cycle
            self._source.resume(partition, offset=cycle.position.offset + 1)
            owned.is_running = True
            self._outcomes.over(partition)
            self._meter(partition).stands(Standing.RUNNING)
            log_line.info(
                "partition running", **self._where(partition), records=records,
                offset=cycle.position.offset,
                duration_ms=round((time.monotonic() - started) * 1000),
            )  # fmt: skip
        if self.on_acquired is not None:
            self.on_acquired(partition)

    # Folding ----------------------------------------------------------------------------------

    async def _poll_patiently(self) -> None:
        """Poll; what the cluster refuses is asked for again, for a while."""
        try:
            await self._poll()
            self._failing_since = None
        except OutOfRange as error:
            # The ledger does not reach where it is read: entering again tells what that means.
            for partition in {partition for _, partition in error.places} & self._owned.keys():
                self._drop(partition, self._owned[partition], delay_s=0)
        except LogUnavailable as error:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            if now - self._failing_since > POLL_FAILURES_S:
                raise
            log_line.warning("poll failed", pass_name=self.declaration.name, reason=str(error))
            await asyncio.sleep(RETRY_S)

    async def _poll(self) -> None:
        """Take one poll's rows through one cycle per partition, then go on with other work for a while."""
        started = time.monotonic()
        # Between slices is a pause as long as they took: the broker, too, works for others meanwhile.
        timeout_s = min(COMMIT_S, self._slice_s) if self._working() else COMMIT_S
        fetched = await self._source.poll(timeout_s=timeout_s, limit=self.pace.most(ROWS_PER_POLL))
        if fetched:
            await asyncio.gather(*(self._fold(partition, rows) for partition, rows in fetched.items()))
        await self._tend()
        for hint in self._hints.due():
            await self._fold(hint.partition, hint)
        count = sum(map(len, fetched.values()))
        await self.pace.rest(count, until=self._stopping)
        if working := self._working():
            # Rows have brought a slice along, if none of a join. What comes meanwhile waits for one at most.
            left = [p for p, cycle in working.items() if p not in fetched or cycle.roll.seats.is_moving]
            begun = time.monotonic()
            await asyncio.gather(*(self._fold(partition, None) for partition in left))
            self._slice_s = time.monotonic() - begun if left else self._slice_s
            return
        is_behind = count >= ROWS_PER_POLL // 2
        until = started + (0 if is_behind else max(COMMIT_S, COMMIT_S_PER_PARTITION * len(self._owned)))
        rest = until - time.monotonic()
        if rest > 0 and fetched:
            await asyncio.sleep(rest)

    def _working(self) -> dict[int, PartitionCycle]:
        """Return the partitions in which there is work beside new rows."""
        found = ((partition, owned.cycle) for partition, owned in self._owned.items() if owned.is_running)
        return {partition: cycle for partition, cycle in found if cycle is not None and cycle.is_working}

    async def _fold(self, partition: int, rows: Sequence[Row] | Redrive | None) -> None:
        """Run one cycle over rows, over slices of the work beside them, or for a hint; and its transactions.

        On trouble the partition is acquired again.
        """
        owned = self._owned.get(partition)
        if owned is None:
            return
        generation = self._generation
        async with owned.lock:
            cycle = owned.cycle
            if cycle is None or not owned.is_running or generation != self._generation:
                return
            try:
                await self._commit(owned, cycle, partition, rows)
            except Exception as error:  # noqa: BLE001 - a partition's outermost frame: the others go on
                self._drop(partition, owned, delay_s=self._report(partition, error))

    async def _commit(
        self, owned: _Owned, cycle: PartitionCycle, partition: int, rows: Sequence[Row] | Redrive | None
    ) -> None:
        async def commit(batch: Batch) -> bool:
            if owned.cycle is not cycle or self._owned.get(partition) is not owned:
                return False
            await self._entrance.write(cycle, partition, batch)
            if batch.parked:
                log_line.warning(
                    "records set aside", **self._where(partition), count=batch.parked,
                    offset=batch.position.offset, reason=", ".join(batch.reasons),
                )  # fmt: skip

            # A deleted value stays in the store's files until they are rewritten: at the next tick.
            owned.has_residue = owned.has_residue or any(None in values for values in batch.sealed)
            # And what lies in memory only would make an old store of one that is read after a crash.
            if batch.is_tick:
                store = self._stores.open(partition)
                await asyncio.to_thread(store.compact if owned.has_residue else store.flush)
                owned.has_residue = False
            return True

        if isinstance(rows, Redrive):
            await redrive(cycle, rows, clock=self._clock, commit=commit)
        elif rows is None:
            await go_on(cycle, clock=self._clock, commit=commit)
        else:
            await fold_rows(cycle, rows, clock=self._clock, commit=commit)

    def _drop(self, partition: int, owned: _Owned, *, delay_s: float) -> None:
        """Stop folding a partition and acquire it again later, from its own position."""
        owned.is_running = False
        owned.cycle = None
        if self._owned.get(partition) is owned:
            owned.progress = RestoreProgress(self.declaration.name, partition)
            self._source.pause(partition)
            self._acquire_later(partition, delay_s=delay_s)

    async def _tend(self) -> None:
        """Now and then: note changelog progress, and commit offsets as a lag figure."""
        now = time.monotonic()
        offsets: dict[int, int] = {}
        if is_due := now - self._seen_at > LAG_NOTE_S:
            self._seen_at = now
        for partition, owned in list(self._owned.items()):
            if is_due:
                await self._let_see(partition, owned)
            if not owned.is_running or owned.cycle is None:
                continue
            offsets[partition] = owned.cycle.position.offset + 1
            if now - owned.noted_at > NOTE_PROGRESS_S:
                owned.noted_at = now
                self._meter(partition).outstanding(owned.cycle)
                async with owned.lock:
                    if owned.is_running:
                        await self._note(partition, owned, owned.cycle)
        for partition, seen in self.following.items() if is_due else ():
            if seen.left is not None:
                self._meters.note(
                    Followed(pass_name=self.declaration.name, partition=partition, left=seen.left)
                )
        if self._lag is not None and self._lag.done():
            task, self._lag = self._lag, None
            task.result()  # Fenced: this worker is not the one that it takes itself for
        if offsets and self._lag is None and now - self._lag_at > LAG_COMMIT_S:
            # A task: folding does not wait for the group's coordinator.
            self._lag_at = now
            self._lag = asyncio.create_task(self._commit_lag(offsets))

    async def _let_see(self, partition: int, owned: _Owned) -> None:
        """Note how far a partition is: its lag where it folds, its restore where it does not yet."""
        meter, cycle = self._meter(partition), owned.cycle
        if cycle is None or not owned.is_running:
            seen = owned.progress.now()
            if seen.eta_s is not None and seen.left:
                self._meters.note(
                    Restored(
                        pass_name=self.declaration.name, partition=partition, records=seen.records,
                        rate=seen.rate, eta_s=seen.eta_s,
                    )
                )  # fmt: skip
            return
        behind = await self._source.behind(partition)
        if behind is not None:
            meter.lag(cycle.position.offset, behind, now=self._clock.now())

    def _meter(self, partition: int) -> PartitionMeter:
        meter = self._meter_of.get(partition)
        if meter is None:
            meter = PartitionMeter(self._meters, pass_name=self.declaration.name, partition=partition)
            self._meter_of[partition] = meter
        return meter

    async def _commit_lag(self, offsets: Mapping[int, int]) -> None:
        try:
            await self._source.commit_lag(offsets)
        except LogUnavailable as error:
            log_line.info("lag not committed", pass_name=self.declaration.name, reason=str(error))

    async def _note(self, partition: int, owned: _Owned, cycle: PartitionCycle) -> None:
        try:
            await self._entrance.note(cycle, partition)
        except LedgerError as error:
            # The writer has ended: whoever owns the partition now, it is acquired before it folds.
            self._drop(partition, owned, delay_s=self._report(partition, error))

    # Words --------------------------------------------------------------------------------------

    def _report(self, partition: int, error: Exception) -> float:
        """Say what went wrong, without frames, which may hold values; return when to try again."""
        match error:
            case BuildRefused():
                self._refusal = error
                self.stop()
            case StoreFull():
                self._stores.close_one(partition)  # the database would stay stuck
            case StoreUnfit():
                self._stores.condemn(partition)
            case _:
                pass
        delay_s = self._outcomes.stopped(partition, error)
        standing = Standing.STOPPED if delay_s >= STOPPED_RETRY_S else Standing.WAITING
        self._meter(partition).stands(standing, error)
        return delay_s

    def _where(self, partition: int) -> dict[str, object]:
        return {"pass_name": self.declaration.name, "partition": partition}
