"""What the measured processes share on Kafka: topics, reading without work, and folding to an end."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from privacy_ledger.adapters.kafka import topics as kafka_topics
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

__all__ = ["WatchedLog", "create", "fold", "latest", "noop"]

FOLD_TIMEOUT_S = 900.0
_READ = 5000


class WatchedLog(KafkaLog):
    """The log on Kafka; `done` is set when every writer has committed its last offset."""

    def __init__(
        self, cluster: ClusterSettings, *, topics: Sequence[Topic], prefix: str, targets: Mapping[str, int]
    ) -> None:
        """Describe one partition; `targets` maps each writer to the offset that ends the run."""
        super().__init__(cluster, partitions=1, topics=topics, prefix=prefix)
        self._targets = dict(targets)
        self.done = asyncio.Event()

    async def append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> dict[tuple[str, int], int]:
        """Append, and then look how far the pass is: its position stands near the end."""
        ends = await super().append_atomically(writes, writer=writer)
        for _, record in reversed(writes):
            if record.key == POSITION_KEY:
                position = msgspec.msgpack.decode(record.value or b"", type=PassPosition)
                if position.offset >= self._targets.get(writer, 0):
                    self._targets.pop(writer, None)
                break
        if not self._targets:
            self.done.set()
        return ends


async def create(cluster: ClusterSettings, topics: Sequence[Topic], *, prefix: str) -> None:
    """Create topics of one partition under a prefix."""
    async with kafka_topics.open_admin(cluster) as admin:
        await kafka_topics.apply(admin, topics, partitions=1, prefix=prefix)


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
    return meter.figure(events)


async def noop(cluster: ClusterSettings, topic: str, *, last: int) -> Figure:
    """Read a topic of one partition with `getmany` and do nothing with it."""
    consumer = AIOKafkaConsumer(**(reader_options(cluster) | {"auto_offset_reset": "earliest"}))
    place = TopicPartition(topic, 0)
    await consumer.start()
    try:
        consumer.assign([place])
        meter = Meter()
        meter.start()
        events = 0
        offset = -1
        while offset < last:
            fetched = await consumer.getmany(timeout_ms=100, max_records=ROWS_PER_POLL)
            for records in fetched.values():
                events += len(records)
                offset = records[-1].offset
        return meter.figure(events)
    finally:
        await consumer.stop()


async def latest(log: KafkaLog, topic: str) -> dict[bytes, Row]:
    """Return the newest committed record of each live key, but heartbeats."""
    found: dict[bytes, Row] = {}
    after = -1
    while rows := await log.read(topic, 0, after=after, limit=_READ):
        found.update({row.key: row for row in rows})
        after = rows[-1].offset
    return {key: row for key, row in found.items() if row.value is not None and key != HEARTBEAT_KEY}
