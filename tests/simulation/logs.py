"""Random logs of one partition: subjects, skewed clocks, removals, compactions and slow rebuilds.

Everything follows from one seed. `draw` makes records in log order, `Simulation` runs the core
pass over them and appends the tombstones that it decided, some time later and in decision order,
and `compact` takes away what a cleaner may take.
"""

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from itertools import accumulate
from random import Random
from typing import Any, Final, TypeVar

from msgspec import Struct, structs

from privacy_ledger.adapters import registry
from privacy_ledger.domain import events as e
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import NOBODY, Category, Grain, RecordId, SubjectRef
from privacy_ledger.streams.analytics import TABLE as COURSE_VIEWS_TABLE
from privacy_ledger.streams.analytics import CourseViews
from privacy_ledger.streams.progress import TABLE as PROGRESS_TABLE
from privacy_ledger.streams.progress import Progress, ProgressPart
from privacy_ledger.streams.protocol import Processor, Step
from privacy_ledger.streams.record import Body, Erased, Heartbeat, Record, Removed, Undecodable
from privacy_ledger.streams.states import ENDLESS, Parts, Table
from privacy_ledger.streams.subject_view import TABLE as SUBJECT_VIEW_TABLE
from privacy_ledger.streams.subject_view import SubjectView
from privacy_ledger.testing.memory import MemoryPass, Pace, StepBroken

__all__ = [
    "ANALYTICS",
    "BOOKS",
    "CORE",
    "INITIAL",
    "Decision",
    "Factory",
    "Simulation",
    "breaks",
    "compact",
    "draw",
    "dump",
    "pace_of",
    "rebuild",
    "run_pass",
]

PARTITION: Final = 0
PRODUCT: Final = "course_views_daily"
START: Final = datetime(2026, 3, 28, 12, tzinfo=UTC)
REGISTERED_FROM: Final = START - timedelta(days=400)
FAR_EAST: Final = timezone(timedelta(hours=13))
ERASED: Final = Erased()
OURS: Final = Removed(is_ours=True)
BROKEN_COURSE: Final = "broken"
COURSES: Final = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
DAYS: Final = tuple(START.date() + timedelta(days=days) for days in (0, 2, 5, 9))

P = TypeVar("P")
Factory = Callable[[Mapping[int, Record]], MemoryPass]


# Rule books and passes ------------------------------------------------------------------------


def _book(version: int, months: Mapping[str, int], *, without: frozenset[str] = frozenset()) -> Rules:
    seed = registry.seed()
    return Rules(
        structs.replace(
            seed,
            version=version,
            purposes=tuple(row for row in seed.purposes if row.id not in without),
            categories=tuple(
                structs.replace(row, retention_months=months.get(row.id, row.retention_months))
                for row in seed.categories
            ),
            events=tuple(
                structs.replace(row, purposes=tuple(p for p in row.purposes if p not in without))
                for row in seed.events
            ),
        )
    )


INITIAL: Final = _book(
    1, {"coursework": 2, "patterns": 1, "usage": 1, "device": 3, "location": 2, "billing": 2}
)
"""The rules at the start: periods so short that a log of weeks meets them."""
BOOKS: Final[Mapping[str, Rules]] = {
    "a" * 64: INITIAL,
    "b" * 64: _book(
        2,
        {"coursework": 1, "patterns": 3, "usage": 2, "device": 1, "location": 2, "billing": 1},
        without=frozenset({"personalise.recommend"}),
    ),
}


def pace_of(random: Random) -> Pace:
    """Return how much a pass does at once: often nothing within a cycle, and tiny slices."""
    return Pace(
        budget=random.choice((0, 0, 1, 2, 5, ENDLESS)),
        slice=random.choice((1, 2, 3, 8)),
        seed=random.getrandbits(32),
    )


def _processor(name: str, table: Table[Parts[P]], step: Step[P]) -> Processor[P]:
    return Processor(name=name, runs_in="core", source=LEDGER_EVENTS, table=table, step=step)


