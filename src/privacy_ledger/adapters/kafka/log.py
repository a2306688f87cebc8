"""The event log on Kafka."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, ProducerFenced

from privacy_ledger.adapters.kafka import settings
from privacy_ledger.adapters.kafka._clients import (
    DELIVERY_TIMEOUT_S,
    check_size,
    deliver,
    discard,
    open_admin,
    open_producer,
    translated_errors,
    unavailable,
)
from privacy_ledger.adapters.kafka._readers import Appended, PartitionReader, ReaderPool
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.adapters.kafka.topics import apply, remove
from privacy_ledger.domain.errors import Fenced, HomeUnusable, InvariantViolation, LedgerError, LogUnavailable
from privacy_ledger.domain.topics import PARTITIONS_DEFAULT, TOPICS, Topic
from privacy_ledger.ports.log import NewRecord, Row

__all__ = ["KafkaLog"]

_IDLE_READERS: Final = 64
"""Enough for every place that an erasure asks: one that is turned to another place asks for metadata."""
_ABORT_TIMEOUT_S: Final = 3.0
_Groups = defaultdict[tuple[str, int], list[NewRecord]]


class _Writer:
    """A transactional producer, or the reason why there is none any more."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.producer: AIOKafkaProducer | None = None
        self.ended_by: LedgerError | None = None


