"""What every keystore must do when retention destroys keys: by age, for good, and for records alone."""

from datetime import timedelta
from typing import Final

import pytest

from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.ports.keys import DataKey, KeyGeneration, KeyVault, KeyWant, Shredded
from privacy_ledger.testing.contracts.key_caring import NOW, CaringContract, MovedClock, caring
from privacy_ledger.testing.contracts.key_places import Place

__all__ = ["KeyExpiryContract"]

REF: Final = SubjectRef(b"r" * 16)
OTHER: Final = SubjectRef(b"s" * 16)
LATER: Final = NOW + timedelta(days=40)
SOON: Final = timedelta(microseconds=1)
_STATES: Final = ("view:progress.v1", "state:core", "index")


def _sealing(vault: KeyVault, group: str, *, ref: SubjectRef = REF, days: int = 0) -> DataKey:
    (key,) = vault.sealing_keys([KeyWant(ref, group)], now=NOW + timedelta(days=days))
    return key


def _aged(vault: KeyVault, *categories: Category) -> list[bytes]:
    """Return the ids of live keys of these categories that are older than `LATER`."""
    found = vault.aged_keys(dict.fromkeys(categories, LATER), after=0)
    assert found.after is None
    return [key.kid for key in found.keys]


def _of(vault: KeyVault, *keys: DataKey) -> list[KeyGeneration]:
    wanted = {key.kid for key in keys}
    return [one for ref in (REF, OTHER) for one in vault.keys_of(ref) if one.kid in wanted]


