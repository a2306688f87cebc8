"""A pass in memory: the real fold over a list of records, for property tests and the simulator."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar, cast

from msgspec import structs

from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import REF_BYTES
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.protocol import Emit, Processor, Reread
from privacy_ledger.streams.record import Record, Undecodable
from privacy_ledger.streams.states import (
    INDEX,
    PERMISSIONS,
    WORK,
    Table,
    Tombstone,
    Workspace,
)

__all__ = ["MemoryPass", "StepBroken"]

T = TypeVar("T")


class StepBroken(Exception):
    """What a broken step of a simulation raises."""


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
    ) -> None:
        """Start at offset 0 with no state."""
        self._fold = PassFold(
            processors,
            rules=books or {},
            initial=initial,
            sampling_key=sampling_key,
            writes_tombstones=writes_tombstones,
        )
        self._processors = tuple(processors)
        self._log = log
        self._states: dict[tuple[str, bytes], object] = {}
        self._hand = (0, -1)
        self._failed: set[tuple[int, int]] = set()
        self.emits: list[Emit] = []

    # Loader -----------------------------------------------------------------------------

    def load(self, table: Table[T], key: bytes) -> T | None:
        """Return a committed value."""
        return cast("T | None", self._states.get((table.name, key)))

    def scan(self, table: Table[T], prefix: bytes) -> Iterator[tuple[bytes, T]]:
        """Yield committed pairs in key order."""
        for name, key in sorted(self._states):
            if name == table.name and key.startswith(prefix):
                yield key, cast("T", self._states[name, key])

    # Running ----------------------------------------------------------------------------

    def run(self, records: Iterable[Record]) -> None:
        """Fold records in order, one cycle each."""
        for record in records:
            work, emits = self._around_failures(record)
            self.emits += emits
            for changes in work.changes():
                for key, value in changes.values.items():
                    if value is None:
                        self._states.pop((changes.table.name, key), None)
                    else:
                        self._states[changes.table.name, key] = value

    def _around_failures(self, record: Record) -> tuple[Workspace, list[Emit]]:
        """Fold one record; what a step fails on counts as unreadable, as in the engine's cycle."""
        self._failed.clear()
        while True:
            work, emits = Workspace(self), list[Emit]()
            self._hand = (0, -1)
            self._fold.start()
            try:
                self._follow(work, emits, *self._fold.apply(work, self._take(record)))
            except StepBroken:
                if self._hand in self._failed:
                    raise
                self._failed.add(self._hand)
            else:
                return work, emits

    def _take(self, record: Record) -> Record:
        """Take the next record in hand; where a step failed on it before, it is unreadable."""
        self._hand = (self._hand[0] + 1, record.offset)
        return structs.replace(record, body=Undecodable("step")) if self._hand in self._failed else record

    def _follow(self, work: Workspace, emits: list[Emit], demands: list[Reread], out: list[Emit]) -> None:
        emits.extend(out)
        for demand in demands:
            self._serve(work, demand, emits)

    def _serve(self, work: Workspace, demand: Reread, emits: list[Emit]) -> None:
        for offset in demand.offsets:
            again = self._log.get(offset)
            if again is None:
                continue
            if demand.is_refold:
                self._fold.refold(work, self._take(again))
            else:
                self._follow(work, emits, *self._fold.again(work, demand, self._take(again)))
        self._fold.finish(work, demand)

    # Looking ----------------------------------------------------------------------------

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
