"""What a Caliper event says as facts: one builder per type and action, each with its own allow-list.

Types and actions are the terms of Caliper 1.1 and 1.2. What has no builder becomes `usage.other` under
type and action; nothing else of such an event is kept. Names, descriptions, comments, extensions, addresses
and annotations are never read; of what somebody said only answers and posts are kept.
"""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Final, cast
from urllib.parse import unquote

from msgspec import Struct

from privacy_ledger.adapters.formats.caliper_entities import COURSES, Entities, Entity
from privacy_ledger.adapters.formats.minimise import (
    CourseName,
    course_in_path,
    course_key,
    plain_activity,
    plain_path,
)
from privacy_ledger.adapters.formats.times import clock_seconds
from privacy_ledger.domain.events import (
    AccountLoggedIn,
    CourseGraded,
    CoursePostCreated,
    CourseQuizAnswered,
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
from privacy_ledger.domain.refusals import Refusal

__all__ = [
    "ACTIONS",
    "GRADED",
    "HANDED_IN",
    "POSTED",
    "TYPES",
    "Said",
    "deed_of",
    "grade_of",
    "is_known",
    "plain_deed",
    "said_of",
]

Build = Callable[["Said", datetime], Fact | None]

ANSWERS_MAX: Final = 200
TEXT_CHARS_MAX: Final = 4096
BODY_CHARS_MAX: Final = 65536
ATTEMPTS_MAX: Final = 10**9
MILLIS_MAX: Final = 10**10
SCORE_MAX: Final = 10**9
GRADED: Final = ("GradeEvent", "Graded")
HANDED_IN: Final = frozenset(
    (("AssessmentEvent", "Submitted"), ("AssessmentItemEvent", "Completed"), ("AssignableEvent", "Submitted"))
)
"""Of these, what was done is an attempt's, which may be another person's than the actor's."""
POSTED: Final = ("MessageEvent", "Posted")

_VIDEO: Final = "VideoObject"
_KEY_MARK: Final = "-v1:"
_SPEED: Final = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,4})?x?")

TYPES: Final = frozenset(
    (
        "AnnotationEvent", "AssessmentEvent", "AssessmentItemEvent", "AssignableEvent", "Event",
        "FeedbackEvent", "ForumEvent", "GradeEvent", "MediaEvent", "MessageEvent", "NavigationEvent",
        "QuestionnaireEvent", "QuestionnaireItemEvent", "ResourceManagementEvent", "SearchEvent",
        "SessionEvent", "SurveyEvent", "SurveyInvitationEvent", "ThreadEvent", "ToolLaunchEvent",
        "ToolUseEvent", "ViewEvent",
    )
)  # fmt: skip
ACTIONS: Final = frozenset(
    (
        "Abandoned", "Accepted", "Activated", "Added", "Archived", "Attached", "Bookmarked",
        "ChangedResolution", "ChangedSize", "ChangedSpeed", "ChangedVolume", "Classified", "ClosedPopout",
        "Commented", "Completed", "Copied", "Created", "Deactivated", "Declined", "Deleted", "Described",
        "DisabledClosedCaptioning", "Disliked", "Downloaded", "EnabledClosedCaptioning", "Ended",
        "EnteredFullScreen", "ExitedFullScreen", "ForwardedTo", "Graded", "Hid", "Highlighted",
        "Identified", "JumpedTo", "Launched", "Liked", "Linked", "LoggedIn", "LoggedOut", "MarkedAsRead",
        "MarkedAsUnread", "Modified", "Muted", "NavigatedTo", "OpenedPopout", "OptedIn", "OptedOut",
        "Paused", "Posted", "Printed", "Published", "Questioned", "Ranked", "Recommended", "Removed",
        "Reset", "Restarted", "Restored", "Resumed", "Retrieved", "Returned", "Reviewed", "Rewound",
        "Saved", "Searched", "Sent", "Shared", "Showed", "Skipped", "Started", "Submitted", "Subscribed",
        "Tagged", "TimedOut", "Unmuted", "Unpublished", "Unsubscribed", "Uploaded", "Used", "Viewed",
    )
)  # fmt: skip


class Said(Struct, frozen=True, kw_only=True, gc=False):
    """The parts of an event that its facts may be made of; `names` are of the people in it."""

    type: str
    action: str
    thing: Entity
    target: Entity
    generated: Entity
    extensions: Mapping[str, object]
    entities: Entities
    course: CourseName | None
    names: Collection[str]

    def __repr__(self) -> str:
        """Return type and action only."""
        return f"Said({self.type}, {self.action})"


class _UnfitError(Exception):
    """A member of an event is not what its fact declares."""


def is_known(kind: object, action: object) -> bool:
    """Return whether type and action are terms of the vocabulary."""
    return kind in TYPES and action in ACTIONS


