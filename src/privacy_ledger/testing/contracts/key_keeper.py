"""What every keystore must do as a whole: epochs, backups and restores, whatever holds its rows."""

import os
import shutil
from contextlib import closing
from itertools import permutations
from pathlib import Path

import pytest

from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.keystore.kek import FileKeks
from privacy_ledger.adapters.keystore.restoring import Restored
from privacy_ledger.app.key_care import CarePlan, overdue
from privacy_ledger.domain.errors import HomeUnusable, InvariantViolation, KeyUnavailable, LedgerError
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import (
    DataKey,
    Identity,
    IdentityStatus,
    KeyStanding,
    KeyVault,
    KeyWant,
    Shredded,
    Withheld,
)
from privacy_ledger.testing.contracts.key_caring import (
    DAY,
    NOW,
    CaringContract,
    MovedClock,
    caring,
    rewrapped,
)
from privacy_ledger.testing.contracts.key_places import KeptVault, Place

__all__ = ["KeptVault", "KeyKeeperContract", "Place"]

ADA = Identity("openedx:user_id", "1")
PEOPLE = 50
PEPPER = 1
SECRETS = PEPPER + 1
SYNCS = 5
OWNERS_ALONE = 0o600
REF = SubjectRef(b"r" * 16)


class _Crash(BaseException):
    """The process ends here."""


def _sealed(vault: KeyVault, count: int = PEOPLE) -> tuple[DataKey, ...]:
    """Return a key of each of so many persons."""
    refs = [SubjectRef(number.to_bytes(16, "big")) for number in range(count)]
    return vault.sealing_keys([KeyWant(ref, "usage") for ref in refs], now=NOW)


def _opened(vault: KeyVault, keys: tuple[DataKey, ...]) -> list[DataKey | Shredded | Withheld | None]:
    found = vault.open_keys([key.kid for key in keys])
    return [found.get(key.kid) for key in keys]


