"""What a step is, and what a fold of one record asks of its shell."""

from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import Parts, Table, Waiting

__all__ = ["Emit", "Processor", "Published", "Reread", "Step"]

P = TypeVar("P")


class Step(Protocol[P]):
    """A projection's pure step over one part of one subject's state.

    A part holds what the records of one category and month add up to; the state of a subject is
    its parts, so removal by category and by retention drops parts without reading again. A
    step is order-free between parts: values of which the last wins carry their offset.
    """

    @property
    def purpose(self) -> str | None:
        """The purpose under which the step acts; None: every live record (GDPR Art. 15)."""
        ...

    @property
    def types(self) -> frozenset[str]:
        """The event types that the step folds; others leave its state as it is."""
        ...

    def step(self, part: P | None, record: Record) -> P:
        """Return the part after one accepted record; a replay gives the same answer."""
        ...

    def windows(self, record: Record) -> tuple[str, ...] | None:
        """Return the analytics windows that the record contributes to; None: not windowed.

        A windowed step folds nothing for a record without a window.
        """
        ...


class Processor(Struct, Generic[P], frozen=True, kw_only=True):
    """A processor: the pass it runs in, the topic it reads, its table and its step.

    `moved_from`: the passes it ran in before, oldest first. Each move adds one, so that of two
    builds the one that knows more moves is the newer, and the older never takes it back.
    """

    name: str
    runs_in: str
    source: str
    table: Table[Parts[P]]
    step: Step[P]
    moved_from: tuple[str, ...] = ()


class Published(Struct, frozen=True, kw_only=True):
    """A table that every pass folds and that one pass publishes as a view."""

    name: str
    runs_in: str
    source: str
    table: Table[Permissions]


class Reread(Struct, frozen=True, kw_only=True):
    """A demand of the fold: read these records of one subject again, in order.

    `refold`: through the steps, from empty state (removals, lifts), or through that of the
    processor `only` (joins). Otherwise they waited behind a parked record and are applied in
    their own order, each at its own moment, with the ticks that passed in between (`moments`).
    """

    ref: SubjectRef
    partition: int
    offsets: tuple[int, ...]
    is_refold: bool
    moments: tuple[Waiting, ...] = ()
    only: str | None = None


class Emit(Struct, frozen=True, kw_only=True):
    """An output of a fold: sealed under the key of `window` by the shell, one per partition."""

    topic: str
    partition: int
    key: bytes
    release: str
    cells: dict[str, int]
    subjects: int
