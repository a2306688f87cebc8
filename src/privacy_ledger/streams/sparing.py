"""What stays of what a fact removes: held categories, and what a legal duty keeps.

A hold puts removals off: its rows stay as they are, serve nothing that was taken from them, and meet
the removals again when the hold ends. A duty lets a row go with its retention alone; until then the
row serves the duty. Both are decided when a removal begins, from control facts, rules and categories.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec import structs

from privacy_ledger.domain.events import HoldPlaced
from privacy_ledger.domain.holds import Postponed, duties_of, held_categories, still_held
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import ALWAYS, Rules
from privacy_ledger.domain.values import REF_BYTES, Category, SubjectRef
from privacy_ledger.streams.held import Busy, Cut, Held
from privacy_ledger.streams.removal import due_months, timer_category
from privacy_ledger.streams.states import PERMISSIONS, IndexRow, Moment, Table, Workspace

__all__ = [
    "HOLDS",
    "begun",
    "ended",
    "in_hand",
    "keeps",
    "note",
    "overdue",
    "released",
    "retired",
    "rung",
    "served",
    "waits",
]

HOLDS: Final = Table(b"h", "holds", datetime, "plain")
"""When holds with an end are over, by reference and the hold's request: a tick looks here.

By reference alone: since when there was a hold, before the person is erased.
"""
_UNKNOWN: Final = Permissions()


# Holds that come -----------------------------------------------------------------------------------


def note(work: Workspace, ref: SubjectRef, fact: HoldPlaced) -> None:
    """Note a hold when it arrives, also where it waits: its end, and that there ever was one."""
    if fact.until is not None:
        work.put(HOLDS, ref + bytes.fromhex(fact.request), fact.until)
    if not (work.get(PERMISSIONS, ref) or _UNKNOWN).is_ended:
        work.put(HOLDS, ref, fact.occurred_at)


def waits(work: Workspace, ref: SubjectRef) -> bool:
    """Return whether the erasure of a person who is held up waits its turn.

    It does where there ever was a hold: what that keeps depends on the order.
    """
    return work.get(HOLDS, ref) is not None


def ended(work: Workspace, ref: SubjectRef) -> None:
    """Forget what let the erasure of a person wait."""
    work.delete(HOLDS, ref)


def rung(work: Workspace, *, at: datetime) -> dict[SubjectRef, None]:
    """Return the subjects of whom a hold is over at the time of a tick; each is told once."""
    over = [key for key, until in work.scan(HOLDS, b"") if len(key) > REF_BYTES and until <= at]
    for key in over:
        work.remove(HOLDS, key)
    return dict.fromkeys(SubjectRef(key[:REF_BYTES]) for key in over)


# Removals that begin -------------------------------------------------------------------------------


def begun(
    work: Workspace, ref: SubjectRef, cuts: Sequence[Cut], *, rules: Rules, offset: int
) -> tuple[Cut, ...]:
    """Return cuts that leave what is held or kept by duty, and note those that a hold puts off.

    An operator's discard takes back a record that nobody can fold: a hold does not keep it.
    """
    permissions = work.get(PERMISSIONS, ref) or _UNKNOWN
    held, duties = held_categories(permissions.holds), duties_of(rules)
    if not held and not duties:
        return tuple(cuts)
    found = []
    for cut in cuts:
        if cut.due:
            due = tuple(one for one in cut.due if one[0] not in held)
            found.append(structs.replace(cut, due=due))
        else:
            kept = () if cut.named else held
            found.append(structs.replace(cut, held=kept, duties=duties))
    if held:
        postponed = [_postponed(cut) for cut in found if cut.held and cut.below <= offset]
        merged = (*permissions.postponed, *(one for one in postponed if one not in permissions.postponed))
        if len(merged) > len(permissions.postponed):
            work.put(PERMISSIONS, ref, structs.replace(permissions, postponed=merged))
    return tuple(found)


def retired(
    work: Workspace, ref: SubjectRef, timers: Iterable[bytes], *, offset: int, moment: Moment, rules: Rules
) -> tuple[tuple[Cut, ...], list[bytes]]:
    """Return the cuts of a tick for a subject, and the timers that it takes.

    What fell due goes, but in held categories; of a hold that is over, what it put off.
    """
    before = work.get(PERMISSIONS, ref) or _UNKNOWN
    at = moment.last_tick
    if at is None:
        return (), []
    cuts: tuple[Cut, ...] = ()
    holds = still_held(before.holds, at=at)
    if holds != before.holds:
        work.put(PERMISSIONS, ref, structs.replace(before, holds=holds))
        cuts = released(work, ref, before, offset=offset, moment=moment, rules=rules)
    held = held_categories(holds)
    taken = [timer for timer in timers if timer_category(timer) not in held]
    if taken:
        due = tuple(one for one in due_months(rules, at=at) if one[0] not in held)
        cuts = (*cuts, Cut(Refusal.RETENTION, offset, due=due))
    return cuts, taken


# Holds that end ------------------------------------------------------------------------------------


def released(
    work: Workspace,
    ref: SubjectRef,
    before: Permissions,
    *,
    offset: int,
    moment: Moment,
    rules: Rules,
) -> tuple[Cut, ...]:
    """Return what takes effect now that holds of `before` ended; the stored state has those that go on.

    Cuts that nothing puts off any more are forgotten. While the person is restricted, retention goes
    on waiting for the lift: what is due of these categories is noted.
    """
    after = work.get(PERMISSIONS, ref) or _UNKNOWN
    held, duties = held_categories(after.holds), duties_of(rules)
    cuts = [
        Cut(
            one.cause, one.below, one.request, purposes=one.purposes, category=one.category,
            everything=one.takes_everything, has_own_keys=one.has_own_keys, field=one.field,
            held=held, duties=duties,
        )
        for one in before.postponed
    ]  # fmt: skip
    changed = after if held else structs.replace(after, postponed=())
    free = set(held_categories(before.holds)) - set(held)
    at = moment.last_tick
    due = () if at is None else tuple(one for one in due_months(rules, at=at) if one[0] in free)
    if due and after.is_restricted:
        changed = structs.replace(changed, overdue=(*after.overdue, *((offset, *one) for one in due)))
    elif due:
        cuts.append(Cut(Refusal.RETENTION, offset, due=due))
    if changed != after:
        work.put(PERMISSIONS, ref, changed)
    return tuple(cuts)


def in_hand(held: Held | None) -> tuple[Cut, ...]:
    """Return the retention that was in hand for a person who is erased: it reaches what is kept, too."""
    sweep = held.sweep if isinstance(held, Busy) else None
    return () if sweep is None else tuple(cut for cut in sweep.cuts if cut.due)


def overdue(permissions: Permissions) -> list[Cut]:
    """Return the cuts of what fell due when a hold ended under restriction."""
    return [
        Cut(Refusal.RETENTION, offset, due=((category, first),))
        for offset, category, first in permissions.overdue
    ]


def served(work: Workspace, ref: SubjectRef, row: IndexRow) -> tuple[str, ...] | None:
    """Return what a live row serves in a refold: None where it is kept and used for nothing."""
    permissions = work.get(PERMISSIONS, ref) or _UNKNOWN
    if permissions.is_ended:
        return None
    if not permissions.postponed or row.category not in held_categories(permissions.holds):
        return row.purposes
    purposes = row.purposes
    for one in permissions.postponed:
        if one.takes(row.category, row.place, purposes, always=ALWAYS, field=row.field or b""):
            return None
        if one.purposes and row.place < one.below:
            purposes = tuple(p for p in purposes if p not in one.purposes or p == ALWAYS)
    return purposes


def keeps(permissions: Permissions, category: Category, rules: Rules) -> bool:
    """Return whether records of a category stay as they are: a correction does not supersede them."""
    return category in held_categories(permissions.holds) or rules.duty(category) is not None


def _postponed(cut: Cut) -> Postponed:
    return Postponed(
        cause=str(cut.cause), below=cut.below, request=cut.request, purposes=cut.purposes,
        category=cut.category, has_own_keys=cut.has_own_keys, field=cut.field,
    )  # fmt: skip
