"""What an xAPI statement says as facts: one builder per verb, each with its own allow-list.

Verbs of ADL's vocabulary, of cmi5, of the video profile, and those that Open edX sends. What a
builder does not find becomes `usage.other` with the verb; nothing else of such a statement is kept.
Of extensions only those named here are read, and of a response only what somebody answered or wrote.
"""

import re
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Final, Literal
from urllib.parse import unquote

from msgspec import UNSET, Struct, UnsetType

from privacy_ledger.adapters.formats.minimise import (
    CourseName,
    course_in_path,
    course_key,
    is_code,
    plain_activity,
    plain_path,
    plain_target,
    plain_verb,
)
from privacy_ledger.adapters.formats.times import clock_seconds
from privacy_ledger.adapters.formats.xapi_rules import VOIDED, is_activity
from privacy_ledger.adapters.formats.xapi_shape import Context, Extensions, Result, Statement, Thing
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

__all__ = ["OTHER_ACTION", "VOIDED_ACTION", "Said", "facts_of", "said_of"]

Facts = tuple[Fact, ...]
Build = Callable[["Said", datetime], Facts | None]

VOIDED_ACTION: Final = "xapi.voided"
"""The action of a statement that claims another one void: what was recorded of that one stays."""
OTHER_ACTION: Final = "xapi.other"
"""The action of a verb whose IRI has no part that could be kept."""
ANSWERS_MAX: Final = 200
TEXT_CHARS_MAX: Final = 4096
BODY_CHARS_MAX: Final = 65536
ATTEMPTS_MAX: Final = 10**9
MILLIS_MAX: Final = 10**10

_ADL: Final = "http://adlnet.gov/expapi/verbs/"
_W3ID: Final = "https://w3id.org/xapi/"
_TIN_CAN: Final = "http://id.tincanapi.com/"
_STREAMS: Final = "http://activitystrea.ms/schema/1.0/"
_VIDEO: Final = f"{_W3ID}video/extensions/"
_LETTER: Final = "http://www.tincanapi.co.uk/activitytypes/grade_classification"
_ATTEMPT: Final = f"{_TIN_CAN}extension/attempt-id"
_SPEEDS: Final = (f"{_VIDEO}speed", f"{_W3ID}openedx/extension/speed-to")
_CAPTIONS: Final = (f"{_VIDEO}cc-enabled", f"{_VIDEO}cc-subtitle-enabled")

_VIDEO_TYPES: Final = frozenset(
    (f"{_W3ID}video/activity-type/video", f"{_W3ID}acrossx/activities/video", f"{_STREAMS}video")
)
_COURSE_TYPES: Final = frozenset(
    ("http://adlnet.gov/expapi/activities/course", f"{_W3ID}cmi5/activitytype/course")
)
_LINK_TYPES: Final = frozenset(("http://adlnet.gov/expapi/activities/link",))
_CERTIFICATE_TYPES: Final = frozenset(
    (
        f"{_TIN_CAN}activitytype/certificate",
        "https://www.opigno.org/en/tincan_registry/activity_type/certificate",
    )
)
_CHOICES: Final = frozenset(("choice", "sequencing"))
_SPEED: Final = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,4})?x?")


class Said(Struct, frozen=True, kw_only=True, gc=False):
    """The parts of a statement that its facts may be made of; `names` are of the people in it.

    `course`: of the object, its parent or its grouping. `is_course`: the object is that course.
    """

    verb: str
    thing: Thing
    type: str
    result: Result
    context: Context
    course: CourseName | None
    is_course: bool
    names: Collection[str]

    def __repr__(self) -> str:
        """Return the type only."""
        return "Said(...)"


class _UnfitError(Exception):
    """A member of a statement is not what its fact declares."""


_NO_RESULT: Final = Result()
_NO_CONTEXT: Final = Context()
_NOTHING: Final[Extensions] = {}


def said_of(statement: Statement, *, names: Collection[str]) -> Said:
    """Return what the facts of a statement may be made of."""
    thing = statement.object
    context = _NO_CONTEXT if statement.context is UNSET else statement.context
    definition = thing.definition
    kind = "" if definition is UNSET or definition.type is UNSET else definition.type
    own = course = None
    if is_activity(thing) and thing.id is not UNSET:
        own = course = _course_of(thing.id)
    if course is None:
        course = next((key for iri in _around(context) if (key := _course_of(iri)) is not None), None)
    is_course = own is not None and (kind in _COURSE_TYPES or _ends_with(thing.id, own))
    return Said(
        verb=statement.verb.id, thing=thing, type=kind, context=context, course=course,
        result=_NO_RESULT if statement.result is UNSET else statement.result,
        is_course=is_course, names=names,
    )  # fmt: skip


