"""Whether the ledger still gives out sealed records of the erased: looked at, never estimated.

On a cluster the broker compacts when it will, and what a reader is given no more it unlinks a minute
later; a home removes and overwrites by itself. Copies elsewhere are beyond any look.
"""

from collections import defaultdict
from collections.abc import Collection

from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import REF_BYTES, SubjectRef, partition_of
from privacy_ledger.ports.log import EventLog, Row, header

__all__ = ["FirstSeen", "without_bytes"]

_PAGE = 2000
_SEALED = b"\x01"

FirstSeen = dict[SubjectRef, int]
"""Where the first sealed record of a reference lay at the last look: the next one begins there."""


async def without_bytes(
    log: EventLog, refs: Collection[SubjectRef], *, first_seen: FirstSeen
) -> frozenset[SubjectRef]:
    """Return those of the references of which the ledger gives out no sealed record any more.

    As long as the record is there that was found at the last look, nothing else is read: over all
    looks a partition is read once.
    """
    by_partition: defaultdict[int, list[SubjectRef]] = defaultdict(list)
    for ref in refs:
        by_partition[partition_of(ref, log.partitions(LEDGER_EVENTS))].append(ref)
    gone: set[SubjectRef] = set()
    for partition, mine in by_partition.items():
        moved = await _moved(log, partition, mine, first_seen)
        gone |= await _not_found(log, partition, moved, first_seen)
    return frozenset(gone)


async def _moved(
    log: EventLog, partition: int, refs: Collection[SubjectRef], first_seen: FirstSeen
) -> set[SubjectRef]:
    """Return the references whose record of the last look is gone, or that were never looked for."""
    offsets = sorted({first_seen[ref] for ref in refs if ref in first_seen})
    there = {_of(row) for row in await log.read_at(LEDGER_EVENTS, partition, offsets)} if offsets else set()
    return {ref for ref in refs if ref not in there}


async def _not_found(
    log: EventLog, partition: int, refs: set[SubjectRef], first_seen: FirstSeen
) -> set[SubjectRef]:
    """Read on for a record of each, note where it lies, and return the references without one."""
    wanted = set(refs)
    after = min((first_seen.get(ref, -1) for ref in wanted), default=-1)
    while wanted and (rows := await log.read(LEDGER_EVENTS, partition, after=after, limit=_PAGE)):
        for row in rows:
            if (ref := _of(row)) in wanted:
                first_seen[ref] = row.offset
                wanted.discard(ref)
        after = rows[-1].offset
    for ref in wanted:
        first_seen.pop(ref, None)
    return wanted


def _of(row: Row) -> SubjectRef | None:
    """Return whose sealed record it is; None for a tombstone, and for what is never sealed."""
    is_sealed = (row.value or b"")[:1] == _SEALED and header(row.headers, "kid") is not None
    return SubjectRef(row.key[:REF_BYTES]) if is_sealed else None
