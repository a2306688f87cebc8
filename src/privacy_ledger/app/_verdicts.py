"""What became of each line, in counts and codes: never an id, never a value."""

import hmac
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.app._ports import Ports
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import DLQ
from privacy_ledger.ports.atlas import AtlasFault
from privacy_ledger.ports.log import NewRecord

__all__ = ["LineReport", "Outcome", "Redactor", "Summary", "is_malformed"]

_MALFORMED: Final = frozenset(
    (
        Refusal.LINE_TOO_LONG,
        Refusal.NOT_UTF8,
        Refusal.NUL_BYTE,
        Refusal.TOO_DEEP,
        Refusal.NOT_JSON,
        Refusal.NOT_AN_OBJECT,
        Refusal.DUPLICATE_KEY,
        Refusal.NULL_VALUE,
        Refusal.SCHEMA_MISMATCH,
        Refusal.SIGNAL_INVALID,
    )
)
_DIGEST_BYTES: Final = 16


class Outcome(StrEnum):
    """What became of a line."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    UNATTRIBUTED = "unattributed"
    MALFORMED = "malformed"


class LineReport(Struct, frozen=True, kw_only=True, gc=False):
    """One line of the report: `subjects` is a count."""

    line: int
    outcome: Outcome
    reason: str | None
    event_type: str | None
    subjects: int


class Summary(Struct, kw_only=True):
    """What became of a run; accepted, duplicates, refused, unattributed and malformed add up to read.

    `reasons` counts lines by reason code, `records` the facts that were appended, `linked` those
    that a link moved out of the lane. `linked_to_erased`: references whose erasure was requested
    because a line joined them to an erased person; their erasure must be run. `offsets`: the last
    ledger offset of each partition that this run appended to. `location_fault`: why no places were
    derived from addresses.
    """

    read: int = 0
    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    unattributed: int = 0
    malformed: int = 0
    reasons: dict[str, int] = {}
    records: int = 0
    linked: int = 0
    linked_to_erased: tuple[bytes, ...] = ()
    offsets: dict[int, int] = {}
    location_fault: AtlasFault | None = None

    def count(self, outcome: Outcome, reason: Refusal | None) -> None:
        """Count one line."""
        self.read += 1
        match outcome:
            case Outcome.ACCEPTED:
                self.accepted += 1
            case Outcome.DUPLICATE:
                self.duplicates += 1
            case Outcome.REFUSED:
                self.refused += 1
            case Outcome.UNATTRIBUTED:
                self.unattributed += 1
            case Outcome.MALFORMED:
                self.malformed += 1
        if reason is not None:
            self.reasons[str(reason)] = self.reasons.get(str(reason), 0) + 1


def is_malformed(reason: Refusal) -> bool:
    """Return whether a reason says that the bytes are no event, not that an event is not taken."""
    return reason in _MALFORMED


class Redactor:
    """Dead letters of an ingest: where, why and how large, and a digest under a daily key."""

    def __init__(self, ports: Ports, *, source: str) -> None:
        """Take the ports."""
        self._secret = ports.vault.secret("refusals")
        self._ids = ports.ids
        self._clock = ports.clock
        self._partitions = ports.log.partitions(DLQ)
        self._source = source

    def letter(self, number: int, line: bytes, reason: Refusal) -> NewRecord:
        """Return the dead letter of one line; nothing of the line is in it."""
        day = self._clock.now().date().isoformat()
        key = hmac.digest(self._secret, day.encode(), "sha256")
        letter = {
            "source": self._source,
            "line": number,
            "reason": str(reason),
            "size": len(line),
            "digest": hmac.digest(key, line, "sha256")[:_DIGEST_BYTES].hex(),
        }
        return NewRecord(number % self._partitions, self._ids.token(), msgspec.json.encode(letter))
