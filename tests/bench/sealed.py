"""The whole topology over sealed records: ingest them when embedded, fold them on Kafka."""

import heapq
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, structs

from privacy_ledger.adapters.formats import openedx
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.app.ingest import Source
from privacy_ledger.bootstrap import Runtime, engine_for, ingest_of, open_runtime, rules_in_force
from privacy_ledger.domain.key_release import SUMS
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.topics import ANALYTICS_PARTIALS, LEDGER_EVENTS, LEDGER_REGISTRY, TOPICS
from privacy_ledger.domain.values import NOBODY, SubjectRef
from privacy_ledger.engine import collector
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.settings import Settings
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import PERMISSIONS, Table
from privacy_ledger.testing.generator import course_name, generate
from privacy_ledger.testing.oracle import Oracle
from tests.bench import kafka
from tests.bench.events import digest
from tests.bench.measure import Figure, Meter
from tests.bench.tasks import Ingest, Ledger, Prepare, SealedFill, SealedFold

__all__ = ["PASSES", "fill", "fold", "ingest", "opened", "prepare"]

PURPOSE: Final = "improve.analyse"
COURSES: Final = 4
SEED: Final = 11
DAYS: Final = 25
PASSES: Final = ("analytics", "core")
_RELEASE: Final = "ab" * 16
_ROWS_FILE: Final = "rows.msgpack"


class _Rows(Struct):
    ledger: list[NewRecord]
    registry: list[NewRecord]


def _settings(folder: Path) -> Settings:
    return Settings(
        home=folder / "home", keys=folder / "keys", keystore=None, state=None, cluster=None,
        topic_prefix="", partitions=None, data_home=folder / "data",
    )  # fmt: skip


# Embedded ingest ------------------------------------------------------------------------------


async def ingest(task: Ingest) -> Figure:
    """Ingest clean lines into a fresh home, parsing included; the figure counts sealed records."""
    lines = task.lines
    end = datetime.now(UTC) - timedelta(hours=2)
    made = list(
        generate(
            seed=SEED, learners=task.learners, courses=COURSES, events=lines,
            start=end - timedelta(days=DAYS), end=end,
        )
    )  # fmt: skip
    async with open_runtime(_settings(Path(task.folder))) as runtime:
        await runtime.passes.settle()
        use_case = await ingest_of(runtime)
        collector.calm()  # as the command does
        before = len(await _sealed(runtime))
        source = Source(name="openedx", parse=openedx.parse, default_consents=(PURPOSE,))
        meter = Meter()
        summary = await use_case.run(enumerate(made, start=1), source)
        figure = meter.figure(1)
        sealed = len(await _sealed(runtime)) - before
        same = summary.accepted == lines == summary.read and sealed >= summary.records
        note = f"{summary.accepted} of {lines} lines accepted, {sealed} records sealed"
        return structs.replace(figure, events=sealed, is_exact=same, note=note)


async def _sealed(runtime: Runtime) -> list[Row]:
    return [row for row in await _rows(runtime, LEDGER_EVENTS) if (row.value or b"")[:1] == b"\x01"]


async def _rows(runtime: Runtime, topic: str) -> list[Row]:
    found: list[Row] = []
    for partition in range(runtime.log.partitions(topic)):
        found += await _partition(runtime, topic, partition)
    return found


async def _partition(runtime: Runtime, topic: str, partition: int) -> list[Row]:
    found: list[Row] = []
    after = -1
    while rows := await runtime.log.read(topic, partition, after=after, limit=kafka.READ):
        found += rows
        after = rows[-1].offset
    return found


# From a home to Kafka -------------------------------------------------------------------------