def said_of(root: Mapping[str, object], entities: Entities, *, names: Collection[str]) -> Said:
    """Return what the facts of an event may be made of; its type and action are known."""
    thing, extensions = entities.of(root.get("object")), root.get("extensions")
    return Said(
        type=cast("str", root["type"]), action=cast("str", root["action"]), thing=thing,
        target=entities.of(root.get("target")), generated=entities.of(root.get("generated")),
        extensions=extensions if isinstance(extensions, dict) else {},
        entities=entities, course=_course(root, thing, entities, names), names=names,
    )  # fmt: skip


def deed_of(said: Said, *, at: datetime) -> Fact | Refusal:
    """Return what the actor did; `SCHEMA_MISMATCH`: a value that its fact cannot hold; nothing is cut."""
    build = _BUILDERS.get((said.type, said.action))
    try:
        found = None if build is None else build(said, at)
    except _UnfitError:
        return Refusal.SCHEMA_MISMATCH
    if found is not None:
        return found
    return plain_deed(said, at=at)


def plain_deed(said: Said, *, at: datetime) -> Fact:
    """Return that the actor did something of this type and action, and nothing of what it was."""
    return UsageOther(occurred_at=at, course=said.course, action=f"caliper.{said.type}.{said.action}")


def grade_of(said: Said, *, at: datetime) -> Fact | Refusal:
    """Return what a graded event says of whoever's attempt it was; as `deed_of` where it tells no course."""
    attempt = said.thing if said.thing.type == "Attempt" else said.entities.at(said.generated, "attempt")
    thing = said.entities.at(attempt, "assignable")
    try:
        score, score_max = _score(said.generated, "scoreGiven"), _score(said.generated, "maxScore")
        if said.course is None or not thing.id:
            return deed_of(said, at=at)
        if thing.type in COURSES or unquote(thing.id).rstrip("/").endswith(said.course):
            return CourseGraded(occurred_at=at, course=said.course, score=_share(score, score_max))
        return CourseQuizAnswered(
            occurred_at=at, course=said.course, problem=_code(said, thing), score=score, score_max=score_max,
            attempt=_count(attempt),
        )  # fmt: skip
    except _UnfitError:
        return Refusal.SCHEMA_MISMATCH


# Courses ---------------------------------------------------------------------------------


def _course(
    root: Mapping[str, object], thing: Entity, entities: Entities, names: Collection[str]
) -> CourseName | None:
    """Return the course of an event: of its group, of the membership, else of what it is about.

    A key of the platform counts in any IRI; another IRI where its entity says that it is a course.
    """
    group = entities.of(root.get("group"))
    organization = entities.at(entities.of(root.get("membership")), "organization")
    chains = ((group, "subOrganizationOf"), (organization, "subOrganizationOf"), (thing, "isPartOf"))
    around = [one for entity, member in chains for one in entities.chain(entity, member)]
    for one in around:
        key = course_key(one.id) or course_in_path(one.id)
        if key is not None and _KEY_MARK in key:  # the older form is three parts of any address
            return key
    for one in around:
        if one.type in COURSES and (plain := plain_activity(one.id, names=names)) is not None:
            return CourseName(plain)
    return None


# Builders --------------------------------------------------------------------------------


def _viewed(said: Said, at: datetime) -> Fact | None:
    scheme, mark, rest = said.thing.id.partition("://")
    if not mark or scheme.lower() not in {"http", "https"}:
        return UsagePageViewed(occurred_at=at, course=said.course)
    path = plain_path("/" + rest.partition("/")[2], names=said.names)
    if path is None:
        raise _UnfitError
    return UsagePageViewed(occurred_at=at, course=said.course, path=path)


def _logged_in(_said: Said, at: datetime) -> Fact | None:
    return AccountLoggedIn(occurred_at=at)


def _played(said: Said, at: datetime) -> Fact | None:
    if said.thing.type != _VIDEO:
        return None
    return VideoPlayed(
        occurred_at=at, course=said.course, video=_code(said, said.thing), position_ms=_position(said)
    )


def _paused(said: Said, at: datetime) -> Fact | None:
    if said.thing.type != _VIDEO:
        return None
    return VideoPaused(
        occurred_at=at, course=said.course, video=_code(said, said.thing), position_ms=_position(said)
    )


def _ended(said: Said, at: datetime) -> Fact | None:
    if said.thing.type != _VIDEO:
        return None
    return VideoCompleted(
        occurred_at=at, course=said.course, video=_code(said, said.thing), position_ms=_position(said)
    )


def _jumped(said: Said, at: datetime) -> Fact | None:
    if said.thing.type != _VIDEO:
        return None
    return VideoSeeked(
        occurred_at=at, course=said.course, video=_code(said, said.thing), to_ms=_position(said)
    )


