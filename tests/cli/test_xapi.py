"""xAPI statements through the command: files of every shape, copies, people, and what is left of them."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pytest

from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import COURSE, PURPOSE, RECENT, Cli, adds_up, parts_of, rows_of

Members = dict[str, Any]

MARK: Final = "marker-qzx7"
"""The local part of every address here; nothing that the ledger writes may hold it."""
ADL: Final = "http://adlnet.gov/expapi/verbs/"
COURSE_IRI: Final = f"https://lms.example.com/course/{COURSE}"
CONFORMANCE: Final = Path(__file__).parents[1] / "fixtures" / "xapi-conformance" / "statements.ndjson"


def agent(who: int) -> Members:
    """Return an Agent by address."""
    return {"name": f"{MARK} {who}", "mbox": f"mailto:{MARK}-{who}@example.com"}


def sum_of(who: int) -> str:
    """Return the hash by which an Agent is known, too."""
    iri = f"mailto:{MARK}-{who}@example.com"
    return hashlib.sha1(iri.encode(), usedforsecurity=False).hexdigest()


def statement(who: int, *, number: int, verb: str = "registered", **more: object) -> Members:
    """Return a statement of somebody's about the course: registering for it needs no consent."""
    return {
        "id": f"00000000-0000-4000-8000-{who:06}{number:06}", "actor": agent(who),
        "verb": {"id": f"{ADL}{verb}", "display": {"en": verb}},
        "object": {"id": COURSE_IRI, "definition": {"type": "http://adlnet.gov/expapi/activities/course"}},
        "timestamp": RECENT.isoformat(), **more,
    }  # fmt: skip


