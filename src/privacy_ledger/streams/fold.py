"""The fold of a pass: one record of the ledger at a time, in offset order, over a workspace.

Law L3: after offset N the state is a function of the set of each subject's records that are live
at N. Facts remove; tombstones carry no meaning. Every pass folds permissions and index itself;
one pass alone (`writes_tombstones`) asks for tombstones.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec import structs

from privacy_ledger.domain.admission import Candidate, admit
from privacy_ledger.domain.events import (
    ConsentWithdrawn,
    ControlFact,
    ErasureRequested,
    Fact,
    MinorStatusDeclared,
    ObjectionRaised,
    RecordDiscarded,
    RestrictionLifted,
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
from privacy_ledger.domain.values import NOBODY, Category, SubjectRef, month_of
from privacy_ledger.streams import analytics, removal
from privacy_ledger.streams.protocol import Emit, Processor, Reread
from privacy_ledger.streams.record import Erased, Heartbeat, Record, Removed, Undecodable
from privacy_ledger.streams.states import (
    INDEX,
    META,
    PARKED,
    PERMISSIONS,
    WAITING,
    WINDOWS,
    WORK,
    IndexRow,
    Meta,
    Parked,
    Window,
    Workspace,
)

__all__ = ["PassFold", "TICK_JUMP_MAX"]

TICK_JUMP_MAX: Final = timedelta(days=40)
_META_KEY: Final = b""


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

    # What the shell asks -----------------------------------------------------------

    def rules(self, work: Workspace) -> Rules:
        """Return the rules in force at this point of the partition.

        Raises:
            KeyError: the adopted registry is not loaded; the shell loads it and tries again.
        """
        meta = work.get(META, _META_KEY)
        if meta is None or meta.registry_digest is None:
            return self._initial
        return self._books[meta.registry_digest]

    def apply(self, work: Workspace, record: Record) -> tuple[list[Reread], list[Emit]]:
        """Fold one record; return what must be read again, and what goes out.

        The shell serves every `Reread` before it applies the next record.
        """
        body = record.body
        if isinstance(body, Heartbeat):
            return [], []
        if isinstance(body, Removed):
            if body.is_ours:
                work.delete(WORK, record.ref + record.record_id)
            return [], []
        if record.ref == NOBODY:
            return self._control_record(work, record)
        parked = work.get(PARKED, record.ref)
        if isinstance(body, ErasureRequested) and body.scope == "person":
            waiting = () if parked is None else (parked.offset, *self._unpark(work, record.ref))
            self._control_fact(work, record, body)
            return _again(record, waiting), []
        if parked is not None:
            if isinstance(body, RecordDiscarded) and bytes.fromhex(body.record) == parked.record_id:
                return self._discard_parked(work, record, parked), []
            work.put(WAITING, record.ref + record.offset.to_bytes(8, "big"), record.offset)
            return [], []
        if isinstance(body, Undecodable):
            return self._park(work, record, body), []
        if isinstance(body, ControlFact):
            return self._control_fact(work, record, body), []
        return self._data(work, record), []

    def refold(self, work: Workspace, record: Record) -> None:
        """Fold one live record again into the projections, in order, after `Reread`.

        A record whose row is gone meanwhile is skipped; an undecodable one parks its subject.
        """
        row = work.get(INDEX, record.ref + record.tag)
        if row is None or row.offset != record.offset or isinstance(record.body, Erased):
            return
        if isinstance(record.body, Undecodable):
            self._park(work, record, record.body)
            return
        self._project(work, structs.replace(record, purposes=row.purposes))

    def retry(self, work: Workspace, ref: SubjectRef, *, partition: int) -> list[Reread]:
        """Take a parked subject up again: its parked record and all that waited, in order."""
        parked = work.get(PARKED, ref)
        if parked is None:
            return []
        offsets = (parked.offset, *self._unpark(work, ref))
        return [Reread(ref=ref, partition=partition, offsets=offsets, is_refold=False)]

    # Data ---------------------------------------------------------------------------

    def _data(self, work: Workspace, record: Record) -> list[Reread]:
        """Decide on a collection event, index it, and fold it where nothing holds it back."""
        rules = self.rules(work)
        permissions = work.get(PERMISSIONS, record.ref) or Permissions()
        row_key = record.ref + record.tag
        row = work.get(INDEX, row_key)
        meta = work.get(META, _META_KEY)
        category = record.category or Category.EVIDENCE
        decision = admit(
            permissions,
            Candidate(record.type, category, record.purposes, record.occurred_at, record.received_at),
            rules,
            last_tick=None if meta is None else meta.last_tick,
            is_known_copy=None if row is None else row.digest == record.digest,
        )
        if isinstance(decision, Refusal):
            self._removal.refuse(work, record, cause=decision, rules=rules)
            return []
        work.put(
            INDEX,
            row_key,
            IndexRow(
                record.offset, record.record_id, record.digest, category,
                month_of(record.occurred_at), decision, record.generation,
            ),
        )  # fmt: skip
        removal.start_timer(work, record.ref, category, record.occurred_at)
        if isinstance(record.body, Fact):
            changed = apply_fact(permissions, record.body)
            if changed is not permissions:
                work.put(PERMISSIONS, record.ref, changed)
            if isinstance(record.body, ConsentWithdrawn | ObjectionRaised):
                return self._withdraw(work, record, record.body.purpose, changed)
        if not permissions.is_restricted:
            self._project(work, structs.replace(record, purposes=decision))
        return []

    def _project(self, work: Workspace, record: Record) -> None:
        """Fold an accepted record into every projection that may see it."""
        if not isinstance(record.body, Fact):
            return
        category = record.category or Category.EVIDENCE
        part_key = removal.part_key(category, month_of(record.occurred_at))
        for processor in self._processors:
            step = processor.step
            if record.type not in step.types:
                continue
            if step.purpose is not None and step.purpose not in record.purposes:
                continue
            windows = step.windows(record)
            if windows and not analytics.note_members(work, record.ref, windows):
                continue
            state = work.get(processor.table, record.ref)
            parts = {} if state is None else state.parts
            part = step.step(parts.get(part_key), record)
            work.put(
                processor.table, record.ref, removal.parts_of({**parts, part_key: part})
            )

    def _withdraw(
        self, work: Workspace, record: Record, purpose: str, permissions: Permissions
    ) -> list[Reread]:
        """Purge what only `purpose` allowed; under restriction the purge waits for the lift."""
        if permissions.is_restricted:
            purges = tuple(sorted({*permissions.purges, purpose}))
            work.put(PERMISSIONS, record.ref, structs.replace(permissions, purges=purges))
            return []
        return self._purge(work, record, (purpose,), permissions)

    def _purge(
        self, work: Workspace, record: Record, purposes: Sequence[str], permissions: Permissions
    ) -> list[Reread]:
        """Take purposes from every live record; those left with none are removed."""
        touched = self._removal.purge_purposes(work, record.ref, purposes)
        if not touched:
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
            case ErasureRequested() if fact.category is not None and not before.is_ended:
                if self._removal.category(work, ref, fact.category, request=fact.request):
                    return self._refold(work, ref, partition, after)
            case ErasureRequested() if fact.purpose is not None and not before.is_ended:
                return self._purge(work, record, (fact.purpose,), after)
            case RestrictionLifted() if before.is_restricted:
                return self._lift(work, record, before, after)
            case MinorStatusDeclared() if fact.is_minor and not fact.is_approved:
                consents = sorted(self.rules(work).consent_purposes)
                if after.is_restricted:
                    purges = tuple(sorted({*after.purges, *consents}))
                    work.put(PERMISSIONS, ref, structs.replace(after, purges=purges))
                    return []
                return self._purge(work, record, consents, after)
            case RecordDiscarded():
                if self._removal.one(work, ref, bytes.fromhex(fact.record)):
                    return self._refold(work, ref, partition, after)
            case _:
                pass
        return []

    def _lift(
        self, work: Workspace, record: Record, before: Permissions, after: Permissions
    ) -> list[Reread]:
        """Catch up what waited for the lift: purges, retention, and the held records."""
        self._removal.purge_purposes(work, record.ref, before.purges)
        meta = work.get(META, _META_KEY)
        if meta is not None and meta.last_tick is not None:
            self._removal.retention_of(work, record.ref, self.rules(work), at=meta.last_tick)
        return self._refold(work, record.ref, record.partition, after)

    def _refold(
        self, work: Workspace, ref: SubjectRef, partition: int, permissions: Permissions
    ) -> list[Reread]:
        """Empty the subject's projections and ask for its live records again.

        Under restriction only what came before it is folded: the rest is held.
        """
        self._removal.clear_projections(work, ref)
        until = permissions.restricted_since
        offsets = sorted(
            row.offset
            for _, row in work.scan(INDEX, ref)
            if until is None or row.offset < until
        )
        if not offsets:
            return []
        return [Reread(ref=ref, partition=partition, offsets=tuple(offsets), is_refold=True)]

    # Parking --------------------------------------------------------------------------

    def _park(self, work: Workspace, record: Record, body: Undecodable) -> list[Reread]:
        """Park the subject: nothing of it moves until redrive or discard, but its erasure."""
        permissions = work.get(PERMISSIONS, record.ref)
        if permissions is not None and permissions.is_ended:
            self._removal.refuse(
                work, record, cause=Refusal.SUBJECT_ERASED, rules=self.rules(work)
            )
            return []
        work.put(PARKED, record.ref, Parked(record.offset, record.record_id, body.reason))
        return []

    def _unpark(self, work: Workspace, ref: SubjectRef) -> tuple[int, ...]:
        """Forget the parking of a subject; return the offsets that waited, ascending."""
        waiting = work.scan(WAITING, ref)
        for key, _ in waiting:
            work.delete(WAITING, key)
        work.delete(PARKED, ref)
        return tuple(offset for _, offset in waiting)

    def _discard_parked(
        self, work: Workspace, record: Record, parked: Parked
    ) -> list[Reread]:
        """Drop the parked record and apply all that waited behind it, and then this fact."""
        offsets = self._unpark(work, record.ref)
        self._removal.bury(
            work, record.ref, parked.record_id, cause=Refusal.DISCARDED, request="", row=None
        )
        return _again(record, (*offsets, record.offset))

    # Control records ------------------------------------------------------------------

    def _control_record(
        self, work: Workspace, record: Record
    ) -> tuple[list[Reread], list[Emit]]:
        """Apply a control record for all."""
        meta = work.get(META, _META_KEY) or Meta()
        match record.body:
            case Tick() as tick:
                self._tick(work, meta, tick.at)
            case TimeConfirmed() as confirmed:
                if meta.unconfirmed is not None and confirmed.at >= meta.unconfirmed:
                    self._advance(work, structs.replace(meta, unconfirmed=None), meta.unconfirmed)
            case RulesAdopted() as adopted:
                work.put(META, _META_KEY, structs.replace(meta, registry_digest=adopted.digest))
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

    def _tick(self, work: Workspace, meta: Meta, at: datetime) -> None:
        """Advance time; a tick that jumps too far removes nothing until it is confirmed."""
        if meta.last_tick is not None and at <= meta.last_tick:
            return
        if meta.last_tick is not None and at - meta.last_tick > TICK_JUMP_MAX:
            work.put(META, _META_KEY, structs.replace(meta, unconfirmed=at))
            return
        self._advance(work, structs.replace(meta, unconfirmed=None), at)

    def _advance(self, work: Workspace, meta: Meta, at: datetime) -> None:
        """Set the time and let retention drop what is due."""
        work.put(META, _META_KEY, structs.replace(meta, last_tick=at))
        self._removal.retention(work, self.rules(work), at=at)

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


def _again(record: Record, offsets: tuple[int, ...]) -> list[Reread]:
    """Return the demand to apply what waited behind a parked record, if anything did."""
    if not offsets:
        return []
    return [
        Reread(ref=record.ref, partition=record.partition, offsets=offsets, is_refold=False)
    ]
