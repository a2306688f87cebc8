"""The ports of a replay beside live: it reads what it likes, and writes what is its own.

A version's pass is given these in place of the log and the keystore, `Silence` as its outlet and
a `Decoder` as its codec. None of them has a way to append to another topic, to write as another
pass, to make a tombstone or a partial, or to destroy a key that is not under its own names.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.batch import Work
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.ports.log import NewRecord, PassLog, Row

__all__ = ["MutedAftermath", "MutedLog", "OwnKeys"]


class MutedLog:
    """`PassLog` of one replay: every read, and transactions into its own changelogs only."""

    def __init__(self, log: PassLog, *, pass_name: str, own: frozenset[str]) -> None:
        """Take the log, the pass whose writers it may open, and the changelogs that it may write."""
        self._log = log
        self._pass = pass_name
        self._own = own

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of a declared topic."""
        return self._log.partitions(topic)

    async def read(self, topic: str, partition: int, *, after: int, limit: int = 1000) -> tuple[Row, ...]:
        """Return at most `limit` committed records with an offset above `after`, oldest first."""
        return await self._log.read(topic, partition, after=after, limit=limit)

    async def read_at(self, topic: str, partition: int, offsets: Sequence[int]) -> tuple[Row, ...]:
        """Return the records at these ascending offsets; those compacted away are left out."""
        return await self._log.read_at(topic, partition, offsets)

    async def end(self, topic: str, partition: int) -> int:
        """Return the offset that the next committed record will at least have."""
        return await self._log.end(topic, partition)

    async def first(self, topic: str, partition: int) -> int:
        """Return the lowest offset that is kept."""
        return await self._log.first(topic, partition)

    async def open_writer(self, writer: str) -> int:
        """Own a writer of this pass; to open another's would end that pass.

        Raises:
            InvariantViolation: the writer is another pass's; nothing was fenced.
        """
        self._check_writer(writer)
        return await self._log.open_writer(writer)

    async def append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> Mapping[tuple[str, int], int]:
        """Append to the pass's own changelogs in one transaction.

        Raises:
            InvariantViolation: a topic or the writer is not its own; nothing was appended.
        """
        self._check_writer(writer)
        foreign = sorted({topic for topic, _ in writes} - self._own)
        if foreign:
            raise InvariantViolation(
                f"The replay {self._pass} tried to write to {foreign[0]}. It writes its own topics only: "
                "cancel the build, and mend the step."
            )
        return await self._log.append_atomically(writes, writer=writer)

    def _check_writer(self, writer: str) -> None:
        if writer.rpartition(".")[0] != self._pass:
            raise InvariantViolation(
                f"The replay {self._pass} tried to write as {writer}. It writes as itself only."
            )


class OwnKeys(Protocol):
    """The keys of a replay's own view."""

    def shred_below(self, ref: SubjectRef, generation: int) -> None:
        """Destroy a subject's keys of this view below a generation; idempotent."""
        ...


class MutedAftermath:
    """The aftermath of a replay: old generations of its own view die, and nothing else happens."""

    def __init__(self, keys: OwnKeys) -> None:
        """Take the keys that are its own."""
        self._keys = keys

    async def carry_out(self, work: Work, cycle: PartitionCycle) -> None:
        """Destroy what a removal left behind under the view's old generations."""
        for key, shred in work.shreds:
            if shred.group == "view" and shred.below is not None:
                self._keys.shred_below(SubjectRef(key[:16]), shred.below)
        if work.shreds:
            cycle.shredded(work)
