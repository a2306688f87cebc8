"""The engine on Kafka: one pass in one worker process.

The assignment listener does nothing slow. Each assigned partition is acquired by a task: fence
the predecessor, restore, check the ledger, seek, resume. Polled rows run through the same cycle
as everywhere, one transaction each; the store follows the commit.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from privacy_ledger.domain.errors import Fenced, LedgerError, LedgerRewound, UnknownKey
from privacy_ledger.engine.aftermath import carry_out
from privacy_ledger.engine.cycle import ControlUnreadable, PartitionCycle, Work
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.handover import (
    FencedLog,
    check_not_rewound,
    note_progress,
    restore,
)
from privacy_ledger.engine.meter import PartitionMeter
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import Row
from privacy_ledger.ports.observe import SILENT, Assigned, Meters, Revoked, Standing
from privacy_ledger.ports.runtime import Clock, StateStore

__all__ = ["KafkaEngine", "Wiring"]

COMMIT_S: Final = 0.1
COMMIT_S_PER_PARTITION: Final = 0.005
ROWS_PER_POLL: Final = 8000
ACQUIRING_AT_ONCE: Final = 8
NOTE_PROGRESS_S: Final = 10.0
LAG_COMMIT_S: Final = 5.0
LAG_NOTE_S: Final = 1.0
RETRY_S: Final = 1.0
FENCED_RETRY_S: Final = 3.0
STOPPED_RETRY_S: Final = 30.0

log_line = get_logger()


class Wiring(Protocol):
    """How the engine opens what it owns per partition."""

    def open_store(self, partition: int) -> StateStore:
        """Open the partition's store; one owner per process."""
        ...

    def open_cycle(self, partition: int, store: StateStore) -> PartitionCycle:
        """Open a cycle over a restored store."""
        ...

    def consumer(self) -> AIOKafkaConsumer:
        """Return an unstarted consumer of the pass's group."""
        ...

    @property
    def changelogs(self) -> Mapping[str, bytes]:
        """The pass's changelog topics, and the table code that their keys lack."""
        ...


