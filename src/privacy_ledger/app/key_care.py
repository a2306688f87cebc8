"""The daily care of a keystore: a new epoch, survivors wrapped anew, a backup, old epochs destroyed.

Backups that need a destroyed epoch open nowhere any more, and their files go as well.

What an epoch wrapped is gone for good when its key-encryption key is: from files, write-ahead logs,
standbys, disk blocks and backups alike. Every step may be repeated, and what is left to do is read
from the keystore itself: after a crash at any point the same call goes on.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from msgspec import Struct

from privacy_ledger.ports.keeping import (
    BackupNote,
    BackupState,
    KeyKeeper,
    KeystoreStanding,
    OwnBackup,
    Pruned,
)
from privacy_ledger.ports.runtime import Clock

__all__ = ["EPOCH_LIVES", "ROLL_EVERY", "CarePlan", "KeyCare", "Rolled", "overdue"]

ROLL_EVERY: Final = timedelta(days=1)
EPOCH_LIVES: Final = timedelta(days=7)
"""No epoch is older: one that would be before the next daily roll is destroyed by this one."""

OnStep = Callable[[str, int], None]
"""Told what was done, and how many keys or which epoch it was."""


class CarePlan(Struct, frozen=True, kw_only=True):
    """What a rotation would do now.

    `lacks_backup`: a roll was cut short between its re-wrap and its backup. `to_prune`: files of
    backups that are over, or will be by this rotation.
    """

    new_epoch: bool
    to_rewrap: int
    to_destroy: tuple[int, ...]
    lacks_backup: bool = False
    to_prune: tuple[str, ...] = ()

    @property
    def has_roll(self) -> bool:
        """Whether epochs, keys or a backup are to be made or destroyed."""
        return bool(self.new_epoch or self.to_rewrap or self.to_destroy or self.lacks_backup)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.has_roll or self.to_prune)


class Rolled(Struct, frozen=True, kw_only=True):
    """What was done; `stuck`: backups that are over, and whose files could not be removed."""

    epoch: int
    rewrapped: int
    destroyed: tuple[int, ...]
    backup: BackupNote | None
    pruned: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()

    @property
    def has_effect(self) -> bool:
        """Whether anything changed: where nothing did, something could not be removed."""
        return bool(self.backup or self.rewrapped or self.destroyed or self.pruned)


class KeyCare:
    """Rolls epochs, and says what is due."""

    def __init__(self, keeper: KeyKeeper, *, clock: Clock, backups: Path) -> None:
        """Take the keystore and the folder into which backups go."""
        self._keeper = keeper
        self._clock = clock
        self._backups = backups

    def standing(self) -> KeystoreStanding:
        """Return how the keystore stands."""
        return self._keeper.standing()

    def plan(self) -> CarePlan:
        """Return what `rotate` would do; nothing changes."""
        return self._plan(self._keeper.standing())

    def backups(self) -> tuple[OwnBackup, ...]:
        """Return the keystore's own backups, oldest first, and what became of each."""
        return self._keeper.backups(self._backups)

    def back_up(self) -> BackupNote:
        """Write a backup and open every key in it."""
        return self._keeper.back_up(self._backups, now=self._clock.now())

    def rotate(self, *, on_step: OnStep | None = None) -> Rolled | None:
        """Do what is due, once a day; return None when nothing is.

        Several processes may do so at once: who finds that another has just begun leaves it to that
        one. Where that one ends in the middle, the next call goes on.
        """
        standing = self._keeper.standing()
        plan = self._plan(standing)
        if plan.is_empty:
            return None
        newest = standing.newest.number
        if not plan.has_roll:
            done = self._prune(on_step)
            return Rolled(
                epoch=newest, rewrapped=0, destroyed=(), backup=None, pruned=done.removed, stuck=done.stuck
            )
        if plan.new_epoch:
            made = self._keeper.succeed_epoch(newest, now=self._clock.now())
            if made is None:
                return None
            newest = made
            if on_step is not None:
                on_step("epoch", newest)
        known = None if plan.lacks_backup else standing.backup
        return self._finish(newest, plan.to_destroy, on_step, known=known)

    def roll(self, *, is_final: bool, on_step: OnStep | None = None) -> Rolled:
        """Roll at once. Final: every older epoch goes, and with it every older backup, also those of today.

        No epoch is spared because nothing was destroyed under it: a copy may hold a key under it of
        which this keystore, once restored from an older backup, has no row.
        """
        newest = self._create(on_step)
        standing, now = self._keeper.standing(), self._clock.now()
        born = _born(standing)
        due = tuple(
            epoch.number
            for epoch in standing.epochs
            if epoch.number < newest and (is_final or _is_due(born.get(epoch.number), now))
        )
        return self._finish(newest, due, on_step)

    def _plan(self, standing: KeystoreStanding) -> CarePlan:
        return _planned(standing, self.backups(), now=self._clock.now())

    def _prune(self, on_step: OnStep | None) -> Pruned:
        done = self._keeper.prune_backups(self._backups)
        if done.removed and on_step is not None:
            on_step("pruned", len(done.removed))
        return done

    def _create(self, on_step: OnStep | None) -> int:
        epoch = self._keeper.create_epoch(now=self._clock.now())
        if on_step is not None:
            on_step("epoch", epoch)
        return epoch

    def _finish(
        self,
        newest: int,
        to_destroy: tuple[int, ...],
        on_step: OnStep | None,
        *,
        known: BackupNote | None = None,
    ) -> Rolled:
        """Wrap the survivors anew, make a backup of them, destroy the epochs up to the last of these, prune.

        Where no key moved, and the `known` backup needs none of these epochs, it is backup enough.
        """
        moved, after = 0, 0
        while True:
            step = self._keeper.rewrap(after=after)
            moved += step.moved
            if on_step is not None:
                on_step("rewrapped", moved)
            if step.after is None:
                break
            after = step.after
        backup: BackupNote | None = None
        if moved or known is None or known.oldest_epoch <= max(to_destroy, default=newest):
            backup = self.back_up()
            if on_step is not None:
                on_step("backup", backup.keys)
        destroyed: tuple[int, ...] = ()
        if to_destroy:
            destroyed = self._keeper.destroy_epochs(through=max(to_destroy), now=self._clock.now())
            if on_step is not None:
                on_step("destroyed", len(destroyed))
        done = self._prune(on_step)
        return Rolled(
            epoch=newest, rewrapped=moved, destroyed=destroyed, backup=backup,
            pruned=done.removed, stuck=done.stuck,
        )  # fmt: skip


