"""An oracle: what a ledger must mean, computed from its rules and apart from the folds.

It is naive on purpose. Each subject's history is read from the start, live records are a list that
is filtered, and projections are counted from that list at the end. A discarded record is one that
was never there, so its history is read again without it. A fold that agrees with this over many
random logs has no bookkeeping of its own to hide behind.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from privacy_ledger.domain.events import (
    ConsentGranted,
    ConsentWithdrawn,
    ControlFact,
    ControlRecord,
    ErasureRequested,
    Fact,
    FieldErasureRequested,
    HoldLifted,
    HoldPlaced,
    MinorStatusDeclared,
    ObjectionRaised,
    RecordDiscarded,
    RecordsSuperseded,
    RestrictionLifted,
    RestrictionStarted,
    RulesAdopted,
    SubjectRegistered,
    Tick,
    TimeConfirmed,
    UsagePageViewed,
    WindowSealed,
)
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import NOBODY, Category, LawfulBasis, SubjectRef
from privacy_ledger.streams.record import Record, Undecodable
from privacy_ledger.testing._oracle_deciding import Deciding
from privacy_ledger.testing._oracle_scopes import scope_of
from privacy_ledger.testing._oracle_terms import (
    Delayed,
    Due,
    Expected,
    Live,
    Purge,
    Subject,
    malformed,
)
from privacy_ledger.testing._oracle_views import progress_of, subject_view_of

__all__ = ["Expected", "Oracle", "Subject", "progress_of", "subject_view_of"]

FUTURE_MAX: Final = timedelta(minutes=5)
TICK_JUMP_MAX: Final = timedelta(days=40)
DELIVER: Final = "course.deliver"
ANALYSE: Final = "improve.analyse"


class Oracle:
    """The rule books, and what logs mean under them."""

    def __init__(
        self,
        initial: Rules,
        books: Mapping[str, Rules] | None = None,
        *,
        breaks: Callable[[Record], bool] = lambda _: False,
    ) -> None:
        """Take the rules in force at the start, and those that `RulesAdopted` may name by digest.

        `breaks`: on which records the step that acts under `course.deliver` fails.
        """
        self._initial = initial
        self._books = dict(books or {})
        self._breaks = breaks

    def expect(self, records: Sequence[Record]) -> Expected:
        """Return what must be true after `records`: one partition, oldest first, never compacted."""
        refs = dict.fromkeys(record.ref for record in records if record.ref != NOBODY)
        cells: dict[str, dict[SubjectRef, frozenset[str]]] = {}
        subjects = {}
        for ref in refs:
            concerning = [record for record in records if record.ref in (ref, NOBODY)]
            history = _History(self._initial, self._books, self._breaks)
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


class _History(Deciding):
    """One subject's history, read record by record.

    `sealed` maps a release to the courses that the subject gave to it. Sealed windows stay as
    they are, so a second reading keeps the first one's answers.
    """

    def __init__(self, rules: Rules, books: Mapping[str, Rules], breaks: Callable[[Record], bool]) -> None:
        super().__init__(rules)
        self._initial = rules
        self._books = books
        self._breaks = breaks
        self.sealed: dict[str, frozenset[str]] = {}
        self.discarded: set[tuple[bytes, str]] = set()
        self.restricted_since = 0
        self._begin()

    def _begin(self) -> None:
        super().forget(self._initial)
        self.unconfirmed: datetime | None = None
        self.requests: set[str] = set()
        self.was_held = False
        self.parked: Record | None = None
        self.parked_under: _Then = (self._initial, None)
        self.behind: list[tuple[Record | None, _Then]] = []
        self.windows: set[tuple[str, str]] = set()
        self.still_to_be_discarded = set(self.discarded)
        self.passed_over: set[tuple[bytes, str]] = set()

    def read(self, records: Sequence[Record]) -> None:
        """Read a whole history; the discard of a parked record starts it again without that one."""
        position = 0
        while position < len(records):
            record = records[position]
            position += 1
            if isinstance(record.body, Undecodable) and record.record_id in {
                named for named, _ in self.discarded
            }:
                self.removed[record.record_id] = (Refusal.DISCARDED, "")
                continue
            named = self._names_the_parked(record)
            if named is not None:
                self.discarded.add(named)
                self._begin()
                position = 0
                continue
            self._one(record)

    def _names_the_parked(self, record: Record) -> tuple[bytes, str] | None:
        body = record.body
        if self.parked is None or not isinstance(body, RecordDiscarded) or body.request in self.requests:
            return None
        named = bytes.fromhex(body.record)
        return (named, body.request) if named == self.parked.record_id else None

    def _one(self, record: Record) -> None:
        body = record.body
        self.was_held = self.was_held or isinstance(body, HoldPlaced)
        if isinstance(body, ControlRecord):
            self._control_record(body, record.offset)
        elif self.is_ended:
            self._after_the_end(record, (self.rules, self.tick))
        elif isinstance(body, ErasureRequested) and body.scope == "person" and not self._end_waits():
            self._end(body, record.offset)
        elif self.parked is not None:
            self.behind.append((record, (self.rules, self.tick)))
        elif isinstance(body, Undecodable):
            self.parked, self.parked_under = record, (self.rules, self.tick)
        elif isinstance(body, ControlFact):
            if body.request not in self.requests:
                self.requests.add(body.request)
                self._control_fact(body, record.offset)
            elif isinstance(body, RecordDiscarded):
                self._discard_in_vain(bytes.fromhex(body.record), body.request)
        elif isinstance(body, Fact):
            self._data(record, body)

    def _end_waits(self) -> bool:
        """Return whether an erasure waits behind a parked record: what a hold kept depends on it."""
        return self.parked is not None and self.was_held

    def _after_the_end(self, record: Record, then: "_Then") -> None:
        """Refuse a record of an erased person, unless the law keeps it; only holds still have an effect."""
        body = record.body
        if isinstance(body, HoldPlaced | HoldLifted):
            is_known = isinstance(body, HoldPlaced) or body.hold in self.holds
            if is_known and body.request not in self.requests:
                self.requests.add(body.request)
                self._control_fact(body, record.offset)
        elif isinstance(body, Fact | Undecodable):
            rules, tick = then
            duty = None if record.category is None else rules.duty(record.category)
            refusal = malformed(record, rules)
            if refusal is None and duty is None:
                refusal = Refusal.SUBJECT_ERASED
            refusal = refusal or self.stale_or_copy(record, rules, tick)
            if refusal is None:
                self.live.append(Live(record, (str(duty),), is_held=True, used=None))
            else:
                self.removed[record.record_id] = (refusal, "")

    def _end(self, body: ErasureRequested, offset: int) -> None:
        """End the person, whatever the request's id: neither a retry nor parked records prevent it."""
        self.take(Delayed(offset=offset, cause=Refusal.ERASED, request=body.request))
        self.requests = {*self.requests, body.request} if self.holds else set()
        for waited in self.until_lift:
            if isinstance(waited, Due):
                self.drop_due(self.due_before(waited))
        for live in self.live:
            live.used = None
        self.until_lift = []
        self.grants, self.objected = {}, set()
        self.is_ended, self.is_restricted, self.is_minor_unapproved = True, False, False
        live_ids = {live.record.record_id for live in self.live}
        if self.parked is not None and self.parked.record_id not in self.removed.keys() | live_ids:
            self._after_the_end(self.parked, self.parked_under)
        for record, then in self.behind:
            if record is not None:
                self._after_the_end(record, then)
            elif then[1] is not None:
                self.drop_due(self.due(then[0], then[1]))
        self.parked, self.behind = None, []

    # Control records ----------------------------------------------------------------------

    def _control_record(self, body: ControlRecord, offset: int) -> None:
        match body:
            case Tick():
                self._tick(body.at, offset)
            case TimeConfirmed():
                if self.unconfirmed is not None and body.at >= self.unconfirmed:
                    self._take_time(self.unconfirmed, offset)
            case RulesAdopted():
                self.rules = self._books[body.digest]
            case WindowSealed():
                self._seal(body)
            case _:
                pass

    def _tick(self, at: datetime, offset: int) -> None:
        if self.tick is not None and at - self.tick > TICK_JUMP_MAX:
            self.unconfirmed = at
        else:
            self._take_time(at, offset)

    def _take_time(self, at: datetime, offset: int) -> None:
        if self.tick is not None and at <= self.tick:
            return
        self.tick, self.unconfirmed = at, None
        if self.parked is not None:
            # Time stands still for the subject; the reading after the discard lets it pass.
            self.behind.append((None, (self.rules, at)))
            return
        over = {name for name, hold in self.holds.items() if hold.until is not None and hold.until <= at}
        self.release(over, offset)
        due = Due(at, self.rules, offset)
        if self.is_restricted:
            self.until_lift.append(due)
        else:
            self.drop_due(self.due_before(due))

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
            and ANALYSE in self.in_force(None)
        )
        touched = {
            live.record.body.course
            for live in self.live
            if may
            and ANALYSE in (live.used or ())
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
                self.restricted_since = self.restricted_since if self.is_restricted else offset
                self.is_restricted = True
            case RestrictionLifted():
                self._lift()
            case HoldPlaced():
                self.holds[body.request] = body
            case HoldLifted():
                self.release({body.hold} & self.holds.keys(), offset)
            case ErasureRequested() | FieldErasureRequested():
                self._erase(body, offset)
            case RecordsSuperseded():
                self._supersede(body)
            case RecordDiscarded():
                named = bytes.fromhex(body.record)
                self.still_to_be_discarded.discard((named, body.request))
                if self.drop({named} - self.evidence() - self.by_duty(), Refusal.DISCARDED):
                    self.fold_again()
            case MinorStatusDeclared():
                self.is_minor_unapproved = body.is_minor and not body.is_approved
                if self.is_minor_unapproved:
                    self._purge_or_wait(self.rules.consent_purposes, offset)
            case _:
                pass

    def _discard_in_vain(self, named: bytes, request: str) -> None:
        """A record that was passed over for a discard whose request had its effect before: it lives."""
        self.still_to_be_discarded.discard((named, request))
        if (named, request) in self.passed_over:
            alive = (live.record for live in self.live if live.record.record_id == named)
            self.parked = next(alive, None)

    def _lift(self) -> None:
        if not self.is_restricted:
            return
        self.is_restricted = False
        for waited in self.until_lift:
            if isinstance(waited, Due):
                self.drop_due(self.due_before(waited))
            else:
                self.purge(waited.purposes, waited.offset, Refusal.WITHDRAWN)
        self.until_lift = []
        self.fold_again()

    def fold_again(self) -> None:
        """Fold all again that is not held, where something was removed or set free.

        A record on which the step fails parks the subject there, and the rest stays unfolded; one
        that a discard further on names is passed over.
        """
        for live in self.live:
            if self._is_held_back(live.record):
                continue
            is_broken = self._fails(live.record, live.used or ())
            if is_broken and not self._is_to_be_discarded(live.record):
                self.parked = self.parked or live.record
            live.is_held = is_broken or self.parked is not None

    def _is_held_back(self, record: Record) -> bool:
        """Return whether the restriction began before the record, or before what it was restated from."""
        return self.is_restricted and record.place >= self.restricted_since

    def _supersede(self, body: RecordsSuperseded) -> None:
        """Remove what is stated again; what a hold or a duty keeps is not corrected."""
        kept = {hold.category for hold in self.holds.values()}
        if body.category in kept or self.rules.duty(body.category) is not None:
            return
        named = {bytes.fromhex(record) for record in body.records}
        mine = {live.record.record_id for live in self.live if live.record.category is body.category}
        if self.drop((named & mine) - self.evidence(), Refusal.RECTIFIED, body.request):
            self.fold_again()

    def _is_to_be_discarded(self, record: Record) -> bool:
        """Return whether a discard further on names the record, and will have its effect."""
        for pair in self.still_to_be_discarded:
            if pair[0] == record.record_id and (pair in self.passed_over or pair[1] not in self.requests):
                self.passed_over.add(pair)
                return True
        return False

    def _fails(self, record: Record, purposes: Sequence[str]) -> bool:
        """Return whether folding the record fails, in the step that acts under `course.deliver`."""
        return DELIVER in purposes and self._breaks(record)

    def _erase(self, body: ErasureRequested | FieldErasureRequested, offset: int) -> None:
        """Erase a category, a purpose or a field at once, also under restriction, and fence it."""
        scope = scope_of(body)
        if scope is None:
            return
        self.erased.append(scope)
        removal = Delayed(
            offset=offset, cause=Refusal.ERASED, request=body.request,
            category=Category(scope.name) if scope.kind == "category" else None,
            purposes=frozenset({scope.name}) if scope.kind == "purpose" else None,
            field=bytes.fromhex(scope.name) if scope.kind == "field" else b"",
        )  # fmt: skip
        if self.take(removal):
            self.fold_again()

    def _purge_or_wait(self, purposes: frozenset[str], offset: int) -> None:
        if self.is_restricted:
            self.until_lift.append(Purge(purposes, offset))
        elif self.purge(purposes, offset, Refusal.WITHDRAWN):
            self.fold_again()

    # Data events --------------------------------------------------------------------------

    def _data(self, record: Record, fact: Fact) -> None:
        in_force = self.in_force(record.occurred_at) - self.late(record)
        purposes = tuple(p for p in record.purposes if p in in_force)
        refusal = self.refusal(record, purposes)
        if refusal is not None:
            self.removed[record.record_id] = (refusal, "")
            return
        is_held = self._is_held_back(record)
        if not is_held and self._fails(record, purposes):
            if not self._is_to_be_discarded(record):
                self.parked, self.parked_under = record, (self.rules, self.tick)
                return
            self.live.append(Live(record, purposes, is_held=True, used=purposes))
            return
        self.live.append(Live(record, purposes, is_held, purposes))
        match fact:
            case ConsentGranted() if self.basis(fact.purpose) is LawfulBasis.CONSENT:
                known = self.grants.get(fact.purpose, fact.occurred_at)
                self.grants[fact.purpose] = min(known, fact.occurred_at)
            case ConsentWithdrawn() if self.basis(fact.purpose) is LawfulBasis.CONSENT:
                self.grants.pop(fact.purpose, None)
                self._purge_or_wait(frozenset({fact.purpose}), record.offset)
            case ObjectionRaised() if self.basis(fact.purpose) is LawfulBasis.LEGITIMATE_INTEREST:
                self.objected.add(fact.purpose)
                self._purge_or_wait(frozenset({fact.purpose}), record.offset)
            case _:
                pass

    # The answer ---------------------------------------------------------------------------

    def subject(self) -> Subject:
        """Return what the history means now."""
        folded = [live for live in self.live if not live.is_held and live.used is not None]
        return Subject(
            is_registered=self.not_before is not None or self.is_ended,
            is_ended=self.is_ended,
            is_restricted=self.is_restricted,
            is_parked=self.parked is not None,
            is_minor_unapproved=self.is_minor_unapproved,
            grants=dict(sorted(self.grants.items())),
            objected=frozenset(self.objected),
            held={name: hold.category for name, hold in self.holds.items()},
            live={live.record.record_id: live.purposes for live in self.live},
            removed={
                record_id: (str(cause), request) for record_id, (cause, request) in self.removed.items()
            },
            subject_view=subject_view_of([live.record for live in folded]),
            progress=progress_of([live.record for live in folded if DELIVER in (live.used or ())]),
        )


_Then = tuple[Rules, datetime | None]
"""The rules and the time of an offset."""
