"""Formats that an operator declares: what a mapping makes of a line, and what none can make."""

import json
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.mapped import Mapped
from privacy_ledger.adapters.formats.mapping import EVENTS, MAPPING_BYTES_MAX, members_of, read
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.events import (
    CourseGraded,
    Fact,
    UsageOther,
    UsagePageViewed,
    VideoPlayed,
    event_type,
)
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed
from privacy_ledger.ports.keys import Identity

EXAMPLE: Final = (resources.files("privacy_ledger.interfaces.cli") / "mapping.toml").read_bytes()
AT: Final = datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)
SECONDS: Final = 1_790_000_000
LMS: Final = Mapped(read(EXAMPLE))


def row(event: str, **more: object) -> bytes:
    """Return a row as a learning platform exports it."""
    return json.dumps(
        {
            "id": 1, "eventname": event, "userid": 42, "courseid": 7, "timecreated": SECONDS,
            "ip": "203.0.113.9", "firstname": "Ada", **more,
        }
    ).encode()  # fmt: skip


def facts(found: Parsed | Refusal) -> list[tuple[str, Fact]]:
    """Return each person's id and fact."""
    assert isinstance(found, Parsed)
    return [(person.identities[0].value, fact) for person in found.people for fact in person.facts]


def mapping(
    *lines: str, event: str = 'actor = { type = "usage.other.v1", action = { path = "what" } }'
) -> str:
    """Return a small mapping, with further lines before its one event."""
    return "\n".join([
        "format = 1",
        'time = { path = "at" }',
        *lines,
        "[[person.actor]]",
        'path = "who"',
        'namespace = "lms:user_id"',
        "[[event]]",
        'when = { kind = "done" }',
        event,
    ])  # fmt: skip


def parse(text: str, **said: object) -> Parsed | Refusal:
    """Return what a small mapping makes of a line."""
    line = {"at": "2026-09-21T14:13:20Z", "who": 42, "kind": "done", "what": "liked", **said}
    return Mapped(read(text.encode()))(json.dumps(line).encode())


# What a line becomes ----------------------------------------------------------------------------


def test_the_example_says_who_did_what_and_when() -> None:
    """Epoch seconds, a course behind a prefix, JSON that stands as text; nothing else is read."""
    found = LMS(row("course_viewed", other='{"url": "/user/view.php?id=42", "more": "Ada"}'))
    assert facts(found) == [("42", UsagePageViewed(occurred_at=AT, course="course-7", path="/user/:id"))]
    assert isinstance(found, Parsed)
    assert (found.occurred_at, found.source_event_id, found.unattributed) == (AT, "1", ())
    played = LMS(row("video_played", other={"video": "v1", "position": "12.5"}))
    assert facts(played) == [
        ("42", VideoPlayed(occurred_at=AT, course="course-7", video="v1", position_ms=12_500))
    ]


def test_an_event_of_two_people_is_two_records() -> None:
    """Each with what concerns them; without one of them it is the other's alone."""
    course = "course-7"
    graded = ("43", CourseGraded(occurred_at=AT, course=course, score=8.5))
    did = ("42", UsageOther(occurred_at=AT, course=course, action="graded"))
    score = {"finalgrade": "8.5"}
    assert facts(LMS(row("user_graded", relateduserid="43", other=score))) == [did, graded]
    assert facts(LMS(row("user_graded", other=score))) == [did]
    assert facts(LMS(row("user_graded", userid=0, relateduserid=43, other=score))) == [graded]
    own = LMS(row("user_graded", relateduserid=42, other=score))
    assert facts(own) == [("42", graded[1])]


