"""A pass in memory: the real fold over a list of records, for property tests and the simulator."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import Final, TypeVar, cast

from msgspec import Struct, structs

from privacy_ledger.domain.events import WindowSealed
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import REF_BYTES, SubjectRef
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.held import HELD, Parked
from privacy_ledger.streams.joins import SLICE, Bound
from privacy_ledger.streams.protocol import Processor, Serving
from privacy_ledger.streams.record import Broken, Record
from privacy_ledger.streams.roster import ROSTER, Claim, Place, Seats, enrol, seats_of
from privacy_ledger.streams.states import (
    ENDLESS,
    INDEX,
    PERMISSIONS,
    WORK,
    Emit,
    Table,
    Tombstone,
    Workspace,
)

__all__ = ["MemoryPass", "Pace", "StepBroken"]

T = TypeVar("T")
PARTITION: Final = 0
SERVED_SHARE: Final = 0.6
LOST_SHARE: Final = 0.2


class StepBroken(Exception):
    """What a broken step of a simulation raises."""


class Pace(Struct, frozen=True, kw_only=True):
    """How much work a pass does at once: records read again within a cycle, and in each slice.

    With a `seed` slices are served now and then, some are lost in a crash before their commit,
    and now and then another process goes on with the committed states.
    """

    budget: int = ENDLESS
    slice: int = ENDLESS
    seed: int | None = None


class MemoryPass:
    """One pass over one partition, with its committed state in a dictionary.

    `log` maps offset to record and may change between calls (compaction): a reread sees what
    is there at that moment.
    """

    def __init__(  # noqa: PLR0913 - a run before, or a pace, where a test wants it
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
        pace: Pace | None = None,
    ) -> None:
        """Start at offset 0 with no state, or with the committed state that a run before left.

        `after`: that run, of this or another build. `public`: tables that have a view.
        """
        self._processors = tuple(processors)
        self._open: Callable[[], PassFold] = partial(
            PassFold, processors, rules=books or {}, initial=initial, sampling_key=sampling_key,
            writes_tombstones=writes_tombstones,
        )  # fmt: skip
        self._fold = self._open()
        self._log = log
        self._pace = pace or Pace()
        self._random = None if self._pace.seed is None else Random(self._pace.seed)
        self._hand = (0, -1)
        self._failed: set[tuple[int, int]] = set()
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

    def scan(self, table: Table[T], prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, T]]:
        """Yield committed pairs in key order."""
        for name, key in sorted(self._states):
            if name == table.name and key.startswith(prefix) and key >= prefix + start:
                yield key, cast("T", self._states[name, key])

    def keys(self, table: Table[T], start: bytes) -> Iterator[bytes]:
        """Yield committed keys from `start` on, in order."""
        return (key for name, key in sorted(self._states) if name == table.name and key >= start)

    # Running ----------------------------------------------------------------------------

    def run(self, records: Iterable[Record]) -> None:
        """Fold records in order, one cycle each, and a slice of the work in hand after each.

        A window waits for the joins before it.
        """
        for record in records:
            while isinstance(record.body, WindowSealed) and self._seats.cursors:
                self.bring_up()
            work = self._around_failures(partial(self._applied, record))
            self.position = record.offset
            self._commit(work)
            if self._random is None or self._random.random() < SERVED_SHARE:
                self._serve_slice()

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
        self._commit(self._around_failures(partial(self._brought_up, bound)))

    def adopt(self, table: Table[T], other: "MemoryPass") -> None:
        """Take the rows of a table as another pass left them, as a restore from its view does."""
        for key in [key for key in self._states if key[0] == table.name]:
            del self._states[key]
        self._states.update({key: row for key, row in other.committed().items() if key[0] == table.name})

    def put(self, table: Table[T], key: bytes, value: T) -> None:
        """Set a committed value, as another owner of the state did."""
        self._states[table.name, key] = value

    def drain(self) -> None:
        """Serve all work in hand."""
        while self._fold.backlog(Workspace(self)):
            self._serve_slice()

    def retake(self) -> None:
        """Take all parked subjects up again."""
        work = Workspace(self)
        for ref, held in work.scan(HELD, b""):
            if isinstance(held, Parked):
                self._fold.retake(work, SubjectRef(ref))
        self._commit(work)

    def _serve_slice(self) -> None:
        random = self._random
        work = self._around_failures(self._served)
        if random is not None and random.random() < LOST_SHARE:
            if random.random() < LOST_SHARE:
                self._fold = self._open()
                self._fold.seat(self._seats)
            return
        self._commit(work)

    def _commit(self, work: Workspace, *, seat: bool = False) -> None:
        self.emits += work.emits
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

    def _around_failures(self, fold: Callable[[], Workspace]) -> Workspace:
        """Return what `fold` does; what a step fails on is not folded, as in the engine's cycle."""
        self._failed.clear()
        while True:
            self._hand = (0, -1)
            try:
                return fold()
            except StepBroken:
                if self._hand in self._failed:
                    raise
                self._failed.add(self._hand)

    def _applied(self, record: Record) -> Workspace:
        work = Workspace(self, budget=self._pace.budget)
        serving = self._fold.apply(work, self._take(record))
        if serving is not None:
            self._drive(serving)
        if self._random is not None and self._random.random() < SERVED_SHARE:
            work.left = min(work.left, self._pace.slice)
            self._drive(self._fold.serve(work, self._fold.backlog(Workspace(self))))
        return work

    def _served(self) -> Workspace:
        work = Workspace(self, budget=self._pace.slice)
        self._drive(self._fold.serve(work, self._fold.backlog(work)))
        return work

    def _brought_up(self, bound: Bound) -> Workspace:
        work = Workspace(self)
        self._drive(self._fold.bring_up(work, position=self.position, bound=bound))
        return work

    def _drive(self, serving: Serving[None]) -> None:
        """Read again what work asks for, until it ends."""
        try:
            offsets = next(serving)
            while True:
                rows = [self._log[offset] for offset in offsets if offset in self._log]
                offsets = serving.send(map(self._take, rows))
        except StopIteration:
            return

    def _take(self, record: Record) -> Record:
        """Take the next record in hand; where a step failed on it before, it is not folded."""
        self._hand = (self._hand[0] + 1, record.offset)
        return structs.replace(record, body=Broken()) if self._hand in self._failed else record

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
