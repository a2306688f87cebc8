"""Building the state of one pass and partition again from the ledger, when its topics lost it.

The fold runs quietly, into the local store only: no view goes back in time, nothing is emitted a
second time. Then what came out replaces what the topics hold, row by row, and at the end the
position. Until then the chronicle says that the state is not whole: a crash begins again.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec
from msgspec import structs

from privacy_ledger.domain.errors import LedgerTruncated
from privacy_ledger.engine.batch import Batch
from privacy_ledger.engine.cycle import POSITION_KEY, PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.soundness import CHRONICLE_KEY, Chronicle, Place
from privacy_ledger.engine.turns import fold_rows, go_on
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.codec import HEARTBEAT_KEY, StateCodec
from privacy_ledger.ports.log import NewRecord, PassLog
from privacy_ledger.ports.runtime import Clock, StateStore
from privacy_ledger.streams.roster import MOVED

__all__ = ["build_anew"]

READ: Final = 2000
WRITE: Final = 1000
REPORT_S: Final = 5.0
_KEPT: Final = frozenset({HEARTBEAT_KEY, POSITION_KEY, CHRONICLE_KEY})

log_line = get_logger()


async def build_anew(
    log: PassLog,
    declaration: PassDeclaration,
    place: Place,
    cycle: PartitionCycle,
    store: StateStore,
    *,
    states: StateCodec,
    clock: Clock,
    life: bytes,
) -> None:
    """Fold the ledger into an empty store, and write what it says to the changelogs.

    The caller owns the place's writer and opened `cycle` over the empty `store`; both are of no use
    afterwards: restore a store from the changelogs, which hold the whole state again.

    Raises:
        LedgerTruncated: the beginning of the ledger is gone as well: nothing can be built.
    """
    await _begin(log, place, life=life)
    records = await _fold_quietly(log, place, cycle, clock=clock)
    written = 0
    for topic, code in place.changelogs.items():
        written += await _delete_stale(log, place, store, topic, code)
    for table in declaration.tables:
        topic, prefix = states.topic(table), states.changelog_key(table, b"")
        if table.name == MOVED.name:
            continue
        rows = ((topic, prefix + key[1:], value) for key, value in store.scan(table.code))
        written += await _write(log, place, rows)
    position = structs.replace(cycle.position, life=life)
    starts = {topic: await log.first(topic, place.partition) for topic in place.changelogs}
    await log.append_atomically(
        [
            (place.own, NewRecord(place.partition, POSITION_KEY, msgspec.msgpack.encode(position))),
            (place.own, Chronicle(life=life, starts=starts, reached={}).record(place.partition)),
        ],
        writer=place.writer,
    )
    log_line.warning(
        "state built anew", pass_name=place.pass_name, partition=place.partition, records=records,
        count=written, offset=position.offset,
    )  # fmt: skip


async def _begin(log: PassLog, place: Place, *, life: bytes) -> None:
    """Say durably that the state is not whole, unless the ledger is not either."""
    first = await log.first(place.source, place.partition)
    if first > 0:
        raise LedgerTruncated(
            f"{place.source} partition {place.partition} begins at {first}: the state of the pass "
            f"{place.pass_name} is lost and cannot be built again. Restore the topics from a backup."
        )
    mark = Chronicle(life=life, starts={}, reached={}, is_rebuilding=True)
    await log.append_atomically([(place.own, mark.record(place.partition))], writer=place.writer)


async def _fold_quietly(log: PassLog, place: Place, cycle: PartitionCycle, *, clock: Clock) -> int:
    """Fold everything that the ledger holds now; nothing leaves this process. Return the records."""

    async def settle(batch: Batch) -> bool:
        cycle.settle(batch)
        return True

    enrolled = cycle.enrol(now=clock.now())
    if enrolled is not None:
        cycle.settle(enrolled)
    reported = time.monotonic()
    end, total, after = await log.end(place.source, place.partition), 0, -1
    while after + 1 < end:
        rows = await log.read(place.source, place.partition, after=after, limit=READ)
        if not rows:
            break
        await fold_rows(cycle, rows, clock=clock, commit=settle)
        while cycle.busy:
            await go_on(cycle, clock=clock, commit=settle)
        after, total = rows[-1].offset, total + len(rows)
        if time.monotonic() - reported > REPORT_S:
            reported = time.monotonic()
            log_line.info(
                "building state anew", pass_name=place.pass_name, partition=place.partition,
                records=total, offset=after,
            )  # fmt: skip
    return total


async def _delete_stale(log: PassLog, place: Place, store: StateStore, topic: str, code: bytes) -> int:
    """Write a tombstone for every row of a changelog that the new state does not have."""
    total, after = 0, -1
    end = await log.end(topic, place.partition)
    while after + 1 < end:
        rows = await log.read(topic, place.partition, after=after, limit=READ)
        if not rows:
            break
        keys = [
            row.key
            for row in rows
            if row.value is not None and row.key not in _KEPT and not _is_mark(place, topic, row.key)
        ]
        held = store.get_many([code + key for key in keys])
        stale = dict.fromkeys(key for key, value in zip(keys, held, strict=True) if value is None)
        total += await _write(log, place, ((topic, key, None) for key in stale))
        after = rows[-1].offset
    return total


def _is_mark(place: Place, topic: str, key: bytes) -> bool:
    """Return whether a row says that a processor moved away: it outlives every state."""
    return topic == place.own and key.startswith(MOVED.code)


async def _write(log: PassLog, place: Place, rows: Iterable[tuple[str, bytes, bytes | None]]) -> int:
    """Write rows in transactions of bounded size; return how many."""
    total = 0
    for part in _parts(iter(rows)):
        await log.append_atomically(
            [(topic, NewRecord(place.partition, key, value)) for topic, key, value in part],
            writer=place.writer,
        )
        total += len(part)
    return total


def _parts(
    rows: Iterator[tuple[str, bytes, bytes | None]],
) -> Iterator[Sequence[tuple[str, bytes, bytes | None]]]:
    while part := list(islice(rows, WRITE)):
        yield part
