# ruff: noqa: ANN401, SLF001 - a saboteur hands on what it need not understand, and reaches inside
"""Ledgers with one law switched off each: the simulation must notice every one of them."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from typing import Any, Final

import pytest
from msgspec import structs

from privacy_ledger.domain import admission, permissions
from privacy_ledger.domain.events import ConsentGranted, ErasureRequested
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, SubjectRef, month_of
from privacy_ledger.streams import analytics, fold, removal
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.record import Record, Removed
from privacy_ledger.streams.removal import Removal
from privacy_ledger.streams.held import HELD
from privacy_ledger.streams.states import FROZEN, INDEX, PERMISSIONS, IndexRow, Workspace
from privacy_ledger.testing.memory import MemoryPass
from tests.simulation.logs import BOOKS, Simulation

__all__ = ["MUTANTS"]

Mutant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(law: Mutant) -> Mutant:
    """Take a broken ledger into the list."""
    MUTANTS[law.__name__] = law
    return law


@mutant
def l1_a_consent_arrives_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild reads consents from a topic of their own, after the events."""
    live_runs = MemoryPass.run

    def run(self: MemoryPass, records: Sequence[Record]) -> None:
        late = [record for record in records if isinstance(record.body, ConsentGranted)]
        live_runs(self, [*(record for record in records if record not in late), *late])

    monkeypatch.setattr(MemoryPass, "run", run)


@mutant
def l2_the_fold_reads_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick takes the time at which it is read, which is later each time."""
    hours, right = count(), PassFold._tick

    def tick(self: PassFold, work: Workspace, meta: Any, at: Any, offset: int) -> None:
        right(self, work, meta, at + timedelta(hours=next(hours)), offset)

    monkeypatch.setattr(PassFold, "_tick", tick)


@mutant
def l2_a_rebuild_starts_with_todays_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other pass has the newest rule book from the start."""
    books, right = iter(count()), MemoryPass.__init__

    def init(self: MemoryPass, *args: Any, initial: Rules, **more: Any) -> None:
        right(self, *args, initial=initial if next(books) % 2 == 0 else BOOKS["b" * 64], **more)

    monkeypatch.setattr(MemoryPass, "__init__", init)


@mutant
def l3_tombstones_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal waits until its tombstone is read back."""
    right = PassFold.apply

    def bury(self: Removal, work: Workspace, ref: SubjectRef, record_id: bytes, **more: Any) -> None:
        self._tombstone(work, ref, record_id, cause=more["cause"], request=more["request"])

    def apply(self: PassFold, work: Workspace, record: Record) -> Any:
        if isinstance(record.body, Removed):
            for key, row in work.scan(INDEX, record.ref):
                if row.record_id == record.record_id:
                    work.delete(INDEX, key)
        return right(self, work, record)

    monkeypatch.setattr(Removal, "bury", bury)
    monkeypatch.setattr(PassFold, "apply", apply)


@mutant
def l3_a_tombstone_takes_its_fact_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tombstone forgets all grants of its subject, as a cache would be invalidated."""
    right = PassFold.apply

    def apply(self: PassFold, work: Workspace, record: Record) -> Any:
        known = work.get(PERMISSIONS, record.ref)
        if isinstance(record.body, Removed) and known is not None:
            work.put(PERMISSIONS, record.ref, structs.replace(known, grants={}))
        return right(self, work, record)

    monkeypatch.setattr(PassFold, "apply", apply)


@mutant
def tombstones_leave_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction then removes a record and leaves a copy that was refused because of it."""
    right = Simulation.__init__

    def init(self: Simulation, *args: Any, **more: Any) -> None:
        right(self, *args, **more | {"is_orderly": False})

    monkeypatch.setattr(Simulation, "__init__", init)


@mutant
def a_tag_alone_makes_a_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another content under a known id counts as the same event."""
    right = admission.admit

    def admit(*args: Any, is_known_copy: bool | None, **more: Any) -> Any:
        return right(*args, is_known_copy=None if is_known_copy is None else True, **more)

    monkeypatch.setattr("privacy_ledger.streams.fold.admit", admit)


