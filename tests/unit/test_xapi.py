# ruff: noqa: E501 - a table reads by its rows
"""What a statement says, and of whom; what is never kept; and that any bytes have an outcome."""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.arrays import ITEMS_MAX
from privacy_ledger.adapters.formats.json_lines import DEPTH_MAX, LINE_BYTES_MAX
from privacy_ledger.adapters.formats.xapi import PEOPLE_MAX, parse, statements
from privacy_ledger.adapters.formats.xapi_rules import VOIDED
from privacy_ledger.domain.events import (
    AccountLoggedIn,
    CertificateIssued,
    CourseCompleted,
    CourseEnrolled,
    CourseGraded,
    CoursePostCreated,
    CourseQuizAnswered,
    CourseUnenrolled,
    Fact,
    UsageLinkClicked,
    UsageOther,
    UsagePageViewed,
    VideoCaptionsToggled,
    VideoCompleted,
    VideoLoaded,
    VideoPaused,
    VideoPlayed,
    VideoSeeked,
    VideoSpeedChanged,
)
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed
from privacy_ledger.ports.keys import Identity
from tests.unit.test_xapi_rules import rows

Members = dict[str, Any]

NAUGHTY: Final[list[str]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "naughty-strings" / "blns.json").read_bytes()
)
NOW: Final = datetime(2026, 3, 2, tzinfo=UTC)
AT: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIME: Final = "2026-03-01T12:00:00Z"
COURSE: Final = "course-v1:ExampleX+CS101+T1"
COURSE_IRI: Final = f"https://lms.example.com/course/{COURSE}"
BLOCK: Final = "block-v1:ExampleX+CS101+T1+type@video+block@0b9e39477cf34507a7a48f74be381fdd"
VIDEO_IRI: Final = f"https://lms.example.com/xblock/{BLOCK}"
UUID: Final = "9c5dc1fa-6a4f-4a54-9e2c-3f0d0d6ab1c7"
ADL: Final = "http://adlnet.gov/expapi/verbs/"
W3ID: Final = "https://w3id.org/xapi/"
GRADE: Final = "http://www.tincanapi.co.uk/activitytypes/grade_classification"
EXT: Final = f"{W3ID}video/extensions/"
VIDEO_TYPE: Final = f"{W3ID}video/activity-type/video"
COURSE_TYPE: Final = "http://adlnet.gov/expapi/activities/course"
ADA: Final[Members] = {"mbox": "mailto:ada@example.com"}
BOB: Final[Members] = {"account": {"homePage": "https://lms.example.com", "name": "bob"}}
EVE: Final[Members] = {"openid": "https://openid.example.com/eve"}
ADA_ID: Final = Identity(
    "xapi:mbox_sha1sum", hashlib.sha1(b"mailto:ada@example.com", usedforsecurity=False).hexdigest()
)
BOB_ID: Final = Identity("xapi:account", "https://lms.example.com bob")
EVE_ID: Final = Identity("xapi:openid", "https://openid.example.com/eve")


def group(*members: Members, **more: object) -> Members:
    """Return a group."""
    return {"objectType": "Group", "member": list(members), **more}


def activity(iri: str, type_: str | None = None, **definition: object) -> Members:
    """Return an activity."""
    given = {**definition, **({} if type_ is None else {"type": type_})}
    return {"id": iri, **({"definition": given} if given else {})}


def said(verb: str = f"{ADL}attended", thing: Members | None = None, **more: object) -> Members:
    """Return a statement of ada's within a course."""
    around = {"contextActivities": {"parent": [activity(COURSE_IRI, COURSE_TYPE)]}}
    return {
        "actor": ADA, "verb": {"id": verb}, "object": thing or activity("https://lms.example.com/meeting/7"),
        "context": around, "timestamp": TIME, **more,
    }  # fmt: skip


def test_a_statement_without_a_time_is_refused_where_nobody_says_otherwise() -> None:
    """As of now it would be new each time it is sent, also after an erasure."""
    statement = said()
    del statement["timestamp"]
    assert parse(line_of(statement), received_at=None) is Refusal.TIME_MISSING
    assert isinstance(parse(line_of(statement), received_at=NOW), Parsed)


def line_of(statement: object) -> bytes:
    """Return a line."""
    return json.dumps(statement).encode()


def parsed(statement: Members) -> Parsed:
    """Return what a statement says, which must not be refused."""
    result = parse(line_of(statement), received_at=NOW)
    assert isinstance(result, Parsed), result
    check_schemas(result)
    return result


