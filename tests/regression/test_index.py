"""Every lesson of the index has tests, and every test that it names exists."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.regression.index import INDEX, Lesson

ROOT = Path(__file__).parents[2]
DECISION = ROOT / ".github" / "decisions" / "0011-what-of-faust-we-use.md"
CHARACTERISATION = "tests/characterisation"


@pytest.fixture(scope="module")
def collected() -> frozenset[str]:
    """Return the node ids of all tests that lie in named files, without their cases."""
    files = {test.partition("::")[0] for lesson in INDEX for test in lesson.tests}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *sorted(files), CHARACTERISATION],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    return frozenset(line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line)


def missing(tests: Iterable[str], collected: frozenset[str]) -> list[str]:
    """Return the named tests that do not exist."""
    return sorted(set(tests) - collected)


def named(table: str) -> dict[str, list[str]]:
    """Return the tests of each numbered row of a table."""
    rows = [line for line in table.splitlines() if re.match(r"\| F\d+ \|", line)]
    return {row.split("|")[1].strip(): re.findall(r"`(test_\w+)`", row) for row in rows}


@pytest.mark.parametrize("lesson", INDEX, ids=lambda lesson: lesson.source.split(",")[0].replace(" ", "-"))
def test_every_test_of_a_lesson_exists(lesson: Lesson, collected: frozenset[str]) -> None:
    """A renamed or removed test is noticed here: name what stands for the rule now."""
    assert lesson.tests
    assert missing(lesson.tests, collected) == []


def test_a_test_that_is_not_there_is_missed(collected: frozenset[str]) -> None:
    """The search above bites."""
    there = INDEX[0].tests[0]

    assert missing([there, there + "_too"], collected) == [there + "_too"]


def test_every_number_of_the_decision_has_tests_and_every_such_test_a_number(
    collected: frozenset[str],
) -> None:
    """F1 to F9 and F13, as decision 0011 lists them."""
    table = named(DECISION.read_text(encoding="utf-8"))
    existing = {test.rpartition("::")[2] for test in collected if test.startswith(CHARACTERISATION)}

    assert list(table) == [*(f"F{number}" for number in range(1, 10)), "F13"]
    assert {test for tests in table.values() for test in tests} == existing
    assert [number for number, tests in table.items() if not tests] == []