def breaks(record: Record) -> bool:
    """Return whether the step of `progress` fails on a record: a bug that only some courses meet."""
    return record.type in Progress.types and getattr(record.body, "course", None) == BROKEN_COURSE


class BreakingProgress(Progress):
    """`progress` with a bug in it."""

    def step(self, part: ProgressPart | None, record: Record) -> ProgressPart:
        """Fail on some records; do right on others."""
        if breaks(record):
            raise StepBroken
        return super().step(part, record)


CORE: Final = (
    _processor("subject_view", SUBJECT_VIEW_TABLE, SubjectView()),
    _processor("progress", PROGRESS_TABLE, BreakingProgress()),
)
ANALYTICS: Final = (_processor("course_views", COURSE_VIEWS_TABLE, CourseViews()),)


def run_pass(
    log: Mapping[int, Record],
    *,
    processors: tuple[Processor[Any], ...] = (*CORE, *ANALYTICS),
    initial: Rules = INITIAL,
    writes_tombstones: bool = True,
    pace: Pace | None = None,
) -> MemoryPass:
    """Return a pass at offset 0 that reads again from `log`; by default one pass does everything."""
    return MemoryPass(
        processors, log, initial=initial, books=BOOKS, writes_tombstones=writes_tombstones, pace=pace
    )


# Drawing ---------------------------------------------------------------------------------------


@cache
def _rows() -> Mapping[str, tuple[Category, tuple[str, ...]]]:
    return {row.type: (row.category, row.purposes) for row in registry.seed().events}


class _Sent(Struct, frozen=True):
    """What a producer sent once and may send again."""

    body: e.Fact
    tag: bytes
    digest: bytes
    purposes: tuple[str, ...]


class _Person(Struct):
    """One subject as the generator sees it."""

    ref: SubjectRef
    sent: list[_Sent]
    requests: list[str]
    poison: list[bytes]
    appended: list[bytes]
    holds: list[str]
    is_registered: bool = False


