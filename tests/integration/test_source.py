"""What a member of a group is given by one poll, on a real broker."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from privacy_ledger.adapters.kafka.source import GroupMember, GroupSource
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.engine.assignment import divide
from privacy_ledger.ports.log import EventLog, NewRecord, Row
from privacy_ledger.ports.transport import Share
from privacy_ledger.testing.broker import Broker
from tests.integration.cluster import Cluster, until

RECORDS = 10
ANSWER_S = 0.5
"""Longer than a broker holds an answer back: nothing more is on its way."""
WAIT_S = 30


class Reader:
    """A member that reads each partition of its share from the beginning."""

    def __init__(self, source: GroupSource) -> None:
        """Take the source, which is joined by the caller."""
        self.source = source
        self.divided = 0
        self.shares: list[Share] = []

    def warm(self) -> Sequence[int]:
        """Return no store."""
        return ()

    def revoked(self) -> None:
        """Count."""
        self.divided += 1

    def assigned(self, share: Share) -> None:
        """Begin at the beginning."""
        self.shares.append(share)
        for partition in share.owned:
            self.source.resume(partition, offset=0)


class Group:
    """One topic with records, and members of its group."""

    def __init__(self, cluster: Cluster, log: EventLog) -> None:
        """Take an open log."""
        self._cluster = cluster
        self._log = log
        self._members: list[GroupSource] = []

    async def append(self) -> None:
        """Append so many records."""
        await self._log.append(LEDGER_EVENTS, [NewRecord(0, b"k" * 32, b"v")] * RECORDS)

    async def rows(self) -> Sequence[Row]:
        """Return all that lies there."""
        return await self._log.read(LEDGER_EVENTS, 0, after=-1)

    async def join(self) -> Reader:
        """Return a member that has its share or will have it."""
        assert self._cluster.settings.cluster is not None
        source = GroupSource(
            self._cluster.settings.cluster,
            GroupMember(group=f"{self._cluster.prefix}reading", session_ms=6000),
            topic=self._cluster.prefix + LEDGER_EVENTS,
            partitions=1,
            plan=partial(divide, standbys=0),
        )
        reader = Reader(source)
        self._members.append(source)
        await source.join(reader)
        return reader

    async def leave(self) -> None:
        """Let every member leave."""
        for source in self._members:
            await source.leave()


@pytest_asyncio.fixture
async def group(kafka: Broker, tmp_path: Path) -> AsyncIterator[Group]:
    """Yield a group nobody has joined."""
    cluster = Cluster(kafka.bootstrap, tmp_path, partitions=1)
    await cluster.create()
    async with cluster.runtime() as runtime:
        group = Group(cluster, runtime.log)
        try:
            yield group
        finally:
            await group.leave()
    cluster.end()


async def test_a_poll_returns_what_came_after_the_answer_that_the_client_holds(group: Group) -> None:
    """The client asks for no more until it is asked: the rest would wait for another whole cycle."""
    reader = await group.join()
    await until(lambda: bool(reader.shares))
    await group.append()
    await asyncio.sleep(ANSWER_S)
    await group.append()
    await asyncio.sleep(ANSWER_S)
    rows = await reader.source.poll(timeout_s=5, limit=1000)
    assert list(rows[0]) == list(await group.rows())
    assert len(rows[0]) >= 2 * RECORDS


async def test_rows_of_before_a_rebalance_are_not_returned_after_it(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its partitions are read from their positions again, so that each row is given out once."""
    reader = await group.join()
    await until(lambda: bool(reader.shares))
    await group.append()
    await asyncio.sleep(ANSWER_S)
    right, seen = reader.source._rows, list[int]()  # noqa: SLF001 - between its two requests

    async def rows(*, timeout_s: float, limit: int) -> object:
        if seen:
            await group.join()
            await until(lambda: reader.divided > 1)
        found = await right(timeout_s=timeout_s, limit=limit)
        seen.append(sum(map(len, found.values())))
        return found

    monkeypatch.setattr(reader.source, "_rows", rows)
    given = list((await reader.source.poll(timeout_s=5, limit=1000)).get(0, ()))
    assert seen[0] > 0
    monkeypatch.undo()
    everything = list(await group.rows())
    async with asyncio.timeout(WAIT_S):
        while len(given) < len(everything):
            given += (await reader.source.poll(timeout_s=1, limit=1000)).get(0, ())
    assert given == everything


async def test_a_poll_for_one_row_returns_one_row(group: Group) -> None:
    """A build may be paced down to that."""
    reader = await group.join()
    await until(lambda: bool(reader.shares))
    await group.append()
    given: list[Row] = []
    async with asyncio.timeout(WAIT_S):
        while len(given) < RECORDS:
            rows = (await reader.source.poll(timeout_s=1, limit=1)).get(0, ())
            assert len(rows) <= 1
            given += rows
    assert given == list(await group.rows())[:RECORDS]