def check_schemas(result: Parsed) -> None:
    """Check that every fact is what its schema allows: constructors do not."""
    facts: list[Fact] = [fact for person in result.people for fact in person.facts]
    facts += result.unattributed
    assert facts
    for fact in facts:
        assert msgspec.json.decode(msgspec.json.encode(fact), type=type(fact)) == fact


def people_of(statement: Members) -> list[tuple[Identity, tuple[Fact, ...]]]:
    """Return each person of a statement, with the facts."""
    found = []
    for person in parsed(statement).people:
        (identity,) = person.identities
        found.append((identity, person.facts))
    return found


def other(action: str) -> UsageOther:
    """Return the fact of something else in the course."""
    return UsageOther(occurred_at=AT, course=COURSE, action=action)


VIDEO: Final = activity(VIDEO_IRI, VIDEO_TYPE)
QUESTION: Final = activity(
    "https://lms.example.com/quiz/q7",
    "http://adlnet.gov/expapi/activities/cmi.interaction",
    interactionType="choice",
)
ESSAY: Final = activity(
    "https://lms.example.com/quiz/q8",
    None,
    interactionType="long-fill-in",
    extensions={"http://id.tincanapi.com/extension/attempt-id": 2},
)
ITSELF: Final = activity(COURSE_IRI, COURSE_TYPE)
V: Final[Members] = {"occurred_at": AT, "course": COURSE, "video": BLOCK}
C: Final[Members] = {"occurred_at": AT, "course": COURSE}
CASES: Final[list[tuple[str, Members, Members, Fact]]] = [
    (f"{W3ID}video/verbs/played", VIDEO, {"extensions": {f"{EXT}time": 1.5}}, VideoPlayed(**V, position_ms=1500)),
    (f"{W3ID}video/verbs/played", activity(VIDEO_IRI), {}, VideoPlayed(**V)),
    (f"{W3ID}video/verbs/played", VIDEO, {"extensions": {f"{EXT}time": "PT1M2.5S"}}, VideoPlayed(**V, position_ms=62500)),
    (f"{W3ID}video/verbs/paused", VIDEO, {"extensions": {f"{EXT}time": 0}}, VideoPaused(**V, position_ms=0)),
    (f"{W3ID}video/verbs/seeked", VIDEO, {"extensions": {f"{EXT}time-from": 3.25, f"{EXT}time-to": 147}}, VideoSeeked(**V, from_ms=3250, to_ms=147000)),
    (f"{ADL}initialized", VIDEO, {}, VideoLoaded(**V)),
    (f"{ADL}completed", VIDEO, {"completion": True, "extensions": {f"{EXT}time": 9}}, VideoCompleted(**V, position_ms=9000)),
    (f"{ADL}terminated", VIDEO, {"completion": True}, VideoCompleted(**V)),
    (f"{ADL}terminated", VIDEO, {"extensions": {f"{EXT}progress": 1, f"{EXT}time": 3}}, VideoCompleted(**V, position_ms=3000)),
    (f"{ADL}terminated", VIDEO, {"extensions": {f"{EXT}length": 9, f"{EXT}time": 9}}, VideoCompleted(**V, position_ms=9000)),
    (f"{ADL}terminated", VIDEO, {"extensions": {f"{EXT}length": 9, f"{EXT}time": 3}}, other(f"{ADL}terminated")),
    (f"{ADL}interacted", VIDEO, {"extensions": {f"{W3ID}openedx/extension/speed-to": "1.25x"}}, VideoSpeedChanged(**V, speed="1.25x")),
    (f"{ADL}interacted", VIDEO, {"extensions": {f"{EXT}speed": 2}}, VideoSpeedChanged(**V, speed="2")),
    (f"{ADL}interacted", VIDEO, {"extensions": {f"{EXT}cc-enabled": True}}, VideoCaptionsToggled(**V, is_shown=True)),
    (f"{ADL}interacted", VIDEO, {"extensions": {f"{EXT}volume": 1}}, other(f"{ADL}interacted")),
    (f"{ADL}initialized", activity("https://lms.example.com/unit/one?x=1"), {}, UsagePageViewed(**C, path="/unit/one")),
    (f"{ADL}experienced", activity("https://lms.example.com/users/ada/page"), {}, UsagePageViewed(**C, path="/users/:id/page")),
    (f"{ADL}experienced", activity("urn:example:page"), {}, other(f"{ADL}experienced")),
    ("http://id.tincanapi.com/verb/viewed", activity("https://lms.example.com/unit/two"), {}, UsagePageViewed(**C, path="/unit/two")),
    (f"{ADL}experienced", activity("https://www.example.org/page?u=ada", "http://adlnet.gov/expapi/activities/link"), {}, UsageLinkClicked(**C, target="www.example.org/page")),
    (f"{ADL}registered", ITSELF, {}, CourseEnrolled(**C)),
    (f"{ADL}registered", activity("https://lms.example.com/event/7"), {}, other(f"{ADL}registered")),
    ("http://id.tincanapi.com/verb/unregistered", ITSELF, {}, CourseUnenrolled(**C)),
    (f"{ADL}answered", QUESTION, {"response": "a[,]b", "success": True, "score": {"raw": 1, "max": 2}}, CourseQuizAnswered(**C, problem="lms.example.com/quiz/q7", answers=(("response", "a"), ("response", "b")), is_correct=True, score=1.0, score_max=2.0)),
    (f"{ADL}answered", ESSAY, {"response": "My own[,] words", "score": {"scaled": 0.5}}, CourseQuizAnswered(**C, problem="lms.example.com/quiz/q8", answers=(("response", "My own[,] words"),), score=0.5, score_max=1.0, attempt=2)),
    (f"{W3ID}acrossx/verbs/evaluated", QUESTION, {}, CourseQuizAnswered(**C, problem="lms.example.com/quiz/q7")),
    (f"{ADL}passed", ITSELF, {"score": {"scaled": 0.75, "raw": 3, "max": 5}}, CourseGraded(**C, score=0.75, has_passed=True)),
    (f"{ADL}failed", ITSELF, {"score": {"raw": 1, "max": 4}}, CourseGraded(**C, score=0.25, has_passed=False)),
    (f"{ADL}scored", ITSELF, {"score": {"raw": 1}}, CourseGraded(**C)),
    (f"{ADL}passed", activity("https://lms.example.com/unit/au3"), {"success": True, "response": "never kept"}, CourseQuizAnswered(**C, problem="lms.example.com/unit/au3", is_correct=True)),
    (f"{ADL}completed", ITSELF, {}, CourseCompleted(**C)),
    (f"{ADL}completed", activity("https://lms.example.com/unit/au3"), {}, other(f"{ADL}completed")),
    (f"{W3ID}adl/verbs/satisfied", ITSELF, {}, CourseCompleted(**C)),
    ("http://id.tincanapi.com/verb/earned", activity("https://lms.example.com/c/0123456789", "http://id.tincanapi.com/activitytype/certificate"), {}, CertificateIssued(**C)),
    ("http://id.tincanapi.com/verb/earned", ITSELF, {"score": {"scaled": 1.0}, "extensions": {GRADE: "B+"}}, CourseGraded(**C, score=1.0, letter="B+")),
    ("http://id.tincanapi.com/verb/earned", activity("https://lms.example.com/badge"), {}, other("http://id.tincanapi.com/verb/earned")),
    (f"{W3ID}acrossx/verbs/posted", activity("https://lms.example.com/threads/1"), {"response": "Why?"}, CoursePostCreated(**C, kind="thread", body="Why?")),
    (f"{W3ID}acrossx/verbs/posted", activity("https://lms.example.com/comments/1"), {}, CoursePostCreated(**C, kind="comment")),
    (f"{ADL}commented", activity("https://lms.example.com/threads/1"), {"response": "Because"}, CoursePostCreated(**C, kind="comment", body="Because")),
    (f"{W3ID}adl/verbs/logged-in", activity("https://lms.example.com/"), {}, AccountLoggedIn(occurred_at=AT)),
    (f"{ADL}attended", ITSELF, {"response": "never kept"}, other(f"{ADL}attended")),
    ("http://example.com/verbs#defenestrated", ITSELF, {}, other("http://example.com/verbs#defenestrated")),
    ("http://example.com/verbs/0123456789?u=ada#ada", ITSELF, {}, other("http://example.com/verbs/:id")),
    ("https://ada@example.com/users/ada/did", ITSELF, {}, other("https://example.com/users/:id/did")),
    ("urn:example:read", ITSELF, {}, other("urn:example:read")),
    ("urn:example:ada", ITSELF, {}, other("xapi.other")),
    ("tag:example.com,2026:read", ITSELF, {}, other("xapi.other")),
    (f"http://example.com/{'a/' * 100}", ITSELF, {}, other("xapi.other")),
    (VOIDED, {"objectType": "StatementRef", "id": UUID}, {}, other("xapi.voided")),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "thing", "result", "fact"), CASES)
