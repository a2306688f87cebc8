"""What processes that share a keystore must see of each other, whatever holds its rows."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import cast

import pytest

from privacy_ledger.adapters import envelope
from privacy_ledger.adapters.keystore import StoredKeyVault, _cache
from privacy_ledger.app.key_care import KeyCare, Rolled
from privacy_ledger.domain.errors import KeyUnavailable, RefusedByPolicy
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, KeyVault, KeyWant, Shredded, Withheld
from privacy_ledger.testing.contracts.key_keeper import KeptVault, Place

__all__ = ["KeySharingContract"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PEOPLE = 50
REF = SubjectRef(b"r" * 16)
HINT_S = 20.0
HELD_MAX = 40


class _NextDay:
    """A clock that stands at the day after."""

    def now(self) -> datetime:
        return NOW + timedelta(days=1)


class _Death(BaseException):
    """The process ends here."""


def _die_half_way(vault: KeyVault, key: DataKey) -> None:
    """Write the shred of a key into the journal, and end before the keystore changes."""
    recorder = cast("StoredKeyVault", vault)._recorder  # noqa: SLF001 - the death falls between its two writes
    with suppress(_Death), recorder.write():
        recorder.record_shred([key.kid], at=0)
        raise _Death


def _sealed(vault: KeyVault, count: int = PEOPLE) -> tuple[DataKey, ...]:
    """Return a key of each of so many people."""
    refs = [SubjectRef(number.to_bytes(16, "big")) for number in range(count)]
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

    def test_what_is_in_memory_is_bounded(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keys that open, keys that seal and ready ciphers, however many people are served."""
        for module, name in ((_cache, "MAX_OPEN"), (_cache, "MAX_SEALING"), (envelope, "MAX_CIPHERS")):
            monkeypatch.setattr(module, name, HELD_MAX)
        envelope.forget()
        vault = place.open()
        keys = _sealed(vault, HELD_MAX * 3)
        sealed = [envelope.seal(key, b"text", b"") for key in keys]
        assert _opened(vault, keys) == list(keys)
        assert [envelope.open_sealed(k, one, b"") for k, one in zip(keys, sealed, strict=True)] == [
            b"text"
        ] * len(keys)
        figures = vault.cache_figures
        assert (figures.opened, figures.sealing) == (HELD_MAX, HELD_MAX)
        assert envelope.ready() == HELD_MAX
        assert _opened(vault, keys[:1]) == [keys[0]]  # who is not in memory is asked for again

    # The journal -------------------------------------------------------------------------------

    def test_no_key_is_released_while_the_journal_cannot_be_applied(self, place: Place) -> None:
        """A process died between journal and keystore, and nobody may read the journal just now."""
        vault, other = place.open(), place.open()
        keys = _sealed(vault)
        assert _opened(other, keys) == list(keys)
        _die_half_way(vault, keys[0])
        journal = place.keys / "journal.ndjson"
        journal.chmod(0o644)  # which the keystore refuses to trust
        place.pass_seconds(2)
        for one in (vault, other):
            with pytest.raises(KeyUnavailable, match="chmod 600"):
                one.open_keys([key.kid for key in keys])
            with pytest.raises(KeyUnavailable, match="chmod 600"):
                one.sealing_keys([KeyWant(keys[1].ref, "usage")], now=NOW)
            with pytest.raises(KeyUnavailable, match="chmod 600"):
                one.fresh_keys([(keys[1].ref, "profile")], now=NOW)
        with pytest.raises(KeyUnavailable, match="chmod 600"):
            place.open()
        journal.chmod(0o600)
        for one in (vault, other, place.open()):
            assert _opened(one, keys) == [Shredded(keys[0].ref, "usage", 0), *keys[1:]]

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