class _Drawing:
    """The state of one drawing."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = START
        self.records: list[Record] = []
        self.ticks: list[datetime] = []
        self.persons = [
            _Person(SubjectRef(random.randbytes(16)), [], [], [], [], [])
            for _ in range(random.choice((1, 1, 2, 2, 3, 4)))
        ]

    # One record ---------------------------------------------------------------------------

    def append(self, ref: SubjectRef, name: str, body: Body, **more: Any) -> bytes:  # noqa: ANN401 - of `Record`
        record_id = RecordId(self.random.randbytes(16))
        self.records.append(
            Record(
                partition=PARTITION, offset=0, ref=ref, record_id=record_id, type=name, body=body,
                occurred_at=more.pop("occurred_at", self.now), received_at=self.now, **more,
            )
        )  # fmt: skip
        return record_id

    def control(self, body: e.ControlRecord) -> None:
        self.append(NOBODY, e.event_type(body), body)

    def request(self, person: _Person) -> str:
        if person.requests and self.random.random() < 0.1:
            return self.random.choice(person.requests)
        request = self.random.randbytes(16).hex()
        person.requests.append(request)
        return request

    def fact(self, person: _Person, body: e.ControlFact) -> None:
        self.append(person.ref, e.event_type(body), body)

    def occurred(self) -> datetime:
        """Return when something happened: mostly just now, at times months ago or at a month's edge."""
        draw = self.random.random()
        if draw < 0.6:
            at = self.now - timedelta(minutes=self.random.randrange(600))
        elif draw < 0.9:
            at = self.now - timedelta(days=self.random.randrange(75))
        elif draw < 0.93:
            at = self.now - timedelta(days=self.random.randrange(300, 500))
        else:
            at = datetime(2026, self.random.randrange(2, 5), 1, tzinfo=UTC) - timedelta(minutes=30)
            return min(at, self.now).astimezone(FAR_EAST)
        return at

    # Data ---------------------------------------------------------------------------------

    def body(self) -> e.Fact:
        """Return a random fact."""
        pick, at = self.random.choice, self.occurred()
        course = pick(COURSES[:3])
        match self.random.randrange(19):
            case 0:
                return e.AccountRegistered(occurred_at=at, username="ada", email="ada@example.com")
            case 1:
                return e.AccountUpdated(occurred_at=at, name=pick(("Ada", "Ada L.", "A. L.")))
            case 2:
                return e.ProfileFieldSet(occurred_at=at, field=pick(("bio", "goal")), value=pick(("x", "y")))
            case 3:
                return e.ProfileFieldCleared(occurred_at=at, field=pick(("bio", "goal")))
            case 4:
                return e.DeviceObserved(occurred_at=at, browser=pick(("Firefox", None)), system="Linux")
            case 5:
                return e.LocationDerived(occurred_at=at, country=pick(("AT", "PT", "FI")))
            case 6 | 7:
                kind = pick((e.CourseEnrolled, e.CourseUnenrolled, e.CourseCompleted, e.CertificateIssued))
                return kind(occurred_at=at, course=course)
            case 8:
                score = pick((None, 0.5, 1.0, 2.0))
                return e.CourseQuizAnswered(
                    occurred_at=at, course=course, problem=pick("pq"), is_correct=pick((True, False, None)),
                    score=score, score_max=pick((None, 0.0, 1.5, 2.0)),
                )  # fmt: skip
            case 9:
                return e.CourseGraded(occurred_at=at, course=course, has_passed=pick((True, False, None)))
            case 10:
                video = pick((e.VideoPlayed, e.VideoPaused, e.VideoCompleted))
                return video(
                    occurred_at=at, course=pick((course, None)), video=pick("vw"),
                    position_ms=pick((None, 10, 500)),
                )  # fmt: skip
            case 11:
                return e.VideoSeeked(occurred_at=at, course=course, video="v", to_ms=pick((None, 70, 900)))
            case 12:
                return pick((e.AccountLoggedIn, e.AccountClosed))(occurred_at=at)
            case 17 | 18:
                return self.payment(at)
            case _:
                return self.page_view()

    def body_of(self, person: _Person) -> e.Fact:
        """Return a random fact of somebody; nobody pays before they are registered."""
        body = self.body()
        is_early = isinstance(body, e.PaymentConfirmed) and not person.is_registered
        return self.page_view() if is_early else body

    def payment(self, at: datetime) -> e.Fact:
        """Return a payment: a law keeps it."""
        amount, at = self.random.randrange(1, 100), max(at, REGISTERED_FROM + timedelta(days=1))
        return e.PaymentConfirmed(
            occurred_at=at, reference="pay_example", amount_minor=amount, currency="EUR"
        )

    def page_view(self) -> e.Fact:
        """Return a page view on one of the days that have windows."""
        pick = self.random.choice
        day = pick(DAYS)
        at = datetime(day.year, day.month, day.day, pick((0, 12, 23)), 30, tzinfo=UTC)
        if self.random.random() < 0.15:
            at = at.astimezone(FAR_EAST)
        return e.UsagePageViewed(occurred_at=at, course=pick((*COURSES, *COURSES[:2], None)))

    def data(self, person: _Person) -> None:
        self.send(person, self.body())

    def send(self, person: _Person, body: e.Fact) -> None:
        """Append a fact that was never sent before; nobody pays before they are registered."""
        if isinstance(body, e.PaymentConfirmed) and not person.is_registered:
            body = self.page_view()
        purposes = _rows()[e.event_type(body)][1]
        if len(purposes) > 1 and self.random.random() < 0.3:
            purposes = tuple(sorted(self.random.sample(purposes, self.random.randrange(1, len(purposes)))))
        sent = _Sent(body, self.random.randbytes(8), self.random.randbytes(8), purposes)
        person.sent.append(sent)
        self.append_data(person, sent)

    def append_data(self, person: _Person, sent: _Sent) -> None:
        name = e.event_type(sent.body)
        category, purposes = sent.body.category, sent.purposes
        occurred_at = sent.body.occurred_at  # type: ignore[attr-defined] # every collection event has one
        draw = self.random.random()
        if draw < 0.01:
            name = "usage.never_heard_of.v9"
        elif draw < 0.02:
            category = Category.BILLING
        elif draw < 0.03:
            purposes = (*purposes, "sale")
        elif draw < 0.04:
            occurred_at = self.now + timedelta(minutes=6)
        record_id = self.append(
            person.ref, name, sent.body, occurred_at=occurred_at, category=category,
            purposes=purposes, tag=sent.tag, digest=sent.digest, generation=len(self.records),
        )  # fmt: skip
        person.appended.append(record_id)

    def again(self, person: _Person) -> None:
        """Send something again: mostly the same, at times with another content under the same id."""
        if not person.sent:
            self.data(person)
            return
        sent = self.random.choice(person.sent[-8:])
        before = sent.body
        if self.random.random() < 0.35:
            sent = structs.replace(sent, body=self.body_of(person), digest=self.random.randbytes(8))
            sent = structs.replace(sent, purposes=_rows()[e.event_type(sent.body)][1])
            if Category.BILLING in {before.category, sent.body.category}:
                # A tag names the type: what the law keeps shares none with what it does not.
                is_same = before.category is sent.body.category
                sent = structs.replace(sent, tag=sent.tag if is_same else self.random.randbytes(8))
            person.sent.append(sent)
        self.append_data(person, sent)

    # Consents -----------------------------------------------------------------------------

    def grant(self, person: _Person) -> None:
        purpose = self.random.choice(("improve.analyse",) * 5 + ("comm.promote", "qa.instructors"))
        at = self.random.choice((self.now, self.occurred(), datetime(2026, 1, 1, tzinfo=UTC)))
        self.send(person, e.ConsentGranted(occurred_at=at, purpose=purpose, notice="n.v1"))

    def withdraw(self, person: _Person) -> None:
        purpose = self.random.choice(
            ("improve.analyse",) * 5 + ("comm.promote", "course.deliver", "rights.fulfil")
        )
        self.send(person, e.ConsentWithdrawn(occurred_at=self.occurred(), purpose=purpose))

    def object(self, person: _Person) -> None:
        purpose = self.random.choice(
            ("personalise.recommend", "qa.instructors", "security.protect", "improve.analyse",
             "course.deliver", "rights.fulfil")
        )  # fmt: skip
        self.send(person, e.ObjectionRaised(occurred_at=self.now, purpose=purpose))

    # Control facts ------------------------------------------------------------------------

    def register(self, person: _Person) -> None:
        request = self.random.randbytes(16).hex()
        person.requests.append(request)
        person.is_registered = True
        body = e.SubjectRegistered(request=request, occurred_at=self.now, not_before=REGISTERED_FROM)
        self.fact(person, body)

    def restrict(self, person: _Person) -> None:
        request = self.request(person)
        self.fact(person, e.RestrictionStarted(request=request, occurred_at=self.now, ground="claims"))

    def lift(self, person: _Person) -> None:
        request = self.request(person)
        body = e.RestrictionLifted(request=request, occurred_at=self.now, notified_at=self.now)
        self.fact(person, body)

    def erase(self, person: _Person) -> None:
        if self.random.random() < 0.2:
            self.erase_all(person)
        else:
            self.erase_some(person)

    def erase_all(self, person: _Person) -> None:
        request = self.request(person)
        self.fact(person, e.ErasureRequested(request=request, occurred_at=self.now))
        if self.random.random() < 0.5:
            done = e.ErasureCompleted(request=request, occurred_at=self.now, receipt="0" * 64)
            self.fact(person, done)
            if self.random.random() < 0.5:
                self.fact(person, e.ErasureFinal(request=request, occurred_at=self.now, epoch=1))

    def erase_some(self, person: _Person) -> None:
        request, category, purpose = self.request(person), None, None
        if self.random.random() < 0.5:
            category = self.random.choice(tuple(Category))
        else:
            purpose = self.random.choice(
                ("improve.analyse", "course.deliver", "qa.instructors", "rights.fulfil")
            )
        body = e.ErasureRequested(
            request=request, occurred_at=self.now, category=category, purpose=purpose,
            scope="purpose" if category is None else "category",
        )  # fmt: skip
        self.fact(person, body)

    # Holds --------------------------------------------------------------------------------

    def place(self, person: _Person) -> None:
        """Hold a category, at times until a tick to come."""
        ends_in = timedelta(days=self.random.randrange(-1, 40))
        category = self.random.choice(_HELD)
        self.fact(
            person,
            e.HoldPlaced(
                request=self.request(person), occurred_at=self.now, category=category,
                ground="legal_claims", until=self.now + ends_in if self.random.random() < 0.4 else None,
            ),
        )  # fmt: skip
        person.holds.append(person.requests[-1])

    def unhold(self, person: _Person) -> None:
        """Lift a hold: the last one, any, or one that never was."""
        request = self.request(person)
        hold = self.random.choice((*person.holds, *person.holds[-1:] * 2, "0" * 32))
        self.fact(person, e.HoldLifted(request=request, occurred_at=self.now, hold=hold))

    def keep(self, person: _Person) -> None:
        """Hold what was collected, let removals and time pass over it, and lift at last."""
        pick = self.random.choice
        for _ in range(self.random.randrange(1, 4)):
            self.send(person, pick((self.page_view, lambda: self.payment(self.occurred()), self.body))())
        actions = [
            _Drawing.place,
            *(pick((*_MEANWHILE, *_TAKING)) for _ in range(self.random.randrange(1, 6))),
        ]
        if self.random.random() < 0.5:
            actions.insert(self.random.randrange(len(actions) + 1), _Drawing.erase_all)
            actions.append(_Drawing.data)
        if self.random.random() < 0.3:
            actions.insert(self.random.randrange(len(actions)), _Drawing.poison)
        if self.random.random() < 0.7:
            actions += [_Drawing.unhold, _Drawing.data, _Drawing.discard]
        for action in actions:
            action(self, person)
            self.wait()

    def minor(self, person: _Person) -> None:
        is_minor = self.random.random() < 0.7
        body = e.MinorStatusDeclared(
            request=self.request(person), occurred_at=self.now, is_minor=is_minor,
            is_approved=is_minor and self.random.random() < 0.4,
        )  # fmt: skip
        self.fact(person, body)

    # Poison -------------------------------------------------------------------------------

    def poison(self, person: _Person) -> None:
        body = self.body_of(person)
        category, purposes = _rows()[e.event_type(body)]
        record_id = self.append(
            person.ref, e.event_type(body), Undecodable("tag_mismatch"), category=category,
            purposes=purposes, tag=self.random.randbytes(8), digest=self.random.randbytes(8),
            generation=len(self.records),
        )  # fmt: skip
        person.poison.append(record_id)

    def break_step(self, person: _Person) -> None:
        """Send what a step fails on: now, or at the lift or redrive that folds it."""
        kind = self.random.choice((e.CourseEnrolled, e.CourseCompleted))
        self.send(person, kind(occurred_at=self.occurred(), course=BROKEN_COURSE))
        person.poison.append(person.appended[-1])

    def discard(self, person: _Person) -> None:
        """Discard the oldest record nobody can read; at times another one, or by a used request."""
        named = person.poison[:1]
        if person.appended and self.random.random() < 0.2:
            named = [self.random.choice(person.appended)]
        if not named:
            self.data(person)
            return
        body = e.RecordDiscarded(request=self.request(person), occurred_at=self.now, record=named[0].hex())
        if named[0] in person.poison and self.random.random() < 0.9:
            person.poison.remove(named[0])
        self.fact(person, body)

    # Frozen people ------------------------------------------------------------------------

    def freeze(self, person: _Person) -> None:
        """Restrict somebody, park them, or both; time, rules and removals pass; then set them free."""
        pick = self.random.choice
        ways = pick((_FREE[:1], _FREE[:1], _FREE[1:2], _FREE[:2], _FREE[1::-1], _FREE[::2], _FREE[2:], _FREE))
        actions = [begin for begin, _ in ways]
        for _ in range(self.random.randrange(2, 9)):
            actions.insert(self.random.randrange(1, len(actions) + 1), pick(_MEANWHILE))
        ends = [end for _, end in ways]
        self.random.shuffle(ends)
        actions.append(ends[0])
        for end in ends[1:]:
            actions.extend((pick(_MEANWHILE), end))
        for action in actions:
            action(self, person)
            self.wait()

    def flip(self, person: _Person) -> None:
        """Let rules come and go around ticks of one month, while old records arrive."""
        for digest in self.random.choice(("ab", "ba", "aba", "bab")):
            self.control(e.RulesAdopted(at=self.now, registry_offset=1, digest=digest * 64))
            if self.random.random() < 0.7:
                self.send(person, self.page_view())
            if self.random.random() < 0.7:
                at = max(self.ticks, default=self.now) + timedelta(hours=1)
                self.ticks.append(at)
                self.control(e.Tick(at=at))

    def wait(self) -> None:
        self.now += timedelta(hours=self.random.choice((0, 1, 30, 100)))

    # Control records ----------------------------------------------------------------------

    def tick(self, _: _Person) -> None:
        draw = self.random.random()
        if draw < 0.6:
            at = self.now
        elif draw < 0.7:
            at = self.now - timedelta(days=self.random.randrange(60))
        elif draw < 0.85:
            at = max(self.ticks, default=self.now) + timedelta(days=self.random.randrange(1, 41))
        else:
            at = self.now + timedelta(days=self.random.randrange(41, 90))
        self.ticks.append(at)
        self.control(e.Tick(at=at))
        if draw >= 0.85 and self.random.random() < 0.5:
            self.control(e.TimeConfirmed(at=at + timedelta(hours=self.random.randrange(-1, 2))))

    def adopt(self, _: _Person) -> None:
        digest = self.random.choice(tuple(BOOKS))
        self.control(e.RulesAdopted(at=self.now, registry_offset=1, digest=digest))

    def window(self, _: _Person) -> None:
        day = self.random.choice(DAYS).isoformat()
        keyset = tuple(sorted(self.random.sample(COURSES, self.random.choice((3, 4, 6)))))
        if self.random.random() < 0.4:
            self.control(
                e.WindowOpened(at=self.now, product=PRODUCT, window=day, policy="0" * 64, keyset=keyset)
            )
        else:
            release = self.random.randbytes(16).hex()
            self.control(
                e.WindowSealed(
                    at=self.now, product=PRODUCT, window=day, policy="0" * 64, keyset=keyset, release=release
                )
            )

    def heartbeat(self, _: _Person) -> None:
        self.append(NOBODY, "heartbeat", Heartbeat())


