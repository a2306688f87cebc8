"""What may be done for one data subject now: consents, objections, restriction, minor, fence.

`apply_fact` and `apply_control` may not refuse: history has happened. Both are pure.
"""

from datetime import datetime
from typing import Final

from msgspec import Struct, structs

from privacy_ledger.domain.events import (
    ConsentGranted,
    ConsentWithdrawn,
    ControlFact,
    ErasureCompleted,
    ErasureFinal,
    ErasureIncomplete,
    ErasureRequested,
    ErasureRetained,
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
    RetainedCategory,
    SubjectRegistered,
    SubjectReopened,
)
from privacy_ledger.domain.holds import Hold, Postponed
from privacy_ledger.domain.rules import ALWAYS
from privacy_ledger.domain.values import Category

__all__ = [
    "PERMISSION_FACTS",
    "ErasureStatus",
    "Permissions",
    "apply_control",
    "apply_fact",
    "category_scope",
    "field_scope",
    "purpose_scope",
    "scope_of",
]

PERMISSION_FACTS: Final[tuple[type[Fact], ...]] = (ConsentGranted, ConsentWithdrawn, ObjectionRaised)
"""The facts of a person that change what may be done: every pass must be able to read them."""


class ErasureStatus(Struct, frozen=True, kw_only=True):
    """How far the erasure of the person came: requested, incomplete, retained, completed or final.

    `retained`: what the law keeps while the state is that.
    """

    request: str
    state: str
    requested_at: datetime
    receipt: str | None = None
    retained: tuple[RetainedCategory, ...] = ()


class Permissions(Struct, frozen=True, kw_only=True):
    """The permissions of one reference, folded in log order.

    `grants`: purpose → the instant from which events count. `restricted_since`: the offset of
    the first restriction in force. `purges`: purposes withdrawn under restriction, whose purge
    waits for the lift, with the offset below which it reaches. `requests`: ids of control facts
    that have had their effect. `cleared`: scope smaller than the person → the instant up to which
    what occurred in it was erased, and is not taken again. `holds`: those in force, oldest first;
    `postponed`: what they put off. `overdue`: what fell due when a hold ended under restriction, as
    offset, category and its first month that stays; it waits for the lift.
    """

    is_registered: bool = False
    not_before: datetime | None = None
    ended_at: int | None = None
    erasure: ErasureStatus | None = None
    grants: dict[str, datetime] = {}
    objections: tuple[str, ...] = ()
    restricted_since: int | None = None
    ground: str | None = None
    purges: tuple[tuple[str, int], ...] = ()
    is_minor: bool = False
    is_approved: bool = False
    requests: tuple[str, ...] = ()
    cleared: dict[str, datetime] = {}
    holds: tuple[Hold, ...] = ()
    postponed: tuple[Postponed, ...] = ()
    overdue: tuple[tuple[int, Category, int], ...] = ()

    @property
    def is_ended(self) -> bool:
        """Whether the person was erased: the reference is over for ever."""
        return self.ended_at is not None

    @property
    def is_restricted(self) -> bool:
        """Whether processing is restricted (GDPR Art. 18)."""
        return self.restricted_since is not None

    def is_cleared(self, scope: str, occurred_at: datetime) -> bool:
        """Return whether what occurred then in a scope was erased with it."""
        until = self.cleared.get(scope)
        return until is not None and occurred_at <= until

    def may_use(self, purpose: str, *, needs_consent: bool) -> bool:
        """Return whether a purpose may be acted on for this person right now."""
        if self.is_ended or self.is_restricted or purpose in self.objections:
            return False
        if not needs_consent:
            return True
        return purpose in self.grants and not (self.is_minor and not self.is_approved)


def apply_fact(state: Permissions, fact: Fact) -> Permissions:
    """Return the permissions after an accepted fact; most facts change none.

    A second grant in force keeps the earlier instant; a withdrawal removes it.
    """
    match fact:
        case ConsentGranted():
            known = state.grants.get(fact.purpose)
            if known is not None and known <= fact.occurred_at:
                return state
            grants = {**state.grants, fact.purpose: fact.occurred_at}
            return structs.replace(state, grants=dict(sorted(grants.items())))
        case ConsentWithdrawn():
            grants = {p: since for p, since in state.grants.items() if p != fact.purpose}
            return structs.replace(state, grants=grants)
        case ObjectionRaised():
            if fact.purpose in state.objections:
                return state
            return structs.replace(state, objections=tuple(sorted((*state.objections, fact.purpose))))
        case _:
            return state


