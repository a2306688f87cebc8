"""Whose rows lie where: a topic is read once, by all who ask, and then read on."""

import asyncio
from collections.abc import Sequence
from typing import Final, cast

import pytest

from privacy_ledger.app import _directory
from privacy_ledger.app._directory import Directory
from privacy_ledger.ports.log import EventLog, Row

ADA: Final = b"a"
BEN: Final = b"b"
TOPIC: Final = "ledger.events.v1"


class Counted:
    """A log of one partition; it counts the rows that it gave, and takes a turn of the loop for each page."""

    def __init__(self, owners: bytes) -> None:
        """Hold a row of each of these owners, in order."""
        self.rows = [_row(at, bytes((owner,))) for at, owner in enumerate(owners)]
        self.read_on = 0
        self.found_at = 0

    def grow(self, owners: bytes) -> None:
        """Append a row of each."""
        end = self.rows[-1].offset + 1 if self.rows else 0
        self.rows += [_row(end + at, bytes((owner,))) for at, owner in enumerate(owners)]

    async def read(self, topic: str, partition: int, *, after: int, limit: int) -> Sequence[Row]:
        """Return the next two rows."""
        assert (topic, partition) == (TOPIC, 0)
        await asyncio.sleep(0)
        page = [row for row in self.rows if row.offset > after][: min(2, limit)]
        self.read_on += len(page)
        return page

    async def read_at(self, topic: str, partition: int, offsets: Sequence[int]) -> Sequence[Row]:
        """Return the rows that are there."""
        assert (topic, partition) == (TOPIC, 0)
        assert list(offsets) == sorted(set(offsets))
        found = [row for row in self.rows if row.offset in offsets]
        self.found_at += len(found)
        return found

    async def end(self, topic: str, partition: int) -> int:
        """Return the end."""
        assert (topic, partition) == (TOPIC, 0)
        return self.rows[-1].offset + 1 if self.rows else 0


def _row(offset: int, owner: bytes) -> Row:
    return Row(0, offset, owner, b"%d" % offset, (), 0)


def over(log: Counted) -> Directory:
    """Return a directory whose owners are the keys; `-` is nobody."""
    return Directory(cast("EventLog", log), TOPIC, lambda row: b"" if row.key == b"-" else row.key)


async def offsets(directory: Directory, *owners: bytes, after: int = -1) -> list[int]:
    """Return where the rows of owners lie."""
    return [row.offset for row in await directory.rows(0, owners, after=after)]


async def test_a_topic_is_read_once_for_all_owners_and_then_read_on() -> None:
    """Rows that were passed when somebody else was asked for are found where they lie."""
    log = Counted(b"abba-b")
    directory = over(log)
    assert await offsets(directory, ADA) == [0, 3]
    assert await offsets(directory, BEN) == [1, 2, 5]
    assert (log.read_on, log.found_at) == (6, 3)
    log.grow(b"aab")
    assert await offsets(directory, ADA, after=3) == [6, 7]
    assert await offsets(directory, ADA) == [0, 3, 6, 7]
    assert await offsets(directory, ADA, BEN, after=4) == [5, 6, 7, 8]
    assert await offsets(directory, b"nobody") == []
    assert log.read_on == len(log.rows)


async def test_those_who_ask_at_once_share_a_reading() -> None:
    """Nobody notes a row twice, and everybody gets all of theirs."""
    log = Counted(b"abab" * 5)
    directory = over(log)
    found = await asyncio.gather(*(offsets(directory, owner) for owner in (ADA, BEN, ADA, BEN)))
    assert found == [list(range(0, 20, 2)), list(range(1, 20, 2))] * 2
    assert log.read_on == len(log.rows)


async def test_rows_that_a_compaction_took_are_left_out() -> None:
    """Their places are known still, and hold nothing."""
    log = Counted(b"aaab")
    directory = over(log)
    await offsets(directory, BEN)
    del log.rows[1]
    assert await offsets(directory, ADA) == [0, 2]


async def test_a_log_that_ends_before_what_was_read_is_read_anew() -> None:
    """It is another one under the same name: what lay where in the old one says nothing of it."""
    log = Counted(b"aabb")
    directory = over(log)
    assert await offsets(directory, ADA) == [0, 1]
    log.rows = []
    assert await offsets(directory, ADA) == []
    log.grow(b"ba")
    assert (await offsets(directory, ADA), await offsets(directory, BEN)) == ([1], [0])


async def test_a_topic_with_too_many_rows_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; the answers are the same."""
    monkeypatch.setattr(_directory, "OFFSETS_KEPT", 3)
    log = Counted(b"abab")
    directory = over(log)
    assert [await offsets(directory, ADA) for _ in range(3)] == [[0, 2]] * 3
    assert log.read_on == 3 * len(log.rows)
