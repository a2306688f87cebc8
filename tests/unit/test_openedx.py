# ruff: noqa: E501 - a table reads by its rows
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.json_lines import read_lines
from privacy_ledger.adapters.formats.openedx import (
    parse,
    user_id_identity,
    username_identity,
)
from privacy_ledger.domain.events import (
    AccountLoggedIn,
    AccountRegistered,
    CertificateIssued,
    CourseEnrolled,
    CourseGraded,
    CoursePostCreated,
    CourseQuizAnswered,
    CourseUnenrolled,
    DeviceObserved,
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
from privacy_ledger.testing.generator import generate

Members = dict[str, object]

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT.parent / "shared" / "samples" / "openedx-tracking"
NAUGHTY: list[str] = json.loads((ROOT / "tests" / "fixtures" / "naughty-strings" / "blns.json").read_bytes())
AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
TIME = "2026-03-01T12:00:00.123456+00:00"
COURSE = "course-v1:ExampleX+CS101+T1"
OLD_COURSE = "ExampleX/CS101/T1"
PROBLEM = "block-v1:ExampleX+CS101+T1+type@problem+block@p1"
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:129.0) Gecko/20100101 Firefox/129.0"
ADA = (Identity("openedx:user_id", "42"), Identity("openedx:username", "ada"))
BOB = (Identity("openedx:user_id", "43"),)
SESSION = "0123456789abcdef0123456789abcdef"


def event(name: str, payload: object = None, **changes: object) -> Members:
    """Return a server event of the older shape, by ada."""
    return {
        "username": "ada", "event_type": name, "event_source": "server", "ip": "203.0.113.7",
        "agent": AGENT, "host": "courses.example.com", "session": SESSION, "time": TIME,
        "context": {"user_id": 42, "course_id": COURSE, "path": "/event"}, "page": None,
        "event": payload, **changes,
    }  # fmt: skip


def newer(name: str, payload: object = None, **changes: object) -> Members:
    """Return the same in the newer shape."""
    return {
        "name": name, "timestamp": TIME, "data": payload,
        "context": {
            "user_id": 42, "username": "ada", "course_id": COURSE, "agent": AGENT,
            "session": SESSION, "ip": "203.0.113.7", "event_source": "server", **changes,
        },
    }  # fmt: skip


def line_of(members: object) -> bytes:
    """Return a line."""
    return json.dumps(members).encode()


def parsed(members: Members) -> Parsed:
    """Return what a line says, which must not be refused."""
    result = parse(line_of(members))
    assert isinstance(result, Parsed), result
    check_schemas(result)
    return result


def check_schemas(result: Parsed) -> None:
    """Check that every fact is what its schema allows: constructors do not."""
    facts: list[Fact] = [fact for person in result.people for fact in person.facts]
    facts += result.unattributed
    if result.device is not None:
        facts.append(result.device)
    assert facts
    for fact in facts:
        assert msgspec.json.decode(msgspec.json.encode(fact), type=type(fact)) == fact


