"""The fold of a pass: one record of the ledger at a time, in offset order, over a workspace.

Law L3: after offset N the state is a function of the set of each subject's records that are live
at N. Facts remove; tombstones carry no meaning. Every pass folds permissions and index itself;
one pass alone (`writes_tombstones`) asks for tombstones.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec import structs

from privacy_ledger.domain.admission import Candidate, admit, has_effect
from privacy_ledger.domain.errors import InvariantViolation, LedgerError
from privacy_ledger.domain.events import (
    ConsentWithdrawn,
    ControlFact,
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
    Tick,
    TimeConfirmed,
    VersionSwitched,
    WindowOpened,
    WindowSealed,
)
from privacy_ledger.domain.permissions import Permissions, apply_control, apply_fact
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import NOBODY, REF_BYTES, Category, SubjectRef, month_of
from privacy_ledger.streams import analytics, removal, scopes, sparing
from privacy_ledger.streams.backlog import Backlog
from privacy_ledger.streams.held import HELD, Cut, Then
from privacy_ledger.streams.joins import SLICE, Bound, next_slice
from privacy_ledger.streams.protocol import Processor, Serving
from privacy_ledger.streams.record import Broken, Heartbeat, Record, Removed, Undecodable
from privacy_ledger.streams.roster import Seats
from privacy_ledger.streams.states import (
    ENDLESS,
    FROZEN,
    INDEX,
    META,
    PERMISSIONS,
    WINDOWS,
    WORK,
    IndexRow,
    Meta,
    Moment,
    Parts,
    Window,
    Workspace,
)

__all__ = ["TICK_JUMP_MAX", "PassFold", "RulesNotLoaded"]

TICK_JUMP_MAX: Final = timedelta(days=40)
_META_KEY: Final = b""
_NO_META: Final = Meta()
_UNKNOWN: Final = Permissions()
_NO_END: Final = b"\xff" * (REF_BYTES + 1)


class RulesNotLoaded(LedgerError):
    """A decision needs a registry that the shell has not loaded yet."""

    def __init__(self, digest: str) -> None:
        """Name the registry by its content hash."""
        super().__init__(f"The registry {digest[:16]} is not loaded.")
        self.digest = digest


class PassFold:
    """The pure fold of one pass over one partition."""

    def __init__(
        self,
        processors: Sequence[Processor[object]],
        *,
        rules: Mapping[str, Rules],
        initial: Rules,
        sampling_key: bytes,
        writes_tombstones: bool = False,
    ) -> None:
        """Take the processors of the pass and the rule books by registry digest.

        `initial` is in force until the first `RulesAdopted`; `rules` may grow while the pass
        runs, and a digest that it does not hold stops the partition.
        """
        self._removal = removal.Removal(writes_tombstones=writes_tombstones)
        self._backlog = Backlog(self, self._removal)
        self.seat(Seats(processors=tuple(processors)))
        self._books = rules
        self._initial = initial
        self._sampling_key = sampling_key
        self._again: Moment | None = None
        self._meta = _NO_META
        self._now = Moment(None, None)

    # What the shell asks -----------------------------------------------------------

    def seat(self, seats: Seats) -> None:
        """Let these processors take part from the next record on."""
        self._seats = seats
        self._processors = seats.processors
        self._removal.seat(seats)
        self._by_type: dict[str, tuple[Processor[object], ...]] = {}

    def rules(self, work: Workspace) -> Rules:
        """Return the rules in force at this point of the partition; raises `RulesNotLoaded`."""
        return self.book(self.moment(work))

    def moment(self, work: Workspace) -> Moment:
        """Return the time and rules in force: those of the offset that is applied again, or now."""
        if self._again is not None:
            return self._again
        meta = work.get(META, _META_KEY) or _NO_META
        if meta is not self._meta:  # the same value for nearly every record
            self._meta = meta
            self._now = Moment(meta.last_tick, meta.registry_digest)
        return self._now

    def book(self, moment: Moment) -> Rules:
        """Return the rules of a moment.

        Raises:
            RulesNotLoaded: the shell loads the registry that is named and begins again.
        """
        if moment.registry_digest is None:
            return self._initial
        try:
            return self._books[moment.registry_digest]
        except KeyError:
            raise RulesNotLoaded(moment.registry_digest) from None

    def apply(self, work: Workspace, record: Record) -> Serving[None] | None:
        """Fold one record; return the work that the shell drives before it applies the next one.

        What the budget of `work` does not allow stays in hand, for `serve` in later cycles.
        """
        ref, body = record.ref, record.body
        if isinstance(body, Fact) and ref != NOBODY and work.get(HELD, ref) is None:
            return self._within(work, ref) if self._data(work, record) else None
        if isinstance(body, Heartbeat):
            return None
        if isinstance(body, Removed):
            if body.is_ours:
                work.delete(WORK, removal.work_key(ref + record.record_id))
            return None
        if ref == NOBODY:
            return self._control_record(work, record)
        held = work.get(HELD, ref)
        if isinstance(body, HoldPlaced):
            sparing.note(work, ref, body)
        is_end = isinstance(body, ErasureRequested) and body.scope == "person"
        if held is None or (is_end and not sparing.waits(work, ref)):
            begins = self._decide(work, record)
        else:
            begins = self._backlog.hold(work, record, held)
        return self._within(work, ref) if begins else None

    def serve(self, work: Workspace, refs: Sequence[SubjectRef]) -> Serving[None]:
        """Go on with the work on these subjects, in order, as far as the budget of `work` allows."""
        self._backlog.forget(work)
        yield from self._serve_all(work, refs)

    def _serve_all(self, work: Workspace, refs: Sequence[SubjectRef]) -> Serving[None]:
        for ref in refs:
            if work.left <= 0:
                break
            yield from self._within(work, ref)

    def backlog(self, work: Workspace) -> list[SubjectRef]:
        """Return the subjects with work in hand, oldest first."""
        return self._backlog.oldest(work)

    def bring_up(
        self, work: Workspace, *, position: int, bound: Bound = SLICE, ends_at: SubjectRef = NOBODY
    ) -> Serving[None]:
        """Move one join or leaving on by a slice, which ends after the subject `ends_at`.

        A slice of its own: `work` holds no changes yet.
        """
        self._backlog.forget(work)
        yield from next_slice(
            work, self._seats, self._backlog, position=position, bound=bound, ends_at=ends_at
        )

    def retake(self, work: Workspace, ref: SubjectRef) -> None:
        """Take a parked subject up again: its record and all that waited behind it, in order."""
        self._backlog.retake(work, ref)

    def _within(self, work: Workspace, ref: SubjectRef) -> Serving[None]:
        work.left = yield from self._backlog.serve(work, ref, work.left)

    # What the backlog asks -----------------------------------------------------------

    def decide(self, work: Workspace, record: Record, *, moment: Moment) -> None:
        """Apply a record that waited, with the time and the rules of its own offset."""
        self._again = moment
        try:
            self._decide(work, record)
        finally:
            self._again = None

    def _decide(self, work: Workspace, record: Record) -> bool:
        """Apply a subject's record; return whether it began work on the subject."""
        body = record.body
        if isinstance(body, Undecodable | Broken):
            self._set_aside(work, record, body)
            return False
        if isinstance(body, ControlFact):
            return self._control_fact(work, record, body)
        return self._data(work, record)

    def _set_aside(self, work: Workspace, record: Record, body: Undecodable | Broken) -> None:
        """Park the subject of a record that cannot be folded: nothing of it moves but its erasure.

        Where its discard is known already, a record that can be read is decided on, and not
        folded: every pass then decides alike, whichever pass has the step that fails.
        """
        permissions = work.get(PERMISSIONS, record.ref)
        tag = record.tag if isinstance(body, Broken) else b""
        if permissions is not None and permissions.is_ended and record.tag:
            self._data(work, record)  # its headers decide: of an erased person nothing is folded
        elif permissions is not None and permissions.is_ended:
            self._removal.refuse(work, record, cause=Refusal.SUBJECT_ERASED, rules=self.rules(work))
        elif not self._backlog.set_aside(work, record, body, tag=tag, is_live=False):
            return
        elif tag:
            self._data(work, record)
        else:
            self._removal.bury(work, record.ref, record.record_id, cause=Refusal.DISCARDED, request="")

    # Data ---------------------------------------------------------------------------

    def _data(self, work: Workspace, record: Record) -> bool:
        """Decide on a collection event, index it, and fold it where nothing holds it back.

        Return whether it began work on the subject.
        """
        moment = self.moment(work)
        rules = self.book(moment)
        permissions = work.get(PERMISSIONS, record.ref) or _UNKNOWN
        row_key = record.ref + record.tag
        row = work.get(INDEX, row_key)
        category = record.category or Category.EVIDENCE
        decision = admit(
            permissions,
            Candidate(
                record.type, category, record.purposes, record.occurred_at, record.received_at, record.field
            ),
            rules,
            last_tick=moment.last_tick,
            is_known_copy=None if row is None else row.digest == record.digest,
        )
        if row is not None and row.record_id == record.record_id:
            # The very same record, written again: compaction keeps the later copy.
            work.put(INDEX, row_key, structs.replace(row, offset=record.offset))
            return False
        if isinstance(decision, Refusal):
            self._removal.refuse(work, record, cause=decision, rules=rules)
            return False
        month = month_of(record.occurred_at)
        work.put(
            INDEX,
            row_key,
            IndexRow(
                record.offset, record.record_id, record.digest, category,
                month, decision, record.generation, record.field or None, record.instead,
            ),
        )  # fmt: skip
        removal.start_timer(work, record.ref, category, month)
        if permissions.is_ended:
            return False  # kept by law, and folded into nothing
        if isinstance(record.body, Fact) and has_effect(record.body, rules):
            changed = apply_fact(permissions, record.body)
            if changed is not permissions:
                work.put(PERMISSIONS, record.ref, changed)
            permissions = changed
        if permissions.restricted_since is None or record.place < permissions.restricted_since:
            is_whole = decision == record.purposes
            self.project(work, record if is_whole else structs.replace(record, purposes=decision), month)
        body = record.body
        if isinstance(body, ConsentWithdrawn | ObjectionRaised) and has_effect(body, rules):
            return self._withdraw(work, record, (body.purpose,), permissions)
        return False

    def project(self, work: Workspace, record: Record, month: int, *, only: str = "") -> None:
        """Fold an accepted record into every projection that may see it, or into one (`only`).

        One that is being brought up sees the subjects that it has reached.
        """
        if not isinstance(record.body, Fact):
            return
        processors = self._by_type.get(record.type)
        if processors is None:
            processors = tuple(p for p in self._processors if record.type in p.step.types)
            self._by_type[record.type] = processors
        part_key = removal.part_key(record.category or Category.EVIDENCE, month)
        for processor in processors:
            step = processor.step
            if only:
                if processor.name != only:
                    continue
            elif self._seats.cursors and record.ref >= self._seats.cursors.get(processor.name, _NO_END):
                continue
            if step.purpose is not None and step.purpose not in record.purposes:
                continue
            windows = step.windows(record)
            if windows is not None and not analytics.note_members(work, record.ref, windows):
                continue
            state = work.get(processor.table, record.ref)
            parts = {} if state is None else state.parts
            before = parts.get(part_key)
            part = step.step(before, record)
            if before is None:
                work.put(processor.table, record.ref, removal.parts_of({**parts, part_key: part}))
            elif part is not before:  # in its place already: the order stays
                work.put(processor.table, record.ref, Parts({**parts, part_key: part}))

    def _withdraw(
        self, work: Workspace, record: Record, purposes: Sequence[str], permissions: Permissions
    ) -> bool:
        """Purge what only `purposes` allowed; under restriction the purge waits for the lift."""
        if permissions.is_restricted:
            purges = {(purpose, record.offset) for purpose in purposes}
            merged = tuple(sorted({*permissions.purges, *purges}))
            work.put(PERMISSIONS, record.ref, structs.replace(permissions, purges=merged))
            return False
        cut = Cut(Refusal.WITHDRAWN, record.offset, purposes=tuple(purposes))
        return self._begin(work, record, cut)

    def _begin(self, work: Workspace, record: Record, *cuts: Cut, then: Then = "refold_if_cut") -> bool:
        rules = self.rules(work)
        spared = sparing.begun(work, record.ref, cuts, rules=rules, offset=record.offset)
        self._backlog.begin(work, record.ref, offset=record.offset, cuts=spared, then=then)
        return True

    # Control facts --------------------------------------------------------------------

    def _control_fact(self, work: Workspace, record: Record, fact: ControlFact) -> bool:
        """Apply a control fact; return whether it began work on the subject."""
        before = work.get(PERMISSIONS, record.ref) or _UNKNOWN
        after = apply_control(before, fact, offset=record.offset)
        if after is before:
            return False
        work.put(PERMISSIONS, record.ref, after)
        ref, offset = record.ref, record.offset
        match fact:
            case ErasureRequested() if fact.scope == "person" and not before.is_ended:
                return self._end(work, record, fact, before)
            case ErasureRequested() | FieldErasureRequested():
                if (cut := scopes.erased(fact, self.rules(work), offset=offset)) is not None:
                    return self._begin(work, record, cut)
            case RecordsSuperseded():
                if (cut := scopes.superseded(fact, before, self.rules(work), offset=offset)) is not None:
                    return self._begin(work, record, cut)
            case RestrictionStarted():
                work.put(FROZEN, ref, value=True)
            case RestrictionLifted() if before.is_restricted:
                return self._lift(work, record, before)
            case HoldLifted() if len(after.holds) < len(before.holds):
                return self._backlog.release(work, ref, before, offset=offset, moment=self.moment(work))
            case MinorStatusDeclared() if fact.is_minor and not fact.is_approved:
                return self._withdraw(work, record, sorted(self.rules(work).consent_purposes), after)
            case RecordDiscarded():
                return self._begin(
                    work, record, Cut(Refusal.DISCARDED, offset, record_id=bytes.fromhex(fact.record))
                )
            case _:
                pass
        return False

    def _end(self, work: Workspace, record: Record, fact: ErasureRequested, before: Permissions) -> bool:
        """Remove all of an erased person but the fence and what the law keeps.

        Work in hand ends, and what waited is refused; ticks in hand or waiting still reach what is kept.
        """
        held = work.get(HELD, record.ref)
        at = record.offset if held is None else held.at
        self._removal.clear_projections(work, record.ref)
        for processor in self._processors:
            # A pass that is late meets states whose keys are gone by now: their rows go too.
            work.remove(processor.table, record.ref)
        work.delete(FROZEN, record.ref)
        sparing.ended(work, record.ref)
        ticks = self._backlog.take_ticks(work, record.ref, before=at + 1)
        cut = Cut(Refusal.ERASED, record.offset, fact.request, everything=True)
        due = sparing.in_hand(held)
        return self._begin(work, record, *due, cut, *ticks, *sparing.overdue(before), then="rest")

    def _lift(self, work: Workspace, record: Record, before: Permissions) -> bool:
        """Catch up what waited for the lift: purges and ticks in their order, and held records."""
        work.delete(FROZEN, record.ref)
        cuts = [Cut(Refusal.WITHDRAWN, below, purposes=(purpose,)) for purpose, below in before.purges]
        cuts += self._backlog.take_ticks(work, record.ref, before=record.offset) + sparing.overdue(before)
        return self._begin(work, record, *sorted(cuts, key=lambda cut: cut.below), then="refold")

    # Control records ------------------------------------------------------------------

    def _control_record(self, work: Workspace, record: Record) -> Serving[None] | None:
        """Apply a control record for all."""
        meta = work.get(META, _META_KEY) or Meta()
        match record.body:
            case Tick() as tick:
                return self._tick(work, meta, tick.at, record.offset)
            case TimeConfirmed() as confirmed:
                if meta.unconfirmed is not None and confirmed.at >= meta.unconfirmed:
                    accepted = structs.replace(meta, unconfirmed=None)
                    return self._advance(work, accepted, meta.unconfirmed, record.offset)
            case RulesAdopted() as adopted:
                adopting = structs.replace(meta, registry_digest=adopted.digest, adopted_at=record.offset)
                work.put(META, _META_KEY, adopting)
            case WindowOpened() as opened:
                key = analytics.window_key(opened.product, opened.window)
                if work.get(WINDOWS, key) is None:
                    work.put(WINDOWS, key, Window(is_sealed=False))
            case WindowSealed() as sealed:
                return self._seal(work, record, sealed)
            case VersionSwitched() as switched:
                versions = {**meta.versions, switched.projection: switched.version}
                work.put(META, _META_KEY, structs.replace(meta, versions=versions))
            case _:
                pass
        return None

    def _tick(self, work: Workspace, meta: Meta, at: datetime, offset: int) -> Serving[None] | None:
        """Advance time; a tick that jumps too far removes nothing until it is confirmed."""
        if meta.last_tick is not None and at <= meta.last_tick:
            return None
        if meta.last_tick is not None and at - meta.last_tick > TICK_JUMP_MAX:
            work.put(META, _META_KEY, structs.replace(meta, unconfirmed=at))
            return None
        return self._advance(work, structs.replace(meta, unconfirmed=None), at, offset)

    def _advance(self, work: Workspace, meta: Meta, at: datetime, offset: int) -> Serving[None]:
        """Set the time, and begin to drop what is due; held and restricted subjects pass it later."""
        work.put(META, _META_KEY, structs.replace(meta, last_tick=at))
        rung = sparing.rung(work, at=at)
        frozen = self._backlog.note_tick(work, offset, rung=rung)
        due = self._removal.due(work, self.rules(work), at=at)
        free = [ref for ref in due if ref not in frozen]
        free += [ref for ref in rung if ref not in free and work.get(HELD, ref) is None]
        for ref in free:
            timers = [] if ref in frozen else due.get(ref, [])
            self._backlog.retire(work, ref, timers, offset=offset, moment=self.moment(work))
        return self._serve_all(work, free)

    def _seal(self, work: Workspace, record: Record, sealed: WindowSealed) -> Serving[None] | None:
        """Sum the per-subject states of the window at this very offset, once.

        Work in hand is done first, whatever its size: a rebuild counts the same. It is the one
        place of the pass that has no bound, and only a pass with a windowed step comes here.
        """
        for processor in self._processors:
            if isinstance(processor.step, analytics.CourseViews):
                if processor.name in self._seats.cursors:
                    raise InvariantViolation("A window was sealed before its processor was brought up.")
                return self._seal_after_all(work, record, sealed, processor)
        key = analytics.window_key(sealed.product, sealed.window)
        known = work.get(WINDOWS, key)
        if self.rules(work).product(sealed.product) is not None and not (known and known.is_sealed):
            work.put(WINDOWS, key, Window(is_sealed=True, release=sealed.release))
        return None

    def _seal_after_all(
        self, work: Workspace, record: Record, sealed: WindowSealed, processor: Processor[object]
    ) -> Serving[None]:
        for ref in self._backlog.oldest(work):
            yield from self._backlog.serve(work, ref, ENDLESS)
        work.emits += analytics.seal_window(
            work, processor, sealed,
            partition=record.partition, rules=self.rules(work), key=self._sampling_key,
        )  # fmt: skip