_Action = Callable[[_Drawing, _Person], None]
_FREE: Final[tuple[tuple[_Action, _Action], ...]] = (
    (_Drawing.restrict, _Drawing.lift),
    (_Drawing.poison, _Drawing.discard),
    (_Drawing.break_step, _Drawing.discard),
)
_HELD: Final = (
    Category.BILLING, Category.USAGE, Category.USAGE, Category.COURSEWORK, Category.COURSEWORK,
    Category.ACCOUNT, Category.EVIDENCE,
)  # fmt: skip
_TAKING: Final[tuple[_Action, ...]] = (
    _Drawing.withdraw, _Drawing.erase_some, _Drawing.tick, _Drawing.restrict, _Drawing.lift, _Drawing.place,
    _Drawing.unhold,
)  # fmt: skip
_MEANWHILE: Final[tuple[_Action, ...]] = (
    _Drawing.data, _Drawing.data, _Drawing.data, _Drawing.again, _Drawing.grant, _Drawing.withdraw,
    _Drawing.object, _Drawing.minor, _Drawing.erase_some, _Drawing.tick, _Drawing.tick, _Drawing.tick,
    _Drawing.adopt, _Drawing.adopt, _Drawing.window, _Drawing.flip, _Drawing.place, _Drawing.unhold,
)  # fmt: skip
_ACTIONS: Final[tuple[tuple[_Action, int], ...]] = (
    (_Drawing.data, 44), (_Drawing.again, 12), (_Drawing.grant, 7), (_Drawing.withdraw, 4),
    (_Drawing.object, 2), (_Drawing.restrict, 4), (_Drawing.lift, 5), (_Drawing.erase, 2),
    (_Drawing.minor, 2), (_Drawing.poison, 2), (_Drawing.discard, 4), (_Drawing.tick, 7),
    (_Drawing.adopt, 2), (_Drawing.window, 5), (_Drawing.heartbeat, 1), (_Drawing.freeze, 3),
    (_Drawing.break_step, 1), (_Drawing.place, 1), (_Drawing.unhold, 1), (_Drawing.keep, 3),
)  # fmt: skip
_STAIRS: Final = tuple(accumulate(weight for _, weight in _ACTIONS))


