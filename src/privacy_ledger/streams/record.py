"""A ledger record as the steps see it."""

from datetime import datetime

from msgspec import Struct

from privacy_ledger.domain.events import ControlFact, ControlRecord, Fact
from privacy_ledger.domain.values import Category, RecordId, SubjectRef

__all__ = ["Body", "Broken", "Erased", "Heartbeat", "Record", "Removed", "Undecodable", "Withheld"]


class Erased(Struct, frozen=True):
    """The record's key was destroyed: it happened, and nobody can say what."""


class Withheld(Struct, frozen=True):
    """The record's key is not released to this pass, whose steps do not fold its category.

    It is decided on by its headers, as every pass decides, and folded into nothing.
    """


class Undecodable(Struct, frozen=True):
    """The record cannot be read and was not erased; `reason` is a code, never content."""

    reason: str


class Broken(Struct, frozen=True):
    """The record can be read, and a step failed on it: whoever can decide on it does not fold it."""


class Removed(Struct, frozen=True):
    """A tombstone; `is_ours` when its mac is right. It carries no meaning for a fold."""

    is_ours: bool


class Heartbeat(Struct, frozen=True):
    """A keyed record whose only work is to let an idle partition compact."""


Body = Fact | ControlFact | ControlRecord | Erased | Withheld | Undecodable | Broken | Removed | Heartbeat


class Record(Struct, frozen=True, kw_only=True, gc=False):
    """One record of `ledger.events.v1`; `ref` is sixteen zero bytes for control records.

    `field`: the keyed name of the profile field that it sets, empty for others. `instead`: the place
    of the record that it was restated from by a rectification; None: it is no restatement.
    """

    partition: int
    offset: int
    ref: SubjectRef
    record_id: RecordId
    type: str
    body: Body
    occurred_at: datetime
    received_at: datetime
    category: Category | None = None
    purposes: tuple[str, ...] = ()
    generation: int = 0
    tag: bytes = b""
    digest: bytes = b""
    field: bytes = b""
    instead: int | None = None

    @property
    def place(self) -> int:
        """Where it stands in its subject's history: a restated record stands where its original stood."""
        return self.offset if self.instead is None else self.instead
