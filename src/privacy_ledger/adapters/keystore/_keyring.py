"""The record of the key-encryption keys: made, destroyed, and which backup can do without which.

One JSON line per entry beside the keys, appended and synced under the keystore's write lock. It
names no person and no key.
"""

import os
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.keystore._times import instant, microseconds
from privacy_ledger.adapters.keystore.kek import FileKeks, owner_only, storage_error, sync_folder
from privacy_ledger.domain.errors import KeyUnavailable
from privacy_ledger.ports.keeping import BackupNote

__all__ = ["Keyring"]

NAME: Final = "keyring.ndjson"


class _What(StrEnum):
    CREATED = "created"
    DESTROYED = "destroyed"
    BACKUP = "backup"


class _Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line; `epoch` of a backup is the oldest that it needs, `newest` the newest; 0: not noted."""

    what: _What
    epoch: int
    at: int
    store: str = ""
    newest: int = 0
    keys: int = 0
    name: str = ""
    digest: str = ""


class Keyring:
    """The file in a folder of keys."""

    def __init__(self, keks: FileKeks) -> None:
        """Take the folder; the file is made at the first entry."""
        self._keks = keks
        self._path = keks.directory / NAME
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(_Entry).decode

    def created_at(self) -> dict[int, datetime]:
        """Return when each key that is there was made; of those without an entry, the file's own time."""
        noted = {entry.epoch: instant(entry.at) for entry in self._entries() if entry.what is _What.CREATED}
        return {epoch: noted.get(epoch) or self._keks.written_at(epoch) for epoch in self._keks.epochs()}

    def backup(self, *, store: str) -> BackupNote | None:
        """Return the newest verified backup of a keystore that the present keys open, or None."""
        held = self._keks.epochs()
        usable = [note for note in self.backups(store=store) if held and note.oldest_epoch >= held[0]]
        return usable[-1] if usable else None

    def backups(self, *, store: str) -> tuple[BackupNote, ...]:
        """Return every backup of a keystore that was ever verified, oldest first."""
        return tuple(
            BackupNote(
                made_at=instant(entry.at), oldest_epoch=entry.epoch, newest_epoch=entry.newest or None,
                keys=entry.keys, name=entry.name, digest=entry.digest,
            )
            for entry in self._entries()
            if entry.what is _What.BACKUP and entry.store == store
        )  # fmt: skip

    def destroyed(self) -> frozenset[int]:
        """Return the epochs whose keys were destroyed here; one that is only missing is none of them."""
        noted = {entry.epoch for entry in self._entries() if entry.what is _What.DESTROYED}
        return frozenset(noted.difference(self._keks.epochs()))

    def note_created(self, epoch: int, *, at: datetime) -> None:
        """Note that a key was made."""
        self._append(_Entry(what=_What.CREATED, epoch=epoch, at=microseconds(at)))

    def note_destroyed(self, epoch: int, *, at: datetime) -> None:
        """Note that a key goes; once."""
        if not any(e.what is _What.DESTROYED and e.epoch == epoch for e in self._entries()):
            self._append(_Entry(what=_What.DESTROYED, epoch=epoch, at=microseconds(at)))

    def note_backup(self, note: BackupNote, *, store: str) -> None:
        """Note a backup that was verified."""
        self._append(
            _Entry(
                what=_What.BACKUP, epoch=note.oldest_epoch, at=microseconds(note.made_at), store=store,
                newest=note.newest_epoch or 0, keys=note.keys, name=note.name, digest=note.digest,
            )
        )  # fmt: skip

    # The file -------------------------------------------------------------------------------

    def _entries(self) -> list[_Entry]:
        try:
            return [self._decode(line) for line in self._content().splitlines()]
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise KeyUnavailable(
                f"{self._path} is damaged. Restore the folder of the key-encryption keys from its newest "
                "backup."
            ) from None

    def _content(self) -> bytes:
        """Return the whole lines; a last one that is torn was never acknowledged."""
        try:
            owner_only(self._path)
            content = self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise storage_error(error, self._path) from error
        return content[: content.rfind(b"\n") + 1]

    def _append(self, entry: _Entry) -> None:
        whole = len(self._content())
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.truncate(whole)
                file.seek(whole)
                file.write(self._encode(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._path.parent)
        except OSError as error:
            raise storage_error(error, self._path) from error
