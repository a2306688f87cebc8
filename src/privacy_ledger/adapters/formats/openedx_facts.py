"""What an Open edX event says as a fact: one builder per family, each with its own allow-list.

Facts about enrolments, grades, certificates, posts and accounts count from the server only: what
a browser sends is the sender's claim, about the sender.
"""

import re
from collections.abc import Callable
from datetime import datetime
from math import isfinite
from typing import Final, Literal, cast
from urllib.parse import parse_qs, unquote

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.formats.json_lines import decode_json
from privacy_ledger.adapters.formats.minimise import (
    CourseName,
    course_in_path,
    course_key,
    is_action,
    is_code,
    plain_path,
    plain_target,
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

__all__ = ["Line", "deed_of", "fact_of", "names_subject", "payload_of"]

Members = dict[str, object]
Build = Callable[["Line", datetime], Fact]

FORM_FIELDS_MAX: Final = 200
ANSWERS_MAX: Final = 200
TEXT_CHARS_MAX: Final = 4096
BODY_CHARS_MAX: Final = 65536
NAME_CHARS_MAX: Final = 255
EMAIL_CHARS_MAX: Final = 320
MILLIS_MAX: Final = 10**10
SCORE_MAX: Final = 10**9
ATTEMPTS_MAX: Final = 10**9

_SPEED: Final = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,4})?x?")
_EMAIL: Final = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")
_HANDLER: Final = re.compile(r"/(?:handler|handler_noauth|modx|ajax)/")
_KNOWN: Final = re.compile(
    r"(?:edx|org\.openedx|openedx|openassessmentblock|textbook|xblock|ubcpi|oppia|assess|ccx)\."
    r"|(?:seq|problem|video|nav|page|reset_problem|save_problem|show|hide|oe|calculator)_"
    r"|(?:book|showanswer)\Z"
)
_INNER: Final = ("certificate", "enrollment")


class Line(Struct, frozen=True, kw_only=True, gc=False):
    """The parts of a line that a fact may be made of; `names` are the acting person's own."""

    name: str
    is_browser: bool
    context: Members
    payload: Members
    page: str
    names: tuple[str, ...]

    def __repr__(self) -> str:
        """Return the type only."""
        return "Line(...)"


class _UnfitError(Exception):
    """A member of an event is not what its fact declares."""


def payload_of(name: str, member: object) -> Members | Refusal:
    """Return what an event carries: an object, JSON in a string, or form data in a string.

    A list, null, and text that is neither (loggers cut long strings) carry nothing.
    """
    if name.startswith("/") or member is None:
        return {}  # the platform logs a request's own form here, and no fact of a page needs it
    if isinstance(member, str):
        found = _decoded(member)
        if type(found) is Refusal:
            return found
        member = found
    if isinstance(member, dict):
        if name.startswith("org.openedx."):
            for key in _INNER:
                if isinstance(inner := member.get(key), dict):
                    return cast("Members", inner)
        return member
    return {} if isinstance(member, list) else Refusal.SCHEMA_MISMATCH


def names_subject(line: Line) -> tuple[object, object]:
    """Return user id and username of the person whom a server event itself names, raw."""
    payload = line.payload
    if line.is_browser or not payload:
        return None, None
    if "user_id" in payload:
        return payload["user_id"], None
    user = payload.get("user")
    if isinstance(user, dict):
        pii = user.get("pii")
        return user.get("id"), pii.get("username") if isinstance(pii, dict) else None
    return None, None


def fact_of(line: Line, *, at: datetime) -> Fact | Refusal:
    """Return the fact that an event is, or why it is none."""
    name = line.name
    try:
        if name.startswith("/"):
            return _page(line, at)
        build = _BUILDERS.get(name)
        if build is None and not line.is_browser:
            build = _SERVER_BUILDERS.get(name)
        if build is not None:
            return build(line, at)
        if _KNOWN.match(name) is None or not is_action(name):
            return Refusal.UNKNOWN_EVENT
        return _other(line, at)
    except _UnfitError:
        return Refusal.SCHEMA_MISMATCH


