"""Taking over a partition: fence, restore, check, and only then fold on.

A consumer group's committed offset is never a position: the position lies in the pass's own
changelog, written in the transaction of the states that it belongs to.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from privacy_ledger.domain.errors import LedgerRewound
from privacy_ledger.engine.progress import RestoreProgress
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.log import PassLog, Row
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.ports.runtime import StateStore
from privacy_ledger.ports.transport import OutOfRange

__all__ = [
    "applied",
    "check_not_rewound",
    "marked_topics",
    "marks_of",
    "restore",
    "stored_marks",
]

RESTORE_READ: Final = 5000
_PROGRESS: Final = b"\0chg:"


async def restore(
    log: PassLog,
    store: StateStore,
    partition: int,
    *,
    changelogs: Mapping[str, bytes],
    progress: RestoreProgress,
) -> int:
    """Bring the store up to the stable end of its changelogs; return the records applied.

    `changelogs`: topic → the table code that its keys lack (b"" for the private changelog).
    Progress is stored with the values, in the same batch, so that an interrupted restore goes
    on where it was. The caller has fenced every earlier owner before.

    Raises:
        OutOfRange: the store says more than a changelog does, so it belongs to another history.
    """
    marks = stored_marks(store, changelogs)
    ends = {topic: await log.end(topic, partition) for topic in changelogs}
    if beyond := frozenset((topic, partition) for topic in changelogs if marks[topic] >= ends[topic]):
        raise OutOfRange(beyond)
    progress.expect({topic: max(0, ends[topic] - 1 - marks[topic]) for topic in changelogs})
    total = 0
    for topic, code in sorted(changelogs.items()):
        after = marks[topic]
        while after + 1 < ends[topic]:
            rows = await log.read(topic, partition, after=after, limit=RESTORE_READ)
            if not rows:
                break
            store.write(applied(topic, code, rows))
            progress.advance(topic, records=len(rows), offsets=rows[-1].offset - after)
            after = rows[-1].offset
            total += len(rows)
    return total


def stored_marks(store: StateStore, changelogs: Iterable[str]) -> dict[str, int]:
    """Return the last applied offset of each changelog; -1 where nothing was applied."""
    topics = tuple(changelogs)
    found = store.get_many([_mark(topic) for topic in topics])
    return {topic: -1 if value is None else int(value) for topic, value in zip(topics, found, strict=True)}


def marked_topics(store: StateStore) -> tuple[str, ...]:
    """Return the topics of which a store has applied something."""
    return tuple(key[len(_PROGRESS) :].decode() for key, _ in store.scan(_PROGRESS))


def applied(topic: str, code: bytes, rows: Sequence[Row]) -> list[tuple[bytes, bytes | None]]:
    """Return what rows of a changelog change in a store, and the mark that says so: one batch."""
    changes: list[tuple[bytes, bytes | None]] = [
        (code + row.key, row.value) for row in rows if row.key != HEARTBEAT_KEY
    ]
    changes.append((_mark(topic), b"%d" % rows[-1].offset))
    return changes


def marks_of(
    ends: Mapping[tuple[str, int], int], partition: int, changelogs: Iterable[str]
) -> list[tuple[bytes, bytes | None]]:
    """Return the marks of a committed transaction; they go to the store with its states.

    Only the owner writes these partitions, and it was restored to their end before it wrote: so
    below its own last record everything is applied.
    """
    return [
        (_mark(topic), b"%d" % ends[topic, partition]) for topic in changelogs if (topic, partition) in ends
    ]


async def check_not_rewound(log: PassLog, source: str, partition: int, position: PassPosition) -> None:
    """Compare the ledger with the last applied record and Tick; a missing offset is compaction.

    Raises:
        LedgerRewound: the log ends below the position, holds another key there, or lost a Tick.
    """
    if position.offset < 0:
        return
    where = f"{source} partition {partition}"
    way_out = "Restore the topic from a backup, then start the worker again."
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


def _mark(topic: str) -> bytes:
    return _PROGRESS + topic.encode()
