"""The ablation: our engine with one plain projection, so that its own cost can be seen.

Engine, cycle, workspace, cache, state codec, store and transactions are the real ones. The records
are plain JSON of 1 KB of which five fields are decoded, the fold is one state per subject, and
permissions, index, timers and sealing are left out. De-duplication adds a tag row per event.
"""

import hashlib
import itertools
import random
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

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
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import DLQ, TOPICS, Topic, state_topic, view_topic
from privacy_ledger.domain.values import RecordId, SubjectRef
from privacy_ledger.engine.assignment import divide
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.kafka import KafkaEngine
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.ports.runtime import StateStore
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.protocol import Emit, Processor, Reread
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import Table, Workspace
from tests.bench import kafka
from tests.bench.measure import Figure

__all__ = ["PASS", "SOURCE", "Expected", "fill", "fold"]

PASS: Final = "bench"
SOURCE: Final = "bench.events.v1"
EVENT_BYTES: Final = 1000
RESENT: Final = 0.02
SEED: Final = 7
_BATCH: Final = 5000
_TYPES: Final = ("opened", "played", "paused", "sought", "answered", "posted", "graded", "closed")
_START: Final = datetime(2026, 3, 1, tzinfo=UTC)


class PlainEvent(Struct, frozen=True, gc=False):
    """The five fields that are decoded; the other members of the document are skipped."""

    id: str
    type: str
    course: str
    at: datetime
    position_ms: int


class PlainState(Struct, frozen=True, array_like=True, gc=False):
    """The state of one subject, some 200 bytes."""

    events: int
    last_at: datetime
    last_offset: int
    last_course: str
    position_ms_max: int
    counts: dict[str, int]


class Expected(Struct, frozen=True, kw_only=True):
    """What lies in the source, and digests of the view with every event, and with each id once."""

    events: int
    last_offset: int
    subjects: int
    all_events: str
    each_once: str


VIEW: Final = Table(b"1", "bench", PlainState, "plain", view="bench")
TAGS: Final = Table(b"i", "tags", int, "plain")
_VIEW_TOPIC: Final = view_topic("bench")
_OUTPUTS: Final = (
    *(
        Topic(name=name, partitions=None, policy="compact", holds="a benchmark", writers=(), readers=())
        for name in (_VIEW_TOPIC, state_topic(PASS))
    ),
    next(topic for topic in TOPICS if topic.name == DLQ),
)
_SOURCES: Final = (
    Topic(name=SOURCE, partitions=None, policy="delete", holds="a benchmark", writers=(), readers=()),
)


# The light parts ------------------------------------------------------------------------------


_event = msgspec.json.Decoder(PlainEvent).decode


class PlainCodec(LedgerCodec):
    """Decodes plain events."""

    def decode(self, rows: Sequence[Row]) -> list[Record]:
        """Return a record per row."""
        return [_record(row) for row in rows]


def _record(row: Row) -> Record:
    key = row.key
    event = _event(row.value or b"")
    return Record(
        partition=row.partition, offset=row.offset, ref=SubjectRef(key[:16]),
        record_id=RecordId(key[16:]), type=event.type, body=event,  # type: ignore[arg-type] # plain
        occurred_at=event.at, received_at=event.at, tag=bytes.fromhex(event.id),
    )  # fmt: skip


class PlainFold(PassFold):
    """One state per subject; `is_exact` keeps a row per tag and counts each tag once."""

    is_exact = False

    def apply(self, work: Workspace, record: Record) -> tuple[list[Reread], list[Emit]]:
        """Fold one record."""
        if self.is_exact:
            tag = record.ref + record.tag
            if work.get(TAGS, tag) is not None:
                return [], []
            work.put(TAGS, tag, record.offset)
        work.put(VIEW, record.ref, _step(work.get(VIEW, record.ref), record))
        return [], []


class PlainCycle(PartitionCycle):
    """The cycle with the plain fold; it reads ahead only what that one touches."""

    def use(self, fold: PlainFold) -> None:
        """Fold with this one from now on."""
        self._fold = fold
        self._is_exact = fold.is_exact

    def _preload(self, records: Sequence[Record]) -> None:
        if self._is_exact:
            self._cache.pass_by(TAGS, sorted({record.ref + record.tag for record in records}))
        self._cache.fetch(VIEW, sorted({record.ref for record in records}))