def test_a_statement_is_its_fact(verb: str, thing: Members, result: Members, fact: Fact) -> None:
    """Of the actor, in the course that the object, its parent or its grouping is."""
    more = {"result": result} if result else {}

    assert people_of(said(verb, thing, **more)) == [(ADA_ID, (fact,))]


def test_a_question_of_a_problem_of_several_is_answered_as_open_edx_says_it() -> None:
    """Its parent is of a kind that the specification does not know, and the course is the grouping."""
    problem = f"{BLOCK.replace('video', 'problem')}_2_1"
    parent = {"objectType": "GroupActivity", **activity(f"https://lms.example.com/xblock/{BLOCK}")}
    around = {"contextActivities": {"parent": [parent], "grouping": [ITSELF]}}
    statement = said(
        f"{W3ID}acrossx/verbs/evaluated", activity(f"https://lms.example.com/xblock/{problem}"),
        context=around, result={"response": "['a piano', 'a guitar']", "success": True},
    )  # fmt: skip
    answer = CourseQuizAnswered(
        **C, problem=problem, answers=(("response", "['a piano', 'a guitar']"),), is_correct=True
    )

    assert people_of(statement) == [(ADA_ID, (answer,))]
    assert people_of(said(thing=parent)) == [(ADA_ID, (other(f"{ADL}attended"),))]


