"""What follows a committed cycle, outside its transaction: tombstones and shreds.

An open transaction must never hold the ledger's last stable offset, so tombstones leave by an
idempotent append. Both stay on the pass's list until they are seen done: a crash repeats them.
"""

from datetime import datetime
from typing import cast

from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.batch import Work
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.streams.states import Table

__all__ = ["carry_out"]


async def carry_out(
    work: Work,
    cycle: PartitionCycle,
    *,
    declaration: PassDeclaration,
    log: EventLog,
    vault: KeyVault,
    states: StateCodec,
    now: datetime,
) -> None:
    """Send tombstones in decision order, and destroy the keys on the list. Idempotent."""
    if work.tombstones:
        await log.append(declaration.source, work.tombstones)
    for key, shred in work.shreds:
        ref = SubjectRef(key[:16])
        if shred.group == "view":
            own = cast("tuple[Table[object], ...]", tuple(one.table for one in declaration.processors))
            for table in (*own, *cycle.roll.seats.departed):
                vault.shred(ref, now=now, group=states.group(table), below=shred.below)
        else:
            vault.shred(ref, now=now, group=shred.group, generation=shred.generation)
    if work.shreds:
        cycle.shredded(work)
