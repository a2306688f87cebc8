"""What the parts of a keystore ask of the database that holds its rows.

Statements are written once, in the part of SQL that SQLite and PostgreSQL share, with SQLite's
`?` for values. `temp.wanted w` stands for the rows given to `ask`, and `CROSS JOIN ... ON` asks
SQLite to take the tables in that order; the other database reads both in its own way.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, cast

__all__ = ["NUMBERS", "Cell", "Database", "Numbered", "Rewrapped", "Wanted"]

Cell = bytes | str | int | float | None
Wanted = tuple[int, Cell, Cell, Cell]
"""Slot, bytes, text, number."""
Rewrapped = tuple[int, bytes, bytes]
"""A key's row, its wrapped form as it was read, and the one that takes its place."""

NUMBERS: Final = ("revision", "journal", "journal_end")
"""Those that a new store has; `epoch` and `restored` are 0 before they are first set."""


class Database(Protocol):
    """One connection, used by one thread at a time.

    Whatever cannot be reached raises `KeyUnavailable`, also in the middle of a transaction, which
    then left nothing behind, or, where it was lost while it committed, all of it.
    """

    @property
    def name(self) -> str:
        """What errors call it; without a password."""
        ...

    @property
    def connections(self) -> int:
        """How often it was connected to: what another server answers may be older."""
        ...

    @property
    def pepper_row(self) -> str:
        """The name of the pepper among the secrets: one that no caller asks for."""
        ...

    def write(self) -> AbstractContextManager[None]:
        """Be the only writer for the block, durable at its end; any exception undoes all of it."""
        ...

    def read(self) -> AbstractContextManager[None]:
        """See one state of the store for the whole block."""
        ...

    def execute(self, statement: str, values: Sequence[Cell] = ()) -> int:
        """Run one changing statement and return how many rows it changed."""
        ...

    def execute_many(self, statement: str, rows: Iterable[Sequence[Cell]]) -> None:
        """Run one changing statement per row."""
        ...

    def select(self, statement: str, values: Sequence[Cell] = ()) -> list[tuple[Cell, ...]]:
        """Return all rows."""
        ...

    def ask(self, rows: Iterable[Wanted]) -> None:
        """Give what `temp.wanted w` (slot, a, b, n) holds in the statements up to the next `ask`."""
        ...

    def rewrap(self, rows: Sequence[Rewrapped]) -> int:
        """Put new wrapped forms in the place of those that are still as they were; return how many."""
        ...

    def insert(self, table: str, rows: Sequence[Sequence[Cell]]) -> None:
        """Add whole rows to a table."""
        ...

    def clear(self, tables: Sequence[str]) -> None:
        """Remove every row of these tables."""
        ...

    def number(self, name: str) -> int:
        """Return a number of the store itself, 0 when it was never set."""
        ...

    def others_changes(self) -> int:
        """Return a number that is another one after any other connection's commit, and maybe without."""
        ...

    def set_number(self, name: str, value: int) -> None:
        """Set a number of the store itself."""
        ...

    def next_revision(self) -> int:
        """Return a new revision: a shred or an end, which every other process must see."""
        ...

    def announce(self) -> None:
        """Tell other connections, when the running `write` is committed, that keys were destroyed."""
        ...

    def take_hint(self) -> bool:
        """Return whether others may have destroyed keys since the last call; cheap, and never a promise."""
        ...

    def lease_now(self, seconds: float) -> float:
        """Return the time on the clock of the leases, given this machine's since it started."""
        ...

    def scrub(self) -> None:
        """Remove what was overwritten from where it can be removed, or raise `KeyUnavailable`."""
        ...

    def close(self) -> None:
        """Close the connection; idempotent."""
        ...


class Numbered(ABC):
    """The numbers of a store, over its statements."""

    @abstractmethod
    def execute(self, statement: str, values: Sequence[Cell] = ()) -> int:
        """Run one changing statement and return how many rows it changed."""

    @abstractmethod
    def select(self, statement: str, values: Sequence[Cell] = ()) -> list[tuple[Cell, ...]]:
        """Return all rows."""

    def number(self, name: str) -> int:
        """Return a number of the store itself, 0 when it was never set."""
        rows = self.select("SELECT value FROM numbers WHERE name = ?", (name,))
        return cast("int", rows[0][0]) if rows else 0

    def set_number(self, name: str, value: int) -> None:
        """Set a number of the store itself."""
        self.execute(
            "INSERT INTO numbers VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
            (name, value),
        )

    def next_revision(self) -> int:
        """Return a new revision: a shred or an end, which every other process must see."""
        revision = self.number("revision") + 1
        self.set_number("revision", revision)
        return revision