@mutant
def copies_are_new_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is a duplicate."""
    right = admission.admit

    def admit(*args: Any, is_known_copy: bool | None, **more: Any) -> Any:
        del is_known_copy
        return right(*args, is_known_copy=None, **more)

    monkeypatch.setattr("privacy_ledger.streams.fold.admit", admit)


@mutant
def a_refused_record_leaves_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused once is a duplicate for ever, until a rebuild."""
    right = Removal.refuse

    def refuse(self: Removal, work: Workspace, record: Record, **more: Any) -> None:
        right(self, work, record, **more)
        key = record.ref + record.tag
        if work.get(INDEX, key) is None:
            row = IndexRow(
                record.offset, record.record_id, record.digest, record.category or Category.EVIDENCE,
                month_of(record.occurred_at), (), record.generation,
            )  # fmt: skip
            work.put(INDEX, key, row)

    monkeypatch.setattr(Removal, "refuse", refuse)


@mutant
def a_refused_copy_takes_the_tag_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one duplicate was refused, the next one passes."""
    right = Removal.refuse

    def refuse(self: Removal, work: Workspace, record: Record, **more: Any) -> None:
        right(self, work, record, **more)
        work.delete(INDEX, record.ref + record.tag)

    monkeypatch.setattr(Removal, "refuse", refuse)


@mutant
def retention_counts_from_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that came late lives longer than its person was told."""
    right = PassFold._data

    def data(self: PassFold, work: Workspace, record: Record) -> Any:
        return right(self, work, structs.replace(record, occurred_at=record.received_at))

    monkeypatch.setattr(PassFold, "_data", data)


@mutant
def a_withdrawal_purges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use stops, and what was collected stays."""
    monkeypatch.setattr(Removal, "purge_purposes", lambda *_args, **_more: False)


@mutant
def a_restriction_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of a restricted person are folded at once."""
    right = PassFold._refold

    def refold(self: PassFold, work: Workspace, ref: Any, partition: int, state: Any) -> Any:
        return right(self, work, ref, partition, structs.replace(state, restricted_since=None))

    monkeypatch.setattr(PassFold, "_refold", refold)
    monkeypatch.setattr(Permissions, "is_restricted", property(lambda _: False))


@mutant
def a_request_has_its_effect_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retried *restrict* after a *lift* restricts again."""
    right = permissions.apply_control

    def apply_control(state: Permissions, fact: Any, *, offset: int) -> Permissions:
        return right(structs.replace(state, requests=()), fact, offset=offset)

    monkeypatch.setattr("privacy_ledger.streams.fold.apply_control", apply_control)


@mutant
def a_poisoned_subject_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A withdrawal that nobody can read is taken for consent."""
    monkeypatch.setattr(PassFold, "_park", lambda *_: [])


@mutant
def an_erased_person_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything goes, but no fence stays."""
    monkeypatch.setattr(Permissions, "is_ended", property(lambda _: False))


@mutant
def a_later_grant_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grant that the log holds last is the one in force."""
    right = permissions.apply_fact

    def apply_fact(state: Permissions, fact: Any) -> Permissions:
        if isinstance(fact, ConsentGranted):
            return structs.replace(state, grants={**state.grants, fact.purpose: fact.occurred_at})
        return right(state, fact)

    monkeypatch.setattr("privacy_ledger.streams.fold.apply_fact", apply_fact)


@mutant
def a_clock_ahead_keeps_a_consent_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A withdrawal from a clock that runs ahead is refused."""
    monkeypatch.setattr(admission, "_NEVER_TOO_EARLY", frozenset())


@mutant
def anything_can_be_objected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """An objection to a contract, or a withdrawal of what was never asked, takes effect."""
    monkeypatch.setattr(fold, "has_effect", lambda *_: True)


@mutant
def the_answer_to_a_right_is_a_purpose_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rights.fulfil` can be erased."""
    monkeypatch.setattr(fold, "ALWAYS", "")
    monkeypatch.setattr(removal, "ALWAYS", "")


