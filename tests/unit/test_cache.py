"""Decoded states: one bound for all caches of a process, and never another answer than the store's."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.keystore.kek import FileKeks
from privacy_ledger.adapters.keystore.sqlite import SqliteKeyVault
from privacy_ledger.adapters.state_codec import PassStateCodec
from privacy_ledger.engine.cache import StateCache
from privacy_ledger.engine.rebuild import MemoryStore
from privacy_ledger.streams.states import Changes, Table

NUMBERS = Table(b"1", "numbers", int, "plain")
BOUND = 100


@pytest.fixture
def codec(tmp_path: Path) -> PassStateCodec:
    """Return a codec whose table needs no key."""
    vault = SqliteKeyVault(tmp_path / "keystore.db", FileKeks(tmp_path / "keys"), ids=SystemIds())
    return PassStateCodec("core", vault, publishes=frozenset())


def keys(count: int) -> list[bytes]:
    """Return so many keys."""
    return [b"%04d" % number for number in range(count)]


def filled(codec: PassStateCodec, count: int) -> StateCache:
    """Return a cache over a store that holds the number of each key, all of them loaded."""
    store = MemoryStore()
    numbers = Changes(NUMBERS, {key: number for number, key in enumerate(keys(count))})
    (values,) = codec.seal([numbers], generation=lambda _: 0, now=datetime(2026, 3, 1, tzinfo=UTC))
    store.write([(b"1" + key, value) for key, value in zip(numbers.values, values, strict=True)])
    cache = StateCache(store, codec)
    cache.fetch(NUMBERS, keys(count))
    return cache


def test_all_caches_of_a_process_keep_no_more_than_one_bound(
    codec: PassStateCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest ones give way, whoever commits; a cache that is gone counts no more."""
    monkeypatch.setattr("privacy_ledger.engine.cache.CACHED_STATES_MAX", BOUND)
    small, large = filled(codec, 20), filled(codec, 90)
    for cache in (small, large):
        cache.commit((), (), ())
    assert len(small) + len(large) <= BOUND
    assert len(small) == 20
    gone = filled(codec, 90)
    gone.commit((), (), ())
    assert len(small) + len(large) + len(gone) <= BOUND
    kept = len(small) + len(large)
    del gone
    other = filled(codec, BOUND - kept)
    other.commit((), (), ())
    assert len(small) + len(large) + len(other) == BOUND


def test_what_was_forgotten_is_read_again(codec: PassStateCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state, and those that are not there."""
    monkeypatch.setattr("privacy_ledger.engine.cache.CACHED_STATES_MAX", BOUND)
    cache = filled(codec, 500)
    cache.commit((), (), ())
    assert len(cache) <= BOUND
    assert [cache.load(NUMBERS, key) for key in keys(501)] == [*range(500), None]
