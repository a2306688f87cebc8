"""Committed projections, read from their topics: indexed when embedded, tailed on Kafka."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec
from msgspec import structs

from privacy_ledger.domain.topics import LEDGER_EVENTS, state_topic
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.domain.versions import Version, VersionKey
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.passes import Latest, PassPosition
from privacy_ledger.streams.states import INDEX, META, IndexRow, Meta, Table

__all__ = ["IndexedLatest", "LaterVersions", "LogViews", "TailedLatest"]

T = TypeVar("T")
_POSITION_KEY = b"\0pos"
_CORE = "core"


class _Indexed(Protocol):
    """The embedded log's own look-ups."""

    def latest_many(self, topic: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def scan_latest(self, topic: str, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]: ...


class IndexedLatest:
    """`Latest` over the embedded log."""

    def __init__(self, log: _Indexed) -> None:
        """Take the log."""
        self._log = log

    async def get(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return the newest value of a key, or None."""
        return self._log.latest_many(topic, partition, [key])[0]

    async def newest(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return the newest value of a key, or None."""
        return await self.get(topic, partition, key)

    async def scan(self, topic: str, partition: int, prefix: bytes) -> Sequence[tuple[bytes, bytes]]:
        """Return live pairs under a prefix, in key order."""
        return list(self._log.scan_latest(topic, partition, prefix))


class TailedLatest:
    """`Latest` on Kafka: one partition at a time is read to its stable end and kept."""

    def __init__(self, log: EventLog) -> None:
        """Start with nothing read."""
        self._log = log
        self._read: dict[tuple[str, int], tuple[int, dict[bytes, bytes]]] = {}
        self._followed: dict[tuple[str, int, bytes], tuple[int, bytes | None]] = {}

    async def _caught_up(self, topic: str, partition: int) -> dict[bytes, bytes]:
        after, values = self._read.get((topic, partition), (-1, {}))
        while rows := await self._log.read(topic, partition, after=after, limit=5000):
            for row in rows:
                if row.value is None:
                    values.pop(row.key, None)
                else:
                    values[row.key] = row.value
            after = rows[-1].offset
        self._read[topic, partition] = (after, values)
        return values

    async def get(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return the newest committed value of a key, or None."""
        return (await self._caught_up(topic, partition)).get(key)

    async def newest(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return the newest committed value of a key: once from the end, then what came since."""
        place = (topic, partition, key)
        if place not in self._followed:
            row = await self._log.latest(topic, partition, key)
            self._followed[place] = (-1, None) if row is None else (row.offset, row.value)
        after, value = self._followed[place]
        while rows := await self._log.read(topic, partition, after=after, limit=5000):
            value = next((row.value for row in reversed(rows) if row.key == key), value)
            after = rows[-1].offset
        self._followed[place] = (after, value)
        return value

    async def scan(self, topic: str, partition: int, prefix: bytes) -> Sequence[tuple[bytes, bytes]]:
        """Return live pairs under a prefix, in key order."""
        values = await self._caught_up(topic, partition)
        return sorted((key, value) for key, value in values.items() if key.startswith(prefix))


class LaterVersions:
    """The versions of published projections beyond those that the processors declare."""

    def __init__(
        self,
        tables: Mapping[str, Table[object]],
        read: Callable[[], Awaitable[Mapping[VersionKey, Version]]],
        codec: Callable[[str, int], StateCodec],
    ) -> None:
        """Take the declared tables by projection, how the list is read, and a version's codec."""
        self._tables = tables
        self._read = read
        self._codec = codec

    def open(self, projection: str, version: int) -> tuple[StateCodec, Table[object]]:
        """Return the codec of a version's pass, and its table."""
        table = structs.replace(self._tables[projection], version=version)
        return self._codec(projection, version), table

    async def kept(self) -> list[tuple[StateCodec | None, Table[object]]]:
        """Return every version that is kept; without a codec of its own it is the declared one."""
        versions = await self._read()
        found: list[tuple[StateCodec | None, Table[object]]] = [
            (None, table)
            for name, table in self._tables.items()
            if (known := versions.get((name, table.version))) is None or known.status == "kept"
        ]
        for (name, number), version in versions.items():
            table = self._tables.get(name)
            if table is not None and table.version != number and version.status == "kept":
                found.append(self.open(name, number))
        return found


class LogViews:
    """`Views` over the topics that the core pass publishes and keeps, and over later versions."""

    def __init__(self, latest: Latest, states: StateCodec, *, later: LaterVersions, partitions: int) -> None:
        """Take the look-ups, the core pass's codec and the later versions."""
        self._latest = latest
        self._states = states
        self._later = later
        self._partitions = partitions

    async def get(self, table: Table[T], ref: SubjectRef) -> T | None:
        """Return one subject's committed state of a table of the core pass, or None.

        Of a projection the version answers that speaks in the subject's partition.
        """
        states = self._states
        if table.sealing == "view":
            version = await self.speaking(table, partition_of(ref, self._partitions))
            if version != table.version:
                states, _ = self._later.open(table.name, version)
                table = structs.replace(table, version=version)
        return await self._held(states, table, ref)

    async def _held(self, states: StateCodec, table: Table[T], ref: SubjectRef) -> T | None:
        partition = partition_of(ref, self._partitions)
        sealed = await self._latest.get(states.topic(table), partition, states.changelog_key(table, ref))
        return states.open_many(table, ((ref, sealed),))[0]

    async def speaking(self, table: Table[T], partition: int) -> int:
        """Return the version of a view that answers in a partition now.

        A later version answers once its own pass has passed the switch: so nobody reads a state
        from before the offset at which it began to speak.
        """
        chosen = (await self.meta(partition)).versions.get(table.name, table.version)
        if chosen == table.version:
            return chosen
        states, _ = self._later.open(table.name, chosen)
        return (await self._meta(states, partition)).versions.get(table.name, table.version)

    async def answering(self, ref: SubjectRef) -> tuple[str, ...]:
        """Return the versions of views that hold readable state of a subject."""
        return tuple(
            [
                f"{table.name}.v{table.version}"
                for states, table in await self._later.kept()
                if await self._held(states or self._states, table, ref) is not None
            ]
        )

    async def live(self, ref: SubjectRef) -> tuple[IndexRow, ...]:
        """Return where the subject's live records lie, oldest first."""
        partition = partition_of(ref, self._partitions)
        prefix = self._states.changelog_key(INDEX, ref)
        pairs = await self._latest.scan(self._states.topic(INDEX), partition, prefix)
        opened = self._states.open_many(INDEX, [(key[1:], value) for key, value in pairs])
        return tuple(sorted((row for row in opened if row), key=lambda row: row.offset))

    async def meta(self, partition: int) -> Meta:
        """Return what the core pass knows of a partition."""
        return await self._meta(self._states, partition)

    async def _meta(self, states: StateCodec, partition: int) -> Meta:
        sealed = await self._latest.get(states.topic(META), partition, states.changelog_key(META, b""))
        return states.open_many(META, ((b"", sealed),))[0] or Meta()

    async def position(self, pass_name: str, partition: int) -> PassPosition:
        """Return how far a pass has committed."""
        value = await self._latest.newest(state_topic(pass_name), partition, _POSITION_KEY)
        if value is None:
            return PassPosition()
        return msgspec.msgpack.decode(value, type=PassPosition)

    @property
    def source(self) -> str:
        """The ledger that these views were folded from."""
        return LEDGER_EVENTS
