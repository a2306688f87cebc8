"""From the append of an event to its visibility in the view: a producer, an engine and a reader.

Three processes of one host share its monotonic clock. An event's time starts when it was due, not
when the producer came to it: a producer that is held up must not hide what it waited for.
"""

import asyncio
import bisect
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import structs

from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings, reader_options
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.log import NewRecord
from tests.bench import source
from tests.bench.bars import Kind
from tests.bench.child import Talk
from tests.bench.events import REF_BYTES, Document, Population, decode_state
from tests.bench.group import Group
from tests.bench.measure import Figure, percentile
from tests.bench.plain import OUTPUTS, VIEW_TOPIC
from tests.bench.processes import Child
from tests.bench.run import Bench
from tests.bench.tasks import EngineWork, Expected, Go, Produce, Watch

__all__ = ["Latency", "Seen", "Sent", "produce", "visible_after_ms", "watch"]

TICK_S: Final = 0.005
WARM_UP: Final = 0.1
"""The first tenth of the events is not counted: processes and caches get warm."""
_NS: Final = 1_000_000_000
SEEN_TIMEOUT_S: Final = 60.0


class Sent(NamedTuple):
    """An event: its subject, where it lies, and when it was due."""

    ref: bytes
    offset: int
    due_ns: int


class Seen(NamedTuple):
    """A row of the view: its subject, the last offset that it covers, and when it was read."""

    ref: bytes
    covers: int
    at_ns: int


def visible_after_ms(sent: Sequence[Sent], seen: Sequence[Seen]) -> list[float]:
    """Return, ascending, after how many milliseconds each event was covered by a row of its subject.

    `seen` is in the order of reading. A subject's offsets ascend in it: all lie in one partition.

    Raises:
        ValueError: some event never became visible.
    """
    rows: defaultdict[bytes, list[Seen]] = defaultdict(list)
    for row in seen:
        rows[row.ref].append(row)
    waits = []
    for event in sent:
        mine = rows[event.ref]
        place = bisect.bisect_left(mine, event.offset, key=lambda row: row.covers)
        if place == len(mine):
            raise ValueError(f"the event at offset {event.offset} never became visible")
        waits.append((mine[place].at_ns - event.due_ns) / 1e6)
    return sorted(waits)


class Latency:
    """Measured with one worker at each number of partitions."""

    def __init__(self, bench: Bench) -> None:
        """Prepare nothing."""
        self._bench = bench

    def round(self, number: int) -> None:
        """Measure each number of partitions once."""
        for partitions in self._bench.size.latency_partitions:
            self._bench.measure(Kind.latency(partitions), lambda: self._measure(partitions, number))  # noqa: B023 - called at once

    def _measure(self, partitions: int, number: int) -> Figure:
        bench = self._bench
        own = f"latency-{partitions}-{number}"
        folder, prefix = bench.fresh(own), f"{bench.prefix}{own}."
        produce = Produce(
            bootstrap=bench.bootstrap, prefix=prefix, partitions=partitions,
            subjects=bench.size.subjects, rate=bench.size.latency_rate, seconds=bench.size.latency_s,
            file=str(folder / "sent"),
        )  # fmt: skip
        watch = Watch(
            bootstrap=bench.bootstrap, prefix=prefix, partitions=partitions, file=str(folder / "seen")
        )
        work = EngineWork(
            bootstrap=bench.bootstrap, folder=str(folder), source_prefix=prefix, prefix=prefix,
            partitions=partitions,
        )  # fmt: skip
        bench.create(OUTPUTS, prefix=prefix, partitions=partitions)
        with Child(produce) as producer:
            expected = producer.hear(Expected)
            with Group([work]) as group, Child(watch) as watcher:
                group.settle()
                watcher.hear(int)
                group.tell_go(expected.targets)
                producer.tell(Go(targets=expected.targets))
                figure = group.figure()
                watcher.end(int)
                group.end()
            producer.end(int)
        figure = bench.checked(
            figure, topic=prefix + VIEW_TOPIC, digest=expected.each_once, partitions=partitions
        )
        bench.drop(prefix)
        return _with_waits(figure, folder)


