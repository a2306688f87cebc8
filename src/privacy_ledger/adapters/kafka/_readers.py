"""Reading one partition of Kafka without a group, and a bounded pool of such readers."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from msgspec import Struct

from privacy_ledger.adapters.kafka._clients import open_reader, unavailable
from privacy_ledger.adapters.kafka._consumer import RowConsumer
from privacy_ledger.adapters.kafka.settings import ClusterSettings, fetch_bytes
from privacy_ledger.ports.log import Row

__all__ = ["Appended", "PartitionReader", "ReaderPool"]

POLL_MS: Final = 15
READ_TIMEOUT_S: Final = 30.0
RANGE_GAP: Final = 256
"""Wanted offsets nearer than this are read through instead of seeking."""
RANGE_READ: Final = 1000
_STEP_GROWTH: Final = 4


class Appended(Struct, frozen=True):
    """An offset, and when it was appended by the log's own time."""

    offset: int
    appended_ms: int


class PartitionReader:
    """A consumer of one partition; one call at a time."""

    def __init__(self, cluster: ClusterSettings, consumer: RowConsumer, partition: TopicPartition) -> None:
        """Take a started consumer, and turn it to this partition."""
        self._cluster = cluster
        self._consumer = consumer
        self.turn_to(partition)

    def turn_to(self, partition: TopicPartition) -> None:
        """Read this partition from now on, over the connections that there are."""
        self._consumer.assign([partition])
        # Between calls it is paused: an idle reader must not poll the broker.
        self._consumer.pause(partition)
        self._partition = partition
        self._after: int | None = None
        self._end = 0  # as it was when somebody last asked: the log may reach further by now

    async def close(self) -> None:
        """Stop the consumer."""
        await self._consumer.stop()

    async def end(self) -> int:
        """Return the last stable offset: no committed record lies at or above it."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets([self._partition])
        self._end = ends[self._partition]
        return self._end

    async def until_readable(self, places: Collection[TopicPartition], timeout_s: float) -> bool:
        """Wait for the transactions that are open in these places now; return whether all ended in time."""
        undecided, deadline = await self._consumer.written_ends(places), time.monotonic() + timeout_s
        while True:
            stable: dict[TopicPartition, int] = await self._consumer.end_offsets(list(undecided))
            undecided = {place: end for place, end in undecided.items() if stable[place] < end}
            if not undecided or time.monotonic() > deadline:
                return not undecided
            await asyncio.sleep(POLL_MS / 1000)

    async def first(self) -> int:
        """Return the lowest offset that the cluster keeps."""
        starts: dict[TopicPartition, int] = await self._consumer.beginning_offsets([self._partition])
        return starts[self._partition]

    async def since(self, appended_ms: int) -> Appended | None:
        """Return the first place that was appended at this time or later, or None."""
        found = await self._consumer.offsets_for_times({self._partition: appended_ms})
        place = found[self._partition]
        return None if place is None else Appended(place.offset, place.timestamp)

    async def read(self, *, after: int, limit: int) -> tuple[Row, ...]:
        """Return at most `limit` records above `after`; empty only when the stable end is reached."""
        if limit <= 0:
            return ()
        # Who looks at one record wants no megabytes; aiokafka has no public way to say so.
        self._consumer._fetcher._max_partition_fetch_bytes = fetch_bytes(limit)  # noqa: SLF001
        if self._after != after:
            self._consumer.seek(self._partition, max(after, -1) + 1)
            self._after = after
        # Asked before a fetch is under way: the broker answers a client in turn, and a fetch at the
        # end of the log waits there for more.
        if await self._is_at_end():
            return ()
        self._consumer.resume(self._partition)
        try:
            return await self._fetched(limit)
        finally:
            self._consumer.pause(self._partition)

    async def _fetched(self, limit: int) -> tuple[Row, ...]:
        """Return what comes from the position on; empty when the stable end is reached without a row."""
        deadline = time.monotonic() + READ_TIMEOUT_S
        while True:
            rows = await self._poll(limit)
            if rows:
                self._after = rows[-1].offset
                return rows
            if await self._is_at_end():
                return ()
            if time.monotonic() > deadline:
                raise unavailable(self._cluster, "no answer to a fetch")

    async def _is_at_end(self) -> bool:
        """Return whether nothing committed lies at the position or above; asks where that is not known.

        The position passes transaction markers and aborted records; the rows do not show them.
        """
        position: int = await self._consumer.position(self._partition)
        return position >= self._end and position >= await self.end()

    async def read_at(self, offsets: tuple[int, ...]) -> tuple[Row, ...]:
        """Return the records at ascending offsets, reading through those that lie near each other."""
        found: list[Row] = []
        for near in _near(offsets):
            wanted = frozenset(near)
            after = near[0] - 1
            while after < near[-1]:
                rows = await self.read(after=after, limit=min(RANGE_READ, near[-1] - after))
                if not rows:
                    break
                found += [row for row in rows if row.offset in wanted]
                after = rows[-1].offset
        return tuple(found)

    async def latest(self, key: bytes) -> Row | None:
        """Return the newest record of a key, looked for from the end in growing steps."""
        end, step = await self.end(), RANGE_READ
        while end > 0:
            start = max(0, end - step)
            newest: Row | None = None
            after = start - 1
            while after < end - 1 and (rows := await self.read(after=after, limit=RANGE_READ)):
                below = [row for row in rows if row.offset < end and row.key == key]
                newest = below[-1] if below else newest
                after = rows[-1].offset
            if newest is not None:
                return newest
            end, step = start, step * _STEP_GROWTH
        return None

    async def _poll(self, limit: int) -> tuple[Row, ...]:
        try:
            fetched: dict[TopicPartition, list[Row]] = await self._consumer.getmany(
                self._partition, timeout_ms=POLL_MS, max_records=limit
            )
        except OffsetOutOfRangeError:
            first = await self.first()
            await self.end()  # what is known of it may be what was wrong
            # Either retention removed the beginning of the log after this position, or the position
            # lies beyond an end that has gone back, which must not look like the beginning.
            if await self._consumer.position(self._partition) < first:
                self._consumer.seek(self._partition, first)
            return ()
        return tuple(fetched.get(self._partition, ()))


class ReaderPool:
    """At most so many idle readers are kept; the one unused for longest is turned to another place."""

    def __init__(self, cluster: ClusterSettings, *, idle: int) -> None:
        """Keep up to `idle` readers open between calls."""
        self._cluster = cluster
        self._idle_limit = idle
        self._idle: OrderedDict[TopicPartition, PartitionReader] = OrderedDict()

    @asynccontextmanager
    async def reader(self, topic: str, partition: int) -> AsyncIterator[PartitionReader]:
        """Lend a reader of a partition; after an error it is closed, not kept."""
        place = TopicPartition(topic, partition)
        reader = self._idle.pop(place, None)
        if reader is None and self._idle and len(self._idle) >= self._idle_limit:
            _, reader = self._idle.popitem(last=False)
            reader.turn_to(place)
        if reader is None:
            reader = PartitionReader(self._cluster, await open_reader(self._cluster), place)
        try:
            yield reader
        except BaseException:
            await asyncio.shield(reader.close())
            raise
        await self._give_back(place, reader)

    async def drop(self, topics: Collection[str]) -> None:
        """Close the idle readers of these topics."""
        for place in [place for place in self._idle if place.topic in topics]:
            await self._idle.pop(place).close()

    async def close(self) -> None:
        """Close the idle readers."""
        while self._idle:
            await self._idle.popitem()[1].close()

    async def _give_back(self, place: TopicPartition, reader: PartitionReader) -> None:
        surplus = [reader] if place in self._idle else []
        self._idle.setdefault(place, reader)
        self._idle.move_to_end(place)
        while len(self._idle) > self._idle_limit:
            surplus.append(self._idle.popitem(last=False)[1])
        for spare in surplus:
            await spare.close()


def _near(offsets: tuple[int, ...]) -> list[list[int]]:
    groups: list[list[int]] = []
    for offset in offsets:
        if groups and offset - groups[-1][-1] <= RANGE_GAP:
            groups[-1].append(offset)
        else:
            groups.append([offset])
    return groups