def test_nobody_known_waits_in_the_lane() -> None:
    """A guest, nought and an empty id; the session links what was before a login."""
    text = mapping('session = "sid"', 'agent = "ua"')
    found = parse(text, who="", sid="s-12345678", ua="Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")
    assert isinstance(found, Parsed)
    assert (found.people, len(found.unattributed), found.anonymous) == ((), 1, "session:s-12345678")
    assert found.device is None
    known = parse(
        text, sid="s-12345678", ua="Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    )
    assert isinstance(known, Parsed)
    assert known.device is not None
    assert (known.anonymous, known.device.browser) == ("session:s-12345678", "Firefox")
    guest = LMS(row("course_viewed", userid=1))
    assert isinstance(guest, Parsed)
    assert guest.people == ()


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        ("epoch_s", SECONDS, AT),
        ("epoch_s", f"{SECONDS}", AT),
        ("epoch_s", SECONDS + 0.25, AT.replace(microsecond=250_000)),
        ("epoch_ms", SECONDS * 1000, AT),
        ("epoch_us", SECONDS * 10**6, AT),
        ("iso", "2026-09-21T14:13:20Z", AT),
        ("iso_utc", "2026-09-21 14:13:20", AT),
        ("iso", "2026-09-21 14:13:20", Refusal.TIME_NAIVE),
        ("iso", SECONDS, Refusal.TIME_INVALID),
        ("epoch_s", None, Refusal.TIME_MISSING),
        ("epoch_s", "", Refusal.TIME_MISSING),
        ("epoch_s", "soon", Refusal.TIME_INVALID),
        ("epoch_s", True, Refusal.TIME_INVALID),
        ("epoch_s", 10**17, Refusal.TIME_INVALID),
        ("epoch_s", -1, Refusal.TIME_INVALID),
        ("epoch_s", {}, Refusal.TIME_INVALID),
    ],
)
def test_a_time_is_what_the_mapping_says(kind: str, value: object, found: datetime | Refusal) -> None:
    """Or a reason."""
    text = mapping().replace('path = "at"', f'path = "at", is = "{kind}"')
    parsed = parse(text, at=value)
    assert (parsed.occurred_at if isinstance(parsed, Parsed) else parsed) == found


def test_ids_are_canonical_and_never_join_two_people() -> None:
    """3, "3" and "03" are one; one person with two numbers is a contradiction."""
    text = mapping().replace(
        "[[event]]", '[[person.actor]]\npath = "name"\nnamespace = "lms:username"\nis = "text"\n[[event]]'
    )
    for who in (3, "3", "03"):
        found = parse(text, who=who, name="ada")
        assert isinstance(found, Parsed)
        assert found.people[0].identities == (Identity("lms:user_id", "3"), Identity("lms:username", "ada"))
    assert parse(text, who=-3) is Refusal.ID_INVALID
    assert parse(text, who="3.0") is Refusal.ID_INVALID
    assert parse(text, who={"id": 3}) is Refusal.ID_INVALID
    twice = text.replace('namespace = "lms:username"\nis = "text"', 'namespace = "lms:user_id"')
    assert parse(twice, who=3, name=4) is Refusal.ID_INVALID
    assert isinstance(parse(twice, who=3, name="3"), Parsed)


@pytest.mark.parametrize(
    ("value", "is_taken"),
    [
        ("liked", True),
        ("ada@example.com", False),
        ("user 42", False),
        ("a" * 300, False),
        (7, False),
        ([], False),
    ],
)
def test_an_action_is_a_plain_word(value: object, *, is_taken: bool) -> None:
    """Whatever else stands there is no action, and may be somebody."""
    assert isinstance(parse(mapping(), what=value), Parsed) is is_taken


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (7, "course-7"), ("7", "course-7"), ("algebra-1", "course-algebra-1"), ("0b5f7a9c2d4e6f80", None),
        ("21070000000000565", "course-21070000000000565"), ("a12345678901", None),
        ("ada@example.com", None), (True, None), ({}, None), ("", None),
    ],
)  # fmt: skip
def test_a_course_is_a_short_name_or_number(value: object, key: str | None) -> None:
    """Nothing that may be the id of a person."""
    event = 'actor = { type = "course.enrolled.v1", course = { path = "course", prefix = "course-" } }'
    found = parse(mapping(event=event), course=value)
    assert (getattr(facts(found)[0][1], "course", None) if isinstance(found, Parsed) else None) == key


def test_an_address_is_no_code() -> None:
    """An id of a thing may have an @, as those of blocks do; an e-mail address is nobody's thing."""
    event = 'actor = { type = "video.loaded.v1", video = { path = "video" } }'
    assert isinstance(parse(mapping(event=event), video="block-v1:A+B+C+type@video+block@d1"), Parsed)
    assert parse(mapping(event=event), video="ada@example.com") is Refusal.SCHEMA_MISMATCH


