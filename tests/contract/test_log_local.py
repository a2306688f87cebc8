"""The embedded event log, and what only it promises: real removal, tags, other processes."""

import asyncio
import multiprocessing
import secrets
import sqlite3
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from privacy_ledger.adapters.local import LocalLog
from privacy_ledger.domain.errors import HomeUnusable, LogUnavailable, StoreFull
from privacy_ledger.domain.topics import (
    LEDGER_EVENTS,
    LEDGER_REGISTRY,
    LEDGER_UNATTRIBUTED,
    state_topic,
    view_topic,
)
from privacy_ledger.ports.log import EventLog, NewRecord
from privacy_ledger.testing.contracts.event_log import (
    PARTITIONS,
    EventLogContract,
    OpenLog,
    payload,
    read_all,
    values,
)

STATE = state_topic("core")
VIEW = view_topic("permissions")
PROCESS_BATCHES = 20
PROCESS_BATCH = 25
MARKER = b"MARKER-OF-AN-ERASED-VALUE"


class SettableClock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        """Start at a fixed time."""
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        """Return the time it was put to."""
        return self.time


@pytest.fixture
def clock() -> SettableClock:
    """Return the clock of this test's logs."""
    return SettableClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where this test's log lies."""
    return tmp_path / "log.db"


@pytest_asyncio.fixture
async def local(path: Path, clock: SettableClock) -> AsyncIterator[LocalLog]:
    """Yield an open log."""
    log = LocalLog(path, partitions=PARTITIONS, clock=clock)
    yield log
    await log.close()


class TestLocalLog(EventLogContract):
    """The contract on SQLite."""

    @pytest_asyncio.fixture
    async def open_log(self, path: Path, clock: SettableClock) -> AsyncIterator[OpenLog]:
        """Yield a function that opens the file once more."""
        opened: list[LocalLog] = []

        async def open_one() -> EventLog:
            opened.append(LocalLog(path, partitions=PARTITIONS, clock=clock))
            return opened[-1]

        yield open_one
        for log in opened:
            await log.close()


def bytes_on_disk(path: Path) -> bytes:
    """Return everything in the file, its write-ahead log and its shared memory."""
    return b"".join(part.read_bytes() for part in path.parent.glob(path.name + "*"))


def tagged(ref: bytes, tag: bytes, digest: bytes, *, record_id: bytes | None = None) -> NewRecord:
    """Return a ledger record that carries a tag."""
    key = ref + (record_id or secrets.token_bytes(16))
    return NewRecord(partition=0, key=key, value=b"v", headers=(("tag", tag), ("digest", digest)))


# Compaction --------------------------------------------------------------------------------


async def test_compaction_keeps_the_newest_record_of_each_key(local: LocalLog) -> None:
    """With its offset, so gaps appear and the order stays."""
    for number in range(6):
        await local.append(LEDGER_EVENTS, [payload(b"%d" % number, key=b"k%d" % (number % 2))])
    assert await local.compact(LEDGER_EVENTS) == 4
    rows = await read_all(local, LEDGER_EVENTS)
    assert [(row.offset, row.key, row.value) for row in rows] == [(4, b"k0", b"4"), (5, b"k1", b"5")]


async def test_offsets_go_on_after_everything_was_compacted_away(
    local: LocalLog, clock: SettableClock, path: Path
) -> None:
    """Also after a restart: an offset is never given twice."""
    await local.append(LEDGER_EVENTS, [payload(b"x"), payload(None)])
    clock.time += timedelta(days=8)
    assert await local.compact(LEDGER_EVENTS) == 2
    await local.close()
    again = LocalLog(path, partitions=PARTITIONS, clock=clock)
    assert (await again.end(LEDGER_EVENTS, 0), await again.append(LEDGER_EVENTS, [payload(b"y")])) == (
        2,
        (2,),
    )
    await again.close()


