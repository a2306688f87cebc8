"""Committed projections on a cluster: partitions that are tailed, asked by several at once."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from privacy_ledger import bootstrap
from privacy_ledger.adapters import views
from privacy_ledger.adapters.views import IndexedLatest, TailedLatest
from privacy_ledger.domain.topics import state_topic, view_topic
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.ports.log import EventLog, Row
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import home, played, registered, viewed

TOPIC: Final = view_topic(PERMISSIONS.name)
STATE: Final = state_topic("core")
KEY: Final = b"k"
PURPOSE: Final = "improve.analyse"
LINES: Final = [
    registered("7", "ada", event="r1", email="ada@example.com"),
    *(played("7", event=f"a{n}") for n in range(3)),
    viewed("7", event="v1"),
    played("8", event="b1"),
]


class Slow:
    """A log of one partition whose pages have one row; each read takes so many turns of the loop."""

    def __init__(self, values: Sequence[bytes | None], turns: Sequence[int]) -> None:
        """Take the values of the key in order, and how long each read takes; later ones take none."""
        self.values = list(values)
        self.turns = list(turns)
        self.begun: list[int] = []

    async def read(self, topic: str, partition: int, *, after: int, limit: int) -> Sequence[Row]:
        """Return the next row."""
        del topic, limit
        self.begun.append(after)
        page = self.values[after + 1 : after + 2]
        for _ in range(self.turns.pop(0) if self.turns else 0):
            await asyncio.sleep(0)
        return [Row(partition, after + 1, KEY, value, (), 0) for value in page]


class Reading:
    """A log that notes which topics are read, from where."""

    def __init__(self, log: EventLog) -> None:
        """Take the log."""
        self.log = log
        self.begun: list[tuple[str, int]] = []

    async def read(self, topic: str, partition: int, *, after: int, limit: int) -> Sequence[Row]:
        """Read on."""
        self.begun.append((topic, after))
        return await self.log.read(topic, partition, after=after, limit=limit)


async def test_two_who_ask_at_once_put_nothing_old_over_what_is_newer() -> None:
    """One is at the end, behind the tombstone, when the page that came before it reaches the other."""
    log = Slow([b"old"], ())
    latest = TailedLatest(cast("EventLog", log))
    before = await latest.get(TOPIC, 0, KEY)
    log.values += [b"newer", None]
    log.turns = [1, 4, 1, 8, 20]
    found = await asyncio.gather(*(latest.get(TOPIC, 0, KEY) for _ in range(2)))
    assert (before, found) == (b"old", [None, None])


async def test_two_who_ask_at_once_read_a_partition_once() -> None:
    """Who comes second reads on from where the first one came."""
    log = Slow([b"1", b"2", b"3"], [1] * 8)
    latest = TailedLatest(cast("EventLog", log))
    found = await asyncio.gather(*(latest.scan(TOPIC, 0, b"") for _ in range(2)))
    assert found == [[(KEY, b"3")]] * 2
    assert log.begun == [-1, 0, 1, 2, 2]


async def test_a_reading_that_is_given_up_holds_up_nobody() -> None:
    """What it had read so far is read again."""
    log = Slow([b"1"], [100])
    latest = TailedLatest(cast("EventLog", log))
    first, second = (asyncio.create_task(latest.get(TOPIC, 0, KEY)) for _ in range(2))
    await asyncio.sleep(0)  # both have begun
    first.cancel()
    assert (await second, log.begun) == (b"1", [-1, -1, 0])


async def test_one_look_answers_for_every_prefix_as_single_looks_do(tmp_path: Path) -> None:
    """Tailed as in a home, those under which nothing lies included."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(PURPOSE,))
        place = partition_of(it.ref("7"), it.runtime.partitions)
        local, reading = it.runtime.local, Reading(it.runtime.log)
        assert local is not None
        tailed, indexed = TailedLatest(cast("EventLog", reading)), IndexedLatest(local)
        codes = sorted({key[:1] for key, _ in await indexed.scan(STATE, place, b"")})
        prefixes = [*codes, b"", b"\xff\xff"]
        single = [await indexed.scan(STATE, place, prefix) for prefix in prefixes]
        each = [await one.scan_each(STATE, place, prefixes) for one in (indexed, tailed)]
        none = [await one.scan_each(STATE, place, ()) for one in (indexed, tailed)]
        begun = len(reading.begun)
        await tailed.scan_each(STATE, place, prefixes)
    assert len(codes) > 1
    assert each == [single, single]
    assert none == [[], []]
    assert len(reading.begun) == begun + 1


