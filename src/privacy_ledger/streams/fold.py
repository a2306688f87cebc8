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
from privacy_ledger.domain.events import (
    ConsentWithdrawn,
    ControlFact,
    ErasureRequested,
    Fact,
    MinorStatusDeclared,
    ObjectionRaised,
    RecordDiscarded,
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
from privacy_ledger.domain.rules import ALWAYS, Rules
from privacy_ledger.domain.values import NOBODY, Category, SubjectRef, month_of
from privacy_ledger.streams import analytics, removal
from privacy_ledger.streams.protocol import Emit, Processor, Reread
from privacy_ledger.streams.record import Erased, Heartbeat, Record, Removed, Undecodable
from privacy_ledger.streams.states import (
    FROZEN,
    INDEX,
    META,
    PARKED,
    PERMISSIONS,
    WAITING,
    WINDOWS,
    WORK,
    IndexRow,
    Meta,
    Moment,
    Parked,
    Parts,
    Waiting,
    Window,
    Workspace,
)

__all__ = ["TICK_JUMP_MAX", "PassFold"]

TICK_JUMP_MAX: Final = timedelta(days=40)
_META_KEY: Final = b""
_NO_META: Final = Meta()
_UNKNOWN: Final = Permissions()


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
        self._processors = tuple(processors)
        self._books = rules
        self._initial = initial
        self._removal = removal.Removal(self._processors, writes_tombstones=writes_tombstones)
        self._sampling_key = sampling_key
        self._again: Moment | None = None
        self._meta = _NO_META
        self._now = Moment(None, None)
        self._by_type: dict[str, tuple[Processor[object], ...]] = {}
        self._passed: dict[tuple[bytes, tuple[int, ...]], int] = {}

    # What the shell asks -----------------------------------------------------------

    def rules(self, work: Workspace) -> Rules:
        """Return the rules in force at this point of the partition.

        Raises:
            KeyError: the adopted registry is not loaded; the shell loads it and tries again.
        """
        return self._book(self._moment(work))

    def _moment(self, work: Workspace) -> Moment:
        """Return the time and rules in force: those of the offset that is applied again, or now."""
        if self._again is not None:
            return self._again
        meta = work.get(META, _META_KEY) or _NO_META
        if meta is not self._meta:  # the same value for nearly every record
            self._meta = meta
            self._now = Moment(meta.last_tick, meta.registry_digest)
        return self._now

    def _book(self, moment: Moment) -> Rules:
        return self._initial if moment.registry_digest is None else self._books[moment.registry_digest]

    def apply(self, work: Workspace, record: Record) -> tuple[list[Reread], list[Emit]]:
        """Fold one record; return what must be read again, and what goes out.

        The shell serves every `Reread` before it applies the next record.
        """
        body = record.body
        if isinstance(body, Fact) and record.ref != NOBODY and work.get(PARKED, record.ref) is None:
            return self._data(work, record), []
        if isinstance(body, Heartbeat):
            return [], []
        if isinstance(body, Removed):
            if body.is_ours:
                work.delete(WORK, removal.work_key(record.ref + record.record_id))
            return [], []
        if record.ref == NOBODY:
            return self._control_record(work, record)
        parked = work.get(PARKED, record.ref)
        if isinstance(body, ErasureRequested) and body.scope == "person":
            demands = self._take_up(work, record.ref, record.partition)
            self._control_fact(work, record, body)
            return demands, []
        if parked is not None:
            if isinstance(body, RecordDiscarded) and self._discards(work, record, body, parked):
                return self._discard_parked(work, record, parked), []
            self._wait(work, record.ref, record.offset, is_tick=False)
            return [], []
        if isinstance(body, Undecodable):
            return self._park(work, record, body), []
        if isinstance(body, ControlFact):
            return self._control_fact(work, record, body), []
        return self._data(work, record), []

    def refold(self, work: Workspace, record: Record) -> None:
        """Fold one live record again into the projections, in order, after `Reread`.

        A record whose row is gone meanwhile is skipped; an undecodable one parks its subject,
        which then waits for the rest of the refold as well.
        """
        row = work.get(INDEX, record.ref + record.tag)
        if row is None or row.offset != record.offset or isinstance(record.body, Erased):
            return
        if work.get(PARKED, record.ref) is not None:
            return
        if isinstance(record.body, Undecodable):
            self._park(work, record, record.body, tag=record.tag)
            return
        self._project(work, structs.replace(record, purposes=row.purposes), row.month)

    def again(self, work: Workspace, demand: Reread, record: Record) -> tuple[list[Reread], list[Emit]]:
        """Apply one record that waited, at its own moment, after the ticks that came before it."""
        moment = self._pass_ticks(work, demand, before=record.offset)
        self._again = moment
        try:
            return self.apply(work, record)
        finally:
            self._again = None

    def finish(self, work: Workspace, demand: Reread) -> None:
        """Let the ticks pass that came after the last record that waited; ends a `Reread`."""
        if not demand.is_refold:
            self._pass_ticks(work, demand, before=None)
            self._passed.pop((demand.ref, demand.offsets), None)

    def start(self) -> None:
        """Forget what was served and not committed: a cycle begins, or begins again."""
        self._passed.clear()

    def retry(self, work: Workspace, ref: SubjectRef, *, partition: int) -> list[Reread]:
        """Take a parked subject up again: its parked record and all that waited, in order."""
        return self._take_up(work, ref, partition)

    # Data ---------------------------------------------------------------------------

    def _data(self, work: Workspace, record: Record) -> list[Reread]:
        """Decide on a collection event, index it, and fold it where nothing holds it back."""
        moment = self._moment(work)
        rules = self._book(moment)
        permissions = work.get(PERMISSIONS, record.ref) or _UNKNOWN
        row_key = record.ref + record.tag
        row = work.get(INDEX, row_key)
        category = record.category or Category.EVIDENCE
        decision = admit(
            permissions,
            Candidate(record.type, category, record.purposes, record.occurred_at, record.received_at),
            rules,
            last_tick=moment.last_tick,
            is_known_copy=None if row is None else row.digest == record.digest,
        )
        if row is not None and row.record_id == record.record_id:
            # The very same record, written again: compaction keeps the later copy.
            work.put(INDEX, row_key, structs.replace(row, offset=record.offset))
            return []
        if isinstance(decision, Refusal):
            self._removal.refuse(work, record, cause=decision, rules=rules)
            return []
        month = month_of(record.occurred_at)
        work.put(
            INDEX,
            row_key,
            IndexRow(
                record.offset, record.record_id, record.digest, category,
                month, decision, record.generation,
            ),
        )  # fmt: skip
        removal.start_timer(work, record.ref, category, month)
        if isinstance(record.body, Fact) and has_effect(record.body, rules):
            changed = apply_fact(permissions, record.body)
            if changed is not permissions:
                work.put(PERMISSIONS, record.ref, changed)
            permissions = changed
        if not permissions.is_restricted:
            is_whole = decision == record.purposes
            self._project(work, record if is_whole else structs.replace(record, purposes=decision), month)
        body = record.body
        if isinstance(body, ConsentWithdrawn | ObjectionRaised) and has_effect(body, rules):
            return self._withdraw(work, record, (body.purpose,), permissions)
        return []

    def _project(self, work: Workspace, record: Record, month: int) -> None:
        """Fold an accepted record into every projection that may see it."""
        if not isinstance(record.body, Fact):
            return
        processors = self._by_type.get(record.type)
        if processors is None:
            processors = tuple(p for p in self._processors if record.type in p.step.types)
            self._by_type[record.type] = processors
        part_key = removal.part_key(record.category or Category.EVIDENCE, month)
        for processor in processors:
            step = processor.step
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
    ) -> list[Reread]:
        """Purge what only `purposes` allowed; under restriction the purge waits for the lift."""
        purges = tuple((purpose, record.offset) for purpose in purposes)
        if permissions.is_restricted:
            merged = tuple(sorted({*permissions.purges, *purges}))
            work.put(PERMISSIONS, record.ref, structs.replace(permissions, purges=merged))
            return []
        if not self._removal.purge_purposes(work, record.ref, purges):
            return []
        return self._refold(work, record.ref, record.partition, permissions)

    # Control facts --------------------------------------------------------------------

    def _control_fact(self, work: Workspace, record: Record, fact: ControlFact) -> list[Reread]:
        """Apply a control fact and what it removes."""
        before = work.get(PERMISSIONS, record.ref) or Permissions()
        after = apply_control(before, fact, offset=record.offset)
        if after is before:
            return []
        work.put(PERMISSIONS, record.ref, after)
        ref, partition = record.ref, record.partition
        match fact:
            case ErasureRequested() if fact.scope == "person" and not before.is_ended:
                self._removal.everything(work, ref, request=fact.request)
            case ErasureRequested() if fact.category not in {None, Category.EVIDENCE}:
                category = Category(str(fact.category))
                if self._removal.category(work, ref, category, request=fact.request, rules=self.rules(work)):
                    return self._refold(work, ref, partition, after)
            case ErasureRequested() if fact.purpose not in {None, ALWAYS}:
                purges = ((str(fact.purpose), record.offset),)
                if self._removal.purge_purposes(
                    work, ref, purges, cause=Refusal.ERASED, request=fact.request
                ):
                    return self._refold(work, ref, partition, after)
            case RestrictionStarted():
                work.put(FROZEN, ref, value=True)
            case RestrictionLifted() if before.is_restricted:
                return self._lift(work, record, before, after)
            case MinorStatusDeclared() if fact.is_minor and not fact.is_approved:
                return self._withdraw(work, record, sorted(self.rules(work).consent_purposes), after)
            case RecordDiscarded():
                if self._removal.one(work, ref, bytes.fromhex(fact.record)):
                    return self._refold(work, ref, partition, after)
            case _:
                pass
        return []

    def _lift(self, work: Workspace, record: Record, before: Permissions, after: Permissions) -> list[Reread]:
        """Catch up what waited for the lift: purges and ticks in their order, and held records."""
        work.delete(FROZEN, record.ref)
        ticks = [pair for pair in work.scan(WAITING, record.ref) if pair[1].is_tick]
        purges = sorted(before.purges, key=lambda purge: purge[1])
        for key, waiting in ticks:
            earlier = [purge for purge in purges if purge[1] < waiting.offset]
            self._removal.purge_purposes(work, record.ref, earlier)
            work.delete(WAITING, key)
            self._pass_tick(work, record.ref, waiting)
        self._removal.purge_purposes(work, record.ref, purges)
        return self._refold(work, record.ref, record.partition, after)

    def _pass_tick(self, work: Workspace, ref: SubjectRef, waiting: Waiting) -> None:
        """Let one tick pass for one subject, under the rules of its own offset."""
        if waiting.moment.last_tick is not None:
            self._removal.retention_of(
                work, ref, self._book(waiting.moment), at=waiting.moment.last_tick,
                below=waiting.offset,
            )  # fmt: skip

    def _refold(
        self, work: Workspace, ref: SubjectRef, partition: int, permissions: Permissions
    ) -> list[Reread]:
        """Empty the subject's projections and ask for its live records again.

        Under restriction only what came before it is folded: the rest is held.
        """
        self._removal.clear_projections(work, ref)
        until = permissions.restricted_since
        offsets = sorted(
            row.offset for _, row in work.scan(INDEX, ref) if until is None or row.offset < until
        )
        if not offsets:
            return []
        return [Reread(ref=ref, partition=partition, offsets=tuple(offsets), is_refold=True)]

    # Parking --------------------------------------------------------------------------

    def _park(self, work: Workspace, record: Record, body: Undecodable, *, tag: bytes = b"") -> list[Reread]:
        """Park the subject: nothing of it moves until redrive or discard, but its erasure.

        `tag` names the record where it is live already, and only its refold failed.
        """
        permissions = work.get(PERMISSIONS, record.ref)
        if permissions is not None and permissions.is_ended:
            self._removal.refuse(work, record, cause=Refusal.SUBJECT_ERASED, rules=self.rules(work))
            return []
        parked = Parked(record.offset, record.record_id, body.reason, self._moment(work), tag)
        work.put(PARKED, record.ref, parked)
        return []

    def _wait(self, work: Workspace, ref: SubjectRef, offset: int, *, is_tick: bool) -> None:
        """Note a record, or a tick, behind which a parked subject will go on."""
        key = ref + offset.to_bytes(8, "big")
        work.put(WAITING, key, Waiting(offset, is_tick, self._moment(work)))

    def _note_tick(self, work: Workspace, ref: SubjectRef, offset: int) -> None:
        """Note a tick for a frozen subject, unless it says nothing new: same month, same rules."""
        moment = self._moment(work)
        ticks = [waiting for _, waiting in work.scan(WAITING, ref) if waiting.is_tick]
        last = ticks[-1].moment.last_tick if ticks else None
        if last is not None and moment.last_tick is not None:
            is_same_month = month_of(last) == month_of(moment.last_tick)
            meta = work.get(META, _META_KEY) or Meta()
            if is_same_month and meta.adopted_at < ticks[-1].offset:
                return
        self._wait(work, ref, offset, is_tick=True)

    def _take_up(
        self, work: Workspace, ref: SubjectRef, partition: int, *, is_discarded: bool = False
    ) -> list[Reread]:
        """Forget the parking of a subject and ask for all that waited, in order."""
        parked = work.get(PARKED, ref)
        if parked is None:
            return []
        moments = [waiting for _, waiting in work.scan(WAITING, ref)]
        for key, _ in work.scan(WAITING, ref):
            work.delete(WAITING, key)
        work.delete(PARKED, ref)
        demands = []
        if parked.tag:
            permissions = work.get(PERMISSIONS, ref) or _UNKNOWN
            demands = [] if permissions.is_ended else self._refold(work, ref, partition, permissions)
        elif not is_discarded:
            moments.insert(0, Waiting(parked.offset, is_tick=False, moment=parked.moment))
        offsets = tuple(waiting.offset for waiting in moments if not waiting.is_tick)
        waited = Reread(
            ref=ref, partition=partition, offsets=offsets, is_refold=False, moments=tuple(moments)
        )
        return [*demands, waited]

    def _pass_ticks(self, work: Workspace, demand: Reread, *, before: int | None) -> Moment:
        """Let each tick before an offset pass for the subject, once; return that offset's moment.

        While the subject is restricted, or parked again, the tick goes on waiting.
        """
        passed = self._passed.get((demand.ref, demand.offsets), -1)
        for waiting in demand.moments:
            if waiting.offset == before:
                return waiting.moment
            if not waiting.is_tick or waiting.offset <= passed:
                continue
            self._passed[demand.ref, demand.offsets] = waiting.offset
            permissions = work.get(PERMISSIONS, demand.ref) or Permissions()
            if permissions.is_restricted or work.get(PARKED, demand.ref) is not None:
                key = demand.ref + waiting.offset.to_bytes(8, "big")
                work.put(WAITING, key, waiting)
            else:
                self._pass_tick(work, demand.ref, waiting)
        return self._moment(work)

    def _discards(self, work: Workspace, record: Record, fact: RecordDiscarded, parked: Parked) -> bool:
        """Return whether a discard names the parked record and its request is new.

        Evidence that was accepted stays, whoever discards it: what it allowed may live.
        """
        row = work.get(INDEX, record.ref + parked.tag) if parked.tag else None
        if row is not None and row.category is Category.EVIDENCE:
            return False
        permissions = work.get(PERMISSIONS, record.ref) or Permissions()
        return bytes.fromhex(fact.record) == parked.record_id and fact.request not in permissions.requests

    def _discard_parked(self, work: Workspace, record: Record, parked: Parked) -> list[Reread]:
        """Drop the parked record and apply all that waited behind it, and then this fact."""
        self._wait(work, record.ref, record.offset, is_tick=False)
        row_key = record.ref + parked.tag
        row = work.get(INDEX, row_key) if parked.tag else None
        self._removal.bury(
            work, record.ref, parked.record_id, cause=Refusal.DISCARDED, request="",
            row=None if row is None else (row_key, row),
        )  # fmt: skip
        return self._take_up(work, record.ref, record.partition, is_discarded=True)

    # Control records ------------------------------------------------------------------

    def _control_record(self, work: Workspace, record: Record) -> tuple[list[Reread], list[Emit]]:
        """Apply a control record for all."""
        meta = work.get(META, _META_KEY) or Meta()
        match record.body:
            case Tick() as tick:
                self._tick(work, meta, tick.at, record.offset)
            case TimeConfirmed() as confirmed:
                if meta.unconfirmed is not None and confirmed.at >= meta.unconfirmed:
                    self._advance(
                        work, structs.replace(meta, unconfirmed=None), meta.unconfirmed, record.offset
                    )
            case RulesAdopted() as adopted:
                adopting = structs.replace(meta, registry_digest=adopted.digest, adopted_at=record.offset)
                work.put(META, _META_KEY, adopting)
            case WindowOpened() as opened:
                key = analytics.window_key(opened.product, opened.window)
                if work.get(WINDOWS, key) is None:
                    work.put(WINDOWS, key, Window(is_sealed=False))
            case WindowSealed() as sealed:
                return [], self._seal(work, record, sealed)
            case VersionSwitched() as switched:
                versions = {**meta.versions, switched.projection: switched.version}
                work.put(META, _META_KEY, structs.replace(meta, versions=versions))
            case _:
                pass
        return [], []

    def _tick(self, work: Workspace, meta: Meta, at: datetime, offset: int) -> None:
        """Advance time; a tick that jumps too far removes nothing until it is confirmed."""
        if meta.last_tick is not None and at <= meta.last_tick:
            return
        if meta.last_tick is not None and at - meta.last_tick > TICK_JUMP_MAX:
            work.put(META, _META_KEY, structs.replace(meta, unconfirmed=at))
            return
        self._advance(work, structs.replace(meta, unconfirmed=None), at, offset)

    def _advance(self, work: Workspace, meta: Meta, at: datetime, offset: int) -> None:
        """Set the time and let retention drop what is due; parked subjects pass it later."""
        work.put(META, _META_KEY, structs.replace(meta, last_tick=at))
        self._removal.retention(work, self.rules(work), at=at)
        frozen = {ref for ref, _ in work.scan(PARKED, b"")}
        frozen.update(ref for ref, _ in work.scan(FROZEN, b""))
        for ref in sorted(frozen):
            self._note_tick(work, SubjectRef(ref), offset)

    def _seal(self, work: Workspace, record: Record, sealed: WindowSealed) -> list[Emit]:
        """Sum the per-subject states of the window at this very offset, once."""
        for processor in self._processors:
            if isinstance(processor.step, analytics.CourseViews):
                return analytics.seal_window(
                    work, processor, sealed,
                    partition=record.partition, rules=self.rules(work), key=self._sampling_key,
                )  # fmt: skip
        key = analytics.window_key(sealed.product, sealed.window)
        work.put(WINDOWS, key, Window(is_sealed=True, release=sealed.release))
        return []