def _planned(standing: KeystoreStanding, backups: Sequence[OwnBackup], *, now: datetime) -> CarePlan:
    newest = standing.newest.created_at
    # One from the future was made by another clock, such as a home's trial time: it says nothing here.
    new_epoch = newest is None or abs(now - newest) >= ROLL_EVERY
    older = standing.epochs if new_epoch else standing.older
    born, backup = _born(standing), standing.backup
    is_covered = backup is not None and backup.oldest_epoch >= standing.newest.number
    to_destroy = tuple(epoch.number for epoch in older if _is_due(born.get(epoch.number), now))
    return CarePlan(
        new_epoch=new_epoch,
        to_rewrap=sum(epoch.live for epoch in older),
        to_destroy=to_destroy,
        # One that has never rolled gets its first backup with its first roll.
        lacks_backup=not new_epoch and bool(older) and not is_covered,
        to_prune=tuple(
            own.note.name
            for own in backups
            if own.state is BackupState.OVER
            or (own.state is BackupState.KEPT and own.note.oldest_epoch <= max(to_destroy, default=0))
        ),
    )


def _born(standing: KeystoreStanding) -> dict[int, datetime]:
    """Return when each epoch was made at the latest: before every newer one, whatever its own clock said."""
    born: dict[int, datetime] = {}
    at: datetime | None = None
    for epoch in reversed(standing.epochs):
        if epoch.created_at is not None:
            at = epoch.created_at if at is None else min(at, epoch.created_at)
            born[epoch.number] = at
    return born


def _is_due(born: datetime | None, now: datetime) -> bool:
    """Return whether an epoch would be too old before the next roll."""
    return born is not None and now - born > EPOCH_LIVES - ROLL_EVERY


def overdue(standing: KeystoreStanding, now: datetime) -> tuple[int, ...]:
    """Return the epochs that should have been destroyed by now."""
    born = _born(standing)
    return tuple(number for number in sorted(born) if now - born[number] > EPOCH_LIVES)
