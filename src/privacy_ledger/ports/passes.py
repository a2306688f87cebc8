"""The passes as commands see them: their views, and when these have passed an offset."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct

from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.streams.states import IndexRow, Meta, Table

__all__ = ["Latest", "PassPosition", "Passes", "Runner", "Views"]

T = TypeVar("T")


class PassPosition(Struct, frozen=True, kw_only=True):
    """How far a pass came in one partition: offset and key of the last applied record and Tick.

    `life`: a random name of the state, drawn when it began from nothing.
    `busy_since`: the oldest offset whose work is still in hand for some subject; None: for nobody.
    `slices`: how many slices of such work were served, which shows that it goes on.
    """

    offset: int = -1
    key: bytes = b""
    tick_offset: int = -1
    tick_key: bytes = b""
    life: bytes = b""
    busy_since: int | None = None
    slices: int = 0

    def has_passed(self, offset: int) -> bool:
        """Return whether the record at an offset was applied, and what it asked for is done."""
        return self.offset >= offset and (self.busy_since is None or self.busy_since > offset)


class Latest(Protocol):
    """The newest value of each key of compacted topics; several may ask at once."""

    async def get(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return the newest value of a key, or None."""
        ...

    async def newest(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return the newest value of a key that is written often; nothing else is kept."""
        ...

    async def scan(self, topic: str, partition: int, prefix: bytes) -> Sequence[tuple[bytes, bytes]]:
        """Return live (key, value) pairs under a prefix, in key order."""
        ...

    async def scan_each(
        self, topic: str, partition: int, prefixes: Sequence[bytes]
    ) -> list[Sequence[tuple[bytes, bytes]]]:
        """Return what `scan` returns for each prefix, with one look at the partition for all."""
        ...

    def forget(self) -> None:
        """Let go of what `get` and the scans keep for the next time: they read it again then."""
        ...


class Views(Protocol):
    """Committed projections, read by commands."""

    async def get(self, table: Table[T], ref: SubjectRef) -> T | None:
        """Return one subject's committed state of a published view, or None."""
        ...

    async def live(self, ref: SubjectRef) -> tuple[IndexRow, ...]:
        """Return where the subject's live records lie, oldest first."""
        ...

    async def live_each(
        self, partition: int, refs: Iterable[SubjectRef]
    ) -> dict[SubjectRef, tuple[IndexRow, ...]]:
        """Return what `live` returns for each subject of a partition, with one look for all."""
        ...

    async def meta(self, partition: int) -> Meta:
        """Return what the core pass knows of a partition: last tick, rules in force."""
        ...

    async def speaking(self, table: Table[T], partition: int) -> int:
        """Return the version of a view that answers in a partition now."""
        ...

    async def answering(self, ref: SubjectRef) -> tuple[str, ...]:
        """Return the versions of views, such as `progress.v2`, that hold readable state of a subject.

        All that are kept, also those that do not speak.
        """
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


class Runner(Passes, Protocol):
    """Passes that may be run here."""

    async def advance(self) -> bool:
        """Run the passes here and keep the right to, where nobody else has it; return whether it did.

        Those that readers wait for run to their end, versions that are built a bit at each call.
        """
        ...