def deed_of(line: Line, fact: Fact, *, at: datetime) -> Fact:
    """Return what the acting person did, when the fact itself concerns somebody else."""
    course: CourseName | None = getattr(fact, "course", None)
    return UsageOther(occurred_at=at, course=course, action=line.name)


# Text in the member ----------------------------------------------------------------------


def _decoded(text: str) -> object:
    """Return what a string holds: an object, a list, a form as an object, or nothing."""
    text = text.strip()
    if text[:1] in {"{", "[", '"'}:
        value = decode_json(text.encode())
        if value is Refusal.NOT_JSON:
            return {}
        if type(value) is Refusal or not isinstance(value, str):
            return value
        text = value  # a form that was encoded twice
    if "=" not in text:
        return {}
    try:
        form = parse_qs(text, keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX)
    except ValueError:
        return Refusal.SCHEMA_MISMATCH
    return {key: found[0] if len(found) == 1 else found for key, found in form.items()}


# Builders --------------------------------------------------------------------------------


def _page(line: Line, at: datetime) -> Fact:
    path = line.name
    if _HANDLER.search(path) is not None:
        # A component's own call, not a page that somebody looked at.
        return UsageOther(occurred_at=at, course=_course(line), action="component.called")
    plain = plain_path(path, names=line.names)
    if plain is None:
        raise _UnfitError
    return UsagePageViewed(occurred_at=at, course=_course(line), path=plain)


def _link(line: Line, at: datetime) -> Fact:
    url = line.payload.get("target_url")
    if url is not None and not isinstance(url, str):
        raise _UnfitError
    target = plain_target(url, names=line.names) if url else None
    return UsageLinkClicked(occurred_at=at, course=_course(line), target=target)


def _other(line: Line, at: datetime) -> Fact:
    return UsageOther(occurred_at=at, course=_course(line), action=line.name)


def _loaded(line: Line, at: datetime) -> Fact:
    return VideoLoaded(occurred_at=at, course=_course(line), video=_video(line.payload))


def _played(line: Line, at: datetime) -> Fact:
    payload = line.payload
    return VideoPlayed(
        occurred_at=at, course=_course(line), video=_video(payload), position_ms=_position(payload)
    )


def _paused(line: Line, at: datetime) -> Fact:
    payload = line.payload
    return VideoPaused(
        occurred_at=at, course=_course(line), video=_video(payload), position_ms=_position(payload)
    )


def _completed(line: Line, at: datetime) -> Fact:
    payload = line.payload
    return VideoCompleted(
        occurred_at=at, course=_course(line), video=_video(payload), position_ms=_position(payload)
    )


def _seeked(line: Line, at: datetime) -> Fact:
    payload = line.payload
    return VideoSeeked(
        occurred_at=at,
        course=_course(line),
        video=_video(payload),
        from_ms=_millis(payload.get("old_time")),
        to_ms=_millis(payload.get("new_time")),
    )


def _speed_changed(line: Line, at: datetime) -> Fact:
    speed = line.payload.get("new_speed")
    if isinstance(speed, int | float) and not isinstance(speed, bool):
        speed = str(speed)
    if speed is not None and not (isinstance(speed, str) and _SPEED.fullmatch(speed)):
        raise _UnfitError
    return VideoSpeedChanged(occurred_at=at, course=_course(line), video=_video(line.payload), speed=speed)


def _captions(*, is_shown: bool) -> Build:
    def build(line: Line, at: datetime) -> Fact:
        return VideoCaptionsToggled(
            occurred_at=at, course=_course(line), video=_video(line.payload), is_shown=is_shown
        )

    return build


def _enrolled(line: Line, at: datetime) -> Fact:
    return CourseEnrolled(occurred_at=at, course=_sure_course(line), mode=_word(line.payload.get("mode")))