class KeyKeeperContract(CaringContract):
    """Inherit it as `Test...` and give `place`."""

    # Epochs ----------------------------------------------------------------------------------

    def test_a_new_keystore_has_one_epoch(self, place: Place) -> None:
        """It wraps all keys, and the pepper."""
        vault = place.open()
        _sealed(vault)
        (epoch,) = vault.keeper.standing().epochs
        assert (epoch.number, epoch.live, epoch.shredded) == (1, PEOPLE + PEPPER, 0)

    def test_survivors_move_and_the_destroyed_stay_where_they_were(self, place: Place) -> None:
        """All that opened opens again, also for another process with its own memory of keys."""
        vault, other = place.open(), place.open()
        keys, secret = _sealed(vault), vault.secret("row-key")
        vault.shred(keys[0].ref, now=NOW)
        vault.keeper.create_epoch(now=NOW)
        assert rewrapped(vault.keeper) == PEOPLE - 1 + SECRETS
        old, new = vault.keeper.standing().epochs
        assert ((old.live, old.shredded), (new.live, new.shredded)) == ((0, 1), (PEOPLE + 1, 0))
        expected = [Shredded(keys[0].ref, "usage", 0), *keys[1:]]
        fresh = place.open()
        assert _opened(vault, keys) == _opened(other, keys) == _opened(fresh, keys) == expected
        assert fresh.secret("row-key") == secret
        assert rewrapped(vault.keeper) == 0

    def test_what_is_new_is_wrapped_under_the_newest_epoch(self, place: Place) -> None:
        """By every process, from the moment at which it is made."""
        vault, other = place.open(), place.open()
        _sealed(other, 1)
        vault.keeper.create_epoch(now=NOW)
        _sealed(other)
        assert [epoch.live for epoch in vault.keeper.standing().epochs] == [2, PEOPLE - 1]

    @pytest.mark.parametrize("moment", ["before", "between", "after"])
    @pytest.mark.parametrize("acts", list(permutations(("shred", "insert", "rewrap"))), ids="-".join)
    def test_a_rewrap_a_shred_and_an_insert_meet_in_every_order(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, *, acts: tuple[str, ...], moment: str
    ) -> None:
        """Before a slice is read, between its read and its write, and after: the swap sees what changed.

        A destroyed key never comes back, a new one is never lost, and no key is left behind.
        """
        vault, other = place.open(), place.open()
        keys, made = list(_sealed(vault)), list[DataKey]()
        vault.keeper.create_epoch(now=NOW)

        def meanwhile() -> None:
            for act in acts:
                if act == "shred":
                    other.shred(keys[7].ref, now=NOW)
                elif act == "insert":
                    made.extend(other.sealing_keys([KeyWant(REF, "usage")], now=NOW))
                else:
                    rewrapped(other.keeper)

        forms = vault.keeper._forms  # type: ignore[attr-defined] # noqa: SLF001 - the moment between

        def late(*args: object) -> object:
            monkeypatch.undo()
            meanwhile()
            return forms(*args)

        if moment == "before":
            meanwhile()
        elif moment == "between":
            monkeypatch.setattr(vault.keeper, "_forms", late)
        rewrapped(vault.keeper)
        if moment == "after":
            meanwhile()
        place.pass_seconds(2)
        expected = [*keys[:7], Shredded(keys[7].ref, "usage", 0), *keys[8:], *made]
        for reader in (vault, other, place.open()):
            assert _opened(reader, (*keys, *made)) == expected
        assert [epoch.live for epoch in vault.keeper.standing().epochs] == [0, PEOPLE + PEPPER]

    def test_an_epoch_with_keys_in_use_is_not_destroyed(self, place: Place, backups: Path) -> None:
        """Whatever backup there is; nor is the newest."""
        vault = place.open()
        keys = _sealed(vault)
        vault.keeper.create_epoch(now=NOW)
        vault.keeper.back_up(backups, now=NOW)
        for epoch in (1, 2):
            with pytest.raises(InvariantViolation):
                vault.keeper.destroy_epochs(through=epoch, now=NOW)
        assert _opened(place.open(), keys) == list(keys)

    def test_an_epoch_is_not_destroyed_without_a_younger_backup(self, place: Place, backups: Path) -> None:
        """A backup from before the roll needs the epoch itself."""
        vault = place.open()
        _sealed(vault)
        vault.keeper.back_up(backups, now=NOW)
        vault.keeper.create_epoch(now=NOW)
        rewrapped(vault.keeper)
        with pytest.raises(KeyUnavailable, match="keys backup"):
            vault.keeper.destroy_epochs(through=1, now=NOW)
        vault.keeper.back_up(backups, now=NOW)
        vault.keeper.destroy_epochs(through=1, now=NOW)
        assert [epoch.number for epoch in vault.keeper.standing().epochs] == [2]
        assert not (place.keys / "epoch-1.kek").exists()

    def test_another_process_forgets_a_destroyed_epoch(self, place: Place, backups: Path) -> None:
        """Its memory holds no key of it after one more second of use, and it goes on."""
        vault, other = place.open(), place.open()
        keys = _sealed(other)
        vault.keeper.create_epoch(now=NOW)
        rewrapped(vault.keeper)
        vault.keeper.back_up(backups, now=NOW)
        vault.keeper.destroy_epochs(through=1, now=NOW)
        place.pass_seconds(2)
        assert _opened(other, keys) == list(keys)
        assert 1 not in other._wrapper._ciphers  # type: ignore[attr-defined] # noqa: SLF001 - what is in memory

    def test_a_process_that_asks_for_no_key_forgets_a_destroyed_epoch(
        self, place: Place, backups: Path
    ) -> None:
        """By what it calls now and then."""
        vault, other = place.open(), place.open()
        _sealed(other)
        vault.keeper.create_epoch(now=NOW)
        rewrapped(vault.keeper)
        vault.keeper.back_up(backups, now=NOW)
        vault.keeper.destroy_epochs(through=1, now=NOW)
        other.forget_idle()
        assert 1 not in other._wrapper._ciphers  # type: ignore[attr-defined] # noqa: SLF001 - what is in memory

    # Care --------------------------------------------------------------------------------------

    def test_daily_rotations_keep_no_epoch_older_than_seven_days(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """Twice a day is once a day, and what was destroyed is final within eight days."""
        vault = place.open()
        keys = _sealed(vault)
        os.utime(place.keys / "epoch-1.kek", (NOW.timestamp(), NOW.timestamp()))
        care = caring(vault.keeper, clock, backups)
        counts = []
        for day in range(1, 12):
            clock.at = NOW + day * DAY
            vault.shred(keys[day].ref, now=clock.at)
            assert care.rotate() is not None
            assert care.rotate() is None
            standing = care.standing()
            assert overdue(standing, clock.at) == ()
            counts.append(len(standing.epochs))
            first = standing.epochs[0]
            assert first.created_at is not None
            assert clock.at - first.created_at <= 7 * DAY
        assert counts == [2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7]
        assert _opened(place.open(), keys[12:]) == list(keys[12:])

    def test_a_rotation_that_was_missed_is_made_up(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """After weeks one rotation destroys the old epoch, and says so before."""
        vault = place.open()
        keys = _sealed(vault)
        os.utime(place.keys / "epoch-1.kek", (NOW.timestamp(), NOW.timestamp()))
        care = caring(vault.keeper, clock, backups)
        clock.at = NOW + 20 * DAY
        assert overdue(care.standing(), clock.at) == (1,)
        assert care.plan() == CarePlan(new_epoch=True, to_rewrap=PEOPLE + 1, to_destroy=(1,))
        rolled = care.rotate()
        assert rolled is not None
        assert (rolled.epoch, rolled.rewrapped, rolled.destroyed) == (2, PEOPLE + 1, (1,))
        assert _opened(place.open(), keys) == list(keys)
        assert care.plan().is_empty

    def test_a_rotation_that_ended_before_its_backup_makes_it_the_next_time(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """Also where an older backup would do without the epochs that are to go."""
        vault = place.open()
        _sealed(vault)
        os.utime(place.keys / "epoch-1.kek", (NOW.timestamp(), NOW.timestamp()))
        clock.at = NOW + DAY
        caring(vault.keeper, clock, backups).rotate()
        away = backups.with_name("away")
        away.touch()
        clock.at = NOW + 7 * DAY
        with pytest.raises(LedgerError):
            caring(vault.keeper, clock, away).rotate()
        care = caring(vault.keeper, clock, backups)
        plan = care.plan()
        rolled = care.rotate()
        assert plan == CarePlan(new_epoch=False, to_rewrap=0, to_destroy=(1,), lacks_backup=True)
        assert rolled is not None
        assert rolled.backup is not None
        assert (rolled.backup.oldest_epoch, rolled.destroyed) == (3, (1,))
        assert care.rotate() is None

    def test_a_final_roll_takes_the_copies_of_the_destroyed_with_it(
        self, place: Place, clock: MovedClock, backups: Path
    ) -> None:
        """A backup from before the erasure opens nothing any more, also beside every key that is left."""
        vault = place.open()
        keys = _sealed(vault)
        care = caring(vault.keeper, clock, backups)
        old = (backups / care.back_up().name).rename(backups / "copy")
        vault.shred(keys[0].ref, now=NOW)
        rolled = care.roll(is_final=True)
        assert (rolled.epoch, rolled.destroyed) == (2, (1,))
        assert _opened(place.open(), keys[1:]) == list(keys[1:])
        with pytest.raises(KeyUnavailable, match="epoch 1"):
            place.restore(old)
        assert rolled.backup is not None
        assert place.restore(backups / rolled.backup.name) == Restored(keys=PEOPLE - 1, applied=0)

    @pytest.mark.parametrize("is_final", [True, False])
    def test_a_roll_that_ends_at_any_sync_is_finished_by_the_next(
        self,
        place: Place,
        clock: MovedClock,
        backups: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_final: bool,
    ) -> None:
        """Ended at every write that is made durable in the folders, one after the other."""
        vault = place.open()
        keys = _sealed(vault)
        vault.shred(keys[0].ref, now=NOW)
        expected = [Shredded(keys[0].ref, "usage", 0), *keys[1:]]
        sync, ended, left = os.fsync, 0, 0

        def fused(handle: int) -> None:
            nonlocal left
            sync(handle)
            left -= 1
            if left == 0:
                raise _Crash

        monkeypatch.setattr(os, "fsync", fused)
        while True:
            left = ended + 1
            with closing(place.open()) as rolling, closing(place.open()) as looking:
                try:
                    rolled = caring(rolling.keeper, clock, backups).roll(is_final=is_final)
                except _Crash:
                    ended += 1
                    assert _opened(looking, keys) == expected
                    continue
            break
        left = 0
        assert ended > SYNCS
        assert _opened(place.open(), keys) == expected
        standing = place.open().keeper.standing()
        assert [epoch.live for epoch in standing.older] == [0] * len(standing.older)
        if is_final:
            assert [epoch.number for epoch in standing.epochs] == [rolled.epoch]

    # Backups -----------------------------------------------------------------------------------

    def test_a_backup_brings_everything_back(self, place: Place, backups: Path) -> None:
        """Keys, secrets, identities and ends, after the keystore was lost."""
        vault = place.open()
        keys, secret = _sealed(vault), vault.secret("row-key")
        (ref,) = vault.mint([(ADA,)], now=NOW, not_before=NOW)
        vault.end(REF, now=NOW)
        note = vault.keeper.back_up(backups, now=NOW)
        assert (note.keys, note.oldest_epoch) == (PEOPLE, 1)
        assert ((backups / note.name).stat().st_mode & 0o777) == OWNERS_ALONE
        vault.close()
        place.lose()
        with pytest.raises(KeyUnavailable, match="Restore the keystore"):
            place.open()
        assert place.restore(backups / note.name) == Restored(keys=PEOPLE, applied=0)
        restored = place.open()
        assert _opened(restored, keys) == list(keys)
        assert (restored.secret("row-key"), restored.is_ended(REF)) == (secret, True)
        (row,) = restored.find([ADA])
        assert row is not None
        assert row.ref == ref
        (younger,) = restored.mint([(Identity("openedx:user_id", "2"),)], now=NOW, not_before=NOW)
        restored.bind(younger, [ADA], now=NOW)
        assert restored.refs_of(ADA) == (ref, younger)

    def test_a_restored_backup_forgets_again_what_was_destroyed(self, place: Place, backups: Path) -> None:
        """Yesterday's keystore releases no key of today's erased, to a running process neither."""
        vault, other = place.open(), place.open()
        keys = _sealed(vault)
        (ref,) = vault.mint([(ADA,)], now=NOW, not_before=NOW)
        note = vault.keeper.back_up(backups, now=NOW)
        late = vault.sealing_keys([KeyWant(REF, "usage")], now=NOW)
        vault.shred(keys[0].ref, now=NOW + DAY)
        vault.end(keys[0].ref, now=NOW + DAY)
        vault.erase_identities(ref, now=NOW + DAY)
        assert _opened(other, keys[:2]) == [Shredded(keys[0].ref, "usage", 0), keys[1]]
        entries = ("shred", "end", "erase")
        assert place.restore(backups / note.name).applied == len(entries)
        place.pass_seconds(2)
        expected = [Shredded(keys[0].ref, "usage", 0), *keys[1:]]
        for reader in (other, place.open()):
            assert _opened(reader, keys) == expected
            assert _opened(reader, late) == [None]
            assert reader.is_ended(keys[0].ref)
            (row,) = reader.find([ADA])
            assert row is not None
            assert row.status is IdentityStatus.ERASED

    def test_the_epoch_of_a_standing_is_no_older_than_any_copy(self, place: Place, backups: Path) -> None:
        """Whatever the rows of an older backup say, and also where it has no row of the person."""
        vault = place.open()
        none = vault.keeper.back_up(backups, now=NOW)
        vault.sealing_keys([KeyWant(REF, "usage")], now=NOW)
        older = vault.keeper.back_up(backups, now=NOW)
        vault.keeper.create_epoch(now=NOW)
        rewrapped(vault.keeper)
        vault.keeper.back_up(backups, now=NOW)
        for backup, live in ((older, 1), (none, 0)):
            place.restore(backups / backup.name)
            assert place.open().standing_of(REF) == KeyStanding(live=live, destroyed=0, epoch=2)

    @pytest.mark.parametrize("order", ["backup-end", "end-backup"])
    def test_a_key_that_the_erasure_could_not_find_is_destroyed_by_the_restore(
        self, place: Place, backups: Path, order: str
    ) -> None:
        """An older backup lost it, the person was erased, and a younger backup has it still.

        Whether the younger one was made before the reference was ended, or between that and the shred.
        """
        vault = place.open()
        kept = _sealed(vault)
        older = vault.keeper.back_up(backups, now=NOW)
        (lost,) = vault.sealing_keys([KeyWant(REF, "usage")], now=NOW)
        if order == "end-backup":
            vault.end(REF, now=NOW + DAY)
        younger = vault.keeper.back_up(backups, now=NOW + DAY)
        place.restore(backups / older.name)
        erasing = place.open()
        erasing.end(REF, now=NOW + DAY)
        assert erasing.shred(REF, now=NOW + DAY).kids == ()
        place.restore(backups / younger.name)
        place.pass_seconds(2)
        expected = [*kept, Shredded(REF, "usage", 0)]
        for reader in (vault, erasing, place.open()):
            assert _opened(reader, (*kept, lost)) == expected

    def test_a_copy_that_does_not_open_is_no_backup(self, place: Place, backups: Path) -> None:
        """It is neither noted nor left where backups lie."""
        vault = place.open()
        _sealed(vault)
        vault.keeper.create_epoch(now=NOW)
        (place.keys / "epoch-1.kek").unlink()
        with pytest.raises(KeyUnavailable):
            vault.keeper.back_up(backups, now=NOW)
        assert list(backups.iterdir()) == []
        assert vault.keeper.standing().backup is None

    def test_a_backup_that_is_no_backup_changes_nothing(self, place: Place, tmp_path: Path) -> None:
        """Neither a missing nor a foreign nor a damaged file."""
        vault = place.open()
        keys = _sealed(vault)
        whole = tmp_path / "b" / vault.keeper.back_up(tmp_path / "b", now=NOW).name
        damaged = tmp_path / "damaged"
        content = bytearray(whole.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)
        damaged.write_bytes(content)
        (tmp_path / "foreign").write_bytes(b"not a keystore at all" * 1000)
        for path in (tmp_path / "missing", tmp_path / "foreign", damaged):
            with pytest.raises((HomeUnusable, InvariantViolation)):
                place.restore(path)
        assert _opened(place.open(), keys) == list(keys)

    def test_a_backup_of_another_keystore_is_refused(
        self, place: Place, tmp_path: Path, backups: Path
    ) -> None:
        """Its keys are wrapped by other key-encryption keys."""
        vault = place.open()
        note = vault.keeper.back_up(backups, now=NOW)
        with closing(vault):
            keys = _sealed(vault)
        moved = tmp_path / "moved"
        shutil.move(place.keys / "epoch-1.kek", moved)
        FileKeks(place.keys).create(1, ids=SystemIds())
        with pytest.raises(InvariantViolation):
            place.restore(backups / note.name)
        shutil.move(moved, place.keys / "epoch-1.kek")
        assert _opened(place.open(), keys) == list(keys)

    def test_a_restore_that_ends_in_the_middle_leaves_the_old_keystore(
        self, place: Place, backups: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows and journal come in one transaction: never a restored one that is behind."""
        vault = place.open()
        keys = _sealed(vault)
        note = vault.keeper.back_up(backups, now=NOW)
        vault.shred(keys[0].ref, now=NOW)

        def crash(*_: object) -> int:
            raise _Crash

        monkeypatch.setattr("privacy_ledger.adapters.keystore._recorder.Recorder.catch_up", crash)
        with pytest.raises(_Crash):
            place.restore(backups / note.name)
        monkeypatch.undo()
        expected = [Shredded(keys[0].ref, "usage", 0), *keys[1:]]
        assert _opened(place.open(), keys) == expected
        assert place.restore(backups / note.name).applied == 1
        assert _opened(place.open(), keys) == expected
