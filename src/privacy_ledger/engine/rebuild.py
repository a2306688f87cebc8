"""Rebuild beside the live state, from offset 0, and compare: law L3 on real data.

A rebuild is muted by construction: it has a store in memory, a codec without keys, and no way to
write a record. Digests are taken over canonical plaintext, so that sealing plays no part.
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar, cast

import msgspec
from msgspec import Struct

from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import state_topic
from privacy_ledger.domain.values import REF_BYTES
from privacy_ledger.engine.batch import Books
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.outlet import Silence
from privacy_ledger.ports.codec import Decoder, StateCodec
from privacy_ledger.ports.log import PassLog, Row
from privacy_ledger.ports.tables import Scan, committed
from privacy_ledger.streams.states import INDEX, PERMISSIONS, Changes, Table

__all__ = ["MemoryStore", "Rebuild", "TableDigest", "compared_tables", "digest_of", "live_digests"]

T = TypeVar("T")
READ: Final = 2000


class TableDigest(Struct, frozen=True, kw_only=True):
    """The digest of one table over all partitions: SHA-256 in hex, and how many keys it has."""

    table: str
    keys: int
    digest: str


class MemoryStore:
    """`StateStore` in memory: for rebuilds and tests."""

    def __init__(self) -> None:
        """Start empty."""
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of these keys, in order."""
        return [self._values.get(key) for key in keys]

    def scan(self, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield every (key, value) under a prefix, in key order, from `prefix` + `start` on."""
        for at in range(bisect_left(self._keys, prefix + start), len(self._keys)):
            key = self._keys[at]
            if not key.startswith(prefix):
                return
            yield key, self._values[key]

    def write(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Apply all changes."""
        for key, value in changes:
            if value is None:
                if self._values.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
            else:
                if key not in self._values:
                    insort(self._keys, key)
                self._values[key] = value

    def flush(self) -> None:
        """Do nothing: memory survives no crash."""

    def compact(self) -> None:
        """Do nothing: memory has no residue that outlives the process."""

    def close(self) -> None:
        """Do nothing."""


class _PlainStates:
    """A state codec without keys: a rebuild never seals, and never leaves memory."""

    def __init__(self, pass_name: str) -> None:
        self._topic = state_topic(pass_name)
        self._encode = msgspec.msgpack.Encoder().encode

    def topic(self, table: Table[T]) -> str:  # noqa: ARG002 - every table stays in memory
        return self._topic

    def group(self, table: Table[T]) -> str:
        return table.name

    def unused_generation(self, table: Table[T]) -> int:  # noqa: ARG002 - no keys, no generations
        return 0

    def changelog_key(self, table: Table[T], key: bytes) -> bytes:
        return table.code + key

    def seal(
        self,
        changes: Sequence[Changes],
        *,
        generation: Callable[[bytes], int],  # noqa: ARG002 - no keys, no generations
        now: datetime,  # noqa: ARG002
    ) -> list[list[bytes | None]]:
        encode = self._encode
        return [[None if v is None else encode(v) for v in c.values.values()] for c in changes]

    def open_many(self, table: Table[T], items: Sequence[tuple[bytes, bytes | None]]) -> list[T | None]:
        return [
            None if value is None else msgspec.msgpack.decode(value, type=table.kind) for _, value in items
        ]


class Rebuild:
    """A pass folded from zero up to given positions; `digests` after `run`."""

    def __init__(
        self,
        declaration: PassDeclaration,
        *,
        log: PassLog,
        codec: Decoder,
        books: Books,
        initial: Rules,
        sampling_key: bytes,
    ) -> None:
        """Take what a cycle needs to read; nothing here can write."""
        self._declaration = declaration
        self._log = log
        self._codec = codec
        self._states = _PlainStates(declaration.name)
        self._collaborators = (books, initial, sampling_key)
        self._stores: dict[int, MemoryStore] = {}
        self.records = 0

    async def run(self, until: Mapping[int, int], *, now: datetime) -> None:
        """Fold each partition from offset 0 to `until` (inclusive)."""
        for partition, last in sorted(until.items()):
            cycle = self._cycle(partition)
            after = -1
            while after < last:
                rows = await self._log.read(self._declaration.source, partition, after=after, limit=READ)
                rows = tuple(row for row in rows if row.offset <= last)
                if not rows:
                    break
                batch = await cycle.run(rows, now=now)
                cycle.settle(batch)
                after = batch.position.offset
                self.records += batch.records
                # Nobody waits for a rebuild: what is in hand is done before the next rows.
                while (served := await cycle.serve(now=now)) is not None:
                    cycle.settle(served)

    def _cycle(self, partition: int) -> PartitionCycle:
        books, initial, sampling_key = self._collaborators

        async def read_at(offsets: Sequence[int]) -> Sequence[Row]:
            return await self._log.read_at(self._declaration.source, partition, offsets)

        store = self._stores[partition] = MemoryStore()
        return PartitionCycle(
            self._declaration, partition, store=store, codec=self._codec, states=self._states,
            books=books, initial=initial, sampling_key=sampling_key, outlet=Silence(), read_at=read_at,
        )  # fmt: skip

    def digests(self, *, without: frozenset[bytes] = frozenset()) -> tuple[TableDigest, ...]:
        """Return a digest per compared table, in their order, `without` these references."""
        found = []
        for table in compared_tables(self._declaration):
            pairs: list[tuple[bytes, object]] = []
            for store in self._stores.values():
                items = [(key[1:], value) for key, value in store.scan(table.code)]
                opened = self._states.open_many(table, items)
                pairs += [(key, value) for (key, _), value in zip(items, opened, strict=True)]
            found.append(digest_of(table.name, _but(pairs, without)))
        return tuple(found)


def compared_tables(declaration: PassDeclaration) -> tuple[Table[object], ...]:
    """Return the tables that live and rebuild must agree on: all that is a function of L3."""
    projected = [processor.table for processor in declaration.processors]
    return cast("tuple[Table[object], ...]", (PERMISSIONS, INDEX, *projected))


def digest_of(name: str, pairs: Sequence[tuple[bytes, object]]) -> TableDigest:
    """Return the digest of (key, value) pairs, in key order, over canonical plaintext."""
    encode = msgspec.msgpack.Encoder(order="deterministic").encode
    whole, count = hashlib.sha256(), 0
    for key, value in sorted(pairs, key=lambda pair: pair[0]):
        if value is None:
            continue
        body = encode(value)
        whole.update(len(key).to_bytes(4, "big") + key + len(body).to_bytes(4, "big") + body)
        count += 1
    return TableDigest(table=name, keys=count, digest=whole.hexdigest())


async def live_digests(
    declaration: PassDeclaration,
    states: StateCodec,
    latest: Scan,
    *,
    partitions: int,
    without: frozenset[bytes] = frozenset(),
) -> tuple[TableDigest, ...]:
    """Return a digest per compared table of the committed live state, `without` these references."""
    found = []
    for table in compared_tables(declaration):
        pairs: list[tuple[bytes, object]] = []
        for partition in range(partitions):
            pairs += await committed(latest, states, table, partition)
        found.append(digest_of(table.name, _but(pairs, without)))
    return tuple(found)


def _but(pairs: Sequence[tuple[bytes, object]], without: frozenset[bytes]) -> Sequence[tuple[bytes, object]]:
    return [pair for pair in pairs if pair[0][:REF_BYTES] not in without] if without else pairs
