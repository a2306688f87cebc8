"""Whatever is wrong with a partition has a name, on a real broker: no silent skip, nothing stuck."""

import asyncio
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest
import pytest_asyncio

from privacy_ledger.adapters.rocks_store import RocksStore
from privacy_ledger.adapters.views import TailedLatest
from privacy_ledger.domain.errors import LogUnavailable
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS, state_topic, view_topic
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine import anew, soundness
from privacy_ledger.engine.cycle import POSITION_KEY
from privacy_ledger.engine.kafka import NOTE_PROGRESS_S
from privacy_ledger.engine.rebuild import live_digests
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.ports.log import EventLog, NewRecord
from privacy_ledger.testing.broker import Broker
from tests.integration.damage import CORE_ALONE, Damaged, lines

STATE: Final = state_topic("core")
VIEW: Final = view_topic("progress")

pytestmark = pytest.mark.timeout(300)


@pytest_asyncio.fixture
async def damaged(kafka: Broker, tmp_path: Path) -> AsyncIterator[Damaged]:
    """Yield a cluster of one partition on which core has folded something and stopped."""
    cluster = Damaged(kafka.bootstrap, tmp_path, partitions=1)
    await cluster.create()
    await cluster.grow(1)
    yield cluster
    cluster.end()


# The store -----------------------------------------------------------------------------------------


def flip_bits(path: Path) -> None:
    """Flip a bit in every block of every table."""
    for table in path.glob("*.sst"):
        content = bytearray(table.read_bytes())
        for at in range(100, len(content), 2000):
            content[at] ^= 1
        table.write_bytes(content)


def delete_tables(path: Path) -> None:
    """Delete the tables and leave the manifest that names them."""
    for table in path.glob("*.sst"):
        table.unlink()


def delete_manifest(path: Path) -> None:
    """Delete the list of the tables."""
    for manifest in path.glob("MANIFEST-*"):
        manifest.unlink()


@pytest.mark.parametrize("damage", [flip_bits, delete_tables, delete_manifest])
async def test_a_corrupt_store_is_wiped_and_restored(
    damaged: Damaged, damage: Callable[[Path], None]
) -> None:
    """Whether it shows when it is opened or when it is read; the result is exact."""
    damage(damaged.store())
    async with damaged.core() as (runtime, engine):
        await damaged.exact(runtime)
        said = await damaged.outcome(engine, "store corrupt")
        assert "wipes it and restores it" in said
        assert engine.outcomes[0].is_over
        assert engine.is_ready


async def test_an_older_copy_of_a_store_is_harmless(damaged: Damaged, tmp_path: Path) -> None:
    """What came after it is read from the changelogs; deletions are among it."""
    copy = tmp_path / "copy"
    shutil.copytree(damaged.store(), copy)
    await damaged.grow(2)
    damaged.put_back(copy)
    async with damaged.core() as (runtime, engine):
        await damaged.exact(runtime)
        assert engine.outcomes == {}


async def test_a_store_that_is_too_old_is_wiped(damaged: Damaged) -> None:
    """It may have missed a tombstone that is gone: half of the time that tombstones stay is the bound."""
    store = RocksStore(damaged.store())
    store.write([soundness.time_stamp(datetime.now(UTC) - soundness.STALE_AFTER - timedelta(minutes=1))])
    store.close()
    async with damaged.core() as (runtime, engine):
        await damaged.exact(runtime)
        assert "last whole 3 days ago" in await damaged.outcome(engine, "store stale")
        assert engine.outcomes[0].is_over


async def test_a_store_of_another_partition_is_wiped(kafka: Broker, tmp_path: Path) -> None:
    """Though its files are whole, and its marks lie within the changelogs."""
    cluster = Damaged(kafka.bootstrap, tmp_path, partitions=2)
    await cluster.create()
    await cluster.grow(1)
    copy = tmp_path / "copy"
    shutil.copytree(cluster.store(1), copy)
    cluster.put_back(copy, 0)
    async with cluster.core() as (runtime, engine):
        await cluster.exact(runtime)
        assert "another pass or partition" in await cluster.outcome(engine, "store foreign")


