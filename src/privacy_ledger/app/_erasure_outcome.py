"""What an erasure would do, and how far it came."""

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from privacy_ledger.app.retention import KeptItem
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.streams.states import IndexRow

__all__ = ["ErasureOutcome", "ErasurePlan", "counted"]


class ErasurePlan(Struct, frozen=True, kw_only=True):
    """What an erasure would remove: live records by category, over all references.

    `retained`: what of these stays, why and until when.
    """

    references: int
    records: dict[str, int]
    retained: tuple[KeptItem, ...] = ()


class ErasureOutcome(Struct, frozen=True, kw_only=True):
    """How far the erasure of one reference came; `receipt` is its canonical JSON, for the person.

    One that was handed over is not kept here: `receipt` is None then, and the leaf tells it.
    """

    ref: SubjectRef
    request: str
    is_completed: bool
    is_handed_over: bool
    receipt: bytes | None
    leaf: str | None
    open_steps: tuple[str, ...]
    retained: tuple[KeptItem, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether all is erased that the law lets go: nobody needs to do anything."""
        return self.is_completed or bool(self.retained)


def counted(rows: Iterable[IndexRow]) -> dict[str, int]:
    """Return how many of these live records there are of each category, in order of its name."""
    return dict(sorted(Counter(str(row.category) for row in rows).items()))
