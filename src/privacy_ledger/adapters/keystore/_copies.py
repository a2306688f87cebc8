"""Whole copies of a keystore: what a backup holds, whatever database it comes from.

A backup is a SQLite file of the keystore's own layout, so one in PostgreSQL is restored into a file
as well, and the other way round.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from msgspec import Struct

from privacy_ledger.adapters.keystore._database import Cell, Database
from privacy_ledger.adapters.keystore._material import (
    PEPPER_PLACE,
    Wrapper,
    commitment,
    key_place,
    secret_place,
)
from privacy_ledger.adapters.keystore._store import PEPPER_ROW, Store, check_kind
from privacy_ledger.adapters.keystore.kek import FileKeks, storage_error, sync_folder
from privacy_ledger.adapters.no_dumps import forbid_dumps
from privacy_ledger.domain.errors import HomeUnusable, InvariantViolation, KeyUnavailable
from privacy_ledger.ports.runtime import Ids

__all__ = ["Copied", "copy_to", "load", "verified"]

SLICE: Final = 20_000
SIDE_BY_SIDE: Final = 500_000
"""From so many keys on more than one process is worth its start."""
_PROCESSES: Final = min(4, os.cpu_count() or 1)
TABLES: Final = {
    "numbers": 2, "secrets": 3, "keys": 11, "material": 2, "ended": 3, "refs": 5, "identities": 6,
    "spared": 2, "expired": 1,
}  # fmt: skip
"""Every table that lasts, with the number of its columns; the first one is its key."""
KEYS: Final = {
    "numbers": "name", "secrets": "name", "keys": "id", "material": "id", "ended": "mark", "refs": "id",
    "identities": "mark", "spared": "mark", "expired": "id",
}  # fmt: skip


_Checked = tuple[int, set[int]]
"""How many keys opened, and the epochs that they need."""


class Copied(Struct, frozen=True, kw_only=True):
    """What was found in a copy: its pepper, the keys in use, and the epochs that they need."""

    pepper: bytes
    keys: int
    oldest_epoch: int
    newest_epoch: int


def copy_to(database: Database, path: Path) -> None:
    """Write one state of a keystore into a new file, complete and durable when it has its name."""
    part = path.with_name(f".part-{path.name}")
    with suppress(FileNotFoundError):
        part.unlink()
    if isinstance(database, Store):
        database.copy_file(part)
    else:
        _copy_rows(database, part)
    try:
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error


def _copy_rows(database: Database, path: Path) -> None:
    target = Store(path)
    try:
        with database.read(), target.write():
            target.clear(("numbers",))
            for table in TABLES:
                for rows in _slices(database, table):
                    target.insert(table, _carried(rows, database.pepper_row, PEPPER_ROW))
        target.settle()
    finally:
        target.close()


def _slices(database: Database, table: str) -> Iterator[list[tuple[Cell, ...]]]:
    """Yield a table's rows in the order of its key."""
    key = KEYS[table]
    rows = database.select(f"SELECT * FROM {table} ORDER BY {key} LIMIT ?", (SLICE,))  # noqa: S608 - ours
    while rows:
        yield rows
        rows = database.select(
            f"SELECT * FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT ?",  # noqa: S608 - ours
            (rows[-1][0], SLICE),
        )


def _carried(rows: list[tuple[Cell, ...]], old: str, new: str) -> list[tuple[Cell, ...]]:
    """Return rows with the pepper under its name in the other database, and without that one's layout."""
    return [(new, *row[1:]) if row[0] == old else row for row in rows if row[0] != "layout"]


def load(database: Database, path: Path) -> None:
    """Put the rows of a copy in the place of all rows; call it inside `write`."""
    database.clear(tuple(TABLES))
    with _opened(path) as connection:
        known = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        for table in TABLES:
            if table not in known:  # a copy that an earlier build made: there was none of it then
                continue
            cursor = connection.execute(f"SELECT * FROM {table} ORDER BY {KEYS[table]}")  # noqa: S608 - ours
            while rows := cursor.fetchmany(SLICE):
                database.insert(table, _carried(rows, PEPPER_ROW, database.pepper_row))


