"""Removal: what facts take out of a subject's states, and the tombstones that free the bytes.

A tombstone is work: decided here, sent by the shell in decision order, and done when it is read
back. A removal that touched a projection's input rotates the generation of the subject's view
keys, so that the old values die with the old key.
"""

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Final, TypeVar

from msgspec import Struct, structs

from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import ALWAYS, Rules
from privacy_ledger.domain.values import REF_BYTES, Category, Grain, SubjectRef, month_of
from privacy_ledger.streams.held import Cut, Sweep
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.roster import Seats
from privacy_ledger.streams.states import (
    GENERATIONS,
    INDEX,
    MEMBERS,
    META,
    PERMISSIONS,
    SHREDS,
    TIMERS,
    WORK,
    IndexRow,
    Meta,
    Parts,
    Shred,
    Table,
    Tombstone,
    Workspace,
)

__all__ = [
    "Collected",
    "Removal",
    "due_months",
    "is_fine",
    "leave_windows",
    "part_key",
    "parts_of",
    "start_timer",
    "timer_category",
    "timer_key",
    "work_key",
]

T = TypeVar("T")
_CATEGORIES = tuple(Category)
_CODES = {category: bytes([code]) for code, category in enumerate(_CATEGORIES)}
_META_KEY = b""
SWEPT_PER_REREAD: Final = 8
"""So many rows of the index cost a slice what one record costs that is read again and folded."""


def part_key(category: Category, month: int) -> str:
    """Return the name of a part: category and month of occurrence."""
    return f"{category}:{month}"


def parts_of(parts: dict[str, T]) -> Parts[T]:
    """Return parts in canonical order, so that equal states have equal bytes."""
    return Parts(dict(sorted(parts.items())))


def timer_key(category: Category, month: int, ref: SubjectRef) -> bytes:
    """Return the key under which a subject's month of a category waits for retention."""
    return _CODES[category] + month.to_bytes(4, "big") + ref


def timer_category(timer: bytes) -> Category:
    """Return the category of a timer."""
    return _CATEGORIES[timer[0]]


class _Swept(Struct, frozen=True):
    """What one slice of a sweep has seen: up to which row, and what stays.

    `months` says of each month of a category whether a row of it stays; `alive` are the key groups
    that still seal one.
    """

    after: bytes
    offsets: "array[int]"
    alive: set[tuple[str, int]]
    months: dict[tuple[Category, int], bool]
    is_last: bool


class Collected:
    """What a sweep over one subject's index has found, slice by slice; a new process finds it again.

    A large subject costs eight bytes a record.
    """

    def __init__(self) -> None:
        """Start with nothing found."""
        self.slices: list[_Swept] = []

    @property
    def is_complete(self) -> bool:
        """Whether the sweep came to its end."""
        return bool(self.slices) and self.slices[-1].is_last

    def rewind(self, after: bytes) -> bytes:
        """Forget slices that were never committed; return from where the sweep goes on.

        `after` is how far the committed state came. What an earlier process found is not known
        here: the sweep begins again.
        """
        while self.slices and (not after or self.slices[-1].after != after):
            self.slices.pop()
        return self.slices[-1].after if self.slices else b""

    def beyond(self, offset: int, count: int) -> tuple[int, ...]:
        """Return the next `count` offsets above one, ascending."""
        tails = (
            one.offsets[at : at + count]
            for one in self.slices
            if (at := bisect_right(one.offsets, offset)) < len(one.offsets)
        )
        return tuple(islice(merge(*tails), count))


