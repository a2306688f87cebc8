"""What an oracle answers, and what it asks of a single record."""

from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.events import ConsentWithdrawn, ObjectionRaised
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.streams.progress import CourseProgress
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.subject_view import SubjectPart

__all__ = ["Delayed", "Due", "Expected", "Live", "Purge", "Subject", "malformed", "month"]

FUTURE_MAX: Final = timedelta(minutes=5)


class Live(Struct):
    """A record that was accepted, what it may serve, and whether it waits for a lift.

    `used`: what projections may use of it; None: it is kept and used for nothing.
    """

    record: Record
    purposes: tuple[str, ...]
    is_held: bool
    used: tuple[str, ...] | None


class Due(Struct, frozen=True):
    """A tick that waits for the lift: under its own rules, for what stands before it.

    `categories`: only of these, which a hold kept until then.
    """

    at: datetime
    rules: Rules
    offset: int
    categories: frozenset[Category] | None = None


class Purge(Struct, frozen=True):
    """A purge that waits for the lift: these purposes, of the records before this offset."""

    purposes: frozenset[str]
    offset: int


class Delayed(Struct, frozen=True, kw_only=True):
    """A removal that a hold put off: of purposes, of a category or a field, or of the whole person."""

    offset: int
    cause: Refusal
    request: str = ""
    purposes: frozenset[str] | None = None
    category: Category | None = None
    field: bytes = b""


class Subject(Struct, frozen=True, kw_only=True):
    """What must be true of one subject at the end of a log.

    `live` maps the id of each accepted record to the purposes in force for it; `removed` maps the
    id of each record that must get a tombstone to its cause and the request that it names.
    """

    is_registered: bool
    is_ended: bool
    is_restricted: bool
    is_parked: bool
    is_minor_unapproved: bool
    grants: dict[str, datetime]
    objected: frozenset[str]
    held: dict[str, Category]
    live: dict[bytes, tuple[str, ...]]
    removed: dict[bytes, tuple[str, str]]
    subject_view: SubjectPart
    progress: dict[str, CourseProgress]


class Expected(Struct, frozen=True, kw_only=True):
    """What must be true at the end of a log of one partition.

    `windows` maps the release id of each sealed window to how many subjects touched each course
    of its keyset. A release in `is_capped` has a subject with more cells than the product allows:
    its counts are an upper bound.
    """

    subjects: dict[SubjectRef, Subject]
    windows: dict[str, dict[str, int]]
    is_capped: frozenset[str]


def malformed(record: Record, rules: Rules) -> Refusal | None:
    """Return why the record is refused whoever it is about; a consent ends whatever a clock says."""
    rule = rules.event(record.type)
    if rule is None or rule.category != record.category:
        return Refusal.UNKNOWN_EVENT
    is_no = isinstance(record.body, ConsentWithdrawn | ObjectionRaised)
    if record.occurred_at > record.received_at + FUTURE_MAX and not is_no:
        return Refusal.TIME_FUTURE
    if not all(rules.is_allowed(p) and _serves(p, rule.purposes) for p in record.purposes):
        return Refusal.UNKNOWN_PURPOSE
    return None


def month(instant: datetime) -> int:
    """Return the number of an instant's month in UTC."""
    utc = instant.astimezone(UTC)
    return 12 * utc.year + utc.month


def _serves(purpose: str, purposes: tuple[str, ...]) -> bool:
    """Return whether a rule names a purpose, or the family that it belongs to."""
    return purpose in purposes or any(
        name.endswith(".*") and purpose.startswith(name[:-1]) for name in purposes
    )