async def test_a_tombstone_stays_until_its_retention_has_passed(
    local: LocalLog, clock: SettableClock
) -> None:
    """Seven days: longer than the slowest reader."""
    await local.append(LEDGER_EVENTS, [payload(b"x"), payload(None)])
    clock.time += timedelta(days=6, hours=23)
    await local.compact(LEDGER_EVENTS)
    assert values(await read_all(local, LEDGER_EVENTS)) == [None]
    clock.time += timedelta(hours=2)
    await local.compact(LEDGER_EVENTS)
    assert await read_all(local, LEDGER_EVENTS) == ()


async def test_compaction_counts_nothing_beyond_its_point(local: LocalLog) -> None:
    """What remains is what a log that ended there would have kept."""
    await local.append(LEDGER_EVENTS, [payload(b"0"), payload(b"1"), payload(b"2"), payload(None)])
    await local.compact(LEDGER_EVENTS, until={0: 2})
    assert values(await read_all(local, LEDGER_EVENTS)) == [b"1", b"2", None]


async def test_a_second_compaction_goes_on_from_the_first(local: LocalLog) -> None:
    """A record kept then is removed when a newer one came."""
    await local.append(LEDGER_EVENTS, [payload(b"0"), payload(b"other", key=b"k2")])
    await local.compact(LEDGER_EVENTS)
    await local.append(LEDGER_EVENTS, [payload(b"1")])
    assert await local.compact(LEDGER_EVENTS) == 1
    assert values(await read_all(local, LEDGER_EVENTS)) == [b"other", b"1"]


async def test_a_registry_is_never_compacted(local: LocalLog, clock: SettableClock) -> None:
    """It has no retention either."""
    await local.append(LEDGER_REGISTRY, [payload(b"0"), payload(b"1")])
    clock.time += timedelta(days=4000)
    assert await local.compact(LEDGER_REGISTRY) == 0
    assert values(await read_all(local, LEDGER_REGISTRY)) == [b"0", b"1"]


async def test_the_lane_of_the_unknown_ends_after_fourteen_days(
    local: LocalLog, clock: SettableClock
) -> None:
    """Older records go, younger ones stay."""
    await local.append(LEDGER_UNATTRIBUTED, [payload(b"old")])
    clock.time += timedelta(days=10)
    await local.append(LEDGER_UNATTRIBUTED, [payload(b"young")])
    clock.time += timedelta(days=5)
    await local.compact(LEDGER_UNATTRIBUTED)
    assert values(await read_all(local, LEDGER_UNATTRIBUTED)) == [b"young"]


async def test_compacted_bytes_are_gone_from_the_disk(local: LocalLog, path: Path) -> None:
    """From the file and from its write-ahead log, with no exception for moved rows."""
    keys = [secrets.token_bytes(32) for _ in range(3000)]
    for start in range(0, len(keys), 100):
        await local.append(
            LEDGER_EVENTS,
            [
                NewRecord(partition=n % 2, key=key, value=MARKER + key * (n % 40))
                for n, key in enumerate(keys[start : start + 100])
            ],
        )
    await local.append(
        LEDGER_EVENTS, [payload(None, key=k, partition=n % 100 % 2) for n, k in enumerate(keys)]
    )
    await local.compact()
    found = (bytes_on_disk(path).count(MARKER), len(await read_all(local, LEDGER_EVENTS)))
    assert found == (0, 1500)


async def test_replaced_states_are_gone_from_the_disk(local: LocalLog, path: Path) -> None:
    """After a compaction; the newest of each key remains."""
    keys = [secrets.token_bytes(24) for _ in range(400)]
    for value in (MARKER * 10, MARKER * 3, b"now"):
        await local.append(STATE, [payload(value, key=key) for key in keys])
    await local.compact()
    assert (bytes_on_disk(path).count(MARKER), local.latest_many(STATE, 0, keys)) == (0, [b"now"] * 400)


