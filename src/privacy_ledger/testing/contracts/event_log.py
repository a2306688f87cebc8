"""The contract of `EventLog`: inherit `EventLogContract` and give it the fixture `open_log`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import pytest
import pytest_asyncio

from privacy_ledger.domain.errors import Fenced, InvariantViolation, LogUnavailable
from privacy_ledger.domain.topics import (
    LEDGER_EVENTS,
    LEDGER_REGISTRY,
    TOPICS,
    state_topic,
    version_topics,
    view_topic,
)
from privacy_ledger.ports.log import EventLog, NewRecord, Row, TopicKeeper

__all__ = [
    "CONTRACT_TOPICS",
    "PARTITIONS",
    "EventLogContract",
    "OpenLog",
    "eventually_reads",
    "payload",
    "read_all",
    "values",
]

PARTITIONS: Final = 2
"""The partitions that every log under contract is opened with."""
_STATE: Final = state_topic("core")
_VIEW: Final = view_topic("permissions")
CONTRACT_TOPICS: Final = tuple(t for t in TOPICS if t.name in {LEDGER_EVENTS, LEDGER_REGISTRY, _STATE, _VIEW})
_LATER: Final = version_topics("permissions", 2, folded_by="permissions-v2", role="core")
_VISIBLE_S: Final = 15.0
_WRITER: Final = "core.0"
_HEADERS: Final = (("ce_type", b"profile.updated.v1"), ("tag", b"00ff"), ("tag", b""), ("mac", b"a=b;c"))

OpenLog = Callable[[], Awaitable[EventLog]]
"""Opens one more instance on the data of this test."""


def payload(value: bytes | None, *, key: bytes = b"key", partition: int = 0) -> NewRecord:
    """Return a record with defaults for what a test does not care about."""
    return NewRecord(partition=partition, key=key, value=value)


async def read_all(log: EventLog, topic: str, partition: int = 0, *, limit: int = 1000) -> tuple[Row, ...]:
    """Return everything that is committed now."""
    rows: list[Row] = []
    while page := await log.read(topic, partition, after=rows[-1].offset if rows else -1, limit=limit):
        rows += page
    return tuple(rows)


async def eventually_reads(log: EventLog, topic: str, count: int, *, partition: int = 0) -> tuple[Row, ...]:
    """Return the rows once there are `count`: a transaction may become readable a little later."""
    deadline = time.monotonic() + _VISIBLE_S
    # There is nothing to wait on: the log tells no one that a transaction has become readable.
    while len(rows := await read_all(log, topic, partition)) < count and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return rows


def values(rows: Sequence[Row]) -> list[bytes | None]:
    """Return the values of rows, in order."""
    return [row.value for row in rows]


class EventLogContract:
    """Everything that an `EventLog` promises, on whatever it is built.

    A subclass has a fixture `open_log` that yields an `OpenLog` on data of the test's own: every
    call opens one more instance of `PARTITIONS` partitions on them, and all are closed afterwards.
    """

    @pytest_asyncio.fixture
    async def log(self, open_log: OpenLog) -> EventLog:
        """Return an open log without records."""
        return await open_log()

    async def test_records_of_a_partition_keep_their_order(self, log: EventLog) -> None:
        """What was appended first is read first."""
        sent = [b"%d" % number for number in range(50)]
        await log.append(LEDGER_EVENTS, [payload(value, key=value) for value in sent])
        assert values(await read_all(log, LEDGER_EVENTS)) == sent

    async def test_order_holds_across_appends(self, log: EventLog) -> None:
        """A later call appends after an earlier one."""
        for value in (b"1", b"2", b"3"):
            await log.append(LEDGER_EVENTS, [payload(value, key=value)])
        assert values(await read_all(log, LEDGER_EVENTS)) == [b"1", b"2", b"3"]

    async def test_a_record_goes_to_the_partition_it_names(self, log: EventLog) -> None:
        """The key decides nothing."""
        await log.append(LEDGER_EVENTS, [payload(b"one", partition=1), payload(b"zero", partition=0)])
        one, zero = await read_all(log, LEDGER_EVENTS, 1), await read_all(log, LEDGER_EVENTS, 0)
        assert [(row.partition, row.value) for row in (*zero, *one)] == [(0, b"zero"), (1, b"one")]

    async def test_offsets_are_returned_in_the_order_of_the_records(self, log: EventLog) -> None:
        """Each returned offset is the one under which the record is read."""
        sent = [payload(b"%d" % n, key=b"%d" % n, partition=n % 2) for n in range(20)]
        offsets = await log.append(LEDGER_EVENTS, sent)
        rows = {
            (r.partition, r.offset): r.value for p in (0, 1) for r in await read_all(log, LEDGER_EVENTS, p)
        }
        assert rows == {(r.partition, o): r.value for r, o in zip(sent, offsets, strict=True)}

    async def test_offsets_of_a_partition_ascend(self, log: EventLog) -> None:
        """No offset is given twice, also over several calls."""
        offsets = [
            offset for _ in range(5) for offset in await log.append(LEDGER_EVENTS, [payload(b"x")] * 3)
        ]
        assert offsets == sorted(set(offsets))

    async def test_the_first_offset_of_a_partition_is_zero(self, log: EventLog) -> None:
        """Reading after -1 is reading from the beginning."""
        assert await log.append(LEDGER_EVENTS, [payload(b"x")]) == (0,)

    async def test_appending_nothing_changes_nothing(self, log: EventLog) -> None:
        """An empty batch is no error."""
        assert (await log.append(LEDGER_EVENTS, []), await log.end(LEDGER_EVENTS, 0)) == ((), 0)

    async def test_headers_come_back_byte_for_byte(self, log: EventLog) -> None:
        """Order, repeated names and empty values survive."""
        await log.append(LEDGER_EVENTS, [NewRecord(partition=0, key=b"k", value=b"v", headers=_HEADERS)])
        assert [row.headers for row in await read_all(log, LEDGER_EVENTS)] == [_HEADERS]

    async def test_a_record_without_headers_has_none(self, log: EventLog) -> None:
        """Nothing is added."""
        await log.append(LEDGER_EVENTS, [payload(b"v")])
        assert [row.headers for row in await read_all(log, LEDGER_EVENTS)] == [()]

    async def test_a_tombstone_comes_back_as_none(self, log: EventLog) -> None:
        """With its key and its headers."""
        await log.append(LEDGER_EVENTS, [NewRecord(partition=0, key=b"k", value=None, headers=_HEADERS)])
        rows = await read_all(log, LEDGER_EVENTS)
        assert [(row.key, row.value, row.headers) for row in rows] == [(b"k", None, _HEADERS)]

    async def test_an_empty_value_is_not_a_tombstone(self, log: EventLog) -> None:
        """No bytes and no value are two things."""
        await log.append(LEDGER_EVENTS, [payload(b"")])
        assert values(await read_all(log, LEDGER_EVENTS)) == [b""]

    async def test_naughty_bytes_survive_in_keys_and_values(self, log: EventLog) -> None:
        """Zeros, quotes, invalid UTF-8, `null` and every byte there is."""
        naughty = [
            b"\0",
            b"\0" * 32,
            b"'; DROP TABLE records; --",
            b"\xff\xfe",
            b"null",
            bytes(range(256)),
            b"%_\r\n",
        ]
        await log.append(LEDGER_EVENTS, [payload(value, key=value) for value in naughty])
        rows = await read_all(log, LEDGER_EVENTS)
        assert [(row.key, row.value) for row in rows] == [(value, value) for value in naughty]

    async def test_a_large_record_survives(self, log: EventLog) -> None:
        """900 KB, between two small ones."""
        large = bytes(range(256)) * 3516
        await log.append(LEDGER_EVENTS, [payload(b"a"), payload(large), payload(b"b")])
        assert values(await read_all(log, LEDGER_EVENTS)) == [b"a", large, b"b"]

    async def test_several_large_records_come_back_whole(self, log: EventLog) -> None:
        """More than one fetch or one batch holds."""
        large = [bytes([number]) * 900_000 for number in range(6)]
        await log.append(LEDGER_EVENTS, [payload(value, key=value[:1]) for value in large])
        assert values(await read_all(log, LEDGER_EVENTS)) == large

    async def test_a_thousand_records_in_one_call(self, log: EventLog) -> None:
        """More than one internal batch, in order."""
        sent = [b"%d" % number for number in range(1200)]
        await log.append(LEDGER_EVENTS, [payload(value, key=value) for value in sent])
        assert values(await read_all(log, LEDGER_EVENTS, limit=333)) == sent

    async def test_after_is_exclusive(self, log: EventLog) -> None:
        """A reader passes the last offset that it has seen."""
        offsets = await log.append(LEDGER_EVENTS, [payload(b"%d" % number) for number in range(5)])
        rows = await log.read(LEDGER_EVENTS, 0, after=offsets[2])
        assert values(rows) == [b"3", b"4"]

    async def test_a_limit_is_kept(self, log: EventLog) -> None:
        """And the next call goes on where it stopped."""
        await log.append(LEDGER_EVENTS, [payload(b"%d" % number) for number in range(5)])
        first = await log.read(LEDGER_EVENTS, 0, after=-1, limit=2)
        second = await log.read(LEDGER_EVENTS, 0, after=first[-1].offset, limit=2)
        assert values((*first, *second)) == [b"0", b"1", b"2", b"3"]

    async def test_a_reader_may_go_back(self, log: EventLog) -> None:
        """Reading has no memory: the same question has the same answer."""
        await log.append(LEDGER_EVENTS, [payload(b"%d" % number) for number in range(5)])
        first = await log.read(LEDGER_EVENTS, 0, after=-1, limit=3)
        await log.read(LEDGER_EVENTS, 0, after=3)
        assert await log.read(LEDGER_EVENTS, 0, after=-1, limit=3) == first

    async def test_reading_at_the_end_is_empty(self, log: EventLog) -> None:
        """Also far beyond it, and it does not start over."""
        await log.append(LEDGER_EVENTS, [payload(b"x")])
        assert (await log.read(LEDGER_EVENTS, 0, after=0), await log.read(LEDGER_EVENTS, 0, after=999)) == (
            (),
            (),
        )

    async def test_a_partition_never_written_is_empty(self, log: EventLog) -> None:
        """Nothing to read, no newest record, end zero."""
        answers = (
            await log.read(_VIEW, 1, after=-1),
            await log.latest(_VIEW, 1, b"k"),
            await log.end(_VIEW, 1),
        )
        assert answers == ((), None, 0)

    async def test_a_reader_sees_what_comes_later(self, log: EventLog) -> None:
        """A reader that stood at the end goes on."""
        await log.append(LEDGER_EVENTS, [payload(b"1")])
        await read_all(log, LEDGER_EVENTS)
        await log.append(LEDGER_EVENTS, [payload(b"2")])
        assert values(await log.read(LEDGER_EVENTS, 0, after=0)) == [b"2"]

    async def test_read_at_returns_the_named_offsets(self, log: EventLog) -> None:
        """Near and far ones, ascending, and none in between."""
        await log.append(LEDGER_EVENTS, [payload(b"%d" % number) for number in range(700)])
        rows = await log.read_at(LEDGER_EVENTS, 0, (0, 1, 5, 600, 699))
        assert [(row.offset, row.value) for row in rows] == [(n, b"%d" % n) for n in (0, 1, 5, 600, 699)]

    async def test_read_at_leaves_out_what_is_not_there(self, log: EventLog) -> None:
        """An offset at or beyond the end is no error."""
        await log.append(LEDGER_EVENTS, [payload(b"%d" % number) for number in range(3)])
        assert values(await log.read_at(LEDGER_EVENTS, 0, (1, 3, 5000))) == [b"1"]

    async def test_read_at_without_offsets_is_empty(self, log: EventLog) -> None:
        """No question, no answer."""
        assert await log.read_at(LEDGER_EVENTS, 0, ()) == ()

    async def test_latest_is_the_newest_record_of_a_key(self, log: EventLog) -> None:
        """Other keys and other partitions do not count."""
        sent = [
            payload(b"old"),
            payload(b"other", key=b"key2"),
            payload(b"new"),
            payload(b"far", partition=1),
        ]
        await log.append(LEDGER_EVENTS, sent)
        newest = await log.latest(LEDGER_EVENTS, 0, b"key")
        assert newest is not None
        assert (newest.offset, newest.value) == (2, b"new")

    async def test_latest_may_be_a_tombstone(self, log: EventLog) -> None:
        """A removed key answers that it was removed."""
        await log.append(LEDGER_EVENTS, [payload(b"old"), payload(None)])
        newest = await log.latest(LEDGER_EVENTS, 0, b"key")
        assert newest is not None
        assert (newest.offset, newest.value) == (1, None)

    async def test_latest_lies_anywhere_in_a_long_partition(self, log: EventLog) -> None:
        """At its beginning, in its middle, at its end; and one that is not there is looked for everywhere."""
        many = [payload(b"%d" % number, key=b"%d" % number) for number in range(2600)]
        for start in range(0, len(many), 500):
            await log.append(_STATE, many[start : start + 500])
        await log.append(_STATE, [payload(b"again", key=b"1100")])
        found = [await log.latest(_STATE, 0, key) for key in (b"0", b"1100", b"1599", b"2599", b"none")]
        offsets = [None if row is None else row.offset for row in found]
        assert offsets == [0, 2600, 1599, 2599, None]

    async def test_latest_of_an_unknown_key_is_none(self, log: EventLog) -> None:
        """A prefix of a key is another key."""
        await log.append(LEDGER_EVENTS, [payload(b"x")])
        assert await log.latest(LEDGER_EVENTS, 0, b"ke") is None

    async def test_latest_of_a_view_row_is_its_last_state(self, log: EventLog) -> None:
        """In topics that may keep the newest record only, too."""
        await log.append(_VIEW, [payload(b"1"), payload(b"2"), payload(b"x", key=b"k2"), payload(b"3")])
        newest = await log.latest(_VIEW, 0, b"key")
        assert newest is not None
        assert (newest.offset, newest.value) == (3, b"3")

    async def test_end_follows_the_last_record(self, log: EventLog) -> None:
        """Per partition, tombstones and replaced rows counted."""
        await log.append(_STATE, [payload(b"a"), payload(b"b"), payload(None)])
        assert (await log.end(_STATE, 0), await log.end(_STATE, 1)) == (3, 0)

    async def test_the_logs_own_time_never_falls(self, log: EventLog) -> None:
        """Whatever the order of the clocks that wrote."""
        for _ in range(3):
            await log.append(LEDGER_EVENTS, [payload(b"x"), payload(b"y")])
        times = [row.appended_ms for row in await read_all(log, LEDGER_EVENTS)]
        assert times == sorted(times)

    async def test_an_atomic_append_reaches_every_topic_and_partition(self, log: EventLog) -> None:
        """In the order given, per partition."""
        writes = [
            (_STATE, payload(b"1")),
            (_VIEW, payload(b"2", partition=1)),
            (_STATE, payload(b"3", key=b"k2")),
        ]
        await log.append_atomically(writes, writer=_WRITER)
        state = await eventually_reads(log, _STATE, 2)
        view = await eventually_reads(log, _VIEW, 1, partition=1)
        assert (values(state), values(view)) == ([b"1", b"3"], [b"2"])

    async def test_an_atomic_append_says_where_it_ends_in_each_partition(self, log: EventLog) -> None:
        """The offset of its last record there, which a reader finds again."""
        await log.append_atomically([(_STATE, payload(b"0"))], writer=_WRITER)
        writes = [
            (_STATE, payload(b"1")),
            (_VIEW, payload(b"2", partition=1)),
            (_STATE, payload(b"3", key=b"k2")),
        ]
        ends = await log.append_atomically(writes, writer=_WRITER)
        state = await eventually_reads(log, _STATE, 3)
        view = await eventually_reads(log, _VIEW, 1, partition=1)
        assert ends == {(_STATE, 0): state[-1].offset, (_VIEW, 1): view[-1].offset}

    async def test_atomic_appends_follow_each_other(self, log: EventLog) -> None:
        """One writer may do it again and again."""
        for number in range(5):
            await log.append_atomically([(_STATE, payload(b"v", key=b"%d" % number))], writer=_WRITER)
        rows = await eventually_reads(log, _STATE, 5)
        assert [row.key for row in rows] == [b"0", b"1", b"2", b"3", b"4"]

    async def test_a_reader_sees_all_of_an_atomic_append_or_nothing(self, open_log: OpenLog) -> None:
        """While another instance writes batches of 40 into a partition."""
        writing, reading = await open_log(), await open_log()
        seen: list[int] = []

        async def write() -> None:
            for number in range(5):
                batch = [(LEDGER_EVENTS, payload(b"v", key=b"%d.%d" % (number, n))) for n in range(40)]
                await writing.append_atomically(batch, writer=_WRITER)

        task = asyncio.create_task(write())
        while not task.done():
            seen.append(len(await read_all(reading, LEDGER_EVENTS)))
            await asyncio.sleep(0)
        await task
        seen.append(len(await eventually_reads(reading, LEDGER_EVENTS, 200)))
        assert ({count % 40 for count in seen}, seen[-1]) == ({0}, 200)

    async def test_an_atomic_append_with_a_bad_record_appends_nothing(self, log: EventLog) -> None:
        """The good ones before it are not appended either."""
        writes = [(_STATE, payload(b"good")), (_STATE, payload(b"bad", partition=PARTITIONS))]
        with pytest.raises(InvariantViolation):
            await log.append_atomically(writes, writer=_WRITER)
        assert await read_all(log, _STATE) == ()

    async def test_a_second_owner_fences_the_first(self, open_log: OpenLog) -> None:
        """What the first one tries afterwards is not appended."""
        first, second = await open_log(), await open_log()
        await first.append_atomically([(_STATE, payload(b"1", key=b"1"))], writer=_WRITER)
        await second.append_atomically([(_STATE, payload(b"2", key=b"2"))], writer=_WRITER)
        with pytest.raises(Fenced):
            await first.append_atomically([(_STATE, payload(b"3", key=b"3"))], writer=_WRITER)
        await second.append_atomically([(_STATE, payload(b"4", key=b"4"))], writer=_WRITER)
        assert values(await eventually_reads(second, _STATE, 3)) == [b"1", b"2", b"4"]

    async def test_opening_a_writer_fences_before_anything_is_written(self, open_log: OpenLog) -> None:
        """A successor may read to the end first: nothing of its predecessor comes after that."""
        first, second = await open_log(), await open_log()
        await first.open_writer(_WRITER)
        await second.open_writer(_WRITER)
        with pytest.raises(Fenced):
            await first.append_atomically([(_STATE, payload(b"late"))], writer=_WRITER)

    async def test_a_fenced_writer_stays_fenced_until_it_is_opened_again(self, open_log: OpenLog) -> None:
        """Trying again does not take the ownership back; opening does."""
        first, second = await open_log(), await open_log()
        await first.open_writer(_WRITER)
        await second.open_writer(_WRITER)
        for _ in range(2):
            with pytest.raises(Fenced):
                await first.append_atomically([(_STATE, payload(b"late"))], writer=_WRITER)
        await first.open_writer(_WRITER)
        await first.append_atomically([(_STATE, payload(b"again"))], writer=_WRITER)
        assert values(await eventually_reads(first, _STATE, 1)) == [b"again"]

    async def test_who_supersedes_a_writer_fences_its_owner_in_this_instance_too(self, log: EventLog) -> None:
        """What it appends is all that comes after; the owner opens the writer again and goes on."""
        await log.append_atomically([(_STATE, payload(b"1", key=b"1"))], writer=_WRITER)
        await log.supersede([(_STATE, payload(b"2", key=b"2"))], writer=_WRITER)
        with pytest.raises(Fenced):
            await log.append_atomically([(_STATE, payload(b"3", key=b"3"))], writer=_WRITER)
        await log.open_writer(_WRITER)
        await log.append_atomically([(_STATE, payload(b"4", key=b"4"))], writer=_WRITER)
        assert values(await eventually_reads(log, _STATE, 3)) == [b"1", b"2", b"4"]

    async def test_a_log_keeps_its_beginning(self, log: EventLog) -> None:
        """Whatever was appended: only a deletion raises the first offset."""
        await log.append(LEDGER_EVENTS, [payload(b"x")] * 3)
        assert await log.first(LEDGER_EVENTS, 0) == 0

    async def test_writers_of_other_names_do_not_fence_each_other(self, open_log: OpenLog) -> None:
        """One per pass and partition."""
        first, second = await open_log(), await open_log()
        for number in (1, 2):
            await first.append_atomically([(_STATE, payload(b"a", key=b"a%d" % number))], writer="core.0")
            await second.append_atomically([(_STATE, payload(b"b", key=b"b%d" % number))], writer="core.1")
        rows = await eventually_reads(first, _STATE, 4)
        assert sorted(row.key for row in rows) == [b"a1", b"a2", b"b1", b"b2"]

    async def test_concurrent_appends_lose_and_repeat_nothing(self, open_log: OpenLog) -> None:
        """Eight tasks on two instances, each in its own order."""
        logs = [await open_log(), await open_log()]

        async def write(task: int) -> None:
            for number in range(10):
                await logs[task % 2].append(LEDGER_EVENTS, [payload(b"%d" % number, key=b"%d" % task)])

        await asyncio.gather(*(write(task) for task in range(8)))
        rows = await read_all(logs[0], LEDGER_EVENTS)
        by_task = {task: [row.value for row in rows if row.key == b"%d" % task] for task in range(8)}
        assert by_task == {task: [b"%d" % number for number in range(10)] for task in range(8)}

    async def test_another_instance_reads_what_was_appended(self, open_log: OpenLog) -> None:
        """As soon as the append has returned."""
        writing, reading = await open_log(), await open_log()
        await writing.append(LEDGER_EVENTS, [payload(b"x")])
        assert values(await read_all(reading, LEDGER_EVENTS)) == [b"x"]

    async def test_a_restart_keeps_everything(self, open_log: OpenLog) -> None:
        """Records, headers, times, ends; and the offsets go on."""
        before = await open_log()
        await before.append(
            LEDGER_EVENTS, [NewRecord(partition=0, key=b"k", value=b"v", headers=_HEADERS), payload(None)]
        )
        rows = await read_all(before, LEDGER_EVENTS)
        await before.close()
        after = await open_log()
        assert await read_all(after, LEDGER_EVENTS) == rows
        assert await after.append(LEDGER_EVENTS, [payload(b"next")]) == (2,)

    async def test_a_topic_of_one_partition_has_one(self, log: EventLog) -> None:
        """The others follow the ledger's count."""
        assert (log.partitions(LEDGER_REGISTRY), log.partitions(LEDGER_EVENTS)) == (1, PARTITIONS)

    async def test_an_undeclared_topic_is_refused(self, log: EventLog) -> None:
        """By name, when reading and when appending."""
        with pytest.raises(InvariantViolation, match=r"view\.unknown\.v1"):
            await log.append("view.unknown.v1", [payload(b"x")])
        with pytest.raises(InvariantViolation, match=r"view\.unknown\.v1"):
            await log.read("view.unknown.v1", 0, after=-1)

    async def test_a_partition_outside_the_topic_is_refused(self, log: EventLog) -> None:
        """And nothing of the call is appended."""
        with pytest.raises(InvariantViolation):
            await log.append(LEDGER_EVENTS, [payload(b"good"), payload(b"bad", partition=PARTITIONS)])
        assert await read_all(log, LEDGER_EVENTS) == ()

    async def test_topics_come_and_go_while_the_log_lives(self, log: EventLog) -> None:
        """Made twice they are there once; removed twice they are gone, and the others stay."""
        keeper = cast("TopicKeeper", log)
        await keeper.provide(*_LATER)
        await keeper.provide(*_LATER)
        names = [topic.name for topic in _LATER]
        await log.append_atomically([(name, payload(b"v")) for name in (*names, _VIEW)], writer=_WRITER)
        held = [values(await eventually_reads(log, name, 1)) for name in (*names, _VIEW)]
        await keeper.forget(*_LATER)
        await keeper.forget(*_LATER)
        await keeper.provide(*_LATER)
        left = [values(await read_all(log, name)) for name in (*names, _VIEW)]
        assert (held, left) == ([[b"v"], [b"v"], [b"v"]], [[], [], [b"v"]])

    async def test_a_closed_log_says_so(self, log: EventLog) -> None:
        """Reading and appending; closing twice is no error."""
        await log.append(LEDGER_EVENTS, [payload(b"x")])
        await log.close()
        await log.close()
        with pytest.raises(LogUnavailable):
            await log.read(LEDGER_EVENTS, 0, after=-1)
        with pytest.raises(LogUnavailable):
            await log.append(LEDGER_EVENTS, [payload(b"y")])