def _unenrolled(line: Line, at: datetime) -> Fact:
    return CourseUnenrolled(occurred_at=at, course=_sure_course(line))


def _quiz(line: Line, at: datetime) -> Fact:
    payload = line.payload
    problem = payload.get("problem_id")
    attempt = payload.get("attempts")
    if not is_code(problem):
        raise _UnfitError
    if attempt is not None and not (type(attempt) is int and 0 <= attempt <= ATTEMPTS_MAX):
        raise _UnfitError
    success = payload.get("success")
    return CourseQuizAnswered(
        occurred_at=at,
        course=_sure_course(line),
        problem=cast("str", problem),
        answers=_answers(payload.get("answers")),
        is_correct=success == "correct" if success in ("correct", "incorrect") else None,
        score=_score(payload.get("grade")),
        score_max=_score(payload.get("max_grade")),
        attempt=attempt,
    )


def _answered(line: Line, at: datetime) -> Fact:
    # A form without a problem is the browser's copy: the words come once, with the server's.
    return _quiz(line, at) if "problem_id" in line.payload else _other(line, at)


def _graded(*, has_passed: bool | None) -> Build:
    def build(line: Line, at: datetime) -> Fact:
        payload = line.payload
        return CourseGraded(
            occurred_at=at,
            course=_sure_course(line),
            score=_score(payload.get("percent_grade")),
            letter=_word(payload.get("letter_grade")),
            has_passed=has_passed,
        )

    return build


def _posted(kind: Literal["thread", "response", "comment"]) -> Build:
    def build(line: Line, at: datetime) -> Fact:
        payload = line.payload
        return CoursePostCreated(
            occurred_at=at,
            course=_sure_course(line),
            kind=kind,
            title=_text(payload.get("title"), TEXT_CHARS_MAX),
            body=_text(payload.get("body"), BODY_CHARS_MAX),
        )

    return build


def _certified(line: Line, at: datetime) -> Fact:
    certificate = line.payload.get("certificate_id")
    if type(certificate) is int:
        certificate = str(certificate)
    return CertificateIssued(occurred_at=at, course=_sure_course(line), certificate=_word(certificate))


def _logged_in(_line: Line, at: datetime) -> Fact:
    return AccountLoggedIn(occurred_at=at)


def _registered(line: Line, at: datetime) -> Fact:
    user = line.payload.get("user")
    pii = user.get("pii") if isinstance(user, dict) else None
    given: Members = cast("Members", pii) if isinstance(pii, dict) else line.payload
    email = _text(given.get("email"), EMAIL_CHARS_MAX)
    if email is not None and _EMAIL.fullmatch(email) is None:
        raise _UnfitError
    return AccountRegistered(
        occurred_at=at,
        username=_text(given.get("username"), NAME_CHARS_MAX),
        name=_text(given.get("name"), NAME_CHARS_MAX),
        email=email,
    )


# Members ---------------------------------------------------------------------------------


def _course(line: Line) -> CourseName | None:
    """Return the course of a line: as the event says, else its context, else its path."""
    declared: list[object] = [line.payload.get("course_id"), line.context.get("course_id")]
    course = line.payload.get("course")
    if isinstance(course, dict):
        declared.append(course.get("course_key"))
    for value in declared:
        if value is not None and value != "":
            key = course_key(value)
            if key is None and isinstance(value, str) and "%" in value:
                key = course_key(unquote(value))
            if key is None:
                raise _UnfitError
            return key
    for path in (line.name, line.context.get("path"), line.page):
        if isinstance(path, str) and (key := course_in_path(path)) is not None:
            return key
    return None


def _sure_course(line: Line) -> CourseName:
    """Return the course of a line that must have one."""
    course = _course(line)
    if course is None:
        raise _UnfitError
    return course


def _video(payload: Members) -> str:
    """Return the id of the video: of its component, or of the file where that is all."""
    for key in ("id", "module_id", "code"):
        value = payload.get(key)
        if value is not None and value != "":
            if not is_code(value):
                raise _UnfitError
            return cast("str", value)
    raise _UnfitError