VIDEO = {"id": "video-1", "code": "abc"}
ANSWERED = {
    "problem_id": PROBLEM, "answers": {"p1_2_1": ["choice_0", "choice_2"], "p1_3_1": "a word"},
    "success": "incorrect", "grade": 1, "max_grade": 2, "attempts": 3,
    "correct_map": {"p1_2_1": {"correctness": "incorrect", "msg": "never kept"}},
}  # fmt: skip
QUIZ = CourseQuizAnswered(
    occurred_at=AT, course=COURSE, problem=PROBLEM, is_correct=False, score=1.0, score_max=2.0,
    attempt=3, answers=(("p1_2_1", "choice_0"), ("p1_2_1", "choice_2"), ("p1_3_1", "a word")),
)  # fmt: skip
PII = {"username": "ada", "email": "ada@example.com", "name": "Ada"}
CASES: list[tuple[str, object, Fact]] = [
    ("load_video", VIDEO, VideoLoaded(occurred_at=AT, course=COURSE, video="video-1")),
    ("play_video", {**VIDEO, "currentTime": 1.5}, VideoPlayed(occurred_at=AT, course=COURSE, video="video-1", position_ms=1500)),
    ("play_video", VIDEO, VideoPlayed(occurred_at=AT, course=COURSE, video="video-1")),
    ("edx.video.played", {"module_id": "video-1", "current_time": 2}, VideoPlayed(occurred_at=AT, course=COURSE, video="video-1", position_ms=2000)),
    ("pause_video", {**VIDEO, "currentTime": 0}, VideoPaused(occurred_at=AT, course=COURSE, video="video-1", position_ms=0)),
    ("seek_video", {**VIDEO, "old_time": 3.25, "new_time": 147, "type": "onSlideSeek"}, VideoSeeked(occurred_at=AT, course=COURSE, video="video-1", from_ms=3250, to_ms=147000)),
    ("stop_video", {**VIDEO, "currentTime": 9.0}, VideoCompleted(occurred_at=AT, course=COURSE, video="video-1", position_ms=9000)),
    ("complete_video", VIDEO, VideoCompleted(occurred_at=AT, course=COURSE, video="video-1")),
    ("speed_change_video", {**VIDEO, "new_speed": "1.50"}, VideoSpeedChanged(occurred_at=AT, course=COURSE, video="video-1", speed="1.50")),
    ("speed_change_video", {**VIDEO, "new_speed": 2}, VideoSpeedChanged(occurred_at=AT, course=COURSE, video="video-1", speed="2")),
    ("show_transcript", VIDEO, VideoCaptionsToggled(occurred_at=AT, course=COURSE, video="video-1", is_shown=True)),
    ("edx.video.closed_captions.hidden", VIDEO, VideoCaptionsToggled(occurred_at=AT, course=COURSE, video="video-1", is_shown=False)),
    ("edx.course.enrollment.activated", {"course_id": OLD_COURSE, "user_id": 42, "mode": "audit"}, CourseEnrolled(occurred_at=AT, course=OLD_COURSE, mode="audit")),
    ("edx.course.enrollment.deactivated", {"course_id": COURSE, "user_id": "42"}, CourseUnenrolled(occurred_at=AT, course=COURSE)),
    ("edx.course.enrollment.activated", f"user_id=42&mode=audit&course_id={OLD_COURSE}", CourseEnrolled(occurred_at=AT, course=OLD_COURSE, mode="audit")),
    ("problem_check", ANSWERED, QUIZ),
    ("problem_check", "input_p1_2_1%5B%5D=choice_0&input_p1_2_1%5B%5D=choice_2", UsageOther(occurred_at=AT, course=COURSE, action="problem_check")),
    ("problem_check", '"input_p1_2_1%5B%5D=choice_0"', UsageOther(occurred_at=AT, course=COURSE, action="problem_check")),
    ("edx.grades.problem.submitted", {"user_id": 42, "weighted_earned": 1}, UsageOther(occurred_at=AT, course=COURSE, action="edx.grades.problem.submitted")),
    ("edx.grades.course.grade_calculated", {"user_id": 42, "percent_grade": 0.5, "letter_grade": "B+"}, CourseGraded(occurred_at=AT, course=COURSE, score=0.5, letter="B+")),
    ("edx.course.grade.now_passed", {"user_id": 42}, CourseGraded(occurred_at=AT, course=COURSE, has_passed=True)),
    ("edx.course.grade.now_failed", {"user_id": 42}, CourseGraded(occurred_at=AT, course=COURSE, has_passed=False)),
    ("edx.forum.thread.created", {"title": "Why", "body": "<p>?</p>", "id": "never kept"}, CoursePostCreated(occurred_at=AT, course=COURSE, kind="thread", title="Why", body="<p>?</p>")),
    ("edx.forum.comment.created", {"body": "Because"}, CoursePostCreated(occurred_at=AT, course=COURSE, kind="comment", body="Because")),
    ("edx.ui.lms.link_clicked", {"target_url": "https://example.com/u/ada?x=1#y"}, UsageLinkClicked(occurred_at=AT, course=COURSE, target="example.com/u/:id")),
    ("edx.ui.lms.link_clicked", {"target_url": "mailto:ada@example.com"}, UsageLinkClicked(occurred_at=AT, course=COURSE)),
    ("page_close", {}, UsageOther(occurred_at=AT, course=COURSE, action="page_close")),
    ("page_close", None, UsageOther(occurred_at=AT, course=COURSE, action="page_close")),
    ("problem_graded", ["input_p1=choice_0", "<p>markup</p>"], UsageOther(occurred_at=AT, course=COURSE, action="problem_graded")),
    ("seq_goto", '{"old": 1, "new": 2, "id"', UsageOther(occurred_at=AT, course=COURSE, action="seq_goto")),
    ("edx.bookmark.added", {"bookmark_id": "ada,block"}, UsageOther(occurred_at=AT, course=COURSE, action="edx.bookmark.added")),
    ("edx.user.login", {}, AccountLoggedIn(occurred_at=AT)),
    ("org.openedx.learning.student.registration.completed.v1", {"user": {"id": 42, "pii": PII}}, AccountRegistered(occurred_at=AT, username="ada", name="Ada", email="ada@example.com")),
    ("org.openedx.learning.certificate.created.v1", {"certificate": {"user": {"id": 42, "pii": PII}, "course": {"course_key": COURSE}, "grade": "0.9"}}, CertificateIssued(occurred_at=AT, course=COURSE)),
    ("edx.certificate.created", {"user_id": 42, "course_id": COURSE, "certificate_id": "c-1"}, CertificateIssued(occurred_at=AT, course=COURSE, certificate="c-1")),
    (f"/courses/{COURSE}/info", '{"POST": {}, "GET": {"user": ["ada"]}}', UsagePageViewed(occurred_at=AT, course=COURSE, path=f"/courses/{COURSE}/info")),
    ("/dashboard", "not looked at", UsagePageViewed(occurred_at=AT, course=COURSE, path="/dashboard")),
    ("/u/ada/", None, UsagePageViewed(occurred_at=AT, course=COURSE, path="/u/:id/")),
    (f"/courses/{COURSE}/xblock/{PROBLEM}/handler/xmodule_handler/problem_check", None, UsageOther(occurred_at=AT, course=COURSE, action="component.called")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "payload", "fact"), CASES)
