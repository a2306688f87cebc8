"""Caliper events through the command: every shape, copies, several people, and what is left of them."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import COURSE, PURPOSE, RECENT, Cli, adds_up, parts_of, rows_of

Members = dict[str, Any]

MARK: Final = "marker-qzx6"
LMS: Final = "https://lms.example.com"
CONTEXT: Final = "http://purl.imsglobal.org/ctx/caliper/v1p2"


def person(who: int) -> Members:
    """Return a person by IRI."""
    return {"id": f"{LMS}/people/{MARK}-{who}", "type": "Person", "name": f"{MARK} {who}"}


def event(
    who: int, *, number: int, kind: str = "SessionEvent", action: str = "LoggedIn", **more: object
) -> Members:
    """Return an event of somebody's: logging in needs no consent."""
    return {
        "@context": CONTEXT, "id": f"urn:uuid:00000000-0000-4000-8000-{who:06}{number:06}", "type": kind,
        "actor": person(who), "action": action, "object": {"id": LMS, "type": "SoftwareApplication"},
        "eventTime": RECENT.isoformat(), "group": {"id": f"{LMS}/course/{COURSE}", "type": "CourseOffering"},
        **more,
    }  # fmt: skip


def graded(by: int, student: int, *, number: int) -> Members:
    """Return the event of a grade."""
    attempt = {
        "id": f"{LMS}/attempts/{number}", "type": "Attempt", "assignee": person(student),
        "assignable": {"id": f"{LMS}/quizzes/1", "type": "Assessment"},
    }  # fmt: skip
    score = {
        "id": f"{LMS}/scores/{number}",
        "type": "Score",
        "scoreGiven": 8,
        "maxScore": 10,
        "comment": MARK,
    }
    return event(by, number=number, kind="GradeEvent", action="Graded", object=attempt, generated=score)


def envelope(*data: Members) -> Members:
    """Return an envelope."""
    return {"sensor": f"{LMS}/sensor", "sendTime": RECENT.isoformat(), "dataVersion": CONTEXT, "data": data}


ONES: Final = [event(1, number=1), event(2, number=2), event(1, number=3)]
SHAPES: Final[dict[str, str]] = {
    "one a line": "\n".join(map(json.dumps, ONES)),
    "an array": json.dumps(ONES),
    "an envelope": json.dumps(envelope(*ONES)),
    "a printed envelope": json.dumps(envelope(*ONES), indent=2),
    "an envelope and a single one": f"{json.dumps(envelope(*ONES[:2]))}\n{json.dumps(ONES[2])}\n",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_of_any_shape_is_taken_once(cli: Cli, tmp_path: Path, shape: str) -> None:
    """Each event counts; in a second run each is a copy."""
    file = tmp_path / "events.json"
    file.write_text(SHAPES[shape], encoding="utf-8")

    first = cli.run("ingest", file, "--format", "caliper")
    again = cli.run("ingest", file, "--format", "caliper")

    assert (first.code, again.code) == (0, 0)
    assert parts_of(first.document) == {"accepted": 3}
    assert parts_of(again.document) == {"duplicates": 3}
    assert adds_up(first.document)


def test_one_bad_event_stops_none_beside_it(cli: Cli, tmp_path: Path) -> None:
    """In one envelope each has its outcome, with the number of their line."""
    bad = [
        {**person(4), "@context": CONTEXT},
        event(5, number=1, kind="OwnEvent"),
        event(6, number=1, eventTime="now"),
    ]
    report = tmp_path / "report.ndjson"

    done = cli.run(
        "ingest", "-", "--format", "caliper", "--report", report,
        stdin=json.dumps(envelope(ONES[0], *bad, ONES[1])).encode(),
    )  # fmt: skip

    assert (done.code, done.document["accepted"]) == (5, 2)
    assert done.document["reasons"] == {"schema_mismatch": 1, "unknown_event": 1, "time_invalid": 1}
    assert [json.loads(row)["line"] for row in report.read_text(encoding="utf-8").splitlines()] == [1] * 5


def test_an_erased_student_stays_away_and_the_grader_stays(cli: Cli) -> None:
    """Each has records of their own; the erased one is refused, by any spelling of the IRI."""
    words = ("ingest", "-", "--format", "caliper", "--default-consent", PURPOSE)
    taken = cli.run(*words, stdin=json.dumps(graded(1, 2, number=1)).encode())
    student = f"caliper:person:HTTPS://LMS.example.com/people/{MARK}-2"
    erased = cli.run("erase", student, "--yes", "--receipt", cli.folder / "receipts")
    after = cli.run(*words, stdin=json.dumps(event(2, number=2)).encode())
    shown = cli.run("subject", "show", f"caliper:person:{LMS}/people/{MARK}-1")
    wrong = cli.run("subject", "show", "caliper:user:7")

    assert (taken.document["accepted"], taken.document["records"]) == (1, 2)
    assert erased.code == 0
    assert after.document["reasons"] == {"subject_erased": 1}
    assert (shown.code, shown.document["status"]) == (0, "active")
    assert wrong.code == 2


async def test_nothing_of_a_person_is_written_in_clear(cli: Cli) -> None:
    """Neither IRI nor name, of taken and of refused events."""
    sent = [
        *ONES,
        graded(1, 2, number=4),
        event(3, number=1, eventTime=None),
        event(7, number=1, action="Sang"),
    ]
    words = ("ingest", "-", "--format", "caliper", "--default-consent", PURPOSE)
    done = cli.run("--log-level", "DEBUG", *words, stdin=b"\n".join(json.dumps(one).encode() for one in sent))

    assert parts_of(done.document) == {"accepted": 4, "refused": 2}
    async with cli.opened() as runtime:
        types = {dict(row.headers)["ce_type"] for row in await rows_of(runtime, LEDGER_EVENTS) if row.headers}
    assert types >= {b"account.logged_in.v1", b"course.quiz_answered.v1", b"usage.other.v1"}
    scanner = Scanner({"mark": MARK.encode()})
    assert scanner.find((done.out + done.err).encode()) == []
    assert scanner.scan([cli.folder]) == []


def test_an_address_alone_registers_nobody(cli: Cli) -> None:
    """As in xAPI, whose address it is, too."""
    line = json.dumps(
        {**event(1, number=1), "actor": {"id": f"mailto:{MARK}@example.com", "type": "Person"}}
    ).encode()

    refused = cli.run("ingest", "-", "--format", "caliper", stdin=line)
    taken = cli.run("ingest", "-", "--format", "caliper", "--register-addresses", stdin=line)
    shown = cli.run("subject", "show", f"xapi:mbox:{MARK}@example.com")

    assert refused.document["reasons"] == {"subject_unknown": 1}
    assert (taken.document["accepted"], shown.document["status"]) == (1, "active")