def test_a_player_may_be_set_in_two_ways_at_once() -> None:
    """One statement, two facts of one person."""
    result = {"extensions": {f"{EXT}speed": "2x", f"{EXT}cc-subtitle-enabled": False}}
    ((_, facts),) = people_of(said(f"{ADL}interacted", VIDEO, result=result))

    assert facts == (VideoSpeedChanged(**V, speed="2x"), VideoCaptionsToggled(**V, is_shown=False))


@pytest.mark.parametrize(
    ("thing", "around", "course"),
    [
        (activity(COURSE_IRI), {}, COURSE),
        (activity("https://lms.example.com/courses/ExampleX/CS101/T1/unit"), {}, "ExampleX/CS101/T1"),
        (activity(COURSE), {}, COURSE),
        (activity("https://x.example.com/1"), {"grouping": activity(COURSE_IRI)}, COURSE),
        (activity("https://x.example.com/1"), {"parent": [activity("https://x.example.com/2")], "grouping": [activity("https://x.example.com/3"), activity(COURSE_IRI)]}, COURSE),
        (activity("https://x.example.com/1"), {"category": activity(COURSE_IRI), "other": activity(COURSE_IRI)}, None),
        ({"objectType": "Agent", **BOB}, {"grouping": activity(COURSE_IRI)}, COURSE),
    ],
)  # fmt: skip
def test_the_course_is_the_object_or_what_it_is_a_part_of(
    thing: Members, around: Members, course: str | None
) -> None:
    """A category and other activities are no course of the statement's."""
    facts = people_of(said(thing=thing, context={"contextActivities": around}))[0][1]
    assert facts == (UsageOther(occurred_at=AT, course=course, action=f"{ADL}attended"),)


@pytest.mark.parametrize("verb", [f"{ADL}answered", f"{ADL}passed", f"{ADL}commented", f"{ADL}registered"])
def test_coursework_outside_of_a_course_is_only_that_something_was_done(verb: str) -> None:
    """No fact of coursework is without a course, and the answer is not kept elsewhere."""
    statement = said(verb, QUESTION, context={}, result={"response": "a"})
    assert people_of(statement) == [(ADA_ID, (UsageOther(occurred_at=AT, action=verb),))]


@pytest.mark.parametrize(
    ("iri", "code"),
    [
        ("https://www.example.com/watch?v=abc_-9&list=x&u=ada", "www.example.com/watch?v=abc_-9"),
        ("https://h5p.example.com/admin-ajax.php?action=h5p_embed&id=3#x", "h5p.example.com/admin-ajax.php?id=3"),
        ("https://lms.example.com/user/view.php?id=3", "lms.example.com/user/:id"),
        ("https://lms.example.com/mod/quiz/12345678", "lms.example.com/mod/quiz/12345678"),
        ("https://lms.example.com/ada/quiz?id=ada", "lms.example.com/:id/quiz"),
        ("https://lms.example.com/ada%40example.com/quiz", "lms.example.com/:id/quiz"),
        ("https://203.0.113.7:8080/quiz", ":id/quiz"),
        ("urn:uuid:9c5dc1fa-6a4f-4a54-9e2c-3f0d0d6ab1c7", "urn:uuid:9c5dc1fa-6a4f-4a54-9e2c-3f0d0d6ab1c7"),
        (VIDEO_IRI.replace("+", "%2B").replace("@", "%40"), BLOCK),
    ],
)  # fmt: skip
def test_an_activity_is_known_by_its_address_without_people(iri: str, code: str) -> None:
    """Parameters that tell activities apart stay; queries and names of people do not."""
    ((_, (fact,)),) = people_of(said(f"{W3ID}video/verbs/played", activity(iri)))
    assert isinstance(fact, VideoPlayed)
    assert fact.video == code


