"""The event log: topics of partitions of records, embedded or on Kafka."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from privacy_ledger.domain.topics import Topic

__all__ = ["EventLog", "Headers", "NewRecord", "PassLog", "Row", "TopicKeeper", "header", "received_at"]

Headers = tuple[tuple[str, bytes], ...]
"""Record headers in order; names and values are ASCII."""


class NewRecord(Struct, frozen=True, gc=False):
    """A record to append; a `value` of None is a tombstone."""

    partition: int
    key: bytes
    value: bytes | None
    headers: Headers = ()


class Row(Struct, frozen=True, gc=False):
    """A record as read; `value` None is a tombstone; `appended_ms` is the log's own time."""

    partition: int
    offset: int
    key: bytes
    value: bytes | None
    headers: Headers
    appended_ms: int


def header(headers: Headers, name: str) -> bytes | None:
    """Return the value of the first header of that name, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def received_at(row: Row) -> datetime | None:
    """Return when a ledger record was received, as it says itself; tombstones and foreign ones may not."""
    stated = header(row.headers, "received")
    try:
        at = None if stated is None else datetime.fromisoformat(stated.decode("ascii"))
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None


class PassLog(Protocol):
    """What a pass needs of the log: it reads, and writes in transactions of a writer of its own.

    Reads see committed records only. Compaction leaves gaps: an offset is never computed by
    counting records. Every method raises `LogUnavailable` when the log cannot be reached.
    """

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of a declared topic."""
        ...

    async def open_writer(self, writer: str) -> int:
        """Own `writer` from now on, fence its earlier owners, and return an epoch for log lines.

        What an earlier owner had not committed is never committed.
        """
        ...

    async def append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> Mapping[tuple[str, int], int]:
        """Append to several topics and partitions in one transaction of the named writer.

        Return the offset of the last record in each (topic, partition), as far as it is known. The
        first use opens the writer. A second process that opens it fences this one. On Kafka the
        records become readable shortly after this returns, partition by partition.

        Raises:
            Fenced: a newer owner of `writer` exists; nothing was appended.
        """
        ...

    async def read(self, topic: str, partition: int, *, after: int, limit: int = 1000) -> tuple[Row, ...]:
        """Return at most `limit` committed records with an offset above `after`, oldest first.

        Empty means: nothing above `after` is committed now.
        """
        ...

    async def read_at(self, topic: str, partition: int, offsets: Sequence[int]) -> tuple[Row, ...]:
        """Return the records at these ascending offsets; those compacted away are left out."""
        ...

    async def end(self, topic: str, partition: int) -> int:
        """Return the offset that the next committed record will at least have (stable end)."""
        ...

    async def first(self, topic: str, partition: int) -> int:
        """Return the lowest offset that is kept; compaction never raises it, deletion does."""
        ...


class EventLog(PassLog, Protocol):
    """An append-only log of partitioned topics; every adapter passes one contract suite."""

    async def append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        """Append in order and return the offsets; durable when it returns.

        All or nothing when embedded; on Kafka idempotent per record, in order per partition.

        Raises:
            StoreFull: no space is left; nothing was appended.
        """
        ...

    async def supersede(self, writes: Sequence[tuple[str, NewRecord]], *, writer: str) -> None:
        """Fence every owner of `writer`, append everything in one transaction, and own nothing after.

        An owner in this very instance is fenced like any other.

        Raises:
            Fenced: a newer owner came in between; nothing was appended.
        """
        ...

    async def latest(self, topic: str, partition: int, key: bytes) -> Row | None:
        """Return the newest record of a key, tombstones included, or None.

        Point look-up when embedded; on Kafka it reads the partition, from its end.
        """
        ...

    async def close(self) -> None:
        """Release files and connections; idempotent."""
        ...


class TopicKeeper(Protocol):
    """Topics that come and go while the log lives: those of a projection's versions."""

    def declare(self, *topics: Topic) -> None:
        """Add topics to those of the declaration; idempotent, and nothing is made."""
        ...

    async def provide(self, *topics: Topic) -> None:
        """Declare topics and make them where they are not there, as declared; idempotent."""
        ...

    async def forget(self, *topics: Topic) -> None:
        """Remove topics with all that they hold; those that are not there are passed over.

        Whoever wrote them is fenced before.
        """
        ...

    async def release(self, *topics: Topic) -> None:
        """Close what this process holds open on topics that another one removed."""
        ...
