"""When all that a data key ever sealed is past its retention, and what keeps the key all the same.

A key seals the records of one person and category for a bounded time, and no record says that it
occurred later than it was received, but for a tolerance. So its age alone tells when the last of them
is due (GDPR Art. 5(1)(e)). A record of the past, which an import brought, is due earlier than its key.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.admission import FUTURE_TOLERANCE, is_past_retention
from privacy_ledger.domain.holds import held_categories
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, month_of, start_of

__all__ = [
    "GENERATION_AGE",
    "Hindrance",
    "LiveRecord",
    "Moment",
    "Sealed",
    "aged_before",
    "hindrance",
    "is_wholly_due",
    "sealed_until",
]

GENERATION_AGE: Final = timedelta(days=30)
"""How long a key seals at most (`keys-and-erasure`: generations)."""


class Hindrance(StrEnum):
    """Why a key stays though all that it sealed is due, in the order in which reasons count."""

    LAGGING = "lagging"
    """A pass has not passed the tick at which it fell due, or not under these rules."""
    UNKNOWN = "unknown"
    """No view knows the person: nobody can say what is in force for them."""
    ENDED = "ended"
    """The person is erased: their erasure destroys what a law kept."""
    RESTRICTED = "restricted"
    """Retention is frozen while processing is restricted (GDPR Art. 18)."""
    HELD = "held"
    """A hold keeps the category, or what holds put off is not done yet (GDPR Art. 17(3))."""
    WAITING = "waiting"
    """Some pass holds the person up: parked, with work in hand, or a tick waits for them."""
    LIVE = "live"
    """A record that is due, or of this generation, is still live."""


class Sealed(Struct, frozen=True, kw_only=True):
    """A key, as far as it says what it may have sealed."""

    category: Category
    generation: int
    created_at: datetime


class Moment(Struct, frozen=True, kw_only=True):
    """How far one pass came in the person's partition: its last tick, and the rules in force there.

    None: it has seen no tick, or no rules; to it nothing is due.
    """

    last_tick: datetime | None = None
    rules: Rules | None = None

    def has_passed(self, category: Category, occurred_at: datetime) -> bool:
        """Return whether the pass refuses what occurred then as past its retention."""
        return (
            self.last_tick is not None
            and self.rules is not None
            and is_past_retention(category, occurred_at, self.rules, at=self.last_tick)
        )


class LiveRecord(Struct, frozen=True, kw_only=True):
    """A live record of the index: its category, month of occurrence, and the generation of its key."""

    category: Category
    month: int
    generation: int


def sealed_until(created_at: datetime) -> datetime:
    """Return the instant before which everything occurred that a key of this age ever seals."""
    return created_at + GENERATION_AGE + FUTURE_TOLERANCE


def is_wholly_due(category: Category, created_at: datetime, rules: Rules, *, at: datetime) -> bool:
    """Return whether all that a key ever sealed is past its retention at `at`.

    By the rule that refuses a late record. A category without a due date, or without a rule, never is.
    """
    return rules.category(category) is not None and is_past_retention(
        category, sealed_until(created_at), rules, at=at
    )


def aged_before(category: Category, rules: Rules, *, at: datetime) -> datetime | None:
    """Return the instant before which a key was created where `is_wholly_due`; None: no key is."""
    months = rules.retention_months(category)
    if rules.category(category) is None or months is None:
        return None
    return start_of(month_of(at) - months) - GENERATION_AGE - FUTURE_TOLERANCE


def hindrance(
    key: Sealed,
    permissions: Permissions | None,
    *,
    moments: Sequence[Moment],
    is_waiting: bool,
    live: Iterable[LiveRecord],
) -> Hindrance | None:
    """Return why a key must stay, or None when retention may destroy it.

    `moments`: those of every pass; `is_waiting`: some pass holds the person up; `live`: what is live
    of the person. Doubt means no. What is refused as past its retention stays refused, for ticks only
    grow: nothing becomes live again under a key that is free to go.
    """
    if not moments or not all(_is_passed(key, one) for one in moments):
        return Hindrance.LAGGING
    if permissions is None or not permissions.is_registered:
        return Hindrance.UNKNOWN
    if permissions.is_ended or permissions.erasure is not None:
        return Hindrance.ENDED
    if permissions.is_restricted:
        return Hindrance.RESTRICTED
    if key.category in held_categories(permissions.holds) or permissions.postponed or permissions.overdue:
        return Hindrance.HELD
    if is_waiting:
        return Hindrance.WAITING
    if any(_is_sealed_by(key, record, moments) for record in live):
        return Hindrance.LIVE
    return None


def _is_passed(key: Sealed, moment: Moment) -> bool:
    return (
        moment.last_tick is not None
        and moment.rules is not None
        and is_wholly_due(key.category, key.created_at, moment.rules, at=moment.last_tick)
    )


def _is_sealed_by(key: Sealed, record: LiveRecord, moments: Sequence[Moment]) -> bool:
    """Return whether a live record may be sealed under a key, whatever it serves by now."""
    if record.category is not key.category:
        return False
    occurred_at = start_of(record.month)
    return record.generation == key.generation or any(
        one.has_passed(key.category, occurred_at) for one in moments
    )
