"""A pass in memory: the real fold over a list of records, for property tests and the simulator."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar, cast

from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import REF_BYTES
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.protocol import Emit, Processor, Reread
from privacy_ledger.streams.record import Record
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
            work = Workspace(self)
            self._apply(work, record)
            for changes in work.changes():
                for key, value in changes.values.items():
                    if value is None:
                        self._states.pop((changes.table.name, key), None)
                    else:
                        self._states[changes.table.name, key] = value

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
                self._fold.refold(work, again)
            else:
                self._follow(work, *self._fold.again(work, demand, again))
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
