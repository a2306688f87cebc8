"""The roll of a partition: whom the fold seats, who is brought up next, and what has to wait for it."""

from collections.abc import Mapping, Sequence
from typing import Final

from privacy_ledger.domain.events import WindowSealed, event_type
from privacy_ledger.domain.values import NOBODY
from privacy_ledger.engine.cache import StateCache
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.log import Row, header
from privacy_ledger.streams.analytics import CourseViews
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.roster import ROSTER, Claim, Place, Seats, enrol, seats_of
from privacy_ledger.streams.states import Changes, Workspace

__all__ = ["Roll"]

_SEAL: Final = event_type(WindowSealed).encode()


class Roll:
    """The roster of one pass and partition over its committed states."""

    def __init__(
        self,
        declaration: PassDeclaration,
        partition: int,
        *,
        cache: StateCache,
        states: StateCodec,
        fold: PassFold,
    ) -> None:
        """Take what the cycle folds with; `seat` before anything else."""
        self._declaration = declaration
        self._partition = partition
        self._cache = cache
        self._states = states
        self._fold = fold
        self.seats = Seats(processors=())

    def seat(self, position: int) -> None:
        """Seat those who fold at this position."""
        self.seats = seats_of(Workspace(self._cache), self._declaration.processors, position=position)
        self._fold.seat(self.seats)

    def follow(self, changes: Sequence[Changes], position: int) -> None:
        """Seat them anew where a committed batch changed the roster, or reached somebody's turn."""
        opens_at = self.seats.opens_at
        is_turn = opens_at is not None and position >= opens_at
        if is_turn or any(one.table.name == ROSTER.name for one in changes):
            self.seat(position)

    def known(self) -> frozenset[str]:
        """Return the names of the processors that the roster speaks of."""
        return frozenset(key.decode() for key, _ in self._cache.scan(ROSTER, b""))

    # What a cycle does for it ------------------------------------------------------------------

    def enrol(self, work: Workspace, position: int, *, claims: Mapping[str, Claim]) -> None:
        """Bring the roster to the declaration; see `roster.enrol` for what it refuses."""
        processors = self._declaration.processors
        place = Place(
            runs_in=self._declaration.name, partition=self._partition, position=position,
            public=self._declaration.publishes, elsewhere=self._declaration.elsewhere,
        )  # fmt: skip
        floors = {one.name: self._states.unused_generation(one.table) for one in processors}
        enrol(work, processors, place, claims=claims, floors=floors)

    # What has to wait --------------------------------------------------------------------------

    def stretch(self, rows: Sequence[Row]) -> int:
        """Return how many of these rows may be folded in one go: up to where somebody's turn begins."""
        opens_at = self.seats.opens_at
        while opens_at is not None and rows and rows[0].offset > opens_at:
            # Compaction took the record at which it begins; all that lies below is folded.
            self.seat(rows[0].offset - 1)
            opens_at = self.seats.opens_at
        return len(rows) if opens_at is None else sum(row.offset <= opens_at for row in rows)

    def is_awaited_by(self, rows: Sequence[Row]) -> bool:
        """Return whether a window is sealed in these rows whose processor is still brought up."""
        cursors, processors = self.seats.cursors, self.seats.processors
        if not any(one.name in cursors and isinstance(one.step, CourseViews) for one in processors):
            return False
        return any(row.key[:16] == NOBODY and header(row.headers, "ce_type") == _SEAL for row in rows)