def apply_control(state: Permissions, fact: ControlFact, *, offset: int) -> Permissions:
    """Return the permissions after a control fact; a repeated `request` id has no effect.

    The erasure of a person always has: it must not be lost to an id used twice. After it only holds
    have an effect, on what is kept.
    """
    if isinstance(fact, ErasureCompleted | ErasureIncomplete | ErasureRetained | ErasureFinal):
        return _erasure_progressed(state, fact)
    is_end = isinstance(fact, ErasureRequested) and fact.scope == "person"
    is_over = state.is_ended and not (
        isinstance(fact, HoldPlaced)
        or (isinstance(fact, HoldLifted) and any(hold.request == fact.hold for hold in state.holds))
    )
    if is_over or (fact.request in state.requests and not is_end):
        return state
    state = structs.replace(state, requests=tuple(sorted((*state.requests, fact.request))))
    match fact:
        case SubjectRegistered():
            return structs.replace(state, is_registered=True, not_before=fact.not_before)
        case RestrictionStarted():
            since = offset if state.restricted_since is None else state.restricted_since
            return structs.replace(state, restricted_since=since, ground=fact.ground)
        case RestrictionLifted():
            return structs.replace(state, restricted_since=None, ground=None, purges=(), overdue=())
        case ErasureRequested() if is_end:
            return _ended(state, fact, offset=offset)
        case ErasureRequested() | FieldErasureRequested():
            return _scope_erased(state, fact)
        case MinorStatusDeclared():
            return structs.replace(state, is_minor=fact.is_minor, is_approved=fact.is_approved)
        case HoldPlaced():
            return structs.replace(state, holds=(*state.holds, Hold.of(fact)))
        case HoldLifted():
            holds = tuple(hold for hold in state.holds if hold.request != fact.hold)
            return structs.replace(state, holds=holds)
        case RecordDiscarded() | RecordsSuperseded() | SubjectReopened():
            return state
        case _:
            return state


def _scope_erased(state: Permissions, fact: ErasureRequested | FieldErasureRequested) -> Permissions:
    """Return the permissions with the fence of a smaller scope; a later one in force stays."""
    scope, until = scope_of(fact), fact.occurred_at
    if scope is None or state.is_cleared(scope, until):
        return state
    return structs.replace(state, cleared=dict(sorted({**state.cleared, scope: until}.items())))


def _ended(state: Permissions, fact: ErasureRequested, *, offset: int) -> Permissions:
    """Return the fence of an ended person.

    Holds outlive the person, and with them the ids that had their effect: a retried one has none.
    Without a hold nothing of before matters: a pass that is late may not be able to read it any more.
    """
    return Permissions(
        is_registered=True,
        ended_at=offset,
        erasure=ErasureStatus(request=fact.request, state="requested", requested_at=fact.occurred_at),
        requests=state.requests if state.holds else (),
        holds=state.holds,
        postponed=state.postponed,
    )


def scope_of(fact: ErasureRequested | FieldErasureRequested) -> str | None:
    """Return the name of a scope smaller than the person, or None where nothing is named.

    Evidence stays as long as the account, and so does what answers the person's own rights.
    """
    match fact:
        case ErasureRequested(scope="category", category=Category() as category):
            return None if category is Category.EVIDENCE else category_scope(category)
        case ErasureRequested(scope="purpose", purpose=str() as purpose):
            return None if purpose == ALWAYS else purpose_scope(purpose)
        case FieldErasureRequested():
            return field_scope(bytes.fromhex(fact.field))
        case _:
            return None


def category_scope(category: Category) -> str:
    """Return the name of the scope of a category."""
    return f"category:{category}"


def purpose_scope(purpose: str) -> str:
    """Return the name of the scope of a purpose."""
    return f"purpose:{purpose}"


def field_scope(field: bytes) -> str:
    """Return the name of the scope of a profile field."""
    return f"field:{field.hex()}"


def _erasure_progressed(
    state: Permissions, fact: ErasureCompleted | ErasureIncomplete | ErasureRetained | ErasureFinal
) -> Permissions:
    """Return the state with the erasure's progress, when it is the one that ended the person.

    It only goes on: nothing that is said later takes back that it is completed, or final.
    """
    erasure = state.erasure
    if erasure is None or erasure.request != fact.request or erasure.state == "final":
        return state
    match fact:
        case ErasureFinal():
            changed = structs.replace(erasure, state="final")
        case ErasureCompleted():
            changed = structs.replace(erasure, state="completed", receipt=fact.receipt, retained=())
        case ErasureRetained() if erasure.state != "completed":
            changed = structs.replace(erasure, state="retained", receipt=fact.receipt, retained=fact.kept)
        case ErasureIncomplete() if erasure.state != "completed":
            changed = structs.replace(erasure, state="incomplete", retained=())
        case _:
            return state
    return structs.replace(state, erasure=changed)
