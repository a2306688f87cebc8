"""Every tombstone and every shred that was decided was carried out."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from privacy_ledger.domain.topics import LEDGER_EVENTS, state_topic
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.streams.states import SHREDS, WORK, Shred, Table, Tombstone
from privacy_ledger.testing.checkers.evidence import Evidence, Ledger, short
from privacy_ledger.testing.faults import Write

__all__ = ["duties"]

T = TypeVar("T")
_PAGE = 5000


async def duties(evidence: Evidence) -> list[str]:
    """Return the decided tombstones that are not in the ledger, and keys that should be destroyed.

    Which keys still exist is asked by destroying them: this is for a ledger that is looked at last.
    """
    found: list[str] = []
    ledger = evidence.ledger
    for declaration in ledger.declared.values():
        left = 0
        for partition in range(ledger.partitions):
            left += len(await evidence.pairs(declaration, WORK, partition=partition))
            left += len(await evidence.pairs(declaration, SHREDS, partition=partition))
        if left:
            found.append(f"{left} tombstones or shreds are still on the list of {declaration.name}")
    found += await _tombstones(evidence)
    for declaration in ledger.declared.values():
        for key, shred in dict.fromkeys(_decided(evidence.writes, declaration, SHREDS, Shred)):
            if _survives(ledger, declaration, SubjectRef(key[:16]), shred):
                found.append(f"keys {shred.group} of {short(key)} survive in {declaration.name}")
    return found


async def _tombstones(evidence: Evidence) -> list[str]:
    """Return the keys without a tombstone, of those decided and those that the oracle expects."""
    ledger = evidence.ledger
    buried: set[bytes] = set()
    for partition in range(ledger.partitions):
        after = -1
        while rows := await ledger.log.read(LEDGER_EVENTS, partition, after=after, limit=_PAGE):
            buried.update(row.key for row in rows if row.value is None)
            after = rows[-1].offset
    core = ledger.declared["core"]
    decided = {mark.key for _, mark in _decided(evidence.writes, core, WORK, Tombstone)}
    meant = {
        bytes(ref) + record_id: cause
        for said in (await evidence.expected()).values()
        for ref, subject in said.subjects.items()
        for record_id, (cause, _) in subject.removed.items()
    }
    found = [f"a decided tombstone of {short(key)} is not written" for key in sorted(decided - buried)]
    left = sorted(meant.keys() - buried - decided)
    found += [f"a record of {short(key)} is not removed, though {meant[key]}" for key in left]
    return found


def _decided(
    writes: Sequence[Write], declaration: PassDeclaration, table: Table[T], kind: type[T]
) -> Iterator[tuple[bytes, T]]:
    """Yield what a pass ever put on one of its lists; these hold no value of a person, in plain."""
    topic = state_topic(declaration.name)
    for write in writes:
        value = write.record.value
        if write.topic == topic and write.record.key[:1] == table.code and value is not None:
            yield write.record.key[1:], msgspec.msgpack.decode(value[1:], type=kind)


def _survives(ledger: Ledger, declaration: PassDeclaration, ref: SubjectRef, shred: Shred) -> bool:
    """Return whether there still was something to destroy."""
    now = ledger.clock.now()
    if shred.group != "view":
        return bool(ledger.vault.shred(ref, now=now, group=shred.group, generation=shred.generation).kids)
    states = ledger.state_codec(declaration)
    return any(
        ledger.vault.shred(ref, now=now, group=states.group(processor.table), below=shred.below).kids
        for processor in declaration.processors
    )
