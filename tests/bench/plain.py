"""The ablation: our engine with one plain projection, so that its own cost can be seen.

Engine, cycle, workspace, cache, state codec, store and transactions are the real ones. The records
are plain JSON of 1 KB of which five fields are decoded, the fold is one state per subject, and
permissions, index, timers and sealing are left out. De-duplication adds a tag row per event.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from privacy_ledger.adapters.books import NOTHING
from privacy_ledger.adapters.clock import SystemClock
from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.adapters.kafka.source import GroupMember, GroupSource
from privacy_ledger.adapters.kafka.tail import KafkaTail
from privacy_ledger.adapters.keystore.kek import FileKeks
from privacy_ledger.adapters.keystore.sqlite import SqliteKeyVault
from privacy_ledger.adapters.rocks_store import RocksFolder
from privacy_ledger.adapters.state_codec import PassStateCodec
from privacy_ledger.domain.key_release import RIGHTS
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import CONTROL_HINTS, DLQ, TOPICS, state_topic, view_topic
from privacy_ledger.engine import collector
from privacy_ledger.engine.aftermath import LiveAftermath
from privacy_ledger.engine.assignment import divide
from privacy_ledger.engine.batch import Batch
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.kafka import KafkaEngine
from privacy_ledger.engine.means import Means, NoMoves
from privacy_ledger.engine.outlet import Silence
from privacy_ledger.ports.log import Row
from privacy_ledger.ports.runtime import StateStore
from privacy_ledger.ports.transport import Share
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.progress import Progress
from privacy_ledger.streams.protocol import Processor
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import Table, Workspace
from tests.bench import kafka
from tests.bench.child import Talk
from tests.bench.events import REF_BYTES, PlainEvent, PlainState, decode_event, step
from tests.bench.measure import Figure, Meter
from tests.bench.source import SOURCE, SOURCES
from tests.bench.tasks import EngineFold, EngineWork, Go, Status

__all__ = ["CHANGELOGS", "OUTPUTS", "PASS", "VIEW_TOPIC", "fold", "work"]

T = TypeVar("T")
PASS: Final = "bench"
STATUS_S: Final = 0.05
VIEW: Final = Table(b"1", "bench", PlainState, "plain", view="bench")
TAGS: Final = Table(b"i", "tags", int, "plain")
VIEW_TOPIC: Final = view_topic("bench")
OUTPUTS: Final = (
    kafka.topic(VIEW_TOPIC), kafka.topic(state_topic(PASS)),
    *(topic for topic in TOPICS if topic.name in {DLQ, CONTROL_HINTS}),
)  # fmt: skip
CHANGELOGS: Final[Mapping[str, bytes]] = {state_topic(PASS): b"", VIEW_TOPIC: VIEW.code}
"""The private changelog and the view, with the table code that its keys lack."""

Gate = Callable[[int, Sequence[Row]], Awaitable[None]]
"""Waits until these rows of a partition may be folded."""


# The light parts ------------------------------------------------------------------------------


class PlainCodec(LedgerCodec):
    """Decodes plain events; a tag only where it is asked for."""

    reads_tags = False

    def decode(self, rows: Sequence[Row]) -> list[Record]:
        """Return a record per row."""
        decode, tag_of = decode_event, bytes.fromhex if self.reads_tags else _no_tag
        return [
            Record(
                partition=row.partition, offset=row.offset,
                ref=(key := row.key)[:REF_BYTES], record_id=key[REF_BYTES:],  # type: ignore[arg-type] # plain bytes
                type=(event := decode(row.value)).type, body=event,  # type: ignore[arg-type] # plain
                occurred_at=event.at, received_at=event.at, tag=tag_of(event.id),
            )
            for row in rows
        ]  # fmt: skip


def _no_tag(_id: str) -> bytes:
    return b""


class PlainFold(PassFold):
    """One state per subject; `is_exact` keeps a row per tag and counts each tag once."""

    is_exact = False

    def apply(self, work: Workspace, record: Record) -> None:
        """Fold one record."""
        if self.is_exact:
            tag = record.ref + record.tag
            if work.get(TAGS, tag) is not None:
                return
            work.put(TAGS, tag, record.offset)
        event = cast("PlainEvent", record.body)
        work.put(VIEW, record.ref, step(work.get(VIEW, record.ref), event, record.offset))


class PlainCycle(PartitionCycle):
    """The cycle with the plain fold; it reads ahead only what that one touches."""

    def use(self, fold: PlainFold, gate: Gate | None) -> None:
        """Fold with this one from now on, what the gate lets through."""
        self._fold = fold
        self._is_exact = fold.is_exact
        self._gate = gate

    async def run(self, rows: Sequence[Row], *, now: datetime) -> Batch:
        """Wait at the gate, then run as always."""
        if self._gate is not None:
            await self._gate(self._partition, rows)
        return await super().run(rows, now=now)

    def _preload(self, records: Sequence[Record]) -> None:
        if self._is_exact:
            self._cache.pass_by(TAGS, sorted({record.ref + record.tag for record in records}))
        self._cache.fetch(VIEW, sorted({record.ref for record in records}))


class _NoBooks:
    """No rule books."""

    known: Mapping[str, Rules] = {}

    async def load(self, digest: str) -> None:
        """There is none."""
        raise KeyError(digest)


class PlainWiring:
    """How the engine opens what it owns."""

    def __init__(
        self,
        folder: Path,
        log: KafkaLog,
        cluster: ClusterSettings,
        *,
        source_prefix: str,
        prefix: str,
        is_exact: bool,
    ) -> None:
        """Keep store and (unused) keystore in a folder."""
        self.folder = RocksFolder(folder / "state")
        self._log = log
        self._source_prefix = source_prefix
        self._cluster = cluster
        self._prefix = prefix
        self._is_exact = is_exact
        self.gate: Gate | None = None
        self.cycles: dict[int, PartitionCycle] = {}
        self.vault = SqliteKeyVault(
            folder / "keystore.db", FileKeks(folder / "keys"), ids=SystemIds()
        ).released_to(RIGHTS)
        never = cast("Any", Progress())  # the plain fold calls no step
        self.declaration = PassDeclaration(
            name=PASS, source=SOURCE, publishes=frozenset({VIEW.name}),
            processors=(
                Processor(name="bench", runs_in=PASS, source=SOURCE, table=cast("Any", VIEW), step=never),
            ),
        )  # fmt: skip
        self.states = PassStateCodec(PASS, self.vault, publishes=self.declaration.publishes)

    def open_cycle(self, partition: int, store: StateStore) -> PartitionCycle:
        """Open the cycle with its light parts."""

        async def read_at(offsets: Sequence[int]) -> Sequence[Row]:
            return await self._log.read_at(SOURCE, partition, offsets)

        books = _NoBooks()
        codec = PlainCodec(self.vault, partitions=self._log.partitions(SOURCE))
        codec.reads_tags = self._is_exact
        cycle = PlainCycle(
            self.declaration, partition, store=store, codec=codec, states=self.states, books=books,
            initial=NOTHING, sampling_key=b"", outlet=Silence(), read_at=read_at,
        )  # fmt: skip
        fold = PlainFold((), rules=books.known, initial=NOTHING, sampling_key=b"")
        fold.is_exact = self._is_exact
        cycle.use(fold, self.gate)
        self.cycles[partition] = cycle
        return cycle

    def source(self) -> GroupSource:
        """Return an unjoined member of a group of its own."""
        return GroupSource(
            self._cluster, GroupMember(group=f"{self._prefix}bench", session_ms=6000),
            topic=self._source_prefix + SOURCE, partitions=self._log.partitions(SOURCE),
            plan=partial(divide, standbys=0),
        )  # fmt: skip

    def tail(self) -> KafkaTail:
        """Return a reader that has nothing to follow."""
        return KafkaTail(self._cluster, prefix=self._prefix, places=1)

    async def confirm(self) -> None:
        """Return: nothing here is ever dropped."""

    def means(self, log: KafkaLog) -> Means:
        """Return what the pass may do: nothing goes out beside its states."""
        clock = SystemClock()
        after = LiveAftermath(self.declaration, log=log, vault=self.vault, states=self.states, clock=clock)
        return Means(log=log, aftermath=after, outlet=Silence(), mover=NoMoves(), states=self.states)

    @property
    def changelogs(self) -> Mapping[str, bytes]:
        """The private changelog and the view."""
        return CHANGELOGS


class _Engine(KafkaEngine):
    """The engine, which also says that it has joined its group."""

    is_joined = False

    def assigned(self, share: Share) -> None:
        """Note the share, which may be empty."""
        super().assigned(share)
        self.is_joined = True


def _engine(wiring: PlainWiring, log: KafkaLog) -> _Engine:
    return _Engine(wiring.declaration, wiring, wiring.means(log), clock=SystemClock(), ids=SystemIds())


# Alone ----------------------------------------------------------------------------------------


async def fold(task: EngineFold) -> Figure:
    """Fold a source of one partition into a fresh view."""
    cluster = ClusterSettings(bootstrap=task.bootstrap)
    await kafka.create(cluster, OUTPUTS, prefix=task.prefix)
    kind = kafka.WatchedLog if task.is_transactional else kafka.IdempotentLog
    log = kind(
        cluster,
        topics=(*OUTPUTS, *SOURCES),
        prefix=task.prefix,
        shared=(task.source_prefix, SOURCES),
        targets={f"{PASS}.0": task.targets[0]},
    )
    await log.start()
    wiring = PlainWiring(
        Path(task.folder), log, cluster,
        source_prefix=task.source_prefix, prefix=task.prefix, is_exact=task.is_exact,
    )  # fmt: skip
    try:
        engine = _engine(wiring, log)
        return await kafka.fold([engine], log, events=task.events)
    finally:
        await log.close()
        wiring.vault.close()


# As one of several workers ----------------------------------------------------------------------


async def work(task: EngineWork, talk: Talk) -> Figure:
    """Fold as a member of the group until the input ends; the figure is of what `Go` asked for."""
    cluster = ClusterSettings(bootstrap=task.bootstrap)
    log = kafka.WatchedLog(
        cluster,
        topics=(*OUTPUTS, *SOURCES),
        prefix=task.prefix,
        partitions=task.partitions,
        shared=(task.source_prefix, SOURCES),
    )
    await log.start()
    wiring = PlainWiring(
        Path(task.folder), log, cluster,
        source_prefix=task.source_prefix, prefix=task.prefix, is_exact=True,
    )  # fmt: skip
    held = _Held(task.held_after)
    wiring.gate = held.wait
    engine = _engine(wiring, log)
    collector.calm()
    running = asyncio.create_task(engine.run())
    saying = asyncio.create_task(_say_status(engine, wiring, held, talk))
    figure = Meter().figure(0)
    try:
        while (go := await _first(talk.hear(Go), running)) is not None:
            saying.cancel()
            figure = await _measured(engine, wiring, log, go, running, open_gate=held.open)
            talk.say(figure)
        return figure
    finally:
        saying.cancel()
        held.open()
        engine.stop()
        await asyncio.gather(running, return_exceptions=True)
        await log.close()
        wiring.vault.close()


class _Held:
    """Rows above an offset of their partition wait until the gate is opened."""

    def __init__(self, after: Sequence[int]) -> None:
        self.after = after
        self._is_open = asyncio.Event()
        if not after:
            self.open()

    def open(self) -> None:
        self._is_open.set()

    async def wait(self, partition: int, rows: Sequence[Row]) -> None:
        if not self._is_open.is_set() and rows[-1].offset > self.after[partition]:
            await self._is_open.wait()


async def _say_status(engine: _Engine, wiring: PlainWiring, held: _Held, talk: Talk) -> None:
    said = None
    while True:
        is_caught_up = not held.after or all(
            wiring.cycles[number].position.offset >= held.after[number] for number in engine.running
        )
        status = Status(is_joined=engine.is_joined, running=engine.running, is_caught_up=is_caught_up)
        if status != said:
            talk.say(status)
            said = status
        await asyncio.sleep(STATUS_S)


async def _measured(
    engine: _Engine,
    wiring: PlainWiring,
    log: kafka.WatchedLog,
    go: Go,
    running: asyncio.Task[None],
    *,
    open_gate: Callable[[], None],
) -> Figure:
    """Return what this worker's partitions cost up to their targets.

    Raises:
        RuntimeError: the group rebalanced meanwhile, so that the figure says nothing.
    """
    mine = engine.running
    before = {number: wiring.cycles[number].position.offset for number in mine}
    ahead = {number: go.targets[number] for number in mine if go.targets[number] > before[number]}
    log.aim({f"{PASS}.{number}": target for number, target in ahead.items()})
    meter = Meter()
    open_gate()
    async with asyncio.timeout(kafka.FOLD_TIMEOUT_S):
        await _first(log.done.wait(), running)
    # The source has no gaps: it is not compacted, and nothing in it is transactional.
    events = sum(target - before[number] for number, target in ahead.items())
    figure = meter.figure(events, transactions=log.transactions, writes=log.writes)
    if engine.running != mine:
        raise RuntimeError("the group rebalanced while it was measured")
    return figure


async def _first(wanted: Coroutine[object, object, T], running: asyncio.Task[None]) -> T:
    """Return what is waited for; an engine that ends before raises its error."""
    task = asyncio.create_task(wanted)
    await asyncio.wait({task, running}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        running.result()
        raise RuntimeError("the engine ended by itself")
    return task.result()
