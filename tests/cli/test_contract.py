"""The command's contract: exit codes, and with `--json` one document on standard output."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import pytest

from tests.cli.cli import COURSE, NOW, PURPOSE, TRACEBACK, Cli, Result, enrolled, new_cli, played, subject
from tests.cli.forks import Forks

TOLD: Final = (NOW - timedelta(minutes=1)).isoformat()
UNTIL: Final = (NOW - timedelta(days=4)).replace(hour=0, minute=0, second=0).isoformat()
ONE, TWO, NOBODY = subject(1), subject(2), subject(404)

HELD: Final = ("--category", "usage", "--ground", "legal_claims")

WALK: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "version": (0, ("version",)),
    "init": (0, ("init",)),
    "catalogue add": (0, ("catalogue", "add", COURSE)),
    "ingest": (0, ("ingest", "-", "--format", "openedx")),
    "ingest of nothing": (0, ("ingest", "/dev/null", "--format", "openedx")),
    "ingest of no file": (2, ("ingest", "no-such.log", "--format", "openedx")),
    "consent grant": (0, ("consent", "grant", ONE, PURPOSE)),
    "consent grant, unknown purpose": (4, ("consent", "grant", ONE, "mind.read")),
    "consent grant, forbidden purpose": (4, ("consent", "grant", ONE, "sale")),
    "consent show": (0, ("consent", "show", ONE)),
    "consent show of one purpose": (0, ("consent", "show", ONE, PURPOSE)),
    "consent withdraw": (0, ("consent", "withdraw", ONE, PURPOSE)),
    "subject show": (0, ("subject", "show", ONE)),
    "subject show, revealed": (0, ("subject", "show", ONE, "--reveal", "--reason", "a ticket")),
    "subject show, revealed without reason": (2, ("subject", "show", ONE, "--reveal")),
    "restrict": (0, ("restrict", ONE, "--ground", "accuracy")),
    "unrestrict without telling": (4, ("unrestrict", ONE)),
    "unrestrict, told in future": (4, ("unrestrict", ONE, "--notified-at", "2999-01-01T00:00:00Z")),
    "unrestrict, told at no time": (2, ("unrestrict", ONE, "--notified-at", "yesterday")),
    "unrestrict, told at a naive time": (2, ("unrestrict", ONE, "--notified-at", "2026-01-01T00:00:00")),
    "unrestrict": (0, ("unrestrict", ONE, "--notified-at", TOLD)),
    "export": (0, ("export", ONE, "-o", "export")),
    "export to a folder in use": (1, ("export", ONE, "-o", "export")),
    "analytics list": (0, ("analytics", "list")),
    "analytics show": (0, ("analytics", "show")),
    "analytics show of none": (2, ("analytics", "show", "nobody")),
    "analytics seal": (0, ("analytics", "seal", "--until", UNTIL)),
    "analytics seal, still open": (4, ("analytics", "seal", "--until", NOW.isoformat())),
    "analytics seal at a naive time": (2, ("analytics", "seal", "--until", "2026-01-01")),
    "analytics seal since no day": (2, ("analytics", "seal", "--until", UNTIL, "--since", "once")),
    "replay verify": (0, ("replay", "verify")),
    "replay verify of one": (0, ("replay", "verify", "core")),
    "replay verify of none": (2, ("replay", "verify", "nobody")),
    "replay switch of none": (4, ("replay", "switch", "progress", "--yes")),
    "replay diff of none": (4, ("replay", "diff", "progress")),
    "replay cancel of none": (4, ("replay", "cancel", "progress", "--yes")),
    "replay rollback of none": (4, ("replay", "rollback", "progress", "--yes")),
    "replay build of nobody": (2, ("replay", "build", "nobody")),
    "replay build of what has no versions": (2, ("replay", "build", "permissions")),
    "replay build at no rate": (2, ("replay", "build", "progress", "--rate", "0")),
    "replay build": (0, ("replay", "build", "progress", "--rate", "100000")),
    "replay build again": (0, ("replay", "build", "progress")),
    "replay status": (0, ("replay", "status")),
    "replay status of one": (0, ("replay", "status", "progress")),
    "replay status of none": (2, ("replay", "status", "nobody")),
    "replay diff": (0, ("replay", "diff", "progress", "--refs")),
    "replay switch, planned": (3, ("replay", "switch", "progress")),
    "replay switch": (0, ("replay", "switch", "progress", "--yes")),
    "replay drop of what speaks": (4, ("replay", "drop", "progress", "--version", "2", "--yes")),
    "replay drop of no number": (2, ("replay", "drop", "progress")),
    "replay rollback, planned": (3, ("replay", "rollback", "progress")),
    "replay rollback": (0, ("replay", "rollback", "progress", "--yes")),
    "replay cancel, planned": (3, ("replay", "cancel", "progress")),
    "replay cancel": (0, ("replay", "cancel", "progress", "--yes")),
    "replay drop of what is gone": (4, ("replay", "drop", "progress", "--version", "2", "--yes")),
    "doctor": (0, ("doctor",)),
    "projections list": (0, ("projections", "list")),
    "projections lag": (0, ("projections", "lag")),
    "projections lag of one": (0, ("projections", "lag", "progress", "--fail-above", "0")),
    "projections lag of a pass": (0, ("projections", "lag", "analytics")),
    "projections lag of none": (2, ("projections", "lag", "grace-hopper")),
    "projections lag, watched as one document": (2, ("projections", "lag", "--watch")),
    "projections lag above no number": (2, ("projections", "lag", "--fail-above", "-1")),
    "topics plan without a cluster": (1, ("topics", "plan")),
    "topics apply without a cluster": (1, ("topics", "apply")),
    "worker run of none": (2, ("worker", "run", "nobody")),
    "no wait": (0, ("--no-wait", "consent", "grant", TWO, PURPOSE)),
    "projections lag, behind": (5, ("projections", "lag", "--fail-above", "0")),
    "projections lag, not so far behind": (0, ("projections", "lag", "--fail-above", "100")),
    "consent show, unknown": (4, ("consent", "show", NOBODY)),
    "consent grant, unknown": (4, ("consent", "grant", NOBODY, PURPOSE)),
    "consent withdraw, unknown": (4, ("consent", "withdraw", NOBODY, PURPOSE)),
    "restrict, unknown": (4, ("restrict", NOBODY, "--ground", "claims")),
    "unrestrict, unknown": (4, ("unrestrict", NOBODY, "--notified-at", TOLD)),
    "hold place, unknown": (4, ("hold", "place", NOBODY, *HELD)),
    "hold lift, unknown": (4, ("hold", "lift", NOBODY, "0" * 32)),
    "hold list, unknown": (4, ("hold", "list", NOBODY)),
    "hold place": (0, ("hold", "place", TWO, *HELD)),
    "hold place until no time": (2, ("hold", "place", TWO, *HELD, "--until", "tomorrow")),
    "hold place until a time that has passed": (
        2, ("hold", "place", TWO, *HELD, "--until", "2020-01-01T00:00:00Z"),
    ),
    "hold place of no category": (2, ("hold", "place", TWO, "--category", "all", "--ground", "legal_claims")),
    "hold list": (0, ("hold", "list", TWO)),
    "hold lift of none": (4, ("hold", "lift", TWO, "0" * 32)),
    "erase, unknown": (4, ("erase", NOBODY, "--yes")),
    "export, unknown": (4, ("export", NOBODY, "-o", "nobody")),
    "subject return, unknown": (4, ("subject", "return", NOBODY)),
    "subject show, unknown": (1, ("subject", "show", NOBODY)),
    "subject show, of no form": (2, ("subject", "show", "ada")),
    "subject show, not a number": (2, ("subject", "show", "openedx:user_id:ada")),
    "subject show, no text": (2, ("subject", "show", "openedx:username:\udcff")),
    "subject return, not erased": (4, ("subject", "return", ONE)),
    "erase without a terminal": (3, ("erase", ONE)),
    "erase, planned": (3, ("erase", ONE, "--plan")),
    "erase": (0, ("erase", ONE, "--yes")),
    "erase again": (0, ("erase", ONE, "--yes")),
    "subject show, erased": (0, ("subject", "show", ONE)),
    "subject show, erased and revealed": (
        4, ("subject", "show", ONE, "--reveal", "--reason", "a ticket"),
    ),
    "consent grant, erased": (4, ("consent", "grant", ONE, PURPOSE)),
    "restrict, erased": (4, ("restrict", ONE, "--ground", "claims")),
    "export, erased": (4, ("export", ONE, "-o", "erased")),
    "subject return": (0, ("subject", "return", ONE)),
    "a value that is no choice": (2, ("restrict", ONE, "--ground", "grace-hopper")),
    "an argument too many": (2, ("consent", "show", ONE, PURPOSE, "grace-hopper")),
    "an option that is none": (2, ("consent", "show", ONE, "--grace-hopper")),
    "an argument too few": (2, ("consent", "show")),
    "a command that is none": (2, ("consent", "grace-hopper")),
    "init of a trial clock on real time": (2, ("init", "--trial-clock", "2030-01-01T00:00:00Z")),
    "a trial clock on a cluster": (
        2, ("--kafka", "127.0.0.1:1", "init", "--trial-clock", "2030-01-01T00:00:00Z"),
    ),
    "a trial clock without a zone": (2, ("init", "--trial-clock", "2030-01-01T00:00:00")),
}  # fmt: skip
LINES: Final = [enrolled(1), enrolled(2), *(played(1, number=n) for n in range(3))]


@dataclass(frozen=True)
class Walk:
    """Every command once, in order, on one home."""

    cli: Cli
    results: dict[str, Result]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Walk:
    """Return what every command said."""
    cli = new_cli(tmp_path_factory.mktemp("walk") / "cli", forks)
    stdin = b"\n".join(LINES)
    return Walk(cli, {name: cli.run(*words, stdin=stdin) for name, (_, words) in WALK.items()})


@pytest.mark.parametrize("name", WALK)
def test_a_command_ends_with_its_exit_code_and_one_document(walk: Walk, name: str) -> None:
    """Nothing but the document on standard output; talk, without a traceback, on standard error."""
    result = walk.results[name]
    assert (result.code, TRACEBACK in result.err) == (WALK[name][0], False)
    assert isinstance(result.document, dict)


ERRORS: Final = [name for name, (code, _) in WALK.items() if code in {1, 2, 4}]


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_in_json_what_it_says_to_people(walk: Walk, name: str) -> None:
    """The same sentence, its reason code where there is one, and the exit code."""
    result = walk.results[name]
    if name == "subject show, unknown":
        assert result.document == {"status": "unknown"}
        return
    assert result.document["exit"] == result.code
    assert " ".join(result.document["error"].split()) in " ".join(result.err.split())


def _says(name: str, **members: object) -> Callable[[Walk], bool]:
    def holds(walk: Walk) -> bool:
        document = walk.results[name].document
        return {key: document[key] for key in members} == members

    return holds


@pytest.mark.parametrize(
    "holds",
    [
        _says("ingest", read=5, accepted=5),
        _says("ingest of nothing", read=0, accepted=0),
        _says("consent show of one purpose", status="active"),
        _says("consent grant, unknown purpose", reason="unknown_purpose"),
        _says("consent grant, forbidden purpose", reason="unknown_purpose"),
        _says("unrestrict without telling", reason="not_notified"),
        _says("analytics seal, still open", reason="window_open"),
        _says("consent grant, unknown", reason="subject_unknown"),
        _says("consent grant, erased", reason="subject_erased"),
        _says("subject return, not erased", reason="not_erased"),
        _says("erase without a terminal", references=1),
        _says("erase", completed=True, open=[]),
        _says("subject show, erased", status="erased"),
        _says("subject return", reopened=True),
        _says("doctor", findings=[]),
        _says("projections lag", behind=0, seconds=0.0),
        _says("projections lag, behind", behind=1),
        _says("replay verify", equal=True),
        _says("replay switch of none", reason="version_unknown"),
        _says("replay build", projection="progress", version=2, behind=0),
        _says("replay build again", version=2, behind=0),
        _says("replay switch", version=2, switched=True),
        _says("replay drop of what speaks", reason="version_speaks"),
        _says("replay rollback", version=1, switched=True),
        _says("replay cancel", version=2, removed=True),
    ],
)
def test_a_document_says_what_was_done(walk: Walk, holds: Callable[[Walk], bool]) -> None:
    """The members that scripts rely on."""
    assert holds(walk)


def test_an_erasure_asked_for_twice_gives_the_same_receipt(walk: Walk) -> None:
    """And writes no second one."""
    assert walk.results["erase again"].document == walk.results["erase"].document


def test_a_plan_changes_nothing_and_counts_by_category(walk: Walk) -> None:
    """With and without `--plan`."""
    asked, planned = (walk.results[name].document for name in ("erase without a terminal", "erase, planned"))
    assert asked == planned
    assert (planned["records"]["coursework"], planned["records"]["patterns"]) == (1, 3)


def test_a_usage_error_does_not_repeat_what_was_typed(walk: Walk) -> None:
    """It may be a person's name."""
    said = [result.out + result.err for result in walk.results.values()]
    assert [text for text in said if "grace-hopper" in text] == []


