"""What every keystore must know of its own backups: which there are, which are over, and how all end."""

import errno
import os
from pathlib import Path

import pytest
from msgspec import structs

from privacy_ledger.app.key_care import CarePlan, KeyCare
from privacy_ledger.domain.errors import KeyUnavailable
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keeping import BackupNote, BackupState, Pruned
from privacy_ledger.ports.keys import DataKey, KeyVault, KeyWant
from privacy_ledger.testing.contracts.key_caring import (
    DAY,
    NOW,
    CaringContract,
    MovedClock,
    caring,
    rewrapped,
)
from privacy_ledger.testing.contracts.key_places import Place

__all__ = ["KeyBackupsContract"]

REF = SubjectRef(b"r" * 16)
OTHER = SubjectRef(b"s" * 16)


def _sealed(vault: KeyVault, ref: SubjectRef) -> DataKey:
    """Return a key of a person."""
    (key,) = vault.sealing_keys([KeyWant(ref, "usage")], now=NOW)
    return key


def _forbid(monkeypatch: pytest.MonkeyPatch, call: str, name: str) -> None:
    """Let a call on a file of this name be refused, as if the file were another user's."""
    allowed = getattr(Path, call)

    def refused(path: Path, *arguments: object, **options: object) -> object:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return allowed(path, *arguments, **options)

    monkeypatch.setattr(Path, call, refused)


def _states(care: KeyCare) -> list[tuple[str, BackupState]]:
    return [(own.note.name, own.state) for own in care.backups()]