# People --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "identity"),
    [
        (ADA, ADA_ID),
        ({"mbox": "mailto:ada@EXAMPLE.com"}, ADA_ID),
        ({"mbox_sha1sum": ADA_ID.value}, ADA_ID),
        ({"mbox_sha1sum": ADA_ID.value.upper()}, ADA_ID),
        ({"objectType": "Agent", "name": "Somebody", **ADA}, ADA_ID),
        (BOB, BOB_ID),
        ({"account": {"homePage": "HTTPS://LMS.example.com/", "name": "bob"}}, BOB_ID),
        ({"account": {"homePage": "https://lms.example.com/a/", "name": "e\u0301ve"}}, Identity("xapi:account", "https://lms.example.com/a/ \u00e9ve")),
        (EVE, EVE_ID),
        ({"openid": "https://OpenID.example.com/eve"}, EVE_ID),
    ],
)  # fmt: skip
def test_a_person_is_one_however_the_identifier_is_written(agent: Members, identity: Identity) -> None:
    """An address and its hash are one; a name never identifies."""
    assert [who for who, _ in people_of(said(actor=agent))] == [identity]


def test_identifiers_of_two_kinds_are_two_namespaces() -> None:
    """One text as an account, an OpenID or a hash is three people's."""
    namespaces = {identity.namespace for identity in (ADA_ID, BOB_ID, EVE_ID)}
    upper = {"mbox": "mailto:Ada@example.com"}

    assert len(namespaces) == 3
    assert people_of(said(actor=upper))[0][0] != ADA_ID


@pytest.mark.parametrize(
    "agent",
    [
        {"mbox": f"mailto:{'a' * 65}@example.com"},
        {"account": {"homePage": "https://lms.example.com", "name": ""}},
        {"account": {"homePage": "https://lms.example.com", "name": "a" * 256}},
        {"account": {"homePage": "https://lms.example.com", "name": "a\nb"}},
        {"account": {"homePage": f"https://lms.example.com/{'a' * 1024}", "name": "a"}},
        {"openid": f"https://openid.example.com/{'a' * 1024}"},
    ],
)
def test_an_identifier_beyond_what_is_kept_is_invalid(agent: Members) -> None:
    """Wherever in the statement its person stands."""
    assert parse(line_of(said(actor=agent)), received_at=NOW) is Refusal.ID_INVALID
    assert parse(line_of(said(context={"instructor": agent})), received_at=NOW) is Refusal.ID_INVALID


def test_each_person_of_a_statement_has_what_concerns_them() -> None:
    """The actor what was done, the others the role that they had; a second role says nothing more."""
    context = {
        "instructor": BOB, "team": group(ADA, EVE, name="Team"),
        "contextActivities": {"parent": activity(COURSE_IRI)},
        "contextAgents": [{"objectType": "contextAgent", "agent": {"mbox": "mailto:c@example.com"}}],
        "contextGroups": [{"objectType": "contextGroup", "group": group(BOB, {"mbox": "mailto:d@example.com"})}],
    }  # fmt: skip
    result = parsed(said(context=context))

    assert result.is_joint
    found = [(person.identities[0], person.facts) for person in result.people]
    assert found[:3] == [
        (ADA_ID, (other(f"{ADL}attended"),)),
        (BOB_ID, (other("xapi.instructor"),)),
        (EVE_ID, (other("xapi.team"),)),
    ]
    assert [facts for _, facts in found[3:]] == [(other("xapi.context"),)] * 2


def test_members_of_a_group_that_acted_have_all_done_it() -> None:
    """The group's own identifier is nobody's."""
    actor = group(ADA, BOB, mbox="mailto:team@example.com")
    played = VideoPlayed(**V)

    assert people_of(said(f"{W3ID}video/verbs/played", VIDEO, actor=actor)) == [
        (ADA_ID, (played,)),
        (BOB_ID, (played,)),
    ]


@pytest.mark.parametrize("thing", [{"objectType": "Agent", **BOB}, group(BOB)])
def test_whom_a_statement_is_about_is_a_person_of_it(thing: Members) -> None:
    """An Agent as the object, or the members of a group."""
    assert people_of(said(thing=thing)) == [
        (ADA_ID, (other(f"{ADL}attended"),)),
        (BOB_ID, (other("xapi.object"),)),
    ]


@pytest.mark.parametrize("actor", [group(), {"objectType": "Group", "mbox": "mailto:team@example.com"}])
def test_a_group_without_members_is_nobody_known(actor: Members) -> None:
    """Its facts are there for the lane."""
    result = parsed(said(actor=actor))
    assert (result.people, result.unattributed) == ((), (other(f"{ADL}attended"),))
    assert (result.anonymous, result.device) == (None, None)