def _step(state: PlainState | None, record: Record) -> PlainState:
    event: PlainEvent = record.body  # type: ignore[assignment] # plain
    if state is None:
        return PlainState(1, event.at, record.offset, event.course, event.position_ms, {event.type: 1})
    counts, furthest = state.counts, state.position_ms_max
    return PlainState(
        state.events + 1, event.at, record.offset, event.course,
        max(event.position_ms, furthest),
        {**counts, event.type: counts.get(event.type, 0) + 1},
    )  # fmt: skip


class _NoBooks:
    """No rule books."""

    known: Mapping[str, Rules] = {}

    async def load(self, digest: str) -> None:
        """There is none."""
        raise KeyError(digest)


class PlainWiring:
    """How the engine opens what it owns."""

    def __init__(
        self, folder: Path, log: KafkaLog, cluster: ClusterSettings, *,
        source_prefix: str, prefix: str, is_exact: bool,
    ) -> None:  # fmt: skip
        """Keep store and (unused) keystore in a folder."""
        self.folder = RocksFolder(folder / "state")
        self._source_prefix = source_prefix
        self._log = log
        self._cluster = cluster
        self._prefix = prefix
        self._is_exact = is_exact
        self.vault = SqliteKeyVault(folder / "keystore.db", FileKeks(folder / "keys"), ids=SystemIds())
        step = cast("Any", None)
        self.declaration = PassDeclaration(
            name=PASS, source=SOURCE, publishes=frozenset({VIEW.name}),
            processors=(
                Processor(name="bench", runs_in=PASS, source=SOURCE, table=cast("Any", VIEW), step=step),
            ),
        )  # fmt: skip
        self.states = PassStateCodec(PASS, self.vault, publishes=self.declaration.publishes)

    def open_cycle(self, partition: int, store: StateStore) -> PartitionCycle:
        """Open the cycle with its light parts."""

        async def read_at(offsets: Sequence[int]) -> Sequence[Row]:
            return await self._log.read_at(SOURCE, partition, offsets)

        books = _NoBooks()
        cycle = PlainCycle(
            self.declaration, partition, store=store, codec=PlainCodec(self.vault, partitions=1),
            states=self.states, books=books, initial=NOTHING, sampling_key=b"", ids=SystemIds(),
            read_at=read_at,
        )  # fmt: skip
        fold = PlainFold((), rules=books.known, initial=NOTHING, sampling_key=b"")
        fold.is_exact = self._is_exact
        cycle.use(fold)
        return cycle

    def source(self) -> GroupSource:
        """Return an unjoined member of a group of its own."""
        return GroupSource(
            self._cluster, GroupMember(group=f"{self._prefix}bench", session_ms=6000),
            topic=self._source_prefix + SOURCE, partitions=1, plan=partial(divide, standbys=0),
        )  # fmt: skip

    def tail(self) -> KafkaTail:
        """Return a reader that has nothing to follow."""
        return KafkaTail(self._cluster, prefix=self._prefix, places=1)

    @property
    def changelogs(self) -> Mapping[str, bytes]:
        """The private changelog and the view."""
        return {state_topic(PASS): b"", _VIEW_TOPIC: VIEW.code}


# The measured run -----------------------------------------------------------------------------


async def fold(
    cluster: ClusterSettings,
    folder: Path,
    *,
    source_prefix: str,
    prefix: str,
    expected: Expected,
    is_exact: bool,
) -> Figure:
    """Fold the source into a fresh view, and compare that with what is expected."""
    await kafka.create(cluster, _OUTPUTS, prefix=prefix)
    log = kafka.WatchedLog(
        cluster, topics=(*_OUTPUTS, *_SOURCES), prefix=prefix, targets={f"{PASS}.0": expected.last_offset}
    )
    await log.start()
    wiring = PlainWiring(folder, log, cluster, source_prefix=source_prefix, prefix=prefix, is_exact=is_exact)
    try:
        engine = KafkaEngine(
            wiring.declaration, wiring, log=log, vault=wiring.vault, states=wiring.states,
            clock=SystemClock(),
        )  # fmt: skip
        figure = await kafka.fold([engine], log, events=expected.events)
        rows = await kafka.latest(log, _VIEW_TOPIC)
        opened = wiring.states.open_many(VIEW, [(key, row.value) for key, row in rows.items()])
        view = {key: _plain(state) for key, state in zip(rows, opened, strict=True) if state is not None}
        wanted = expected.each_once if is_exact else expected.all_events
        same = digest(view) == wanted
        note = f"{len(view)} states {'equal' if same else 'DIFFER FROM'} the expected ones"
        return msgspec.structs.replace(figure, is_exact=same, note=note)
    finally:
        await log.close()
        wiring.vault.close()