def facts_of(said: Said, *, at: datetime, takes_unknown: bool) -> Facts | Refusal:
    """Return what the actor did, at least one fact, or why the statement is none.

    `SCHEMA_MISMATCH`: a value that its fact cannot hold; nothing is cut. `UNKNOWN_EVENT`: a verb
    of no vocabulary above, where those are not taken.
    """
    build = _BUILDERS.get(said.verb) if is_activity(said.thing) else None
    try:
        found = None if build is None else build(said, at)
    except _UnfitError:
        return Refusal.SCHEMA_MISMATCH
    if found is not None:
        return found
    if said.verb == VOIDED:
        return (UsageOther(occurred_at=at, course=said.course, action=VOIDED_ACTION),)
    if not takes_unknown and said.verb not in _KNOWN:
        return Refusal.UNKNOWN_EVENT
    action = plain_verb(said.verb, names=said.names) or OTHER_ACTION
    return (UsageOther(occurred_at=at, course=said.course, action=action),)


# Courses ---------------------------------------------------------------------------------


def _around(context: Context) -> Iterator[str]:
    """Yield the ids of the activities that the object is a part of: parents, then groupings."""
    around = context.context_activities
    if around is UNSET:
        return
    for given in (around.parent, around.grouping):
        if given is not UNSET:
            for one in given if isinstance(given, list) else (given,):
                yield one.id


def _course_of(iri: str) -> CourseName | None:
    return course_key(iri) or course_in_path(iri)


def _ends_with(iri: str | UnsetType, course: CourseName) -> bool:
    return iri is not UNSET and unquote(iri).rstrip("/").endswith(course)


# Builders --------------------------------------------------------------------------------


def _played(said: Said, at: datetime) -> Facts:
    position = _millis(said, "time")
    return (VideoPlayed(occurred_at=at, course=said.course, video=_code(said), position_ms=position),)


def _paused(said: Said, at: datetime) -> Facts:
    position = _millis(said, "time")
    return (VideoPaused(occurred_at=at, course=said.course, video=_code(said), position_ms=position),)


def _seeked(said: Said, at: datetime) -> Facts:
    return (
        VideoSeeked(
            occurred_at=at, course=said.course, video=_code(said),
            from_ms=_millis(said, "time-from"), to_ms=_millis(said, "time-to"),
        ),
    )  # fmt: skip


def _completed(said: Said, at: datetime) -> Facts | None:
    if said.type in _VIDEO_TYPES:
        position = _millis(said, "time")
        return (VideoCompleted(occurred_at=at, course=said.course, video=_code(said), position_ms=position),)
    if said.is_course and said.course is not None:
        return (CourseCompleted(occurred_at=at, course=said.course),)
    return None


def _terminated(said: Said, at: datetime) -> Facts | None:
    # A session of a player ends anywhere: only where the statement says so, at the video's end.
    if said.type not in _VIDEO_TYPES:
        return None
    time, length = _seconds(said, "time"), _extension(said, f"{_VIDEO}length")
    is_at_end = (
        said.result.completion is True
        or _extension(said, f"{_VIDEO}progress") == 1
        or (time is not None and isinstance(length, int | float) and 0 < length <= time)
    )
    return _completed(said, at) if is_at_end else None


def _interacted(said: Said, at: datetime) -> Facts | None:
    """Return what was set on a player; None when it was no speed and no captions."""
    if said.type not in _VIDEO_TYPES:
        return None
    found: list[Fact] = []
    speed = next((given for key in _SPEEDS if (given := _extension(said, key)) is not None), None)
    if speed is not None:
        text = str(speed) if isinstance(speed, int | float) and not isinstance(speed, bool) else speed
        if not (isinstance(text, str) and _SPEED.fullmatch(text)):
            raise _UnfitError
        found.append(VideoSpeedChanged(occurred_at=at, course=said.course, video=_code(said), speed=text))
    shown = next((given for key in _CAPTIONS if (given := _extension(said, key)) is not None), None)
    if isinstance(shown, bool):
        found.append(
            VideoCaptionsToggled(occurred_at=at, course=said.course, video=_code(said), is_shown=shown)
        )
    return tuple(found) or None


