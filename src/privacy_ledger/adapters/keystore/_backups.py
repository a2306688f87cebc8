"""The keystore's own backups: those that stand in the record of the keys, and what became of them.

Whatever else lies in their folder is somebody else's, and is neither looked into nor touched.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from privacy_ledger.adapters.keystore._keyring import Keyring
from privacy_ledger.adapters.keystore.kek import sync_folder
from privacy_ledger.ports.keeping import BackupNote, BackupState, OwnBackup, Pruned

__all__ = ["Backups", "digest_of"]

_CHUNK: Final = 1 << 20


class Backups:
    """The backups of one keystore."""

    def __init__(self, keyring: Keyring, *, store: str) -> None:
        """Take the record of the keys, and the name of the keystore in it."""
        self._keyring = keyring
        self._store = store

    def own(self, folder: Path) -> tuple[OwnBackup, ...]:
        """Return what became of each backup, oldest first; those that are over and gone are left out."""
        destroyed = self._keyring.destroyed()
        notes = self._keyring.backups(store=self._store)
        newest = self._keyring.backup(store=self._store)
        found = []
        for number, note in enumerate(notes):
            has_successor = newest is not None and newest in notes[number + 1 :]
            is_over = note.oldest_epoch in destroyed and has_successor
            state = _state(folder / note.name, note, is_over=is_over)
            if state is not BackupState.AWAY or note.oldest_epoch not in destroyed:
                found.append(OwnBackup(note=note, state=state))
        return tuple(found)

    def prune(self, folder: Path) -> Pruned:
        """Remove the files of those that are over; what cannot be removed stays, and is told."""
        over = [own.note.name for own in self.own(folder) if own.state is BackupState.OVER]
        removed = tuple(name for name in over if _is_removed(folder / name))
        if removed:
            # A file that comes back with a loss of power is removed by the next call.
            with suppress(OSError):
                sync_folder(folder)
        return Pruned(removed=removed, stuck=tuple(name for name in over if name not in removed))


def _is_removed(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _state(path: Path, note: BackupNote, *, is_over: bool) -> BackupState:
    """Return what became of a backup; only a file that is to go is read whole."""
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            return BackupState.FOREIGN
        if not path.exists():
            return BackupState.AWAY
        if not is_over:
            return BackupState.KEPT
        return BackupState.OVER if digest_of(path) == note.digest else BackupState.FOREIGN
    except FileNotFoundError:  # somebody else removes it now
        return BackupState.AWAY
    except OSError:  # no file of a backup may keep an epoch alive
        return BackupState.UNREADABLE


def digest_of(path: Path) -> str:
    """Return the hash of a file, in hex."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            whole.update(chunk)
    return whole.hexdigest()
