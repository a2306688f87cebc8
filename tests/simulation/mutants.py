# ruff: noqa: ANN401, SLF001 - a saboteur hands on what it need not understand, and reaches inside
"""Ledgers with one law switched off each: the simulation must notice every one of them."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from typing import Any, Final

import pytest
from msgspec import structs

from privacy_ledger.domain import admission, holds, permissions
from privacy_ledger.domain.events import ConsentGranted, ErasureRequested
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, SubjectRef, month_of
from privacy_ledger.streams import analytics, backlog, fold, removal, scopes, sparing
from privacy_ledger.streams.backlog import Backlog
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.held import HELD, TICKS, Busy, Cut, busy_of
from privacy_ledger.streams.record import Record, Removed
from privacy_ledger.streams.removal import Collected, Removal
from privacy_ledger.streams.states import INDEX, PERMISSIONS, IndexRow, Workspace
from privacy_ledger.testing.memory import MemoryPass
from tests.simulation.logs import BOOKS, Simulation

__all__ = ["MUTANTS", "SLICED", "Mutant"]

Mutant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: Final[dict[str, Mutant]] = {}
SLICED: Final[set[str]] = set()
"""The mutants that only work in slices can notice."""


def mutant(law: Mutant) -> Mutant:
    """Take a broken ledger into the list."""
    MUTANTS[law.__name__] = law
    return law


def sliced(law: Mutant) -> Mutant:
    """Take a ledger that breaks when work is cut into slices into the list."""
    SLICED.add(law.__name__)
    return mutant(law)


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

    def cut(self: Removal, work: Workspace, ref: SubjectRef, *args: Any) -> IndexRow:
        _, row, cuts, _ = args
        for cut in cuts:
            if removal._after(row, cut) is None:
                self.bury(work, ref, row.record_id, cause=cut.cause, request=cut.request)
        return row  # type: ignore[no-any-return] # handed on

    def apply(self: PassFold, work: Workspace, record: Record) -> Any:
        if isinstance(record.body, Removed):
            for key, row in work.scan(INDEX, record.ref):
                if row.record_id == record.record_id:
                    work.delete(INDEX, key)
        return right(self, work, record)

    monkeypatch.setattr(Removal, "_cut", cut)
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
    right = removal._after
    monkeypatch.setattr(removal, "_after", lambda row, cut: row if cut.purposes else right(row, cut))


@mutant
def a_restriction_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of a restricted person are folded at once."""
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
    monkeypatch.setattr(Backlog, "_park", lambda *_args, **_more: None)


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
    monkeypatch.setattr(scopes, "ALWAYS", "")
    monkeypatch.setattr(removal, "ALWAYS", "")


