"""Nobody whose erasure was completed can be read, found or come back."""

from privacy_ledger.domain.events import ErasureCompleted, ErasureRequested, FieldErasureRequested
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.ports.keys import DataKey, Withheld
from privacy_ledger.ports.log import header
from privacy_ledger.streams.sparing import HOLDS
from privacy_ledger.streams.states import GENERATIONS, PERMISSIONS
from privacy_ledger.testing.checkers.evidence import Evidence, Ledger, short

__all__ = ["erased"]

_PAGE = 5000
_KID = slice(1, 33)


async def erased(evidence: Evidence) -> list[str]:
    """Return what is left of each person of whom the ledger says that the erasure is complete.

    An erasure of less than the person ends nobody.
    """
    records = [record for some in evidence.witness.records.values() for record in some]
    less = {
        record.body.request
        for record in records
        if (isinstance(record.body, ErasureRequested) and record.body.scope != "person")
        or isinstance(record.body, FieldErasureRequested)
    }
    said = [
        record
        for record in records
        if isinstance(record.body, ErasureCompleted) and record.body.request not in less
    ]
    found = []
    for ref in dict.fromkeys(record.ref for record in said):
        left = [*await _in_ledger(evidence.ledger, ref), *await _in_states(evidence, ref)]
        if not evidence.ledger.vault.is_ended(ref):
            left.append("keys may be made")
        if not all(map(evidence.ledger.vault.is_ended, evidence.ledger.vault.lanes_of(ref))):
            left.append("a lane that is open")
        found += [f"{what} of {short(ref)}" for what in left]
    for ref in {record.ref for record in said}:
        requests = {getattr(r.body, "request", "") for r in said if r.ref == ref}
        times = sum(r.ref == ref for r in said)
        if times != len(requests):
            found.append(f"completion of {short(ref)} said {times} times")
    return found


async def _in_ledger(ledger: Ledger, ref: SubjectRef) -> list[str]:
    """Return what of a person the ledger itself still holds, read from its bytes."""
    partition = partition_of(ref, ledger.partitions)
    live: set[bytes] = set()
    kids: set[bytes] = set()
    after = -1
    while rows := await ledger.log.read(LEDGER_EVENTS, partition, after=after, limit=_PAGE):
        for row in rows:
            if row.key[:16] != ref:
                continue
            if row.value is None:
                live.discard(row.key)
            elif header(row.headers, "kid") is not None:
                live.add(row.key)
                kids.add(row.value[_KID])
        after = rows[-1].offset
    opened = ledger.vault.open_keys(tuple(kids))
    found = []
    if live:
        found.append(f"{len(live)} records without tombstone")
    if any(isinstance(key, DataKey | Withheld) for key in opened.values()):
        found.append("keys")
    return found


async def _in_states(evidence: Evidence, ref: SubjectRef) -> list[str]:
    """Return the tables in which a pass still names a person.

    The fence, the end of a hold that was on them, and a bare count may stay.
    """
    partition = partition_of(ref, evidence.ledger.partitions)
    return [
        f"{table.name} in {declaration.name}"
        for declaration in evidence.ledger.declared.values()
        for table in declaration.tables
        if table.name not in {PERMISSIONS.name, GENERATIONS.name, HOLDS.name}
        and any(bytes(ref) in key for key, _ in await evidence.pairs(declaration, table, partition=partition))
    ]