def test_a_jump_of_the_clock_is_confirmed_by_an_operator(cli: Cli) -> None:
    """Until then the doctor names the command, and nothing falls due."""
    cli.run("init", "--trial-clock", "2020-03-01T12:00:00+00:00")
    cli.ingest([enrolled(1, at="2020-02-28T12:00:00+00:00")])
    cli.run("init", "--trial-clock", "2024-03-01T12:00:00+00:00")
    waiting = cli.run("doctor")
    kept = cli.run("subject", "show", ONE)
    accepted = cli.run("doctor", "--accept-time")
    planned = cli.run("retention", "run", "--plan")
    destroyed = cli.run("retention", "run")
    well = cli.run("doctor")
    after = cli.run("subject", "show", ONE)
    assert (waiting.code, waiting.document["findings"][0]["mend"]) == (1, "doctor --accept-time")
    assert kept.document["references"][0]["counts"] == {"course.enrolled.v1": 1}
    assert (accepted.code, accepted.document["findings"][0]["mend"]) == (1, "retention run")
    assert (planned.code, planned.document) == (3, {"keys": 1, "kept": {}})
    assert (destroyed.code, destroyed.document) == (0, {"keys": 1, "kept": {}})
    assert (well.code, well.document) == (0, {"findings": []})
    assert after.document["references"][0]["counts"] == {}
    assert cli.run("replay", "verify").document["equal"]