class _Owned:
    """One assigned partition."""

    def __init__(self, lock: asyncio.Lock, meter: PartitionMeter) -> None:
        self.lock = lock
        self.meter = meter
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
        *,
        log: FencedLog,
        vault: KeyVault,
        states: StateCodec,
        clock: Clock,
        topic: str,
        meters: Meters = SILENT,
    ) -> None:
        """Take the collaborators; `topic` is the source's name in the cluster."""
        self._declaration = declaration
        self._wiring = wiring
        self._log = log
        self._vault = vault
        self._states = states
        self._clock = clock
        self._topic = topic
        self._meters = meters
        self._consumer = wiring.consumer()
        self._owned: dict[int, _Owned] = {}
        # A lock outlives its assignment: a cycle of an earlier one may still be in its commit.
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stores: dict[int, StateStore] = {}
        self._generation = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(ACQUIRING_AT_ONCE)
        self._stopping = asyncio.Event()
        self._lag_at = self._noted_at = 0.0
        self.on_acquired: Callable[[int], None] | None = None

    # Life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Join the group and fold until `stop`; then leave cleanly."""
        self._consumer.subscribe([self._topic], listener=_Listener(self))
        await self._consumer.start()
        try:
            while not self._stopping.is_set():
                await self._poll()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._close_stores()
            await self._consumer.stop()

    def stop(self) -> None:
        """Finish the cycle in hand and end `run`."""
        self._stopping.set()

    @property
    def is_ready(self) -> bool:
        """Whether every assigned partition is restored and folding."""
        return bool(self._owned) and all(owned.is_running for owned in self._owned.values())

    @property
    def is_registrar(self) -> bool:
        """Whether this worker owns partition 0 of the core pass, and so writes the ticks."""
        return self._declaration.writes_tombstones and 0 in self.running

    @property
    def running(self) -> tuple[int, ...]:
        """The partitions that fold now, ascending."""
        return tuple(sorted(p for p, owned in self._owned.items() if owned.is_running))

    # Rebalance: nothing slow, nothing that raises ---------------------------------------------

    def assigned(self, partitions: Sequence[int]) -> None:
        """Pause what was assigned and start to acquire it."""
        self._generation += 1
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        if places:
            self._consumer.pause(*places)
        self._meters.note(Assigned(pass_name=self._declaration.name, partitions=tuple(partitions)))
        for partition in partitions:
            self._owned.setdefault(partition, self._unowned(partition)).is_running = False
            self._acquire_later(partition, delay_s=0)

    def revoked(self) -> None:
        """Stop folding everywhere; stores stay open as doubtful until they are restored again."""
        self._generation += 1
        for owned in self._owned.values():
            owned.is_running = False
        self._owned = {}
        self._meters.note(Revoked(pass_name=self._declaration.name))
        for task in self._tasks:
            task.cancel()

    def _unowned(self, partition: int) -> _Owned:
        meter = PartitionMeter(self._meters, pass_name=self._declaration.name, partition=partition)
        return _Owned(self._locks[partition], meter)

    def _acquire_later(self, partition: int, *, delay_s: float) -> None:
        generation = self._generation
        task = asyncio.create_task(self._acquire(partition, generation, delay_s=delay_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Acquisition ------------------------------------------------------------------------------

    async def _acquire(self, partition: int, generation: int, *, delay_s: float) -> None:
        """Take a partition over; on failure try again while it is ours."""
        await asyncio.sleep(delay_s)
        try:
            async with self._slots:
                await self._take_over(partition, generation)
        except (LedgerRewound, UnknownKey, ControlUnreadable) as error:
            # Without a traceback: frames of a decode error may hold values.
            log_line.error(  # noqa: TRY400
                "partition stopped", **self._where(partition), reason=str(error)
            )
            self._again(partition, generation, error, delay_s=STOPPED_RETRY_S)
        except (LedgerError, KafkaError, OSError) as error:
            log_line.warning("acquire failed", **self._where(partition), reason=_code(error))
            self._again(partition, generation, error, delay_s=RETRY_S)
        except Exception as error:  # noqa: BLE001 - a task's outermost frame: nothing may stay paused unseen
            log_line.error("acquire failed", **self._where(partition), reason=_code(error))  # noqa: TRY400
            self._again(partition, generation, error, delay_s=STOPPED_RETRY_S)

    def _again(self, partition: int, generation: int, error: Exception, *, delay_s: float) -> None:
        owned = self._owned.get(partition)
        if owned is not None and generation == self._generation and not self._stopping.is_set():
            owned.meter.stands(_standing(delay_s), error)
            self._acquire_later(partition, delay_s=delay_s)

    async def _take_over(self, partition: int, generation: int) -> None:
        owned = self._owned.get(partition)
        if owned is None or generation != self._generation:
            return
        async with owned.lock:
            await self._log.open_writer(self._writer(partition))
            store = self._stores.get(partition)
            if store is None:
                store = self._stores[partition] = self._wiring.open_store(partition)
            started = time.monotonic()
            records = await restore(
                self._log, store, partition, pass_name=self._declaration.name,
                changelogs=self._wiring.changelogs, meters=self._meters,
            )  # fmt: skip
            cycle = self._wiring.open_cycle(partition, store)
            await check_not_rewound(self._log, self._declaration.source, partition, cycle.position)
            await self._finish_predecessor(owned, cycle)
            if generation != self._generation:
                return
            owned.cycle = cycle
            place = TopicPartition(self._topic, partition)
            self._consumer.seek(place, cycle.position.offset + 1)
            self._consumer.resume(place)
            owned.is_running = True
            owned.meter.stands(Standing.RUNNING)
            log_line.info(
                "partition running", **self._where(partition), records=records,
                offset=cycle.position.offset,
                duration_ms=round((time.monotonic() - started) * 1000),
            )  # fmt: skip
        if self.on_acquired is not None:
            self.on_acquired(partition)

    async def _finish_predecessor(self, owned: _Owned, cycle: PartitionCycle) -> None:
        """Repeat outstanding tombstones and shreds, and take parked subjects up again."""
        await self._carry_out(cycle, cycle.outstanding())
        parked = cycle.parked()
        batch = await cycle.retry_parked(parked, now=self._clock.now()) if parked else None
        if batch is not None:
            await owned.meter.commit(self._log, batch)
            cycle.settle(batch)
            await self._carry_out(cycle, batch.work)

    async def _carry_out(self, cycle: PartitionCycle, work: Work) -> None:
        await carry_out(
            work, cycle, declaration=self._declaration, log=self._log,
            vault=self._vault, states=self._states, now=self._clock.now(),
        )  # fmt: skip

    # Folding ----------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Take one poll's rows through one cycle per partition, then wait for the commit tick."""
        started = time.monotonic()
        fetched: dict[TopicPartition, list[ConsumerRecord]] = await self._consumer.getmany(
            timeout_ms=int(COMMIT_S * 1000), max_records=ROWS_PER_POLL
        )
        if fetched:
            await asyncio.gather(
                *(self._fold(place.partition, records) for place, records in fetched.items())
            )
        await self._tend()
        interval = max(COMMIT_S, COMMIT_S_PER_PARTITION * len(self._owned))
        rest = interval - (time.monotonic() - started)
        if rest > 0 and fetched and sum(map(len, fetched.values())) < ROWS_PER_POLL // 2:
            await asyncio.sleep(rest)

    async def _fold(self, partition: int, records: Sequence[ConsumerRecord]) -> None:
        """Run one cycle and its transaction; on trouble acquire the partition again."""
        owned = self._owned.get(partition)
        if owned is None:
            return
        generation = self._generation
        async with owned.lock:
            cycle = owned.cycle
            if cycle is None or not owned.is_running or generation != self._generation:
                return
            try:
                await self._commit(owned, cycle, partition, _rows(records))
            except (LedgerRewound, UnknownKey, ControlUnreadable) as error:
                log_line.error(  # noqa: TRY400 - no frames in logs
                    "partition stopped", **self._where(partition), reason=str(error)
                )
                self._drop(partition, owned, error, delay_s=STOPPED_RETRY_S)
            except Fenced as error:
                log_line.warning("fenced", **self._where(partition))
                self._drop(partition, owned, error, delay_s=FENCED_RETRY_S)
            except (LedgerError, KafkaError, OSError) as error:
                log_line.warning("cycle failed", **self._where(partition), reason=_code(error))
                self._drop(partition, owned, error, delay_s=RETRY_S)

    async def _commit(
        self, owned: _Owned, cycle: PartitionCycle, partition: int, rows: Sequence[Row]
    ) -> None:
        batch = await cycle.run(rows, now=self._clock.now())
        if not batch.records or owned.cycle is not cycle or self._owned.get(partition) is not owned:
            return
        await owned.meter.commit(self._log, batch)
        cycle.settle(batch)
        await self._carry_out(cycle, batch.work)

        # A deleted value stays in the store's files until they are rewritten: at the next tick.
        owned.has_residue = owned.has_residue or any(None in values for values in batch.sealed)
        # And what lies in memory only would make an old store of one that is read after a crash.
        if batch.is_tick:
            store = self._stores[partition]
            await asyncio.to_thread(store.compact if owned.has_residue else store.flush)
            owned.has_residue = False

    def _drop(self, partition: int, owned: _Owned, error: Exception, *, delay_s: float) -> None:
        """Stop folding a partition and acquire it again later, from its own position."""
        owned.is_running = False
        owned.cycle = None
        if partition in self._owned:
            owned.meter.stands(_standing(delay_s), error)
            self._consumer.pause(TopicPartition(self._topic, partition))
            self._acquire_later(partition, delay_s=delay_s)

    async def _tend(self) -> None:
        """Now and then: note changelog progress, and commit offsets as a lag figure."""
        now = time.monotonic()
        is_lag_due = now - self._noted_at > LAG_NOTE_S
        offsets: dict[TopicPartition, int] = {}
        for partition, owned in list(self._owned.items()):
            if not owned.is_running or owned.cycle is None:
                continue
            place = TopicPartition(self._topic, partition)
            offsets[place] = owned.cycle.position.offset + 1
            if is_lag_due:
                self._noted_at = now
                await self._note_lag(place, owned)
            if now - owned.noted_at > NOTE_PROGRESS_S:
                owned.noted_at = now
                owned.meter.outstanding(owned.cycle)
                async with owned.lock:
                    if owned.is_running:
                        await self._note(partition, owned)
        if offsets and now - self._lag_at > LAG_COMMIT_S:
            self._lag_at = now
            try:
                await self._consumer.commit(offsets)
            except KafkaError as error:
                log_line.info("lag not committed", reason=_code(error))

    async def _note_lag(self, place: TopicPartition, owned: _Owned) -> None:
        """Note what lies between the consumer, which has passed what is no record, and the stable end."""
        end: int | None = self._consumer.last_stable_offset(place)
        if end is None or owned.cycle is None:
            return
        with suppress(KafkaError):  # taken away meanwhile: no figure is worth an engine
            passed: int = await self._consumer.position(place)
            owned.meter.lag(owned.cycle.position.offset, end - passed, now=self._clock.now())

    async def _note(self, partition: int, owned: _Owned) -> None:
        try:
            await note_progress(
                self._log,
                self._stores[partition],
                partition,
                changelogs=self._wiring.changelogs,
                writer=self._writer(partition),
            )
        except LedgerError as error:
            # The writer has ended: whoever owns the partition now, it is acquired before it folds.
            log_line.info("progress not noted", **self._where(partition), reason=_code(error))
            self._drop(partition, owned, error, delay_s=FENCED_RETRY_S)

    async def _close_stores(self) -> None:
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    def _writer(self, partition: int) -> str:
        return f"{self._declaration.name}.{partition}"

    def _where(self, partition: int) -> dict[str, object]:
        return {"pass_name": self._declaration.name, "partition": partition}


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka is untyped
    """Hands assignments to the engine; aiokafka heartbeats only after these return."""

    def __init__(self, engine: KafkaEngine) -> None:
        self._engine = engine

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002 - eager
        """Everything is revoked at every rebalance."""
        self._engine.revoked()

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Take what was assigned."""
        self._engine.assigned(sorted(place.partition for place in assigned))


def _rows(records: Sequence[ConsumerRecord]) -> tuple[Row, ...]:
    return tuple(
        Row(
            record.partition, record.offset, record.key or b"", record.value,
            tuple(record.headers), record.timestamp,
        )
        for record in records
    )  # fmt: skip


def _standing(delay_s: float) -> Standing:
    """Return where a partition stands that is tried again so much later."""
    return Standing.STOPPED if delay_s >= STOPPED_RETRY_S else Standing.WAITING


def _code(error: BaseException) -> str:
    """Return the error's class: messages of foreign errors may carry values."""
    return str(error) if isinstance(error, LedgerError) else type(error).__name__
