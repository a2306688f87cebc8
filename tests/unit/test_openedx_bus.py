# ruff: noqa: E501 - a table reads by its rows
"""What a message of the event bus says, and of whom; where personal leaves go; and what is refused."""

import base64
import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.cloudevents import CloudEvent
from privacy_ledger.adapters.formats.json_lines import LINE_BYTES_MAX
from privacy_ledger.adapters.formats.openedx_bus import TYPES, parse, personal_in, read_event
from privacy_ledger.domain.events import (
    AccountLoggedIn,
    AccountRegistered,
    CertificateIssued,
    CourseEnrolled,
    CourseGraded,
    CoursePostCreated,
    CourseQuizAnswered,
    CourseUnenrolled,
    Fact,
    UsageOther,
)
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed
from privacy_ledger.ports.keys import Identity
from tests.unit.bus import (
    ADA,
    AT,
    ATTEMPTED,
    BLOCK,
    CATALOG,
    CERTIFIED,
    COURSE,
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
    schema_of,
    user,
)

NAUGHTY: Final[list[str]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "naughty-strings" / "blns.json").read_bytes()
)
ADA_IDS: Final = (Identity("openedx:user_id", "7"), Identity("openedx:username", "ada"))
BOB_IDS: Final = (Identity("openedx:user_id", "8"), Identity("openedx:username", "bob"))
NUMBER: Final = (Identity("openedx:user_id", "7"),)
PAN: Final = "4111111111111111"


def line(said: object) -> bytes:
    """Return a line."""
    return json.dumps(said).encode()


def plain(type_: str, record: object = None, **changes: str) -> bytes:
    """Return a line with the record as JSON."""
    return line(
        {"headers": headers(type_, **changes), "record": RECORDS[type_] if record is None else record}
    )


def parsed(sent: bytes) -> Parsed:
    """Return what a line says, which must not be refused; every fact is what its schema allows."""
    found = parse(sent)
    assert isinstance(found, Parsed), found
    facts = [fact for person in found.people for fact in person.facts] + list(found.unattributed)
    assert facts
    for fact in facts:
        assert msgspec.json.decode(msgspec.json.encode(fact), type=type(fact)) == fact
    return found


def people_of(sent: bytes) -> list[tuple[tuple[Identity, ...], Fact]]:
    """Return each person of a line, with the fact."""
    return [(person.identities, *person.facts) for person in parsed(sent).people]  # type: ignore[misc] # each has one


def changed(type_: str, **changes: object) -> Members:
    """Return a record whose inner record has some members changed; one that is `...` is left out."""
    ((name, inner),) = RECORDS[type_].items()
    return {name: {key: value for key, value in {**inner, **changes}.items() if value is not ...}}


def other(type_: str, course: str | None = COURSE) -> UsageOther:
    """Return the fact of something else."""
    return UsageOther(occurred_at=AT, course=course, action=type_)


MAPPED: Final[dict[str, list[tuple[tuple[Identity, ...], Fact]]]] = {
    ENROLLED: [(ADA_IDS, CourseEnrolled(occurred_at=AT, course=COURSE, mode="audit")), (BOB_IDS, other(ENROLLED))],
    UNENROLLED: [(ADA_IDS, CourseUnenrolled(occurred_at=AT, course=COURSE))],
    CERTIFIED: [(ADA_IDS, CertificateIssued(occurred_at=AT, course=COURSE))],
    REGISTERED: [(ADA_IDS, AccountRegistered(occurred_at=AT, username="ada", name="ada Example", email="ada@example.com"))],
    LOGGED_IN: [(ADA_IDS, AccountLoggedIn(occurred_at=AT))],
    GRADED: [(NUMBER, CourseGraded(occurred_at=AT, course=COURSE, score=0.75, letter="B"))],
    POSTED: [(ADA_IDS, CoursePostCreated(occurred_at=AT, course=COURSE, kind="thread", title="A question", body="Hello there"))],
    ATTEMPTED: [(ADA_IDS, CourseQuizAnswered(occurred_at=AT, course=COURSE, problem=BLOCK)), (BOB_IDS, other(ATTEMPTED))],
    TRACKED: [(NUMBER, CourseEnrolled(occurred_at=AT, course=COURSE, mode="audit"))],
}  # fmt: skip


