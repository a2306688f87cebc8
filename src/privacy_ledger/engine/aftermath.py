"""What follows a committed cycle, outside its transaction: tombstones and shreds.

An open transaction must never hold the ledger's last stable offset, so tombstones leave by an
idempotent append. Both stay on the pass's list until they are seen done: a crash repeats them.
"""

from typing import Protocol, cast

from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.batch import Work
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.runtime import Clock
from privacy_ledger.streams.states import Table

__all__ = ["Aftermath", "LiveAftermath"]

log_line = get_logger()


class Aftermath(Protocol):
    """Does what a committed cycle has decided."""

    async def carry_out(self, work: Work, cycle: PartitionCycle) -> None:
        """Carry the work out, and tell the cycle what is done; idempotent."""
        ...


class LiveAftermath:
    """The aftermath of a declared pass: tombstones into its source, and keys of any group."""

    def __init__(
        self,
        declaration: PassDeclaration,
        *,
        log: EventLog,
        vault: KeyVault,
        states: StateCodec,
        clock: Clock,
    ) -> None:
        """Take what it needs."""
        self._declaration = declaration
        self._log = log
        self._vault = vault
        self._states = states
        self._clock = clock

    async def carry_out(self, work: Work, cycle: PartitionCycle) -> None:
        """Send tombstones in decision order, destroy the keys on the list, and alarm foreign tombstones."""
        now = self._clock.now()
        if work.tombstones:
            await self._log.append(self._declaration.source, work.tombstones)
        for key, shred in work.shreds:
            ref = SubjectRef(key[:16])
            if shred.group == "view":
                own = cast("tuple[Table[object], ...]", tuple(p.table for p in self._declaration.processors))
                for table in (*own, *cycle.roll.seats.departed):
                    self._vault.shred(ref, now=now, group=self._states.group(table), below=shred.below)
            else:
                self._vault.shred(ref, now=now, group=shred.group, generation=shred.generation)
        if work.shreds:
            cycle.shredded(work)
        for record in work.foreign if self._declaration.writes_tombstones else ():
            log_line.warning(
                "foreign tombstone", topic=self._declaration.source, partition=record.partition,
                offset=record.offset, subject_ref=record.ref.hex(),
            )  # fmt: skip
