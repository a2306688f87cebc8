# ruff: noqa: E501 - a table reads by its rows
"""What a Caliper event says, and of whom; what is never kept; and that any bytes have an outcome."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.arrays import ITEMS_MAX
from privacy_ledger.adapters.formats.caliper import PEOPLE_MAX, events, parse
from privacy_ledger.adapters.formats.caliper_facts import ACTIONS, TYPES
from privacy_ledger.adapters.formats.json_lines import DEPTH_MAX, LINE_BYTES_MAX
from privacy_ledger.domain.events import (
    AccountLoggedIn,
    CourseGraded,
    CoursePostCreated,
    CourseQuizAnswered,
    DeviceObserved,
    Fact,
    UsageOther,
    UsagePageViewed,
    VideoCaptionsToggled,
    VideoCompleted,
    VideoPaused,
    VideoPlayed,
    VideoSeeked,
    VideoSpeedChanged,
)
from privacy_ledger.domain.identifiers import person_of
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed
from privacy_ledger.ports.keys import Identity

Members = dict[str, Any]

NAUGHTY: Final[list[str]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "naughty-strings" / "blns.json").read_bytes()
)
AT: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
V1P1: Final = "http://purl.imsglobal.org/ctx/caliper/v1p1"
V1P2: Final = "http://purl.imsglobal.org/ctx/caliper/v1p2"
UUID: Final = "urn:uuid:4b1f1a52-7f0e-4c5c-9a5e-0d6a5f1f2c11"
LMS: Final = "https://lms.example.com"
KEY: Final = "course-v1:ExampleX+CS101+T1"
SECTION: Final = {"id": f"{LMS}/terms/2026/sections/7", "type": "CourseSection", "name": "marker-of-a-name"}
COURSE: Final = "lms.example.com/terms/2026/sections/7"
ADA: Final = {"id": f"{LMS}/people/ada", "type": "Person", "name": "Ada Example"}
BOB: Final = {"id": f"{LMS}/people/bob", "type": "Person"}
EVE: Final = {"id": "urn:uuid:0E0E0E0E-0000-4000-8000-00000000000E", "type": "Person"}
ADA_ID: Final = Identity("caliper:person", f"{LMS}/people/ada")
BOB_ID: Final = Identity("caliper:person", f"{LMS}/people/bob")
EVE_ID: Final = Identity("caliper:person", "urn:uuid:0e0e0e0e-0000-4000-8000-00000000000e")
APP: Final = {"id": f"{LMS}/grader", "type": "SoftwareApplication"}
PAGE: Final = {"id": f"{LMS}/courses/intro/pages/welcome?user=ada", "type": "WebPage", "name": "Welcome"}
VIDEO: Final = {"id": f"{LMS}/videos/v7", "type": "VideoObject"}
QUIZ: Final = {"id": f"{LMS}/sections/7/quizzes/q1", "type": "Assessment"}
ATTEMPT: Final = {
    "id": f"{LMS}/sections/7/quizzes/q1/people/ada/attempts/2", "type": "Attempt", "assignee": ADA, "assignable": QUIZ, "count": 2,
}  # fmt: skip


def said(kind: str = "ToolUseEvent", action: str = "Used", **changes: object) -> Members:
    """Return an event of ada's in a course; a member that is `...` is left out."""
    whole: Members = {
        "@context": V1P1, "id": UUID, "type": kind, "actor": ADA, "action": action, "object": PAGE,
        "eventTime": "2026-03-01T12:00:00.000Z", "edApp": LMS, "group": SECTION, **changes,
    }  # fmt: skip
    return {name: value for name, value in whole.items() if value is not ...}


def but(changes: Mapping[str, object]) -> Members:
    """Return an event with members of any name changed."""
    return {name: value for name, value in (said() | dict(changes)).items() if value is not ...}


def parsed(event: Members) -> Parsed:
    """Return what an event says, which must not be refused; every fact is what its schema allows."""
    result = parse(json.dumps(event).encode())
    assert isinstance(result, Parsed), result
    facts: list[Fact] = [fact for person in result.people for fact in person.facts]
    facts += result.unattributed
    assert facts
    for fact in facts:
        assert msgspec.json.decode(msgspec.json.encode(fact), type=type(fact)) == fact
    return result


def people_of(event: Members) -> list[tuple[Identity, Fact]]:
    """Return each person of an event, with the fact."""
    found = []
    for person in parsed(event).people:
        ((identity,), (fact,)) = person.identities, person.facts
        found.append((identity, fact))
    return found


def other(action: str, course: str | None = COURSE) -> UsageOther:
    """Return the fact of something else in the course."""
    return UsageOther(occurred_at=AT, course=course, action=f"caliper.{action}")