@pytest.mark.parametrize("type_", sorted(MAPPED))
def test_a_record_becomes_the_fact_that_it_means(type_: str) -> None:
    """As Avro by the platform's own schema, as JSON, and as the data of a CloudEvent: the same facts."""
    event = CloudEvent(id="e-1", source=SOURCE, type=type_, time=AT, data=json.dumps(RECORDS[type_]).encode())
    from_event = read_event(event)
    assert isinstance(from_event, Parsed)
    assert people_of(line(message(type_))) == people_of(plain(type_)) == MAPPED[type_]
    assert [(person.identities, *person.facts) for person in from_event.people] == MAPPED[type_]


def test_every_type_is_tried() -> None:
    """Each that is taken."""
    assert set(MAPPED) == TYPES


def test_both_forms_are_one_event_by_source_and_id() -> None:
    """Whatever else stands in the line, and in the other headers."""
    sent = message(ENROLLED, key="ada", offset=7, topic="learning")
    moved = message(
        ENROLLED, key="bob", headers=headers(ENROLLED, sourcehost="other.example.com", ce_minorversion="1")
    )
    forms = [parsed(line(sent)), parsed(line(moved)), parsed(plain(ENROLLED))]
    assert {one.source_event_id for one in forms} == {f"{SOURCE} 5f3a0000-0000-11ee-8000-000000000001"}
    assert len({one.digest_input for one in forms}) == 1
    assert parsed(plain(ENROLLED, changed(ENROLLED, mode="verified"))).digest_input != forms[0].digest_input


def test_the_producers_key_is_never_read() -> None:
    """Not where it names somebody else, nor where it is no text."""
    for key in ("marker-of-a-key", 7, None, {"username": "bob"}):
        found = parsed(line(message(LOGGED_IN, key=key)))
        assert [person.identities for person in found.people] == [ADA_IDS]
        assert b"marker" not in found.digest_input


# Personal leaves -------------------------------------------------------------------------


def marked(record: object, *, is_personal: bool = False) -> Any:  # noqa: ANN401 - a record of any shape
    """Return a record in which every text below `pii` is a mark, with a leaf that no schema has."""
    if isinstance(record, dict):
        found = {
            name: marked(value, is_personal=is_personal or name == "pii") for name, value in record.items()
        }
        return found | ({"nickname": "marker-new", "deep": {"er": ["marker-deep"]}} if is_personal else {})
    return f"marker-{record}" if is_personal and isinstance(record, str) else record


@pytest.mark.parametrize("type_", sorted(MAPPED))
def test_a_leaf_below_pii_is_an_identity_or_a_labelled_field_of_an_account(type_: str) -> None:
    """And stands in no other fact; also one that a later schema adds."""
    found = parsed(plain(type_, marked(RECORDS[type_])))
    facts = [fact for person in found.people for fact in person.facts]
    told = b"".join(msgspec.json.encode(fact) for fact in facts if not isinstance(fact, AccountRegistered))
    accounts = b"".join(msgspec.json.encode(fact) for fact in facts if isinstance(fact, AccountRegistered))
    assert b"marker" not in told
    assert b"marker-new" not in accounts
    assert b"marker-deep" not in accounts
    named = [identity.value for person in found.people for identity in person.identities]
    assert all(value in {"7", "8", "marker-ada", "marker-bob"} for value in named)


def test_personal_leaves_are_found_at_any_depth() -> None:
    """Of users within users, too; a number is one."""
    record = {"a": [{"pii": {"x": 1, "y": {"z": ["t"]}, "n": None}}], "pii": "s", "b": "not"}
    assert sorted(map(str, personal_in(record))) == ["1", "s", "t"]


def test_a_name_within_the_key_of_an_exam_is_struck() -> None:
    """Where the key is an address and not a component's."""
    record = changed(ATTEMPTED, usage_key="https://lms.example.com/exams/ada/1")
    ((_, fact), _) = people_of(plain(ATTEMPTED, record))
    assert isinstance(fact, CourseQuizAnswered)
    assert fact.problem == "lms.example.com/exams/:id/1"


