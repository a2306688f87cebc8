"""What the contracts about epochs and backups share: a clock that they move, and who looks after the keys."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger.app.key_care import KeyCare
from privacy_ledger.ports.keeping import KeyKeeper
from privacy_ledger.testing.contracts.key_places import Place

__all__ = ["DAY", "NOW", "CaringContract", "MovedClock", "caring", "rewrapped"]

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY: Final = timedelta(days=1)


class MovedClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        """Begin at `NOW`."""
        self.at = NOW

    def now(self) -> datetime:
        """Return the time that was set."""
        return self.at


def caring(keeper: KeyKeeper, clock: MovedClock, backups: Path) -> KeyCare:
    """Return the use cases around epochs and backups of a keystore."""
    return KeyCare(keeper, clock=clock, backups=backups)


def rewrapped(keeper: KeyKeeper) -> int:
    """Wrap every key anew under the newest epoch; return how many were moved."""
    moved, after = 0, 0
    while True:
        step = keeper.rewrap(after=after)
        moved += step.moved
        if step.after is None:
            return moved
        after = step.after


class CaringContract(ABC):
    """The fixtures of such a contract; whoever runs it gives `place`."""

    @pytest.fixture
    @abstractmethod
    def place(self) -> Place:
        """Return a place without a keystore."""

    @pytest.fixture
    def clock(self) -> MovedClock:
        """Return a clock."""
        return MovedClock()

    @pytest.fixture
    def backups(self, tmp_path: Path) -> Path:
        """Return where backups go."""
        return tmp_path / "backups"