async def test_a_store_of_an_earlier_life_of_the_topics_is_wiped(damaged: Damaged, tmp_path: Path) -> None:
    """The topics were made anew and have grown past its marks: offsets alone would not tell."""
    copy = tmp_path / "copy"
    shutil.copytree(damaged.store(), copy)
    await damaged.make_anew(STATE, VIEW, view_topic("subject_view"), view_topic("permissions"))
    shutil.rmtree(damaged.store())
    await damaged.grow(2, events=900)
    damaged.put_back(copy)
    async with damaged.core() as (runtime, engine):
        await damaged.exact(runtime)
        assert "earlier life" in await damaged.outcome(engine, "store foreign")


# The changelogs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [STATE, VIEW])
@pytest.mark.parametrize("has_store", [True, False])
async def test_a_truncated_changelog_is_named_and_the_state_is_built_anew(
    damaged: Damaged, topic: str, *, has_store: bool
) -> None:
    """Whether the local store still has it all or not: nobody else could restore from such a topic."""
    await damaged.delete_below(topic, 5)
    assert await damaged.doctor() == {"changelog truncated"}
    if not has_store:
        shutil.rmtree(damaged.store())
    async with damaged.core() as (runtime, engine):
        await damaged.exact(runtime)
        said = await damaged.outcome(engine, "changelog truncated")
        assert topic in said
        assert "begins at 5" in said
        assert "built again from the ledger" in said
    shutil.rmtree(damaged.store())
    async with damaged.core() as (runtime, engine):  # from now on it is whole again, where it begins
        await damaged.exact(runtime)
        assert engine.outcomes == {}


@pytest.mark.parametrize(("topic", "name"), [(VIEW, "changelog shortened"), (STATE, "changelog missing")])
async def test_a_changelog_that_lost_its_end_is_named_and_the_state_is_built_anew(
    damaged: Damaged, topic: str, name: str
) -> None:
    """As after an unclean change of leader: less is there than was acknowledged."""
    async with damaged.core() as (runtime, engine):
        await runtime.passes.settle(timeout_s=60)
        await _noted()
    await damaged.make_anew(topic)
    async with damaged.core() as (runtime, engine):
        await damaged.exact(runtime)
        assert name in {outcome.name for outcome in engine.outcomes.values()}
        assert all(outcome.is_over for outcome in engine.outcomes.values())


async def test_a_changelog_that_loses_its_end_while_it_is_written_is_noticed(damaged: Damaged) -> None:
    """By the next transaction that writes to it, and the state is built anew."""
    async with damaged.core() as (runtime, engine):
        await damaged.exact(runtime)
        await damaged.make_anew(VIEW)
        await damaged.take(runtime, lines(5, 300))
        await damaged.outcome(engine, "changelog shortened")
        async with damaged.runtime(CORE_ALONE) as reader:  # one that knows nothing of the lost topic
            await damaged.exact(reader)
        assert engine.outcomes[0].is_over