# People and members ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "record", "people"),
    [
        (ENROLLED, changed(ENROLLED, created_by=ADA), [(ADA_IDS, CourseEnrolled(occurred_at=AT, course=COURSE, mode="audit"))]),
        (ENROLLED, changed(ENROLLED, created_by=None, mode=""), [(ADA_IDS, CourseEnrolled(occurred_at=AT, course=COURSE))]),
        (ENROLLED, changed(ENROLLED, created_by=None, is_active=False), [(ADA_IDS, other(ENROLLED))]),
        (ENROLLED, changed(ENROLLED, created_by=..., user={"id": 7}), [(NUMBER, CourseEnrolled(occurred_at=AT, course=COURSE, mode="audit"))]),
        (ENROLLED, changed(ENROLLED, user=None), [(BOB_IDS, other(ENROLLED))]),
        (CERTIFIED, changed(CERTIFIED, current_status="notpassing"), [(ADA_IDS, other(CERTIFIED))]),
        (REGISTERED, {"user": {"id": 7, "pii": {"username": "ada"}}}, [(ADA_IDS, AccountRegistered(occurred_at=AT, username="ada"))]),
        (REGISTERED, {"user": {"id": 7, "pii": None}}, [(NUMBER, AccountRegistered(occurred_at=AT))]),
        (GRADED, changed(GRADED, percent_grade=1, letter_grade=""), [(NUMBER, CourseGraded(occurred_at=AT, course=COURSE, score=1.0))]),
        (POSTED, changed(POSTED, title=None, anonymous=True), [(ADA_IDS, CoursePostCreated(occurred_at=AT, course=COURSE, kind="thread", body="Hello there"))]),
    ],
)  # fmt: skip
def test_people_and_members_as_they_come(
    type_: str, record: Members, people: list[tuple[tuple[Identity, ...], Fact]]
) -> None:
    """Who did it for themselves is one; a blank is none; who is nobody is left out."""
    assert people_of(plain(type_, record)) == people


def test_a_context_of_the_tracking_log_may_be_an_object() -> None:
    """As JSON has it: whoever acted is not taken for nobody."""
    log = RECORDS[TRACKED]["tracking_log"]
    record = changed(TRACKED, context=json.loads(log["context"]), data=json.loads(log["data"]))
    assert people_of(plain(TRACKED, record)) == MAPPED[TRACKED]


HIDDEN: Final[list[Members]] = [
    {"doc": f"card {PAN}"}, {"namespace": f"n{PAN}"}, {"name": f"N{PAN}"}, {"aliases": [PAN]}, {"password": "hunter2"},
    {"fields": [*schema_of(LOGGED_IN)["fields"], {"name": "x", "doc": PAN, "default": PAN, "order": PAN, "type": ["null", "string"]}]},
    {"fields": [*schema_of(LOGGED_IN)["fields"], {"name": "x", "type": {"type": "enum", "name": f"E{PAN}", "symbols": ["A", f"S{PAN}"]}}]},
    {"fields": [*schema_of(LOGGED_IN)["fields"], {"name": f"f{PAN}", "type": ["null", "string"]}]},
]  # fmt: skip


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("leaf", [b"\0", b"\2"])
def test_nothing_of_a_schema_is_kept(hidden: Members, leaf: bytes) -> None:
    """It is not screened: a number in it is in no fact, no name and no digest, or it is screened as what was read by it."""
    said = message(LOGGED_IN)
    more = (
        b""
        if "fields" not in hidden
        else leaf + (b"\2x" if "string" in str(hidden["fields"][-1]) and leaf == b"\2" else b"")
    )
    value = base64.b64encode(base64.b64decode(said["value"]) + more).decode()
    found = parse(line({**said, "schema": {**said["schema"], **hidden}, "value": value}))
    if isinstance(found, Refusal):
        assert found is Refusal.CARD_NUMBER
        return
    told = [found.digest_input, str(found.source_event_id).encode(), repr(found).encode()]
    told += [msgspec.json.encode(fact) for person in found.people for fact in person.facts]
    assert [text for text in told if PAN.encode() in text or b"hunter2" in text] == []
    assert [person.identities for person in found.people] == [ADA_IDS]


def test_a_record_of_nobody_is_unattributed() -> None:
    """Its fact waits; it names no session."""
    found = parsed(plain(GRADED, changed(GRADED, user_id=None)))
    assert (found.people, found.unattributed) == (
        (),
        (CourseGraded(occurred_at=AT, course=COURSE, score=0.75, letter="B"),),
    )
    assert found.anonymous is None


# What is refused -------------------------------------------------------------------------

