"""Decoded states over a store: a cache that is never ahead of the committed batch.

All caches of a process share one bound: a worker may own one partition or a hundred.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from privacy_ledger.ports.codec import HEARTBEAT_KEY, StateCodec
from privacy_ledger.ports.runtime import StateStore
from privacy_ledger.streams.states import Changes, Table

__all__ = ["CACHED_STATES_MAX", "StateCache"]

T = TypeVar("T")
CACHED_STATES_MAX: Final = 120_000
"""At most this many decoded states are kept per process, over all its passes and partitions."""
EVICTED_PART: Final = 4
"""The oldest quarter of the largest table goes where there is no room."""
SCAN_FIRST: Final = 32
SCAN_MAX: Final = 512
_UNREAD: Final[Any] = object()


class StateCache:
    """Typed reads for one owner of one pass and partition."""

    def __init__(self, store: StateStore, codec: StateCodec) -> None:
        """Start empty over `store`."""
        self._store = store
        self._codec = codec
        self._known: defaultdict[str, dict[bytes, Any]] = defaultdict(dict)
        self._passing: dict[str, dict[bytes, Any]] = {}

    def __len__(self) -> int:
        """Return how many states are kept."""
        return sum(map(len, self._known.values()))

    def load(self, table: Table[T], key: bytes) -> T | None:
        """Return the committed value, or None."""
        known = self._known[table.name]
        value: T | None = known.get(key, _UNREAD)
        if value is _UNREAD and self._passing:
            value = self._passing.get(table.name, known).get(key, _UNREAD)
        if value is _UNREAD:
            (value,) = self._codec.open_many(table, ((key, self._store.get_many([table.code + key])[0]),))
            known[key] = value
        return value

    def fetch(self, table: Table[T], keys: Sequence[bytes]) -> None:
        """Read these keys in one query, where they are not known yet."""
        known = self._known[table.name]
        missing = [key for key in keys if key not in known]
        if missing:
            known.update(self._read(table, missing))

    def pass_by(self, table: Table[T], keys: Sequence[bytes]) -> None:
        """Read these keys in one query, and forget them at the next commit.

        For rows that are hardly ever asked for again, such as a tag: they push no state out.
        """
        self._passing[table.name] = self._read(table, keys)

    def _read(self, table: Table[T], keys: Sequence[bytes]) -> dict[bytes, T | None]:
        code = table.code
        found: dict[bytes, T | None] = dict.fromkeys(keys)
        stored = self._store.get_many([code + key for key in keys])
        pairs = [pair for pair in zip(keys, stored, strict=True) if pair[1] is not None]
        if pairs:
            opened = self._codec.open_many(table, pairs)
            found.update(zip((key for key, _ in pairs), opened, strict=True))
        return found

    def scan(self, table: Table[T], prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, T]]:
        """Yield committed (key, value) pairs in key order, from `prefix` + `start` on.

        It reads ahead in ever larger pages, so that a few values cost little and many are fast. No
        cursor of the store stays open between them: one in a frame that an error keeps alive would
        keep the store locked.
        """
        whole = table.code + prefix
        size = SCAN_FIRST
        while page := list(islice(self._store.scan(whole, start=start), size)):
            opened = self._codec.open_many(table, [(key[1:], value) for key, value in page])
            for (key, _), value in zip(page, opened, strict=True):
                if value is not None:
                    yield key[1:], value
            if len(page) < size:
                return
            start = page[-1][0][len(whole) :] + b"\0"
            size = min(2 * size, SCAN_MAX)

    def keys(self, table: Table[T], start: bytes) -> Iterator[bytes]:
        """Yield the committed keys from `start` on, in order."""
        for key, _ in self._store.scan(table.code, start=start):
            if key[1:] != HEARTBEAT_KEY:  # a home's states are its topics, with all that is in them
                yield key[1:]

    def count(self, table: Table[T], *, limit: int) -> int:
        """Return how many committed rows a table has, counted up to `limit`; nothing is opened."""
        return sum(1 for _ in islice(self._store.scan(table.code), limit))

    def commit(
        self,
        store: Sequence[tuple[bytes, bytes | None]],
        changes: Sequence[Changes],
        sealed: Sequence[Sequence[bytes | None]],
    ) -> None:
        """Write one atomic batch to the store; then the cache says what the store says.

        A value that was dropped because its person ended is None here too. A key that was never
        loaded stays out: what is written once and hardly read must not push states out.
        """
        self._store.write(store)
        self._passing.clear()
        tables = self._known
        for one, stored in zip(changes, sealed, strict=True):
            known = tables[one.table.name]
            if not known:
                continue
            known.update({key: value for key, value in one.values.items() if key in known})
            if None in stored:
                gone = (key for key, value in zip(one.values, stored, strict=True) if value is None)
                known.update({key: None for key in gone if key in known})
        _make_room(self)

    def forget_oldest(self) -> None:
        """Let the largest table give up a part of its oldest entries; they are read again when needed."""
        # A part at a time: to look for the oldest entry of a dictionary again and again is slow.
        largest = max(self._known.values(), key=len)
        for key in list(islice(largest, -(-len(largest) // EVICTED_PART))):
            del largest[key]


_SIZES: Final[WeakKeyDictionary[StateCache, int]] = WeakKeyDictionary()
"""Every cache of this process, and its size at its last commit."""


def _make_room(grown: StateCache) -> None:
    """Count a cache that has grown; the largest ones shrink until all fit."""
    _SIZES[grown] = len(grown)
    while sum(_SIZES.values()) > CACHED_STATES_MAX:
        largest = max(_SIZES, key=_SIZES.__getitem__)
        largest.forget_oldest()
        _SIZES[largest] = len(largest)