def draw(random: Random) -> list[Record]:
    """Return 10-90 records in log order, not yet at offsets: 1-4 subjects and control records."""
    drawing = _Drawing(random)
    for person in drawing.persons:
        if random.random() < 0.9:
            drawing.register(person)
        if random.random() < 0.6:
            drawing.grant(person)
    length = random.randrange(10, 61)
    while len(drawing.records) < length:
        action, _ = _ACTIONS[bisect(_STAIRS, random.randrange(_STAIRS[-1]))]
        action(drawing, random.choice(drawing.persons))
        drawing.wait()
    return drawing.records


# Running -----------------------------------------------------------------------------------------


class Decision(Struct, frozen=True):
    """A removal that the core decided: of which key, why, for whom, and before which offset it was known."""

    key: bytes
    cause: str
    request: str
    offset: int


class Simulation:
    """A log as the ledger would hold it, and the live core pass that has read all of it.

    `records` is the whole log; `decisions` are the removals in decision order.
    """

    def __init__(
        self,
        seed: int,
        factory: Factory = run_pass,
        *,
        drawn: Sequence[Record] | None = None,
        is_orderly: bool = True,
    ) -> None:
        """Draw the log of `seed`, unless `drawn` is given, and run the live pass beside its growth.

        Without `is_orderly`, tombstones leave in any order: a ledger that breaks its promise.
        """
        drawn = draw(Random(seed)) if drawn is None else drawn
        random = Random(~seed)
        self.records: list[Record] = []
        self.decisions: list[Decision] = []
        self._written = 0
        self._is_orderly = is_orderly
        self._log: dict[int, Record] = {}
        self.live = factory(self._log)
        patience = random.choice((0.05, 0.2, 0.5))
        for record in drawn:
            self._append(record)
            if random.random() < patience:
                self._write_tombstones(random)
        for _ in range(random.randrange(3)):
            self._write_tombstones(random)
        self.live.drain()
        self._note_decisions()

    def _append(self, record: Record) -> None:
        record = structs.replace(record, offset=len(self.records))
        self.records.append(record)
        self._log[record.offset] = record
        self.live.run((record,))

    def _note_decisions(self) -> None:
        known = {decision.key for decision in self.decisions}
        for key, tombstone in self.live.tombstones():
            if key not in known:
                self.decisions.append(Decision(key, tombstone.cause, tombstone.request, len(self.records)))

    def _write_tombstones(self, random: Random) -> None:
        """Append some of the tombstones that are due, in decision order; at times let the cleaner run."""
        self._note_decisions()
        if not self._is_orderly:
            late = self.decisions[self._written :]
            self.decisions[self._written :] = random.sample(late, len(late))
        due = self.decisions[self._written :]
        for decision in due[: random.randrange(len(due) + 1)]:
            self._written += 1
            now = self.records[-1].received_at
            ref, record_id = SubjectRef(decision.key[:16]), RecordId(decision.key[16:])
            self._append(
                Record(
                    partition=PARTITION, offset=0, ref=ref, record_id=record_id, type="", body=OURS,
                    occurred_at=now, received_at=now,
                )
            )  # fmt: skip
        if random.random() < 0.3:
            cleaned = compact(self._log, random.randrange(len(self.records) + 1), random)
            self._log.clear()
            self._log.update(cleaned)