REFUSED: Final[list[tuple[bytes, Refusal]]] = [
    (plain(CATALOG), Refusal.UNKNOWN_EVENT),
    (plain(ENROLLED, ce_type="org.openedx.learning.other.v1"), Refusal.UNKNOWN_EVENT),
    (line(message(CATALOG)), Refusal.UNKNOWN_EVENT),
    (line({"headers": headers(ENROLLED)}), Refusal.NULL_VALUE),
    (line({"headers": headers(ENROLLED), "value": None}), Refusal.NULL_VALUE),
    (line({"headers": headers(ENROLLED), "value": ""}), Refusal.NULL_VALUE),
    (line({"headers": headers(ENROLLED), "value": "no base64!"}), Refusal.SCHEMA_MISMATCH),
    (line({"headers": headers(ENROLLED), "value": 7}), Refusal.SCHEMA_MISMATCH),
    (line({**message(ENROLLED), "record": {}}), Refusal.SCHEMA_MISMATCH),
    (line({**message(ENROLLED), "schema": 7}), Refusal.SCHEMA_MISMATCH),
    (line({**message(ENROLLED), "schema": {}}), Refusal.SCHEMA_MISMATCH),
    (line({**message(ENROLLED), "schema": message(POSTED)["schema"]}), Refusal.SCHEMA_MISMATCH),
    (line({"headers": headers(ENROLLED), "value": message(ENROLLED)["value"]}), Refusal.NUL_BYTE),
    (line({"record": RECORDS[ENROLLED]}), Refusal.SCHEMA_MISMATCH),
    (line({"headers": [], "record": RECORDS[ENROLLED]}), Refusal.SCHEMA_MISMATCH),
    (line({"headers": {"ce_id": 7}, "record": RECORDS[ENROLLED]}), Refusal.SCHEMA_MISMATCH),
    (line({"headers": {f"h{n}": "" for n in range(65)}, "record": {}}), Refusal.SCHEMA_MISMATCH),
    (plain(ENROLLED, ce_specversion="0.3"), Refusal.SCHEMA_MISMATCH),
    (plain(ENROLLED, ce_id=""), Refusal.SCHEMA_MISMATCH),
    (plain(ENROLLED, ce_time="2026-03-01T12:00:00"), Refusal.TIME_NAIVE),
    (plain(ENROLLED, ce_dataclassification="unheard-of"), Refusal.UNKNOWN_CLASSIFICATION),
    (line({"headers": {key: value for key, value in headers(ENROLLED).items() if key != "ce_time"}, "record": RECORDS[ENROLLED]}), Refusal.TIME_MISSING),
    (plain(ENROLLED, {}), Refusal.SCHEMA_MISMATCH),
    (plain(ENROLLED, []), Refusal.NOT_AN_OBJECT),
    (plain(ENROLLED, {"enrollment": 7}), Refusal.SCHEMA_MISMATCH),
    (plain(ENROLLED, changed(ENROLLED, course=None)), Refusal.SCHEMA_MISMATCH),
    (plain(ENROLLED, changed(ENROLLED, mode="a b\n")), Refusal.SCHEMA_MISMATCH),
    (plain(ENROLLED, changed(ENROLLED, user=user(0, "ada"))), Refusal.ID_INVALID),
    (plain(ENROLLED, changed(ENROLLED, user=user(7, "a\nb"))), Refusal.ID_INVALID),
    (plain(ENROLLED, changed(ENROLLED, created_by=user(-1, "bob"))), Refusal.ID_INVALID),
    (plain(ENROLLED, changed(ENROLLED, created_by=user(8, "ada"))), Refusal.ID_INVALID),
    (plain(ENROLLED, changed(ENROLLED, created_by=user(7, "bob"))), Refusal.ID_INVALID),
    (plain(ENROLLED, changed(ENROLLED, mode="ada@example.com")), Refusal.SCHEMA_MISMATCH),
    (plain(TRACKED, changed(TRACKED, context=7)), Refusal.SCHEMA_MISMATCH),
    (plain(REGISTERED, {"user": user(7, "x" * 256)}), Refusal.SCHEMA_MISMATCH),
    (plain(GRADED, changed(GRADED, percent_grade="0.5")), Refusal.SCHEMA_MISMATCH),
    (plain(GRADED, changed(GRADED, percent_grade=-0.1)), Refusal.SCHEMA_MISMATCH),
    (line(message(GRADED, changed(GRADED, percent_grade=float("nan")))), Refusal.SCHEMA_MISMATCH),
    (line(message(GRADED, changed(GRADED, percent_grade=float("inf")))), Refusal.SCHEMA_MISMATCH),
    (plain(POSTED, changed(POSTED, body=7)), Refusal.SCHEMA_MISMATCH),
    (plain(POSTED, changed(POSTED, body="x" * 65537)), Refusal.SCHEMA_MISMATCH),
    (plain(ATTEMPTED, changed(ATTEMPTED, usage_key=None)), Refusal.SCHEMA_MISMATCH),
    (plain(TRACKED, {"tracking_log": {}}), Refusal.UNKNOWN_EVENT),
    (plain(TRACKED, changed(TRACKED, context="{")), Refusal.NOT_JSON),
    (plain(TRACKED, changed(TRACKED, timestamp="2026-03-01T12:00:00")), Refusal.TIME_NAIVE),
    (plain(TRACKED, changed(TRACKED, name="com.example.sang")), Refusal.UNKNOWN_EVENT),
    (plain(POSTED, changed(POSTED, body=f"pay {PAN}")), Refusal.CARD_NUMBER),
    (line(message(POSTED, changed(POSTED, body=f"pay {PAN}"))), Refusal.CARD_NUMBER),
    (line(message(POSTED, changed(POSTED, title="password=correct-horse-battery"))), Refusal.SECRET),
    (line(message(LOGGED_IN, key=PAN)), Refusal.CARD_NUMBER),
    (plain(POSTED, changed(POSTED, body="x" * LINE_BYTES_MAX)), Refusal.LINE_TOO_LONG),
    (b"null", Refusal.NULL_VALUE),
    (b"[]", Refusal.NOT_AN_OBJECT),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "refusal"), REFUSED)
