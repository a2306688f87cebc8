"""The values that every other module speaks in."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, NewType

from msgspec import Meta

__all__ = [
    "EPOCH",
    "NOBODY",
    "REF_BYTES",
    "Category",
    "Grain",
    "LawfulBasis",
    "Provenance",
    "Purpose",
    "RecordId",
    "SubjectRef",
    "UtcTime",
    "month_of",
    "partition_of",
    "record_key",
    "split_key",
    "start_of",
]

SubjectRef = NewType("SubjectRef", bytes)
"""Random 16 bytes that stand for a data subject in every key, header and log line."""

RecordId = NewType("RecordId", bytes)
"""Random 16 bytes, minted at append; with the reference they are a record's key."""

Purpose = NewType("Purpose", str)
"""A purpose id of the registry, such as `course.deliver`."""

UtcTime = Annotated[datetime, Meta(tz=True)]
"""An instant; decoding refuses a naive time."""

REF_BYTES: Final = 16
NOBODY: Final = SubjectRef(bytes(REF_BYTES))
"""The reference of control records for all: sixteen zero bytes."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Category(StrEnum):
    """A category of personal data; each has keys of its own (`registry/categories.toml`)."""

    ACCOUNT = "account"
    PROFILE = "profile"
    BILLING = "billing"
    COURSEWORK = "coursework"
    PATTERNS = "patterns"
    USAGE = "usage"
    DEVICE = "device"
    LOCATION = "location"
    COMMUNICATION = "communication"
    EVIDENCE = "evidence"


class Grain(StrEnum):
    """How much one data key seals: one record, or the records of thirty days."""

    RECORD = "record"
    GENERATION = "generation"


class LawfulBasis(StrEnum):
    """GDPR Art. 6(1), by the letter that the W3C DPV uses (`eu-gdpr:A6-1-a` and so on)."""

    CONSENT = "A6-1-a"
    CONTRACT = "A6-1-b"
    LEGAL_OBLIGATION = "A6-1-c"
    LEGITIMATE_INTEREST = "A6-1-f"


class Provenance(StrEnum):
    """Where a value comes from (W3C DPV: Provided-, Observed-, Derived-, InferredPersonalData)."""

    PROVIDED = "provided"
    OBSERVED = "observed"
    DERIVED = "derived"
    INFERRED = "inferred"


def partition_of(ref: bytes, partitions: int) -> int:
    """Return the ledger partition of a subject: uint32 of the first four bytes, modulo."""
    return int.from_bytes(ref[:4], "big") % partitions


def record_key(ref: bytes, record_id: bytes) -> bytes:
    """Return the 32-byte key of a ledger record."""
    return ref + record_id


def split_key(key: bytes) -> tuple[SubjectRef, RecordId]:
    """Return reference and record id of a 32-byte ledger key; shorter keys give short parts."""
    return SubjectRef(key[:REF_BYTES]), RecordId(key[REF_BYTES:])


def month_of(instant: datetime) -> int:
    """Return the UTC month of an instant, counted from year 0 (retention works in months)."""
    utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    return utc.year * 12 + utc.month - 1


def start_of(month: int) -> datetime:
    """Return the first instant of a month as `month_of` counts it."""
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
