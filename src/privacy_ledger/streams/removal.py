"""Removal: what facts take out of a subject's states, and the tombstones that free the bytes.

A tombstone is work: decided here, sent by the shell in decision order, and done when it is read
back. A removal that touched a projection's input rotates the generation of the subject's view
keys, so that the old values die with the old key.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from msgspec import structs

from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import ALWAYS, Rules
from privacy_ledger.domain.values import REF_BYTES, Category, Grain, SubjectRef, month_of
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.roster import Seats
from privacy_ledger.streams.states import (
    FROZEN,
    GENERATIONS,
    INDEX,
    MEMBERS,
    META,
    PARKED,
    PERMISSIONS,
    SHREDS,
    TIMERS,
    WAITING,
    WORK,
    IndexRow,
    Meta,
    Parts,
    Shred,
    Tombstone,
    Workspace,
)

__all__ = [
    "Removal",
    "is_fine",
    "leave_windows",
    "part_key",
    "parts_of",
    "start_timer",
    "timer_key",
    "work_key",
]

T = TypeVar("T")
_CATEGORIES = tuple(Category)
_CODES = {category: bytes([code]) for code, category in enumerate(_CATEGORIES)}
_META_KEY = b""


def part_key(category: Category, month: int) -> str:
    """Return the name of a part: category and month of occurrence."""
    return f"{category}:{month}"


def parts_of(parts: dict[str, T]) -> Parts[T]:
    """Return parts in canonical order, so that equal states have equal bytes."""
    return Parts(dict(sorted(parts.items())))


def timer_key(category: Category, month: int, ref: SubjectRef) -> bytes:
    """Return the key under which a subject's month of a category waits for retention."""
    return _CODES[category] + month.to_bytes(4, "big") + ref