@pytest.mark.parametrize("shape", [event, newer])
@pytest.mark.parametrize("is_text", [False, True])
def test_an_event_is_its_fact(
    name: str, payload: object, fact: Fact, *, shape: object, is_text: bool
) -> None:
    """In both shapes, and whether its members are an object or JSON in a string."""
    member = json.dumps(payload) if is_text and isinstance(payload, dict) else payload
    result = parsed(event(name, member) if shape is event else newer(name, member))
    assert [(person.identities, person.facts) for person in result.people] == [(ADA, (fact,))]


def test_a_line_says_when_on_what_and_nothing_of_the_address() -> None:
    """Device families apart, time in UTC, and the session that the line links to its person."""
    result = parsed(event("page_close", time="2026-03-01T08:00:00.123456-04:00"))
    assert result.occurred_at == AT
    assert result.device == DeviceObserved(
        occurred_at=AT, browser="Firefox", system="Linux", device_class="desktop"
    )
    assert (result.source_event_id, result.is_joint) == (None, False)
    assert result.anonymous == f"session:{SESSION}"


def test_an_id_of_the_log_is_the_source_event_id() -> None:
    """It makes a repeated event one event."""
    assert parsed(event("page_close", event_id="0123-4567-89ab")).source_event_id == "0123-4567-89ab"


@pytest.mark.parametrize("blank", [None, "", "  ", "anonymous", "AnonymousUser"])
def test_a_blank_person_is_unattributed_under_the_session(blank: object) -> None:
    """Nobody is a legal state; the facts are there, under a token that can be linked."""
    context = {"user_id": "", "username": blank, "course_id": COURSE}
    result = parsed(event("page_close", username=blank, context=context))
    fact = UsageOther(occurred_at=AT, course=COURSE, action="page_close")
    assert (result.people, result.unattributed, result.device) == ((), (fact,), None)
    assert result.anonymous == f"session:{SESSION}"


@pytest.mark.parametrize(
    ("session", "client", "token"),
    [
        (SESSION, "667522224.158", f"session:{SESSION}"),
        (None, "667522224.158", "client:667522224.158"),
        ("", "", None),
        (7, ["x"], None),
        ("a b c d e f g h", None, None),
    ],
)
def test_the_session_goes_before_the_client(session: object, client: object, token: str | None) -> None:
    """Only an opaque token counts."""
    members = event("page_close", username="", session=session, context={"client_id": client})
    assert parsed(members).anonymous == token