@mutant
def evidence_is_erased_with_its_category(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof of a withdrawal goes, and a rebuild finds the consent."""
    right = PassFold._control_fact

    def control_fact(self: PassFold, work: Workspace, record: Record, fact: Any) -> Any:
        demands = right(self, work, record, fact)
        if getattr(fact, "category", None) is Category.EVIDENCE:
            self._removal.category(
                work, record.ref, Category.EVIDENCE, request=fact.request, rules=self.rules(work)
            )
        return demands

    monkeypatch.setattr(PassFold, "_control_fact", control_fact)


@mutant
def a_discard_reaches_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's discard takes a consent away."""

    def one(self: Removal, work: Workspace, ref: Any, record_id: bytes) -> bool:
        for key, row in work.scan(INDEX, ref):
            if row.record_id == record_id:
                cause = Refusal.DISCARDED
                self.bury(work, ref, record_id, cause=cause, request="", row=(key, row))
                return True
        return False

    monkeypatch.setattr(Removal, "one", one)


@mutant
def a_used_request_discards_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discard with a request that had its effect frees the subject."""

    def discards(_self: PassFold, _work: Workspace, _record: Record, fact: Any, parked: Any) -> bool:
        return bool(fact.record == parked.record_id.hex())

    monkeypatch.setattr(PassFold, "_discards", discards)


@mutant
def an_erasure_is_lost_to_a_used_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody asks to be erased, and an id used twice swallows it."""
    right = permissions.apply_control

    def apply_control(state: Permissions, fact: Any, *, offset: int) -> Permissions:
        return state if fact.request in state.requests else right(state, fact, offset=offset)

    monkeypatch.setattr("privacy_ledger.streams.fold.apply_control", apply_control)


@mutant
def a_parked_person_cannot_be_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    """An erasure waits behind a record that nobody can read."""
    right = PassFold.apply

    def apply(self: PassFold, work: Workspace, record: Record) -> Any:
        if work.get(PARKED, record.ref) is not None and isinstance(record.body, ErasureRequested):
            self._wait(work, record.ref, record.offset, is_tick=False)
            return [], []
        return right(self, work, record)

    monkeypatch.setattr(PassFold, "apply", apply)


@mutant
def time_passes_for_the_restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention removes what a restricted person claims."""
    right = Removal.retention

    def retention(self: Removal, work: Workspace, rules: Rules, *, at: Any) -> None:
        right(self, work, rules, at=at)
        for ref, _ in work.scan(FROZEN, b""):
            self.retention_of(work, SubjectRef(ref), rules, at=at, below=1 << 60)

    monkeypatch.setattr(Removal, "retention", retention)


@mutant
def a_lift_forgets_the_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fell due under restriction stays after the lift until the next month."""
    monkeypatch.setattr(PassFold, "_pass_tick", lambda *_: None)


@mutant
def waiting_records_meet_todays_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records behind a parked one are judged by the time and rules of its discard."""

    def again(self: PassFold, work: Workspace, demand: Any, record: Record) -> Any:
        self._pass_ticks(work, demand, before=record.offset)
        return self.apply(work, record)

    monkeypatch.setattr(PassFold, "again", again)


@mutant
def a_late_purge_reaches_later_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lift, a withdrawal purges what a new consent allowed meanwhile."""
    right = Removal.purge_purposes

    def purge(self: Removal, work: Workspace, ref: Any, purges: Any, **more: Any) -> bool:
        return right(self, work, ref, tuple((purpose, 1 << 60) for purpose, _ in purges), **more)

    monkeypatch.setattr(Removal, "purge_purposes", purge)


@mutant
def a_purge_forgets_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The erasure of a purpose leaves no trace in its tombstones."""
    right = Removal.purge_purposes

    def purge(self: Removal, *args: Any, **_more: Any) -> bool:
        return right(self, *args)

    monkeypatch.setattr(Removal, "purge_purposes", purge)


@mutant
def windows_close_at_local_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page view counts on the day of its own clock."""
    right = analytics.CourseViews.windows

    def windows(self: analytics.CourseViews, record: Record) -> tuple[str, ...]:
        found = right(self, record)
        return tuple(f"{name[:-10]}{record.occurred_at:%Y-%m-%d}" for name in found)

    monkeypatch.setattr(analytics.CourseViews, "windows", windows)
