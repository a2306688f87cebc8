"""Dependencies are pinned twice, in agreement, and without a download address."""

import re
import tomllib

import pytest

from tests.tidy.lock import LOCK, PROJECT, constraints, pins, with_constraints

SAMPLE = """\
# comment
click==8.3.1 \\
    --hash=sha256:00
    # via something==1
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:01
"""
SAMPLE_PINS = ["click==8.3.1", "colorama==0.4.6 ; sys_platform == 'win32'"]


def test_lock_and_constraints_agree() -> None:
    """A clone resolves the versions that the lock holds; the remedy is `poe lock`."""
    expected = pins(LOCK.read_text(encoding="utf-8"))

    assert expected == constraints(PROJECT.read_text(encoding="utf-8")), "run `poe lock`"


def test_every_dependency_is_locked() -> None:
    """What the project asks for is in the lock; the remedy is `poe lock`."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    wanted = list(project["project"]["dependencies"])
    for group in project["dependency-groups"].values():
        wanted += group
    locked = {pin.partition("==")[0] for pin in pins(LOCK.read_text(encoding="utf-8"))}
    names = {re.split(r"[\[<>=; ]", requirement)[0] for requirement in wanted}

    assert names - locked == set(), "run `poe lock`"


def test_every_pin_has_a_hash() -> None:
    """What is installed is what was locked, to the byte."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    bare = [
        line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if "==" in line and not line.lstrip().startswith("#") and "--hash=sha256:" not in following
    ]

    assert bare == [], "run `poe lock`"


def test_no_download_address_is_locked() -> None:
    """Where packages come from is the installer's own setting."""
    assert "://" not in LOCK.read_text(encoding="utf-8")


def test_pins_are_read_with_their_markers() -> None:
    """Hashes and comments are no pins."""
    assert pins(SAMPLE) == SAMPLE_PINS


@pytest.mark.parametrize("before", [[], ["old==1"]], ids=["none", "old"])
def test_constraints_are_replaced_and_the_rest_is_kept(before: list[str]) -> None:
    """The script changes its own lines only."""
    project = with_constraints('[project]\nname = "x"\n\n[tool.uv]\ndefault-groups = []\n', before)

    changed = with_constraints(project, SAMPLE_PINS)

    assert constraints(changed) == SAMPLE_PINS
    assert with_constraints(changed, before) == project