class KeyBackupsContract(CaringContract):
    """Inherit it as `Test...` and give `place`."""

    # The end of all ---------------------------------------------------------------------------

    def test_a_final_roll_ends_the_epoch_of_today_too(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """Whether the day's roll was a rotation, or final itself, and though nothing was destroyed since."""
        vault = place.open()
        kept = _sealed(vault, OTHER)
        care = caring(vault.keeper, clock, backups)
        clock.at = NOW + DAY
        care.rotate()
        assert [epoch.number for epoch in care.standing().epochs] == [1, 2]
        for expected in (3, 4):
            rolled = care.roll(is_final=True)
            assert rolled.epoch == expected
            assert [epoch.number for epoch in care.standing().epochs] == [expected]
        assert [path.name for path in sorted(place.keys.glob("*.kek"))] == ["epoch-4.kek"]
        assert place.open().open_keys([kept.kid]) == {kept.kid: kept}

    def test_no_copy_opens_after_a_final_roll_also_of_a_key_that_nobody_knows_any_more(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """A restore lost the key, so that the erasure destroyed nothing; a backup of today has it."""
        vault = place.open()
        _sealed(vault, OTHER)
        care = caring(vault.keeper, clock, backups)
        clock.at = NOW + DAY
        care.rotate()
        before = care.back_up()
        _sealed(vault, REF)
        copy = (backups / care.back_up().name).rename(backups / "copy")
        place.restore(backups / before.name)
        vault = place.open()
        vault.end(REF, now=clock.at)
        assert vault.shred(REF, now=clock.at).kids == ()
        epoch = vault.standing_of(REF).epoch
        caring(vault.keeper, clock, backups).roll(is_final=True)
        assert all(held.number > epoch for held in vault.keeper.standing().epochs)
        with pytest.raises(KeyUnavailable, match="epoch 2"):
            place.restore(copy)

    # Its own backups ----------------------------------------------------------------------------

    @pytest.fixture
    def rolled(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> tuple[KeyCare, BackupNote, BackupNote]:
        """Return the care of a keystore whose first epoch is destroyed, and the backups before and after."""
        vault = place.open()
        _sealed(vault, OTHER)
        care = caring(vault.keeper, clock, backups)
        before = care.back_up()
        vault.keeper.create_epoch(now=NOW)
        rewrapped(vault.keeper)
        after = care.back_up()
        vault.keeper.destroy_epochs(through=1, now=NOW)
        return care, before, after

    def test_backups_are_known_by_name_epochs_and_time(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """Oldest first; one that was made in the middle of a roll needs two epochs."""
        vault = place.open()
        _sealed(vault, OTHER)
        care = caring(vault.keeper, clock, backups)
        made = [care.back_up()]
        vault.keeper.create_epoch(now=NOW)
        _sealed(vault, REF)
        clock.at = NOW + DAY
        made.append(care.back_up())
        assert [own.note for own in care.backups()] == made
        assert [(note.made_at, note.oldest_epoch, note.newest_epoch) for note in made] == [
            (NOW, 1, 1), (NOW + DAY, 1, 2),
        ]  # fmt: skip
        assert _states(care) == [(note.name, BackupState.KEPT) for note in made]
        (backups / made[0].name).rename(backups / "elsewhere")
        assert [state for _, state in _states(care)] == [BackupState.AWAY, BackupState.KEPT]

    def test_a_backup_that_nobody_opens_any_more_is_removed_and_nothing_else(
        self, rolled: tuple[KeyCare, BackupNote, BackupNote], backups: Path
    ) -> None:
        """Neither the younger one nor what others put into the folder, whatever its name or content."""
        care, before, after = rolled
        copy = backups / "keystore-20260101T000000Z-00000000.backup"
        copy.write_bytes((backups / before.name).read_bytes())
        (backups / "letters").mkdir()
        (backups / "letters" / "a.backup").write_bytes(b"a")
        assert _states(care) == [(before.name, BackupState.OVER), (after.name, BackupState.KEPT)]
        assert care.plan() == CarePlan(new_epoch=False, to_rewrap=0, to_destroy=(), to_prune=(before.name,))
        rotated = care.rotate()
        assert rotated is not None
        assert (rotated.pruned, rotated.backup, rotated.destroyed) == ((before.name,), None, ())
        assert care.rotate() is None
        assert _states(care) == [(after.name, BackupState.KEPT)]
        assert {path.name for path in backups.iterdir()} == {after.name, copy.name, "letters"}

    @pytest.mark.parametrize("kind", ["changed", "link", "folder"])
    def test_what_took_the_name_of_a_backup_is_left_alone(
        self, rolled: tuple[KeyCare, BackupNote, BackupNote], backups: Path, tmp_path: Path, kind: str
    ) -> None:
        """It is told as foreign, and no rotation is due for it."""
        care, before, after = rolled
        path = backups / before.name
        whole = path.read_bytes()
        path.unlink()
        if kind == "changed":
            path.write_bytes(whole + b"x")
        elif kind == "folder":
            path.mkdir()
        else:
            (tmp_path / "elsewhere").write_bytes(whole)
            path.symlink_to(tmp_path / "elsewhere")
        assert _states(care) == [(before.name, BackupState.FOREIGN), (after.name, BackupState.KEPT)]
        assert care.plan().is_empty
        assert care.rotate() is None
        assert os.path.lexists(path)

    def test_a_backup_that_cannot_be_read_holds_up_no_roll(
        self,
        rolled: tuple[KeyCare, BackupNote, BackupNote],
        clock: MovedClock,
        backups: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It is told and left alone; epochs go on as if it were not there."""
        care, before, after = rolled
        _forbid(monkeypatch, "open", before.name)
        assert _states(care) == [(before.name, BackupState.UNREADABLE), (after.name, BackupState.KEPT)]
        assert care.plan().is_empty
        (newest,) = care.standing().epochs
        assert newest.created_at is not None
        for day in range(1, 9):
            clock.at = newest.created_at + day * DAY
            assert care.rotate() is not None
        assert newest.number not in {epoch.number for epoch in care.standing().epochs}
        assert (before.name, BackupState.UNREADABLE) in _states(care)
        assert (backups / before.name).exists()

    def test_a_backup_that_cannot_be_removed_holds_up_nothing(
        self, place: Place, clock: MovedClock, backups: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The roll says what it did and what stays; others go, and the next rotation tries it again."""
        vault = place.open()
        _sealed(vault, OTHER)
        care = caring(vault.keeper, clock, backups)
        first, second = care.back_up(), care.back_up()
        with monkeypatch.context() as refusing:
            _forbid(refusing, "unlink", first.name)
            rolled, again = care.roll(is_final=True), care.rotate()
        later = care.rotate()
        assert again is not None
        assert later is not None
        assert (rolled.destroyed, rolled.pruned, rolled.stuck) == ((1,), (second.name,), (first.name,))
        assert (again.has_effect, again.pruned, again.stuck) == (False, (), (first.name,))
        assert (later.has_effect, later.pruned, later.stuck) == (True, (first.name,), ())
        assert care.rotate() is None

    def test_a_backup_whose_epoch_is_only_missing_is_kept(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """Its key may come back with the key folder's own backup."""
        vault = place.open()
        _sealed(vault, OTHER)
        care = caring(vault.keeper, clock, backups)
        before = care.back_up()
        vault.keeper.create_epoch(now=NOW)
        rewrapped(vault.keeper)
        after = care.back_up()
        (place.keys / "epoch-1.kek").unlink()
        assert _states(care) == [(before.name, BackupState.KEPT), (after.name, BackupState.KEPT)]
        assert vault.keeper.prune_backups(backups) == Pruned()

    def test_the_last_backup_is_kept_though_nobody_opens_it(
        self, rolled: tuple[KeyCare, BackupNote, BackupNote], place: Place, backups: Path
    ) -> None:
        """Nothing goes before a younger one is verified."""
        care, before, after = rolled
        record = place.keys / "keyring.ndjson"
        lines = record.read_bytes().splitlines(keepends=True)
        record.write_bytes(b"".join(line for line in lines if after.name.encode() not in line))
        assert _states(care) == [(before.name, BackupState.KEPT)]
        again = care.back_up()
        assert _states(care) == [(before.name, BackupState.OVER), (again.name, BackupState.KEPT)]
        assert (backups / after.name).exists()

    def test_a_final_roll_removes_every_older_backup(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """Those of today as well: only the one that it made is left."""
        vault = place.open()
        _sealed(vault, OTHER)
        care = caring(vault.keeper, clock, backups)
        first = care.back_up()
        clock.at = NOW + DAY
        care.rotate()
        today = care.back_up()
        assert {first.name, today.name} < {name for name, _ in _states(care)}
        done = care.roll(is_final=True)
        assert done.backup is not None
        assert {first.name, today.name} < set(done.pruned)
        assert [path.name for path in backups.iterdir()] == [done.backup.name]

    def test_daily_rotations_leave_no_backup_that_does_not_open(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """As many files as there are epochs to open them; each of them restores."""
        vault = place.open()
        kept = _sealed(vault, OTHER)
        os.utime(place.keys / "epoch-1.kek", (NOW.timestamp(), NOW.timestamp()))
        care = caring(vault.keeper, clock, backups)
        for day in range(1, 12):
            clock.at = NOW + day * DAY
            planned, done = care.plan(), care.rotate()
            assert done is not None
            assert done.pruned == planned.to_prune
        held = {epoch.number for epoch in care.standing().epochs}
        assert {own.note.oldest_epoch for own in care.backups()} == held
        assert {own.note.name for own in care.backups()} == {path.name for path in backups.iterdir()}
        place.restore(backups / care.backups()[0].note.name)
        assert place.open().open_keys([kept.kid]) == {kept.kid: kept}

    def test_a_backup_that_an_earlier_build_noted_is_known(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """It noted the oldest epoch alone."""
        vault = place.open()
        care = caring(vault.keeper, clock, backups)
        note = care.back_up()
        record = place.keys / "keyring.ndjson"
        record.write_bytes(record.read_bytes().replace(b'"newest":1,', b""))
        (own,) = care.backups()
        assert own.note == structs.replace(note, newest_epoch=None)
