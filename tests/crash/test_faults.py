"""The fault seam: which calls have points, what an end leaves behind, and that it is the end."""

import asyncio
import inspect
from collections.abc import Sequence
from pathlib import Path

import pytest

from privacy_ledger import bootstrap
from privacy_ledger._keystore import Restorer
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.keystore._keeper import Keeper
from privacy_ledger.adapters.keystore.postgres import PostgresKeyVault
from privacy_ledger.adapters.keystore.sqlite import SqliteKeyVault
from privacy_ledger.adapters.local.lock import WorkerLock
from privacy_ledger.adapters.local.log import LocalLog
from privacy_ledger.adapters.local.state_store import LogStateStore
from privacy_ledger.adapters.rocks_store import RocksStore
from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_REGISTRY
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.testing.faults import EFFECTS, HOUSEKEEPING, READS, Mode, Point, Seam, Stopped, Write
from tests.unit.home import settings

APPEND = f"log.append {LEDGER_EVENTS}"
RECORDS = tuple(NewRecord(partition, b"k" * 32, b"v") for partition in (0, 2, 1, 0))
PORTS = {
    "log": (LocalLog, KafkaLog), "vault": (SqliteKeyVault, PostgresKeyVault),
    "store": (LogStateStore, RocksStore),
    "lock": (WorkerLock,), "keeper": (Keeper, Restorer),
}  # fmt: skip


@pytest.mark.parametrize("kind", PORTS)
def test_every_method_of_every_adapter_is_known_to_the_seam(kind: str) -> None:
    """A new one must be said to have an effect, or not: nothing goes unnumbered."""
    names = {
        name
        for adapter in PORTS[kind]
        for name, _ in inspect.getmembers(adapter, inspect.isfunction)
        if not name.startswith("_")
    }
    assert names == EFFECTS[kind] | READS[kind] | HOUSEKEEPING[kind]


def test_a_call_that_is_not_known_is_refused() -> None:
    """It cannot be numbered."""

    class Odd:
        def unheard_of(self) -> None:
            """Do something."""

    with pytest.raises(NotImplementedError):
        Seam()("vault", Odd()).unheard_of()


@pytest.mark.parametrize(
    ("mode", "left"), [(Mode.BEFORE, []), (Mode.PART, [0, 0, 1]), (Mode.AFTER, [0, 0, 1, 2])]
)
async def test_an_append_ends_before_in_or_after_its_effect(
    tmp_path: Path, mode: Mode, left: Sequence[int]
) -> None:
    """In: all partitions but the last have their records, as on Kafka."""
    seam = Seam(stop_at=Point(APPEND, 1, mode))
    with pytest.raises(Stopped):
        async with bootstrap.open_runtime(settings(tmp_path), prepare=False, wrap=seam) as runtime:
            await runtime.log.append(LEDGER_EVENTS, RECORDS)
    async with bootstrap.open_runtime(settings(tmp_path), prepare=False) as runtime:
        rows = [row for part in range(4) for row in await runtime.log.read(LEDGER_EVENTS, part, after=-1)]
    assert [row.partition for row in rows] == left
    assert seam.stopped_at == Point(APPEND, 1, mode)


async def test_what_has_ended_has_no_effect_any_more(tmp_path: Path) -> None:
    """Every port is dead, whatever clean-up code calls; files and the lock are given back."""
    seam = Seam(stop_at=Point("lock.try_acquire", 1, Mode.AFTER))
    async with bootstrap.open_runtime(settings(tmp_path), prepare=False, wrap=seam) as runtime:
        with pytest.raises(Stopped):
            await runtime.passes.settle()
        with pytest.raises(Stopped):
            await runtime.log.append(LEDGER_EVENTS, RECORDS)
        with pytest.raises(Stopped):
            runtime.vault.secret("row-key")
        with pytest.raises(Stopped):
            await runtime.log.read(LEDGER_EVENTS, 0, after=-1)
    async with bootstrap.open_runtime(settings(tmp_path), prepare=False) as runtime:
        assert runtime.embedded is not None
        assert await runtime.log.end(LEDGER_EVENTS, 0) == 0
        assert await runtime.embedded.acquire()


async def test_calls_are_numbered_by_name_and_reads_have_one_point(tmp_path: Path) -> None:
    """What a call does inside is part of it: a store that reads the log is one call."""
    written: list[Write] = []

    async def note(_: Seam, writes: Sequence[Write]) -> None:
        written.extend(writes)

    seam = Seam(on_write=note)
    async with bootstrap.open_runtime(settings(tmp_path), prepare=False, wrap=seam) as runtime:
        del seam.points[:]
        await runtime.log.append(LEDGER_REGISTRY, (NewRecord(0, b"a", b"1"),))
        await runtime.log.append(LEDGER_REGISTRY, (NewRecord(0, b"b", b"2"),))
        await runtime.log.read(LEDGER_REGISTRY, 0, after=-1)
        seam.phase = "later"
        await runtime.views.meta(0)
        await runtime.log.read(LEDGER_REGISTRY, 0, after=-1)
    append, read = f"log.append {LEDGER_REGISTRY}", f"log.read {LEDGER_REGISTRY}"
    assert [str(point) for point in seam.points[:5]] == [
        f"{append} #1 before", f"{append} #1 after", f"{append} #2 before", f"{append} #2 after",
        f"{read} #1 before",
    ]  # fmt: skip
    assert str(seam.points[-1]) == f"later {read} #1 before"
    assert [write.record.key for write in written] == [b"a", b"b"]


def test_a_point_is_read_as_it_is_written() -> None:
    """A report's point can be given to the command again."""
    point = Point("folding log.append_atomically core.0", 12, Mode.AFTER)
    assert Point.read(str(point)) == point
    with pytest.raises(ValueError, match="invalid literal"):
        Point.read("log.append")


def test_ids_are_the_same_in_each_run_of_a_seed() -> None:
    """So that the points are; another seed draws others."""
    drawn = [Seam(seed=seed)("ids", SystemIds()).token() for seed in ("a", "a", "b")]
    assert drawn[0] == drawn[1] != drawn[2]


async def test_a_call_under_way_at_the_end_takes_effect_and_is_not_answered() -> None:
    """As a request that was sent before the kill."""
    started, answer = asyncio.Event(), asyncio.Event()

    class Slow:
        """A log whose append takes its time."""

        records = 0

        async def append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
            """Append when told to."""
            del topic
            started.set()
            await answer.wait()
            self.records += len(records)
            return tuple(range(len(records)))

        async def end(self, topic: str, partition: int) -> int:
            """Return a number."""
            del topic
            return partition

    bare = Slow()
    seam = Seam(stop_at=Point(f"log.end {LEDGER_EVENTS}", 1, Mode.BEFORE))
    log = seam("log", bare)
    sent = asyncio.create_task(log.append(LEDGER_EVENTS, RECORDS))
    await started.wait()
    with pytest.raises(Stopped):
        await log.end(LEDGER_EVENTS, 0)
    answer.set()
    with pytest.raises(Stopped):
        await sent
    assert bare.records == len(RECORDS)