ONES: Final = [statement(1, number=1), statement(2, number=2), statement(1, number=3, verb="completed")]
SHAPES: Final[dict[str, str]] = {
    "one a line": "\n".join(map(json.dumps, ONES)),
    "an array": json.dumps(ONES),
    "a printed array": json.dumps(ONES, indent=2),
    "arrays and single ones": f"{json.dumps(ONES[:2])}\n\n{json.dumps(ONES[2])}\n",
    "a store's answer": json.dumps({"statements": ONES, "more": ""}, indent=1),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_of_any_shape_is_taken_once(cli: Cli, tmp_path: Path, shape: str) -> None:
    """Each statement counts; in a second run each is a copy."""
    file = tmp_path / "statements.json"
    file.write_text(SHAPES[shape], encoding="utf-8")

    first = cli.run("ingest", file, "--format", "xapi", "--register-addresses")
    again = cli.run("ingest", file, "--format", "xapi", "--register-addresses")

    assert (first.code, again.code) == (0, 0)
    assert parts_of(first.document) == {"accepted": 3}
    assert parts_of(again.document) == {"duplicates": 3}
    assert adds_up(first.document)
    assert adds_up(again.document)


def test_a_store_that_adds_its_own_members_sends_copies(cli: Cli) -> None:
    """A statement straight from a player and the same one out of a store are one."""
    stored = {**ONES[0], "stored": RECENT.isoformat(), "version": "1.0.0", "authority": agent(9)}
    lines = b"\n".join(json.dumps(one).encode() for one in (ONES[0], stored))

    done = cli.run("ingest", "-", "--format", "xapi", "--register-addresses", stdin=lines)

    assert parts_of(done.document) == {"accepted": 1, "duplicates": 1}


def test_one_bad_statement_stops_none_beside_it(cli: Cli, tmp_path: Path) -> None:
    """In one array each has its outcome, with the number of their line."""
    bad = [{"actor": agent(1)}, statement(3, number=1, timestamp="2026-01-01T00:00:00-00:00"), 7]
    report = tmp_path / "report.ndjson"
    line = json.dumps([ONES[0], *bad, statement(4, number=1, verb="attended")]).encode()

    done = cli.run("ingest", "-", "--format", "xapi", "--register-addresses", "--report", report, stdin=line)

    assert done.code == 5
    assert parts_of(done.document) == {"accepted": 1, "refused": 2, "malformed": 2}
    assert done.document["reasons"] == {
        "schema_mismatch": 1, "time_invalid": 1, "not_an_object": 1, "consent_missing": 1,
    }  # fmt: skip
    told = [json.loads(row) for row in report.read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in told] == [1] * 5


def test_the_conformance_suite_has_the_outcomes_it_asks_for(cli: Cli) -> None:
    """All thirty are accepted with a consent, without times of their own; none of the other thirty."""
    rows = [json.loads(row) for row in CONFORMANCE.read_text(encoding="utf-8").splitlines()]
    outcomes = {}
    for is_valid in (True, False):
        lines = [json.dumps(row["statement"]) for row in rows if row["is_valid"] is is_valid]
        words = (
            "ingest", "-", "--format", "xapi", "--register-addresses", "--take-untimed", "--default-consent",
            PURPOSE,
        )  # fmt: skip
        outcomes[is_valid] = parts_of(cli.run(*words, stdin="\n".join(lines).encode()).document)

    assert outcomes == {True: {"accepted": 30}, False: {"malformed": 29, "refused": 1}}


def test_a_group_whose_members_are_not_named_waits_for_nobody(cli: Cli) -> None:
    """Its statement is kept apart, and counted."""
    line = json.dumps(statement(1, number=1) | {"actor": {"objectType": "Group", "member": []}}).encode()

    done = cli.run("ingest", "-", "--format", "xapi", "--register-addresses", stdin=line)

    assert (done.code, parts_of(done.document)) == (0, {"unattributed": 1})


def test_an_unknown_verb_is_kept_or_refused_as_configured(cli: Cli) -> None:
    """And no other format has verbs."""
    line = json.dumps(statement(1, number=1) | {"verb": {"id": "http://example.com/verbs/sang"}}).encode()
    words = (
        "ingest",
        "-",
        "--format",
        "xapi",
        "--register-addresses",
        "--default-consent",
        PURPOSE,
        "--unknown-verbs",
    )

    refused = cli.run(*words, "refuse", stdin=line)
    kept = cli.run(*words, "keep", stdin=line)
    wrong = cli.run("ingest", "-", "--format", "openedx", "--unknown-verbs", "keep")

    assert (refused.code, refused.document["reasons"]) == (4, {"unknown_event": 1})
    assert (kept.code, parts_of(kept.document)) == (0, {"accepted": 1})
    assert wrong.code == 2


def test_an_erased_person_stays_away_under_address_and_hash(cli: Cli) -> None:
    """Erased by address, refused by hash; the other person of their statements stays."""
    joint = statement(1, number=4, verb="completed", context={"instructor": agent(2)})
    by_hash = statement(1, number=5) | {"actor": {"mbox_sha1sum": sum_of(1)}}
    lines = b"\n".join(json.dumps(one).encode() for one in (*ONES, joint))
    assert (
        cli.run(
            "ingest",
            "-",
            "--format",
            "xapi",
            "--register-addresses",
            "--default-consent",
            PURPOSE,
            stdin=lines,
        ).code
        == 0
    )

    receipts = cli.folder / "receipts"
    erased = cli.run("erase", f"xapi:mbox:{MARK}-1@example.com", "--yes", "--receipt", receipts)
    after = cli.run(
        "ingest", "-", "--format", "xapi", "--register-addresses", stdin=json.dumps([by_hash, joint]).encode()
    )
    shown = cli.run("subject", "show", f"xapi:mbox_sha1sum:{sum_of(2)}")

    assert erased.code == 0
    assert (after.code, after.document["reasons"]) == (4, {"subject_erased": 2})
    assert (shown.code, shown.document["status"]) == (0, "active")


async def test_nothing_of_an_address_is_written_in_clear(cli: Cli) -> None:
    """Nor its hash, nor what the person answered: not in the home, the keys, or what is printed."""
    voided = statement(2, number=9, verb="voided") | {
        "object": {"objectType": "StatementRef", "id": ONES[0]["id"]}
    }
    answered = statement(2, number=8, verb="answered") | {
        "object": {"id": f"{COURSE_IRI}/q1"},
        "result": {"response": MARK, "extensions": {f"https://lms.example.com/{MARK}": MARK}},
    }
    lines = b"\n".join(json.dumps(one).encode() for one in (*ONES, voided, answered, {"actor": agent(3)}))
    words = ("ingest", "-", "--format", "xapi", "--register-addresses", "--default-consent", PURPOSE)
    done = cli.run("--log-level", "DEBUG", *words, stdin=lines)

    assert done.code == 5
    assert parts_of(done.document) == {"accepted": 5, "malformed": 1}
    async with cli.opened() as runtime:
        types = {dict(row.headers)["ce_type"] for row in await rows_of(runtime, LEDGER_EVENTS) if row.headers}
    assert types >= {b"course.enrolled.v1", b"course.quiz_answered.v1", b"usage.other.v1"}
    scanner = Scanner({value: value.encode() for value in (MARK, sum_of(1), sum_of(2), sum_of(3))})
    assert scanner.find((done.out + done.err).encode()) == []
    assert scanner.scan([cli.folder]) == []


def test_an_address_alone_registers_nobody(cli: Cli) -> None:
    """It may be that of a person who was erased by another id; who is known by it goes on."""
    words = ("ingest", "-", "--format", "xapi")
    refused = cli.run(*words, stdin=json.dumps(statement(9, number=1)).encode())
    known = cli.run(*words, "--register-addresses", stdin=json.dumps(statement(9, number=2)).encode())
    after = cli.run(*words, stdin=json.dumps(statement(9, number=3, verb="completed")).encode())
    wrong = cli.run("ingest", "-", "--format", "openedx", "--register-addresses", stdin=b"")
    assert (refused.code, refused.document["reasons"]) == (4, {"subject_unknown": 1})
    assert (known.document["accepted"], after.document["accepted"]) == (1, 1)
    assert wrong.code == 2