def compact(log: Mapping[int, Record], end: int, random: Random) -> dict[int, Record]:
    """Return the log after the cleaner ran over the offsets below `end`.

    A record with a later tombstone there is gone. Tombstones there stay, or vanish up to a point.
    """
    last = {
        r.ref + r.record_id: r.offset for r in log.values() if r.offset < end and isinstance(r.body, Removed)
    }
    forget = random.choice((0, end, random.randrange(end + 1)))
    return {
        offset: record
        for offset, record in log.items()
        if offset >= end
        or (
            offset >= last.get(record.ref + record.record_id, 0)
            and not (isinstance(record.body, Removed) and offset < forget)
        )
    }


def rebuild(simulation: Simulation, random: Random, factory: Factory = run_pass) -> MemoryPass:
    """Return a second pass that read the same log late, slowly, and beside cleaner and eraser.

    It starts when the log has some length, reads a stretch, the log grows and is cleaned, and so
    on up to the end.
    """
    total = len(simulation.records)
    stops = sorted(random.randrange(total + 1) for _ in range(random.choice((0, 1, 1, 2, 3))))
    log: dict[int, Record] = {}
    copy = factory(log)
    position, length, erased, cleaned = 0, 0, 0, 0
    present = list(simulation.records)
    gone: set[int] = set()
    for stop in (*stops, total):
        length = random.randrange(max(stop, length), total + 1)
        known = sum(decision.offset <= length for decision in simulation.decisions)
        erased = max(erased, random.choice((0, known, random.randrange(known + 1))))
        cleaned = max(cleaned, random.choice((0, length, random.randrange(length + 1))))
        _shred(present, simulation, erased)
        kept = compact({r.offset: r for r in present[:length] if r.offset not in gone}, cleaned, random)
        gone.update(offset for offset in range(cleaned) if offset not in kept)
        log.clear()
        log.update(kept)
        copy.run([log[offset] for offset in range(position, stop) if offset in log])
        position = stop
    copy.drain()
    return copy


