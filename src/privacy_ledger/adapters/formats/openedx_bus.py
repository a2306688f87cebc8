"""The Open edX event bus: its events, from Kafka messages that were written to a file.

A line is one message: its headers, and its value in base64 with the schema that it was written by; or, in
place of both, the record as JSON.

    {"headers": {"ce_type": "...", "ce_id": "...", ...}, "value": "AAAAAAE...", "schema": {...}}
    {"headers": {"ce_type": "...", "ce_id": "...", ...}, "record": {"enrollment": {...}}}

What else stands in a line, such as the producer's key, is not read: a key may be somebody's name.
Pure, and total. An event is told from its copies by the source and id of its headers. Every leaf below a
record named `pii` is personal: it becomes an identity, or a field of an account that is labelled so, and
nothing else.
"""

import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from math import isfinite
from typing import Final, cast

import msgspec
from msgspec import Struct, structs

from privacy_ledger.adapters.formats import openedx
from privacy_ledger.adapters.formats.avro import record_of
from privacy_ledger.adapters.formats.cloudevents import CloudEvent, read_kafka
from privacy_ledger.adapters.formats.cloudevents_lines import with_envelope
from privacy_ledger.adapters.formats.json_lines import decode_canonical, decode_json, decode_object
from privacy_ledger.adapters.formats.minimise import CourseName, course_key, plain_activity
from privacy_ledger.adapters.formats.openedx import user_id_identity, username_identity
from privacy_ledger.adapters.formats.screen import screen
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
from privacy_ledger.domain.values import EPOCH
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

__all__ = ["TYPES", "parse", "personal_in", "read_event"]

Members = Mapping[str, object]
Build = Callable[["_Said", datetime], Fact]

HEADERS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 4096
BODY_CHARS_MAX: Final = 65536
NAME_CHARS_MAX: Final = 255
EMAIL_CHARS_MAX: Final = 320
SCORE_MAX: Final = 10**9
_ISSUED: Final = ("downloadable", "generating")
_LEARNING: Final = "org.openedx.learning."
_TRACKING: Final = "org.openedx.analytics.tracking.event.emitted.v1"
_PERSONAL: Final = "pii"
_WORD: Final = re.compile(r"[A-Za-z0-9_+\- ]{1,64}")
_encode = msgspec.json.Encoder(order="sorted").encode
_NOTHING: Final[Members] = {}


class _Said(Struct, frozen=True, gc=False):
    """The type of an event, the record within it that its fact is made of, and whom that concerns."""

    type: str
    record: Members
    user: Members

    def __repr__(self) -> str:
        """Return the type only."""
        return f"_Said({self.type})"


class _Row(Struct, frozen=True):
    """Where an event of a type holds what: the record, the user whom it concerns, others, and the builder.

    A blank `user` is the record itself.
    """

    record: str
    user: str
    others: tuple[str, ...]
    build: Build


class _UnfitError(Exception):
    """A member of a record is not what its fact declares."""


def parse(line: bytes) -> Parsed | Refusal:
    """Return the facts of one message, or the first refusal that applies; never raises."""
    root = decode_object(line)
    if type(root) is Refusal:
        return root
    refusal = screen(_outside(root))
    if refusal is not None:
        return refusal
    headers, value = _headers(root.get("headers")), _value(root)
    if type(value) is Refusal:
        return value
    if headers is None:
        return Refusal.SCHEMA_MISMATCH
    event = read_kafka(headers, value)
    if type(event) is Refusal:
        return event
    found = _read(event, root)
    return found if type(found) is Refusal else with_envelope(found, event)


def read_event(event: CloudEvent) -> Parsed | Refusal:
    """Return the facts of an event whose data is the record as JSON, or the first refusal; never raises.

    What tells it from its copies is its envelope's matter.
    """
    decoded = decode_canonical(event.data)
    return decoded if type(decoded) is Refusal else _parsed(event, decoded[0])


def personal_in(record: object) -> Iterator[object]:
    """Yield every leaf below a record named `pii`, at any depth."""
    stack: list[tuple[object, bool]] = [(record, False)]
    while stack:
        value, is_personal = stack.pop()
        if isinstance(value, dict):
            stack += [(inner, is_personal or name == _PERSONAL) for name, inner in value.items()]
        elif isinstance(value, list):
            stack += [(inner, is_personal) for inner in value]
        elif is_personal and value is not None:
            yield value


# Messages --------------------------------------------------------------------------------