def _viewed(said: Said, at: datetime) -> Facts | None:
    iri = said.thing.id
    if iri is UNSET or not iri.lower().startswith(("http://", "https://")):
        return None
    if said.type in _LINK_TYPES:
        target = plain_target(iri, names=said.names)
        return (UsageLinkClicked(occurred_at=at, course=said.course, target=target),)
    path = plain_path("/" + iri.partition("://")[2].partition("/")[2], names=said.names)
    if path is None:
        raise _UnfitError
    return (UsagePageViewed(occurred_at=at, course=said.course, path=path),)


def _initialized(said: Said, at: datetime) -> Facts | None:
    if said.type in _VIDEO_TYPES:
        return (VideoLoaded(occurred_at=at, course=said.course, video=_code(said)),)
    return _viewed(said, at)


def _registered(said: Said, at: datetime) -> Facts | None:
    if said.course is None or not said.is_course:
        return None
    return (CourseEnrolled(occurred_at=at, course=said.course),)


def _unregistered(said: Said, at: datetime) -> Facts | None:
    if said.course is None or not said.is_course:
        return None
    return (CourseUnenrolled(occurred_at=at, course=said.course),)


def _answered(said: Said, at: datetime) -> Facts | None:
    return _quiz(said, at, answers=_answers(said))


def _judged(*, has_passed: bool | None) -> Build:
    def build(said: Said, at: datetime) -> Facts | None:
        if said.course is None or not said.is_course:
            return _quiz(said, at, answers=())  # a part of a course, not the course
        return _graded(said, said.course, at, has_passed=has_passed)

    return build


def _graded(said: Said, course: CourseName, at: datetime, *, has_passed: bool | None) -> Facts:
    letter = _extension(said, _LETTER)
    if letter is not None and not is_code(letter):
        raise _UnfitError
    return (
        CourseGraded(
            occurred_at=at, course=course, score=_share(said.result), has_passed=has_passed,
            letter=letter if isinstance(letter, str) else None,
        ),
    )  # fmt: skip


def _quiz(said: Said, at: datetime, *, answers: tuple[tuple[str, str], ...]) -> Facts | None:
    """Return an answer to a problem of a course; None outside of one."""
    if said.course is None:
        return None
    score, score_max = _score(said.result)
    success = said.result.success
    definition = said.thing.definition
    known = {} if definition is UNSET or definition.extensions is UNSET else definition.extensions
    attempt = known.get(_ATTEMPT)
    return (
        CourseQuizAnswered(
            occurred_at=at, course=said.course, problem=_code(said), answers=answers,
            is_correct=None if success is UNSET else success, score=score, score_max=score_max,
            attempt=attempt if type(attempt) is int and 0 <= attempt <= ATTEMPTS_MAX else None,
        ),
    )  # fmt: skip


def _posted(kind: Literal["comment"] | None) -> Build:
    def build(said: Said, at: datetime) -> Facts | None:
        if said.course is None:
            return None
        body = _response(said, BODY_CHARS_MAX)
        # Open edX tells a reply by its address only.
        is_reply = said.type.endswith(("/comment", "/reply")) or "/comments/" in str(said.thing.id)
        told = kind or ("comment" if is_reply else "thread")
        return (CoursePostCreated(occurred_at=at, course=said.course, kind=told, body=body),)

    return build


def _earned(said: Said, at: datetime) -> Facts | None:
    if said.course is None:
        return None
    if said.is_course:
        return _graded(said, said.course, at, has_passed=None)  # what Open edX says of a grade
    return (
        (CertificateIssued(occurred_at=at, course=said.course),) if said.type in _CERTIFICATE_TYPES else None
    )


def _satisfied(said: Said, at: datetime) -> Facts | None:
    if said.course is None or not said.is_course:
        return None
    return (CourseCompleted(occurred_at=at, course=said.course),)


def _logged_in(_said: Said, at: datetime) -> Facts:
    return (AccountLoggedIn(occurred_at=at),)


# Members ---------------------------------------------------------------------------------


def _code(said: Said) -> str:
    """Return the name of the activity."""
    iri = said.thing.id
    code = None if iri is UNSET else plain_activity(iri, names=said.names)
    if code is None:
        raise _UnfitError
    return code


def _extension(said: Said, key: str) -> object:
    """Return an extension of the result, else of the context; None without."""
    for part in (said.result, said.context):
        found = _NOTHING if part.extensions is UNSET else part.extensions
        if key in found:
            return found[key]
    return None