def test_an_event_about_another_person_is_two_peoples() -> None:
    """The enrolment is the learner's; the one who did it has only done something."""
    members = event("edx.course.enrollment.activated", {"course_id": COURSE, "user_id": 43, "mode": "audit"})
    result = parsed(members)
    deed = UsageOther(occurred_at=AT, course=COURSE, action="edx.course.enrollment.activated")
    enrolment = CourseEnrolled(occurred_at=AT, course=COURSE, mode="audit")
    assert result.is_joint
    assert [(person.identities, person.facts) for person in result.people] == [
        (ADA, (deed,)),
        (BOB, (enrolment,)),
    ]


def test_a_command_of_nobody_concerns_the_person_in_the_event() -> None:
    """And the agent and the session, if any, are not that person's."""
    members = event(
        "edx.course.enrollment.activated", {"user_id": 43, "mode": "audit"},
        username="anonymous", context={"course_id": COURSE, "command": "./manage.py create_user"},
    )  # fmt: skip
    result = parsed(members)
    assert [person.identities for person in result.people] == [BOB]
    assert (result.device, result.anonymous) == (None, None)


def test_a_browser_speaks_about_its_own_person_only() -> None:
    """What it says about others, or about grades, is a claim and no fact."""
    members = event("edx.course.grade.now_passed", {"user_id": 43}, event_source="browser")
    result = parsed(members)
    deed = UsageOther(occurred_at=AT, course=COURSE, action="edx.course.grade.now_passed")
    assert [(person.identities, person.facts) for person in result.people] == [(ADA, (deed,))]


def test_a_name_and_a_number_apart_are_not_joined() -> None:
    """A name at the root and a number in the event may be two people's."""
    members = event("edx.course.grade.now_passed", {"user_id": 42}, context={"course_id": COURSE})
    assert [person.identities for person in parsed(members).people] == [ADA[1:], ADA[:1]]


@pytest.mark.parametrize(
    ("value", "identity"),
    [(3, "3"), ("3", "3"), ("03", "3"), (2**63 - 1, "9223372036854775807")],
)
def test_a_user_id_is_one_however_it_is_written(value: object, identity: str) -> None:
    """Number, text and leading zeros give one decimal string."""
    assert user_id_identity(value) == Identity("openedx:user_id", identity)


@pytest.mark.parametrize(
    "value", [0, -3, 3.0, True, False, [3], {}, "3.0", "٣", "-3", " 3", "3\n", "ada", 2**63, "9" * 30]
)
def test_what_is_no_user_id_is_invalid(value: object) -> None:
    """Floats and booleans are not numbers of people."""
    assert user_id_identity(value) is Refusal.ID_INVALID


@pytest.mark.parametrize(
    ("value", "identity"),
    [
        ("ada", "ada"),
        ("Ada", "Ada"),
        ("e\u0301ve", "\u00e9ve"),
        ("\u00e9ve", "\u00e9ve"),
        ("a" * 255, "a" * 255),
        ("None", "None"),
    ],
)
def test_a_username_is_its_nfc_form(value: str, identity: str) -> None:
    """Two spellings of one name are one; upper case is another."""
    assert username_identity(value) == Identity("openedx:username", identity)


@pytest.mark.parametrize("value", [7, True, ["ada"], "a" * 256, "a\0b", "a\nb", "a\x7fb", "\ud800", "\u0378"])
def test_what_is_no_username_is_invalid(value: object) -> None:
    """Control, unassigned and broken characters, other types, and over-long names."""
    assert username_identity(value) is Refusal.ID_INVALID


