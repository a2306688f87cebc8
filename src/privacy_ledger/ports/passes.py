"""The passes as commands see them: their views, and when these have passed an offset."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from msgspec import Struct

from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.streams.states import IndexRow, Meta, Table

__all__ = ["PassPosition", "Passes", "Views"]

T = TypeVar("T")


class PassPosition(Struct, frozen=True, kw_only=True):
    """How far a pass came in one partition: offset and key of the last applied record and Tick.

    `busy_since`: the oldest offset whose work is still in hand for some subject; None: for nobody.
    `slices`: how many slices of such work were served, which shows that it goes on.
    """

    offset: int = -1
    key: bytes = b""
    tick_offset: int = -1
    tick_key: bytes = b""
    busy_since: int | None = None
    slices: int = 0

    def has_passed(self, offset: int) -> bool:
        """Return whether the record at an offset was applied, and what it asked for is done."""
        return self.offset >= offset and (self.busy_since is None or self.busy_since > offset)


class Views(Protocol):
    """Committed projections, read by commands."""

    async def get(self, table: Table[T], ref: SubjectRef) -> T | None:
        """Return one subject's committed state of a published view, or None."""
        ...

    async def live(self, ref: SubjectRef) -> tuple[IndexRow, ...]:
        """Return where the subject's live records lie, oldest first."""
        ...

    async def meta(self, partition: int) -> Meta:
        """Return what the core pass knows of a partition: last tick, rules in force."""
        ...

    async def position(self, pass_name: str, partition: int) -> PassPosition:
        """Return how far a pass has committed."""
        ...


class Passes(Protocol):
    """Whoever runs the passes: this process, or the holder of the home's lock, or workers."""

    async def settle(self, offsets: Mapping[int, int] | None = None, *, timeout_s: float = 30.0) -> None:
        """Return when every pass has passed these ledger offsets (None: the end as of now).

        Embedded and free: runs the passes here. Raises `NotCaughtUp` after `timeout_s` without
        progress; what was appended stays durable.
        """
        ...