async def prepare(task: Prepare) -> Ledger:
    """Seal a window, lay the home's records out as one partition, and say what they must give."""
    folder = Path(task.folder)
    async with open_runtime(_settings(folder)) as runtime:
        await runtime.passes.settle()
        await runtime.registrar.add_courses([course_name(number) for number in range(COURSES)])
        day = (datetime.now(UTC) - timedelta(days=5)).date().isoformat()
        await runtime.registrar.seal_window(
            product="course_views_daily", window=day, policy="0" * 64,
            keyset=await runtime.registrar.catalogue(), release=_RELEASE, is_early=False, was_opened=False,
        )  # fmt: skip
        merged = await _merged(runtime)
        expected, cells = await _expected(runtime, merged)
        registry = await _rows(runtime, LEDGER_REGISTRY)
    rows = _Rows([_new(row) for row in merged], [_new(row) for row in registry])
    (folder / _ROWS_FILE).write_bytes(msgspec.msgpack.encode(rows))
    sealed = [row.value or b"" for row in merged if (row.value or b"")[:1] == b"\x01"]
    return Ledger(
        events=len(sealed), records=len(merged), subjects=len({row.key[:16] for row in merged}) - 1,
        value_bytes=sum(map(len, sealed)) // len(sealed), views=digest(expected, str), cells=cells,
    )  # fmt: skip


async def _merged(runtime: Runtime) -> list[Row]:
    """Return all partitions as one, in the order of their append, with one copy of control records."""
    parts = []
    for partition in (*range(1, runtime.partitions), 0):
        rows = await _partition(runtime, LEDGER_EVENTS, partition)
        parts.append([row for row in rows if partition == 0 or row.key[:16] != NOBODY])
    merged = heapq.merge(*parts, key=lambda row: row.appended_ms)
    return [structs.replace(row, partition=0, offset=number) for number, row in enumerate(merged)]


def _new(row: Row) -> NewRecord:
    return NewRecord(0, row.key, row.value, row.headers)


async def _expected(runtime: Runtime, rows: Sequence[Row]) -> tuple[dict[bytes, object], dict[str, int]]:
    """Return what the oracle says of each subject, and of the sealed window."""
    from privacy_ledger.adapters.codec import LedgerCodec  # noqa: PLC0415 - for this step only

    records = LedgerCodec(runtime.vault, partitions=1).decode(rows)
    rules = await rules_in_force(runtime)
    oracle = Oracle(rules, dict(runtime.books.known))
    mine: defaultdict[SubjectRef, list[Record]] = defaultdict(list)
    for record in records:
        if record.ref != NOBODY:
            mine[record.ref].append(record)
    for_all = [record for record in records if record.ref == NOBODY]
    views: dict[bytes, object] = {}
    cells = {course_name(number): 0 for number in range(COURSES)}
    for ref, own in mine.items():
        # The oracle reads a whole log for each subject: give it this one's part of it.
        said = oracle.expect(sorted((*own, *for_all), key=lambda record: record.offset))
        subject = said.subjects[ref]
        views[ref] = _view(
            Permissions(grants=subject.grants), subject.subject_view, subject.progress, len(subject.live)
        )
        for course, count in said.windows[_RELEASE].items():
            cells[course] += count
    return views, cells


def _view(
    permissions: Permissions | None,
    view: subject_view.SubjectPart,
    courses: dict[str, progress.CourseProgress],
    live: int,
) -> str:
    """Return the canonical JSON of all that a subject's views say."""
    grants = {} if permissions is None else permissions.grants
    return msgspec.json.encode([grants, view, courses, live], order="deterministic").decode()


async def fill(task: SealedFill) -> int:
    """Write a prepared ledger under a prefix; return its last offset."""
    cluster = ClusterSettings(bootstrap=task.bootstrap)
    await kafka.create(cluster, TOPICS, prefix=task.prefix)
    log = KafkaLog(cluster, partitions=1, prefix=task.prefix)
    await log.start()
    try:
        rows = msgspec.msgpack.decode((Path(task.home) / _ROWS_FILE).read_bytes(), type=_Rows)
        await log.append(LEDGER_REGISTRY, rows.registry)
        last = -1
        for start in range(0, len(rows.ledger), kafka.READ):
            last = (await log.append(LEDGER_EVENTS, rows.ledger[start : start + kafka.READ]))[-1]
        return last
    finally:
        await log.close()


