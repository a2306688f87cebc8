"""The embedded event log: durable, on one SQLite file, shared by processes."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from privacy_ledger.adapters.local._compaction import is_latest_only
from privacy_ledger.adapters.local._database import prepare
from privacy_ledger.adapters.local._reader import Reader
from privacy_ledger.adapters.local._writer import Writer
from privacy_ledger.domain.errors import InvariantViolation, LogUnavailable
from privacy_ledger.domain.topics import LEDGER_EVENTS, PARTITIONS_EMBEDDED, TOPICS, Topic
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.ports.runtime import Clock

__all__ = ["LocalLog"]

_BATCH_RECORDS: Final = 500
"""Records of one transaction of `append`."""
_CHECKPOINT_ATTEMPTS: Final = 100
_CHECKPOINT_PAUSE_S: Final = 0.05

T = TypeVar("T")


class LocalLog:
    """`EventLog` on one SQLite file; other processes append and read at the same time.

    An append is on the disk when it returns. Appends run in a thread of their own, reads on the
    caller's. Topics `state.*` and `view.*` keep the newest record per key only, from the moment
    it is appended; their offsets grow all the same.
    """

    def __init__(
        self,
        path: Path,
        *,
        partitions: int = PARTITIONS_EMBEDDED,
        clock: Clock,
        topics: Sequence[Topic] = TOPICS,
        max_pages: int | None = None,
    ) -> None:
        """Open or create the file; `max_pages` bounds its size, as a full disk would.

        Raises:
            HomeUnusable: another program's file, another version, or another partition count.
            LogUnavailable: the file cannot be opened.
        """
        self._path = path
        self._partitions = partitions
        self._clock = clock
        self._topics = {topic.name: topic for topic in topics}
        self._epochs: dict[str, int] = {}
        self._is_closed = False
        prepare(path, partitions=partitions)
        self._writer = Writer(path, max_pages=max_pages)
        self._reader = Reader(path)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-log")

    def declare(self, *topics: Topic) -> None:
        """Add topics to those of the declaration, such as a view's next version."""
        self._topics.update({topic.name: topic for topic in topics})

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of a declared topic.

        Raises:
            InvariantViolation: no such topic is declared.
        """
        declared = self._declared(topic).partitions
        return self._partitions if declared is None else declared

    async def append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        """Append in order and return the offsets; on the disk when it returns.

        Up to 500 records are all or nothing; more are cut into transactions of 500, in order.

        Raises:
            StoreFull: no space is left; nothing of the failing 500 was appended.
        """
        writes = [(topic, record) for record in records]
        self._check(writes)
        offsets: list[int] = []
        for start in range(0, len(writes), _BATCH_RECORDS):
            offsets += await self._commit(writes[start : start + _BATCH_RECORDS], owner=None)
        return tuple(offsets)

    async def open_writer(self, writer: str) -> int:
        """Make this instance the owner of `writer`, fence every earlier one, and return its epoch."""
        self._epochs[writer] = epoch = await self._in_thread(lambda: self._writer.next_epoch(writer))
        return epoch

    async def append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> dict[tuple[str, int], int]:
        """Append everything in one transaction of the named writer, which its first use opens.

        Return the last offset in each (topic, partition).

        Raises:
            Fenced: a newer owner of `writer` exists; nothing was appended.
            StoreFull: no space is left; nothing was appended.
        """
        self._check(writes)
        epoch = self._epochs.get(writer)
        if epoch is None:
            epoch = await self.open_writer(writer)
        offsets = await self._commit(writes, owner=(writer, epoch))
        return {
            (topic, record.partition): offset for (topic, record), offset in zip(writes, offsets, strict=True)
        }

    async def read(self, topic: str, partition: int, *, after: int, limit: int = 1000) -> tuple[Row, ...]:
        """Return at most `limit` records with an offset above `after`, oldest first.

        It may return fewer than there are; empty means that there is none.
        """
        lane = self._lane(topic, partition)
        if lane is None or limit <= 0:
            return ()
        return self._reader.after(_table(topic), lane, partition, after=after, limit=limit)

    async def read_at(self, topic: str, partition: int, offsets: Sequence[int]) -> tuple[Row, ...]:
        """Return the records at these ascending offsets; those compacted away are left out."""
        lane = self._lane(topic, partition)
        return () if lane is None else self._reader.at(_table(topic), lane, partition, offsets)

    async def latest(self, topic: str, partition: int, key: bytes) -> Row | None:
        """Return the newest record of a key, tombstones included, or None; an indexed look-up."""
        lane = self._lane(topic, partition)
        return None if lane is None else self._reader.latest(_table(topic), lane, partition, key)

    async def end(self, topic: str, partition: int) -> int:
        """Return the offset that the next record will have."""
        lane = self._lane(topic, partition)
        return 0 if lane is None else self._reader.end(lane)

    def latest_many(self, topic: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the newest value of each key, in order; None for an absent key or a tombstone."""
        lane = self._lane(topic, partition)
        return [None] * len(keys) if lane is None else self._reader.latest_many(_table(topic), lane, keys)

    def scan_latest(
        self, topic: str, partition: int, prefix: bytes, *, start: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of every live key that starts with `prefix`, in key order.

        It begins at `prefix` followed by `start`.

        It reads in pages, so a change made meanwhile may be seen or not.
        """
        lane = self._lane(topic, partition)
        return iter(()) if lane is None else self._reader.scan_latest(_table(topic), lane, prefix, start)

    def live_tags(
        self, partition: int, pairs: Sequence[tuple[bytes, bytes]]
    ) -> dict[tuple[bytes, bytes], bytes]:
        """Return the `digest` header for each (ref, tag) that a ledger record still carries.

        A record whose key has a later tombstone does not count. Of several records with one tag
        the oldest answers, which is the one that was accepted.
        """
        lane = self._lane(LEDGER_EVENTS, partition)
        return {} if lane is None else self._reader.live_tags(lane, pairs)

    async def compact(self, *topics: str, until: Mapping[int, int] | None = None) -> int:
        """Remove what compaction or retention may remove, bytes included, and return the records.

        Per key of a compacted topic the newest record below the compaction point stays. The point
        is the end of each partition, or `until[partition]`; newer records count for nothing, so a
        fold of what remains equals a fold of the log up to there. Tombstones stay for the topic's
        `delete.retention`; a topic that is not compacted loses what is older than its retention.
        Without `topics` all are done. Appends go on in between.

        Raises:
            LogUnavailable: a reader kept old pages alive; the records are gone, their bytes not yet.
        """
        removed = 0
        for name in topics or tuple(self._topics):
            steps = self._writer.compaction(self._declared(name), now_ms=self._now_ms(), until=until or {})
            while (count := await self._in_thread(partial(next, steps, None))) is not None:
                removed += count
        await self._in_thread(self._writer.rewrite)
        for _ in range(_CHECKPOINT_ATTEMPTS):
            if await self._in_thread(self._writer.truncate_wal):
                return removed
            await asyncio.sleep(_CHECKPOINT_PAUSE_S)
        raise LogUnavailable(
            f"A reader of {self._path} keeps old pages alive: removed bytes still lie in its WAL. "
            "Compact again when the reader has finished."
        )

    async def close(self) -> None:
        """Finish the append that is running and close the file; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._reader.close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.close)
        self._thread.shutdown(wait=False)

    async def _commit(
        self, writes: Sequence[tuple[str, NewRecord]], *, owner: tuple[str, int] | None
    ) -> list[int]:
        return await self._in_thread(partial(self._writer.append, writes, now_ms=self._now_ms(), owner=owner))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        if self._is_closed:
            raise LogUnavailable(f"The log {self._path} is closed. Open it again.")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    def _declared(self, topic: str) -> Topic:
        declared = self._topics.get(topic)
        if declared is None:
            raise InvariantViolation(f"The topic {topic} is not declared. Declare it beside the others.")
        return declared

    def _check(self, writes: Sequence[tuple[str, NewRecord]]) -> None:
        counts = {topic: self.partitions(topic) for topic in {topic for topic, _ in writes}}
        for topic, record in writes:
            if not 0 <= record.partition < counts[topic]:
                raise _no_partition(topic, record.partition)

    def _lane(self, topic: str, partition: int) -> int | None:
        if not 0 <= partition < self.partitions(topic):
            raise _no_partition(topic, partition)
        return self._reader.lane(topic, partition)


def _table(topic: str) -> str:
    return "heads" if is_latest_only(topic) else "records"


def _no_partition(topic: str, partition: int) -> InvariantViolation:
    return InvariantViolation(
        f"The topic {topic} has no partition {partition}. Derive it from the reference."
    )