def test_neither_an_authority_nor_people_in_a_sub_statement_are_recorded() -> None:
    """The one is a store's credential, the others' doing is not told as a fact."""
    sub = {
        "objectType": "SubStatement",
        "actor": EVE,
        "verb": {"id": f"{ADL}attended"},
        "object": {"objectType": "Agent", **BOB},
    }
    assert people_of(said(thing=sub, authority=BOB)) == [(ADA_ID, (other(f"{ADL}attended"),))]


def test_more_people_than_the_bound_are_refused() -> None:
    """A line of a megabyte must not register thousands."""
    crowd = [{"mbox": f"mailto:a{number}@example.com"} for number in range(PEOPLE_MAX + 1)]
    assert len(parsed(said(actor=group(*crowd[:-1]))).people) == PEOPLE_MAX
    assert parse(line_of(said(actor=group(*crowd))), received_at=NOW) is Refusal.SCHEMA_MISMATCH


# Times, ids, reasons -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "occurred_at"),
    [
        ({"timestamp": TIME, "stored": "2026-03-01T13:00:00Z"}, AT),
        ({"stored": TIME}, AT),
        ({}, NOW),
    ],
)
def test_a_statement_happened_at_its_timestamp_else_when_it_was_stored_or_came(
    times: Members, occurred_at: datetime
) -> None:
    """As a record store would set it (2.4.7)."""
    statement = {key: value for key, value in said().items() if key != "timestamp"}
    result = parsed({**statement, **times})
    assert result.occurred_at == occurred_at
    assert [
        fact.occurred_at for person in result.people for fact in person.facts if isinstance(fact, UsageOther)
    ] == [occurred_at]


def test_an_id_is_the_source_event_id() -> None:
    """In lower case; without one the line itself names the event."""
    assert parsed(said(id=UUID.upper())).source_event_id == UUID
    assert parsed(said()).source_event_id is None


VERBOSE: Final[Members] = {"id": f"{ADL}attended", "display": {"en": "attended"}}


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"id": UUID, "stored": TIME, "authority": BOB, "version": "1.0.0", "attachments": []}, True),
        ({"timestamp": "2026-03-01T13:00:00+01:00"}, True),
        ({"verb": VERBOSE}, True),
        ({"object": activity("https://lms.example.com/meeting/7", COURSE_TYPE, name={"en": "x"})}, True),
        ({"context": {"contextActivities": {"parent": activity(COURSE_IRI)}}}, True),
        ({"actor": BOB}, False),
        ({"result": {"success": True}}, False),
        ({"result": {"extensions": {"https://example.com/display": {"display": 1}}}}, False),
        ({"context": {}}, False),
        ({"object": activity("https://lms.example.com/meeting/8")}, False),
    ],
)  # fmt: skip
def test_copies_of_a_statement_are_equal_whatever_a_store_did_to_them(
    change: Members, *, is_same: bool
) -> None:
    """What a store may set, convert or leave out is no difference (2.3.1)."""
    first, second = parsed(said()), parsed({**said(), **change})
    assert (first.digest_input == second.digest_input) is is_same


def test_the_order_of_a_groups_members_is_no_difference() -> None:
    """2.3.1: a store may return them in any order."""
    first, second = parsed(said(actor=group(ADA, BOB))), parsed(said(actor=group(BOB, ADA)))
    assert first.digest_input == second.digest_input


LATE: Final[Members] = {"timestamp": "soon"}
LONG_NAME: Final = {"account": {"homePage": "https://lms.example.com", "name": "a" * 256}}


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"", Refusal.NOT_JSON),
        (b"[]", Refusal.NOT_AN_OBJECT),
        (b"null", Refusal.NULL_VALUE),
        (b"\xff", Refusal.NOT_UTF8),
        (b"{" * (DEPTH_MAX + 1), Refusal.TOO_DEEP),
        (b" " * (LINE_BYTES_MAX + 1), Refusal.LINE_TOO_LONG),
        (line_of(said())[:-1] + b',"verb":{}}', Refusal.DUPLICATE_KEY),
        (line_of({**said(**LATE), "x": 1}), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{W3ID}video/verbs/played", activity("https://x.example.com/" + "a/" * 200), **LATE)), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{W3ID}video/verbs/played", VIDEO, result={"extensions": {f"{EXT}time": -1}})), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{W3ID}video/verbs/played", VIDEO, result={"extensions": {f"{EXT}time": "soon"}})), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{W3ID}video/verbs/played", VIDEO, result={"extensions": {f"{EXT}time": "PT99999999S"}})), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{ADL}interacted", VIDEO, result={"extensions": {f"{EXT}speed": "fast"}})), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{ADL}answered", QUESTION, result={"score": {"raw": -1}})), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{ADL}passed", ITSELF, result={"score": {"scaled": -1}})), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{ADL}passed", ITSELF, result={"extensions": {GRADE: "a b"}})), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{ADL}answered", ESSAY, result={"response": "a" * 4097})), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{ADL}answered", QUESTION, result={"response": "a[,]" * 200})), Refusal.SCHEMA_MISMATCH),
        (line_of(said(f"{ADL}commented", ITSELF, result={"response": "a" * 65537})), Refusal.SCHEMA_MISMATCH),
        (line_of(said("http://example.com/did", actor=LONG_NAME, **LATE)), Refusal.UNKNOWN_EVENT),
        (line_of(said(actor=LONG_NAME, **LATE)), Refusal.TIME_INVALID),
        (line_of(said(stored="2026-03-01T12:00:00")), Refusal.TIME_NAIVE),
        (line_of(said(actor=LONG_NAME)), Refusal.ID_INVALID),
    ],
)  # fmt: skip
def test_what_is_no_statement_here_has_its_reason(line: bytes, refusal: Refusal) -> None:
    """The first that applies: bytes, statement, verb, time, people."""
    assert parse(line, received_at=NOW, takes_unknown=False) is refusal