class Removal:
    """Removals over the tables of one pass."""

    def __init__(self, seats: Seats, *, writes_tombstones: bool) -> None:
        """Know the projections to clear, and whether this pass owns the tombstones."""
        self._processors = seats.processors
        self._floor = seats.floor
        self._has_departed = bool(seats.departed)
        self._writes_tombstones = writes_tombstones

    # One record -------------------------------------------------------------------------

    def refuse(self, work: Workspace, record: Record, *, cause: Refusal, rules: Rules) -> None:
        """Ask for a tombstone of a record that the order of the log refuses.

        Where the record has a key of its own, that key is shredded with it.
        """
        self._tombstone(work, record.ref, record.record_id, cause=cause, request="")
        category = record.category
        if category is not None and is_fine(rules, category):
            self._shred(work, record.ref, Shred(str(category), generation=record.generation))

    def bury(
        self,
        work: Workspace,
        ref: SubjectRef,
        record_id: bytes,
        *,
        cause: Refusal,
        request: str,
        row: tuple[bytes, IndexRow] | None,
    ) -> None:
        """Remove a live record's row, if it has one, and ask for its tombstone."""
        if row is not None:
            work.delete(INDEX, row[0])
        self._tombstone(work, ref, record_id, cause=cause, request=request)

    def one(self, work: Workspace, ref: SubjectRef, record_id: bytes) -> bool:
        """Remove one record by its id; return whether it was live. Evidence stays."""
        for key, row in work.scan(INDEX, ref):
            if row.record_id == record_id and row.category is not Category.EVIDENCE:
                self.bury(work, ref, record_id, cause=Refusal.DISCARDED, request="", row=(key, row))
                return True
        return False

    # Many records -----------------------------------------------------------------------

    def everything(self, work: Workspace, ref: SubjectRef, *, request: str) -> None:
        """Remove all of an erased person but the fence."""
        for key, row in _by_offset(work.scan(INDEX, ref)):
            self.bury(work, ref, row.record_id, cause=Refusal.ERASED, request=request, row=(key, row))
            work.delete(TIMERS, timer_key(row.category, row.month, ref))
        self.clear_projections(work, ref)
        for processor in self._processors:
            # A pass that is late meets states whose keys are gone by now: their rows go too.
            work.discard(processor.table, ref)
        work.delete(FROZEN, ref)
        for key, _ in work.scan(WAITING, ref):  # ticks that waited for a lift that never comes
            work.delete(WAITING, key)

    def category(
        self, work: Workspace, ref: SubjectRef, category: Category, *, request: str, rules: Rules
    ) -> bool:
        """Remove every live record of a category; return whether there was one."""
        rows = [pair for pair in work.scan(INDEX, ref) if pair[1].category is category]
        for key, row in _by_offset(rows):
            if is_fine(rules, category):
                self._shred(work, ref, Shred(str(category), generation=row.generation))
            self.bury(work, ref, row.record_id, cause=Refusal.ERASED, request=request, row=(key, row))
        return bool(rows)

    def purge_purposes(
        self,
        work: Workspace,
        ref: SubjectRef,
        purges: Sequence[tuple[str, int]],
        *,
        cause: Refusal = Refusal.WITHDRAWN,
        request: str = "",
    ) -> bool:
        """Take each purpose from the live records below its offset; remove those left with none.

        Answering the person's own rights is no purpose that can be taken away.
        """
        touched = False
        shreds: set[tuple[str, int]] = set()
        if not purges:
            return False
        for key, row in _by_offset(work.scan(INDEX, ref)):
            gone = {purpose for purpose, below in purges if row.offset < below} - {ALWAYS}
            if gone.isdisjoint(row.purposes):
                continue
            touched = True
            kept = tuple(p for p in row.purposes if p not in gone)
            if kept:
                work.put(INDEX, key, structs.replace(row, purposes=kept))
            else:
                self.bury(work, ref, row.record_id, cause=cause, request=request, row=(key, row))
                shreds.update((f"{row.category}+{p}", row.generation) for p in row.purposes)
        # A later grant may have begun again under the same generation: what lives keeps its key.
        kept_rows = [row for _, row in work.scan(INDEX, ref)] if shreds else []
        alive = {(f"{row.category}+{p}", row.generation) for row in kept_rows for p in row.purposes}
        for group, generation in sorted(shreds - alive):
            self._shred(work, ref, Shred(group, generation=generation))
        return touched

    # Retention --------------------------------------------------------------------------

    def retention(self, work: Workspace, rules: Rules, *, at: datetime) -> None:
        """Drop every part that is due at `at`; restricted and parked subjects are frozen."""
        for code, category in enumerate(_CATEGORIES):
            months = rules.retention_months(category)
            if months is None:
                continue
            due_before = month_of(at) - months
            for key, _ in work.scan(TIMERS, code.to_bytes(1, "big")):
                month = int.from_bytes(key[1:5], "big")
                if month >= due_before:
                    break
                ref = SubjectRef(key[5 : 5 + REF_BYTES])
                permissions = work.get(PERMISSIONS, ref)
                frozen = permissions is not None and permissions.is_restricted
                if frozen or work.get(PARKED, ref) is not None:
                    continue
                self._drop_month(work, ref, category, month)

    def retention_of(
        self, work: Workspace, ref: SubjectRef, rules: Rules, *, at: datetime, below: int
    ) -> None:
        """Drop what fell due for one subject at a tick at offset `below`, which passes only now.

        A month of a category is either due before the tick, and then later records of it were
        refused, or it is not: so whole months go.
        """
        due = {
            (row.category, row.month)
            for _, row in work.scan(INDEX, ref)
            if (months := rules.retention_months(row.category)) is not None
            and row.offset < below
            and row.month + months < month_of(at)
        }
        for category, month in sorted(due):
            rows = [
                (key, row)
                for key, row in _by_offset(work.scan(INDEX, ref))
                if row.category is category and row.month == month
            ]
            if all(row.offset < below for _, row in rows):
                self._drop_month(work, ref, category, month)
                continue
            for key, row in rows:  # the lift folds what stays again, and the timer stays for it
                if row.offset < below:
                    self.bury(work, ref, row.record_id, cause=Refusal.RETENTION, request="", row=(key, row))

    def _drop_month(self, work: Workspace, ref: SubjectRef, category: Category, month: int) -> None:
        """Remove the rows of one category and month, and their part of every projection."""
        work.delete(TIMERS, timer_key(category, month, ref))
        for key, row in _by_offset(work.scan(INDEX, ref)):
            if row.category is category and row.month == month:
                self.bury(work, ref, row.record_id, cause=Refusal.RETENTION, request="", row=(key, row))
        name = part_key(category, month)
        is_touched = self._has_departed  # nobody writes their view: the removal reaches it by the key
        for processor in self._processors:
            state = work.get(processor.table, ref)
            if state is None or name not in state.parts:
                continue
            is_touched = True
            leave_windows(work, ref, state.parts[name])
            kept = {key: part for key, part in state.parts.items() if key != name}
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

    def _tombstone(
        self,
        work: Workspace,
        ref: SubjectRef,
        record_id: bytes,
        *,
        cause: Refusal,
        request: str,
    ) -> None:
        """Put a tombstone on the list, in decision order, where this pass writes them."""
        if not self._writes_tombstones:
            return
        meta = work.get(META, _META_KEY) or Meta()
        work.put(META, _META_KEY, structs.replace(meta, sequence=meta.sequence + 1))
        work.put(
            WORK, work_key(ref + record_id),
            Tombstone(meta.sequence, cause, request, ref + record_id),
        )  # fmt: skip


def start_timer(work: Workspace, ref: SubjectRef, category: Category, month: int) -> None:
    """Note that this subject has records of this category and month; retention looks there."""
    key = timer_key(category, month, ref)
    if work.get(TIMERS, key) is None:
        work.put(TIMERS, key, value=True)


def leave_windows(work: Workspace, ref: SubjectRef, part: object) -> None:
    """Take the subject out of the windows of a part that goes."""
    for window in getattr(part, "windows", ()):
        work.delete(MEMBERS, window.encode() + ref)


def work_key(key: bytes) -> bytes:
    """Return the key under which the tombstone of a record waits."""
    return hashlib.sha256(key).digest()[:16]


def is_fine(rules: Rules, category: Category) -> bool:
    """Return whether records of a category have a key each."""
    rule = rules.category(category)
    return rule is not None and rule.grain is Grain.RECORD


def _by_offset(rows: Sequence[tuple[bytes, IndexRow]]) -> list[tuple[bytes, IndexRow]]:
    """Return rows oldest first, so that tombstones leave in log order."""
    return sorted(rows, key=lambda pair: pair[1].offset)