@pytest.mark.parametrize(
    ("members", "refusal"),
    [
        (event("page_close", context=[1]), Refusal.SCHEMA_MISMATCH),
        (event("page_close", 7), Refusal.SCHEMA_MISMATCH),
        (event("page_close") | {"event_type": 7}, Refusal.SCHEMA_MISMATCH),
        (event("play_video", {}), Refusal.SCHEMA_MISMATCH),
        (event("play_video", {"id": "a b"}), Refusal.SCHEMA_MISMATCH),
        (event("play_video", {"id": "v" * 256}), Refusal.SCHEMA_MISMATCH),
        (event("play_video", {**VIDEO, "currentTime": -1}), Refusal.SCHEMA_MISMATCH),
        (event("play_video", {**VIDEO, "currentTime": 10**300}), Refusal.SCHEMA_MISMATCH),
        (event("play_video", {**VIDEO, "currentTime": "1"}), Refusal.SCHEMA_MISMATCH),
        (event("play_video", {**VIDEO, "course_id": "CS101"}), Refusal.SCHEMA_MISMATCH),
        (event("problem_check", {**ANSWERED, "answers": {"a": "x" * 4097}}), Refusal.SCHEMA_MISMATCH),
        (event("problem_check", {**ANSWERED, "answers": {"a": ["x"] * 201}}), Refusal.SCHEMA_MISMATCH),
        (event("problem_check", {**ANSWERED, "grade": -1}), Refusal.SCHEMA_MISMATCH),
        (event("problem_check", {**ANSWERED, "attempts": True}), Refusal.SCHEMA_MISMATCH),
        (event("problem_check", "&".join(["a=1"] * 300)), Refusal.SCHEMA_MISMATCH),
        (event("edx.forum.thread.created", {"title": "x" * 4097}), Refusal.SCHEMA_MISMATCH),
        (event("edx.forum.thread.created", {"body": "x" * 65537}), Refusal.SCHEMA_MISMATCH),
        (event("edx.user.registered", {"email": "no address"}), Refusal.SCHEMA_MISMATCH),
        (event("edx.course.grade.now_passed", {}, context={"user_id": 42}), Refusal.SCHEMA_MISMATCH),
        (event("page_close", '{"a":1,"a":2}'), Refusal.DUPLICATE_KEY),
        (event("page_close", '{"a":' * 100), Refusal.TOO_DEEP),
        ({"username": "ada", "time": TIME, "event": "{}"}, Refusal.UNKNOWN_EVENT),
        (event(""), Refusal.UNKNOWN_EVENT),
        (event("something.else"), Refusal.UNKNOWN_EVENT),
        (event("edx.ada@example.com"), Refusal.UNKNOWN_EVENT),
        (event("edx.user.15550100"), Refusal.UNKNOWN_EVENT),
        (event("edx." + "a" * 300), Refusal.UNKNOWN_EVENT),
        (event("page_close", time=None), Refusal.TIME_MISSING),
        (event("page_close", time="2026-03-01T12:00:00"), Refusal.TIME_NAIVE),
        (event("page_close", time=1772366400), Refusal.TIME_INVALID),
        (event("page_close", username="a\nb"), Refusal.ID_INVALID),
        (event("page_close", username="bob", context={"username": "ada"}), Refusal.ID_INVALID),
        (event("page_close", context={"user_id": 3.0}), Refusal.ID_INVALID),
        (event("edx.course.grade.now_passed", {"user_id": True}), Refusal.ID_INVALID),
        (event("edx.user.login", {"user": {"id": 42, "pii": {"username": "bob"}}}), Refusal.ID_INVALID),
        (event("edx.user.login", {"user": {"id": 43, "pii": {"username": "ada"}}}), Refusal.ID_INVALID),
        (event("something.else", time=None, username="a\nb"), Refusal.UNKNOWN_EVENT),
        (event("page_close", time="soon", username="a\nb"), Refusal.TIME_INVALID),
        (event("play_video", {}, time="soon"), Refusal.SCHEMA_MISMATCH),
    ],
)  # fmt: skip
def test_what_is_no_fact_has_its_reason(members: Members, refusal: Refusal) -> None:
    """The first reason that applies: what it is, then when, then who."""
    assert parse(line_of(members)) is refusal


def test_nothing_beyond_the_declared_fields_is_kept() -> None:
    """Canaries in every other place of a line are in no fact, and no repr tells a value."""
    canary = "canary-0042"
    members = event(
        "play_video", {**VIDEO, "note": canary, canary: 1}, ip=canary, host=canary, page=f"https://example.com/{canary}",
        referer=canary, extra={canary: canary}, accept_language=canary, agent=f"{AGENT} {canary}",
        context={"user_id": 42, "course_id": COURSE, "path": canary, "module": {canary: canary}},
    )  # fmt: skip
    result = parsed(members)
    kept = msgspec.json.encode([result.people, result.device]).decode()
    assert canary not in kept
    assert "ada" not in repr(result)
    assert "ada" not in repr(result.people)


def test_the_digest_input_does_not_depend_on_the_order_of_members() -> None:
    """Equal events have equal bytes; any other member makes others."""
    members = event("play_video", VIDEO)
    shuffled = dict(reversed(members.items()))
    assert parsed(members).digest_input == parsed(shuffled).digest_input
    assert parsed(members).digest_input != parsed({**members, "x": 1}).digest_input