def _speed_changed(said: Said, at: datetime) -> Fact | None:
    if said.thing.type != _VIDEO:
        return None
    speed = said.extensions.get("newSpeed")  # where Open edX says it
    if isinstance(speed, int | float) and not isinstance(speed, bool):
        speed = str(speed)
    if speed is not None and not (isinstance(speed, str) and _SPEED.fullmatch(speed)):
        raise _UnfitError
    return VideoSpeedChanged(occurred_at=at, course=said.course, video=_code(said, said.thing), speed=speed)


def _captions(*, is_shown: bool) -> Build:
    def build(said: Said, at: datetime) -> Fact | None:
        if said.thing.type != _VIDEO:
            return None
        return VideoCaptionsToggled(
            occurred_at=at, course=said.course, video=_code(said, said.thing), is_shown=is_shown
        )

    return build


def _submitted(said: Said, at: datetime) -> Fact | None:
    """Return an answer, or what was handed in, in a course; None outside of one."""
    if said.course is None:
        return None
    made = said.generated
    attempt = made if made.type == "Attempt" else said.entities.at(made, "attempt")
    answers = _answers(made) if made.type.endswith("Response") else ()
    return CourseQuizAnswered(
        occurred_at=at, course=said.course, problem=_code(said, said.thing), answers=answers,
        attempt=_count(attempt),
    )  # fmt: skip


def _posted(said: Said, at: datetime) -> Fact | None:
    if said.course is None:
        return None
    body = said.thing.members.get("body")
    if body is not None and not (isinstance(body, str) and len(body) <= BODY_CHARS_MAX):
        raise _UnfitError
    kind = "response" if said.thing.members.get("replyTo") is not None else "thread"
    return CoursePostCreated(occurred_at=at, course=said.course, kind=kind, body=body or None)  # type: ignore[arg-type] # one of two words


# Members ---------------------------------------------------------------------------------


def _code(said: Said, thing: Entity) -> str:
    """Return the name of a thing."""
    code = plain_activity(thing.id, names=said.names)
    if not code:
        raise _UnfitError
    return code


def _position(said: Said) -> int | None:
    """Return where in a video it was, as the target says."""
    text = said.target.members.get("currentTime")
    if text is None:
        return None
    seconds = clock_seconds(text) if isinstance(text, str) else None
    if seconds is None or seconds > MILLIS_MAX // 1000:
        raise _UnfitError
    return round(seconds * 1000)


def _count(attempt: Entity) -> int | None:
    """Return which attempt it was."""
    count = attempt.members.get("count")
    if count is None:
        return None
    if type(count) is not int or not 0 <= count <= ATTEMPTS_MAX:
        raise _UnfitError
    return count


def _score(entity: Entity, member: str) -> float | None:
    value = entity.members.get(member)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= SCORE_MAX:
        raise _UnfitError
    return float(value)


def _share(score: float | None, score_max: float | None) -> float | None:
    """Return which part of the best score one is; of a best score near nothing it is no number."""
    if score is None or not score_max:
        return None
    share = score / score_max
    if share > SCORE_MAX:
        raise _UnfitError
    return share


def _answers(response: Entity) -> tuple[tuple[str, str], ...]:
    """Return what somebody answered, one answer a value."""
    value, values = response.members.get("value"), response.members.get("values")
    given = [*(values if isinstance(values, list) else []), *([] if value is None else [value])]
    if len(given) > ANSWERS_MAX or (values is not None and not isinstance(values, list)):
        raise _UnfitError
    found = []
    for one in given:
        if not isinstance(one, str | int | float) or len(str(one)) > TEXT_CHARS_MAX:
            raise _UnfitError
        found.append(("response", str(one).lower() if isinstance(one, bool) else str(one)))
    return tuple(found)


_BUILDERS: Final[dict[tuple[str, str], Build]] = {
    **dict.fromkeys(HANDED_IN, _submitted),
    ("MediaEvent", "ChangedSpeed"): _speed_changed,
    ("MediaEvent", "DisabledClosedCaptioning"): _captions(is_shown=False),
    ("MediaEvent", "EnabledClosedCaptioning"): _captions(is_shown=True),
    ("MediaEvent", "Ended"): _ended,
    ("MediaEvent", "ForwardedTo"): _jumped,
    ("MediaEvent", "JumpedTo"): _jumped,
    ("MediaEvent", "Paused"): _paused,
    ("MediaEvent", "Restarted"): _played,
    ("MediaEvent", "Resumed"): _played,
    ("MediaEvent", "Rewound"): _jumped,
    ("MediaEvent", "Started"): _played,
    POSTED: _posted,
    ("NavigationEvent", "NavigatedTo"): _viewed,
    ("SessionEvent", "LoggedIn"): _logged_in,
    ("ViewEvent", "Viewed"): _viewed,
}
