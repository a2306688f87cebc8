"""Drawing of random records in log order: what people, services and operators may say.

Everything follows from one seed. The records have no places yet; `logs` gives them theirs.
"""

from bisect import bisect
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from hashlib import blake2b
from itertools import accumulate
from random import Random
from typing import Any, Final

from msgspec import Struct, structs

from privacy_ledger.adapters import registry
from privacy_ledger.domain import events as e
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import NOBODY, Category, RecordId, SubjectRef
from privacy_ledger.streams.record import Body, Erased, Heartbeat, Record, Removed, Undecodable

__all__ = [
    "BOOKS",
    "BROKEN_COURSE",
    "ERASED",
    "INITIAL",
    "OURS",
    "PARTITION",
    "START",
    "draw",
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


# Rule books ---------------------------------------------------------------------------------


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


# Drawing ---------------------------------------------------------------------------------------


@cache
def _rows() -> Mapping[str, tuple[Category, tuple[str, ...]]]:
    return {row.type: (row.category, row.purposes) for row in registry.seed().events}


FIELDS: Final = ("bio", "goal")


def _field(ref: SubjectRef, name: str) -> bytes:
    """Return a profile field's name as the headers have it."""
    return blake2b(name.encode(), key=ref, digest_size=8).digest()


class _Sent(Struct, frozen=True):
    """What a producer sent once and may send again."""

    body: e.Fact
    tag: bytes
    digest: bytes
    purposes: tuple[str, ...]


class _Person(Struct):
    """One subject as the generator sees it; `fenced`: up to when something was erased."""

    ref: SubjectRef
    sent: list[_Sent]
    requests: list[str]
    poison: list[bytes]
    appended: list[Record]
    fenced: list[tuple[str, datetime]]
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
            _Person(SubjectRef(random.randbytes(16)), [], [], [], [], [], [])
            for _ in range(random.choice((1, 1, 2, 2, 3, 4)))
        ]

    # One record ---------------------------------------------------------------------------

    def append(self, ref: SubjectRef, name: str, body: Body, **more: Any) -> Record:  # noqa: ANN401 - of `Record`
        record_id = RecordId(self.random.randbytes(16))
        record = Record(
            partition=PARTITION, offset=len(self.records), ref=ref, record_id=record_id, type=name, body=body,
            occurred_at=more.pop("occurred_at", self.now), received_at=more.pop("received_at", self.now),
            **more,
        )  # fmt: skip
        self.records.append(record)
        return record

    def control(self, body: e.ControlRecord) -> None:
        self.append(NOBODY, e.event_type(body), body)

    def request(self, person: _Person) -> str:
        if person.requests and self.random.random() < 0.1:
            return self.random.choice(person.requests)
        request = self.random.randbytes(16).hex()
        person.requests.append(request)
        return request

    def fact(self, person: _Person, body: e.ControlFact) -> None:
        self.append(person.ref, e.event_type(body), body, occurred_at=body.occurred_at)

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
                return e.ProfileFieldSet(occurred_at=at, field=pick(FIELDS), value=pick(("x", "y")))
            case 3:
                return e.ProfileFieldCleared(occurred_at=at, field=pick(FIELDS))
            case 4:
                return e.DeviceObserved(occurred_at=at, browser=pick(("Firefox", None)), system="Linux")
            case 5:
                if pick((True, False)):
                    return e.LocationDerived(occurred_at=at, country=pick(("AT", "PT", "FI")))
                return e.RegionDerived(occurred_at=at, country="US", region=pick(("US-CA", None)))
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

    def likely_body(self, person: _Person) -> e.Fact:
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
        field = getattr(sent.body, "field", None)
        record = self.append(
            person.ref, name, sent.body, occurred_at=occurred_at, category=category,
            purposes=purposes, tag=sent.tag, digest=sent.digest, generation=len(self.records),
            field=b"" if field is None or draw > 0.95 else _field(person.ref, field),
        )  # fmt: skip
        person.appended.append(record)

    def again(self, person: _Person) -> None:
        """Send something again: mostly the same, at times with another content under the same id."""
        if not person.sent:
            self.data(person)
            return
        sent = self.random.choice(person.sent[-8:])
        before = sent.body
        if self.random.random() < 0.35:
            sent = structs.replace(sent, body=self.likely_body(person), digest=self.random.randbytes(8))
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
        draw = self.random.random()
        if draw < 0.2:
            self.erase_all(person)
        elif draw < 0.7:
            self.erase_some(person)
        else:
            self.erase_field(person)

    def erase_all(self, person: _Person) -> None:
        request = self.request(person)
        self.fact(person, e.ErasureRequested(request=request, occurred_at=self.now))
        if self.random.random() < 0.5:
            done = e.ErasureCompleted(request=request, occurred_at=self.now, receipt="0" * 64)
            self.fact(person, done)
            if self.random.random() < 0.5:
                self.fact(person, e.ErasureFinal(request=request, occurred_at=self.now, epoch=1))

    def erase_some(self, person: _Person) -> None:
        request, until, category, purpose = self.request(person), self.until(person), None, None
        is_category = self.random.random() < 0.5
        if self.random.random() < 0.05:
            pass
        elif is_category:
            category = self.random.choice(tuple(Category))
        else:
            purpose = self.random.choice(
                ("improve.analyse", "course.deliver", "qa.instructors", "rights.fulfil")
            )
        body = e.ErasureRequested(
            request=request, occurred_at=until, category=category, purpose=purpose,
            scope="category" if is_category else "purpose",
        )  # fmt: skip
        self.erase_scope(person, body, category or purpose or "")

    def erase_field(self, person: _Person) -> None:
        name = self.random.choice(FIELDS)
        field = _field(person.ref, name if self.random.random() < 0.95 else "shoe size")
        body = e.FieldErasureRequested(
            request=self.request(person), occurred_at=self.until(person), field=field.hex()
        )
        self.erase_scope(person, body, name)

    def erase_scope(
        self, person: _Person, body: e.ErasureRequested | e.FieldErasureRequested, name: str
    ) -> None:
        """Ask for an erasure, at times twice and up to another instant; some of it comes late."""
        self.fact(person, body)
        until = body.occurred_at
        if self.random.random() < 0.2:
            other = self.until(person)
            self.fact(person, structs.replace(body, request=self.request(person), occurred_at=other))
            until = self.random.choice((until, other))
        person.fenced.append((name, until))
        while self.random.random() < 0.5:
            self.wait()
            self.late(person)

    def until(self, person: _Person) -> datetime:
        """Return up to when somebody wants something erased: mostly now, at times just around an event."""
        draw = self.random.random()
        if draw < 0.5:
            return self.now
        if draw < 0.9 and person.appended:
            at = self.random.choice(person.appended[-8:]).occurred_at.astimezone(UTC)
            return at + timedelta(minutes=self.random.choice((-1, 0, 0, 1)))
        return self.now - timedelta(days=self.random.randrange(-3, 60))

    def late(self, person: _Person) -> None:
        """Send something of what was erased: a copy, or another event from around that instant."""
        if not person.fenced:
            self.again(person)
            return
        name, until = self.random.choice(person.fenced[-3:])
        known = [sent for sent in person.sent[-16:] if name in _names(sent.body)]
        if known and self.random.random() < 0.5:
            self.append_data(person, self.random.choice(known))
            return
        body = self.random.choice(known).body if known else self.body_of(name)
        at = until + timedelta(minutes=self.random.choice((-3000, -1, 0, 0, 1, 3000)))
        self.send(person, structs.replace(body, occurred_at=at))

    def body_of(self, name: str) -> e.Fact:
        """Return a random fact of a category, a purpose or a field, if one of a few is."""
        bodies = [self.body() for _ in range(4)]
        return next((body for body in bodies if name in _names(body)), bodies[0])

    # Rectification ------------------------------------------------------------------------

    def rectify(self, person: _Person) -> None:
        """State records of one category again: mostly the latest, at times twice, or by a used request."""
        known = [record for record in person.appended[-12:] if record.category is not Category.EVIDENCE]
        known = [record for record in known if record.occurred_at <= record.received_at] or known
        if not known:
            self.data(person)
            return
        one = self.random.choice(known)
        alike = [record for record in known if record.category == one.category and record is not one]
        self.state_again(person, [one, *alike[: self.random.choice((0, 0, 1, 3))]])

    def rectify_what_is_due(self, person: _Person) -> None:
        """Restrict somebody, let removals wait for the lift, and rectify what they will reach."""
        early = e.ConsentGranted(
            occurred_at=datetime(2026, 1, 1, tzinfo=UTC), purpose="improve.analyse", notice="n.v1"
        )
        self.send(person, early)
        at = self.now - timedelta(days=self.random.randrange(60))
        self.send(person, structs.replace(self.page_view(), occurred_at=at))
        original = person.appended[-1]
        self.restrict(person)
        if self.random.random() < 0.5:
            self.send(person, e.ConsentWithdrawn(occurred_at=self.now, purpose="improve.analyse"))
            self.send(person, early)
        else:
            self.adopt(person)
            due = max(self.ticks, default=self.now) + timedelta(days=self.random.randrange(1, 41))
            self.ticks.append(due)
            self.control(e.Tick(at=due))
            self.adopt(person)
        self.state_again(person, [original])
        self.lift(person)

    def state_again(self, person: _Person, originals: list[Record]) -> None:
        pick, draw = self.random.choice, self.random.random()
        named = [record.record_id.hex() for record in originals]
        if draw < 0.05:
            named.append(self.random.randbytes(16).hex())
        elif draw < 0.1:
            named.append(pick(person.appended).record_id.hex())
        elif draw < 0.15:
            named.pop()
        category = originals[0].category or Category.USAGE
        proofs = [record for record in person.appended if record.category is Category.EVIDENCE]
        if proofs and self.random.random() < 0.1:
            category, named = Category.EVIDENCE, [pick(proofs).record_id.hex()]
        body = e.RecordsSuperseded(
            request=self.request(person), occurred_at=self.now, category=category, records=tuple(named)
        )
        restated: list[Record] = []
        for _ in range(2 if self.random.random() < 0.15 else 1):
            self.fact(person, body)
            restated = [self.restate(person, record) for record in originals if self.random.random() < 0.95]
        if restated and self.random.random() < 0.25:
            self.wait()
            self.state_again(person, restated)

    def restate(self, person: _Person, original: Record) -> Record:
        if self.random.random() < 0.05:
            self.random.choice((_Drawing.tick, _Drawing.withdraw, _Drawing.lift, _Drawing.late))(self, person)
        body = original.body
        if isinstance(body, e.Fact) and self.random.random() < 0.7:
            body = self.changed(body)
        is_poison = self.random.random() < 0.02
        record = self.append(
            person.ref, original.type, Undecodable("tag_mismatch") if is_poison else body,
            occurred_at=original.occurred_at, received_at=original.received_at, category=original.category,
            purposes=original.purposes, tag=original.tag, digest=original.digest, field=original.field,
            generation=len(self.records), instead=original.place,
        )  # fmt: skip
        if is_poison:
            person.poison.append(record.record_id)
        else:
            person.appended.append(record)
        return record

    def changed(self, body: e.Fact) -> e.Fact:
        """Return a fact with other values where it has values; it says the same kind of thing."""
        pick = self.random.choice
        values = {
            "username": pick(("ada", "eda")), "name": pick(("Ada B.", "Ada C.")), "value": pick(("v", "w")),
            "country": pick(("IT", "FI")), "browser": "Lynx", "is_correct": pick((True, False)),
            "has_passed": pick((True, False)), "position_ms": pick((5, 800)), "course": pick(COURSES[:3]),
        }  # fmt: skip
        if self.random.random() < 0.03:
            values["course"] = BROKEN_COURSE
        known = {name: value for name, value in values.items() if name in body.__struct_fields__}
        return structs.replace(body, **known)

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
        body = self.likely_body(person)
        category, purposes = _rows()[e.event_type(body)]
        record = self.append(
            person.ref, e.event_type(body), Undecodable("tag_mismatch"), category=category,
            purposes=purposes, tag=self.random.randbytes(8), digest=self.random.randbytes(8),
            generation=len(self.records),
        )  # fmt: skip
        person.poison.append(record.record_id)

    def break_step(self, person: _Person) -> None:
        """Send what a step fails on: now, or at the lift or redrive that folds it."""
        kind = self.random.choice((e.CourseEnrolled, e.CourseCompleted))
        self.send(person, kind(occurred_at=self.occurred(), course=BROKEN_COURSE))
        person.poison.append(person.appended[-1].record_id)

    def discard(self, person: _Person) -> None:
        """Discard the oldest record nobody can read; at times another one, or by a used request."""
        named = person.poison[:1]
        if person.appended and self.random.random() < 0.2:
            named = [self.random.choice(person.appended).record_id]
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