@mutant
def evidence_is_erased_with_its_category(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof of a withdrawal goes, and a rebuild finds the consent."""
    right = PassFold._control_fact

    def control_fact(self: PassFold, work: Workspace, record: Record, fact: Any) -> bool:
        is_begun = right(self, work, record, fact)
        if getattr(fact, "category", None) is Category.EVIDENCE:
            cut = Cut(Refusal.ERASED, record.offset, fact.request, category=Category.EVIDENCE)
            return self._begin(work, record, cut)
        return is_begun

    monkeypatch.setattr(PassFold, "_control_fact", control_fact)


@mutant
def a_discard_reaches_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's discard takes a consent away."""
    right = removal._after
    monkeypatch.setattr(
        removal, "_after", lambda row, cut: None if row.record_id in cut.named else right(row, cut)
    )


@mutant
def a_used_request_discards_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discard with a request that had its effect frees the subject."""

    def claim(_self: Backlog, _work: Workspace, record: Record, discards: Any, _tag: bytes) -> Any:
        return next((one for one in discards if one.record_id == record.record_id), None)

    monkeypatch.setattr(Backlog, "_claim", claim)
    monkeypatch.setattr(Backlog, "_frees", lambda *args: args[4].record == args[3].record_id.hex())


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
        held = work.get(HELD, record.ref)
        if held is not None and isinstance(record.body, ErasureRequested):
            self._backlog.hold(work, record, held)
            return None
        return right(self, work, record)

    monkeypatch.setattr(PassFold, "apply", apply)


@mutant
def time_passes_for_the_restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention removes what a restricted person claims."""
    right = Backlog.note_tick
    monkeypatch.setattr(Backlog, "note_tick", lambda *args, rung: right(*args, rung=rung) and set())


@mutant
def a_lift_forgets_the_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fell due under restriction stays after the lift until the next month."""
    monkeypatch.setattr(Backlog, "take_ticks", lambda *_args, **_more: [])


@mutant
def waiting_records_meet_todays_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records behind a parked one are judged by the time and rules of its discard."""
    right = PassFold.decide

    def decide(self: PassFold, work: Workspace, record: Record, *, moment: Any) -> None:
        del moment
        right(self, work, record, moment=self.moment(work))

    monkeypatch.setattr(PassFold, "decide", decide)


@mutant
def a_late_purge_reaches_later_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lift, a withdrawal purges what a new consent allowed meanwhile."""
    right = removal._after

    def after(row: IndexRow, cut: Cut) -> IndexRow | None:
        return right(row, structs.replace(cut, below=1 << 60) if cut.purposes else cut)

    monkeypatch.setattr(removal, "_after", after)


@mutant
def a_purge_forgets_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The erasure of a purpose leaves no trace in its tombstones."""
    right = Removal.bury

    def bury(self: Removal, *args: Any, cause: str, request: str) -> None:
        del request
        right(self, *args, cause=cause, request="")

    monkeypatch.setattr(Removal, "bury", bury)


@mutant
def windows_close_at_local_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page view counts on the day of its own clock."""
    right = analytics.CourseViews.windows

    def windows(self: analytics.CourseViews, record: Record) -> tuple[str, ...]:
        found = right(self, record)
        return tuple(f"{name[:-10]}{record.occurred_at:%Y-%m-%d}" for name in found)

    monkeypatch.setattr(analytics.CourseViews, "windows", windows)


# Work in slices -------------------------------------------------------------------------------


# Holds and duties -------------------------------------------------------------------------------


@mutant
def a_hold_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held goes with the rest."""
    right = removal._after
    monkeypatch.setattr(removal, "_after", lambda row, cut: right(row, structs.replace(cut, held=())))


@mutant
def a_duty_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a law asks for goes with the rest."""
    right = removal._after
    monkeypatch.setattr(removal, "_after", lambda row, cut: right(row, structs.replace(cut, duties=())))


@mutant
def a_lift_forgets_what_was_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hold kept from an erasure stays for good."""
    monkeypatch.setattr(backlog, "released", lambda *_, **__: ())


@mutant
def what_is_held_is_used_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A withdrawal of what is held changes no view."""
    monkeypatch.setattr(backlog, "served", lambda _work, _ref, row: row.purposes)


@mutant
def a_hold_lets_the_consent_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evidence of what is held is erased: a rebuild does not find what allowed it."""
    right = holds.held_categories

    def held(those: tuple[holds.Hold, ...]) -> tuple[Category, ...]:
        mine = {hold.category for hold in those}
        return tuple(category for category in right(those) if category in mine)

    monkeypatch.setattr(sparing, "held_categories", held)


@mutant
def a_hold_outlives_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tick ends a hold."""
    monkeypatch.setattr(sparing, "rung", lambda _work, *, at: {})  # noqa: ARG005 - it looks at no time


@mutant
def retention_passes_a_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What falls due goes though it is held."""
    right = sparing.retired

    def retired(work: Workspace, ref: SubjectRef, timers: Any, *, offset: int, **more: Any) -> Any:
        cuts, _ = right(work, ref, timers, offset=offset, **more)
        moment, rules = more["moment"], more["rules"]
        due = removal.due_months(rules, at=moment.last_tick) if moment.last_tick else ()
        return (*cuts, Cut(Refusal.RETENTION, offset, due=due)), list(timers)

    monkeypatch.setattr(backlog, "retired", retired)


@mutant
def an_erased_person_has_no_books(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an erasure what a law asks for is refused, too."""
    right = admission.admit

    def admit(permissions: Permissions, *args: Any, **more: Any) -> Any:
        found = right(permissions, *args, **more)
        return Refusal.SUBJECT_ERASED if permissions.is_ended and isinstance(found, tuple) else found

    monkeypatch.setattr(fold, "admit", admit)


@sliced
def an_erasure_overtakes_a_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody asks for a hold, then for an erasure, and the erasure comes first."""
    monkeypatch.setattr(sparing, "waits", lambda *_: False)


@sliced
def newer_records_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subject with work in hand is decided on as if that work were done."""
    right = PassFold.apply

    def apply(self: PassFold, work: Workspace, record: Record) -> Any:
        if busy_of(work, record.ref) is not None and not isinstance(record.body, Removed):
            self._decide(work, record)
            return None
        return right(self, work, record)

    monkeypatch.setattr(PassFold, "apply", apply)


@sliced
def another_process_folds_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who goes on with a refold in hand folds again what was folded before."""
    right = Backlog._sweep

    def sweep(self: Backlog, work: Workspace, ref: SubjectRef, busy: Busy, *rest: Any) -> int:
        return right(self, work, ref, structs.replace(busy, folded=None), *rest)

    monkeypatch.setattr(Backlog, "_sweep", sweep)


@sliced
def a_lost_slice_counts_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sweep found in a cycle that was never committed is believed."""

    def rewind(self: Collected, after: bytes) -> bytes:
        return self.slices[-1].after if self.slices else after

    monkeypatch.setattr(Collected, "rewind", rewind)


@sliced
def another_process_believes_it_swept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash in the middle of a sweep only the rest is folded again."""

    def rewind(self: Collected, after: bytes) -> bytes:
        while self.slices and self.slices[-1].after != after:
            self.slices.pop()
        return after

    monkeypatch.setattr(Collected, "rewind", rewind)


@sliced
def a_refold_ends_with_its_first_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor of a refold runs ahead of what was folded."""
    right = Collected.beyond

    def beyond(self: Collected, offset: int, count: int) -> tuple[int, ...]:
        return right(self, offset, count) if offset < 0 else ()

    monkeypatch.setattr(Collected, "beyond", beyond)


@sliced
def an_erasure_leaves_the_refold_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """An erased person's records are folded again after the erasure."""
    right = Backlog.begin

    def begin(self: Backlog, work: Workspace, ref: SubjectRef, **more: Any) -> None:
        before = work.get(HELD, ref)
        right(self, work, ref, **more)
        now = work.get(HELD, ref)
        if isinstance(before, Busy) and isinstance(now, Busy) and before.folded is not None:
            work.put(HELD, ref, structs.replace(now, sweep=None, folded=before.folded))

    monkeypatch.setattr(Backlog, "begin", begin)


@sliced
def ticks_pass_busy_subjects_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that comes while a refold is in hand is never made up for."""
    right = Backlog.note_tick

    def note_tick(self: Backlog, work: Workspace, offset: int, *, rung: Any) -> Any:
        before = {key for key, _ in work.scan(TICKS, b"")}
        frozen = right(self, work, offset, rung=rung)
        for key, _ in work.scan(TICKS, b""):
            if key not in before and busy_of(work, key[:16]) is not None:
                work.remove(TICKS, key)
        return frozen

    monkeypatch.setattr(Backlog, "note_tick", note_tick)


@sliced
def a_seal_does_not_wait_for_work_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window is sealed while somebody's views are half folded."""
    right = PassFold._seal_after_all

    def seal(self: PassFold, *args: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self._backlog, "oldest", lambda _: [])
            yield from right(self, *args)

    monkeypatch.setattr(PassFold, "_seal_after_all", seal)


@mutant
def a_broken_record_is_not_decided_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record on which a step fails was never there for one pass, and was for the other."""
    right = Backlog.set_aside

    def set_aside(self: Backlog, work: Workspace, record: Record, body: Any, **more: Any) -> bool:
        if right(self, work, record, body, **more) and not more["is_live"]:
            self._removal.bury(work, record.ref, record.record_id, cause="discarded", request="")
            return False
        return bool(more["is_live"])

    monkeypatch.setattr(Backlog, "set_aside", set_aside)


@mutant
def a_subject_parked_in_a_refold_goes_on_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a redrive only what came later is folded."""
    right = Backlog.retake

    def retake(self: Backlog, work: Workspace, ref: SubjectRef) -> None:
        right(self, work, ref)
        busy = work.get(HELD, ref)
        if isinstance(busy, Busy):
            work.put(HELD, ref, structs.replace(busy, sweep=None))

    monkeypatch.setattr(Backlog, "retake", retake)
