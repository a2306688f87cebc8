"""Decoded states over a store: a bounded cache that is never ahead of the committed batch."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar, cast

from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.runtime import StateStore
from privacy_ledger.streams.states import Change, Table

__all__ = ["CACHED_STATES_MAX", "StateCache"]

T = TypeVar("T")
CACHED_STATES_MAX: Final = 60_000
"""At most this many decoded states are kept per pass and partition."""


class StateCache:
    """Typed reads for one owner of one pass and partition."""

    def __init__(self, store: StateStore, codec: StateCodec) -> None:
        """Start empty over `store`."""
        self._store = store
        self._codec = codec
        self._known: OrderedDict[tuple[str, bytes], object | None] = OrderedDict()

    def load(self, table: Table[T], key: bytes) -> T | None:
        """Return the committed value, or None."""
        name = (table.name, key)
        if name in self._known:
            return cast("T | None", self._known[name])
        (value,) = self._codec.open_many(table, ((key, self._store.get_many([table.code + key])[0]),))
        self._remember(name, value)
        return value

    def fetch(self, table: Table[T], keys: Sequence[bytes]) -> None:
        """Read these keys in one query, where they are not known yet."""
        missing = [key for key in keys if (table.name, key) not in self._known]
        if not missing:
            return
        values = self._store.get_many([table.code + key for key in missing])
        opened = self._codec.open_many(table, tuple(zip(missing, values, strict=True)))
        for key, value in zip(missing, opened, strict=True):
            self._remember((table.name, key), value)

    def scan(self, table: Table[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Yield committed (key, value) pairs in key order."""
        pairs = [(key[1:], value) for key, value in self._store.scan(table.code + prefix)]
        opened = self._codec.open_many(table, pairs)
        for (key, _), value in zip(pairs, opened, strict=True):
            if value is not None:
                yield key, value

    def commit(self, store: Sequence[tuple[bytes, bytes | None]], changes: Sequence[Change]) -> None:
        """Write one atomic batch to the store; then the cache says what the store says.

        A value that was dropped because its person ended is None here too.
        """
        self._store.write(store)
        for change, (_, sealed) in zip(changes, store, strict=False):
            value = None if sealed is None else change.value
            self._remember((change.table.name, change.key), value)
        while len(self._known) > CACHED_STATES_MAX:
            self._known.popitem(last=False)

    def _remember(self, name: tuple[str, bytes], value: object | None) -> None:
        self._known[name] = value