async def test_a_reader_in_the_way_is_not_passed_over_in_silence(
    local: LocalLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old bytes are still in the write-ahead log, so the caller is told."""
    monkeypatch.setattr("privacy_ledger.adapters.local.log._CHECKPOINT_ATTEMPTS", 2)
    monkeypatch.setattr("privacy_ledger.adapters.local._database.BUSY_TIMEOUT_S", 0.1)
    impatient = LocalLog(path, partitions=PARTITIONS, clock=SettableClock())
    await local.append(LEDGER_EVENTS, [payload(MARKER), payload(None)])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM records").fetchone()
    with pytest.raises(LogUnavailable, match="Compact again"):
        await impatient.compact()
    reader.close()
    await impatient.compact()
    await impatient.close()
    assert MARKER not in bytes_on_disk(path)


async def test_appends_go_on_during_a_compaction(local: LocalLog) -> None:
    """Nothing is lost on either side."""
    await local.append(LEDGER_EVENTS, [payload(b"%d" % n, key=b"%d" % (n % 7)) for n in range(5000)])

    async def append() -> None:
        for number in range(20):
            await local.append(LEDGER_EVENTS, [payload(b"live", key=b"live%d" % number)])

    removed, _ = await asyncio.gather(local.compact(LEDGER_EVENTS), append())
    assert (removed, len(await read_all(local, LEDGER_EVENTS))) == (4993, 27)


# Latest-only topics ------------------------------------------------------------------------


async def test_a_state_topic_keeps_the_newest_row_per_key_at_once(local: LocalLog) -> None:
    """Without a compaction, and the offsets grow."""
    for number in range(3):
        await local.append_atomically([(STATE, payload(b"%d" % number)), (VIEW, payload(b"v"))], writer="w")
    rows = await read_all(local, STATE)
    assert [(row.offset, row.value) for row in rows] == [(2, b"2")]


async def test_many_look_ups_answer_in_the_order_of_the_keys(local: LocalLog) -> None:
    """More keys than one statement holds; absent and removed ones are None."""
    keys = [b"%04d" % number for number in range(1100)]
    await local.append(STATE, [payload(key, key=key) for key in keys])
    await local.append(STATE, [payload(None, key=b"0007")])
    expected = [None if key == b"0007" else key for key in reversed(keys)]
    assert local.latest_many(STATE, 0, [b"absent", *reversed(keys)]) == [None, *expected]
    assert (local.latest_many(STATE, 0, []), local.latest_many(STATE, 1, [b"k"])) == ([], [None])


async def test_many_look_ups_work_on_the_ledger_too(local: LocalLog) -> None:
    """The newest value of each key."""
    await local.append(
        LEDGER_EVENTS, [payload(b"1"), payload(b"2"), payload(b"x", key=b"k"), payload(None, key=b"k")]
    )
    assert local.latest_many(LEDGER_EVENTS, 0, [b"key", b"k"]) == [b"2", None]


@pytest.mark.parametrize("topic", [STATE, LEDGER_EVENTS])
async def test_a_scan_yields_live_keys_in_order(local: LocalLog, topic: str) -> None:
    """Of one prefix, over several pages."""
    keys = [b"a%04d" % number for number in range(1200)]
    await local.append(topic, [payload(b"old", key=key) for key in reversed(keys)])
    await local.append(topic, [payload(key, key=key) for key in keys])
    await local.append(
        topic, [payload(b"x", key=b"b"), payload(None, key=b"a0500"), payload(b"x", partition=1)]
    )
    expected = [(key, key) for key in keys if key != b"a0500"]
    assert list(local.scan_latest(topic, 0, b"a")) == expected


async def test_a_scan_knows_the_highest_keys(local: LocalLog) -> None:
    """A prefix of 0xff has no successor, and the empty one covers all."""
    await local.append(STATE, [payload(b"v", key=key) for key in (b"\xff\xff", b"\xff", b"\xfe\xff", b"")])
    assert [key for key, _ in local.scan_latest(STATE, 0, b"\xff")] == [b"\xff", b"\xff\xff"]
    assert [key for key, _ in local.scan_latest(STATE, 0, b"\xfe\xff")] == [b"\xfe\xff"]
    assert [key for key, _ in local.scan_latest(STATE, 0, b"")] == [b"", b"\xfe\xff", b"\xff", b"\xff\xff"]


# Tags --------------------------------------------------------------------------------------


async def test_a_live_tag_answers_with_its_digest(local: LocalLog) -> None:
    """Per subject: another reference with that tag is another record."""
    ada, bob = secrets.token_bytes(16), secrets.token_bytes(16)
    await local.append(
        LEDGER_EVENTS, [tagged(ada, b"t1", b"d1"), tagged(ada, b"t2", b"d2"), payload(b"untagged")]
    )
    assert local.live_tags(0, [(ada, b"t1"), (bob, b"t1"), (ada, b"t3")]) == {(ada, b"t1"): b"d1"}


async def test_the_oldest_record_of_a_tag_answers(local: LocalLog) -> None:
    """A later one with that tag was refused."""
    ada = secrets.token_bytes(16)
    await local.append(LEDGER_EVENTS, [tagged(ada, b"t", b"first"), tagged(ada, b"t", b"second")])
    assert local.live_tags(0, [(ada, b"t")]) == {(ada, b"t"): b"first"}


async def test_a_tag_goes_with_its_record(local: LocalLog) -> None:
    """At the tombstone, not at the compaction; and it may come back."""
    ada = secrets.token_bytes(16)
    record = tagged(ada, b"t", b"d")
    await local.append(LEDGER_EVENTS, [record, payload(None, key=record.key)])
    assert local.live_tags(0, [(ada, b"t")]) == {}
    await local.append(LEDGER_EVENTS, [tagged(ada, b"t", b"again")])
    await local.compact()
    assert local.live_tags(0, [(ada, b"t")]) == {(ada, b"t"): b"again"}


async def test_a_thousand_tags_at_once(local: LocalLog) -> None:
    """More than one statement holds."""
    pairs = [(secrets.token_bytes(16), b"%d" % number) for number in range(1000)]
    await local.append(LEDGER_EVENTS, [tagged(ref, tag, tag) for ref, tag in pairs])
    assert local.live_tags(0, pairs) == {pair: pair[1] for pair in pairs}
    assert (local.live_tags(0, []), local.live_tags(1, pairs)) == ({}, {})


# The file ----------------------------------------------------------------------------------


def append_in_a_process(path: str, name: str, start: "multiprocessing.synchronize.Barrier") -> None:
    """Append batches under this process's own key."""

    async def run() -> None:
        log = LocalLog(Path(path), partitions=PARTITIONS, clock=SettableClock())
        for batch in range(PROCESS_BATCHES):
            records = [
                payload(b"%d" % (batch * PROCESS_BATCH + n), key=name.encode()) for n in range(PROCESS_BATCH)
            ]
            await log.append(LEDGER_EVENTS, records)
        await log.close()

    start.wait()
    asyncio.run(run())


async def test_processes_append_and_read_at_the_same_time(path: Path) -> None:
    """Two processes create the file and append to it; this one reads meanwhile."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(3)
    processes = [
        spawn.Process(target=append_in_a_process, args=(str(path), name, start)) for name in ("a", "b")
    ]
    for process in processes:
        process.start()
    await asyncio.to_thread(start.wait, 60)
    log = LocalLog(path, partitions=PARTITIONS, clock=SettableClock())
    counts = [0]
    while any(process.is_alive() for process in processes):
        counts.append(len(await read_all(log, LEDGER_EVENTS)))
        await asyncio.sleep(0.005)
    rows = await read_all(log, LEDGER_EVENTS)
    await log.close()
    total = PROCESS_BATCHES * PROCESS_BATCH
    assert [process.exitcode for process in processes] == [0, 0]
    assert [row.offset for row in rows] == list(range(2 * total))
    for name in (b"a", b"b"):
        assert [row.value for row in rows if row.key == name] == [b"%d" % number for number in range(total)]
    assert counts == sorted(counts)
    assert {count % PROCESS_BATCH for count in counts} == {0}


async def test_a_full_disk_refuses_the_batch_and_loses_nothing(path: Path) -> None:
    """All of the batch is refused, what was acknowledged stays, and space lets it go on."""
    log = LocalLog(path, partitions=PARTITIONS, clock=SettableClock(), max_pages=120)
    acknowledged: list[bytes] = []

    async def fill() -> None:
        for number in range(1000):
            batch = [b"%d.%d" % (number, n) + bytes(3000) for n in range(10)]
            await log.append(LEDGER_EVENTS, [payload(value, key=value[:8]) for value in batch])
            acknowledged.extend(batch)

    with pytest.raises(StoreFull):
        await fill()
    assert acknowledged
    assert values(await read_all(log, LEDGER_EVENTS)) == acknowledged
    await log.close()
    roomy = LocalLog(path, partitions=PARTITIONS, clock=SettableClock())
    assert await roomy.append(LEDGER_EVENTS, [payload(b"next")]) == (len(acknowledged),)
    await roomy.close()


async def test_a_full_disk_refuses_an_atomic_append_as_a_whole(path: Path) -> None:
    """In every topic of it."""
    log = LocalLog(path, partitions=PARTITIONS, clock=SettableClock(), max_pages=60)
    writes = [(STATE, payload(b"small")), (LEDGER_EVENTS, payload(bytes(400_000)))]
    with pytest.raises(StoreFull):
        await log.append_atomically(writes, writer="w")
    assert (await read_all(log, STATE), await log.end(STATE, 0)) == ((), 0)
    await log.close()


async def test_the_logs_own_time_never_falls_behind_an_earlier_append(
    local: LocalLog, clock: SettableClock
) -> None:
    """A clock that was put back does not change the order of times."""
    await local.append(LEDGER_EVENTS, [payload(b"1")])
    clock.time -= timedelta(hours=1)
    await local.append(LEDGER_EVENTS, [payload(b"2")])
    first, second = await read_all(local, LEDGER_EVENTS)
    assert second.appended_ms == first.appended_ms


async def test_only_the_owner_may_read_the_file(local: LocalLog, path: Path) -> None:
    """The write-ahead log too."""
    await local.append(LEDGER_EVENTS, [payload(b"x")])
    modes = {part.name: stat.S_IMODE(part.stat().st_mode) for part in path.parent.glob(path.name + "*")}
    assert set(modes.values()) == {0o600}


def test_another_programs_database_is_refused_unchanged(path: Path) -> None:
    """It is not turned into a log."""
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE other(x)")
    foreign.close()
    before = path.read_bytes()
    with pytest.raises(HomeUnusable, match="not a ledger's log"):
        LocalLog(path, clock=SettableClock())
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_unchanged(path: Path) -> None:
    """Such as a text file."""
    path.write_bytes(b"hello, " * 1000)
    with pytest.raises(HomeUnusable, match="not a readable SQLite file"):
        LocalLog(path, clock=SettableClock())
    assert path.read_bytes() == b"hello, " * 1000


async def test_another_layout_is_refused(local: LocalLog, path: Path) -> None:
    """With both versions named."""
    await local.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(HomeUnusable, match="layout 7"):
        LocalLog(path, partitions=PARTITIONS, clock=SettableClock())


async def test_another_partition_count_is_refused(local: LocalLog, path: Path) -> None:
    """The order per person depends on it."""
    await local.append(LEDGER_EVENTS, [payload(b"x")])
    with pytest.raises(HomeUnusable, match="2 partitions, and 8"):
        LocalLog(path, partitions=8, clock=SettableClock())


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """It is not created in silence."""
    with pytest.raises(LogUnavailable, match="nowhere"):
        LocalLog(tmp_path / "nowhere" / "log.db", clock=SettableClock())


async def test_a_file_that_stays_locked_is_unavailable(
    path: Path, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The append is refused and can be tried again."""
    monkeypatch.setattr("privacy_ledger.adapters.local._database.BUSY_TIMEOUT_S", 0.1)
    log = LocalLog(path, partitions=PARTITIONS, clock=clock)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogUnavailable, match="locked"):
        await log.append(LEDGER_EVENTS, [payload(b"x")])
    other.execute("ROLLBACK")
    other.close()
    assert await log.append(LEDGER_EVENTS, [payload(b"x")]) == (0,)
    await log.close()