def _names(body: e.Fact) -> tuple[str, ...]:
    """Return what an erasure may name that a fact belongs to: its category, purposes and field."""
    category, purposes = _rows()[e.event_type(body)]
    return (category, *purposes, getattr(body, "field", ""))


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
    _Drawing.adopt, _Drawing.adopt, _Drawing.window, _Drawing.flip, _Drawing.rectify, _Drawing.rectify,
    _Drawing.erase_field, _Drawing.late, _Drawing.place, _Drawing.unhold,
)  # fmt: skip
_ACTIONS: Final[tuple[tuple[_Action, int], ...]] = (
    (_Drawing.data, 44), (_Drawing.again, 12), (_Drawing.grant, 7), (_Drawing.withdraw, 4),
    (_Drawing.object, 2), (_Drawing.restrict, 4), (_Drawing.lift, 5), (_Drawing.erase, 3),
    (_Drawing.minor, 2), (_Drawing.poison, 2), (_Drawing.discard, 4), (_Drawing.tick, 7),
    (_Drawing.adopt, 2), (_Drawing.window, 5), (_Drawing.heartbeat, 1), (_Drawing.freeze, 3),
    (_Drawing.break_step, 1), (_Drawing.late, 3), (_Drawing.rectify, 4),
    (_Drawing.rectify_what_is_due, 1), (_Drawing.place, 1), (_Drawing.unhold, 1), (_Drawing.keep, 3),
)  # fmt: skip
_STAIRS: Final = tuple(accumulate(weight for _, weight in _ACTIONS))


def draw(random: Random) -> list[Record]:
    """Return 10-90 records in log order, not yet at offsets: 1-4 subjects and control records.

    Each has its number here as its offset, and a restated record the number of the one that it was
    restated from; `Simulation` gives them their places in the log, also where some were left out.
    """
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
