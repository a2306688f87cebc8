"""The shred journal: what was destroyed, kept apart from the keystore and its backups.

One JSON line per entry, appended and synced *before* the keystore changes. Keys, references and
identities stand in it as keyed hashes only. A keystore restored from yesterday is behind it,
and releases no key before it has caught up.
"""

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.keystore.kek import owner_only, storage_error, sync_folder
from privacy_ledger.domain.errors import KeyUnavailable

__all__ = ["MAX_MARKS", "Entry", "Op", "ShredJournal"]

MAX_MARKS: Final = 10_000
"""How many hashes one line holds at most."""


class Op(StrEnum):
    """What an entry destroyed or ended."""

    SHRED = "shred"
    END = "end"
    ERASE = "erase"


class Entry(Struct, frozen=True, kw_only=True):
    """One line; `marks` are keyed hashes in hex, `at` is in microseconds since 1970.

    `groups`: the key groups of ended references that go on; a later end names fewer of them.
    `is_expiry`: retention destroyed the keys; an earlier build applies the entry and does not say so.
    """

    sequence: int
    store: str
    op: Op
    at: int
    marks: tuple[str, ...]
    erasure: str = ""
    groups: tuple[str, ...] = ()
    is_expiry: bool = False


class ShredJournal:
    """The file; callers hold the keystore's write lock around `append`."""

    def __init__(self, path: Path) -> None:
        """Take the path; the file is created at the first entry."""
        self._path = path
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Entry).decode

    def size(self) -> int:
        """Return the file's length in bytes; 0 when it is missing."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise storage_error(error, self._path) from error

    def read(self, *, after: int, sequence: int, store: str) -> tuple[list[Entry], int]:
        """Return the entries that follow byte `after` and `sequence`, and where they end.

        A last line that is not whole was never acknowledged: it is left out.

        Raises:
            KeyUnavailable: the file is shorter than `after`, damaged, or of another keystore.
        """
        content = self._bytes(after)
        entries: list[Entry] = []
        end = after
        lines = content.split(b"\n")
        for number, line in enumerate(lines[:-1]):
            try:
                entry = self._decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                if number == len(lines) - 2 and not lines[-1]:
                    break
                raise self._damaged() from None
            if entry.sequence != sequence + 1:
                raise self._damaged()
            if entry.store != store:
                raise KeyUnavailable(
                    f"The shred journal {self._path} belongs to another keystore. "
                    "Give this keystore its own folder of key-encryption keys."
                )
            sequence = entry.sequence
            end += len(line) + 1
            entries.append(entry)
        return entries, end

    def append(self, entries: Sequence[Entry], *, at: int) -> int:
        """Write entries at byte `at`, durable on return, and return where they end.

        `at` is the end of the last whole line; a torn line after it is cut off.
        """
        content = b"".join(self._encode(entry) + b"\n" for entry in entries)
        try:
            is_new = not self._path.exists()
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.truncate(at)
                file.seek(at)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_folder(self._path.parent)
        except OSError as error:
            raise storage_error(error, self._path) from error
        return at + len(content)

    def _bytes(self, after: int) -> bytes:
        size = self.size()
        if size < after:
            raise KeyUnavailable(
                f"The shred journal {self._path} is shorter than the keystore remembers. "
                "Restore the folder of the key-encryption keys from its newest backup."
            )
        if size == 0:
            return b""
        try:
            owner_only(self._path)
            with self._path.open("rb") as file:
                file.seek(after)
                return file.read()
        except OSError as error:
            raise storage_error(error, self._path) from error

    def _damaged(self) -> KeyUnavailable:
        return KeyUnavailable(
            f"The shred journal {self._path} is damaged. "
            "Restore the folder of the key-encryption keys from its newest backup."
        )
