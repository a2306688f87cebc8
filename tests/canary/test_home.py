"""A hundred canaries go through a home: none is found where it must not be, and no erased one opens."""

import shutil
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct, structs

from privacy_ledger.testing.canary_home import CanaryHome, Command, Said
from privacy_ledger.testing.canary_run import CanaryReport, Hunt
from tests.canary.home import run

PEOPLE: Final = 100
SEED: Final = 11


class Found(Struct, frozen=True):
    """A whole run, and the key-encryption keys as they were before the last roll."""

    report: CanaryReport
    hunt: Hunt
    home: CanaryHome
    kept_keys: Path

    def again(self) -> Hunt:
        """Return the hunt with an account of its own: what a test plants counts for that test."""
        hunt = copy(self.hunt)
        hunt.report = structs.replace(self.report)
        return hunt


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Found:
    """Return the run of all tests here."""
    folder = tmp_path_factory.mktemp("canaries")

    def keeping(words: Sequence[str], environment: Mapping[str, str], where: Path) -> Said:
        if "roll" in words:
            shutil.copytree(where / "keys", folder / "kept")
        return command(words, environment, where)

    report, hunt, home = run(folder, people=PEOPLE, seed=SEED, command=keeping)
    return Found(report, hunt, home, folder / "kept")


@pytest.mark.timeout(600)
def test_no_byte_of_a_home_gives_a_canary_away(found: Found) -> None:
    """Before the erasure, after it, after a restore of yesterday, and after the last roll."""
    assert found.report.faults() == ()
    assert (found.report.people, found.report.erased, found.report.tokens) == (PEOPLE, 10, 28 * PEOPLE)


def test_a_token_in_any_place_of_the_home_fails_the_run(found: Found) -> None:
    """One token, in lower case or base64, in a file of any place, and the verdict names place and field."""
    hunt, person = found.again(), found.home.people[70]
    folder = found.home.folder / "said"
    (folder / "late.err").write_bytes(b"no such answer: " + person.tokens["answer"].encode())
    hunt.after({"output and logs": [folder]})
    (folder / "late.err").unlink()
    (fault,) = hunt.report.faults()
    assert "output and logs: late.err: 70 answer, raw" in fault


def test_a_kept_copy_of_the_old_keys_fails_the_run(found: Found) -> None:
    """The attack reads the erased in yesterday's copies as soon as one key-encryption key was kept."""
    hunt = found.again()
    hunt.read_with_all(found.home.everywhere, keys=found.kept_keys)
    (fault,) = hunt.report.faults()
    assert "of the erased open from copies" in fault


def test_a_wrapped_key_that_is_left_in_the_keystore_fails_the_run(found: Found, tmp_path: Path) -> None:
    """At whatever place in the file: the attack knows no layout there."""
    hunt = found.again()
    (yesterday,) = (found.home.folder / "copies").rglob("keystore.db")
    hunt.read_with_what_is_in_use(found.home.everywhere, keystore=[yesterday], keys=found.kept_keys)
    left = tmp_path / "keystore.db-wal"
    content = yesterday.read_bytes()
    place = content.index(next(iter(found.hunt.wrapped)))
    left.write_bytes(content[place - 1001 : place + 5000])
    scattered = found.again()
    scattered.read_with_what_is_in_use(found.home.everywhere, keystore=[left], keys=found.kept_keys)
    for hunted in (hunt, scattered):
        assert any("open with what is in use" in fault for fault in hunted.report.faults())
    assert 0 < scattered.report.opened < hunt.report.opened
