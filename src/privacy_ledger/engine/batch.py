"""What a cycle gives its shell, and what it is given: the writes of one transaction, and rule books."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from privacy_ledger.domain.rules import Rules
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import Changes, Shred

__all__ = ["Batch", "Books", "Work"]


class Books(Protocol):
    """The registry's rule books by digest."""

    @property
    def known(self) -> Mapping[str, Rules]:
        """The books loaded so far."""
        ...

    async def load(self, digest: str) -> None:
        """Load a registry document by its content hash; raises `LogUnavailable` when absent."""
        ...


class Work(Struct, frozen=True, kw_only=True):
    """What the shell does once a batch is committed, outside its transaction.

    `causes` counts the tombstones that were decided now, by cause. `foreign` are tombstones that
    nobody of ours wrote: they changed nothing, and are alarmed.
    """

    tombstones: tuple[NewRecord, ...]
    shreds: tuple[tuple[bytes, Shred], ...]
    causes: Mapping[str, int] = {}
    foreign: tuple[Record, ...] = ()


class Batch(Struct, frozen=True, kw_only=True):
    """The writes of one cycle: commit them together, then `settle`.

    `received_at` is that of the last records, where one has it; `fold_s` is what making it took.
    """

    writes: tuple[tuple[str, NewRecord], ...]
    store: tuple[tuple[bytes, bytes | None], ...]
    changes: tuple[Changes, ...]
    sealed: tuple[list[bytes | None], ...]
    work: Work
    position: PassPosition
    records: int
    parked: int
    reasons: tuple[str, ...]
    is_tick: bool
    received_at: datetime | None
    fold_s: float