def test_a_terminal_is_not_needed_to_be_understood(used: Cli) -> None:
    """Without `--json` the same words are for people, and an error leaves standard output empty."""
    shown = used.run("subject", "show", ONE, as_json=False)
    refused = used.run("consent", "grant", NOBODY, PURPOSE, as_json=False)
    assert (shown.code, '"status": "active"' in shown.out, shown.err) == (0, True, "")
    assert (refused.code, refused.out, refused.says("Nothing is known")) == (4, "", True)


def test_a_trial_clock_moves_forward_only(cli: Cli) -> None:
    """A home starts at its time, runs at real pace, and never goes back."""
    first = cli.run("init", "--trial-clock", "2020-03-01T12:00:00+00:00")
    back = cli.run("init", "--trial-clock", "2020-02-01T12:00:00+00:00")
    forward = cli.run("init", "--trial-clock", "2020-03-05T12:00:00+00:00")
    again = cli.run("doctor")
    taken = cli.ingest([enrolled(1, at="2020-03-04T12:00:00+00:00")])
    assert [one.code for one in (first, back, forward, again, taken)] == [0, 2, 0, 0, 0]
    assert back.says("forward only")
    assert again.err.startswith("Trial clock: this home believes that it is 2020-03-05T12:00")


def test_an_own_receipt_is_written_for_the_person_alone(used: Cli) -> None:
    """Into a folder that only its owner reads; its hash is the leaf."""
    result = used.run("erase", ONE, "--yes", "-o", used.folder / "receipts")
    (file,) = (used.folder / "receipts").iterdir()
    assert (result.code, file.stat().st_mode & 0o077) == (0, 0)
    assert json.loads(file.read_bytes())["receipt"] == result.document["receipts"][0]
