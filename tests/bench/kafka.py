"""What the measured processes share on Kafka: topics, reading without work, and folding to an end."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from privacy_ledger.adapters.kafka import topics as kafka_topics
from privacy_ledger.adapters.kafka._readers import PartitionReader
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings, reader_options
from privacy_ledger.domain.topics import Topic
from privacy_ledger.engine import collector
from privacy_ledger.engine.cycle import POSITION_KEY
from privacy_ledger.engine.kafka import ROWS_PER_POLL, KafkaEngine
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.ports.passes import PassPosition
from tests.bench.measure import Figure, Meter
from tests.bench.tasks import Noop

__all__ = ["IdempotentLog", "WatchedLog", "create", "drop", "fold", "latest", "noop", "topic"]

FOLD_TIMEOUT_S: Final = 900.0
READ: Final = 5000


def topic(name: str, *, is_compacted: bool = True) -> Topic:
    """Return the declaration of a topic that only the benchmark has."""
    policy: Final = "compact" if is_compacted else "delete"
    return Topic(name=name, partitions=None, policy=policy, holds="a benchmark", writers=(), readers=())


class WatchedLog(KafkaLog):
    """The log on Kafka, which sees how far every writer has come: `done` is set at the targets.

    `transactions` and `writes` count what was committed.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        *,
        topics: Sequence[Topic],
        prefix: str,
        partitions: int = 1,
        targets: Mapping[str, int] | None = None,
        shared: tuple[str, Sequence[Topic]] | None = None,
    ) -> None:
        """Describe the log; `targets` maps each writer to the offset that ends the run.

        `shared`: a prefix, and the topics under it that several runs read.
        """
        super().__init__(cluster, partitions=partitions, topics=topics, prefix=prefix)
        self._shared: KafkaLog | None = None
        self._shared_names: frozenset[str] = frozenset()
        if shared is not None:
            self._shared = KafkaLog(cluster, partitions=partitions, topics=shared[1], prefix=shared[0])
            self._shared_names = frozenset(one.name for one in shared[1])
        self.positions: dict[str, int] = {}
        self.transactions = 0
        self.writes = 0
        self.done = asyncio.Event()
        self._targets: dict[str, int] | None = None
        if targets is not None:
            self.aim(targets)

    async def start(self) -> None:
        """Connect to the cluster."""
        await super().start()
        if self._shared is not None:
            await self._shared.start()

    async def close(self) -> None:
        """Close every connection."""
        await super().close()
        if self._shared is not None:
            await self._shared.close()

    @asynccontextmanager
    async def _reading(self, topic: str, partition: int) -> AsyncIterator[PartitionReader]:
        shared = self._shared if topic in self._shared_names else None
        reading = super()._reading if shared is None else shared._reading  # noqa: SLF001 - of its own kind
        async with reading(topic, partition) as reader:
            yield reader

    def aim(self, targets: Mapping[str, int]) -> None:
        """Set `done` when each of these writers has committed its offset, now or later."""
        self._targets = dict(targets)
        self.transactions = self.writes = 0
        self.done.clear()
        self._look()

    async def append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> dict[tuple[str, int], int]:
        """Append, and then look how far the pass is: its position stands near the end."""
        ends = await self._commit(writes, writer=writer)
        self.transactions += 1
        self.writes += len(writes)
        for _, record in reversed(writes):
            if record.key == POSITION_KEY:
                position = msgspec.msgpack.decode(record.value or b"", type=PassPosition)
                self.positions[writer] = position.offset
                self._look()
                break
        return ends

    async def _commit(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> dict[tuple[str, int], int]:
        return await super().append_atomically(writes, writer=writer)

    def _look(self) -> None:
        if self._targets is not None and all(
            self.positions.get(writer, -1) >= offset for writer, offset in self._targets.items()
        ):
            self.done.set()


class IdempotentLog(WatchedLog):
    """The same log without transactions: what a cycle writes is acknowledged, but not atomic."""

    async def open_writer(self, writer: str) -> int:  # noqa: ARG002 - nobody is fenced
        """Do nothing."""
        return 0

    async def _commit(
        self,
        writes: Sequence[tuple[str, NewRecord]],
        *,
        writer: str,  # noqa: ARG002 - see above
    ) -> dict[tuple[str, int], int]:
        groups: defaultdict[str, list[NewRecord]] = defaultdict(list)
        for name, record in writes:
            groups[name].append(record)
        found = await asyncio.gather(*(self.append(name, records) for name, records in groups.items()))
        return {
            (name, records[-1].partition): offsets[-1]
            for (name, records), offsets in zip(groups.items(), found, strict=True)
        }


async def create(
    cluster: ClusterSettings,
    topics: Sequence[Topic],
    *,
    prefix: str,
    partitions: int = 1,
    scale_ms: int | None = None,
) -> None:
    """Create topics under a prefix; `scale_ms` in place of their day-sized periods."""
    async with kafka_topics.open_admin(cluster) as admin:
        await kafka_topics.apply(admin, topics, partitions=partitions, prefix=prefix, scale_ms=scale_ms)


async def drop(cluster: ClusterSettings, *, prefix: str) -> None:
    """Delete every topic under a prefix, so that a long run does not fill the broker's disk."""
    async with kafka_topics.open_admin(cluster) as admin:
        names = [name for name in await admin.list_topics() if name.startswith(prefix)]
        if names:
            await admin.delete_topics(names)


async def fold(engines: Sequence[KafkaEngine], log: WatchedLog, *, events: int) -> Figure:
    """Run engines until all have committed the end, and stop them; measured from the first take-over.

    Raises:
        TimeoutError: they did not come to the end.
    """
    collector.calm()  # as the worker does
    meter = Meter()
    for engine in engines:
        engine.on_acquired = lambda _partition: meter.start()
    running = [asyncio.create_task(engine.run()) for engine in engines]
    done = asyncio.create_task(log.done.wait())
    await asyncio.wait({done, *running}, timeout=FOLD_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
    is_done = done.done()
    done.cancel()
    for engine in engines:
        engine.stop()
    await asyncio.gather(*running)
    if not is_done:
        raise TimeoutError("the engines did not come to the end of the topic")
    return meter.figure(events, transactions=log.transactions, writes=log.writes)


async def noop(task: Noop) -> Figure:
    """Read partitions with `getmany` and do nothing with the records."""
    cluster = ClusterSettings(bootstrap=task.bootstrap)
    consumer = AIOKafkaConsumer(**(reader_options(cluster) | {"auto_offset_reset": "earliest"}))
    places = [TopicPartition(task.topic, number) for number in range(len(task.targets))]
    after = task.after or (-1,) * len(places)
    left = {
        place: target
        for place, start, target in zip(places, after, task.targets, strict=True)
        if target > start
    }
    await consumer.start()
    try:
        consumer.assign(places)
        for place, start in zip(places, after, strict=True):
            consumer.seek(place, start + 1)
        meter = Meter()
        meter.start()
        events = 0
        while left:
            fetched = await consumer.getmany(timeout_ms=100, max_records=ROWS_PER_POLL)
            for place, records in fetched.items():
                events += len(records)
                if records[-1].offset >= left.get(place, -1):
                    left.pop(place, None)
        return meter.figure(events)
    finally:
        await consumer.stop()


async def latest(log: KafkaLog, name: str) -> dict[bytes, Row]:
    """Return the newest committed record of each live key of all partitions, but heartbeats."""
    found: dict[bytes, Row] = {}
    for partition in range(log.partitions(name)):
        after = -1
        while rows := await log.read(name, partition, after=after, limit=READ):
            found.update({row.key: row for row in rows})
            after = rows[-1].offset
    return {key: row for key, row in found.items() if row.value is not None and key != HEARTBEAT_KEY}