@asynccontextmanager
async def opened(
    bootstrap: str, folder: Path, *, prefix: str, targets: Mapping[str, int]
) -> AsyncIterator[tuple[Runtime, kafka.WatchedLog]]:
    """Yield a runtime on Kafka of one partition, over a watched log."""
    cluster = ClusterSettings(bootstrap=bootstrap)
    settings = Settings(
        home=folder / "home", keys=folder / "keys", keystore=folder / "keystore.db",
        state=folder / "state", cluster=cluster, topic_prefix=prefix, partitions=1,
        data_home=folder / "data",
    )  # fmt: skip
    log = kafka.WatchedLog(cluster, topics=TOPICS, prefix=prefix, targets=targets)
    await log.start()
    try:
        async with open_runtime(settings, prepare=False) as wired:
            parts = structs.replace(wired.parts, log=log)
            yield structs.replace(wired, kafka=log, log=log, parts=parts), log
    finally:
        await log.close()


async def fold(task: SealedFold) -> Figure:
    """Run the passes of the bootstrap over a filled ledger, and compare all views with the oracle's."""
    folder, home = Path(task.folder), Path(task.home)
    shutil.copytree(home / "keys", folder / "keys")
    for file in (home / "home").glob("keystore.db*"):
        shutil.copy(file, folder / file.name)
    targets = {f"{name}.0": task.last for name in PASSES}
    async with opened(task.bootstrap, folder, prefix=task.prefix, targets=targets) as (runtime, log):
        engines = [engine_for(runtime, runtime.declared[name]) for name in PASSES]
        figure = await kafka.fold(engines, log, events=task.ledger.events)
        same, note = await _compare(runtime, log, task.ledger)
        return structs.replace(figure, is_exact=same, note=note)


async def _compare(runtime: Runtime, log: KafkaLog, ledger: Ledger) -> tuple[bool, str]:
    codec = runtime.states
    tables: tuple[Table[object], ...] = (PERMISSIONS, subject_view.TABLE, progress.TABLE)  # type: ignore[assignment] # read only
    found: dict[str, dict[bytes, object]] = {}
    for table in tables:
        rows = await kafka.latest(log, codec.topic(table))
        opened = codec.open_many(table, [(key, row.value) for key, row in rows.items()])
        found[table.name] = dict(zip(rows, opened, strict=True))
    live: defaultdict[bytes, int] = defaultdict(int)
    for key in await kafka.latest(log, "state.core.v1"):
        if key[:1] == b"i":
            live[key[1:17]] += 1
    views: dict[bytes, object] = {}
    for ref in found[PERMISSIONS.name]:
        view, courses = found["subject_view"].get(ref), found["progress"].get(ref)
        views[ref] = _view(
            found[PERMISSIONS.name][ref],  # type: ignore[arg-type] # of its table
            subject_view.merge(view) if view is not None else subject_view.SubjectPart(),  # type: ignore[arg-type] # of its table
            progress.merge(courses) if courses is not None else {},  # type: ignore[arg-type] # of its table
            live[ref],
        )
    row = await log.latest(ANALYTICS_PARTIALS, 0, bytes.fromhex(_RELEASE) + bytes(4))
    partial = runtime.state_codec(runtime.declared["analytics"], SUMS).open_partial(row) if row else None
    same_views = digest(views, str) == ledger.views
    same_cells = partial is not None and partial.cells == ledger.cells
    says = {True: "equal to the oracle's", False: "DIFFERENT from the oracle's"}
    note = f"views of {len(views)} subjects {says[same_views]}, sealed window {says[same_cells]}"
    return same_views and same_cells, note