@pytest.mark.parametrize(
    "verb", [f"{ADL}attended", f"{W3ID}adl/verbs/waived", f"{W3ID}video/verbs/played", VOIDED]
)
def test_a_verb_of_a_vocabulary_is_never_unknown(verb: str) -> None:
    """Also where it has no event of its own."""
    thing = {"objectType": "StatementRef", "id": UUID} if verb == VOIDED else VIDEO
    assert isinstance(parse(line_of(said(verb, thing)), received_at=NOW, takes_unknown=False), Parsed)


# What is never kept --------------------------------------------------------------------------


def test_nothing_beyond_the_declared_fields_is_kept() -> None:
    """Canaries in every other place of a statement are in no fact, and no `repr` tells a value."""
    canary = "canary-0042"
    words = {"en": canary}
    extensions = {
        f"https://example.com/{canary}": canary,
        f"{EXT}session-id": canary,
        f"{EXT}user-agent": canary,
        "https://example.com/ip": "203.0.113.7",
    }
    statement = said(
        f"{W3ID}video/verbs/played",
        {"id": VIDEO_IRI, "definition": {"type": VIDEO_TYPE, "name": words, "description": words, "moreInfo": f"https://example.com/{canary}", "extensions": extensions}},
        id=UUID, actor={"name": canary, **ADA}, authority={"name": canary, **BOB}, version="1.0.3",
        result={"response": canary, "extensions": extensions},
        context={
            "registration": UUID, "platform": canary, "revision": canary, "language": "en", "extensions": extensions,
            "contextActivities": {"parent": activity(COURSE_IRI, COURSE_TYPE, name=words), "other": activity(f"https://example.com/{canary}")},
        },
        attachments=[{"usageType": f"https://example.com/{canary}", "display": words, "contentType": "text/plain", "length": 1, "sha2": "0" * 64, "fileUrl": f"https://example.com/{canary}"}],
    )  # fmt: skip
    statement["verb"]["display"] = words
    result = parsed(statement)
    kept = msgspec.json.encode(result.people).decode()

    assert not [word for word in (canary, "203.0.113.7", "ada@example.com", UUID) if word in kept]
    assert "ada" not in repr(result) + repr(result.people)
    assert result.people[0].facts == (VideoPlayed(**V),)


# Lines ---------------------------------------------------------------------------------------


def items(*lines: bytes | Refusal) -> list[tuple[int, bytes | Refusal]]:
    """Return the statements of lines."""
    return list(statements(enumerate(lines, start=1)))


def test_each_statement_of_a_line_stands_for_itself() -> None:
    """One, an array, a store's answer; the bytes of a statement are those of the line."""
    one, two = line_of(said(id=UUID)), line_of(said(actor=BOB))
    answer = b'{"statements": [' + one + b"], " + b'"more": "/xapi/statements?x=1"}'

    assert items(one, b"[ " + one + b" ,\n" + two + b"]", answer, Refusal.LINE_TOO_LONG) == [
        (1, one), (2, one), (2, two), (3, one), (4, Refusal.LINE_TOO_LONG),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"[]", Refusal.NOT_AN_OBJECT),
        (b"[[]]", Refusal.NOT_AN_OBJECT),
        (b"[null]", Refusal.NULL_VALUE),
        (b"[{}", Refusal.NOT_JSON),
        (b"[\xff]", Refusal.NOT_UTF8),
        (b"[" * (DEPTH_MAX + 1), Refusal.TOO_DEEP),
        (b"[" + b"0," * ITEMS_MAX + b"0]", Refusal.LINE_TOO_LONG),
        (b'{"statements": []}', Refusal.SCHEMA_MISMATCH),
        (b'{"statements": 7}', Refusal.SCHEMA_MISMATCH),
        (b'{"statements": [], "x": 1}', Refusal.SCHEMA_MISMATCH),
        (b'{"statements": [{}], "statements": []}', Refusal.DUPLICATE_KEY),
    ],
)
def test_a_collection_that_is_none_is_one_refusal(line: bytes, refusal: Refusal) -> None:
    """Nothing is dropped: what holds no statement is counted as what it is."""
    ((number, found),) = items(line)
    assert number == 1
    assert (found if isinstance(found, Refusal) else parse(found, received_at=NOW)) is refusal


