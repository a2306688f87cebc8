# ruff: noqa: ANN401, SLF001 - a saboteur hands on what it need not understand, and reaches inside
"""Ledgers that break one law of erased scopes or of rectification each."""

from datetime import datetime
from typing import Any, Final

import pytest
from msgspec import structs

from privacy_ledger.domain import admission, permissions
from privacy_ledger.domain.admission import Candidate
from privacy_ledger.domain.events import ControlFact, ErasureRequested, FieldErasureRequested
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.streams import removal, scopes
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.held import Cut
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import INDEX, PERMISSIONS, IndexRow, Workspace
from tests.simulation.mutants import Mutant

__all__ = ["SCOPE_MUTANTS"]


def a_fence_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """An erased scope is empty, and takes everything in again."""
    right = permissions.apply_control

    def apply_control(state: Permissions, fact: ControlFact, *, offset: int) -> Permissions:
        after = right(state, fact, offset=offset)
        return structs.replace(after, cleared={}) if after.cleared else after

    monkeypatch.setattr("privacy_ledger.streams.fold.apply_control", apply_control)


def a_fence_stands_only_where_something_went(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild of a cleaned log finds nothing to remove, and forgets the fence."""
    right = PassFold._control_fact

    def control_fact(self: PassFold, work: Workspace, record: Record, fact: ControlFact) -> bool:
        before = work.get(PERMISSIONS, record.ref) or Permissions()
        is_begun = right(self, work, record, fact)
        after = work.get(PERMISSIONS, record.ref)
        if isinstance(fact, ErasureRequested | FieldErasureRequested) and after is not None:
            cut = scopes.erased(fact, self.rules(work), offset=record.offset)
            rows = [row for _, row in work.scan(INDEX, record.ref)]
            if cut is not None and all(removal._after(row, cut) is row for row in rows):
                work.put(PERMISSIONS, record.ref, structs.replace(after, cleared=before.cleared))
        return is_begun

    monkeypatch.setattr(PassFold, "_control_fact", control_fact)


def a_fence_counts_from_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What occurred before the erasure and came after it is taken in."""
    right = admission._is_cleared

    def is_cleared(state: Permissions, candidate: Candidate, rules: Rules) -> bool:
        return right(state, structs.replace(candidate, occurred_at=candidate.received_at), rules)

    monkeypatch.setattr(admission, "_is_cleared", is_cleared)


def a_fence_leaves_its_own_instant_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """What occurred in the very moment of the request comes back."""

    def is_cleared(self: Permissions, scope: str, occurred_at: datetime) -> bool:
        until = self.cleared.get(scope)
        return until is not None and occurred_at < until

    monkeypatch.setattr(Permissions, "is_cleared", is_cleared)


def an_earlier_instant_opens_a_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request that the log holds last says up to when a scope is erased."""

    def scope_erased(state: Permissions, fact: ErasureRequested | FieldErasureRequested) -> Permissions:
        scope = permissions.scope_of(fact)
        cleared = state.cleared if scope is None else {**state.cleared, scope: fact.occurred_at}
        return structs.replace(state, cleared=dict(sorted(cleared.items())))

    monkeypatch.setattr(permissions, "_scope_erased", scope_erased)


def an_erased_purpose_looks_like_a_missing_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell from a summary that a purpose was erased."""
    monkeypatch.setattr(admission, "_served_what_was_cleared", lambda *_: False)


def an_erased_field_takes_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody clears one line of a profile, and all of it goes."""
    right = removal._after

    def after(row: IndexRow, cut: Cut) -> IndexRow | None:
        return None if cut.field and row.field and row.place < cut.below else right(row, cut)

    monkeypatch.setattr(removal, "_after", after)


def a_rectification_removes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was wrong stays beside what is right."""
    right = removal._after
    monkeypatch.setattr(
        removal, "_after", lambda row, cut: row if cut.cause == Refusal.RECTIFIED else right(row, cut)
    )


def a_rectification_reaches_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consent is stated anew, as if it had been another one."""
    right = removal._after

    def after(row: IndexRow, cut: Cut) -> IndexRow | None:
        is_named = cut.cause == Refusal.RECTIFIED and row.record_id in cut.named
        return None if is_named else right(row, cut)

    monkeypatch.setattr(removal, "_after", after)


def what_is_stated_again_is_a_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag of a record that was superseded is never free again."""
    right = PassFold._data

    def data(self: PassFold, work: Workspace, record: Record) -> bool:
        if record.instead is None:
            return right(self, work, record)
        self._removal.refuse(work, record, cause=Refusal.DUPLICATE, rules=self.rules(work))
        return False

    monkeypatch.setattr(PassFold, "_data", data)


def a_view_takes_what_was_stated_again_for_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rectified old value wins over a newer one."""
    right = PassFold.project

    def project(self: PassFold, work: Workspace, record: Record, month: int, **more: Any) -> None:
        right(self, work, structs.replace(record, instead=None), month, **more)

    monkeypatch.setattr(PassFold, "project", project)


def a_restriction_holds_what_was_stated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restricted person's rectification hides what it should put right."""
    right = PassFold._data

    def data(self: PassFold, work: Workspace, record: Record) -> bool:
        state = work.get(PERMISSIONS, record.ref)
        if state is None or not state.is_restricted or record.instead is None:
            return right(self, work, record)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self, "project", lambda *_args, **_more: None)
            return right(self, work, record)

    monkeypatch.setattr(PassFold, "_data", data)


def a_late_cut_misses_what_was_stated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lift, a removal that waited passes over records that were rectified meanwhile."""
    right = removal._after
    monkeypatch.setattr(
        removal, "_after", lambda row, cut: row if row.offset >= cut.below else right(row, cut)
    )


SCOPE_MUTANTS: Final[dict[str, Mutant]] = {
    law.__name__: law
    for law in (
        a_fence_is_forgotten,
        a_fence_stands_only_where_something_went,
        a_fence_counts_from_receipt,
        a_fence_leaves_its_own_instant_open,
        an_earlier_instant_opens_a_fence,
        an_erased_purpose_looks_like_a_missing_consent,
        an_erased_field_takes_the_others_along,
        a_rectification_removes_nothing,
        a_rectification_reaches_evidence,
        what_is_stated_again_is_a_duplicate,
        a_view_takes_what_was_stated_again_for_new,
        a_restriction_holds_what_was_stated_again,
        a_late_cut_misses_what_was_stated_again,
    )
}
