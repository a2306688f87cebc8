"""The states of a pass: tables of typed values, and the workspace that folds read and change."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.values import Category

__all__ = [
    "FROZEN",
    "GENERATIONS",
    "INDEX",
    "MEMBERS",
    "META",
    "PARKED",
    "PERMISSIONS",
    "SHREDS",
    "TIMERS",
    "WAITING",
    "WINDOWS",
    "WORK",
    "Changes",
    "IndexRow",
    "Loader",
    "Meta",
    "Moment",
    "Parked",
    "Parts",
    "Sealing",
    "Shred",
    "Table",
    "Tombstone",
    "Waiting",
    "Window",
    "Workspace",
]

T = TypeVar("T")
Sealing = Literal["plain", "state", "view"]
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
    """

    offset: int
    record_id: bytes
    digest: bytes
    category: Category
    month: int
    purposes: tuple[str, ...]
    generation: int


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


class Moment(Struct, frozen=True, array_like=True):
    """The time and the rules that were in force at an offset."""

    last_tick: datetime | None
    registry_digest: str | None


class Parked(Struct, frozen=True, array_like=True):
    """A subject that waits behind a record nobody can read.

    `tag` is not empty when the record is live and could not be folded again in a refold: the
    subject goes on with that refold.
    """

    offset: int
    record_id: bytes
    reason: str
    moment: Moment
    tag: bytes = b""


class Waiting(Struct, frozen=True, array_like=True):
    """What waits for redrive or lift: a record of the subject, or a tick that concerned all."""

    offset: int
    is_tick: bool
    moment: Moment


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
PARKED: Final = Table(b"k", "parked", Parked, "plain")
WAITING: Final = Table(b"q", "waiting", Waiting, "plain")
FROZEN: Final = Table(b"z", "frozen", bool, "plain")
WINDOWS: Final = Table(b"n", "windows", Window, "plain")
MEMBERS: Final = Table(b"a", "members", bool, "plain")


class Loader(Protocol):
    """Typed reads of committed state."""

    def load(self, table: Table[T], key: bytes) -> T | None:
        """Return the committed value, or None."""
        ...

    def scan(self, table: Table[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Yield committed (key, value) pairs in key order."""
        ...


class Changes(Struct, frozen=True):
    """The changed values of one table, by key in the order of first change; None deletes."""

    table: Table[Any]
    values: dict[bytes, Any]


class Workspace:
    """The states of one cycle: reads fall through to committed state, changes stay here.

    Deterministic and free of I/O of its own. `changes` names each changed key once.
    """

    __slots__ = ("_changed", "_loader", "_tables")

    def __init__(self, loader: Loader) -> None:
        """Start with no changes over `loader`."""
        self._loader = loader
        self._changed: defaultdict[str, dict[bytes, Any]] = defaultdict(dict)
        self._tables: dict[str, Table[Any]] = {}

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

    def changed(self, table: Table[T]) -> dict[bytes, T | None]:
        """Return what this cycle changed in one table, in the order of first change."""
        return self._changed[table.name]

    def changes(self) -> tuple[Changes, ...]:
        """Return every change of this cycle, table by table."""
        return tuple(Changes(table, self._changed[name]) for name, table in self._tables.items())

    def __len__(self) -> int:
        """Return the number of changed keys."""
        return sum(map(len, self._changed.values()))
