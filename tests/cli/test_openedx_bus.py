"""Messages of the event bus through the command: once, each person apart, and nothing of a key or a name."""

import json
from typing import Final

from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import COURSE, PURPOSE, RECENT, Cli, adds_up, parts_of, rows_of
from tests.unit.bus import (
    ATTEMPTED,
    CATALOG,
    CERTIFIED,
    ENROLLED,
    GRADED,
    LOGGED_IN,
    POSTED,
    RECORDS,
    REGISTERED,
    SOURCE,
    TRACKED,
    UNENROLLED,
    Members,
    headers,
    message,
    user,
)

MARK: Final = "marker-qzx5"
TAKEN: Final = (REGISTERED, LOGGED_IN, ENROLLED, GRADED, POSTED, ATTEMPTED, CERTIFIED, UNENROLLED)


def sent(type_: str, *, number: int, **more: object) -> Members:
    """Return a message of yesterday, with a key that names somebody."""
    record = json.loads(
        json.dumps(RECORDS[type_]).replace('"ada', f'"{MARK}-a').replace('"bob', f'"{MARK}-b')
    )
    named = headers(type_, ce_id=f"m-{number}", ce_time=RECENT.isoformat())
    return message(type_, record, headers=named, key=f"{MARK}-key", **more)


def tracked() -> Members:
    """Return an event of the tracking log as a message."""
    log = {
        "name": "edx.course.enrollment.activated", "timestamp": RECENT.isoformat(),
        "data": json.dumps({"user_id": 7, "mode": "audit"}),
        "context": json.dumps({"user_id": 7, "course_id": COURSE}),
    }  # fmt: skip
    return message(TRACKED, {"tracking_log": log}, headers=headers(TRACKED, ce_id="m-t"))


def lines(*messages: Members) -> bytes:
    """Return a file."""
    return b"\n".join(json.dumps(one).encode() for one in messages)


async def test_every_type_is_taken_once_and_no_name_is_written(cli: Cli) -> None:
    """Neither the key nor a leaf below `pii` is anywhere in clear."""
    whole = [sent(type_, number=number) for number, type_ in enumerate(TAKEN)]
    words = ("ingest", "-", "--format", "openedx-bus", "--default-consent", PURPOSE)

    first = cli.run("--log-level", "DEBUG", *words, stdin=lines(*whole, tracked(), sent(CATALOG, number=99)))
    again = cli.run(*words, stdin=lines(*whole, tracked()))
    async with cli.opened() as runtime:
        types = {dict(row.headers)["ce_type"] for row in await rows_of(runtime, LEDGER_EVENTS) if row.headers}

    assert parts_of(first.document) == {"accepted": 9, "refused": 1}
    assert first.document["reasons"] == {"unknown_event": 1}
    assert parts_of(again.document) == {"duplicates": 9}
    assert adds_up(first.document)
    assert types >= {
        b"account.registered.v1", b"account.logged_in.v1", b"course.enrolled.v1", b"course.graded.v1",
        b"course.post_created.v1", b"course.quiz_answered.v1", b"certificate.issued.v1",
        b"course.unenrolled.v1", b"usage.other.v1",
    }  # fmt: skip
    scanner = Scanner({"mark": MARK.encode()})
    assert scanner.find((first.out + first.err).encode()) == []
    assert scanner.scan([cli.folder]) == []


def test_a_record_in_a_cloudevent_is_the_same_event(cli: Cli) -> None:
    """When both come from one source: once by source and id, whatever the form."""
    record = {"enrollment": {**RECORDS[ENROLLED]["enrollment"], "created_by": None, "user": user(7, "ada")}}
    named = headers(ENROLLED, ce_time=RECENT.isoformat())
    event = {
        "specversion": "1.0", "id": named["ce_id"], "source": SOURCE, "type": ENROLLED,
        "time": RECENT.isoformat(), "data": record,
    }  # fmt: skip
    avro = cli.run(
        "ingest", "-", "--format", "openedx-bus", "--source", "lms",
        stdin=lines(message(ENROLLED, record, headers=named)),
    )  # fmt: skip
    again = cli.run("ingest", "-", "--format", "cloudevents", "--source", "lms", stdin=lines(event))
    assert (parts_of(avro.document), avro.document["records"]) == ({"accepted": 1}, 1)
    assert parts_of(again.document) == {"duplicates": 1}