def verified(path: Path, keks: FileKeks, *, ids: Ids) -> Copied:
    """Open every secret and every key of a copy, and return what it holds.

    A copy of very many keys is read by a process for each processor: opening is all that takes time.

    Raises:
        HomeUnusable: it is no whole copy of a keystore.
        InvariantViolation: a key in it does not open in its row, or does not match its id.
        KeyUnavailable: it needs a key-encryption key that is not there, or a process was ended.
    """
    wrapper = Wrapper(keks, ids)
    with _opened(path) as connection:
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise HomeUnusable(f"The backup {path} is damaged. Use another one.")
        secrets = connection.execute("SELECT name, epoch, wrapped FROM secrets").fetchall()
        opened = {
            name: wrapper.unwrap(epoch, wrapped, PEPPER_PLACE if name == PEPPER_ROW else secret_place(name))
            for name, epoch, wrapped in secrets
        }
        last, live = connection.execute(
            "SELECT coalesce(max(id), 0), count(*) - count(shredded_at) FROM keys"
        ).fetchone()
    check = partial(_check, path, keks.directory, ids)
    found = [check((0, last))] if live < SIDE_BY_SIDE else _side_by_side(check, last, path)
    keys = sum(count for count, _ in found)
    if PEPPER_ROW not in opened or live != keys:
        raise InvariantViolation(f"{path} lacks rows that belong together. Make another backup.")
    needed = {row[1] for row in secrets}.union(*(epochs for _, epochs in found))
    return Copied(pepper=opened[PEPPER_ROW], keys=keys, oldest_epoch=min(needed), newest_epoch=max(needed))


def _side_by_side(check: Callable[[tuple[int, int]], _Checked], last: int, path: Path) -> list[_Checked]:
    """Return what a process for each processor found in its share of the rows; none of them can be dumped."""
    bounds = [last * part // _PROCESSES for part in range(_PROCESSES + 1)]
    try:
        with ProcessPoolExecutor(
            _PROCESSES, mp_context=get_context("spawn"), initializer=forbid_dumps
        ) as pool:
            return list(pool.map(check, pairwise(bounds)))
    except BrokenProcessPool:
        raise KeyUnavailable(
            f"A process that opened the keys of {path} was ended before it was done: nothing is noted. "
            "Look whether the machine has memory left, and run the command again."
        ) from None


def _check(path: Path, keys: Path, ids: Ids, bounds: tuple[int, int]) -> _Checked:
    """Open the keys of these rows; return how many there are, and the epochs that they need."""
    wrapper, count, epochs = Wrapper(FileKeks(keys), ids), 0, set[int]()
    with _opened(path) as connection:
        cursor = connection.execute(
            "SELECT k.kid, k.ref, k.grp, k.generation, k.epoch, m.wrapped FROM keys k "
            "JOIN material m ON m.id = k.id WHERE k.id > ? AND k.id <= ? AND k.shredded_at IS NULL",
            bounds,
        )
        while rows := cursor.fetchmany(SLICE):
            held = [
                (epoch, wrapped, key_place(ref, group, generation))
                for _, ref, group, generation, epoch, wrapped in rows
            ]
            if list(map(commitment, wrapper.unwrap_all(held))) != [row[0] for row in rows]:
                raise InvariantViolation(f"A key in {path} does not match its own id. Use another backup.")
            epochs.update(row[4] for row in rows)
            count += len(rows)
    return count, epochs


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy to read it; nothing is written beside it."""
    if not path.is_file():
        raise HomeUnusable("There is no backup of a keystore at the path given.")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            check_kind(connection, path)
            yield connection
    except sqlite3.Error:
        raise HomeUnusable(f"{path} is not a readable backup of a keystore. Use another one.") from None
