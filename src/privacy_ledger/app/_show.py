"""One person's permissions and projections as plain values, masked unless revealed."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from privacy_ledger.domain.events import RetainedCategory
from privacy_ledger.domain.holds import Hold
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.ports.keys import IdentityStatus
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.progress import CourseProgress, ProgressPart
from privacy_ledger.streams.states import Parts
from privacy_ledger.streams.subject_view import SubjectPart

__all__ = ["Course", "Reference", "Shown", "mask", "shown"]

State = tuple[Permissions | None, Parts[SubjectPart] | None, Parts[ProgressPart] | None]


class Course(Struct, frozen=True, kw_only=True):
    """Progress in one course, in figures."""

    is_enrolled: bool | None
    has_passed: bool | None
    is_completed: bool
    certificates: int
    posts: int
    videos: int
    plays: int
    video_completions: int
    quizzes: int
    quiz_attempts: int


class Reference(Struct, frozen=True, kw_only=True):
    """One reference of a person: what may be done, and what is projected."""

    is_restricted: bool
    ground: str | None
    is_minor: bool
    is_approved: bool
    consents: dict[str, datetime]
    objections: tuple[str, ...]
    holds: tuple[Hold, ...]
    retained: tuple[RetainedCategory, ...]
    erasure: str | None
    receipt: str | None
    account: dict[str, str]
    profile: dict[str, str]
    devices: dict[str, int]
    countries: dict[str, int]
    counts: dict[str, int]
    courses: dict[str, Course]


class Shown(Struct, frozen=True, kw_only=True):
    """A person: `status` is active or erased; references elder first."""

    status: str
    is_masked: bool
    references: tuple[Reference, ...]


def shown(status: IdentityStatus, states: Sequence[State], *, is_masked: bool) -> Shown:
    """Return what is known of each reference."""
    references = tuple(_reference(*state, is_masked=is_masked) for state in states)
    return Shown(status=str(status), is_masked=is_masked, references=references)


def mask(value: str) -> str:
    """Return the first character and an ellipsis."""
    return value[:1] + "…" if value else value


def _reference(
    permissions: Permissions | None,
    view: Parts[SubjectPart] | None,
    courses: Parts[ProgressPart] | None,
    *,
    is_masked: bool,
) -> Reference:
    may = permissions or Permissions()
    part = subject_view.merge(view) if view is not None else subject_view.SubjectPart()
    merged = progress.merge(courses) if courses is not None else {}
    say = mask if is_masked else str
    return Reference(
        is_restricted=may.is_restricted,
        ground=may.ground,
        is_minor=may.is_minor,
        is_approved=may.is_approved,
        consents=dict(sorted(may.grants.items())),
        objections=may.objections,
        holds=may.holds,
        retained=() if may.erasure is None else may.erasure.retained,
        erasure=None if may.erasure is None else may.erasure.state,
        receipt=None if may.erasure is None else may.erasure.receipt,
        account={field: say(s.value) for field, s in part.account.items() if s.value is not None},
        profile={field: say(s.value) for field, s in part.profile.items() if s.value is not None},
        devices=_masked_keys(part.devices) if is_masked else part.devices,
        countries=_masked_keys(part.countries) if is_masked else part.countries,
        counts=part.counts,
        courses={name: _course(course) for name, course in merged.items()},
    )


def _masked_keys(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts under masked names; names that become equal are added up."""
    found: dict[str, int] = {}
    for name, count in counts.items():
        found[mask(name)] = found.get(mask(name), 0) + count
    return found


def _course(course: CourseProgress) -> Course:
    videos, quizzes = course.videos.values(), course.quizzes.values()
    return Course(
        is_enrolled=None if course.enrolled is None else course.enrolled[1],
        has_passed=None if course.passed is None else course.passed[1],
        is_completed=course.is_completed,
        certificates=course.certificates,
        posts=course.posts,
        videos=len(course.videos),
        plays=sum(video.plays for video in videos),
        video_completions=sum(video.completions for video in videos),
        quizzes=len(course.quizzes),
        quiz_attempts=sum(quiz.attempts for quiz in quizzes),
    )
