"""Copies of a keystore's file that come under a process that has it open."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from privacy_ledger.domain.errors import KeystoreReplaced, KeyUnavailable
from privacy_ledger.ports.keys import Identity, KeyWant, Shredded
from tests.contract.test_keystore_sqlite import ADA, NAMESPACE, NOW, REF, Home, sealing


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Yield a place for one keystore."""
    with ExitStack() as stack:
        yield Home(tmp_path, stack)


@pytest.mark.parametrize("has_another", [True, False], ids=["replaced", "removed"])
def test_a_file_that_is_exchanged_under_an_open_vault_releases_no_key(
    home: Home, *, has_another: bool
) -> None:
    """SQLite would go on in the old one, and what is made or destroyed there would be lost."""
    vault = home.open()
    (ref,) = vault.mint([(ADA,)], now=NOW, not_before=NOW)
    gone, kept = vault.sealing_keys([KeyWant(ref, "usage"), KeyWant(REF, "usage")], now=NOW)
    copy = home.back_up()
    vault.shred(ref, now=NOW)
    home.lose()
    if has_another:
        home.put_back(copy)
    home.clock.seconds += 2
    for ask in (
        lambda: vault.open_keys([gone.kid]),
        lambda: vault.open_keys([kept.kid]),
        lambda: vault.sealing_keys([KeyWant(REF, "usage")], now=NOW),
        lambda: vault.shred(REF, now=NOW),
        lambda: vault.mint([(Identity(NAMESPACE, "2"),)], now=NOW, not_before=NOW),
    ):
        with pytest.raises(KeystoreReplaced):
            ask()
    if has_another:
        assert home.open().open_keys([gone.kid, kept.kid]) == {
            gone.kid: Shredded(ref, "usage", 0), kept.kid: kept,
        }  # fmt: skip


def test_an_older_copy_that_comes_just_before_a_read_releases_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the journal and the read of the keys: the read itself says that it is behind."""
    vault = home.open()
    gone, kept = sealing(vault), sealing(vault, "location")
    copy = home.directory / "yesterday.sqlite"
    copy.write_bytes(home.back_up())
    vault.shred(REF, now=NOW, group="usage")
    other = home.open()
    renew = other._cache.renew  # noqa: SLF001 - the copy comes after the last look

    def renew_and_bring_back() -> None:
        renew()
        monkeypatch.undo()
        with closing(sqlite3.connect(copy)) as source:
            source.backup(home.connect())

    monkeypatch.setattr(other._cache, "renew", renew_and_bring_back)  # noqa: SLF001
    with pytest.raises(KeyUnavailable, match="behind its shred journal"):
        other.open_keys([gone.kid, kept.kid])
    assert other.open_keys([gone.kid, kept.kid]) == {gone.kid: Shredded(REF, "usage", 0), kept.kid: kept}