@pytest.mark.parametrize("text", NAUGHTY)
def test_a_naughty_string_anywhere_is_a_fact_or_has_a_reason(text: str) -> None:
    """As username, user id, name, course, payload, agent, page and time: never an exception."""
    context: Members = {"user_id": 42, "course_id": COURSE}
    lines: list[Members] = [
        event("page_close", username=text),
        event("page_close", context={**context, "user_id": text}),
        event("page_close", context={**context, "course_id": text}),
        event("play_video", {"id": text, "currentTime": text}),
        event("edx.forum.thread.created", {"title": text, "body": text}),
        event("problem_check", {**ANSWERED, "answers": {"p1_2_1": text}}),
        event("edx.ui.lms.link_clicked", {"target_url": text}),
        event("page_close", agent=text, page=text, session=text, event_id=text),
        event("page_close", text),
        event("page_close", time=text),
        event("/" + text),
        {**event(text), "event_type": text},
        newer(text, text),
    ]
    for members in lines:
        result = parse(line_of(members))
        if isinstance(result, Parsed):
            check_schemas(result)
        else:
            assert isinstance(result, Refusal)


def good_lines() -> list[bytes]:
    """Return good lines of every kind."""
    lines = [line_of(shape(name, payload)) for name, payload, _ in CASES for shape in (event, newer)]
    made = generate(
        seed=3, learners=20, courses=3, events=60, start=AT, end=AT + timedelta(days=1), quirks=True
    )
    return [*lines, *filter(None, made)]


GOOD = good_lines()
PIECES = [b"", b"\0", b"\xff", b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"null", b"1e9", b"-", b"\\ud800", b"@", b"true", b"9" * 30]  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_mutated_line_is_a_fact_or_has_a_reason(data: st.DataObject) -> None:
    """Cut, stuffed and doubled lines: no exception, and no fact outside of its schema."""
    line = data.draw(st.sampled_from(GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(line)))
        end = start + data.draw(st.sampled_from([0, 0, 1, 1, 2, 8, 40]))
        line = line[:start] + data.draw(st.sampled_from(PIECES) | st.binary(max_size=3)) + line[end:]
    result = parse(line)
    if isinstance(result, Parsed):
        check_schemas(result)
    else:
        assert isinstance(result, Refusal)


members = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "42", "ada", COURSE, TIME, "play_video", "a=1&b", '{"a":[]}', "browser"]) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["user_id", "username", "id", "user", "pii", "course_id", "course", "event_source", "answers", "x"]), inner, max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(
    name=st.sampled_from(sorted({name for name, _, _ in CASES})),
    changes=st.dictionaries(st.sampled_from(sorted(event("x"))), members, max_size=3),
    payload=members,
    is_newer=st.booleans(),
)
def test_any_value_in_any_place_is_a_fact_or_has_a_reason(
    name: str, changes: Members, payload: object, *, is_newer: bool
) -> None:
    """Every member of every type: no exception, and no fact outside of its schema."""
    line = {**newer(name, payload), **changes} if is_newer else {**event(name, payload), **changes}
    result = parse(line_of(line))
    if isinstance(result, Parsed):
        check_schemas(result)
    else:
        assert isinstance(result, Refusal)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(line: bytes) -> None:
    """No bytes raise."""
    assert isinstance(parse(line), Refusal | Parsed)


def outcomes(path: Path) -> Counter[str]:
    """Return how often each outcome comes of a file's lines."""
    found: Counter[str] = Counter()
    with path.open("rb") as stream:
        for _, line in read_lines(stream):
            result = line if isinstance(line, Refusal) else parse(line)
            if isinstance(result, Parsed):
                check_schemas(result)
            is_read = isinstance(result, Parsed)
            found["read" if is_read else str(result)] += 1
    return found


@pytest.mark.skipif(not SAMPLES.exists(), reason="the shared samples of real logs are not here")
def test_real_logs_are_read() -> None:
    """What the platform wrote itself is read, lines that say only who was active included."""
    logs = {path.name: outcomes(path) for path in sorted((SAMPLES / "logs").iterdir())}
    assert all(set(found) == {"read"} for found in logs.values()), logs
    for path in sorted((SAMPLES / "events").iterdir()):
        assert isinstance(parse(line_of(json.loads(path.read_bytes()))), Parsed), path.name
