"""Tokens in every member of envelopes, entities and messages: none is written or said in clear."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from privacy_ledger.adapters.formats.json_lines import LINE_BYTES_MAX
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import COURSE, PURPOSE, RECENT, Cli, adds_up, parts_of
from tests.unit.bus import GRADED, LOGGED_IN, RECORDS, TRACKED, framed, headers, message, schema_of

Members = dict[str, Any]
Plant = Callable[[], str]

AT: Final = RECENT.isoformat()
LMS: Final = "https://lms.example.com"
CONTEXT: Final = "http://purl.imsglobal.org/ctx/caliper/v1p2"


def filled(value: object, token: Plant) -> Any:  # noqa: ANN401 - a record of any shape
    """Return a record with a token behind every word of it, and a member that no schema has."""
    if isinstance(value, dict):
        return {name: filled(inner, token) for name, inner in value.items()} | {token(): token()}
    if isinstance(value, list):
        return [filled(inner, token) for inner in value]
    return f"{value}{token()}" if isinstance(value, str) and ":" not in value else value


def entity(token: Plant, kind: str, **more: object) -> Members:
    """Return an entity with a token in every member that the vocabulary has for all."""
    return {
        "id": f"{LMS}/{kind.lower()}/{token()}?{token()}={token()}#{token()}",
        "type": kind,
        "name": token(),
        "description": token(),
        "extensions": {token(): token()},
        "dateCreated": token(),
        "otherIdentifiers": [{"type": "SystemIdentifier", "identifier": token()}],
        **more,
    }


def of_caliper(token: Plant) -> Iterator[Members]:
    """Yield events of every kind that has a builder, and of others, of people and of nobody."""
    kinds = (
        ("SessionEvent", "LoggedIn"),
        ("NavigationEvent", "NavigatedTo"),
        ("MediaEvent", "Started"),
        ("AssessmentItemEvent", "Completed"),
        ("GradeEvent", "Graded"),
        ("MessageEvent", "Posted"),
        ("AnnotationEvent", "Tagged"),
        ("OwnEvent", "Used"),
    )
    for number, (kind, action) in enumerate((*kinds, *kinds)):
        is_nobodys = number >= len(kinds)
        person = entity(token, "Person", firstName=token(), lastName=token(), email=f"{token()}@example.com")
        actor = {**person, "id": f"_:{token()}"} if is_nobodys else person
        client = entity(
            token, "SoftwareApplication", userAgent=f"Mozilla/5.0 {token()}", ipAddress=token(), host=token()
        )
        attempt = entity(token, "Attempt", assignee=actor, assignable=entity(token, "Assessment"), count=1)
        thing = {
            "MediaEvent": entity(token, "VideoObject"),
            "GradeEvent": attempt,
            "MessageEvent": entity(token, "Message", body=token(), creators=[actor]),
        }.get(kind, entity(token, "AssessmentItem"))
        yield {
            "@context": CONTEXT,
            "id": f"urn:uuid:00000000-0000-4000-8000-{number:012}",
            "type": kind,
            "action": action,
            "actor": actor,
            "object": thing,
            "eventTime": AT,
            "edApp": entity(token, "SoftwareApplication"),
            "generated": entity(
                token,
                "Score" if kind == "GradeEvent" else "FillinBlankResponse",
                scoreGiven=1,
                maxScore=2,
                comment=token(),
                attempt=attempt,
                values=[token()],
                tags=[token()],
            ),
            "session": entity(token, "Session", client=client),
            "referrer": entity(token, "WebPage"),
            "group": entity(token, "CourseSection", id=f"{LMS}/course/{COURSE}", courseNumber=token()),
            "extensions": {token(): token()},
            "profile": token(),
            token(): token(),
        }


def of_bus(token: Plant) -> Iterator[Members]:
    """Yield a message of every type, as JSON and as Avro, of a person and of nobody."""
    for type_ in sorted(RECORDS):
        more = {
            "ce_id": token(),
            "ce_source": f"/{token()}",
            "ce_subject": token(),
            "ce_time": AT,
            "sourcehost": token(),
            token(): token(),
        }
        said = headers(type_, **more)
        outside = {"key": token(), "topic": token(), token(): token()}
        yield {"headers": said, "record": filled(RECORDS[type_], token), **outside}
        yield {**message(type_), "headers": {**said, "ce_id": token()}, **outside}
    schema = schema_of(LOGGED_IN)
    pii = {"username": token(), "email": f"{token()}@example.com", "name": token()}
    record = {"user": {"id": 77, "is_active": True, "pii": pii}}
    yield message(
        LOGGED_IN,
        record,
        headers=headers(LOGGED_IN, ce_time=AT, ce_id=token()),
        schema={**schema, "doc": token(), "aliases": [token()]},
    )
    yield {
        "headers": headers(LOGGED_IN, ce_id=token()),
        "value": framed(RECORDS[LOGGED_IN], schema).hex(),
        token(): token(),
    }
    context: Members = {
        "user_id": 7,
        "course_id": COURSE,
        "username": token(),
        "ip": token(),
        "agent": token(),
        "session": token(),
        "path": f"/courses/{token()}",
        "referer": f"https://{token()}.example.com/{token()}",
        token(): token(),
    }
    log = {
        "name": "edx.course.enrollment.activated",
        "timestamp": AT,
        "context": json.dumps(context),
        "data": json.dumps({"user_id": 7, "mode": "audit", token(): token()}),
    }
    yield message(TRACKED, {"tracking_log": log}, headers=headers(TRACKED, ce_time=AT, ce_id=token()))
    yield {
        "headers": headers(TRACKED, ce_time=AT, ce_id=token()),
        "record": {"tracking_log": {**log, "context": context, token(): token()}},
    }
    nobody = {
        "grade": {
            "user_id": None,
            "course": {"course_key": COURSE, "display_name": token()},
            "percent_grade": 0.5,
        }
    }
    graded = headers(GRADED, ce_time=AT, ce_id=token())
    yield {"headers": graded, "record": nobody}


def of_cloudevents(token: Plant) -> Iterator[Members]:
    """Yield events with data of each kind, with every attribute, and some that are refused for each."""
    data: list[tuple[str, object]] = [("privacy-ledger.caliper", event) for event in of_caliper(token)]
    data += [(said["headers"]["ce_type"], said["record"]) for said in of_bus(token) if "record" in said]
    data += [
        (f"privacy-ledger.{token()}", token()),
        (token(), {token(): token()}),
        ("privacy-ledger.xapi", None),
    ]
    for type_, said in data:
        whole = {
            "specversion": "1.0",
            "id": token(),
            "source": f"/{token()}",
            "type": type_,
            "data": said,
            "time": AT,
            "subject": token(),
            "dataschema": f"https://example.com/{token()}",
            token().lower(): token(),
        }
        yield whole
        yield {**whole, "id": token(), "dataclassification": token()}
        yield {**whole, "id": token(), token(): token()}


PATHS: Final = {"accepted", "malformed", "refused", "unattributed"}
FORMATS: Final = {"caliper": of_caliper, "cloudevents": of_cloudevents, "openedx-bus": of_bus}


@pytest.mark.parametrize("name", FORMATS)
def test_no_member_of_an_event_is_written_or_said_in_clear(name: str, used: Cli) -> None:
    """Of people and of nobody; taken, refused, malformed and too long; and no type is left out."""
    tokens: dict[str, bytes] = {}

    def token() -> str:
        """Return a token that no other member has."""
        found = f"quill{len(tokens):05d}zq{name.replace('-', '')}"
        tokens[found] = found.encode()
        return found

    lines = [json.dumps(members).encode() for members in FORMATS[name](token)]
    lines += [lines[0][:-1], json.dumps({token(): token() * (LINE_BYTES_MAX // 8)}).encode()]
    report = used.folder / "report.ndjson"
    words = ("ingest", "-", "--format", name, "--default-consent", PURPOSE, "--report", report)
    done = used.run(*words, stdin=b"\n".join(lines))

    assert adds_up(done.document)
    assert done.document["read"] == len(lines)
    assert set(parts_of(done.document)) == PATHS
    (used.folder / "said").write_text(done.out + done.err)
    assert Scanner(tokens).scan([used.folder]) == []