def _with_waits(figure: Figure, folder: Path) -> Figure:
    sent = msgspec.msgpack.decode((folder / "sent").read_bytes(), type=list[Sent])
    seen = msgspec.msgpack.decode((folder / "seen").read_bytes(), type=list[Seen])
    waits = visible_after_ms(sent[int(len(sent) * WARM_UP) :], seen)
    more = {"p50_ms": percentile(waits, 0.5), "p99_ms": percentile(waits, 0.99), "max_ms": waits[-1]}
    return structs.replace(figure, events=len(waits), more=more)


# The producer's process -------------------------------------------------------------------------


async def produce(task: Produce, talk: Talk) -> int:
    """Say what the view will be; on `Go` append at the rate; return how many events were appended.

    Raises:
        RuntimeError: an event does not lie where it was counted, so that the waits would be wrong.
    """
    log = await source.open_source(task.bootstrap, prefix=task.prefix, partitions=task.partitions)
    writer = source.Writer(log, counts_every=False)
    ready = [_counted(writer, *pair) for pair in Population(task.subjects).events(task.rate * task.seconds)]
    talk.say(writer.expected())
    try:
        if await talk.hear(Go) is None:
            return 0
        sent = await _send(log, ready, rate=task.rate)
        _write(task.file, sent)
        return len(ready)
    finally:
        await log.close()


class _Ready(NamedTuple):
    record: NewRecord
    offset: int
    is_new: bool


def _counted(writer: source.Writer, ref: bytes, event: Document) -> _Ready:
    """Return an event with the offset that it will have: nobody else writes to this source."""
    record = writer.record(ref, event)
    offset = writer.targets[record.partition] + 1
    return _Ready(record, offset, writer.count(ref, event, offset=offset))


async def _send(log: KafkaLog, ready: Sequence[_Ready], *, rate: int) -> list[Sent]:
    """Append at the rate, all that is due in one call; return what a view will show.

    A re-sent event changes no view, so it is not waited for.
    """
    sent: list[Sent] = []
    begun = time.monotonic_ns()
    start = 0
    while start < len(ready):
        await asyncio.sleep(TICK_S)
        end = min(len(ready), (time.monotonic_ns() - begun) * rate // _NS)
        part = ready[start:end]
        offsets = await log.append(source.SOURCE, [one.record for one in part])
        if list(offsets) != [one.offset for one in part]:
            raise RuntimeError("an event does not lie where it was counted")
        for number, one in enumerate(part, start=start):
            if one.is_new:
                sent.append(Sent(one.record.key[:REF_BYTES], one.offset, begun + number * _NS // rate))
        start = end
    return sent


# The reader's process ---------------------------------------------------------------------------


async def watch(task: Watch, talk: Talk) -> int:
    """Read the view until the input ends and all of it is read; return how many rows were seen."""
    cluster = ClusterSettings(bootstrap=task.bootstrap)
    consumer = AIOKafkaConsumer(**(reader_options(cluster) | {"auto_offset_reset": "earliest"}))
    places = [TopicPartition(task.prefix + VIEW_TOPIC, number) for number in range(task.partitions)]
    rows: list[tuple[int, bytes, bytes]] = []
    await consumer.start()
    try:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        talk.say(0)
        ended = asyncio.create_task(talk.hear(Go))
        while not ended.done():
            await _poll(consumer, rows)
        async with asyncio.timeout(SEEN_TIMEOUT_S):
            ends = await consumer.end_offsets(places)
            while any([await consumer.position(place) < ends[place] for place in places]):
                await _poll(consumer, rows)
    finally:
        await consumer.stop()
    seen = [
        Seen(key[:REF_BYTES], decode_state(value[1:]).last_offset, at)
        for at, key, value in rows
        if key != HEARTBEAT_KEY
    ]
    _write(task.file, seen)
    return len(seen)


async def _poll(consumer: AIOKafkaConsumer, rows: list[tuple[int, bytes, bytes]]) -> None:
    """Note what was read and when; it is decoded later, so that the reader keeps up."""
    fetched = await consumer.getmany(timeout_ms=100)
    at = time.monotonic_ns()
    rows.extend((at, row.key, row.value) for records in fetched.values() for row in records)


def _write(file: str, rows: Sequence[NamedTuple]) -> None:
    Path(file).write_bytes(msgspec.msgpack.encode(rows))