def test_the_first_event_that_fits_counts_and_none_is_a_reason() -> None:
    """Values are compared as they are: 1 is neither true nor "1"."""
    text = mapping().replace('{ kind = "done" }', '{ kind = ["done", 1], "more.flag" = true }')
    assert isinstance(parse(text, more={"flag": True}), Parsed)
    assert isinstance(parse(text, kind=1, more={"flag": True}), Parsed)
    for said in ({"more": {"flag": 1}}, {"kind": True, "more": {"flag": True}}, {"kind": "1"}, {}):
        assert parse(text, **{"kind": "done", **said}) is Refusal.UNKNOWN_EVENT


# Canvas -----------------------------------------------------------------------------------------

CANVAS: Final = Mapped(
    read((resources.files("privacy_ledger.adapters.formats") / "canvas.toml").read_bytes())
)
SHARD: Final = 7_000 * 10**13


def live(event: str, body: dict[str, object], **metadata: object) -> bytes:
    """Return a live event of a course's page, as one of its teachers."""
    said = {
        "event_name": event, "event_time": "2026-09-21T14:13:20.000Z", "producer": "canvas",
        "root_account_id": str(SHARD + 1), "user_id": str(SHARD + 11), "user_login": "ada@example.com",
        "context_type": "Course", "context_id": str(SHARD + 565), "client_ip": "203.0.113.9",
        "session_id": "0123456789abcdef0123456789abcdef",
        "url": "https://lms.example.com/courses/565/users/14320?user_id=987",
    }  # fmt: skip
    return json.dumps({"metadata": said | metadata, "body": body}).encode()


@pytest.mark.parametrize(
    ("event", "body", "types"),
    [
        ("asset_accessed", {"asset_name": "Ada"}, [(11, "usage.page_viewed.v1")]),
        ("logged_in", {}, [(11, "account.logged_in.v1")]),
        ("logged_out", {}, [(11, "usage.other.v1")]),
        (
            "user_created", {"user_id": "12", "name": "Bob"},
            [(11, "usage.other.v1"), (12, "account.registered.v1")],
        ),
        ("user_created", {"user_id": "11", "name": "Ada"}, [(11, "account.registered.v1")]),
        (
            "enrollment_created",
            {
                "user_id": str(SHARD + 12), "type": "StudentEnrollment", "workflow_state": "active",
                "course_id": "5",
            },
            [(11, "usage.other.v1"), (12, "course.enrolled.v1")],
        ),
        (
            "enrollment_updated",
            {"user_id": "12", "type": "StudentEnrollment", "workflow_state": "deleted", "course_id": "5"},
            [(11, "usage.other.v1"), (12, "course.unenrolled.v1")],
        ),
        (
            "enrollment_created",
            {"user_id": "12", "type": "TeacherEnrollment", "workflow_state": "active", "course_id": "5"},
            [(11, "usage.other.v1"), (12, "usage.other.v1")],
        ),
        ("grade_change", {"user_id": "12", "score": 5}, [(11, "usage.other.v1"), (12, "course.graded.v1")]),
        ("quiz_submitted", {"quiz_id": "1121"}, [(11, "course.quiz_answered.v1")]),
        (
            "submission_created", {"user_id": "11", "assignment_id": "3", "attempt": 2},
            [(11, "course.quiz_answered.v1")],
        ),
        (
            "discussion_entry_created", {"user_id": "11", "text": "<p>Hello</p>"},
            [(11, "course.post_created.v1")],
        ),
        ("group_membership_created", {"user_id": "12"}, [(11, "usage.other.v1"), (12, "usage.other.v1")]),
        ("wiki_page_created", {"title": "Ada"}, [(11, "usage.other.v1")]),
    ],
)  # fmt: skip
def test_a_live_event_of_canvas_is_what_it_says(
    event: str, body: dict[str, object], types: list[tuple[int, str]]
) -> None:
    """Short ids and global ones are one person's; each person has what concerns them."""
    found = CANVAS(live(event, body))
    assert [(int(who) - SHARD, event_type(fact)) for who, fact in facts(found)] == types
    paths = [path for _, fact in facts(found) if (path := getattr(fact, "path", None)) is not None]
    assert paths == ["lms.example.com/courses/:id/users/:id"] * (event == "asset_accessed")


