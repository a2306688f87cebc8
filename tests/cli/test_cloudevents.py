"""CloudEvents through the command: lines and batches, copies, further types, and what is left of them."""

import json
from pathlib import Path
from typing import Any, Final

from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import COURSE, RECENT, Cli, adds_up, parts_of

MARK: Final = "marker-qzx8"
SOURCE: Final = "https://lms.example.com"


def event(number: int, *, type_: str = "privacy-ledger.openedx.log", **changes: object) -> dict[str, Any]:
    """Return an event that holds an enrolment of somebody."""
    data = {
        "event_type": "edx.course.enrollment.activated", "event_source": "server", "time": RECENT.isoformat(),
        "username": f"{MARK}-{number}", "context": {"course_id": COURSE, "user_id": number},
        "event": {"user_id": number, "mode": "audit"},
    }  # fmt: skip
    return {
        "specversion": "1.0", "id": f"e-{number}", "source": SOURCE, "type": type_, "data": data, **changes,
    }  # fmt: skip


def test_lines_and_batches_are_taken_once(cli: Cli, tmp_path: Path) -> None:
    """One event a line, a batch in a line, a batch as a file; a copy is told by source and id."""
    file = tmp_path / "batch.json"
    file.write_text(json.dumps([event(1), event(2)], indent=2), encoding="utf-8")
    lines = [
        json.dumps([event(2), event(3)]),
        json.dumps(event(1, traceparent="00-1-1")),
        json.dumps(event(4)),
    ]

    first = cli.run("ingest", file, "--format", "cloudevents")
    again = cli.run("ingest", "-", "--format", "cloudevents", stdin="\n".join(lines).encode())
    other = cli.run(
        "ingest", "-", "--format", "cloudevents", stdin=json.dumps(event(1, source="/b")).encode()
    )

    assert (first.code, parts_of(first.document)) == (0, {"accepted": 2})
    assert (again.code, parts_of(again.document)) == (0, {"accepted": 2, "duplicates": 2})
    assert parts_of(other.document) == {"accepted": 1}
    assert adds_up(again.document)


def test_each_refusal_has_its_reason_and_leaves_nothing(cli: Cli) -> None:
    """Without data, of an unknown type, an unknown classification, the same id with other content."""
    changed = event(1)
    changed["data"]["event"]["mode"] = "verified"
    sent = [
        event(1), changed, event(2, data=None), event(3, type_="com.example.seen"),
        event(4, dataclassification="unheard-of"), event(5, id="4111111111111111"), {"specversion": "1.0"},
    ]  # fmt: skip

    done = cli.run("ingest", "-", "--format", "cloudevents", stdin="\n".join(map(json.dumps, sent)).encode())

    assert done.document["reasons"] == {
        "id_reused": 1, "null_value": 2, "unknown_event": 1, "unknown_classification": 1, "card_number": 1,
    }  # fmt: skip
    assert adds_up(done.document)
    scanner = Scanner({f"name {number}": f"{MARK}-{number}".encode() for number in range(1, 6)})
    assert scanner.scan([cli.home]) == []
    assert scanner.find((done.out + done.err).encode()) == []


def test_an_operator_says_which_format_a_type_has(cli: Cli) -> None:
    """By a prefix, and a format's name or mapping; anything else is a wrong command."""
    line = json.dumps(event(1, type_="com.example.lms.seen")).encode()
    words = ("ingest", "-", "--format", "cloudevents", "--data-format")

    done = cli.run(*words, "com.example.lms=openedx", stdin=line)
    wrong = [
        cli.run(*words, "com.example.lms", stdin=line), cli.run(*words, "a=cloudevents", stdin=line),
        cli.run(*words, "a=nothing-known", stdin=line),
        cli.run(*words, "a=xapi", "--data-format", "a=canvas", stdin=line),
        cli.run("ingest", "-", "--format", "openedx", "--data-format", "a=xapi", stdin=line),
    ]  # fmt: skip

    assert parts_of(done.document) == {"accepted": 1}
    assert [one.code for one in wrong] == [2] * 5