def good_lines() -> list[bytes]:
    """Return good statements of every kind."""
    own = [line_of(said(verb, thing, result=result)) for verb, thing, result, _ in CASES]
    return [*own, *(line_of(row.values[0]) for row in rows())]


GOOD: Final = good_lines()
PIECES: Final = [b"", b"\0", b"\xff", b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"null", b"1e9", b"-", b"\\ud800", b"@", b"true", b"9" * 30, b"%"]  # fmt: skip


def check(lines: Iterable[bytes]) -> None:
    """Check that every statement of lines has an outcome."""
    for _, one in statements(enumerate(lines, start=1)):
        result = one if isinstance(one, Refusal) else parse(one, received_at=NOW)
        if isinstance(result, Parsed):
            check_schemas(result)
        else:
            assert isinstance(result, Refusal)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_mutated_statement_is_a_fact_or_has_a_reason(data: st.DataObject) -> None:
    """Cut, stuffed and doubled: no exception, and no fact outside of its schema."""
    line = data.draw(st.sampled_from(GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(line)))
        end = start + data.draw(st.sampled_from([0, 0, 1, 1, 2, 8, 40]))
        line = line[:start] + data.draw(st.sampled_from(PIECES) | st.binary(max_size=3)) + line[end:]
    check([line, b"[" + line + b"," + line + b"]"])


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(line: bytes) -> None:
    """No bytes raise."""
    check([line, b"[" + line])


@settings(deadline=None, max_examples=200)
@given(
    case=st.sampled_from(CASES),
    name=st.sampled_from(("time", "time-from", "speed", "cc-enabled", "progress", "length")),
    value=st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.lists(st.integers(), max_size=2),
    score=st.dictionaries(st.sampled_from(("raw", "min", "max", "scaled")), st.floats(allow_nan=False, allow_infinity=False) | st.integers(-3, 3), max_size=4),
)  # fmt: skip
def test_any_value_of_an_extension_or_a_score_is_a_fact_or_has_a_reason(
    case: tuple[str, Members, Members, Fact], name: str, value: object, score: Members
) -> None:
    """What the specification leaves open is bounded by the facts."""
    result = {"extensions": {EXT + name: value}, "score": score}
    check([line_of(said(case[0], case[1], result=result))])


@pytest.mark.parametrize("text", NAUGHTY)
def test_a_naughty_string_anywhere_is_a_fact_or_has_a_reason(text: str) -> None:
    """As a name, identifier, address, response, extension, time and verb: never an exception."""
    answered = {"response": text, "extensions": {f"{EXT}time": text, f"https://example.com/{text}": text}}
    changes: list[Members] = [
        {"actor": {"mbox": f"mailto:{text}@example.com"}},
        {"actor": {"account": {"homePage": "https://lms.example.com", "name": text}}},
        {"actor": {"openid": text}},
        {"actor": {"name": text, **ADA}},
        {"verb": {"id": f"http://example.com/{text}"}},
        {"verb": {"id": text, "display": {text: text}}},
        {"object": activity(f"https://lms.example.com/{text}", VIDEO_TYPE)},
        {"object": activity(text), "id": text},
        {"result": answered},
        {"verb": {"id": f"{ADL}answered"}, "result": {"response": text}},
        {"timestamp": text},
    ]
    check([line_of({**said(f"{ADL}experienced"), **change}) for change in changes])


def test_the_time_of_receipt_is_of_no_consequence_for_a_copy() -> None:
    """The same line an hour later is the same event with the same content."""
    line = line_of({key: value for key, value in said().items() if key != "timestamp"})
    first, later = (parse(line, received_at=at) for at in (NOW, NOW + timedelta(hours=1)))
    assert isinstance(first, Parsed)
    assert isinstance(later, Parsed)
    assert first.digest_input == later.digest_input