def test_a_live_event_without_a_user_waits_and_one_of_nobodys_is_no_error() -> None:
    """A background job, and a calendar that a reader fetches; the session links what a login tells."""
    feed = json.loads(live("asset_accessed", {}))
    del feed["metadata"]["user_id"], feed["metadata"]["context_type"]
    found = CANVAS(json.dumps(feed).encode())
    assert isinstance(found, Parsed)
    assert (found.people, len(found.unattributed)) == ((), 1)
    assert found.anonymous == "session:0123456789abcdef0123456789abcdef"
    assert CANVAS(b'{"metadata": {"event_name": "x"}, "body": {}}') is Refusal.UNKNOWN_EVENT
    broken = live("logged_in", {}, event_time="019-11-01T19:11:01.163Z")
    assert CANVAS(broken) is Refusal.TIME_INVALID


# The file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("format = 1", "format = 2"), "$.format"),
        (("format = 1", "format = 1\nsecret = 1"), "secret"),
        (('time = { path = "at" }', ""), "time"),
        (('"lms:user_id"', '"lane:lms"'), "$.person.actor[0].namespace"),
        (('"lms:user_id"', '"Ada Example"'), "$.person.actor[0].namespace"),
        (('{ kind = "done" }', "{}"), "$.event[0].when"),
        (('"usage.other.v1"', '"usage.unheard.v1"'), "formats types"),
        (('"usage.other.v1"', '"audit.revealed.v1"'), "formats types"),
        (("action =", "acting ="), "it has course, action"),
        (("action =", "occurred_at ="), "no such member"),
        ((', action = { path = "what" }', ""), "needs action"),
        (('{ path = "what" }', '{ path = "what", more = 1 }'), "$.event[0].actor.action"),
        (('{ path = "what" }', "[1]"), "$.event[0].actor.action"),
        (('{ path = "what" }', '{ path = "what", prefix = "Ada " }'), "prefix"),
        (("actor = {", "other = {"), "person.other"),
        (("actor = {", "nobody = {"), "nobody"),
        (("[[event]]", "[[event"), "line 6"),
    ],
)  # fmt: skip
def test_a_mapping_that_cannot_be_meant_says_where(change: tuple[str, str], said: str) -> None:
    """And what to do."""
    with pytest.raises(BadInput) as raised:
        read(mapping().replace(*change).encode())
    assert said in str(raised.value)
    assert "formats check" in str(raised.value)


@pytest.mark.parametrize("document", [b"\xff", b"#" * (MAPPING_BYTES_MAX + 1), b"", b"format = 1"])
def test_bytes_that_are_no_mapping_are_refused(document: bytes) -> None:
    """Without a word of what they hold."""
    with pytest.raises(BadInput):
        read(document)


def test_a_mapping_makes_only_what_others_may_say() -> None:
    """What the ledger derives or notes itself is none of its types, and no mapping sets its marks."""
    assert not {"device.observed.v1", "location.derived.v1", "audit.revealed.v1"} & set(EVENTS)
    assert all({"occurred_at", "is_assumed"}.isdisjoint(members_of(kind)) for kind in EVENTS.values())
    assert members_of(UsagePageViewed) == {"course": "course", "path": "path"}
    assert members_of(VideoPlayed) == {"course": "course", "video": "code", "position_ms": "plain"}
    assert all(name == event_type(kind) for name, kind in EVENTS.items())


# Any line ---------------------------------------------------------------------------------------

_JSON: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_NAMES: Final = ("id", "eventname", "userid", "relateduserid", "courseid", "timecreated", "other")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(_NAMES), _JSON),
    st.sampled_from(["course_viewed", "video_played", "user_graded"]),
)
def test_any_members_give_facts_or_a_reason(said: dict[str, Any], event: str) -> None:
    """Never an error, whatever stands where."""
    found = LMS(json.dumps({"eventname": event, "timecreated": SECONDS, "userid": 42, **said}).encode())
    assert isinstance(found, Parsed | Refusal)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_reason(line: bytes) -> None:
    """For none of them is an event of the example."""
    assert isinstance(LMS(line), Refusal)
