"""The house rules hold in every file, and each of them bites."""

from itertools import chain
from pathlib import Path, PurePosixPath

import pytest

from tests.tidy.rules import RULES, Rule, Text, problems

ROOT = Path(__file__).parents[2]
PLACES = (
    "*.md",
    "*.toml",
    "*.yml",
    "requirements.lock",
    ".github/**/*.md",
    "processors/**/*.md",
    "processors/**/*.py",
    "schemas/**/*.json",
    "schemas/*.yaml",
    "src/**/*.md",
    "src/**/*.py",
    "src/**/*.toml",
    "tests/**/*.md",
    "tests/**/*.py",
)
_LOGGED = """log_line = get_logger()


def _where() -> dict[str, object]:
    return {"partition": 1}


log_line.info("fenced", topic="t", **_where())
"""
EACH_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name.replace(" ", "-"))


@pytest.fixture(scope="module")
def files() -> list[Text]:
    """Return every text file of the repository that a rule may look at."""
    found = sorted(set(chain.from_iterable(ROOT.glob(place) for place in PLACES)))
    return [
        Text(PurePosixPath(path.relative_to(ROOT).as_posix()), path.read_text(encoding="utf-8"))
        for path in found
        if "__pycache__" not in path.parts
    ]


@EACH_RULE
def test_the_rule_holds(rule: Rule, files: list[Text]) -> None:
    """No file of the repository breaks the rule."""
    found = problems(rule, files)

    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("rule", "planted"),
    [
        pytest.param(rule, planted, id=f"{rule.name.replace(' ', '-')}-{number}")
        for rule in RULES
        for number, planted in enumerate(rule.planted)
    ],
)
def test_the_rule_bites(rule: Rule, planted: Text) -> None:
    """A planted violation is found, with a place and a remedy."""
    found = problems(rule, [planted])

    assert len(found) == 1
    assert found[0].startswith(f"{planted.path}: ")
    assert found[0].endswith(".")


def test_no_rule_is_without_a_planted_violation() -> None:
    """A rule that was never seen to bite may not bite."""
    assert [rule.name for rule in RULES if not rule.planted] == []


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("a.md", "# One\n\n```sh\n# a comment\n```\n\n## Two\n"),
        ("src/a.py", '__all__ = ["A2", "A10", "TOPICS", "Key2", "Key10", "f"]\n'),
        ("src/_a.py", "def f() -> None: ...\n"),
        ("src/_a.py", _LOGGED),
        ("src/a.py", "def _f() -> None: ...\n"),
        (
            "src/a.py",
            "try:\n    pass\nexcept Exception:  # noqa: BLE001 - the loop's outermost frame\n    pass\n",
        ),
        ("src/a.py", "try:\n    pass\nexcept BaseException:\n    print()\n    raise\n"),
        ("tests/a.py", "\n" * 600),
        ("a.md", "# A\n\nada@example.com, bob@mail.example.org, eve@nowhere.invalid\n"),
        ("a.md", "# A\n\ndocs/home/page, ./work/a and https://example.com/home/a\n"),
    ],
    ids=[
        "fenced",
        "ordered",
        "private module",
        "fixed keys",
        "private name",
        "reason",
        "raised again",
        "long test",
        "reserved",
        "relative",
    ],
)
def test_what_is_allowed_is_let_through(path: str, content: str) -> None:
    """A rule that cries without cause would soon be switched off."""
    file = Text(PurePosixPath(path), content)

    assert [found for rule in RULES for found in problems(rule, [file])] == []
