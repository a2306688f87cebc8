"""What every keystore must do when an end spares groups: they go on, and nothing else comes back."""

from datetime import timedelta
from typing import Final

import pytest

from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, KeyVault, KeyWant, Shredded
from privacy_ledger.testing.contracts.key_caring import NOW, CaringContract, MovedClock, caring
from privacy_ledger.testing.contracts.key_places import Place

__all__ = ["KeySparingContract"]

REF: Final = SubjectRef(b"r" * 16)
KEPT: Final = ("billing", "index")
GROUPS: Final = (*KEPT, "usage")
LATER: Final = NOW + timedelta(days=40)


def _keys(vault: KeyVault) -> dict[str, DataKey]:
    """Return a key of each group of `REF`."""
    wants = [KeyWant(REF, group) for group in GROUPS]
    return dict(zip(GROUPS, vault.sealing_keys(wants, now=NOW), strict=True))


def _erase(vault: KeyVault, *spare: str) -> None:
    vault.end(REF, now=NOW, spare=spare)
    vault.shred(REF, now=NOW, spare=spare)


def _opening(vault: KeyVault, keys: dict[str, DataKey]) -> set[str]:
    """Return the groups whose key opens."""
    found = vault.open_keys([key.kid for key in keys.values()])
    return {group for group, key in keys.items() if isinstance(found[key.kid], DataKey)}


class KeySparingContract(CaringContract):
    """Inherit it as `Test...` and give `place`."""

    def test_spared_groups_open_and_seal_and_the_others_do_not(self, place: Place) -> None:
        """Also under a new generation; a group that was not spared gets none, and none it never had."""
        vault = place.open()
        keys = _keys(vault)
        _erase(vault, *KEPT)
        (again,) = vault.sealing_keys([KeyWant(REF, "billing")], now=NOW)
        (rolled,) = vault.sealing_keys([KeyWant(REF, "billing")], now=LATER)
        refused = []
        for group in ("usage", "coursework"):
            with pytest.raises(RefusedByPolicy) as caught:
                vault.sealing_keys([KeyWant(REF, "billing"), KeyWant(REF, group)], now=NOW)
            refused.append(caught.value.refusal)
        with pytest.raises(RefusedByPolicy):
            vault.fresh_keys([(REF, "usage")], now=NOW)
        assert _opening(vault, keys) == set(KEPT)
        assert (again, rolled.generation) == (keys["billing"], keys["billing"].generation + 1)
        assert refused == [Refusal.SUBJECT_ERASED] * 2
        assert (vault.is_ended(REF), vault.live_groups(REF)) == (True, KEPT)

    def test_a_later_end_takes_groups_away_and_never_adds_one(self, place: Place) -> None:
        """Also in a process that has the keys in its memory."""
        vault, other = place.open(), place.open()
        keys = _keys(vault)
        _erase(vault, *KEPT)
        assert other.sealing_keys([KeyWant(REF, "billing")], now=NOW) == (keys["billing"],)
        _erase(vault, "index", "usage")
        place.pass_seconds(2)
        with pytest.raises(RefusedByPolicy):
            other.sealing_keys([KeyWant(REF, "billing")], now=NOW)
        assert _opening(other, keys) == {"index"}
        _erase(vault, *GROUPS)
        with pytest.raises(RefusedByPolicy):
            vault.sealing_keys([KeyWant(REF, "usage")], now=NOW)
        assert vault.live_groups(REF) == ("index",)

    def test_a_restore_brings_back_the_spared_groups_alone(
        self, place: Place, clock: MovedClock, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Yesterday's keystore has the journal applied: also to keys that the journal never named."""
        backups = tmp_path_factory.mktemp("backups")
        vault = place.open()
        keys = _keys(vault)
        caring(vault.keeper, clock, backups).back_up()
        _erase(vault, *KEPT)
        vault.close()
        place.lose()
        (backup,) = backups.glob("*.backup")
        place.restore(backup)
        restored = place.open()
        with pytest.raises(RefusedByPolicy):
            restored.sealing_keys([KeyWant(REF, "usage")], now=NOW)
        assert _opening(restored, keys) == set(KEPT)
        assert isinstance(restored.open_keys([keys["usage"].kid])[keys["usage"].kid], Shredded)

    def test_a_restore_after_all_was_destroyed_brings_back_nothing(
        self, place: Place, clock: MovedClock, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """A backup from while a group was spared knows less than the journal."""
        backups = tmp_path_factory.mktemp("backups")
        vault = place.open()
        keys = _keys(vault)
        _erase(vault, *KEPT)
        (rolled,) = vault.sealing_keys([KeyWant(REF, "billing")], now=LATER)
        caring(vault.keeper, clock, backups).back_up()
        _erase(vault)
        vault.close()
        place.lose()
        (backup,) = backups.glob("*.backup")
        place.restore(backup)
        restored = place.open()
        assert _opening(restored, {**keys, "rolled": rolled}) == set()
        assert restored.live_groups(REF) == ()
