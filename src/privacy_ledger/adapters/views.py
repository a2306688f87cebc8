"""Committed projections, read from their topics: indexed when embedded, tailed on Kafka."""

import asyncio
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import msgspec
from msgspec import structs

from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.domain.topics import LEDGER_EVENTS, state_topic
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.domain.versions import Version, VersionKey, native_of
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.log import EventLog, Row
from privacy_ledger.ports.passes import Latest, PassPosition
from privacy_ledger.ports.tables import committed
from privacy_ledger.streams.states import INDEX, META, IndexRow, Meta, Table

__all__ = ["IndexedLatest", "LaterVersions", "LogViews", "TailedLatest"]

T = TypeVar("T")
FOLLOWED_S: Final = 60.0
"""So long a key is followed since it was last asked for."""
SORTED_ANEW: Final = 1000
"""After more changes than this the keys are put in order as a whole."""
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

    async def scan_each(
        self, topic: str, partition: int, prefixes: Sequence[bytes]
    ) -> list[Sequence[tuple[bytes, bytes]]]:
        """Return live pairs under each prefix, in key order."""
        return [await self.scan(topic, partition, prefix) for prefix in prefixes]

    def forget(self) -> None:
        """Do nothing: the log keeps its own index."""


class _Kept:
    """The newest values of one partition, up to an offset; in order for those who scan."""

    def __init__(self) -> None:
        self.after = -1
        self.values: dict[bytes, bytes] = {}
        self._ordered: list[bytes] | None = None
        self._moved: set[bytes] = set()

    def apply(self, rows: Sequence[Row]) -> None:
        """Take what the log says next."""
        values = self.values
        for row in rows:
            key, value = row.key, row.value
            if (value is None) == (key in values) and self._ordered is not None:
                self._moved.add(key)  # it came, or it went
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        self.after = rows[-1].offset

    def under(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return the pairs under a prefix, in key order."""
        keys, values = self._keys(), self.values
        found = []
        for place in range(bisect_left(keys, prefix), len(keys)):
            key = keys[place]
            if not key.startswith(prefix):
                break
            found.append((key, values[key]))
        return found

    def _keys(self) -> list[bytes]:
        """Return all keys, in order; a few changes since the last time are put in their places."""
        keys = self._ordered
        if keys is None or len(self._moved) > SORTED_ANEW:
            keys = self._ordered = sorted(self.values)
        else:
            for key in self._moved:
                place = bisect_left(keys, key)
                is_there = place < len(keys) and keys[place] == key
                if key in self.values and not is_there:
                    keys.insert(place, key)
                elif is_there and key not in self.values:
                    del keys[place]
        self._moved.clear()
        return keys


class TailedLatest:
    """`Latest` on Kafka: a partition is read to its stable end and kept until `forget`.

    Who asks for one that somebody is reading waits, and then reads on from where that one came.
    """

    def __init__(self, log: EventLog) -> None:
        """Start with nothing read."""
        self._log = log
        self._read: defaultdict[tuple[str, int], _Kept] = defaultdict(_Kept)
        self._reading: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._followed: dict[tuple[str, int, bytes], tuple[int, bytes | None, float]] = {}

    async def _caught_up(self, topic: str, partition: int) -> _Kept:
        place = (topic, partition)
        async with self._reading[place]:  # two at once would put old values over the other's new ones
            kept = self._read[place]
            while rows := await self._log.read(topic, partition, after=kept.after, limit=5000):
                kept.apply(rows)
        return kept

    async def get(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return the newest committed value of a key, or None."""
        return (await self._caught_up(topic, partition)).values.get(key)

    async def newest(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return the newest committed value of a key: from the end, then what came since.

        After a while it looks from the end again: to read all that came in an hour would take long.
        """
        place, now = (topic, partition, key), time.monotonic()
        after, value, looked_at = self._followed.get(place, (-1, None, -FOLLOWED_S))
        if now - looked_at >= FOLLOWED_S:
            after = await self._log.end(topic, partition) - 1
            row = await self._log.latest(topic, partition, key)
            after, value = (after, None) if row is None else (max(after, row.offset), row.value)
        while rows := await self._log.read(topic, partition, after=after, limit=5000):
            value = next((row.value for row in reversed(rows) if row.key == key), value)
            after = rows[-1].offset
        self._followed[place] = (after, value, now)
        return value

    async def scan(self, topic: str, partition: int, prefix: bytes) -> Sequence[tuple[bytes, bytes]]:
        """Return live pairs under a prefix, in key order."""
        (found,) = await self.scan_each(topic, partition, (prefix,))
        return found

    async def scan_each(
        self, topic: str, partition: int, prefixes: Sequence[bytes]
    ) -> list[Sequence[tuple[bytes, bytes]]]:
        """Return live pairs under each prefix, in key order, all as of one moment."""
        kept = await self._caught_up(topic, partition)
        return [kept.under(prefix) for prefix in prefixes]

    def forget(self) -> None:
        """Let go of the partitions that were read; keys that are followed stay so."""
        self._read.clear()


class LaterVersions:
    """The versions of published projections beyond those that their own passes fold."""

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

    async def native(self, table: Table[T]) -> int:
        """Return the version of a table that its own pass folds."""
        return native_of(await self._read(), table.name, declared=table.version)

    def codec(self, projection: str, version: int) -> StateCodec:
        """Return the codec of a version's own pass."""
        return self._codec(projection, version)

    async def kept(self) -> list[tuple[StateCodec | None, Table[object]]]:
        """Return every version that is kept; without a codec of its own it is the native one."""
        versions = await self._read()
        found: list[tuple[StateCodec | None, Table[object]]] = []
        for name, table in self._tables.items():
            native = native_of(versions, name, declared=table.version)
            numbers = {native, *(number for other, number in versions if other == name)}
            for number in sorted(numbers):
                known = versions.get((name, number))
                if known is None or known.status == "kept":
                    codec = None if number == native else self._codec(name, number)
                    found.append((codec, structs.replace(table, version=number)))
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

        Raises:
            HomeUnusable: that version was folded by a build whose states this one cannot read.
        """
        states = self._states
        if table.sealing == "view":
            native = await self._later.native(table)
            version = await self.speaking(table, partition_of(ref, self._partitions))
            if version != native:
                states = self._later.codec(table.name, version)
            table = structs.replace(table, version=version)
        try:
            return await self._held(states, table, ref)
        except msgspec.DecodeError:
            raise HomeUnusable(
                f"Version {table.version} of {table.name} was folded by another build, and this one cannot "
                "read it. Use that build, or see `privacy-ledger replay status`."
            ) from None

    async def _held(self, states: StateCodec, table: Table[T], ref: SubjectRef) -> T | None:
        partition = partition_of(ref, self._partitions)
        sealed = await self._latest.get(states.topic(table), partition, states.changelog_key(table, ref))
        return states.open_many(table, ((ref, sealed),))[0]

    async def speaking(self, table: Table[T], partition: int) -> int:
        """Return the version of a view that answers in a partition now.

        A later version answers once its own pass has passed the switch: so nobody reads a state
        from before the offset at which it began to speak.
        """
        native = await self._later.native(table)
        chosen = (await self.meta(partition)).versions.get(table.name, native)
        if chosen == native:
            return chosen
        own = await self._meta_of(self._later.codec(table.name, chosen), partition)
        return own.versions.get(table.name, native)

    async def _meta_of(self, states: StateCodec, partition: int) -> Meta:
        sealed = await self._latest.newest(states.topic(META), partition, states.changelog_key(META, b""))
        return states.open_many(META, ((b"", sealed),))[0] or Meta()

    async def answering(self, ref: SubjectRef) -> tuple[str, ...]:
        """Return the versions of views that hold readable state of a subject."""
        found = []
        for states, table in await self._later.kept():
            try:
                is_held = await self._held(states or self._states, table, ref) is not None
            except msgspec.DecodeError:
                is_held = True  # by another build, and under a key that lives
            if is_held:
                found.append(f"{table.name}.v{table.version}")
        return tuple(found)

    async def live(self, ref: SubjectRef) -> tuple[IndexRow, ...]:
        """Return where the subject's live records lie, oldest first."""
        partition = partition_of(ref, self._partitions)
        rows = await committed(self._latest, self._states, INDEX, partition, under=ref)
        return tuple(sorted((row for _, row in rows), key=lambda row: row.offset))

    async def live_each(
        self, partition: int, refs: Iterable[SubjectRef]
    ) -> dict[SubjectRef, tuple[IndexRow, ...]]:
        """Return where the live records of each subject of a partition lie, oldest first."""
        wanted, states = tuple(refs), self._states
        prefixes = [states.changelog_key(INDEX, ref) for ref in wanted]
        found = await self._latest.scan_each(states.topic(INDEX), partition, prefixes)
        rows = (states.open_many(INDEX, pairs) for pairs in found)
        return {
            ref: tuple(sorted((row for row in mine if row is not None), key=lambda row: row.offset))
            for ref, mine in zip(wanted, rows, strict=True)
        }

    async def meta(self, partition: int) -> Meta:
        """Return what the core pass knows of a partition."""
        key = self._states.changelog_key(META, b"")
        sealed = await self._latest.newest(self._states.topic(META), partition, key)
        return self._states.open_many(META, ((b"", sealed),))[0] or Meta()

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