# The data -------------------------------------------------------------------------------------


def _events(count: int, subjects: int) -> Iterator[tuple[bytes, dict[str, object]]]:
    """Yield (reference, document): the n-th subject has weight 1/n, two in a hundred are re-sent."""
    rng = random.Random(SEED)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, subjects + 1)))
    refs = [rng.randbytes(16) for _ in range(subjects)]
    recent: list[tuple[bytes, dict[str, object]]] = []
    at = _START
    for _ in range(count):
        if recent and rng.random() < RESENT:
            yield rng.choice(recent)
            continue
        at += timedelta(milliseconds=250)
        ref = refs[bisect(weights, rng.random() * weights[-1])]
        event: dict[str, object] = {
            "id": rng.randbytes(16).hex(),
            "type": rng.choice(_TYPES),
            "agent": "Mozilla/5.0 (X11; Linux x86_64; rv:129.0) Gecko/20100101 Firefox/129.0",
            "session": rng.randbytes(16).hex(),
            "course": f"course-v1:ExampleX+CS{101 + rng.randrange(40)}+T1",
            "context": {"module": {"name": "Unit", "usage_key": rng.randbytes(24).hex()}, "path": "/event"},
            "at": at.isoformat(),
            "position_ms": rng.randrange(3_600_000),
        }
        event["padding"] = rng.randbytes((EVENT_BYTES - len(msgspec.json.encode(event)) - 13) // 2).hex()
        recent.append((ref, event))
        if len(recent) > 500:  # a re-send comes soon
            recent.pop(0)
        yield ref, event


class _Tally:
    """A naive count of what one subject did, written apart from the step."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.events: list[dict[str, object]] = []

    def plain(self) -> list[object]:
        kinds = [str(event["type"]) for event in self.events]
        return [
            len(self.events), self.events[-1]["at"], self.offsets[-1], self.events[-1]["course"],
            max(int(str(event["position_ms"])) for event in self.events),
            {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        ]  # fmt: skip


def _plain(state: PlainState) -> list[object]:
    return [
        state.events, state.last_at.isoformat(), state.last_offset,
        state.last_course, state.position_ms_max, dict(sorted(state.counts.items())),
    ]  # fmt: skip


def digest(view: Mapping[bytes, object]) -> str:
    """Return one digest of a whole view."""
    pairs = [(key.hex(), view[key]) for key in sorted(view)]
    return hashlib.sha256(msgspec.json.encode(pairs)).hexdigest()


async def fill(cluster: ClusterSettings, *, prefix: str, events: int, subjects: int) -> Expected:
    """Write the source topic and return what its view must be."""
    await kafka.create(cluster, _SOURCES, prefix=prefix)
    log = KafkaLog(cluster, partitions=1, topics=_SOURCES, prefix=prefix)
    await log.start()
    every: dict[bytes, _Tally] = {}
    once: dict[bytes, _Tally] = {}
    seen: set[object] = set()
    rng = random.Random(SEED)
    last = -1
    source = _events(events, subjects)
    while part := list(itertools.islice(source, _BATCH)):
        records = [NewRecord(0, ref + rng.randbytes(16), msgspec.json.encode(event)) for ref, event in part]
        offsets = await log.append(SOURCE, records)
        last = offsets[-1]
        for offset, (ref, event) in zip(offsets, part, strict=True):
            short = {name: event[name] for name in ("type", "course", "at", "position_ms")}
            for tallies in (every,) if event["id"] in seen else (every, once):
                tally = tallies.setdefault(ref, _Tally())
                tally.offsets.append(offset)
                tally.events.append(short)
            seen.add(event["id"])
    await log.close()
    return Expected(
        events=events,
        last_offset=last,
        subjects=len(every),
        all_events=digest({ref: tally.plain() for ref, tally in every.items()}),
        each_once=digest({ref: tally.plain() for ref, tally in once.items()}),
    )