def test_a_refusal_says_its_reason(sent: bytes, refusal: Refusal) -> None:
    """In the documented order: what it is, its time, its people; a number or a secret before all of that."""
    assert parse(sent) is refusal


# Anything --------------------------------------------------------------------------------


def leaves(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every leaf of a record."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path


PLACES: Final = [(type_, path) for type_ in sorted(RECORDS) for path in leaves(RECORDS[type_])]


def put(type_: str, path: tuple[str, ...], value: object) -> Members:
    """Return a record with one leaf changed."""
    record: Members = copy.deepcopy(RECORDS[type_])
    at: Any = record
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return record


ANY: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(PLACES), ANY)
def test_any_leaf_has_an_outcome(place: tuple[str, tuple[str, ...]], value: object) -> None:
    """Whatever a record holds; what is taken is what the schemas allow."""
    sent = plain(place[0], put(*place, value))
    found = parse(sent)
    assert isinstance(found, Parsed | Refusal)
    if isinstance(found, Parsed):
        parsed(sent)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(MAPPED)), st.binary(max_size=80), st.booleans())
def test_any_bytes_have_an_outcome(type_: str, value: bytes, is_framed: bool) -> None:  # noqa: FBT001 - drawn
    """As the value of a message, and as a line."""
    sent = message(type_, value=base64.b64encode((b"\0\0\0\0\7" if is_framed else b"") + value).decode())
    assert isinstance(parse(line(sent)), Parsed | Refusal)
    assert isinstance(parse(value), Parsed | Refusal)


@pytest.mark.parametrize(
    "path", [("user", "pii", "username"), ("user", "pii", "name"), ("user", "pii", "email")]
)
def test_naughty_strings_are_kept_whole_or_refused(path: tuple[str, ...]) -> None:
    """Through Avro."""
    for text in NAUGHTY:
        sent = line(message(REGISTERED, put(REGISTERED, path, text)))
        found = parse(sent)
        if isinstance(found, Parsed) and text and path[-1] == "name":
            (fact,) = parsed(sent).people[0].facts
            assert isinstance(fact, AccountRegistered)
            assert fact.name == text


def test_a_message_of_now_is_read_with_its_offset() -> None:
    """In any zone, as the instant that it is."""
    found = parsed(plain(LOGGED_IN, ce_time="2026-03-01T13:30:00.123456+01:30"))
    assert found.occurred_at == datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