async def test_a_state_that_was_half_built_is_built_again(
    damaged: Damaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between the deletions and the new rows; nobody folds on such a state."""
    await damaged.delete_below(STATE, 5)

    async def die(*_: object) -> int:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(anew, "_write", die)
        async with damaged.core() as (_, engine):
            await damaged.outcome(engine, "changelog truncated")
            await asyncio.sleep(2)
            assert engine.running == ()
    async with damaged.core() as (runtime, engine):
        await damaged.exact(runtime)
        await damaged.outcome(engine, "changelog unfinished")
        assert engine.outcomes[0].is_over


async def _noted() -> None:
    """Wait until the engine has said in the changelogs how far they reach."""
    await asyncio.sleep(NOTE_PROGRESS_S + 3)


async def test_a_compacted_changelog_is_whole(kafka: Broker, tmp_path: Path) -> None:
    """Cleaned to its last values, it gives the same state to an empty store."""
    cluster = Damaged(kafka.bootstrap, tmp_path, partitions=1)
    await cluster.create(scale_ms=2000)
    await cluster.grow(1)
    async with cluster.core() as (runtime, _):
        end = await runtime.log.end(STATE, 0)
        async with asyncio.timeout(90):
            while await _has_old_position(runtime.log, below=end):
                await runtime.registrar.tick(force=True)
                await asyncio.sleep(1)
    shutil.rmtree(cluster.store())
    async with cluster.core() as (runtime, engine):
        await cluster.exact(runtime)
        assert engine.outcomes == {}


async def _has_old_position(log: EventLog, *, below: int) -> bool:
    """Return whether the cleaner has not been there yet: every cycle writes the position anew."""
    after = -1
    while rows := await log.read(STATE, 0, after=after, limit=5000):
        if any(row.key == POSITION_KEY and row.offset < below for row in rows):
            return True
        after = rows[-1].offset
    return False


# The ledger --------------------------------------------------------------------------------------------


async def test_a_ledger_that_ends_below_the_position_stops_the_partition(damaged: Damaged) -> None:
    """The position lies above the high water: nothing is folded, and nobody is ready."""
    assert await damaged.doctor() == set()
    await damaged.make_anew(LEDGER_EVENTS)
    assert await damaged.doctor() == {"ledger rewound"}
    async with damaged.core() as (_, engine):
        said = await damaged.outcome(engine, "ledger rewound")
        assert "ends at 0, below offset" in said
        assert "Restore the topic from a backup" in said
        assert not engine.is_ready
        assert not engine.outcomes[0].is_over


async def test_a_ledger_that_is_made_anew_while_it_is_folded_stops_the_partition(damaged: Damaged) -> None:
    """As after an unclean change of leader: what was folded is not there any more."""
    async with damaged.core() as (runtime, engine):
        await runtime.passes.settle(timeout_s=60)
        await damaged.make_anew(LEDGER_EVENTS)
        await damaged.outcome(engine, "ledger rewound")
        assert engine.running == ()


async def test_a_ledger_that_lost_what_was_not_folded_stops_the_partition(damaged: Damaged) -> None:
    """Its beginning was deleted past the position: the records between would be skipped without a word."""
    async with damaged.runtime() as runtime:
        folded = (await runtime.views.position("core", 0)).offset
        await runtime.registrar.tick(force=True)
        await runtime.registrar.tick(force=True)
    await damaged.delete_below(LEDGER_EVENTS, folded + 2)
    assert await damaged.doctor() == {"ledger truncated"}
    async with damaged.core() as (_, engine):
        said = await damaged.outcome(engine, "ledger truncated")
        assert f"begins at {folded + 2}" in said
        assert engine.running == ()


# Records -----------------------------------------------------------------------------------------------


async def test_records_that_nobody_should_write_are_set_aside_by_name(kafka: Broker, tmp_path: Path) -> None:
    """In a wrong partition, of a type nobody knows, without a key: each gets a pointer with its reason."""
    cluster = Damaged(kafka.bootstrap, tmp_path, partitions=2)
    await cluster.create()
    await cluster.grow(1)
    async with cluster.core() as (runtime, engine):
        await runtime.passes.settle(timeout_s=60)
        rows = await runtime.log.read(LEDGER_EVENTS, 0, after=-1, limit=5000)
        sealed = [row for row in rows if row.value is not None and row.value[:1] == b"\x01"]
        one, other = sealed[0], next(row for row in sealed if row.key[:16] != sealed[0].key[:16])
        fresh = b"\x07" * 16
        unknown = tuple((n, b"usage.invented.v9" if n == "ce_type" else v) for n, v in one.headers)
        await runtime.log.append(LEDGER_EVENTS, [
            NewRecord(1, one.key, one.value, one.headers),
            NewRecord(0, one.key[:16] + fresh, one.value, unknown),
            NewRecord(0, other.key, None),
        ])  # fmt: skip
        with pytest.raises(LogUnavailable, match="UnknownError"):
            await cluster.send_without_key(LEDGER_EVENTS)
        async with cluster.policy(LEDGER_EVENTS, "delete"):
            await cluster.send_without_key(LEDGER_EVENTS)
        await cluster.exact(runtime)
        assert await _reasons(runtime.log) == {"wrong_partition": 1, "unknown_type": 1, "key_length": 1}
        assert engine.is_ready
        assert engine.outcomes == {}
        owner = [row.record_id for row in await runtime.views.live(SubjectRef(other.key[:16]))]
        assert other.key[16:] in owner  # a foreign tombstone takes nobody's record


async def _reasons(log: EventLog) -> Counter[str]:
    """Return how many pointers the core pass wrote, by their reason."""
    found: Counter[str] = Counter()
    for partition in range(log.partitions(DLQ)):
        rows = await log.read(DLQ, partition, after=-1, limit=5000)
        pointers = [msgspec.json.decode(row.value or b"{}") for row in rows]
        found.update(one["reason"] for one in pointers if one.get("pass") == "core")
    return found


async def test_a_compacted_ledger_gives_the_same_state(kafka: Broker, tmp_path: Path) -> None:
    """Its offsets have holes where removed records lay; a pass that begins now ends as the one before."""
    cluster = Damaged(kafka.bootstrap, tmp_path, partitions=1)
    await cluster.create(scale_ms=2000)
    for seed in (1, 2, 3):
        await cluster.grow(seed, events=300)
    async with cluster.core() as (runtime, _):
        end = await runtime.log.end(LEDGER_EVENTS, 0)
        async with asyncio.timeout(90):
            while await _holes(runtime.log, below=end) == 0:
                await runtime.registrar.tick(force=True)
                await asyncio.sleep(1)
        before = await live_digests(
            runtime.declared["core"], runtime.states, TailedLatest(runtime.log), partitions=1
        )
    await cluster.make_anew(STATE, VIEW, view_topic("subject_view"), view_topic("permissions"))
    async with cluster.core() as (runtime, _):
        await runtime.passes.settle(timeout_s=90)
        after = await live_digests(
            runtime.declared["core"], runtime.states, TailedLatest(runtime.log), partitions=1
        )
        assert after == before
        assert (await verify(runtime)).is_equal


async def _holes(log: EventLog, *, below: int) -> int:
    """Return how many sealed records have gone: their tombstones are there, and they are not."""
    rows = await log.read(LEDGER_EVENTS, 0, after=-1, limit=10_000)
    values = {row.key for row in rows if row.value is not None}
    return sum(row.value is None and row.offset < below and row.key not in values for row in rows)


# The device --------------------------------------------------------------------------------------------


@contextmanager
def small_device(path: Path) -> Iterator[None]:
    """Put a device of a few megabytes under a folder, where this user may mount one."""
    path.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a device; tests/unit/test_rocks_store.py fills one by a limit")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


async def test_a_full_device_is_named_and_passes(kafka: Broker, tmp_path: Path) -> None:
    """Nothing that was committed is lost; with space again the partition goes on by itself."""
    cluster = Damaged(kafka.bootstrap, tmp_path, partitions=1)
    await cluster.create()
    ballast = tmp_path / "state" / "ballast"
    with small_device(tmp_path / "state"):
        async with cluster.core() as (runtime, engine):
            await runtime.registrar.tick(force=True)
            await cluster.take(runtime, lines(1, 300))
            await runtime.passes.settle(timeout_s=90)
            assert engine.outcomes == {}
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(1000)):
                    pass
            await cluster.take(runtime, lines(2, 300))
            await runtime.registrar.tick(force=True)
            said = await cluster.outcome(engine, "store full")
            assert "Free space" in said
            ballast.unlink()
            await cluster.exact(runtime)
            async with asyncio.timeout(60):
                while not engine.is_ready:  # noqa: ASYNC110 - it comes back by itself
                    await asyncio.sleep(0.1)
            assert engine.outcomes[0].is_over