def _outside(root: Members) -> dict[str, object]:
    """Return all of a line that is screened before its value is read.

    The value is screened as what it holds; of a schema nothing is kept. The version of the headers is
    left out as `cloudevents` does.
    """
    found = {name: root[name] for name in root if name != "schema"}
    if isinstance(found.get("value"), str):
        del found["value"]
    headers = found.get("headers")
    if isinstance(headers, dict) and headers.get("ce_specversion") == "1.0":
        found["headers"] = {name: headers[name] for name in headers if name != "ce_specversion"}
    return found


def _read(event: CloudEvent, root: Members) -> Parsed | Refusal:
    """Return what a message says: its record in Avro, or in JSON."""
    schema = root.get("schema")
    if schema is None or "record" in root:
        return read_event(event)
    if not isinstance(schema, dict):
        return Refusal.SCHEMA_MISMATCH
    record = record_of(event.data, schema)
    if type(record) is Refusal:
        return record
    return screen(record) or _parsed(event, record)


def _headers(value: object) -> list[tuple[str, bytes]] | None:
    """Return the headers of a message, or None when they are none."""
    if not isinstance(value, dict) or len(value) > HEADERS_MAX:
        return None
    if not all(isinstance(text, str) for text in value.values()):
        return None
    return [(name, cast("str", text).encode()) for name, text in value.items()]


def _value(root: Members) -> bytes | Refusal:
    """Return the value of a message: its bytes, or its record as JSON."""
    value, record = root.get("value"), root.get("record")
    if value is None and record is None:
        return Refusal.NULL_VALUE
    if record is not None:
        return Refusal.SCHEMA_MISMATCH if value is not None else _encode(record)
    if not isinstance(value, str):
        return Refusal.SCHEMA_MISMATCH
    try:
        return binascii.a2b_base64(value.encode(), strict_mode=True)
    except (binascii.Error, ValueError):
        return Refusal.SCHEMA_MISMATCH


# Events ----------------------------------------------------------------------------------


def _parsed(event: CloudEvent, record: Members) -> Parsed | Refusal:
    """Return what an event says. Order of reasons: what it is, then its time, then its people."""
    found = _tracked(record) if event.type == _TRACKING else _told(event, record)
    return found if type(found) is Refusal else structs.replace(found, digest_input=_encode(record))


def _tracked(record: Members) -> Parsed | Refusal:
    """Return what an event of the tracking log says: its own name, time and people count."""
    log = _inner(record, "tracking_log")
    context = log.get("context")
    found = decode_json(context.encode()) if isinstance(context, str) and context else context
    if type(found) is Refusal:
        return found
    line = {
        "name": log.get("name"),
        "timestamp": log.get("timestamp"),
        "data": log.get("data"),
        "context": found,
    }
    return openedx.parse(_encode(line))


def _told(event: CloudEvent, record: Members) -> Parsed | Refusal:
    row = _ROWS.get(event.type)
    if row is None:
        return Refusal.UNKNOWN_EVENT
    inner = _inner(record, row.record)
    if not inner:
        return Refusal.SCHEMA_MISMATCH
    user = _user(inner, row.user)
    at = event.time or EPOCH
    try:
        fact = row.build(_Said(event.type, inner, user), at)
    except _UnfitError:
        return Refusal.SCHEMA_MISMATCH
    if event.time is None:
        return Refusal.TIME_MISSING
    people = _people(user, [_user(inner, name) for name in row.others], fact, event.type)
    if type(people) is Refusal:
        return people
    return Parsed(
        people=people,
        unattributed=() if people else (fact,),
        device=None,
        occurred_at=at,
        source_event_id=None,
        anonymous=None,
        digest_input=b"",
    )


def _inner(record: Members, name: str) -> Members:
    found = record.get(name)
    return found if isinstance(found, dict) else _NOTHING


def _user(record: Members, name: str) -> Members:
    """Return a user of a record; a number alone stands for one."""
    if not name:
        return record
    found = record.get(name)
    if isinstance(found, dict):
        return found
    return _NOTHING if found is None else {"id": found}


def _people(user: Members, others: list[Members], fact: Fact, kind: str) -> tuple[PersonFacts, ...] | Refusal:
    """Return whom an event concerns with its fact, and who else is named with what they did.

    `ID_INVALID`: two who share a name and not the number, or the other way round: who is who is not told.
    """
    found: list[PersonFacts] = []
    course: CourseName | None = getattr(fact, "course", None)
    deed = UsageOther(occurred_at=fact.occurred_at, course=course, action=kind)  # type: ignore[attr-defined] # every collection fact
    for one, its in ((user, fact), *((other, deed) for other in others)):
        identities = _identities(one)
        if type(identities) is Refusal:
            return identities
        known = (each.identities for each in found)
        same = next((each for each in known if not set(each).isdisjoint(identities)), ())
        together = {*same, *identities}
        if same and len({identity.namespace for identity in together}) < len(together):
            return Refusal.ID_INVALID
        if identities and not same:
            found.append(PersonFacts(identities=identities, facts=(its,)))
    return tuple(found)


