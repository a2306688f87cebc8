"""Progress: enrolments, videos, quizzes, grades and certificates of one person.

Acts under `course.deliver`. A replay of the same live records gives the same state.
"""

from typing import Final, TypeVar

from msgspec import Struct, structs

from privacy_ledger.domain.events import (
    CertificateIssued,
    CourseCompleted,
    CourseEnrolled,
    CourseGraded,
    CoursePostCreated,
    CourseQuizAnswered,
    CourseUnenrolled,
    Fact,
    VideoCompleted,
    VideoPaused,
    VideoPlayed,
    VideoSeeked,
    event_type,
)
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import Parts, Table

__all__ = ["TABLE", "CourseProgress", "Progress", "ProgressPart", "Quiz", "Video", "merge"]

_TYPES = (
    CertificateIssued, CourseCompleted, CourseEnrolled, CourseGraded, CoursePostCreated,
    CourseQuizAnswered, CourseUnenrolled, VideoCompleted, VideoPaused, VideoPlayed, VideoSeeked,
)  # fmt: skip
NO_COURSE: Final = ""
T = TypeVar("T")


class Video(Struct, array_like=True, gc=False):
    """How often a video was played, paused, sought in and completed; furthest position, ms."""

    plays: int = 0
    pauses: int = 0
    seeks: int = 0
    completions: int = 0
    position_ms_max: int = 0


class Quiz(Struct, array_like=True, gc=False):
    """How often a problem was answered, how often rightly, and the best share of its score."""

    attempts: int = 0
    correct: int = 0
    best_permille: int = 0


class CourseProgress(Struct, omit_defaults=True):
    """One course: `enrolled` is (place, is enrolled), `passed` is (place, has passed); the last wins."""

    enrolled: tuple[int, bool] | None = None
    passed: tuple[int, bool] | None = None
    is_completed: bool = False
    certificates: int = 0
    posts: int = 0
    videos: dict[str, Video] = {}
    quizzes: dict[str, Quiz] = {}


class ProgressPart(Struct, omit_defaults=True):
    """What the records of one category and month say, by course."""

    courses: dict[str, CourseProgress] = {}


TABLE: Final = Table(b"2", "progress", Parts[ProgressPart], "view", view="progress")


class Progress:
    """The step of `view.progress`."""

    purpose: Final = "course.deliver"
    types: Final = frozenset(event_type(kind) for kind in _TYPES)

    def windows(self, _record: Record) -> None:
        """Return None: this is no analytics step."""
        return

    def step(self, part: ProgressPart | None, record: Record) -> ProgressPart:
        """Return the part after one record."""
        if not isinstance(record.body, Fact):
            return part or ProgressPart()
        courses = {} if part is None else part.courses
        name = getattr(record.body, "course", None) or NO_COURSE
        course = courses.get(name)
        changed = _course_step(course or CourseProgress(), record.body, record.place)
        if course is not None:
            return ProgressPart({**courses, name: changed})
        return ProgressPart(dict(sorted({**courses, name: changed}.items())))


def _course_step(course: CourseProgress, fact: Fact, place: int) -> CourseProgress:
    """Return a course's progress after one fact about it."""
    match fact:
        case CourseEnrolled():
            return structs.replace(course, enrolled=_last(course.enrolled, (place, True)))
        case CourseUnenrolled():
            return structs.replace(course, enrolled=_last(course.enrolled, (place, False)))
        case CourseGraded():
            if fact.has_passed is None:
                return course
            return structs.replace(course, passed=_last(course.passed, (place, fact.has_passed)))
        case CourseCompleted():
            return structs.replace(course, is_completed=True)
        case CertificateIssued():
            return structs.replace(course, certificates=course.certificates + 1)
        case CoursePostCreated():
            return structs.replace(course, posts=course.posts + 1)
        case CourseQuizAnswered():
            quiz = _quiz_step(course.quizzes.get(fact.problem) or Quiz(), fact)
            return structs.replace(course, quizzes=_set(course.quizzes, fact.problem, quiz))
        case VideoPlayed() | VideoPaused() | VideoSeeked() | VideoCompleted():
            video = _video_step(course.videos.get(fact.video) or Video(), fact)
            return structs.replace(course, videos=_set(course.videos, fact.video, video))
        case _:
            return course


def _quiz_step(quiz: Quiz, fact: CourseQuizAnswered) -> Quiz:
    """Return a problem's figures after one answer; shares are whole permille, rounded down."""
    permille = 0
    if fact.score is not None and fact.score_max:
        permille = min(1000, int(fact.score * 1000 // fact.score_max))
    return Quiz(quiz.attempts + 1, quiz.correct + bool(fact.is_correct), max(quiz.best_permille, permille))


def _video_step(video: Video, fact: VideoPlayed | VideoPaused | VideoSeeked | VideoCompleted) -> Video:
    """Return a video's figures after one player event."""
    reached = fact.to_ms if isinstance(fact, VideoSeeked) else fact.position_ms
    return Video(
        video.plays + isinstance(fact, VideoPlayed),
        video.pauses + isinstance(fact, VideoPaused),
        video.seeks + isinstance(fact, VideoSeeked),
        video.completions + isinstance(fact, VideoCompleted),
        max(video.position_ms_max, reached or 0),
    )


def merge(state: Parts[ProgressPart]) -> dict[str, CourseProgress]:
    """Return each course's progress over all parts, courses sorted; the last place wins."""
    whole: dict[str, CourseProgress] = {}
    for part in state.parts.values():
        for name, other in part.courses.items():
            mine = whole.get(name)
            whole[name] = other if mine is None else _merge_course(mine, other)
    return dict(sorted(whole.items()))


def _merge_course(a: CourseProgress, b: CourseProgress) -> CourseProgress:
    """Return two parts of one course as one."""
    videos = dict(a.videos)
    for name, video in b.videos.items():
        mine = videos.get(name) or Video()
        videos[name] = Video(
            mine.plays + video.plays, mine.pauses + video.pauses, mine.seeks + video.seeks,
            mine.completions + video.completions, max(mine.position_ms_max, video.position_ms_max),
        )  # fmt: skip
    quizzes = dict(a.quizzes)
    for name, quiz in b.quizzes.items():
        known = quizzes.get(name) or Quiz()
        quizzes[name] = Quiz(
            known.attempts + quiz.attempts, known.correct + quiz.correct,
            max(known.best_permille, quiz.best_permille),
        )  # fmt: skip
    return CourseProgress(
        _last(a.enrolled, b.enrolled),
        _last(a.passed, b.passed),
        a.is_completed or b.is_completed,
        a.certificates + b.certificates,
        a.posts + b.posts,
        dict(sorted(videos.items())),
        dict(sorted(quizzes.items())),
    )


def _last(mine: tuple[int, bool] | None, other: tuple[int, bool] | None) -> tuple[int, bool] | None:
    """Return what stands further on in the person's history."""
    return max((one for one in (mine, other) if one is not None), default=None)


def _set(table: dict[str, T], name: str, value: T) -> dict[str, T]:
    """Return the table with `name` set, keys sorted, so that equal states have equal bytes."""
    if name in table:
        return {**table, name: value}
    return dict(sorted({**table, name: value}.items()))
