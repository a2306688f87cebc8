"""The states of a pass: tables of typed values, and the workspace that folds read and change."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.values import Category

__all__ = [
    "ENDLESS",
    "FROZEN",
    "GENERATIONS",
    "INDEX",
    "MEMBERS",
    "META",
    "PERMISSIONS",
    "SHREDS",
    "TIMERS",
    "WINDOWS",
    "WORK",
    "Changes",
    "Emit",
    "IndexRow",
    "Loader",
    "Meta",
    "Moment",
    "Parts",
    "Sealing",
    "Shred",
    "Table",
    "Tombstone",
    "Window",
    "Workspace",
]

T = TypeVar("T")
Sealing = Literal["plain", "state", "view"]
ENDLESS: Final = 1 << 62
RESORTED_AT: Final = 100
"""After so many new keys the order of a table's changed keys is worked out again."""
_UNREAD: Final[Any] = object()


class Table(Struct, Generic[T], frozen=True):
    """A table: one byte that names it in the store, its value type, where it is published.

    `sealing`: `plain` holds no value of a person; `state` is sealed under the subject's key of
    the pass; `view` under the subject's key of the view, in its current generation. `view` is
    the name of the public view, or None for the pass's private changelog.
    """

    code: bytes
    name: str
    kind: type[T]
    sealing: Sealing
    view: str | None = None
    version: int = 1


class IndexRow(Struct, frozen=True, array_like=True, gc=False):
    """Where a live record lies and what it may serve; keyed by reference and tag.

    It holds nothing that the record's own headers do not say in clear, and goes with the record.
    `field` and `instead` as in `Record`.
    """

    offset: int
    record_id: bytes
    digest: bytes
    category: Category
    month: int
    purposes: tuple[str, ...]
    generation: int
    field: bytes | None = None
    instead: int | None = None

    @property
    def place(self) -> int:
        """Where the record stands in its subject's history."""
        return self.offset if self.instead is None else self.instead


class Tombstone(Struct, frozen=True, array_like=True, gc=False):
    """A tombstone that was decided and not yet read back; `sequence` is the decision order.

    `key` is that of the record; the row's own key is a hash of it, so that no index structure of
    a store keeps a record's key after the row is gone.
    """

    sequence: int
    cause: str
    request: str
    key: bytes


class Shred(Struct, frozen=True, array_like=True, gc=False):
    """Keys to destroy once the cycle is committed; group `view` means the pass's own views."""

    group: str
    generation: int | None = None
    below: int | None = None


class Emit(Struct, frozen=True, kw_only=True):
    """An output of a fold: sealed under the key of `window` by the shell, one per partition."""

    topic: str
    partition: int
    key: bytes
    release: str
    cells: dict[str, int]
    subjects: int


class Moment(Struct, frozen=True, array_like=True):
    """The time and the rules that were in force at an offset."""

    last_tick: datetime | None
    registry_digest: str | None


class Meta(Struct, frozen=True, kw_only=True):
    """What a partition of a pass knows beside its subjects."""

    last_tick: datetime | None = None
    unconfirmed: datetime | None = None
    registry_digest: str | None = None
    adopted_at: int = -1
    sequence: int = 0
    versions: dict[str, int] = {}


class Window(Struct, frozen=True, kw_only=True):
    """A window that a control record opened or sealed."""

    is_sealed: bool
    release: str | None = None


class Parts(Struct, Generic[T]):
    """A projection's state, in parts by category and month, so that retention drops parts."""

    parts: dict[str, T]


PERMISSIONS: Final = Table(b"p", "permissions", Permissions, "state", view="permissions")
INDEX: Final = Table(b"i", "index", IndexRow, "plain")
TIMERS: Final = Table(b"t", "timers", bool, "plain")
META: Final = Table(b"m", "meta", Meta, "plain")
WORK: Final = Table(b"w", "work", Tombstone, "plain")
GENERATIONS: Final = Table(b"g", "generations", int, "plain")
SHREDS: Final = Table(b"s", "shreds", Shred, "plain")
FROZEN: Final = Table(b"z", "frozen", bool, "plain")
WINDOWS: Final = Table(b"n", "windows", Window, "plain")
MEMBERS: Final = Table(b"a", "members", bool, "plain")


class Loader(Protocol):
    """Typed reads of committed state."""

    def load(self, table: Table[T], key: bytes) -> T | None:
        """Return the committed value, or None."""
        ...

    def scan(self, table: Table[T], prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, T]]:
        """Yield committed (key, value) pairs under `prefix` in key order, from `prefix` + `start` on."""
        ...

    def keys(self, table: Table[T], start: bytes) -> Iterator[bytes]:
        """Yield the committed keys from `start` on, in order."""
        ...