async def test_stores_that_are_tailed_count_what_those_of_a_home_count(tmp_path: Path) -> None:
    """Each topic is read from its beginning once, however many tables and stores look into it."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(PURPOSE,))
        runtime, ref, reading = it.runtime, it.ref("7"), Reading(it.runtime.log)
        parts = structs.replace(runtime.parts, latest=TailedLatest(cast("EventLog", reading)))
        counts = await bootstrap.stores_of(structs.replace(runtime, parts=parts)).count(ref)
        held = await bootstrap.stores_of(runtime).count(ref)
    begun = [topic for topic, after in reading.begun if after == -1]
    assert counts == held
    assert {"state core", "state analytics", "view permissions"} <= counts.keys()
    assert len(begun) == len(set(begun))


async def test_many_prefixes_are_answered_as_few_are(tmp_path: Path) -> None:
    """And in a home as where it is tailed."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(PURPOSE,))
        place = partition_of(it.ref("7"), it.runtime.partitions)
        local = it.runtime.local
        assert local is not None
        tailed, indexed = TailedLatest(it.runtime.log), IndexedLatest(local)
        keys = [key for key, _ in await indexed.scan(STATE, place, b"")]
        few = [b"", keys[0][:1], keys[-1]]
        many = [*few, *(key[: 1 + number % 17] for number, key in enumerate(keys)), b"\xff", *few]
        found = [await tailed.scan_each(STATE, place, some) for some in (few, many)]
        wanted = [await indexed.scan_each(STATE, place, some) for some in (few, many)]
        live = await it.runtime.views.live_each(place, [it.ref("7"), SubjectRef(it.ref("7")[:8] + bytes(8))])
        alone = await it.runtime.views.live(it.ref("7"))
    assert len(many) > len(few) + 8
    assert found == wanted
    assert list(live.values()) == [alone, ()]


class Paged:
    """A log of one partition that gives what it holds, some rows at a time."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.rows: list[Row] = []

    def put(self, key: bytes, value: bytes | None) -> None:
        """Append."""
        self.rows.append(Row(0, len(self.rows), key, value, (), 0))

    async def read(self, topic: str, partition: int, *, after: int, limit: int) -> Sequence[Row]:
        """Return the next rows."""
        del topic, partition, limit
        return self.rows[after + 1 : after + 8]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_keys_that_come_and_go_are_scanned_in_order(data: st.DataObject) -> None:
    """Few of them or many since the last look, and whatever came twice, or went before anybody looked."""
    key = st.binary(min_size=1, max_size=2)
    some = st.lists(st.tuples(key, st.none() | st.binary(max_size=1)), max_size=30)

    async def check() -> None:
        log, wanted = Paged(), dict[bytes, bytes]()
        latest = TailedLatest(cast("EventLog", log))
        for changes in data.draw(st.lists(some, max_size=6)):
            for one, value in changes:
                log.put(one, value)
                wanted.pop(one, None)
                wanted.update({} if value is None else {one: value})
            prefix = data.draw(st.binary(max_size=1))
            pairs = sorted(pair for pair in wanted.items() if pair[0].startswith(prefix))
            assert await latest.scan(TOPIC, 0, prefix) == pairs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "SORTED_ANEW", data.draw(st.integers(0, 20)))
        asyncio.run(check())