class Removal:
    """Removals over the tables of one pass."""

    def __init__(self, *, writes_tombstones: bool) -> None:
        """Know whether this pass owns the tombstones; `seat` before anything else."""
        self._writes_tombstones = writes_tombstones

    def seat(self, seats: Seats) -> None:
        """Know the projections to clear from now on."""
        self._processors = seats.processors
        self._floor = seats.floor
        self._has_departed = bool(seats.departed)

    # One record -------------------------------------------------------------------------

    def refuse(self, work: Workspace, record: Record, *, cause: Refusal, rules: Rules) -> None:
        """Ask for a tombstone of a record that the order of the log refuses.

        Where the record has a key of its own, that key is shredded with it.
        """
        self.bury(work, record.ref, record.record_id, cause=cause, request="")
        category = record.category
        if category is not None and is_fine(rules, category):
            self._shred(work, record.ref, Shred(str(category), generation=record.generation))

    def bury(self, work: Workspace, ref: SubjectRef, record_id: bytes, *, cause: str, request: str) -> None:
        """Put a record's tombstone on the list, in decision order, where this pass writes them."""
        if not self._writes_tombstones:
            return
        meta = work.get(META, _META_KEY) or Meta()
        work.put(META, _META_KEY, structs.replace(meta, sequence=meta.sequence + 1))
        work.put(
            WORK, work_key(ref + record_id),
            Tombstone(meta.sequence, cause, request, ref + record_id),
        )  # fmt: skip

    # Many records -----------------------------------------------------------------------

    def sweep(
        self, work: Workspace, ref: SubjectRef, sweep: Sweep, found: Collected, *, left: int
    ) -> tuple[Sweep, int]:
        """Let the cuts of a sweep pass over the next rows of a subject's index, in key order.

        Return the sweep as it stands and what is left of the budget: a row that changes costs
        one, and so do `SWEPT_PER_REREAD` rows that are only looked at. `found` is complete at the
        end. A sweep that begins again does no harm: what was cut is gone.
        """
        until = (work.get(PERMISSIONS, ref) or Permissions()).restricted_since
        after = found.rewind(sweep.after)
        alive: set[tuple[str, int]] = set()
        months: dict[tuple[Category, int], bool] = {}
        is_last = False
        is_grouped = any(cut.purposes or cut.has_shared_keys for cut in sweep.cuts)
        looks, changes = left * SWEPT_PER_REREAD, left
        offsets: list[int] = []
        groups = set(sweep.groups)
        for key, row in work.walk(INDEX, ref, start=after + b"\0" if after else b""):
            if not looks or not changes:
                break
            looks -= 1
            after = key[REF_BYTES:]
            kept: IndexRow | None = row
            if sweep.cuts:
                kept = self._cut(work, ref, key, row, sweep.cuts, groups)
                changes -= kept is not row or any(_puts_off(row, cut) for cut in sweep.cuts)
                month = (row.category, row.month)
                months[month] = months.get(month, False) or kept is not None
            if kept is None:
                continue
            if is_grouped:
                alive.update(_groups(kept))
            if sweep.then != "rest" and (until is None or row.place < until):
                offsets.append(row.offset)
        else:
            is_last = True
        found.slices.append(_Swept(after, array("q", sorted(offsets)), alive, months, is_last))
        if changes < left and sweep.then == "refold_if_cut":
            self.clear_projections(work, ref)
            sweep = structs.replace(sweep, then="refold")
        sweep = structs.replace(sweep, after=after, groups=tuple(sorted(groups)))
        if is_last:
            self._finish(work, ref, sweep, found)
        looked = -(-(left * SWEPT_PER_REREAD - looks) // SWEPT_PER_REREAD)
        return sweep, max(0, left - max(1, left - changes, looked))

    def _cut(
        self,
        work: Workspace,
        ref: SubjectRef,
        key: bytes,
        row: IndexRow,
        cuts: Sequence[Cut],
        groups: set[tuple[str, int]],
    ) -> IndexRow | None:
        """Apply the cuts to one row, in order; return the row as it stays, or None."""
        kept = row
        for cut in cuts:
            left = _after(kept, cut)
            if left is None:
                work.remove(INDEX, key)
                if cut.everything:
                    work.delete(TIMERS, timer_key(row.category, row.month, ref))
                self.bury(work, ref, row.record_id, cause=cut.cause, request=cut.request)
                if cut.has_own_keys:
                    self._shred(work, ref, Shred(str(row.category), generation=row.generation))
                elif cut.cause == Refusal.WITHDRAWN:
                    # Only these were asked to seal nothing more: others may seal what is on its way.
                    groups.update((f"{row.category}+{p}", row.generation) for p in kept.purposes)
                elif cut.has_shared_keys:
                    groups.update(_groups(kept))
                return None
            kept = left
        if kept is not row:
            work.put(INDEX, key, kept)
        return kept

    def _finish(self, work: Workspace, ref: SubjectRef, sweep: Sweep, found: Collected) -> None:
        """Destroy the groups that seal nothing any more, and forget the months that nothing is left of.

        A later grant may have begun again under the same generation: what lives keeps its key.
        """
        alive = set().union(*(one.alive for one in found.slices))
        for group, generation in sorted(set(sweep.groups) - alive):
            self._shred(work, ref, Shred(group, generation=generation))
        stays = {month for one in found.slices for month, does_stay in one.months.items() if does_stay}
        for category, month in {month for one in found.slices for month in one.months} - stays:
            work.delete(TIMERS, timer_key(category, month, ref))

    # Retention --------------------------------------------------------------------------

    def due(self, work: Workspace, rules: Rules, *, at: datetime) -> dict[SubjectRef, list[bytes]]:
        """Return the timers of months that are due at `at`, by subject, in order."""
        found: defaultdict[SubjectRef, list[bytes]] = defaultdict(list)
        for category, first in due_months(rules, at=at):
            for key, _ in work.walk(TIMERS, _CODES[category]):
                if int.from_bytes(key[1:5], "big") >= first:
                    break
                found[SubjectRef(key[5 : 5 + REF_BYTES])].append(key)
        return found

    def drop_parts(self, work: Workspace, ref: SubjectRef, due: Sequence[tuple[Category, int]]) -> None:
        """Drop the parts of every projection that are due: nothing is read again."""
        first = {str(category): month for category, month in due}
        # Nobody writes the view of one that departed: the removal reaches it by the key.
        is_touched = bool(due) and self._has_departed
        for processor in self._processors:
            state = work.get(processor.table, ref)
            kept: dict[str, object] = {}
            for name, part in {} if state is None else state.parts.items():
                category, _, month = name.rpartition(":")
                if int(month) < first.get(category, 0):
                    leave_windows(work, ref, part)
                    is_touched = True
                else:
                    kept[name] = part
            if state is None or len(kept) == len(state.parts):
                continue
            if kept:
                work.put(processor.table, ref, Parts(kept))
            else:
                work.delete(processor.table, ref)
        if is_touched:
            self._rotate(work, ref)

    # Projections ------------------------------------------------------------------------

    def clear_projections(self, work: Workspace, ref: SubjectRef) -> None:
        """Empty every projection of a subject and rotate its view keys."""
        for processor in self._processors:
            state = work.get(processor.table, ref)
            if state is None:
                _leave_unread_windows(work, processor.table, ref)
                continue
            for part in state.parts.values():
                leave_windows(work, ref, part)
            work.delete(processor.table, ref)
        self._rotate(work, ref)

    def _rotate(self, work: Workspace, ref: SubjectRef) -> None:
        """Move the subject's view keys to the next generation; the old one is shredded.

        One number serves all projections of the subject, so those that stay are sealed anew.
        """
        generation = max(work.get(GENERATIONS, ref) or 0, self._floor) + 1
        work.put(GENERATIONS, ref, generation)
        work.put(SHREDS, ref + b"view", Shred("view", below=generation))
        for processor in self._processors:
            state = work.get(processor.table, ref)
            if state is not None:
                work.put(processor.table, ref, state)

    def _shred(self, work: Workspace, ref: SubjectRef, shred: Shred) -> None:
        """Put keys on the list of those to destroy, where this pass owns the tombstones."""
        if self._writes_tombstones:
            name = shred.group if shred.generation is None else f"{shred.group}#{shred.generation}"
            work.put(SHREDS, ref + name.encode(), shred)


def start_timer(work: Workspace, ref: SubjectRef, category: Category, month: int) -> None:
    """Note that this subject has records of this category and month; retention looks there."""
    key = timer_key(category, month, ref)
    if work.get(TIMERS, key) is None:
        work.put(TIMERS, key, value=True)


def leave_windows(work: Workspace, ref: SubjectRef, part: object) -> None:
    """Take the subject out of the windows of a part that goes."""
    for window in getattr(part, "windows", ()):
        work.delete(MEMBERS, window.encode() + ref)


def _leave_unread_windows(work: Workspace, table: Table[T], ref: SubjectRef) -> None:
    """Take the subject out of every window where the row that names them is there and opens no more.

    The keys went first: a pass was late, or a log older than the erasure was restored.
    """
    if next(work.keys(table, ref), None) != ref:
        return
    start = b""
    while (key := next((key for key, _ in work.walk(MEMBERS, b"", start=start)), None)) is not None:
        window = key[:-REF_BYTES]
        work.delete(MEMBERS, window + ref)
        start = window + b"\xff" * (REF_BYTES + 1)


def work_key(key: bytes) -> bytes:
    """Return the key under which the tombstone of a record waits."""
    return hashlib.sha256(key).digest()[:16]


def is_fine(rules: Rules, category: Category) -> bool:
    """Return whether records of a category have a key each."""
    rule = rules.category(category)
    return rule is not None and rule.grain is Grain.RECORD


def due_months(rules: Rules, *, at: datetime) -> tuple[tuple[Category, int], ...]:
    """Return, for each category that retention reaches, the first month that stays at `at`."""
    return tuple(
        (category, month_of(at) - months)
        for category in _CATEGORIES
        if (months := rules.retention_months(category)) is not None
    )


def _groups(row: IndexRow) -> set[tuple[str, int]]:
    """Return every key group that may seal a row's record: that of its category, or of its one purpose."""
    names = [str(row.category)]
    if len(row.purposes) == 1:
        names.append(f"{row.category}+{row.purposes[0]}")
    return {(name, row.generation) for name in names}


def _is_one_of(record_ids: Sequence[bytes], record_id: bytes) -> bool:
    """Return whether an id is among these, which are sorted."""
    place = bisect_left(record_ids, record_id)
    return place < len(record_ids) and record_ids[place] == record_id


def _puts_off(row: IndexRow, cut: Cut) -> bool:
    """Return whether a hold keeps a row from a cut that it would not have passed unchanged."""
    return row.category in cut.held and _taken(row, cut) is not row


def _after(row: IndexRow, cut: Cut) -> IndexRow | None:
    """Return a row after one cut, or None when it goes; what is held or a duty stays."""
    if row.category in cut.held:
        return row
    left = _taken(row, cut)
    if left is row:
        return row
    for category, duty in cut.duties:
        if row.category is category:
            if cut.named or row.purposes == (duty,):
                return row
            rest = () if left is None else left.purposes
            return structs.replace(row, purposes=tuple(sorted({*rest, duty})))
    return left


def _taken(row: IndexRow, cut: Cut) -> IndexRow | None:
    """Return a row after one cut where nothing keeps it, or None when it goes.

    Answering the person's own rights is no purpose that can be taken away, and evidence is no
    record that an operator can discard.
    """
    if row.place >= cut.below:
        return row
    if cut.purposes:
        kept = tuple(p for p in row.purposes if p not in cut.purposes or p == ALWAYS)
        if len(kept) == len(row.purposes):
            return row
        return structs.replace(row, purposes=kept) if kept else None
    if named := cut.named:
        is_named = row.category is not Category.EVIDENCE and cut.category in {None, row.category}
        return None if is_named and _is_one_of(named, row.record_id) else row
    goes = (
        cut.everything
        or row.category is cut.category
        or (cut.field and row.field == cut.field)
        or any(row.category is category and row.month < first for category, first in cut.due)
    )
    return None if goes else row