def _shred(present: list[Record], simulation: Simulation, count: int) -> None:
    """Turn the bodies of the first `count` removed records into `Erased`, where their key is gone."""
    reach = {decision.key: decision.cause for decision in simulation.decisions[:count]}
    for position, record in enumerate(present):
        cause = reach.get(record.ref + record.record_id)
        if cause is None or not isinstance(record.body, e.Fact | Undecodable):
            continue
        rule = None if record.category is None else INITIAL.category(record.category)
        is_fine = rule is not None and rule.grain is Grain.RECORD
        is_named = is_fine and isinstance(record.body, e.Fact)
        if is_named or cause in (Refusal.ERASED, Refusal.SUBJECT_ERASED):
            present[position] = structs.replace(record, body=ERASED)


# Showing -----------------------------------------------------------------------------------------


def dump(records: list[Record]) -> str:
    """Return a log as one line a record, for a failing test; people here are made up."""
    names: dict[bytes, str] = {bytes(NOBODY): "*"}
    lines = []
    for record in records:
        who = names.setdefault(bytes(record.ref), f"S{len(names)}")
        fields = getattr(record.body, "__struct_fields__", ())
        said = " ".join(
            f"{name}={_short(getattr(record.body, name))}"
            for name in fields
            if name not in ("policy", "request")
        )
        request = getattr(record.body, "request", "")
        lines.append(
            f"{record.offset:3} {who} {record.record_id.hex()[:6]} {type(record.body).__name__}"
            f" type={record.type} at={record.occurred_at:%m-%d %H:%M%z} tag={record.tag.hex()[:6]}"
            f"/{record.digest.hex()[:6]} {','.join(record.purposes)} {said} {request[:6]}".rstrip()
        )
    return "\n".join(lines)


def _short(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M%z}"
    text = str(value)
    return text if len(text) <= 40 else text[:6]
