"""One SQLite file: how it is opened, what it holds, and what its errors mean."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from privacy_ledger.domain.errors import HomeUnusable, LedgerError, LogUnavailable, StoreFull

__all__ = ["LANE_SHIFT", "connect", "prepare", "transaction", "translated_errors"]

APPLICATION_ID: Final = 0x504C4F47
USER_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 10.0
PREPARE_TIMEOUT_S: Final = 10.0
WAL_PAGES: Final = 4000
CACHE_KIB: Final = 16_384
LANE_SHIFT: Final = 40
"""A record's id is its lane (topic and partition) shifted by this, plus its offset."""

SCHEMA: Final = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE writers(name TEXT PRIMARY KEY, epoch INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE lanes(
        lane INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
        next_offset INTEGER NOT NULL DEFAULT 0, appended_ms INTEGER NOT NULL DEFAULT 0,
        compacted_to INTEGER NOT NULL DEFAULT 0, UNIQUE(topic, partition))""",
    """CREATE TABLE records(
        id INTEGER PRIMARY KEY, lane INTEGER NOT NULL, key BLOB NOT NULL, mark INTEGER,
        appended_ms INTEGER NOT NULL, headers BLOB NOT NULL, value BLOB)""",
    "CREATE INDEX records_by_key ON records(lane, key)",
    "CREATE INDEX records_by_mark ON records(mark) WHERE mark IS NOT NULL",
    "CREATE INDEX records_tombstones ON records(appended_ms) WHERE value IS NULL",
    """CREATE TABLE heads(
        id INTEGER NOT NULL, lane INTEGER NOT NULL, key BLOB NOT NULL, mark INTEGER,
        appended_ms INTEGER NOT NULL, headers BLOB NOT NULL, value BLOB,
        PRIMARY KEY(lane, key)) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX heads_by_id ON heads(id)",
)


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Re-raise what SQLite raises as the ledger's own errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, path) from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one writing transaction; any exception rolls all of it back."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def connect(path: Path, *, is_reader: bool, max_pages: int | None = None) -> sqlite3.Connection:
    """Open a prepared file; a reader cannot write.

    Raises:
        LogUnavailable: the file cannot be opened.
        HomeUnusable: this SQLite does not overwrite what it deletes.
    """
    with translated_errors(path):
        connection = sqlite3.connect(
            path,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_S,
            cached_statements=256,
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if is_reader:
            connection.execute("PRAGMA query_only = ON")
            return connection
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        if max_pages is not None:
            connection.execute(f"PRAGMA max_page_count = {max_pages:d}")
        if connection.execute("PRAGMA secure_delete = ON").fetchone() != (1,):
            connection.close()
            raise HomeUnusable(
                "This SQLite does not overwrite deleted bytes (secure_delete). "
                "Use a Python whose sqlite3 supports it."
            )
        return connection


def prepare(path: Path, *, partitions: int) -> None:
    """Create the file if it is not there, and check that it is this program's.

    Two processes may do it at once.

    Raises:
        HomeUnusable: another program's file, another version, or another partition count.
        LogUnavailable: the file cannot be opened or stays locked.
    """
    with translated_errors(path):
        # Before SQLite does it, so that nobody else can read the file, its WAL and its index.
        with suppress(FileExistsError), _os_errors(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
        try:
            if _number(connection, "PRAGMA page_count"):
                _check_identity(connection, path)
            _use_wal(connection)
            with transaction(connection):
                if not _number(connection, "PRAGMA user_version"):
                    _create(connection, partitions)
            _check_identity(connection, path)
            _check_partitions(connection, path, partitions)
        finally:
            connection.close()


@contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise LogUnavailable(
            f"The log {path} cannot be created ({error.strerror}). "
            "Check that its folder exists and is writable."
        ) from error


def _create(connection: sqlite3.Connection, partitions: int) -> None:
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('partitions', ?)", (partitions,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {USER_VERSION}")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; SQLite does not wait for others here, so this does."""
    deadline = time.monotonic() + PREPARE_TIMEOUT_S
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        if mode != ("wal",):
            raise HomeUnusable(
                "The log's file system does not support SQLite's write-ahead log. "
                "Move the home to a local disk."
            )
        return


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    version = _number(connection, "PRAGMA user_version")
    if not version and _number(connection, "SELECT count(*) FROM sqlite_schema") == 0:
        return  # Another process is creating it now, or died before it could.
    if _number(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise HomeUnusable(f"{path} is not a ledger's log. Give another home.")
    if version != USER_VERSION:
        raise HomeUnusable(
            f"{path} has layout {version}; this program reads layout {USER_VERSION}. "
            "Use the release that wrote it."
        )


def _check_partitions(connection: sqlite3.Connection, path: Path, partitions: int) -> None:
    found = _number(connection, "SELECT value FROM meta WHERE name = 'partitions'")
    if found != partitions:
        raise HomeUnusable(
            f"{path} has {found} partitions, and {partitions} were asked for. "
            "The order per person depends on the number: open it with its own."
        )


def _number(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])


def _translate(error: sqlite3.Error, path: Path) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    match code:
        case sqlite3.SQLITE_FULL:
            return StoreFull(
                f"The log {path} has no space left; nothing of this batch was appended. "
                "Free space and try again."
            )
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return HomeUnusable(f"{path} is not a readable SQLite file. Restore it from a backup.")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return LogUnavailable(f"The log {path} stayed locked by another process. Try again.")
        case _:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            return LogUnavailable(
                f"The log {path} cannot be used ({name}). Check the disk and the file's permissions."
            )
