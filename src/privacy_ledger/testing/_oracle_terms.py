"""What an oracle answers, what it keeps of a history, and what it asks of a single record."""

from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.events import ConsentWithdrawn, ObjectionRaised
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.streams.progress import CourseProgress
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.subject_view import SubjectPart

__all__ = ["Due", "Expected", "Live", "Purge", "Subject", "is_past", "malformed"]

FUTURE_MAX: Final = timedelta(minutes=5)


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


class Live(Struct):
    """A record that was accepted, what it may serve, and whether it waits for a lift."""

    record: Record
    purposes: tuple[str, ...]
    is_held: bool


class Due(Struct, frozen=True):
    """A tick that waits for the lift: what its own rules made due, of the records before this offset."""

    at: datetime
    rules: Rules
    offset: int


class Purge(Struct, frozen=True):
    """A purge that waits for the lift: these purposes, of the records before this offset."""

    purposes: frozenset[str]
    offset: int


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


def is_past(record: Record, at: datetime, rules: Rules) -> bool:
    """Return whether a record's period was over at a tick of that time."""
    if record.category is None:
        return True
    months = rules.retention_months(record.category)
    return months is not None and _month(record.occurred_at) + months < _month(at)


def _month(instant: datetime) -> int:
    """Return the number of an instant's month in UTC."""
    utc = instant.astimezone(UTC)
    return 12 * utc.year + utc.month


def _serves(purpose: str, purposes: tuple[str, ...]) -> bool:
    """Return whether a rule names a purpose, or the family that it belongs to."""
    return purpose in purposes or any(
        name.endswith(".*") and purpose.startswith(name[:-1]) for name in purposes
    )
