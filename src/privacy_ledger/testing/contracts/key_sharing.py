"""What processes that share a keystore must see of each other, whatever holds its rows."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest

from privacy_ledger.app.key_care import KeyCare, Rolled
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, KeyVault, KeyWant, Shredded, Withheld
from privacy_ledger.testing.contracts.key_keeper import KeptVault, Place

__all__ = ["KeySharingContract"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PEOPLE = 50
REF = SubjectRef(b"r" * 16)
HINT_S = 20.0


class _NextDay:
    """A clock that stands at the day after."""

    def now(self) -> datetime:
        return NOW + timedelta(days=1)


def _sealed(vault: KeyVault) -> tuple[DataKey, ...]:
    """Return a key of each of some people."""
    refs = [SubjectRef(number.to_bytes(16, "big")) for number in range(PEOPLE)]
    return vault.sealing_keys([KeyWant(ref, "usage") for ref in refs], now=NOW)


def _opened(vault: KeyVault, keys: tuple[DataKey, ...]) -> list[DataKey | Shredded | Withheld | None]:
    found = vault.open_keys([key.kid for key in keys])
    return [found.get(key.kid) for key in keys]


def _until(claim: Callable[[], bool]) -> bool:
    """Return whether a claim comes true: a notification takes its time, and no second of a lease."""
    ends_at = time.monotonic() + HINT_S
    while time.monotonic() < ends_at:
        if claim():
            return True
        time.sleep(0.01)
    return False


class KeySharingContract(ABC):
    """Inherit it as `Test...` and give `place`."""

    @pytest.fixture
    @abstractmethod
    def place(self) -> Place:
        """Return a place without a keystore."""

    @pytest.fixture
    def backups(self, tmp_path: Path) -> Path:
        """Return where backups go."""
        return tmp_path / "backups"

    # Memory ------------------------------------------------------------------------------------

    def test_a_destroyed_key_leaves_other_memories_at_their_next_use(self, place: Place) -> None:
        """Without a second that passes: the database hints at it, for opening and for sealing."""
        vault, other = place.open(), place.open()
        keys = _sealed(other)
        assert _opened(other, keys) == list(keys)
        vault.shred(keys[0].ref, now=NOW)
        assert _until(lambda: isinstance(_opened(other, keys)[0], Shredded))
        assert _opened(other, keys)[1:] == list(keys[1:])
        (next_one,) = other.sealing_keys([KeyWant(keys[0].ref, "usage")], now=NOW)
        assert next_one.generation == keys[0].generation + 1

    def test_an_ended_reference_is_refused_elsewhere_at_the_next_use(self, place: Place) -> None:
        """A current key in another memory seals nothing more."""
        vault, other = place.open(), place.open()
        (key,) = other.sealing_keys([KeyWant(REF, "usage")], now=NOW)
        vault.end(key.ref, now=NOW)

        def is_refused() -> bool:
            try:
                other.sealing_keys([KeyWant(REF, "usage")], now=NOW)
            except RefusedByPolicy:
                return True
            return False

        assert _until(is_refused)

    def test_a_retired_key_seals_nothing_more_elsewhere_at_the_next_use(self, place: Place) -> None:
        """Another memory goes on under the next generation, and still opens what was sealed before."""
        vault, other = place.open(), place.open()
        want = KeyWant(REF, "usage+improve.analyse")
        (old,) = other.sealing_keys([want], now=NOW)
        vault.retire(REF, purpose="improve.analyse")
        assert _until(lambda: other.sealing_keys([want], now=NOW) != (old,))
        (new,) = other.sealing_keys([want], now=NOW)
        assert new.generation == old.generation + 1
        assert vault.sealing_keys([want], now=NOW) == place.open().sealing_keys([want], now=NOW) == (new,)
        assert _opened(other, (old, new)) == [old, new]

    def test_an_idle_memory_follows_and_is_empty_when_its_lease_has_lapsed(self, place: Place) -> None:
        """Nobody asks it for a key meanwhile, and it renews no lease."""
        vault, idle = place.open(), place.open()
        keys = _sealed(idle)
        vault.shred(keys[0].ref, now=NOW)

        def has_followed() -> bool:
            idle.forget_idle()
            return idle.cache_figures.opened == len(keys) - 1

        assert _until(has_followed)
        place.pass_seconds(11)
        idle.forget_idle()
        assert (idle.cache_figures.opened, idle.cache_figures.sealing) == (0, 0)
        assert _opened(idle, keys)[1:] == list(keys[1:])

    # Rotations ---------------------------------------------------------------------------------

    def test_who_looked_before_another_rolled_makes_no_second_epoch(self, place: Place) -> None:
        """The number that both saw is the newest for one of them only."""
        first, second = place.open(), place.open()
        seen = [one.keeper.standing().newest.number for one in (first, second)]
        made = [
            one.keeper.succeed_epoch(number, now=NOW)
            for one, number in zip((first, second), seen, strict=True)
        ]
        assert made == [2, None]
        assert [epoch.number for epoch in second.keeper.standing().epochs] == [1, 2]

    def test_two_rotations_at_once_make_one_epoch(self, place: Place, backups: Path) -> None:
        """Over connections of their own, at the same moment; nobody's key is lost."""
        vaults = [place.open(), place.open()]
        keys = _sealed(vaults[0])
        os.utime(place.keys / "epoch-1.kek", (NOW.timestamp(), NOW.timestamp()))
        barrier = Barrier(len(vaults))

        def rotate(vault: KeptVault) -> Rolled | None:
            barrier.wait(HINT_S)
            return KeyCare(vault.keeper, clock=_NextDay(), backups=backups).rotate()

        with ThreadPoolExecutor(len(vaults)) as pool:
            rolled = [one for one in pool.map(rotate, vaults) if one is not None]
        assert {one.epoch for one in rolled} == {2}
        assert [(one.number, one.live) for one in place.open().keeper.standing().epochs] == [
            (1, 0),
            (2, PEOPLE + 1),
        ]
        assert _opened(place.open(), keys) == list(keys)