class Changes(Struct, frozen=True):
    """The changed values of one table, by key in the order of first change; None deletes."""

    table: Table[Any]
    values: dict[bytes, Any]


class Workspace:
    """The states of one cycle: reads fall through to committed state, changes stay here.

    Deterministic and free of I/O of its own. `changes` names each changed key once. `left` is how
    many records of the log this cycle may still read again; `emits` are its outputs.
    """

    __slots__ = ("_changed", "_loader", "_sorted", "_tables", "emits", "left")

    def __init__(self, loader: Loader, *, budget: int = ENDLESS) -> None:
        """Start with no changes over `loader`."""
        self._loader = loader
        self._changed: defaultdict[str, dict[bytes, Any]] = defaultdict(dict)
        self._tables: dict[str, Table[Any]] = {}
        self._sorted: dict[str, tuple[list[bytes], int]] = {}
        self.emits: list[Emit] = []
        self.left = budget

    def get(self, table: Table[T], key: bytes) -> T | None:
        """Return the value as changed in this cycle, else as committed."""
        value: T | None = self._changed[table.name].get(key, _UNREAD)
        return self._loader.load(table, key) if value is _UNREAD else value

    def put(self, table: Table[T], key: bytes, value: T) -> None:
        """Set a value."""
        name = table.name
        self._changed[name][key] = value
        self._tables[name] = table

    def delete(self, table: Table[T], key: bytes) -> None:
        """Remove a value; removing what is not there changes nothing."""
        if self.get(table, key) is not None:
            self._changed[table.name][key] = None
            self._tables[table.name] = table

    def remove(self, table: Table[T], key: bytes) -> None:
        """Remove a value that is known to be there, or that nobody can read any more."""
        self._changed[table.name][key] = None
        self._tables[table.name] = table

    def remove_or_forget(self, table: Table[T], key: bytes) -> None:
        """Remove a value; one that was never committed leaves no trace. Not for tables that are walked."""
        if self._loader.load(table, key) is None:
            self._changed[table.name].pop(key, None)
        else:
            self.remove(table, key)

    def scan(self, table: Table[T], prefix: bytes) -> list[tuple[bytes, T]]:
        """Return (key, value) pairs in key order, with this cycle's changes."""
        found: dict[bytes, T] = dict(self._loader.scan(table, prefix))
        for key, value in self._changed[table.name].items():
            if key.startswith(prefix):
                if value is None:
                    found.pop(key, None)
                else:
                    found[key] = value
        return sorted(found.items())

    def keys(self, table: Table[T], start: bytes) -> Iterator[bytes]:
        """Yield the keys from `start` on as committed, without this cycle's changes, in order."""
        return self._loader.keys(table, start)

    def walk(self, table: Table[T], prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, T]]:
        """Yield (key, value) pairs under `prefix` in key order, from `prefix` + `start` on, as they are.

        It reads no further than it is asked. A key that is new since it began is not seen.
        """
        mine = self._changed[table.name]
        own = iter(self._changed_keys(table.name, prefix, prefix + start))
        changed_key = next(own, None)
        for key, committed in self._loader.scan(table, prefix, start=start):
            while changed_key is not None and changed_key < key:
                if (value := mine.get(changed_key)) is not None:
                    yield changed_key, value
                changed_key = next(own, None)
            if changed_key == key:
                changed_key = next(own, None)
            value = mine.get(key, committed)
            if value is not None:
                yield key, value
        while changed_key is not None:
            if (value := mine.get(changed_key)) is not None:
                yield changed_key, value
            changed_key = next(own, None)

    def _changed_keys(self, name: str, prefix: bytes, start: bytes) -> list[bytes]:
        """Return the changed keys of a table under a prefix, in order, without looking at all of them."""
        mine = self._changed[name]
        known, count = self._sorted.get(name, ([], 0))
        fresh = list(islice(reversed(mine), len(mine) - count))
        if len(fresh) > RESORTED_AT:
            known, count = sorted(mine), len(mine)
            self._sorted[name] = (known, count)
            fresh = []
        found = [key for key in fresh if key >= start and key.startswith(prefix)]
        for key in known[bisect_left(known, start) :]:
            if not key.startswith(prefix):
                break
            found.append(key)
        return sorted(found)

    def changed(self, table: Table[T]) -> Mapping[bytes, T | None]:
        """Return what this cycle changed in one table, in the order of first change."""
        return self._changed[table.name]

    def changes(self) -> tuple[Changes, ...]:
        """Return every change of this cycle, table by table."""
        return tuple(
            Changes(table, self._changed[name]) for name, table in self._tables.items() if self._changed[name]
        )

    def __len__(self) -> int:
        """Return the number of changed keys."""
        return sum(map(len, self._changed.values()))