class KeyExpiryContract(CaringContract):
    """Inherit it as `Test...` and give `place`."""

    def test_keys_are_found_by_category_and_age(self, place: Place) -> None:
        """To the microsecond, of every purpose, and nothing but keys of records."""
        vault = place.open()
        mine = [_sealing(vault, "usage"), _sealing(vault, "usage+marketing.own", ref=OTHER)]
        for group in (*_STATES, "device", "evidence"):
            _sealing(vault, group)
        _sealing(vault, "usage", days=40)
        at = vault.aged_keys({Category.USAGE: NOW}, after=0)
        after = vault.aged_keys({Category.USAGE: NOW + SOON}, after=0)
        assert (at.keys, [key.kid for key in after.keys]) == ((), [key.kid for key in mine])
        assert [(key.ref, key.group, key.generation, key.created_at) for key in after.keys] == [
            (REF, "usage", 0, NOW), (OTHER, "usage+marketing.own", 0, NOW),
        ]  # fmt: skip
        assert vault.aged_keys({}, after=0).keys == ()
        assert _aged(vault, Category.DEVICE, Category.EVIDENCE) == [
            key.kid for key in (_sealing(vault, "device"), _sealing(vault, "evidence"))
        ]

    def test_destroyed_as_expired_they_open_no_more_and_others_do(self, place: Place) -> None:
        """Also in another process; the next record gets a new generation, never the old one."""
        vault, other = place.open(), place.open()
        old, new = _sealing(vault, "usage"), _sealing(vault, "usage", days=40)
        beside = _sealing(vault, "usage", ref=OTHER)
        assert isinstance(other.open_keys([old.kid])[old.kid], DataKey)
        done = vault.shred_expired(_of(vault, old), now=LATER)
        place.pass_seconds(2)
        found = other.open_keys([old.kid, new.kid, beside.kid])
        assert [key.kid for key in done] == [old.kid]
        assert found == {old.kid: Shredded(REF, "usage", 0), new.kid: new, beside.kid: beside}
        assert vault.shred_expired(_of(vault, old), now=LATER) == ()
        with pytest.raises(InvariantViolation):
            vault.sealing_keys([KeyWant(REF, "usage", 0)], now=LATER)

    def test_who_lost_the_only_generation_gets_the_next(self, place: Place) -> None:
        """A number is never given twice."""
        vault = place.open()
        old = _sealing(vault, "usage")
        vault.shred_expired(_of(vault, old), now=LATER)
        (new,) = vault.sealing_keys([KeyWant(REF, "usage")], now=LATER)
        assert (new.generation, _aged(vault, Category.USAGE)) == (1, [])

    def test_what_retention_destroyed_is_told_from_other_shreds(self, place: Place) -> None:
        """It says when, and a key in use says neither."""
        vault = place.open()
        due, withdrawn, live = (_sealing(vault, group) for group in ("usage", "device", "patterns"))
        vault.shred_expired(_of(vault, due), now=LATER)
        vault.shred(REF, now=LATER, group="device")
        vault.shred_expired(_of(vault, withdrawn), now=LATER)
        assert [(one.kid, one.destroyed_at, one.is_expired) for one in vault.keys_of(REF)] == [
            (withdrawn.kid, LATER, False), (live.kid, None, False), (due.kid, LATER, True),
        ]  # fmt: skip

    @pytest.mark.parametrize("group", [*_STATES, "lane", "receipt", "nobody"])
    def test_a_key_of_anything_but_records_is_refused(self, place: Place, group: str) -> None:
        """With it the whole call: what seals live state is never destroyed as expired."""
        vault = place.open()
        key = _sealing(vault, "usage")
        wrong = KeyGeneration(row=1, ref=REF, kid=key.kid, group=group, generation=0, created_at=NOW)
        with pytest.raises(InvariantViolation):
            vault.shred_expired([*_of(vault, key), wrong], now=LATER)
        assert isinstance(vault.open_keys([key.kid])[key.kid], DataKey)

    def test_a_row_that_holds_another_key_stays(self, place: Place) -> None:
        """After a restore a row may be somebody else's."""
        vault = place.open()
        key = _sealing(vault, "usage")
        (named,) = _of(vault, key)
        foreign = KeyGeneration(
            row=named.row, ref=OTHER, kid=b"?" * 32, group="usage", generation=0, created_at=NOW
        )
        assert vault.shred_expired([foreign], now=LATER) == ()
        assert isinstance(vault.open_keys([key.kid])[key.kid], DataKey)

    def test_many_are_destroyed_in_slices(self, place: Place) -> None:
        """More than one transaction holds."""
        vault = place.open()
        wants = [KeyWant(SubjectRef(number.to_bytes(16, "big")), "usage") for number in range(1, 1102)]
        vault.sealing_keys(wants, now=NOW)
        found = vault.aged_keys({Category.USAGE: LATER}, after=0).keys
        done = vault.shred_expired(found, now=LATER)
        assert (len(found), len(done), _aged(vault, Category.USAGE)) == (1101, 1101, [])

    def test_a_restored_backup_has_them_destroyed_again(
        self, place: Place, clock: MovedClock, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """The journal says which, and that it was retention; what is not due opens."""
        backups = tmp_path_factory.mktemp("backups")
        vault = place.open()
        old, new = _sealing(vault, "usage"), _sealing(vault, "usage", days=40)
        caring(vault.keeper, clock, backups).back_up()
        vault.shred_expired(_of(vault, old), now=LATER)
        vault.close()
        place.lose()
        (backup,) = backups.glob("*.backup")
        place.restore(backup)
        restored = place.open()
        found = restored.open_keys([old.kid, new.kid])
        assert found == {old.kid: Shredded(REF, "usage", 0), new.kid: new}
        assert [(one.destroyed_at, one.is_expired) for one in restored.keys_of(REF)] == [
            (LATER, True), (None, False),
        ]  # fmt: skip

    def test_a_backup_made_afterwards_says_so_too(
        self, place: Place, clock: MovedClock, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """What was noted in the keystore goes along."""
        backups = tmp_path_factory.mktemp("backups")
        vault = place.open()
        old = _sealing(vault, "usage")
        vault.shred_expired(_of(vault, old), now=LATER)
        caring(vault.keeper, clock, backups).back_up()
        vault.close()
        place.lose()
        (backup,) = backups.glob("*.backup")
        place.restore(backup)
        assert [(one.destroyed_at, one.is_expired) for one in place.open().keys_of(REF)] == [(LATER, True)]
