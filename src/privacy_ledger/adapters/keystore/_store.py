"""The keystore's SQLite file: how it is opened, locked and scrubbed, and what its errors mean.

Wrapped material stands in a table of its own, in rows of one length that are only appended and
overwritten in place. Setting a column of the key's row to NULL is not enough: SQLite moves rows
between pages, and `secure_delete` does not reach the copy that such a move leaves in the unused
part of a page (measured: 3 of 15,000 nulled keys were still in the file).
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from privacy_ledger.adapters.keystore._database import NUMBERS, Cell, Numbered, Rewrapped, Wanted
from privacy_ledger.adapters.keystore.kek import storage_error
from privacy_ledger.domain.errors import (
    HomeUnusable,
    InvariantViolation,
    KeystoreReplaced,
    KeyUnavailable,
    LedgerError,
    StoreFull,
)

__all__ = ["APPLICATION_ID", "PEPPER_ROW", "Store", "check_kind", "require_secure_delete"]

APPLICATION_ID: Final = 0x504C4B53
USER_VERSION: Final = 1
BUSY_TIMEOUT_MS: Final = 10_000
SCRUB_BUSY_TIMEOUT_MS: Final = 100
SCRUB_PAUSES_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
OPEN_TIMEOUT_S: Final = 10.0
CACHE_KIB: Final = 32_768
PEPPER_ROW: Final = "\0identity-pepper"

RELEASES: Final = """CREATE TABLE IF NOT EXISTS releases(
        report INTEGER NOT NULL, role TEXT NOT NULL, purpose TEXT NOT NULL, category TEXT NOT NULL,
        outcome TEXT NOT NULL, count INTEGER NOT NULL, closed_at INTEGER,
        PRIMARY KEY(report, role, purpose, category, outcome)) WITHOUT ROWID"""
"""Added to a keystore that was made before there was one: nothing else reads it."""
SPARED: Final = "CREATE TABLE IF NOT EXISTS spared(mark BLOB PRIMARY KEY, names TEXT NOT NULL) WITHOUT ROWID"
"""The key groups of an ended reference that go on, by its mark; added where it is missing."""
EXPIRED: Final = "CREATE TABLE IF NOT EXISTS expired(id INTEGER PRIMARY KEY)"
"""The rows of the keys that retention destroyed; added where it is missing."""
SCHEMA: Final = (
    "CREATE TABLE numbers(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE secrets(
        name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, wrapped BLOB NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE keys(
        id INTEGER PRIMARY KEY, kid BLOB NOT NULL UNIQUE, ref BLOB NOT NULL, grp TEXT NOT NULL,
        generation INTEGER NOT NULL, is_single INTEGER NOT NULL, epoch INTEGER NOT NULL,
        created_at INTEGER NOT NULL, used INTEGER NOT NULL, shredded_at INTEGER, revision INTEGER,
        UNIQUE(ref, grp, generation))""",
    "CREATE INDEX keys_by_revision ON keys(revision) WHERE revision IS NOT NULL",
    "CREATE TABLE material(id INTEGER PRIMARY KEY, wrapped BLOB NOT NULL CHECK(length(wrapped) = 60))",
    """CREATE TABLE ended(
        mark BLOB PRIMARY KEY, ended_at INTEGER NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE refs(
        id INTEGER PRIMARY KEY AUTOINCREMENT, ref BLOB NOT NULL UNIQUE, person BLOB NOT NULL,
        not_before INTEGER NOT NULL, minted_at INTEGER NOT NULL)""",
    "CREATE INDEX refs_by_person ON refs(person)",
    """CREATE TABLE identities(
        mark BLOB PRIMARY KEY, ref BLOB NOT NULL, status TEXT NOT NULL, not_before INTEGER NOT NULL,
        erasure BLOB, bound_at INTEGER NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX identities_by_ref ON identities(ref)",
    "CREATE INDEX identities_by_erasure ON identities(erasure) WHERE erasure IS NOT NULL",
    """CREATE TABLE leases(
        process BLOB PRIMARY KEY, until REAL NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID""",
)
# What a call asks for, so that one statement answers a whole batch; never written to disk.
WANTED: Final = "CREATE TEMP TABLE wanted(slot INTEGER PRIMARY KEY, a BLOB, b TEXT, n INTEGER)"


class Store(Numbered):
    """One connection to the keystore's file; used by one thread at a time."""

    connections = 1
    pepper_row = PEPPER_ROW

    def __init__(self, path: Path) -> None:
        """Open the file and create it where missing; two processes may do it at once.

        Raises:
            HomeUnusable: the file is no keystore, or this SQLite cannot erase.
            KeyUnavailable: the file cannot be opened or stays locked.
        """
        self._path = path
        self._is_closed = False
        self._file: tuple[int, int] | None = None
        with _translated(path):
            _reserve(path)
            self._connection = sqlite3.connect(
                path,
                isolation_level=None,
                check_same_thread=False,
                timeout=BUSY_TIMEOUT_MS / 1000,
                cached_statements=256,
            )
            try:
                self._prepare()
                self._file = _file_of(path)
                self._seen = self.others_changes()
            except BaseException:
                self._connection.close()
                raise

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self._path)

    def _prepare(self) -> None:
        self._check_identity()
        self._use_wal()
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA temp_store = MEMORY")
        self._connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        require_secure_delete(self._connection)
        if self._connection.execute("PRAGMA synchronous").fetchone() != (2,):
            raise HomeUnusable("This SQLite does not sync what it commits. Use another build of it.")
        with self.write():
            if not self._pragma("user_version"):
                self._create()
            self._connection.execute(RELEASES)
            self._connection.execute(SPARED)
            self._connection.execute(EXPIRED)
        self._check_identity()
        self._connection.execute(WANTED)

    def _create(self) -> None:
        for statement in SCHEMA:
            self._connection.execute(statement)
        self._connection.executemany("INSERT INTO numbers VALUES (?, 0)", ((name,) for name in NUMBERS))
        self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._connection.execute(f"PRAGMA user_version = {USER_VERSION}")

    def _use_wal(self) -> None:
        """Switch to the write-ahead log; SQLite does not wait for others here, so this does."""
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        while True:
            try:
                mode = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            if mode != ("wal",):
                raise HomeUnusable(
                    f"The file system of {self._path} does not support SQLite's write-ahead log. "
                    "Move the keystore to a local disk."
                )
            return

    def _check_identity(self) -> None:
        version = self._pragma("user_version")
        tables = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version or tables:  # otherwise a new file, or another process is creating it now
            check_kind(self._connection, self._path)

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    # Transactions -----------------------------------------------------------------------

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the write lock for the block; any exception rolls all of it back."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def read(self) -> Iterator[None]:
        """See one state of the store for the whole block."""
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        if self._is_closed:
            raise KeyUnavailable("The keystore is closed. Open it again.")
        if self._file is not None and _file_of(self._path) != self._file:
            # SQLite goes on in the old file, which nobody else sees: what is destroyed or made there is lost.
            raise KeystoreReplaced(
                f"The keystore {self._path} was replaced or removed while it was open. Stop every process of "
                "this ledger, see that the right file is there, and start again: what the shred journal "
                "holds is applied then."
            )
        with _translated(self._path):
            self._connection.execute(begin)
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk may have ended the transaction already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, statement: str, values: Sequence[Cell] = ()) -> int:
        """Run one changing statement and return how many rows it changed."""
        return self._connection.execute(statement, values).rowcount

    def execute_many(self, statement: str, rows: Iterable[Sequence[Cell]]) -> None:
        """Run one changing statement per row."""
        self._connection.executemany(statement, rows)

    def rewrap(self, rows: Sequence[Rewrapped]) -> int:
        """Overwrite in place what is still as it was read; return how many rows that were."""
        return self._connection.executemany(
            "UPDATE material SET wrapped = ?3 WHERE id = ?1 AND wrapped = ?2", rows
        ).rowcount

    def select(self, statement: str, values: Sequence[Cell] = ()) -> list[tuple[Cell, ...]]:
        """Return all rows; no statement stays open, for it would hold back a checkpoint."""
        return self._connection.execute(statement, values).fetchall()

    def ask(self, rows: Iterable[Wanted]) -> None:
        """Fill `temp.wanted` (slot, a, b, n) with what the next statements join."""
        self._connection.execute("DELETE FROM temp.wanted")
        self._connection.executemany("INSERT INTO temp.wanted VALUES (?, ?, ?, ?)", rows)

    def insert(self, table: str, rows: Sequence[Sequence[Cell]]) -> None:
        """Add whole rows to a table."""
        if rows:
            places = ", ".join("?" * len(rows[0]))
            self._connection.executemany(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608 - ours

    def others_changes(self) -> int:
        """Return a number that is another one after any other connection's commit."""
        return self._pragma("data_version")

    def announce(self) -> None:
        """Do nothing: every commit is seen by `take_hint`."""

    def take_hint(self) -> bool:
        """Return whether another connection has committed since the last call; no file is read for it."""
        if self._is_closed:
            return True
        with _translated(self._path):
            changes = self.others_changes()
        is_new, self._seen = changes != self._seen, changes
        return is_new

    def clear(self, tables: Sequence[str]) -> None:
        """Remove every row of these tables; their pages are overwritten."""
        for table in tables:
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - a name of ours

    def copy_file(self, path: Path) -> None:
        """Write one state of the whole file into a new one, without the leases."""
        with _translated(path):
            _reserve(path)
            with closing(sqlite3.connect(path, isolation_level=None)) as target:
                self._connection.backup(target)
                require_secure_delete(target)
                target.execute("PRAGMA journal_mode = DELETE").fetchall()
                target.execute("DELETE FROM leases")

    def settle(self) -> None:
        """Let the file stand alone, without a write-ahead log."""
        with _translated(self._path):
            self._connection.execute("PRAGMA journal_mode = DELETE").fetchall()

    def lease_now(self, seconds: float) -> float:
        """Return the machine's own seconds: all processes of a file share them."""
        return seconds

    # Scrubbing ---------------------------------------------------------------------------

    def scrub(self) -> None:
        """Empty the write-ahead log, which still holds what was overwritten.

        Beside a reader SQLite reports `busy` in its result row and raises nothing, so the row is
        checked and the checkpoint repeated.

        Raises:
            KeyUnavailable: a reader held the log all the while; repeating the call is safe.
        """
        with _translated(self._path):
            self._connection.execute(f"PRAGMA busy_timeout = {SCRUB_BUSY_TIMEOUT_MS}")
            try:
                for pause in (*SCRUB_PAUSES_S, 0.0):
                    if self._checkpoint():
                        return
                    time.sleep(pause)
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        raise KeyUnavailable(
            "The keys are destroyed and unreadable online, but the write-ahead log "
            f"{self._path}-wal still holds their wrapped bytes, because another connection reads the "
            "keystore. End that reader and repeat this command: it destroys nothing twice. By hand: "
            f"sqlite3 {self._path} 'PRAGMA wal_checkpoint(TRUNCATE)' must answer 0|0|0."
        )

    def _checkpoint(self) -> bool:
        try:
            row = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                return False
            raise
        return bool(row == (0, 0, 0))

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._is_closed = True
        self._connection.close()


def check_kind(connection: sqlite3.Connection, path: Path) -> None:
    """Check that a file is a keystore of the layout that this program reads.

    Raises:
        HomeUnusable: it is not.
    """
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise HomeUnusable(f"{path} is not a keystore. Give another home.")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != USER_VERSION:
        raise HomeUnusable(
            f"{path} has layout {version}; this program reads layout {USER_VERSION}. "
            "Use the release that wrote it."
        )


def require_secure_delete(connection: sqlite3.Connection) -> None:
    """Make SQLite overwrite what it deletes, and check that it says so.

    Raises:
        HomeUnusable: this build of SQLite does not.
    """
    connection.execute("PRAGMA secure_delete = ON").fetchall()
    if connection.execute("PRAGMA secure_delete").fetchone() != (1,):
        raise HomeUnusable(
            "This SQLite does not overwrite what it deletes (secure_delete): keys would survive their "
            "destruction. Use a Python whose sqlite3 supports it."
        )


def _file_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of its name; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, path) from error
    return found.st_dev, found.st_ino


def _reserve(path: Path) -> None:
    """Create the file before SQLite does, so that nobody else can read it, its log and its index."""
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise storage_error(error, path) from error


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, path) from error


def _translate(error: sqlite3.Error, path: Path) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    match code:
        case sqlite3.SQLITE_FULL:
            return StoreFull(
                f"The keystore {path} has no space left; nothing was acknowledged. Free space and try again."
            )
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return HomeUnusable(f"{path} is not a readable keystore. Restore it from a backup.")
        case sqlite3.SQLITE_CONSTRAINT:
            return InvariantViolation(
                f"The keystore {path} refused a row that breaks its own rules. Stop, and check it."
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return KeyUnavailable(f"The keystore {path} is locked by another process. Try again.")
        case _:
            return KeyUnavailable(
                f"The keystore {path} cannot be used ({_reason(error)}). "
                "Check its disk and its rights, and try again."
            )


def _reason(error: sqlite3.Error) -> str:
    """Return SQLite's name of an error: its text may quote."""
    return str(getattr(error, "sqlite_errorname", type(error).__name__))
