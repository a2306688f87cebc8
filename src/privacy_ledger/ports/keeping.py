"""What an operator does to a keystore as a whole: epochs of its key-encryption keys, and backups."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from msgspec import Struct

__all__ = [
    "BackupNote",
    "BackupState",
    "Epoch",
    "KeyKeeper",
    "KeystoreStanding",
    "OwnBackup",
    "Pruned",
    "ReleaseCount",
    "ReleaseOutcome",
    "ReleaseReport",
    "RewrapStep",
]


class Epoch(Struct, frozen=True, kw_only=True):
    """One key-encryption key: how much it wraps that is in use, and that was destroyed.

    `created_at` is None where the key itself is not there.
    """

    number: int
    created_at: datetime | None
    live: int
    shredded: int


class BackupNote(Struct, frozen=True, kw_only=True):
    """A backup that was opened, key by key, after it was made; it needs the epochs from oldest to newest.

    `newest_epoch` is None where it was made by a build that did not note it.
    """

    made_at: datetime
    oldest_epoch: int
    newest_epoch: int | None = None
    keys: int
    name: str
    digest: str


class BackupState(StrEnum):
    """What became of a backup."""

    KEPT = "kept"
    """Its file is where it was written."""
    AWAY = "away"
    """Its file is not there, and would open."""
    OVER = "over"
    """An epoch that it needs was destroyed, and a younger backup opens: nobody opens it any more."""
    FOREIGN = "foreign"
    """What has its name is not what was written: it is left alone."""
    UNREADABLE = "unreadable"
    """It cannot be looked into, to see whether it is what was written: it is left alone."""


class OwnBackup(Struct, frozen=True, kw_only=True):
    """A backup of this keystore, from the record beside its keys."""

    note: BackupNote
    state: BackupState


class Pruned(Struct, frozen=True, kw_only=True):
    """Backups that are over, by name: whose files are removed now, and whose could not be."""

    removed: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()


class KeystoreStanding(Struct, frozen=True, kw_only=True):
    """How a keystore stands: its epochs, oldest first, and its newest verified backup."""

    epochs: tuple[Epoch, ...]
    backup: BackupNote | None
    journal_entries: int
    processes: int

    @property
    def newest(self) -> Epoch:
        """The epoch under which keys are wrapped now."""
        return self.epochs[-1]

    @property
    def older(self) -> tuple[Epoch, ...]:
        """The epochs before it."""
        return self.epochs[:-1]


class RewrapStep(Struct, frozen=True, kw_only=True):
    """One slice of a re-wrap: how many keys moved, and after which one it goes on; None: no more."""

    moved: int
    after: int | None


class ReleaseOutcome(StrEnum):
    """What was answered to who asked for a key."""

    RELEASED = "released"
    WITHHELD = "withheld"


class ReleaseCount(Struct, frozen=True, kw_only=True):
    """How many keys of a category, or kind, were released or withheld; it tells of no person."""

    role: str
    purpose: str
    category: str
    outcome: ReleaseOutcome
    keys: int


class ReleaseReport(Struct, frozen=True, kw_only=True, tag="keys.released.v1"):
    """What was released by all processes up to a moment, since the report before: it never changes.

    Its hash is a leaf of the audit log.
    """

    number: int
    closed_at: datetime
    counts: tuple[ReleaseCount, ...]


class KeyKeeper(Protocol):
    """The keystore of a `KeyVault`, for operators; every call is durable on return, and may be repeated.

    Every call raises `KeyUnavailable` when the store or a key-encryption key cannot be reached.
    """

    def standing(self) -> KeystoreStanding:
        """Return how the keystore stands; reads every key's row once."""
        ...

    def create_epoch(self, *, now: datetime) -> int:
        """Return the number of a new epoch, under which all processes wrap from now on."""
        ...

    def succeed_epoch(self, number: int, *, now: datetime) -> int | None:
        """Return the number of a new epoch after this one, or None where it is not the newest any more.

        Of several processes that do so at once, one gets a number.
        """
        ...

    def rewrap(self, *, after: int) -> RewrapStep:
        """Wrap the next slice of keys anew under the newest epoch, beginning `after` 0.

        A key that is destroyed meanwhile stays destroyed.
        """
        ...

    def back_up(self, folder: Path, *, now: datetime) -> BackupNote:
        """Write a backup into a folder, and note it when every key in it was opened."""
        ...

    def destroy_epochs(self, *, through: int, now: datetime) -> tuple[int, ...]:
        """Destroy the keys of an older epoch and of all before it; return which were there.

        What they wrapped is gone for good, wherever copies lie.

        Raises:
            InvariantViolation: keys that are in use are wrapped under one, or it is the newest.
            KeyUnavailable: no verified backup could do without them.
        """
        ...

    def backups(self, folder: Path) -> tuple[OwnBackup, ...]:
        """Return every backup of this keystore that was noted, oldest first, and what became of its file.

        Those that are over and whose files are gone are left out. Only files that are over are read, and
        one that cannot be read is told as such.
        """
        ...

    def prune_backups(self, folder: Path) -> Pruned:
        """Remove the files of backups that are over, and no other file.

        One that cannot be removed is no error, and keeps no other: the next call tries it again.
        """
        ...

    # Releases ---------------------------------------------------------------------------------

    def released(self) -> tuple[ReleaseCount, ...]:
        """Return the running report: what processes have written of it, each every few seconds."""
        ...

    def close_report(self, *, now: datetime) -> int:
        """Close the running report, unless nothing is in it, and begin another; return the last number."""
        ...

    def reports(self) -> tuple[ReleaseReport, ...]:
        """Return the closed reports, oldest first."""
        ...
