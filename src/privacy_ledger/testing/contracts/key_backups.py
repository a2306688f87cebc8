"""What every keystore must do with backups: end them all when asked to."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from privacy_ledger.app.key_care import KeyCare
from privacy_ledger.domain.errors import KeyUnavailable
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keeping import KeyKeeper
from privacy_ledger.ports.keys import DataKey, KeyVault, KeyWant
from privacy_ledger.testing.contracts.key_places import Place

__all__ = ["KeyBackupsContract"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
REF = SubjectRef(b"r" * 16)
OTHER = SubjectRef(b"s" * 16)


class _Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at


def _sealed(vault: KeyVault, ref: SubjectRef) -> DataKey:
    """Return a key of a person."""
    (key,) = vault.sealing_keys([KeyWant(ref, "usage")], now=NOW)
    return key


class KeyBackupsContract(ABC):
    """Inherit it as `Test...` and give `place`."""

    @pytest.fixture
    @abstractmethod
    def place(self) -> Place:
        """Return a place without a keystore."""

    @pytest.fixture
    def clock(self) -> _Clock:
        """Return a clock."""
        return _Clock()

    @pytest.fixture
    def backups(self, tmp_path: Path) -> Path:
        """Return where backups go."""
        return tmp_path / "backups"

    def _care(self, keeper: KeyKeeper, clock: _Clock, backups: Path) -> KeyCare:
        return KeyCare(keeper, clock=clock, backups=backups)

    # The end of all ---------------------------------------------------------------------------

    def test_a_final_roll_ends_the_epoch_of_today_too(
        self, place: Place, clock: _Clock, backups: Path
    ) -> None:
        """Whether the day's roll was a rotation, or final itself, and though nothing was destroyed since."""
        vault = place.open()
        kept = _sealed(vault, OTHER)
        care = self._care(vault.keeper, clock, backups)
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
        self, place: Place, clock: _Clock, backups: Path
    ) -> None:
        """A restore lost the key, so that the erasure destroyed nothing; a backup of today has it."""
        vault = place.open()
        _sealed(vault, OTHER)
        care = self._care(vault.keeper, clock, backups)
        clock.at = NOW + DAY
        care.rotate()
        before = care.back_up()
        _sealed(vault, REF)
        holding = care.back_up()
        place.restore(backups / before.name)
        vault = place.open()
        vault.end(REF, now=clock.at)
        assert vault.shred(REF, now=clock.at).kids == ()
        epoch = vault.standing_of(REF).epoch
        self._care(vault.keeper, clock, backups).roll(is_final=True)
        assert all(held.number > epoch for held in vault.keeper.standing().epochs)
        with pytest.raises(KeyUnavailable, match="epoch 2"):
            place.restore(backups / holding.name)
