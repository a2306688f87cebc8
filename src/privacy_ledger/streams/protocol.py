"""What a step is, and what a fold of one record asks of its shell."""

from collections.abc import Generator, Iterable
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import Emit, Parts, Table

__all__ = ["Emit", "Processor", "Published", "Serving", "Step"]

P = TypeVar("P")
T = TypeVar("T")


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


Serving = Generator[tuple[int, ...], Iterable[Record], T]
"""Work of a fold that reads the log again: it yields ascending offsets of its partition, and is sent
the records there are, in order. The shell runs it to its end before it applies the next record."""