def _seconds(said: Said, name: str) -> float | None:
    """Return a position in a video: a number, or the duration that Open edX writes."""
    value = _extension(said, _VIDEO + name)
    if value is None or value == "":
        return None
    if isinstance(value, str) and (seconds := clock_seconds(value)) is not None:
        return seconds
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnfitError
    if not 0 <= value <= MILLIS_MAX // 1000:
        raise _UnfitError
    return value


def _millis(said: Said, name: str) -> int | None:
    seconds = _seconds(said, name)
    if seconds is None:
        return None
    if seconds > MILLIS_MAX // 1000:
        raise _UnfitError
    return round(seconds * 1000)


def _score(result: Result) -> tuple[float | None, float | None]:
    """Return score and highest score: raw, else scaled of 1; below zero there is no score."""
    score = result.score
    if score is UNSET:
        return None, None
    found: tuple[float | None, float | None] = (None, None)
    if score.raw is not UNSET:
        found = (score.raw, None if score.max is UNSET else score.max)
    elif score.scaled is not UNSET:
        found = (score.scaled, 1.0)
    if any(value is not None and value < 0 for value in found):
        raise _UnfitError
    return found


def _share(result: Result) -> float | None:
    """Return a course's score as a part of one, as the other formats give it; None where it is no part."""
    score = result.score
    if score is not UNSET and score.scaled is not UNSET:
        if score.scaled < 0:
            raise _UnfitError
        return score.scaled
    found, best = _score(result)
    return found / best if found is not None and best else None


def _response(said: Said, chars_max: int) -> str | None:
    text = said.result.response
    if text is UNSET or not text:
        return None
    if len(text) > chars_max:
        raise _UnfitError
    return text


def _answers(said: Said) -> tuple[tuple[str, str], ...]:
    """Return a response, one answer a choice where it lists choices (Data, 2.4.4.1, Appendix C)."""
    text = _response(said, BODY_CHARS_MAX)
    if text is None:
        return ()
    definition = said.thing.definition
    kind = "" if definition is UNSET or definition.interaction_type is UNSET else definition.interaction_type
    parts = text.split("[,]") if kind in _CHOICES else [text]
    if len(parts) > ANSWERS_MAX or any(len(part) > TEXT_CHARS_MAX for part in parts):
        raise _UnfitError
    return tuple([("response", part) for part in parts])


_BUILDERS: Final[dict[str, Build]] = {
    f"{_W3ID}video/verbs/played": _played,
    f"{_W3ID}video/verbs/paused": _paused,
    f"{_W3ID}video/verbs/seeked": _seeked,
    f"{_ADL}initialized": _initialized,
    f"{_ADL}experienced": _viewed,
    f"{_TIN_CAN}verb/viewed": _viewed,
    f"{_ADL}completed": _completed,
    f"{_ADL}terminated": _terminated,
    f"{_ADL}interacted": _interacted,
    f"{_ADL}registered": _registered,
    f"{_TIN_CAN}verb/unregistered": _unregistered,
    f"{_ADL}answered": _answered,
    f"{_W3ID}acrossx/verbs/evaluated": _answered,
    f"{_ADL}passed": _judged(has_passed=True),
    f"{_ADL}failed": _judged(has_passed=False),
    f"{_ADL}scored": _judged(has_passed=None),
    f"{_W3ID}acrossx/verbs/posted": _posted(None),
    f"{_ADL}commented": _posted("comment"),
    f"{_TIN_CAN}verb/earned": _earned,
    f"{_W3ID}adl/verbs/satisfied": _satisfied,
    f"{_W3ID}adl/verbs/logged-in": _logged_in,
    "https://brindlewaye.com/xAPITerms/verbs/loggedin/": _logged_in,
}
_KNOWN: Final = frozenset(_BUILDERS) | {
    *(
        _ADL + word
        for word in (
            "asked", "attempted", "attended", "exited", "imported", "launched", "mastered",
            "preferred", "progressed", "reported", "responded", "resumed", "shared", "suspended",
        )
    ),
    *(_W3ID + word for word in ("adl/verbs/abandoned", "adl/verbs/logged-out", "adl/verbs/waived")),
    *(_W3ID + word for word in ("acrossx/verbs/edited", "acrossx/verbs/reported")),
    *(_W3ID + word for word in ("dod-isd/verbs/deleted", "dod-isd/verbs/navigated")),
}  # fmt: skip
