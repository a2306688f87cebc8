"""Taking over a partition: fence, restore, check, and only then fold on.

A consumer group's committed offset is never a position: the position lies in the pass's own
changelog, written in the transaction of the states that it belongs to.
"""

import time
from collections.abc import Mapping
from typing import Final, Protocol

from privacy_ledger.domain.errors import LedgerRewound
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.log import EventLog, NewRecord
from privacy_ledger.ports.observe import SILENT, Meters, Restoring
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.ports.runtime import StateStore

__all__ = ["FencedLog", "check_not_rewound", "note_progress", "restore"]

RESTORE_READ: Final = 5000
REPORT_S: Final = 5.0
_PROGRESS: Final = b"\0chg:"

log_line = get_logger()


class FencedLog(EventLog, Protocol):
    """An event log whose named writers fence each other."""

    async def open_writer(self, writer: str) -> int:
        """Become the owner of `writer`; end what an earlier owner left open. Return the epoch."""
        ...


async def restore(
    log: EventLog,
    store: StateStore,
    partition: int,
    *,
    pass_name: str,
    changelogs: Mapping[str, bytes],
    meters: Meters = SILENT,
) -> int:
    """Bring the store up to the stable end of its changelogs; return the records applied.

    `changelogs`: topic → the table code that its keys lack (b"" for the private changelog).
    Progress is stored with the values, in the same batch, so that an interrupted restore goes
    on where it was. The caller has fenced every earlier owner before. `eta_s` is that of the
    changelog in hand.
    """
    started = reported = time.monotonic()
    total = 0
    for topic, code in sorted(changelogs.items()):
        mark = _PROGRESS + topic.encode()
        (stored,) = store.get_many([mark])
        after = -1 if stored is None else int(stored)
        while rows := await log.read(topic, partition, after=after, limit=RESTORE_READ):
            changes: list[tuple[bytes, bytes | None]] = [
                (code + row.key, row.value) for row in rows if row.key != HEARTBEAT_KEY
            ]
            after = rows[-1].offset
            changes.append((mark, b"%d" % after))
            store.write(changes)
            total += len(rows)
            if time.monotonic() - reported > REPORT_S:
                reported = time.monotonic()
                end = await log.end(topic, partition)
                rate = total / (reported - started)
                eta_s = max(0, end - after - 1) / rate
                log_line.info(
                    "restoring", pass_name=pass_name, topic=topic, partition=partition,
                    records=total, rate=round(rate), eta_s=round(eta_s),
                )  # fmt: skip
                meters.note(
                    Restoring(pass_name=pass_name, partition=partition, records=total, rate=rate, eta_s=eta_s)
                )
    return total


async def note_progress(
    log: EventLog,
    store: StateStore,
    partition: int,
    *,
    changelogs: Mapping[str, bytes],
    writer: str,
) -> None:
    """Store how far the changelogs reach now, so that the next restore starts there.

    Only the owner writes these partitions, so everything below the stable end is applied. That
    this process still is the owner is shown by a transaction after the ends were read.

    Raises:
        Fenced: another owner took over; nothing was noted.
    """
    marks: list[tuple[bytes, bytes | None]] = []
    for topic in sorted(changelogs):
        end = await log.end(topic, partition)
        marks.append((_PROGRESS + topic.encode(), b"%d" % (end - 1)))
    beat = NewRecord(partition, HEARTBEAT_KEY, b"\0")
    await log.append_atomically([(topic, beat) for topic in sorted(changelogs)], writer=writer)
    store.write(marks)


async def check_not_rewound(log: EventLog, source: str, partition: int, position: PassPosition) -> None:
    """Compare the ledger with the last applied record and Tick; a missing offset is compaction.

    Raises:
        LedgerRewound: the log ends below the position, holds another key there, or lost a Tick.
    """
    if position.offset < 0:
        return
    where = f"{source} partition {partition}"
    way_out = "Restore the topic, or rebuild the pass from a fresh state topic."
    end = await log.end(source, partition)
    if end <= position.offset:
        raise LedgerRewound(f"{where} ends at {end}, below offset {position.offset}. {way_out}")
    for offset, key, must_exist in (
        (position.offset, position.key, False),
        (position.tick_offset, position.tick_key, True),
    ):
        if offset < 0:
            continue
        rows = await log.read_at(source, partition, (offset,))
        if rows and rows[0].key != key:
            raise LedgerRewound(f"{where} holds another record at offset {offset}. {way_out}")
        if not rows and must_exist:
            raise LedgerRewound(f"{where} lost its tick at offset {offset}. {way_out}")