def _identities(user: Members) -> tuple[Identity, ...] | Refusal:
    """Return the identities of a user: the number, then the name; empty = nobody."""
    found = (user_id_identity(user.get("id")), username_identity(_inner(user, _PERSONAL).get("username")))
    if Refusal.ID_INVALID in found:
        return Refusal.ID_INVALID
    return tuple([one for one in found if isinstance(one, Identity)])


# Builders --------------------------------------------------------------------------------


def _enrolled(said: _Said, at: datetime) -> Fact:
    course = _course(said)
    if said.record.get("is_active") is False:
        return UsageOther(occurred_at=at, course=course, action=said.type)
    return CourseEnrolled(occurred_at=at, course=course, mode=_word(said.record.get("mode")))


def _unenrolled(said: _Said, at: datetime) -> Fact:
    return CourseUnenrolled(occurred_at=at, course=_course(said))


def _certified(said: _Said, at: datetime) -> Fact:
    course = _course(said)
    if said.record.get("current_status") in _ISSUED:
        return CertificateIssued(occurred_at=at, course=course)
    return UsageOther(occurred_at=at, course=course, action=said.type)


def _graded(said: _Said, at: datetime) -> Fact:
    score = said.record.get("percent_grade")
    if score is not None:
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise _UnfitError
        if not isfinite(score) or not 0 <= score <= SCORE_MAX:
            raise _UnfitError
        score = float(score)
    return CourseGraded(
        occurred_at=at, course=_course(said), score=score, letter=_word(said.record.get("letter_grade"))
    )


def _posted(said: _Said, at: datetime) -> Fact:
    return CoursePostCreated(
        occurred_at=at, course=_course(said), kind="thread",
        title=_text(said.record.get("title"), TEXT_CHARS_MAX),
        body=_text(said.record.get("body"), BODY_CHARS_MAX),
    )  # fmt: skip


def _attempted(said: _Said, at: datetime) -> Fact:
    key = said.record.get("usage_key")
    names = {leaf for leaf in personal_in(said.record) if isinstance(leaf, str)}
    problem = plain_activity(key, names=names) if isinstance(key, str) else None
    if not problem:
        raise _UnfitError
    return CourseQuizAnswered(occurred_at=at, course=_course(said), problem=problem)


def _logged_in(_said: _Said, at: datetime) -> Fact:
    return AccountLoggedIn(occurred_at=at)


def _registered(said: _Said, at: datetime) -> Fact:
    given = _inner(said.user, _PERSONAL)
    return AccountRegistered(
        occurred_at=at,
        username=_text(given.get("username"), NAME_CHARS_MAX),
        name=_text(given.get("name"), NAME_CHARS_MAX),
        email=_text(given.get("email"), EMAIL_CHARS_MAX),
    )


# Members ---------------------------------------------------------------------------------


def _course(said: _Said) -> CourseName:
    """Return the course of a record: by its key, or in a record of the course."""
    record = said.record
    declared = (record.get("course_key"), record.get("course_id"), _inner(record, "course").get("course_key"))
    found = next((course_key(value) for value in declared if value is not None), None)
    if found is None:
        raise _UnfitError
    return found


def _word(value: object) -> str | None:
    """Return a word of a vocabulary, such as a mode or a letter; blank is None."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or _WORD.fullmatch(value) is None:
        raise _UnfitError
    return value


def _text(value: object, chars_max: int) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > chars_max:
        raise _UnfitError
    return value


_ROWS: Final[dict[str, _Row]] = {
    f"{_LEARNING}auth.session.login.completed.v1": _Row("user", "", (), _logged_in),
    f"{_LEARNING}certificate.created.v1": _Row("certificate", "user", (), _certified),
    f"{_LEARNING}course.enrollment.created.v1": _Row("enrollment", "user", ("created_by",), _enrolled),
    f"{_LEARNING}course.persistent_grade_summary.changed.v1": _Row("grade", "user_id", (), _graded),
    f"{_LEARNING}course.unenrollment.completed.v1": _Row("enrollment", "user", ("created_by",), _unenrolled),
    f"{_LEARNING}exam.attempt.submitted.v1": _Row(
        "exam_attempt", "student_user", ("requesting_user",), _attempted
    ),
    f"{_LEARNING}forum.thread.created.v1": _Row("thread", "user", (), _posted),
    f"{_LEARNING}student.registration.completed.v1": _Row("user", "", (), _registered),
}
TYPES: Final = frozenset({*_ROWS, _TRACKING})
"""The types of events that are taken; those of other types concern nobody, or nothing here."""
