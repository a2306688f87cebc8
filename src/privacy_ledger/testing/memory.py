"""A pass in memory: the real fold over a list of records, for property tests and the simulator."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar, cast

from privacy_ledger.domain.events import WindowSealed
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import REF_BYTES
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.joins import SLICE, Bound, next_slice
from privacy_ledger.streams.protocol import Emit, Processor, Reread
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.roster import ROSTER, Claim, Place, Seats, enrol, seats_of
from privacy_ledger.streams.states import (
    INDEX,
    PERMISSIONS,
    WORK,
    Table,
    Tombstone,
    Workspace,
)

__all__ = ["MemoryPass"]

T = TypeVar("T")
PARTITION: Final = 0


class MemoryPass:
    """One pass over one partition, with its committed state in a dictionary.

    `log` maps offset to record and may change between calls (compaction): a reread sees what
    is there at that moment.
    """

    def __init__(
        self,
        processors: Sequence[Processor[object]],
        log: Mapping[int, Record],
        *,
        initial: Rules,
        books: Mapping[str, Rules] | None = None,
        sampling_key: bytes = b"s" * 32,
        writes_tombstones: bool = True,
        public: frozenset[str] = frozenset(),
        after: "MemoryPass | None" = None,
    ) -> None:
        """Start at offset 0 with no state, or with the committed state that a run before left.

        `after`: that run, of this or another build. `public`: tables that have a view.
        """
        self._fold = PassFold(
            processors,
            rules=books or {},
            initial=initial,
            sampling_key=sampling_key,
            writes_tombstones=writes_tombstones,
        )
        self._processors = tuple(processors)
        self._log = log
        self._states: dict[tuple[str, bytes], object] = {} if after is None else after.committed()
        self.position: int = -1 if after is None else after.position
        self.emits: list[Emit] = [] if after is None else list(after.emits)
        self._public = public
        self._seats = Seats(processors=())
        self.enrol()

    # Loader -----------------------------------------------------------------------------

    def load(self, table: Table[T], key: bytes) -> T | None:
        """Return a committed value."""
        return cast("T | None", self._states.get((table.name, key)))

    def scan(self, table: Table[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Yield committed pairs in key order."""
        for name, key in sorted(self._states):
            if name == table.name and key.startswith(prefix):
                yield key, cast("T", self._states[name, key])

    def keys(self, table: Table[T], start: bytes) -> Iterator[bytes]:
        """Yield committed keys from `start` on, in order."""
        return (key for name, key in sorted(self._states) if name == table.name and key >= start)

    # Running ----------------------------------------------------------------------------

    def run(self, records: Iterable[Record]) -> None:
        """Fold records in order, one cycle each; a window waits for the joins before it."""
        for record in records:
            while isinstance(record.body, WindowSealed) and self._seats.cursors:
                self.bring_up()
            work = Workspace(self)
            self._apply(work, record)
            self.position = record.offset
            self._commit(work)

    def enrol(self, claims: Mapping[str, Claim] | None = None) -> None:
        """Bring the roster to the processors; `claims`: those that were taken over from another pass."""
        work = Workspace(self)
        enrol(
            work,
            self._processors,
            Place(runs_in="memory", partition=PARTITION, position=self.position, public=self._public),
            claims=claims or {},
            floors=dict.fromkeys((processor.name for processor in self._processors), 0),
        )
        self._commit(work, seat=True)

    @property
    def is_joining(self) -> bool:
        """Whether a slice is due."""
        return self._seats.is_moving

    def bring_up(self, bound: Bound = SLICE) -> None:
        """Run one slice of what is under way, in a cycle of its own."""
        work = Workspace(self)
        for demand in next_slice(work, self._seats, partition=PARTITION, bound=bound):
            self._serve(work, demand)
        self._commit(work)

    def adopt(self, table: Table[T], other: "MemoryPass") -> None:
        """Take the rows of a table as another pass left them, as a restore from its view does."""
        for key in [key for key in self._states if key[0] == table.name]:
            del self._states[key]
        self._states.update({key: row for key, row in other.committed().items() if key[0] == table.name})

    def put(self, table: Table[T], key: bytes, value: T) -> None:
        """Set a committed value, as another owner of the state did."""
        self._states[table.name, key] = value

    def _commit(self, work: Workspace, *, seat: bool = False) -> None:
        for changes in work.changes():
            seat = seat or changes.table is ROSTER
            for key, value in changes.values.items():
                if value is None:
                    self._states.pop((changes.table.name, key), None)
                else:
                    self._states[changes.table.name, key] = value
        opens_at = None if seat else self._seats.opens_at
        if seat or (opens_at is not None and opens_at <= self.position):
            self._seats = seats_of(Workspace(self), self._processors, position=self.position)
            self._fold.seat(self._seats)

    def _apply(self, work: Workspace, record: Record) -> None:
        self._follow(work, *self._fold.apply(work, record))

    def _follow(self, work: Workspace, demands: list[Reread], emits: list[Emit]) -> None:
        self.emits.extend(emits)
        for demand in demands:
            self._serve(work, demand)

    def _serve(self, work: Workspace, demand: Reread) -> None:
        for offset in demand.offsets:
            again = self._log.get(offset)
            if again is None:
                continue
            if demand.is_refold:
                self._fold.refold(work, again, only=demand.only)
            else:
                self._follow(work, *self._fold.again(work, demand, again))
        self._fold.finish(work, demand)

    # Looking ----------------------------------------------------------------------------

    def committed(self) -> dict[tuple[str, bytes], object]:
        """Return all committed state, by table and key."""
        return dict(self._states)

    def snapshot(self) -> dict[tuple[str, bytes], object]:
        """Return what two runs must agree on: permissions, index and every projection."""
        names = {PERMISSIONS.name, INDEX.name, *(p.table.name for p in self._processors)}
        return {key: value for key, value in self._states.items() if key[0] in names}

    def view(self, table: Table[T], ref: bytes) -> T | None:
        """Return one subject's state of a table."""
        return self.load(table, ref[:REF_BYTES])

    def tombstones(self) -> list[tuple[bytes, Tombstone]]:
        """Return the tombstones that were decided and not read back, in decision order."""
        found = [(value.key, value) for _, value in self.scan(WORK, b"")]
        return sorted(found, key=lambda pair: pair[1].sequence)
