"""The source topic of plain events: written, with what its view must be, and the view read back."""

import itertools
import random
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.domain.values import partition_of
from privacy_ledger.ports.log import NewRecord
from tests.bench import kafka
from tests.bench.child import Talk
from tests.bench.events import REF_BYTES, SEED, Document, Population, Tally, decode_state, digest, plain
from tests.bench.tasks import Expected, Feed, Fill, Filled, More, Verify

__all__ = ["SOURCE", "SOURCES", "Writer", "feed", "fill", "open_source", "verify"]

SOURCE: Final = "bench.events.v1"
SOURCES: Final = (kafka.topic(SOURCE, is_compacted=False),)
_BATCH: Final = 5000


class Writer:
    """Writes events to a source, and counts what its view must be."""

    def __init__(self, log: KafkaLog, *, counts_every: bool) -> None:
        """Write to a started log; `counts_every` also counts each re-send, which takes memory."""
        self._log = log
        self._rng = random.Random(SEED)
        self._seen: set[bytes] = set()
        self.every = Tally() if counts_every else None
        self.once = Tally()
        self.events = 0
        self.targets = [-1] * log.partitions(SOURCE)

    async def write(self, events: Iterable[tuple[bytes, Document]]) -> None:
        """Append events, and count each where it lies."""
        source = iter(events)
        while part := list(itertools.islice(source, _BATCH)):
            offsets = await self._log.append(SOURCE, [self.record(ref, event) for ref, event in part])
            for offset, (ref, event) in zip(offsets, part, strict=True):
                self.count(ref, event, offset=offset)

    def record(self, ref: bytes, event: Document) -> NewRecord:
        """Return an event as it is appended."""
        partition = partition_of(ref, len(self.targets))
        return NewRecord(partition, ref + self._rng.randbytes(16), msgspec.json.encode(event))

    def count(self, ref: bytes, event: Document, *, offset: int) -> bool:
        """Count an event that lies at this offset of its partition; return whether it is no re-send."""
        identity = bytes.fromhex(str(event["id"]))
        is_new = identity not in self._seen
        self._seen.add(identity)
        if self.every is not None:
            self.every.add(ref, event, offset=offset)
        if is_new:
            self.once.add(ref, event, offset=offset)
        self.events += 1
        self.targets[partition_of(ref, len(self.targets))] = offset
        return is_new

    def expected(self) -> Expected:
        """Return what lies in the source now, and what its view must be."""
        return Expected(
            events=self.events, targets=tuple(self.targets), subjects=len(self.once),
            all_events="" if self.every is None else self.every.digest(), each_once=self.once.digest(),
        )  # fmt: skip


async def open_source(bootstrap: str, *, prefix: str, partitions: int) -> KafkaLog:
    """Create an empty source and return a started log that writes it."""
    cluster = ClusterSettings(bootstrap=bootstrap)
    await kafka.create(cluster, SOURCES, prefix=prefix, partitions=partitions)
    log = KafkaLog(cluster, partitions=partitions, topics=SOURCES, prefix=prefix)
    await log.start()
    return log


async def fill(task: Fill) -> Expected:
    """Write a source topic and return what its view must be."""
    log = await open_source(task.bootstrap, prefix=task.prefix, partitions=task.partitions)
    writer = Writer(log, counts_every=True)
    population = Population(task.subjects)
    try:
        await writer.write(population.opening() if task.is_opened else ())
        await writer.write(population.events(task.events))
        return writer.expected()
    finally:
        await log.close()


async def feed(task: Feed, talk: Talk) -> Filled:
    """Write the opening events, then more as often as is said; the last line repeats the end."""
    log = await open_source(task.bootstrap, prefix=task.prefix, partitions=task.partitions)
    writer = Writer(log, counts_every=False)
    population = Population(task.subjects)
    try:
        await writer.write(population.opening())
        talk.say(Filled(targets=tuple(writer.targets)))
        while (more := await talk.hear(More)) is not None:
            await writer.write(population.events(more.events))
            says = "" if more.events else writer.once.digest()
            talk.say(Filled(targets=tuple(writer.targets), digest=says))
        return Filled(targets=tuple(writer.targets))
    finally:
        await log.close()


# Views ----------------------------------------------------------------------------------------


def _engine_value(value: bytes) -> bytes:
    """Return a state without the byte that says it is plain."""
    return value[1:]


_VALUES: Final[dict[str, Callable[[bytes], bytes]]] = {"engine": _engine_value}


async def verify(task: Verify) -> str:
    """Return the digest of all states of a view; its keys begin with the reference."""
    cluster = ClusterSettings(bootstrap=task.bootstrap)
    log = KafkaLog(cluster, partitions=task.partitions, topics=(kafka.topic(task.topic),))
    await log.start()
    try:
        rows = await kafka.latest(log, task.topic)
    finally:
        await log.close()
    value_of = _VALUES.get(task.written_by, bytes)
    values = {key[:REF_BYTES]: value_of(row.value or b"") for key, row in rows.items()}
    return digest(values, lambda value: plain(decode_state(value)))
