"""What follows a committed cycle, outside its transaction: tombstones and shreds.

An open transaction must never hold the ledger's last stable offset, so tombstones leave by an
idempotent append. Both stay on the pass's list until they are seen done: a crash repeats them.
"""

from datetime import datetime

from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.cycle import Batch, PartitionCycle, Work
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog

__all__ = ["alarm", "carry_out"]

log_line = get_logger()


def alarm(batch: Batch, *, declaration: PassDeclaration) -> None:
    """Say that somebody else wrote tombstones; they changed nothing. The pass that writes ours speaks."""
    for record in batch.foreign if declaration.writes_tombstones else ():
        log_line.warning(
            "foreign tombstone", topic=declaration.source, partition=record.partition,
            offset=record.offset, subject_ref=record.ref.hex(),
        )  # fmt: skip


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
            for processor in declaration.processors:
                vault.shred(ref, now=now, group=states.group(processor.table), below=shred.below)
        else:
            vault.shred(ref, now=now, group=shred.group, generation=shred.generation)
    if work.shreds:
        cycle.shredded(work)
