"""The oracle's projections: what a list of live records adds up to, counted from the list."""

from collections import Counter
from collections.abc import Iterable

from privacy_ledger.domain.events import (
    AccountRegistered,
    AccountUpdated,
    CertificateIssued,
    CourseCompleted,
    CourseEnrolled,
    CourseGraded,
    CoursePostCreated,
    CourseQuizAnswered,
    CourseUnenrolled,
    DeviceObserved,
    Fact,
    LocationDerived,
    ProfileFieldCleared,
    ProfileFieldSet,
    RegionDerived,
    VideoCompleted,
    VideoPaused,
    VideoPlayed,
    VideoSeeked,
)
from privacy_ledger.streams.progress import CourseProgress, Quiz, Video
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.subject_view import Stamped, SubjectPart

__all__ = ["progress_of", "subject_view_of"]


def subject_view_of(records: Iterable[Record]) -> SubjectPart:
    """Return the subject view of these records; where the last value wins, their places count."""
    account: dict[str, Stamped] = {}
    profile: dict[str, Stamped] = {}
    devices: Counter[str] = Counter()
    countries: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for record in _in_place(records):
        counts[record.type] += 1
        match record.body:
            case AccountRegistered() | AccountUpdated() as fact:
                for field in ("username", "name", "email"):
                    value = getattr(fact, field)
                    if value is not None:
                        account[field] = Stamped(record.place, value)
            case ProfileFieldSet() as fact:
                profile[fact.field] = Stamped(record.place, fact.value)
            case ProfileFieldCleared() as fact:
                profile.pop(fact.field, None)
            case DeviceObserved() as fact:
                devices[f"{fact.browser or '?'} / {fact.system or '?'} / {fact.device_class}"] += 1
            case LocationDerived() as fact:
                countries[fact.country] += 1
            case RegionDerived() as fact:
                countries[fact.country if fact.region is None else fact.region] += 1
            case _:
                pass
    return SubjectPart(dict(account), dict(profile), dict(devices), dict(countries), dict(counts))


def progress_of(records: Iterable[Record]) -> dict[str, CourseProgress]:
    """Return the progress by course of these records; where the last value wins, their places count."""
    courses: dict[str, CourseProgress] = {}
    for record in _in_place(records):
        fact = record.body
        if isinstance(fact, _LEARNING):
            course = courses.setdefault(fact.course or "", CourseProgress(videos={}, quizzes={}))
            _count(course, fact, record.place)
    return courses


def _in_place(records: Iterable[Record]) -> list[Record]:
    """Return the records in the order of their history: a restated one stands where its original stood."""
    return sorted(records, key=lambda record: record.place)


_LEARNING = (
    CertificateIssued, CourseCompleted, CourseEnrolled, CourseGraded, CoursePostCreated,
    CourseQuizAnswered, CourseUnenrolled, VideoCompleted, VideoPaused, VideoPlayed, VideoSeeked,
)  # fmt: skip


def _count(course: CourseProgress, fact: Fact, place: int) -> None:
    """Add one fact to a course's progress, in place."""
    match fact:
        case CourseEnrolled() | CourseUnenrolled():
            course.enrolled = (place, isinstance(fact, CourseEnrolled))
        case CourseGraded() if fact.has_passed is not None:
            course.passed = (place, fact.has_passed)
        case CourseCompleted():
            course.is_completed = True
        case CertificateIssued():
            course.certificates += 1
        case CoursePostCreated():
            course.posts += 1
        case CourseQuizAnswered():
            quiz = course.quizzes.setdefault(fact.problem, Quiz())
            quiz.attempts += 1
            quiz.correct += 1 if fact.is_correct else 0
            if fact.score is not None and fact.score_max:
                quiz.best_permille = max(
                    quiz.best_permille, min(1000, int(1000 * fact.score // fact.score_max))
                )
        case VideoPlayed() | VideoPaused() | VideoCompleted():
            video = course.videos.setdefault(fact.video, Video())
            video.plays += isinstance(fact, VideoPlayed)
            video.pauses += isinstance(fact, VideoPaused)
            video.completions += isinstance(fact, VideoCompleted)
            video.position_ms_max = max(video.position_ms_max, fact.position_ms or 0)
        case VideoSeeked():
            video = course.videos.setdefault(fact.video, Video())
            video.seeks += 1
            video.position_ms_max = max(video.position_ms_max, fact.to_ms or 0)
        case _:
            pass
