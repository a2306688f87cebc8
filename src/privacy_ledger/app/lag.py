"""How far passes are behind the ledger, read from outside: no worker is asked, and nothing moves."""

from datetime import UTC, datetime

from msgspec import Struct

from privacy_ledger.ports.log import EventLog, Row, received_at
from privacy_ledger.ports.passes import Views

__all__ = ["PassLag", "lag_of"]


class PassLag(Struct, frozen=True, kw_only=True):
    """A pass in one partition: the last applied offset, the stable end, and what lies between.

    `behind` counts offsets from the first record that is not folded: at most so many records, for
    compaction and transactions leave gaps. `seconds` is the age of that record by its `received`;
    a tombstone has none, and counts from its append.
    """

    partition: int
    position: int
    end: int
    behind: int
    seconds: float


async def lag_of(
    log: EventLog, views: Views, *, pass_name: str, source: str, now: datetime
) -> tuple[PassLag, ...]:
    """Return the lag of a pass in each partition, ascending."""
    found = []
    for partition in range(log.partitions(source)):
        position = (await views.position(pass_name, partition)).offset
        end = await log.end(source, partition)
        # A marker of a transaction may stand at the end: only a record says that something is left.
        rows = await log.read(source, partition, after=position, limit=1)
        first = rows[0] if rows else None
        found.append(
            PassLag(
                partition=partition, position=position, end=end,
                behind=0 if first is None else max(1, end - first.offset),
                seconds=0.0 if first is None else max(0.0, (now - _received(first)).total_seconds()),
            )
        )  # fmt: skip
    return tuple(found)


def _received(row: Row) -> datetime:
    return received_at(row) or datetime.fromtimestamp(row.appended_ms / 1000, UTC)
