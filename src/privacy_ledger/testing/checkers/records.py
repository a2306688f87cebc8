"""Every record of the ledger is live once, by its tag, or has its tombstone: none is lost or doubled."""

from collections import defaultdict

from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.log import Row, header
from privacy_ledger.streams.held import HELD, Parked
from privacy_ledger.streams.states import INDEX
from privacy_ledger.testing.checkers.evidence import Evidence, Ledger, short

__all__ = ["records"]

_PAGE = 5000
Place = tuple[SubjectRef, bytes]
"""A reference and a tag."""


async def records(evidence: Evidence) -> list[str]:
    """Return each tag that is live twice, and each record that lies in ledger or index alone."""
    ledger = evidence.ledger
    core = ledger.declared["core"]
    found: list[str] = []
    for partition in range(ledger.partitions):
        held: defaultdict[Place, set[bytes]] = defaultdict(set)
        for row in (await _live(ledger, partition)).values():
            tag = bytes.fromhex((header(row.headers, "tag") or b"").decode())
            held[SubjectRef(row.key[:16]), tag].add(row.key[16:])
        indexed = {
            (SubjectRef(key[:16]), key[16:]): row.record_id
            for key, row in await evidence.pairs(core, INDEX, partition=partition)
        }
        held_up = await evidence.pairs(core, HELD, partition=partition)
        parked = {key for key, state in held_up if isinstance(state, Parked)}
        for place, ids in held.items():
            ref, _ = place
            if ref in parked:
                continue
            if len(ids) > 1:
                found.append(f"{len(ids)} records of {short(ref)} live under one tag")
            if indexed.get(place) not in ids:
                found.append(f"a record of {short(ref)} without tombstone and row")
        found += [f"a row of {short(ref)} without record" for ref, tag in indexed.keys() - held.keys()]
    return found


async def _live(ledger: Ledger, partition: int) -> dict[bytes, Row]:
    """Return the sealed records of a partition that have no later tombstone, by key."""
    live: dict[bytes, Row] = {}
    after = -1
    while rows := await ledger.log.read(LEDGER_EVENTS, partition, after=after, limit=_PAGE):
        for row in rows:
            if row.value is None:
                live.pop(row.key, None)
            elif header(row.headers, "tag") is not None:
                live[row.key] = row
        after = rows[-1].offset
    return live
