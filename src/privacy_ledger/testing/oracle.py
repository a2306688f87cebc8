"""An oracle: what a ledger must mean, computed from the documents and apart from the folds.

It is naive on purpose. Each subject's history is read from the start, live records are a list that
is filtered, and projections are counted from that list at the end. A discarded record is one that
was never there, so its history is read again without it. A fold that agrees with this over many
random logs has no bookkeeping of its own to hide behind.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.events import (
    AccountRegistered,
    AccountUpdated,
    CertificateIssued,
    ConsentGranted,
    ConsentWithdrawn,
    ControlFact,
    ControlRecord,
    CourseCompleted,
    CourseEnrolled,
    CourseGraded,
    CoursePostCreated,
    CourseQuizAnswered,
    CourseUnenrolled,
    DeviceObserved,
    ErasureRequested,
    Fact,
    LocationDerived,
    MinorStatusDeclared,
    ObjectionRaised,
    ProfileFieldCleared,
    ProfileFieldSet,
    RecordDiscarded,
    RestrictionLifted,
    RestrictionStarted,
    RulesAdopted,
    SubjectRegistered,
    Tick,
    TimeConfirmed,
    UsagePageViewed,
    VideoCompleted,
    VideoPaused,
    VideoPlayed,
    VideoSeeked,
    WindowSealed,
)
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import ALWAYS, Rules
from privacy_ledger.domain.values import NOBODY, Category, SubjectRef
from privacy_ledger.streams.progress import CourseProgress, Quiz, Video
from privacy_ledger.streams.record import Record, Undecodable
from privacy_ledger.streams.subject_view import Stamped, SubjectPart

__all__ = ["Expected", "Oracle", "Subject", "progress_of", "subject_view_of"]

FUTURE_MAX: Final = timedelta(minutes=5)
TICK_JUMP_MAX: Final = timedelta(days=40)
DELIVER: Final = "course.deliver"
ANALYSE: Final = "improve.analyse"


class Subject(Struct, frozen=True, kw_only=True):
    """What must be true of one subject at the end of a log.

    `live` maps the id of each accepted record to the purposes in force for it; `tombstones` are
    the ids of the records that must be removed, `causes` how many of them for which reason.
    """

    is_registered: bool
    is_ended: bool
    is_restricted: bool
    is_parked: bool
    is_minor_unapproved: bool
    grants: dict[str, datetime]
    objected: frozenset[str]
    live: dict[bytes, tuple[str, ...]]
    tombstones: frozenset[bytes]
    causes: dict[str, int]
    subject_view: SubjectPart
    progress: dict[str, CourseProgress]


class Expected(Struct, frozen=True, kw_only=True):
    """What must be true at the end of a log of one partition.

    `windows` maps the release id of each sealed window to how many subjects touched each course
    of its keyset. A release in `is_capped` has a subject with more cells than the product allows:
    its counts are an upper bound.
    """

    subjects: dict[SubjectRef, Subject]
    windows: dict[str, dict[str, int]]
    is_capped: frozenset[str]


class _Live(Struct):
    """A record that was accepted, what it may serve, and whether it waits for a lift."""

    record: Record
    purposes: tuple[str, ...]
    is_held: bool


class _Purge(Struct, frozen=True):
    """A purge that waits for the lift: these purposes, of the records before this offset."""

    purposes: frozenset[str]
    offset: int


class Oracle:
    """The rule books, and what logs mean under them."""

    def __init__(self, initial: Rules, books: Mapping[str, Rules] | None = None) -> None:
        """Take the rules in force at the start, and those that `RulesAdopted` may name by digest."""
        self._initial = initial
        self._books = dict(books or {})

    def expect(self, records: Sequence[Record]) -> Expected:
        """Return what must be true after `records`: one partition, oldest first, never compacted."""
        refs = dict.fromkeys(record.ref for record in records if record.ref != NOBODY)
        cells: dict[str, dict[SubjectRef, frozenset[str]]] = {}
        subjects = {}
        for ref in refs:
            concerning = [record for record in records if record.ref in (ref, NOBODY)]
            history = _History(self._initial, self._books, {})
            history.read(concerning)
            subjects[ref] = history.subject()
            for release, touched in history.sealed.items():
                cells.setdefault(release, {})[ref] = touched
        return Expected(
            subjects=subjects,
            windows={
                release: dict(
                    sorted(Counter(course for touched in by_ref.values() for course in touched).items())
                )
                for release, by_ref in cells.items()
            },
            is_capped=frozenset(
                release
                for release, by_ref in cells.items()
                if any(len(touched) > self._cells_max() for touched in by_ref.values())
            ),
        )

    def _cells_max(self) -> int:
        return min(product.cells_max for product in self._initial.registry.products)


class _History:
    """One subject's history, read record by record.

    `sealed` maps a release to the courses that the subject gave to it. Sealed windows stay as
    they are, so a second reading keeps the first one's answers.
    """

    def __init__(self, rules: Rules, books: Mapping[str, Rules], sealed: dict[str, frozenset[str]]) -> None:
        self._initial = rules
        self._books = books
        self.sealed = sealed
        self._forget()

    def _forget(self) -> None:
        self.rules = self._initial
        self.tick: datetime | None = None
        self.unconfirmed: datetime | None = None
        self.requests: set[str] = set()
        self.not_before: datetime | None = None
        self.is_ended = False
        self.is_restricted = False
        self.is_minor_unapproved = False
        self.grants: dict[str, datetime] = {}
        self.objected: set[str] = set()
        self.live: list[_Live] = []
        self.removed: dict[bytes, str] = {}
        self.waiting_purges: list[_Purge] = []
        self.fell_due: set[bytes] = set()
        self.parked: Record | None = None
        self.behind: list[Record] = []
        self.windows: set[tuple[str, str]] = set()

    def read(self, records: Sequence[Record]) -> None:
        """Read a whole history; the discard of a parked record starts it again without that one."""
        discarded: set[bytes] = set()
        position = 0
        while position < len(records):
            record = records[position]
            position += 1
            if record.record_id in discarded and isinstance(record.body, Undecodable):
                self.removed[record.record_id] = Refusal.DISCARDED
                continue
            named = self._names_the_parked(record)
            if named is not None:
                discarded.add(named)
                self._forget()
                position = 0
                continue
            self._one(record)

    def _names_the_parked(self, record: Record) -> bytes | None:
        body = record.body
        if self.parked is None or not isinstance(body, RecordDiscarded) or body.request in self.requests:
            return None
        return self.parked.record_id if bytes.fromhex(body.record) == self.parked.record_id else None

    def _one(self, record: Record) -> None:
        body = record.body
        if isinstance(body, ControlRecord):
            self._control_record(body)
        elif self.is_ended:
            self._after_the_end(record)
        elif self.parked is not None and not _is_end(body):
            self.behind.append(record)
        elif isinstance(body, Undecodable):
            self.parked = record
        elif isinstance(body, ControlFact):
            if body.request not in self.requests:
                self.requests.add(body.request)
                self._control_fact(body, record.offset)
        elif isinstance(body, Fact):
            self._data(record, body)

    def _after_the_end(self, record: Record) -> None:
        if isinstance(record.body, Fact):
            self.removed[record.record_id] = self._refusal(record, ()) or Refusal.SUBJECT_ERASED
        elif isinstance(record.body, Undecodable):
            self.removed[record.record_id] = Refusal.SUBJECT_ERASED

    # Control records ----------------------------------------------------------------------

    def _control_record(self, body: ControlRecord) -> None:
        match body:
            case Tick():
                self._tick(body.at)
            case TimeConfirmed():
                if self.unconfirmed is not None and body.at >= self.unconfirmed:
                    self._take_time(self.unconfirmed)
            case RulesAdopted():
                self.rules = self._books[body.digest]
            case WindowSealed():
                self._seal(body)
            case _:
                pass

    def _tick(self, at: datetime) -> None:
        if self.tick is not None and at - self.tick > TICK_JUMP_MAX:
            self.unconfirmed = at
        else:
            self._take_time(at)

    def _take_time(self, at: datetime) -> None:
        if self.tick is not None and at <= self.tick:
            return
        self.tick, self.unconfirmed = at, None
        due = {live.record.record_id for live in self.live if self._is_past(live.record, at)}
        if self.is_restricted or self.parked is not None:
            self.fell_due |= due
        else:
            self._drop(due, Refusal.RETENTION)

    def _is_past(self, record: Record, at: datetime) -> bool:
        if record.category is None:
            return True
        months = self.rules.retention_months(record.category)
        return months is not None and _month(record.occurred_at) + months < _month(at)

    def _seal(self, body: WindowSealed) -> None:
        if (body.product, body.window) in self.windows:
            return
        self.windows.add((body.product, body.window))
        if body.release in self.sealed:
            return
        may = (
            not self.is_ended
            and not self.is_restricted
            and self.parked is None
            and ANALYSE in self._in_force(None)
        )
        touched = {
            live.record.body.course
            for live in self.live
            if may
            and ANALYSE in live.purposes
            and isinstance(live.record.body, UsagePageViewed)
            and live.record.body.course is not None
            and live.record.occurred_at.astimezone(UTC).date().isoformat() == body.window
        }
        self.sealed[body.release] = frozenset(touched) & frozenset(body.keyset)

    # Control facts ------------------------------------------------------------------------

    def _control_fact(self, body: ControlFact, offset: int) -> None:
        match body:
            case SubjectRegistered():
                self.not_before = body.not_before if self.not_before is None else self.not_before
            case RestrictionStarted():
                self.is_restricted = True
            case RestrictionLifted():
                self._lift()
            case ErasureRequested():
                self._erase(body, offset)
            case RecordDiscarded():
                named = bytes.fromhex(body.record)
                self._drop({named}, Refusal.DISCARDED)
            case MinorStatusDeclared():
                self.is_minor_unapproved = body.is_minor and not body.is_approved
                if self.is_minor_unapproved:
                    self._purge_or_wait(self.rules.consent_purposes, offset)
            case _:
                pass

    def _lift(self) -> None:
        if not self.is_restricted:
            return
        self.is_restricted = False
        for purge in self.waiting_purges:
            self._purge(purge.purposes, purge.offset, Refusal.WITHDRAWN)
        self.waiting_purges = []
        self._drop(self.fell_due, Refusal.RETENTION)
        self.fell_due = set()
        for live in self.live:
            live.is_held = False

    def _erase(self, body: ErasureRequested, offset: int) -> None:
        if body.scope == "category":
            of_category = {
                live.record.record_id for live in self.live if live.record.category == body.category
            }
            self._drop(of_category, Refusal.ERASED)
        elif body.scope == "purpose" and body.purpose is not None:
            self._purge(frozenset({body.purpose}), offset, Refusal.ERASED)
        elif body.scope == "person":
            self._drop({live.record.record_id for live in self.live}, Refusal.ERASED)
            self.grants, self.objected = {}, set()
            self.is_ended, self.is_restricted, self.is_minor_unapproved = True, False, False
            waiting = [self.parked, *self.behind] if self.parked is not None else []
            self.parked, self.behind = None, []
            for record in waiting:
                self._after_the_end(record)

    def _purge_or_wait(self, purposes: frozenset[str], offset: int) -> None:
        if self.is_restricted:
            self.waiting_purges.append(_Purge(purposes, offset))
        else:
            self._purge(purposes, offset, Refusal.WITHDRAWN)

    def _purge(self, purposes: frozenset[str], offset: int, cause: Refusal) -> None:
        for live in self.live:
            if live.record.offset <= offset:
                live.purposes = tuple(p for p in live.purposes if p not in purposes or p == ALWAYS)
        self._drop({live.record.record_id for live in self.live if not live.purposes}, cause)

    def _drop(self, record_ids: Iterable[bytes], cause: Refusal) -> None:
        gone = set(record_ids)
        for live in self.live:
            if live.record.record_id in gone:
                self.removed[live.record.record_id] = cause
        self.live = [live for live in self.live if live.record.record_id not in gone]

    # Data events --------------------------------------------------------------------------

    def _data(self, record: Record, fact: Fact) -> None:
        purposes = tuple(p for p in record.purposes if p in self._in_force(record.occurred_at))
        refusal = self._refusal(record, purposes)
        if refusal is not None:
            self.removed[record.record_id] = refusal
            return
        self.live.append(_Live(record, purposes, self.is_restricted))
        match fact:
            case ConsentGranted():
                known = self.grants.get(fact.purpose, fact.occurred_at)
                self.grants[fact.purpose] = min(known, fact.occurred_at)
            case ConsentWithdrawn():
                self.grants.pop(fact.purpose, None)
                self._purge_or_wait(frozenset({fact.purpose}), record.offset)
            case ObjectionRaised():
                self.objected.add(fact.purpose)
                self._purge_or_wait(frozenset({fact.purpose}), record.offset)
            case _:
                pass

    def _refusal(self, record: Record, in_force: tuple[str, ...]) -> Refusal | None:
        rule = self.rules.event(record.type)
        if rule is None or rule.category != record.category:
            return Refusal.UNKNOWN_EVENT
        if record.occurred_at > record.received_at + FUTURE_MAX:
            return Refusal.TIME_FUTURE
        if not all(self.rules.is_allowed(p) and p in rule.purposes for p in record.purposes):
            return Refusal.UNKNOWN_PURPOSE
        if self.is_ended:
            return Refusal.SUBJECT_ERASED
        if self.not_before is None:
            return Refusal.SUBJECT_UNKNOWN
        if record.occurred_at < self.not_before and record.category is not Category.EVIDENCE:
            return Refusal.BEFORE_SUBJECT
        if self.tick is not None and self._is_past(record, self.tick):
            return Refusal.PAST_RETENTION
        for live in self.live:
            if live.record.tag == record.tag:
                return Refusal.DUPLICATE if live.record.digest == record.digest else Refusal.ID_REUSED
        if not in_force:
            return Refusal.MINOR_UNAPPROVED if self.is_minor_unapproved else Refusal.CONSENT_MISSING
        return None

    def _in_force(self, occurred_at: datetime | None) -> frozenset[str]:
        """Return the purposes in force now, for an event of that instant or for use (None)."""
        found = set()
        for purpose in self.rules.registry.purposes:
            if purpose.is_forbidden or purpose.id in self.objected:
                continue
            if purpose.id in self.rules.consent_purposes:
                granted_at = self.grants.get(purpose.id)
                is_covered = granted_at is not None and (occurred_at is None or occurred_at >= granted_at)
                if self.is_minor_unapproved or not is_covered:
                    continue
            found.add(purpose.id)
        return frozenset(found)

    # The answer ---------------------------------------------------------------------------

    def subject(self) -> Subject:
        """Return what the history means now."""
        folded = [live for live in self.live if not live.is_held]
        return Subject(
            is_registered=self.not_before is not None,
            is_ended=self.is_ended,
            is_restricted=self.is_restricted,
            is_parked=self.parked is not None,
            is_minor_unapproved=self.is_minor_unapproved,
            grants=dict(sorted(self.grants.items())),
            objected=frozenset(self.objected),
            live={live.record.record_id: live.purposes for live in self.live},
            tombstones=frozenset(self.removed),
            causes=dict(sorted(Counter(str(cause) for cause in self.removed.values()).items())),
            subject_view=subject_view_of([live.record for live in folded]),
            progress=progress_of([live.record for live in folded if DELIVER in live.purposes]),
        )


def subject_view_of(records: Iterable[Record]) -> SubjectPart:
    """Return the subject view of these records, oldest first."""
    account: dict[str, Stamped] = {}
    profile: dict[str, Stamped] = {}
    devices: Counter[str] = Counter()
    countries: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for record in records:
        counts[record.type] += 1
        match record.body:
            case AccountRegistered() | AccountUpdated() as fact:
                for field in ("username", "name", "email"):
                    value = getattr(fact, field)
                    if value is not None:
                        account[field] = Stamped(record.offset, value)
            case ProfileFieldSet() as fact:
                profile[fact.field] = Stamped(record.offset, fact.value)
            case ProfileFieldCleared() as fact:
                profile.pop(fact.field, None)
            case DeviceObserved() as fact:
                devices[f"{fact.browser or '?'} / {fact.system or '?'} / {fact.device_class}"] += 1
            case LocationDerived() as fact:
                countries[fact.country] += 1
            case _:
                pass
    return SubjectPart(dict(account), dict(profile), dict(devices), dict(countries), dict(counts))


def progress_of(records: Iterable[Record]) -> dict[str, CourseProgress]:
    """Return the progress by course of these records, oldest first."""
    courses: dict[str, CourseProgress] = {}
    for record in records:
        fact = record.body
        if isinstance(fact, _LEARNING):
            course = courses.setdefault(fact.course or "", CourseProgress(videos={}, quizzes={}))
            _count(course, fact, record.offset)
    return courses


_LEARNING = (
    CertificateIssued, CourseCompleted, CourseEnrolled, CourseGraded, CoursePostCreated,
    CourseQuizAnswered, CourseUnenrolled, VideoCompleted, VideoPaused, VideoPlayed, VideoSeeked,
)  # fmt: skip


def _count(course: CourseProgress, fact: Fact, offset: int) -> None:
    """Add one fact to a course's progress, in place."""
    match fact:
        case CourseEnrolled() | CourseUnenrolled():
            course.enrolled = (offset, isinstance(fact, CourseEnrolled))
        case CourseGraded() if fact.has_passed is not None:
            course.passed = (offset, fact.has_passed)
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


def _is_end(body: object) -> bool:
    return isinstance(body, ErasureRequested) and body.scope == "person"


def _month(instant: datetime) -> int:
    utc = instant.astimezone(UTC)
    return 12 * utc.year + utc.month