def media(action: str, **more: object) -> Members:
    """Return an event of a video at one minute and a half."""
    target = {"id": f"{LMS}/videos/v7?t=90", "type": "MediaLocation", "currentTime": "PT1M30.5S"}
    return said("MediaEvent", action, **({"object": VIDEO, "target": target} | more))


def answer(kind: str, **more: object) -> Members:
    """Return a completed item with a response."""
    response = {"id": f"{LMS}/responses/1", "type": kind, "attempt": ATTEMPT, **more}
    return said("AssessmentItemEvent", "Completed", object=QUIZ, generated=response)


MAPPED: Final[list[tuple[Members, Fact]]] = [
    (said("SessionEvent", "LoggedIn", object=APP, group=...), AccountLoggedIn(occurred_at=AT)),
    (said("NavigationEvent", "NavigatedTo"), UsagePageViewed(occurred_at=AT, course=COURSE, path="/courses/intro/pages/welcome")),
    (said("ViewEvent", "Viewed", object="urn:isbn:1"), UsagePageViewed(occurred_at=AT, course=COURSE)),
    (said("ViewEvent", "Viewed", object=f"{LMS}/people/ada/notes"), UsagePageViewed(occurred_at=AT, course=COURSE, path="/people/:id/notes")),
    (said("ViewEvent", "Viewed", object=f"{LMS}/notes-of/ada"), UsagePageViewed(occurred_at=AT, course=COURSE, path="/notes-of/:id")),
    (media("Started"), VideoPlayed(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7", position_ms=90500)),
    (media("Resumed"), VideoPlayed(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7", position_ms=90500)),
    (media("Restarted", target=None), VideoPlayed(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7")),
    (media("Paused"), VideoPaused(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7", position_ms=90500)),
    (media("Ended"), VideoCompleted(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7", position_ms=90500)),
    (media("JumpedTo"), VideoSeeked(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7", to_ms=90500)),
    (media("ForwardedTo"), VideoSeeked(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7", to_ms=90500)),
    (media("Rewound"), VideoSeeked(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7", to_ms=90500)),
    (media("ChangedSpeed", extensions={"newSpeed": 1.5, "x": "y"}), VideoSpeedChanged(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7", speed="1.5")),
    (media("EnabledClosedCaptioning"), VideoCaptionsToggled(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7", is_shown=True)),
    (media("DisabledClosedCaptioning"), VideoCaptionsToggled(occurred_at=AT, course=COURSE, video="lms.example.com/videos/v7", is_shown=False)),
    (media("Muted"), other("MediaEvent.Muted")),
    (media("Started", object={**VIDEO, "type": "AudioObject"}), other("MediaEvent.Started")),
    (said("AssessmentEvent", "Submitted", object=QUIZ, generated=ATTEMPT), CourseQuizAnswered(occurred_at=AT, course=COURSE, problem="lms.example.com/sections/7/quizzes/q1", attempt=2)),
    (said("AssessmentEvent", "Started", object=QUIZ, generated=ATTEMPT), other("AssessmentEvent.Started")),
    (said("AssignableEvent", "Submitted", object=QUIZ), CourseQuizAnswered(occurred_at=AT, course=COURSE, problem="lms.example.com/sections/7/quizzes/q1")),
    (said("AssessmentEvent", "Submitted", object=QUIZ, group=...), other("AssessmentEvent.Submitted", course=None)),
    (answer("FillinBlankResponse", values=["a", "b"]), CourseQuizAnswered(occurred_at=AT, course=COURSE, problem="lms.example.com/sections/7/quizzes/q1", attempt=2, answers=(("response", "a"), ("response", "b")))),
    (answer("TrueFalseResponse", value=True), CourseQuizAnswered(occurred_at=AT, course=COURSE, problem="lms.example.com/sections/7/quizzes/q1", attempt=2, answers=(("response", "true"),))),
    (answer("MultipleChoiceResponse", value="C"), CourseQuizAnswered(occurred_at=AT, course=COURSE, problem="lms.example.com/sections/7/quizzes/q1", attempt=2, answers=(("response", "C"),))),
    (said("MessageEvent", "Posted", object={"id": f"{LMS}/m/1", "type": "Message", "body": "Hello", "creators": [ADA]}), CoursePostCreated(occurred_at=AT, course=COURSE, kind="thread", body="Hello")),
    (said("MessageEvent", "Posted", object={"id": f"{LMS}/m/1", "type": "Message"}, group=...), other("MessageEvent.Posted", course=None)),
    (said("AnnotationEvent", "Tagged", generated={"id": f"{LMS}/a/1", "type": "TagAnnotation", "annotator": ADA, "tags": ["x"]}), other("AnnotationEvent.Tagged")),
    (said("Event", "Created"), other("Event.Created")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "fact"),
    MAPPED,
    ids=lambda value: f"{value['type']}.{value['action']}" if isinstance(value, dict) else "",
)
def test_an_event_becomes_the_fact_that_it_means(event: Members, fact: Fact) -> None:
    """With what its fact declares, and nothing else."""
    assert people_of(event) == [(ADA_ID, fact)]


@pytest.mark.parametrize(
    ("around", "course"),
    [
        ({"group": {"id": f"{LMS}/course/{KEY}", "type": "CourseOffering"}}, KEY),
        ({"group": f"{LMS}/courses/{KEY}/info"}, KEY),
        ({"group": {"id": f"{LMS}/teams/1", "type": "Group", "subOrganizationOf": SECTION}}, COURSE),
        ({"group": {"id": f"{LMS}/teams/1", "type": "Group"}}, None),
        ({"group": f"{LMS}/sections/7"}, None),
        ({"group": ..., "membership": {"id": f"{LMS}/rosters/1", "type": "Membership", "member": ADA, "organization": SECTION}}, COURSE),
        ({"group": SECTION["id"], "membership": {"id": f"{LMS}/rosters/1", "type": "Membership", "organization": SECTION}}, COURSE),
        ({"group": ..., "object": {"id": f"{LMS}/p/1", "type": "Page", "isPartOf": {"id": f"{LMS}/courses/{KEY}", "type": "CourseOffering"}}}, KEY),
        ({"group": {"id": f"{LMS}/people/ada/section", "type": "CourseSection"}}, "lms.example.com/people/:id/section"),
        ({"group": {"id": f"{LMS}/ada/section", "type": "CourseSection"}}, "lms.example.com/:id/section"),
        ({"group": {"id": f"{LMS}/loop", "type": "Group", "subOrganizationOf": f"{LMS}/loop"}}, None),
    ],
)  # fmt: skip
def test_a_course_is_that_of_the_group_the_membership_or_the_object(
    around: Members, course: str | None
) -> None:
    """A key of the platform in any IRI, another IRI only where its entity says that it is a course."""
    assert people_of(said(**around))[0][1] == other("ToolUseEvent.Used", course=course)


# People ----------------------------------------------------------------------------------


def graded(**changes: object) -> Members:
    """Return the event of a grade that bob gave ada."""
    score = {
        "id": f"{LMS}/scores/1",
        "type": "Score",
        "scoreGiven": 8,
        "maxScore": 10.0,
        "scoredBy": BOB,
        "comment": "marker",
    }
    return said("GradeEvent", "Graded", **({"actor": BOB, "object": ATTEMPT, "generated": score} | changes))


GRADE: Final = CourseQuizAnswered(
    occurred_at=AT,
    course=COURSE,
    problem="lms.example.com/sections/7/quizzes/q1",
    score=8.0,
    score_max=10.0,
    attempt=2,
)
GAVE: Final = other("GradeEvent.Graded")
TEAM: Final = {"id": f"{LMS}/teams/1", "type": "Group", "members": [ADA, BOB["id"], APP]}


def annotation(**more: object) -> Members:
    """Return an event of something that ada shared."""
    return said(
        "AnnotationEvent",
        "Shared",
        generated={"id": f"{LMS}/a/1", "type": "SharedAnnotation", "annotator": ADA, **more},
    )


SPLIT: Final[dict[str, tuple[Members, list[tuple[Identity, Fact]]]]] = {
    "a grader and a student": (graded(), [(BOB_ID, GAVE), (ADA_ID, GRADE)]),
    "a program that grades": (graded(actor=APP, generated={"id": f"{LMS}/s/1", "type": "Score", "scoreGiven": 8, "maxScore": 10, "scoredBy": APP["id"]}), [(ADA_ID, GRADE)]),
    "a grade of oneself": (graded(actor=ADA, generated={"id": f"{LMS}/s/1", "type": "Score", "scoreGiven": 8, "maxScore": 10}), [(ADA_ID, GRADE)]),
    "an attempt by its IRI": (graded(object=ATTEMPT["id"], generated={"id": f"{LMS}/s/1", "type": "Score", "attempt": ATTEMPT, "scoreGiven": 8, "maxScore": 10}), [(BOB_ID, GAVE), (ADA_ID, GRADE)]),
    "a student by their IRI": (graded(object={**ATTEMPT, "assignee": ADA["id"]}), [(BOB_ID, GAVE), (ADA_ID, GRADE)]),
    "a grade of nobody known": (graded(object={**ATTEMPT, "assignee": None}), [(BOB_ID, GAVE)]),
    "a grade of the course": (
        graded(object={**ATTEMPT, "assignable": SECTION}),
        [(BOB_ID, GAVE), (ADA_ID, CourseGraded(occurred_at=AT, course=COURSE, score=0.8))],
    ),
    "a group that acts": (said(actor=TEAM), [(ADA_ID, other("ToolUseEvent.Used")), (BOB_ID, other("ToolUseEvent.Used"))]),
    "a group without members": (said(actor={"id": f"{LMS}/teams/1", "type": "Group"}, membership={"id": "urn:m", "type": "Membership", "member": BOB}), [(BOB_ID, other("member"))]),
    "whom something is shared with": (annotation(withAgents=[BOB, EVE]), [(ADA_ID, other("AnnotationEvent.Shared")), (BOB_ID, other("withAgents")), (EVE_ID, other("withAgents"))]),
    "who is invited": (
        said("SurveyInvitationEvent", "Sent", object={"id": f"{LMS}/i/1", "type": "SurveyInvitation", "rater": BOB}),
        [(ADA_ID, other("SurveyInvitationEvent.Sent")), (BOB_ID, other("rater"))],
    ),
    "who is replied to": (
        said("MessageEvent", "Posted", object={"id": f"{LMS}/m/2", "type": "Message", "body": "Yes", "replyTo": {"id": f"{LMS}/m/1", "type": "Message", "creators": [BOB]}}),
        [(ADA_ID, CoursePostCreated(occurred_at=AT, course=COURSE, kind="response", body="Yes")), (BOB_ID, other("replyTo"))],
    ),
    "whose message is moderated": (
        said("MessageEvent", "MarkedAsRead", object={"id": f"{LMS}/m/1", "type": "Message", "creators": [BOB["id"]]}),
        [(ADA_ID, other("MessageEvent.MarkedAsRead")), (BOB_ID, other("creators"))],
    ),
    "no author of what is read": (said("ViewEvent", "Viewed", object={**PAGE, "creators": [BOB]}), [(ADA_ID, UsagePageViewed(occurred_at=AT, course=COURSE, path="/courses/intro/pages/welcome"))]),
    "a session that ended by itself": (
        said("SessionEvent", "TimedOut", actor=APP, object={"id": f"{LMS}/s/1", "type": "Session", "user": ADA}, group=...),
        [(ADA_ID, other("SessionEvent.TimedOut", course=None))],
    ),
    "another person's session": (said(session={"id": f"{LMS}/s/1", "type": "Session", "user": BOB}), [(ADA_ID, other("ToolUseEvent.Used")), (BOB_ID, other("user"))]),
    "a person as the object": (said("Event", "Recommended", object=BOB), [(ADA_ID, other("Event.Recommended")), (BOB_ID, other("object"))]),
    "an actor by IRI, described elsewhere": (said(actor=ADA["id"], membership={"id": "urn:m", "type": "Membership", "member": ADA}), [(ADA_ID, other("ToolUseEvent.Used"))]),
    "an actor by IRI alone": (said(actor=BOB["id"]), [(BOB_ID, other("ToolUseEvent.Used"))]),
    "an IRI in two spellings": (said(actor="HTTPS://LMS.example.com/people/bob", session={"id": "urn:s", "type": "Session", "user": BOB}), [(BOB_ID, other("ToolUseEvent.Used"))]),
    "a group of groups": (said(actor={"id": f"{LMS}/teams/2", "type": "Group", "members": [TEAM, f"{LMS}/teams/2", EVE]}), [(one, other("ToolUseEvent.Used")) for one in (ADA_ID, BOB_ID, EVE_ID)]),
    "an answer for somebody else": (
        answer("FillinBlankResponse", value="a") | {"actor": BOB},
        [(BOB_ID, other("AssessmentItemEvent.Completed")), (ADA_ID, CourseQuizAnswered(occurred_at=AT, course=COURSE, problem="lms.example.com/sections/7/quizzes/q1", attempt=2, answers=(("response", "a"),)))],
    ),
    "an attempt of one of a group": (
        said("AssessmentEvent", "Submitted", actor=TEAM, object=QUIZ, generated=ATTEMPT),
        [(ADA_ID, CourseQuizAnswered(occurred_at=AT, course=COURSE, problem="lms.example.com/sections/7/quizzes/q1", attempt=2)), (BOB_ID, other("AssessmentEvent.Submitted"))],
    ),
    "an attempt of nobody known": (
        said("AssessmentEvent", "Submitted", actor=BOB, object=QUIZ, generated={**ATTEMPT, "assignee": {"id": "_:x", "type": "Person"}}),
        [(BOB_ID, other("AssessmentEvent.Submitted"))],
    ),
    "a post for somebody else": (
        said("MessageEvent", "Posted", actor=BOB, object={"id": f"{LMS}/m/1", "type": "Message", "body": "Hello", "creators": [ADA]}),
        [(BOB_ID, other("MessageEvent.Posted")), (ADA_ID, CoursePostCreated(occurred_at=AT, course=COURSE, kind="thread", body="Hello"))],
    ),
    "two that share an IRI": (said(actor={"id": ADA["id"], "type": "SoftwareApplication"}, membership={"id": "urn:m", "type": "Membership", "member": ADA}), [(ADA_ID, other("ToolUseEvent.Used"))]),
}  # fmt: skip


@pytest.mark.parametrize("case", SPLIT)
def test_each_person_has_what_concerns_them(case: str) -> None:
    """Who acted what was done, whose attempt was graded the grade, anybody else the role that they had."""
    event, wanted = SPLIT[case]
    assert people_of(event) == wanted


@pytest.mark.parametrize(
    ("spelling", "plain"),
    [
        (f"{LMS}/people/%61d%61", ADA["id"]),
        (f"{LMS}/people/j%c3%b6rg%2fx", f"{LMS}/people/j%C3%B6rg%2Fx"),
        (f"{LMS}/people/%ada", f"{LMS}/people/%ADa"),
        (f"{LMS}/people/100%", f"{LMS}/people/100%"),
    ],
)
def test_a_person_has_one_spelling(spelling: str, plain: str) -> None:
    """So that nobody who was erased comes back under another one."""
    ((identity, _),) = people_of(said(actor=spelling))
    assert identity == Identity("caliper:person", plain)
    assert person_of(plain) == (identity.namespace, identity.value)


def test_an_address_is_known_by_its_hash() -> None:
    """So that it is one person with the same address in xAPI, and no other rule holds for it."""
    ((identity, _),) = people_of(said(actor={"id": "mailto:Ada@EXAMPLE.com", "type": "Person"}))
    digest = hashlib.sha1(b"mailto:Ada@example.com", usedforsecurity=False).hexdigest()
    assert identity == Identity("xapi:mbox_sha1sum", digest)


@pytest.mark.parametrize(
    "actor",
    [APP, LMS, {"id": "_:anybody", "type": "Person"}, {"type": "Person"}, "http://purl.imsglobal.org/caliper/Person", "HTTPS://PURL.imsglobal.org/ctx/caliper/v1p2/Person", {"id": f"{LMS}/teams/1", "type": "Group", "members": [APP, f"{LMS}/teams/1"]}],
    ids=("software", "the application by its IRI", "blank", "no id", "anybody", "anybody by https", "a group of itself"),
)  # fmt: skip
def test_what_nobody_did_is_nobodys(actor: object) -> None:
    """It waits under its session, and links nobody."""
    result = parsed(said(actor=actor, session=f"{LMS}/sessions/5"))
    assert (result.people, result.unattributed) == ((), (other("ToolUseEvent.Used"),))
    assert (result.anonymous, result.device) == (f"session:{LMS}/sessions/5", None)


def test_a_session_and_its_client_are_the_acting_persons() -> None:
    """Of the client only families stay, and its address is handed on to be looked up; a grader's session says nothing of the student."""
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
    client = {"id": "urn:c", "type": "SoftwareApplication", "userAgent": agent, "ipAddress": "192.0.2.7"}
    session = {"id": f"{LMS}/sessions/5", "type": "Session", "client": client}
    own, login = (
        parsed(said(session=session)),
        parsed(said("SessionEvent", "LoggedIn", object=APP, target=session)),
    )
    of_other = parsed(graded(actor=APP, session=session))
    assert own.device == DeviceObserved(
        occurred_at=AT, browser="Firefox", system="Linux", device_class="desktop"
    )
    assert [one.anonymous for one in (own, login, of_other)] == [f"session:{LMS}/sessions/5"] * 2 + [None]
    assert (own.address, of_other.address) == ("192.0.2.7", None)
    assert of_other.device is None


@pytest.mark.parametrize(
    ("whose", "links"),
    [
        (ADA, True),
        (ADA["id"].upper().replace("/PEOPLE/ADA", "/people/ada"), True),
        (BOB, False),
        (None, True),
    ],
)
def test_a_session_of_somebody_else_links_nobody(whose: object, links: bool) -> None:  # noqa: FBT001 - a table
    """Whose session it is says the session itself, if anything does."""
    session = {"id": f"{LMS}/sessions/5", "type": "Session", "user": whose}
    assert parsed(said(session=session)).anonymous == (f"session:{LMS}/sessions/5" if links else None)


AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
CLIENT: Final = {"id": "urn:c", "type": "SoftwareApplication", "userAgent": AGENT, "ipAddress": "192.0.2.7"}
SESSION: Final = {
    "id": f"{LMS}/sessions/5",
    "type": "Session",
    "client": CLIENT,
    "startedAtTime": "2026-03-01T11:00:00Z",
}


@pytest.mark.parametrize(
    "around",
    [
        {"session": {**SESSION, "user": BOB}},
        {"session": SESSION, "federatedSession": {**SESSION, "user": BOB}},
        {"session": SESSION["id"], "target": {**SESSION, "user": BOB["id"]}},
        {"session": SESSION, "actor": {"id": f"{LMS}/teams/1", "type": "Group", "members": [BOB]}},
    ],
)
def test_an_address_and_a_device_of_somebody_elses_session_are_nobodys(around: Members) -> None:
    """Whichever description of the session says whose it is: the actor was not there."""
    result = parsed(said(**around))
    assert (result.anonymous, result.address, result.device) == (None, None, None)


@pytest.mark.parametrize("actor", [ADA, {"id": "_:x", "type": "Person"}])
@pytest.mark.parametrize(
    "session", ["_:s", "5", "http://purl.imsglobal.org/ctx/caliper/v1p2/Session", f"urn:{'s' * 300}"]
)
def test_a_session_that_other_events_name_alike_links_nobody(session: str, actor: Members) -> None:
    """A blank node, or a name that is no IRI, is another session in the next event: it would join strangers."""
    assert parsed(said(actor=actor, session=session)).anonymous is None


def test_nothing_is_kept_that_no_fact_declares() -> None:
    """Neither names, descriptions, comments, extensions nor other identifiers."""
    mark = "marker-qzx9"
    more = {
        "name": mark,
        "description": mark,
        "extensions": {"login": mark},
        "otherIdentifiers": [{"type": "SystemIdentifier", "identifier": mark}],
    }
    event = graded(
        actor={**BOB, **more}, object={**ATTEMPT, **more}, group={**SECTION, **more}, extensions=more
    )
    facts = [fact for person in parsed(event).people for fact in person.facts]
    assert mark not in str(msgspec.json.encode(facts))


@pytest.mark.parametrize(
    "member",
    ["name", "firstName", "lastName", "email", "otherIdentifiers"],
)
def test_whatever_a_person_is_called_is_struck(member: str) -> None:
    """From paths and from the names of things; also where a second description alone has it."""
    called: object = (
        [{"type": "SystemIdentifier", "identifier": "marker"}] if member == "otherIdentifiers" else "marker"
    )
    roster = {"id": "urn:m", "type": "Membership", "member": {**ADA, member: called}}
    view = said("ViewEvent", "Viewed", object=f"{LMS}/wiki/marker", membership=roster)
    quiz = said("AssessmentEvent", "Submitted", object=f"{LMS}/wiki/marker", membership=roster)
    assert people_of(view) == [(ADA_ID, UsagePageViewed(occurred_at=AT, course=COURSE, path="/wiki/:id"))]
    assert people_of(quiz) == [
        (ADA_ID, CourseQuizAnswered(occurred_at=AT, course=COURSE, problem="lms.example.com/wiki/:id"))
    ]


def test_no_fact_holds_the_name_of_a_person() -> None:
    """Of any event here: neither of the actor's IRI nor of anybody's in it."""
    for event in [*(one for one, _ in MAPPED), *(one for one, _ in SPLIT.values())]:
        facts = msgspec.json.encode(
            [fact for person in parsed(event).people for fact in person.facts]
        ).lower()
        assert [name for name in (b"ada", b"bob", b"000e") if name in facts] == []


# What is refused -------------------------------------------------------------------------

PAN: Final = "4111111111111111"
MISMATCHES: Final[list[Members]] = [
    *[but({name: ...}) for name in ("@context", "id", "type", "actor", "action", "object")],
    *[but({name: 7}) for name in ("@context", "id", "type", "actor", "action", "object", "group", "session", "edApp")],
    *[but({name: []}) for name in ("@context", "actor", "object", "target", "generated", "membership")],
    *[but({name: {"id": "urn:x"}}) for name in ("actor", "object", "target", "generated", "referrer", "federatedSession")],
    *[but({name: ""}) for name in ("actor", "object", "group")],
    *[but({"@context": context}) for context in ("https://example.com/context", V1P1 + "x", "http://purl.imsglobal.org/ctx/caliper/v1p0", {"actor": "x"}, [V1P1, {"actor": "x"}], [V1P1, "https://example.com/x"])],
    *[said(actor={**ADA, "@context": context}) for context in ("https://example.com/context", {"name": "x"}, None)],
    said(generated={"type": "Attempt", "assignee": [{**ADA, "@context": {"assignee": "x"}}]}),
    *[said(id=text) for text in ("e-1", "urn:uuid:1", UUID + "0", f"{LMS}/events/1")],
    said(object="a\0b"),
    said(actor="x" * 1025),
    said(actor={"id": f"{LMS}/teams/1", "type": "Group", "members": [{"id": f"{LMS}/p/{n}", "type": "Person"} for n in range(PEOPLE_MAX + 1)]}),
    media("Started", target={"id": "urn:t", "type": "MediaLocation", "currentTime": "soon"}),
    media("Started", target={"id": "urn:t", "type": "MediaLocation", "currentTime": 9}),
    media("Started", target={"id": "urn:t", "type": "MediaLocation", "currentTime": "PT99999H"}),
    media("ChangedSpeed", extensions={"newSpeed": "ada"}),
    graded(generated={"id": "urn:s", "type": "Score", "scoreGiven": -1}),
    graded(generated={"id": "urn:s", "type": "Score", "scoreGiven": "8"}),
    graded(object={**ATTEMPT, "count": "two"}),
    graded(object={**ATTEMPT, "assignable": SECTION}, generated={"id": "urn:s", "type": "Score", "scoreGiven": 1, "maxScore": 5e-324}),
    answer("FillinBlankResponse", values="a"),
    answer("FillinBlankResponse", values=[{}]),
    answer("FillinBlankResponse", values=["a"] * 201),
    answer("FillinBlankResponse", value="x" * 4097),
    said("MessageEvent", "Posted", object={"id": "urn:m", "type": "Message", "body": 7}),
    said("MessageEvent", "Posted", object={"id": "urn:m", "type": "Message", "body": "x" * 65537}),
]  # fmt: skip


@pytest.mark.parametrize("event", MISMATCHES, ids=lambda event: ascii(event.get("type"))[:30])
def test_what_is_no_event_is_refused(event: Members) -> None:
    """Nothing is cut, and no context but Caliper's own is taken."""
    assert parse(json.dumps(event).encode()) is Refusal.SCHEMA_MISMATCH


@pytest.mark.parametrize(
    ("event", "refusal"),
    [
        (said("Person", "Used"), Refusal.UNKNOWN_EVENT),
        (said("AdaEvent", "Used"), Refusal.UNKNOWN_EVENT),
        (said("ToolUseEvent", "Ada"), Refusal.UNKNOWN_EVENT),
        (said(eventTime=...), Refusal.TIME_MISSING),
        (said(eventTime="2026-03-01T12:00:00"), Refusal.TIME_NAIVE),
        (said(eventTime=1772366400), Refusal.TIME_INVALID),
        (said(actor={"id": "no iri", "type": "Person"}), Refusal.ID_INVALID),
        (said(actor={"id": "mailto:nobody", "type": "Person"}), Refusal.ID_INVALID),
        (said(object={**PAGE, "name": PAN}), Refusal.CARD_NUMBER),
        (said(extensions={"password": "hunter2"}), Refusal.SECRET),
    ],
)
def test_a_refusal_says_its_reason(event: Members, refusal: Refusal) -> None:
    """In the documented order."""
    assert parse(json.dumps(event).encode()) is refusal


@pytest.mark.parametrize(
    "context",
    [V1P1, V1P2, [V1P1], [V1P2, f"{V1P1}/SurveyProfile-extension"], V1P1.replace("http:", "https:")],
)
def test_a_context_counts_by_its_name(context: object) -> None:
    """Of both versions, with the extensions of profiles."""
    assert people_of(but({"@context": context})) == [(ADA_ID, other("ToolUseEvent.Used"))]


# Lines -----------------------------------------------------------------------------------


def envelope(*data: object, **changes: object) -> bytes:
    """Return an envelope."""
    whole = {
        "sensor": f"{LMS}/sensor",
        "sendTime": "2026-03-01T12:00:01.000Z",
        "dataVersion": V1P1,
        "data": data,
        **changes,
    }
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def outcomes(line: bytes) -> list[str]:
    """Return what becomes of each event of a line."""
    found = [one if isinstance(one, Refusal) else parse(one) for _, one in events([(3, line)])]
    return [str(one) if isinstance(one, Refusal) else "taken" for one in found]


BARE: Final = but({"@context": ...})


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (envelope(said()), ["taken"]),
        (envelope(said(), BARE, said(actor=...), 7), ["taken", "taken", "schema_mismatch", "not_an_object"]),
        (envelope(said(), {"id": ADA["id"], **ADA, "@context": V1P1}), ["taken", "schema_mismatch"]),
        (envelope(said(object={**PAGE, "name": PAN}), said()), ["card_number", "taken"]),
        (envelope(BARE, dataVersion=V1P2), ["taken"]),
        (envelope({**BARE, "object": {**PAGE, "@context": V1P1}}), ["taken"]),
        (envelope({**BARE, "@context": None}), ["schema_mismatch"]),
        (envelope({}), ["schema_mismatch"]),
        (envelope(said(), dataVersion="http://purl.imsglobal.org/ctx/caliper/v1p0"), ["schema_mismatch"]),
        (envelope(said(), dataVersion=7), ["schema_mismatch"]),
        (envelope(said(), sensor=""), ["schema_mismatch"]),
        (envelope(said(), sendTime="now"), ["schema_mismatch"]),
        (envelope(said(), data={}), ["schema_mismatch"]),
        (envelope(), ["schema_mismatch"]),
        (envelope(*[0] * (ITEMS_MAX + 1)), ["line_too_long"]),
        (json.dumps([said(), said(id="x")]).encode(), ["taken", "schema_mismatch"]),
        (json.dumps(said()).encode(), ["taken"]),
        (json.dumps(BARE).encode(), ["schema_mismatch"]),
        (b"[]", ["not_an_object"]),
        (b'{"dataVersion":1,"dataVersion":2,"data":[]}', ["duplicate_key"]),
        (envelope(said())[:-1], ["not_json"]),
        (b"\xff" + envelope(said()), ["not_utf8"]),
    ],
)  # fmt: skip
def test_each_event_of_a_line_has_its_outcome(line: bytes, wanted: list[str]) -> None:
    """An envelope gives its version to events without a context; a bad one is one refusal."""
    assert outcomes(line) == wanted


def test_events_keep_the_number_of_their_line_and_refusals_pass() -> None:
    """In order."""
    lines: list[tuple[int, bytes | Refusal]] = [(1, envelope(said(), said())), (2, Refusal.LINE_TOO_LONG)]
    assert [number for number, _ in events(lines)] == [1, 1, 2]


def test_copies_are_told_by_id_and_compared_whole() -> None:
    """Whatever envelope brings them."""
    one, again = parsed(said()), parsed(said(id=UUID.upper().replace("URN:UUID", "urn:uuid")))
    assert one.source_event_id == again.source_event_id == UUID
    assert one.digest_input != parsed(said(object=VIDEO)).digest_input


# Any bytes -------------------------------------------------------------------------------

WORDS: Final = st.sampled_from([*TYPES, *ACTIONS, ADA["id"], BOB["id"], V1P1, "Person", "Group", UUID, LMS])
NAMES: Final = st.sampled_from(
    ("id", "type", "assignee", "members", "member", "user", "creators", "replyTo", "attempt", "assignable", "isPartOf",
     "subOrganizationOf", "organization", "value", "values", "currentTime", "count", "withAgents", "scoreGiven", "client")
)  # fmt: skip
ENTITIES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=5),
    max_leaves=15,
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(sorted(TYPES)), st.sampled_from(sorted(ACTIONS)),
    st.dictionaries(
        st.sampled_from(("actor", "object", "target", "generated", "group", "membership", "session", "edApp", "extensions", "eventTime", "id")),
        ENTITIES, max_size=6,
    ),
)  # fmt: skip
def test_any_members_have_an_outcome(kind: str, action: str, changes: Members) -> None:
    """Whatever entities hold, and what they hold again; a taken event is what the schemas allow."""
    event = said(kind, action, **changes)
    found = parse(json.dumps(event).encode())
    assert isinstance(found, Parsed | Refusal)
    if isinstance(found, Parsed):
        parsed(event)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_any_bytes_have_an_outcome(line: bytes) -> None:
    """As a line, and after it was split."""
    assert isinstance(parse(line), Parsed | Refusal)
    assert all(isinstance(one, bytes | Refusal) for _, one in events([(1, line)]))


@pytest.mark.parametrize("place", ["name", "body", "iri", "actor", "course", "key"])
def test_naughty_strings_are_kept_whole_or_refused(place: str) -> None:
    """Each in one place of an event: what is taken fits its schema."""
    for text in NAUGHTY:
        event = {
            "name": said(actor={**ADA, "name": text}),
            "body": said("MessageEvent", "Posted", object={"id": "urn:m", "type": "Message", "body": text}),
            "iri": said("ViewEvent", "Viewed", object=f"{LMS}/{text}"),
            "actor": said(actor={"id": f"{LMS}/{text}", "type": "Person"}),
            "course": said(group={"id": f"{LMS}/{text}", "type": "CourseSection"}),
            "key": said(extensions={text: text}),
        }[place]
        found = parse(json.dumps(event).encode())
        if isinstance(found, Parsed):
            parsed(event)
        if place == "body" and isinstance(found, Parsed) and text:
            assert found.people[0].facts == (
                CoursePostCreated(occurred_at=AT, course=COURSE, kind="thread", body=text),
            )


def test_bounds_hold() -> None:
    """Of size and of depth."""
    deep = json.dumps(said()).encode()[:-1] + b',"x":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}"
    assert parse(b'{"x":"' + b"a" * LINE_BYTES_MAX + b'"}') is Refusal.LINE_TOO_LONG
    assert parse(deep) is Refusal.TOO_DEEP
    assert repr(parsed(said())) == "Parsed(1 people, 0 unattributed)"