def _position(payload: Members) -> int | None:
    value = payload.get("currentTime")
    return _millis(payload.get("current_time") if value is None else value)


def _millis(seconds: object) -> int | None:
    """Return seconds as whole milliseconds; a player that has not started has none."""
    if seconds is None or seconds == "":
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise _UnfitError
    if not 0 <= seconds <= MILLIS_MAX // 1000:  # also false for what is not finite
        raise _UnfitError
    return round(seconds * 1000)


def _score(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnfitError
    if not 0 <= value <= SCORE_MAX or not isfinite(value):
        raise _UnfitError
    return float(value)


def _word(value: object) -> str | None:
    """Return a word of a vocabulary, such as a mode or a letter; blank is None."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not is_code(value.replace(" ", "_")):
        raise _UnfitError
    return value


def _text(value: object, chars_max: int) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > chars_max:
        raise _UnfitError
    return value


def _answers(value: object) -> tuple[tuple[str, str], ...]:
    """Return the answers by input, in the order given; several choices repeat their input."""
    if value is None or value == "":
        return ()
    if not isinstance(value, dict):
        raise _UnfitError
    pairs: list[tuple[str, str]] = []
    for name, answer in value.items():
        if not is_code(name):
            raise _UnfitError
        for choice in answer if isinstance(answer, list) else [answer]:
            text = choice if isinstance(choice, str) else msgspec.json.encode(choice).decode()
            if len(text) > TEXT_CHARS_MAX:
                raise _UnfitError
            pairs.append((name, text))
    if len(pairs) > ANSWERS_MAX:
        raise _UnfitError
    return tuple(pairs)


_BUILDERS: Final[dict[str, Build]] = {
    "load_video": _loaded,
    "edx.video.loaded": _loaded,
    "play_video": _played,
    "edx.video.played": _played,
    "pause_video": _paused,
    "edx.video.paused": _paused,
    "seek_video": _seeked,
    "edx.video.position.changed": _seeked,
    "stop_video": _completed,
    "edx.video.stopped": _completed,
    "complete_video": _completed,
    "edx.video.completed": _completed,
    "speed_change_video": _speed_changed,
    "edx.video.speed.changed": _speed_changed,
    "show_transcript": _captions(is_shown=True),
    "edx.video.transcript.shown": _captions(is_shown=True),
    "edx.video.closed_captions.shown": _captions(is_shown=True),
    "hide_transcript": _captions(is_shown=False),
    "edx.video.transcript.hidden": _captions(is_shown=False),
    "edx.video.closed_captions.hidden": _captions(is_shown=False),
    "edx.ui.lms.link_clicked": _link,
    "edx.ui.lms.outline.selected": _link,
}
_SERVER_BUILDERS: Final[dict[str, Build]] = {
    "edx.course.enrollment.activated": _enrolled,
    "org.openedx.learning.course.enrollment.created.v1": _enrolled,
    "edx.course.enrollment.deactivated": _unenrolled,
    "org.openedx.learning.course.unenrollment.completed.v1": _unenrolled,
    "edx.course.grade.now_passed": _graded(has_passed=True),
    "edx.course.grade.passed.first_time": _graded(has_passed=True),
    "edx.course.grade.now_failed": _graded(has_passed=False),
    "problem_check": _answered,
    "edx.grades.course.grade_calculated": _graded(has_passed=None),
    "edx.forum.thread.created": _posted("thread"),
    "edx.forum.response.created": _posted("response"),
    "edx.forum.comment.created": _posted("comment"),
    "edx.certificate.created": _certified,
    "org.openedx.learning.certificate.created.v1": _certified,
    "edx.user.login": _logged_in,
    "org.openedx.learning.auth.session.login.completed.v1": _logged_in,
    "edx.user.registered": _registered,
    "edx.bi.user.account.registered": _registered,
    "org.openedx.learning.student.registration.completed.v1": _registered,
}