class KafkaLog:
    """`EventLog` on a cluster; call `start` first.

    What `append_atomically` wrote becomes readable when the cluster has ended the transaction in
    each partition: shortly after it returns, and not in all partitions at one instant.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        *,
        partitions: int = PARTITIONS_DEFAULT,
        topics: Sequence[Topic] = TOPICS,
        prefix: str = "",
    ) -> None:
        """Describe the log; `prefix` is put before every topic name and transactional id."""
        self._cluster = cluster
        self._partitions = partitions
        self._topics = {topic.name: topic for topic in topics}
        self._prefix = prefix
        self._known: set[str] = set()
        self._stack = AsyncExitStack()
        self._admin: AIOKafkaAdminClient | None = None
        self._producer: AIOKafkaProducer | None = None
        self._producer_lock = asyncio.Lock()
        self._partition_locks: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._writers: dict[str, _Writer] = {}
        self._readers = ReaderPool(cluster, idle=_IDLE_READERS)
        self._discards: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect to the cluster.

        Raises:
            LogUnavailable: no broker answers, or it refuses this client.
        """
        with translated_errors(self._cluster):
            self._admin = await self._stack.enter_async_context(open_admin(self._cluster))
            self._producer = await open_producer(self._cluster)

    def declare(self, *topics: Topic) -> None:
        """Add topics to those of the declaration, such as a view's next version."""
        self._topics.update({topic.name: topic for topic in topics})

    async def provide(self, *topics: Topic) -> None:
        """Declare topics and make them in the cluster, each with its full configuration.

        Raises:
            InvariantViolation: a topic is there with another number of partitions.
        """
        self.declare(*topics)
        with translated_errors(self._cluster):
            await apply(self._opened(), topics, partitions=self._partitions, prefix=self._prefix)

    async def forget(self, *topics: Topic) -> None:
        """Delete topics in the cluster, and wait until it does not list them any more."""
        await self.release(*topics)
        with translated_errors(self._cluster):
            await remove(self._opened(), [self._prefix + topic.name for topic in topics])

    async def release(self, *topics: Topic) -> None:
        """Close idle readers: one of a deleted topic would ask for it for ever."""
        names = frozenset(self._prefix + topic.name for topic in topics)
        self._known -= names
        await self._readers.drop(names)

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of a declared topic.

        Raises:
            InvariantViolation: no such topic is declared.
        """
        declared = self._topics.get(topic)
        if declared is None:
            raise InvariantViolation(f"The topic {topic} is not declared. Declare it beside the others.")
        return self._partitions if declared.partitions is None else declared.partitions

    async def append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        """Append in order per partition and return the offsets; on all in-sync replicas when it returns.

        After an error some of the records may be in the log, also later on.
        """
        indices: defaultdict[int, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            indices[record.partition].append(index)
        for partition, mine in indices.items():
            self._check(topic, partition, [records[index] for index in mine])
        physical = await self._physical(topic)
        results = await asyncio.gather(
            *(
                self._append_to(physical, partition, [records[i] for i in mine])
                for partition, mine in indices.items()
            ),
            return_exceptions=True,
        )
        offsets = [0] * len(records)
        for mine, result in zip(indices.values(), results, strict=True):
            if isinstance(result, BaseException):
                raise result
            for index, offset in zip(mine, result, strict=True):
                offsets[index] = offset
        return tuple(offsets)

    async def open_writer(self, writer: str) -> int:
        """Make this instance the owner of `writer`, fence every earlier one, and return its epoch.

        A transaction that an earlier owner left open is aborted. Epochs are for log lines: the
        cluster starts them again now and then.
        """
        self._opened()
        entry = self._writers.setdefault(writer, _Writer())
        async with entry.lock:
            if entry.producer is not None:
                self._discard(entry.producer)
                entry.producer = None
            with translated_errors(self._cluster):
                entry.producer = await open_producer(self._cluster, transactional_id=self._prefix + writer)
            entry.ended_by = None
            return int(entry.producer._txn_manager.producer_epoch)  # noqa: SLF001

    async def append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> dict[tuple[str, int], int]:
        """Append everything in one transaction of the named writer, which its first use opens.

        Return the last offset in each (topic, partition), where the cluster said it.

        After any error the writer has ended: `open_writer` it again, then read what is there. It
        may also end with an append that succeeded late; the next one says so.

        Raises:
            Fenced: a newer owner of `writer` exists; nothing was appended.
            LogUnavailable: it is not known whether the transaction was committed.
        """
        groups, physical = await self._grouped(writes)
        if writer not in self._writers:
            await self.open_writer(writer)
        entry = self._writers[writer]
        async with entry.lock:
            if entry.producer is None:
                raise entry.ended_by or LogUnavailable(f"The writer {writer} is not open. Open it.")
            try:
                with translated_errors(self._cluster):
                    ends, commit_s = await _transact(entry.producer, groups, physical)
            except BaseException as error:
                self._end(entry, _ending(writer, error))
                raise
            if commit_s * 1000 >= settings.REQUEST_TIMEOUT_MS:
                # aiokafka has asked again to end the transaction. What it asked first may still be
                # under way, and would end the next one half done; a new epoch refuses it.
                self._end(entry, LogUnavailable(f"The writer {writer} was answered late. Open it again."))
            return ends

    async def supersede(self, writes: Sequence[tuple[str, NewRecord]], *, writer: str) -> None:
        """Fence every owner of `writer`, append everything in one transaction, and own nothing after.

        An owner in this very instance is fenced like any other: it opens the writer again.

        Raises:
            Fenced: a newer owner came in between; nothing was appended.
        """
        groups, physical = await self._grouped(writes)
        with translated_errors(self._cluster):
            producer = await open_producer(self._cluster, transactional_id=self._prefix + writer)
            try:
                await _transact(producer, groups, physical)
            finally:
                self._discard(producer)

    async def _grouped(self, writes: Sequence[tuple[str, NewRecord]]) -> tuple[_Groups, dict[str, str]]:
        """Return the records by place, and the names of their topics in the cluster."""
        self._opened()
        groups: _Groups = defaultdict(list)
        for topic, record in writes:
            groups[topic, record.partition].append(record)
        physical: dict[str, str] = {}
        for (topic, partition), records in groups.items():
            self._check(topic, partition, records)
            physical[topic] = await self._physical(topic)
        return groups, physical

    async def read(self, topic: str, partition: int, *, after: int, limit: int = 1000) -> tuple[Row, ...]:
        """Return at most `limit` committed records above `after`, oldest first; empty at the stable end."""
        async with self._reading(topic, partition) as reader:
            return await reader.read(after=after, limit=limit)

    async def read_at(self, topic: str, partition: int, offsets: Sequence[int]) -> tuple[Row, ...]:
        """Return the records at these ascending offsets; those compacted away are left out."""
        async with self._reading(topic, partition) as reader:
            return await reader.read_at(tuple(offsets))

    async def latest(self, topic: str, partition: int, key: bytes) -> Row | None:
        """Return the newest record of a key, tombstones included, or None; reads from the end."""
        async with self._reading(topic, partition) as reader:
            return await reader.latest(key)

    async def end(self, topic: str, partition: int) -> int:
        """Return the last stable offset, which the next committed record will at least have."""
        async with self._reading(topic, partition) as reader:
            return await reader.end()

    async def until_readable(self, places: Collection[tuple[str, int]], timeout_s: float) -> bool:
        """Wait for the transactions that are open in these (topic, partition) now; return whether all ended.

        A committed transaction becomes readable partition by partition, after its writer was answered.
        """
        (topic, partition), *_ = places
        physical = [TopicPartition(await self._physical(topic), partition) for topic, partition in places]
        async with self._reading(topic, partition) as reader:
            return await reader.until_readable(physical, timeout_s)

    async def first(self, topic: str, partition: int) -> int:
        """Return the lowest offset that the cluster keeps; compaction never raises it, deletion does."""
        async with self._reading(topic, partition) as reader:
            return await reader.first()

    async def since(self, topic: str, partition: int, appended_ms: int) -> Appended | None:
        """Return the first place that was appended at this time or later, or None; not only records."""
        async with self._reading(topic, partition) as reader:
            return await reader.since(appended_ms)

    async def close(self) -> None:
        """Close every connection; idempotent. Unacknowledged records are given up."""
        if self._admin is None:
            return
        self._admin = None
        producers = [entry.producer for entry in self._writers.values()]
        for producer in (self._producer, *producers):
            if producer is not None:
                self._discard(producer)
        self._producer = None
        self._writers.clear()
        await self._readers.close()
        await asyncio.gather(*self._discards)
        await self._stack.aclose()

    async def _append_to(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        async with self._partition_locks[topic, partition]:
            producer = await self._current_producer()
            try:
                with translated_errors(self._cluster):
                    return await deliver(producer, topic, partition, records)
            except (LedgerError, asyncio.CancelledError):
                # Its sequence numbers, or the fate of a batch, are unknown now.
                if self._producer is producer:
                    self._producer = None
                    self._discard(producer)
                raise

    async def _current_producer(self) -> AIOKafkaProducer:
        async with self._producer_lock:
            self._opened()
            if self._producer is None:
                with translated_errors(self._cluster):
                    self._producer = await open_producer(self._cluster)
            return self._producer

    @asynccontextmanager
    async def _reading(self, topic: str, partition: int) -> AsyncIterator[PartitionReader]:
        self._check_partition(topic, partition)
        physical = await self._physical(topic)
        with translated_errors(self._cluster):
            async with self._readers.reader(physical, partition) as reader:
                yield reader

    async def _physical(self, topic: str) -> str:
        """Return the name in the cluster, after the topic was once seen to be as declared."""
        admin = self._opened()
        physical = self._prefix + topic
        if physical in self._known:
            return physical
        wanted = self.partitions(topic)
        with translated_errors(self._cluster):
            # All topics: to ask for one by name would create it where auto-creation is on.
            described = await admin.describe_topics()
        counts = {str(entry["topic"]): len(entry["partitions"]) for entry in described}
        found = counts.get(physical)
        if found is None:
            raise unavailable(
                self._cluster, f"the topic {physical} is not there; create it with `topics apply`"
            )
        if found != wanted:
            raise HomeUnusable(
                f"The topic {physical} has {found} partitions, and {wanted} are declared. "
                "The order per person depends on the number: reshard into a new topic version."
            )
        self._known.add(physical)
        return physical

    def _opened(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            raise LogUnavailable(f"The log on Kafka at {self._cluster.bootstrap} is not open. Start it.")
        return self._admin

    def _check(self, topic: str, partition: int, records: Iterable[NewRecord]) -> None:
        self._check_partition(topic, partition)
        for record in records:
            check_size(record)

    def _check_partition(self, topic: str, partition: int) -> None:
        if not 0 <= partition < self.partitions(topic):
            raise InvariantViolation(
                f"The topic {topic} has no partition {partition}. Derive it from the reference."
            )

    def _end(self, entry: _Writer, reason: LedgerError) -> None:
        if entry.producer is not None:
            self._discard(entry.producer)
        entry.producer = None
        entry.ended_by = reason

    def _discard(self, producer: AIOKafkaProducer) -> None:
        task = asyncio.create_task(discard(producer))
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)


async def _transact(
    producer: AIOKafkaProducer,
    groups: Mapping[tuple[str, int], Sequence[NewRecord]],
    physical: Mapping[str, str],
) -> tuple[dict[tuple[str, int], int], float]:
    """Write all groups in one transaction; return their last offsets and the seconds of the commit.

    It is aborted when an error comes before the commit.
    """
    await producer.begin_transaction()
    tasks = [
        asyncio.create_task(deliver(producer, physical[topic], partition, records))
        for (topic, partition), records in groups.items()
    ]
    try:
        offsets = await asyncio.gather(*tasks)
    except BaseException as error:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not isinstance(error, ProducerFenced):
            await _abort(producer)
        raise
    started = time.monotonic()
    async with asyncio.timeout(DELIVERY_TIMEOUT_S):
        await producer.commit_transaction()
    commit_s = time.monotonic() - started
    # The cluster acknowledges a batch that it knows already without saying where it lies (-1).
    ends = {
        place: found[-1]
        for place, found in zip(groups, offsets, strict=True)
        if found[0] >= 0 and found[-1] - found[0] >= len(found) - 1
    }
    return ends, commit_s


async def _abort(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(_ABORT_TIMEOUT_S):
            await producer.abort_transaction()
    except (KafkaError, OSError, AssertionError):
        # aiokafka asserts its own states; the cluster aborts at the timeout or at the next owner.
        return


def _ending(writer: str, error: BaseException) -> LedgerError:
    if isinstance(error, Fenced):
        return Fenced(f"The writer {writer} has a newer owner; nothing was appended. Stop, or open it again.")
    return LogUnavailable(f"The writer {writer} ended with an error. Open it again, and read what is there.")
