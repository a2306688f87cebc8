"""How an oracle removes: what is held or a duty stays, and meets the removal when the hold ends."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime

from privacy_ledger.domain.events import HoldPlaced
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import ALWAYS, Rules
from privacy_ledger.domain.values import Category
from privacy_ledger.streams.record import Record
from privacy_ledger.testing._oracle_terms import Delayed, Due, Live, Purge, month

__all__ = ["Keeping", "is_past", "left_of"]


class Keeping(ABC):
    """What one subject has live, and what takes it."""

    def __init__(self, rules: Rules) -> None:
        """Start with nothing, under these rules."""
        self.forget(rules)

    def forget(self, rules: Rules) -> None:
        """Start again."""
        self.rules = rules
        self.tick: datetime | None = None
        self.is_ended = False
        self.is_restricted = False
        self.holds: dict[str, HoldPlaced] = {}
        self.delayed: list[Delayed] = []
        self.live: list[Live] = []
        self.removed: dict[bytes, tuple[str, str]] = {}
        self.until_lift: list[Due | Purge] = []

    @abstractmethod
    def fold_again(self) -> None:
        """Fold all again that is not held up, where something was removed or set free."""

    def due(self, rules: Rules, at: datetime) -> frozenset[bytes]:
        """Return the ids of the live records that are due at a time, under some rules."""
        return frozenset(live.record.record_id for live in self.live if is_past(live.record, rules, at))

    def drop_due(self, record_ids: frozenset[bytes]) -> None:
        """Remove what fell due, but what is held: it falls due when the hold ends."""
        kept = {live.record.record_id for live in self.live if self.is_kept(live)}
        self.drop(record_ids - kept, Refusal.RETENTION)

    def is_kept(self, live: Live) -> bool:
        """Return whether a hold keeps a record; with anything it keeps the evidence."""
        kept = {hold.category for hold in self.holds.values()} | {Category.EVIDENCE}
        return bool(self.holds) and live.record.category in kept

    def due_before(self, due: Due) -> frozenset[bytes]:
        """Return the ids of what a tick makes due that waited: what stands before it in the history."""
        return frozenset(
            live.record.record_id
            for live in self.live
            if live.record.place < due.offset
            and (due.categories is None or live.record.category in due.categories)
            and is_past(live.record, due.rules, due.at)
        )

    def release(self, names: set[str], offset: int) -> None:
        """End holds: what nothing keeps any more meets what was put off, and retention."""
        if not names:
            return
        before = [live for live in self.live if self.is_kept(live)]
        kept_before = {hold.category for hold in self.holds.values()} | {Category.EVIDENCE}
        self.holds = {name: hold for name, hold in self.holds.items() if name not in names}
        is_changed = False
        for delayed in self.delayed:
            is_changed = self.take(delayed, is_again=True) or is_changed
        self.delayed = self.delayed if self.holds else []
        free = [live for live in before if not self.is_kept(live)]
        for live in free:
            live.used = None if self.is_ended else live.purposes
        if self.tick is not None:
            ids = frozenset(live.record.record_id for live in free)
            due = self.due(self.rules, self.tick) & ids
            if self.is_restricted:
                freed = kept_before - {hold.category for hold in self.holds.values()}
                freed -= {Category.EVIDENCE} if self.holds else set()
                self.until_lift.append(Due(self.tick, self.rules, offset, frozenset(freed)))
            else:
                count = len(self.live)
                self.drop_due(due)
                is_changed = is_changed or (bool(before) and len(self.live) < count)
        if is_changed and not self.is_ended:
            self.fold_again()

    def take(self, removal: Delayed, *, is_again: bool = False) -> bool:
        """Remove records or purposes before an offset; what is held or a duty stays, used for less.

        Return whether that changed anything.
        """
        if self.holds and not is_again:
            self.delayed.append(removal)
        gone, is_changed = set(), False
        for live in self.live:
            left = left_of(live.record, live.purposes, removal)
            if left == live.purposes:
                continue
            if self.is_kept(live):
                used = None if live.used is None else left_of(live.record, live.used, removal)
                live.used = used or None
                is_changed = is_changed or not is_again
                continue
            category = live.record.category
            duty = None if category is None else self.rules.duty(category)
            if duty is not None:
                left = tuple(sorted({*left, duty}))
            if left == live.purposes:
                continue
            is_changed = True
            live.purposes = left
            live.used = left
            if not left:
                gone.add(live.record.record_id)
        self.drop(gone, removal.cause, removal.request)
        return is_changed

    def by_duty(self) -> set[bytes]:
        """Return the ids of the live records that the law keeps."""
        return {
            live.record.record_id
            for live in self.live
            if live.record.category is not None and self.rules.duty(live.record.category) is not None
        }

    def evidence(self) -> set[bytes]:
        """Return the ids of the live records that prove what was consented to."""
        return {live.record.record_id for live in self.live if live.record.category is Category.EVIDENCE}

    def purge(self, purposes: frozenset[str], offset: int, cause: Refusal, request: str = "") -> bool:
        """Take purposes away; return whether a record lost one."""
        return self.take(Delayed(offset=offset, cause=cause, request=request, purposes=purposes))

    def drop(self, record_ids: Iterable[bytes], cause: Refusal, request: str = "") -> bool:
        """Remove live records; return whether there was one."""
        before = len(self.live)
        gone = set(record_ids)
        for live in self.live:
            if live.record.record_id in gone:
                self.removed[live.record.record_id] = (cause, request)
        self.live = [live for live in self.live if live.record.record_id not in gone]
        return len(self.live) < before

    def stale_or_copy(self, record: Record, rules: Rules, tick: datetime | None) -> Refusal | None:
        """Return why a record is refused that is too old, or whose id is known."""
        if tick is not None and is_past(record, rules, tick):
            return Refusal.PAST_RETENTION
        for live in self.live:
            if live.record.tag == record.tag:
                return Refusal.DUPLICATE if live.record.digest == record.digest else Refusal.ID_REUSED
        return None


def is_past(record: Record, rules: Rules, at: datetime) -> bool:
    """Return whether a record is due at a time, under some rules."""
    if record.category is None:
        return True
    months = rules.retention_months(record.category)
    return months is not None and month(record.occurred_at) + months < month(at)


def left_of(record: Record, purposes: tuple[str, ...], removal: Delayed) -> tuple[str, ...]:
    """Return what a removal leaves of what a record serves, where nothing keeps it."""
    if record.place >= removal.offset:
        return purposes
    if removal.purposes is not None:
        return tuple(p for p in purposes if p not in removal.purposes or p == ALWAYS)
    if removal.field:
        return () if record.field == removal.field else purposes
    return purposes if removal.category not in {None, record.category} else ()
