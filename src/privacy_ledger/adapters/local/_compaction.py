"""Compaction of the embedded log: superseded records go, and so do their bytes."""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Final

from privacy_ledger.adapters.local._database import LANE_SHIFT, transaction
from privacy_ledger.domain.topics import Topic

__all__ = ["drop_topic", "is_latest_only", "rewrite_if_due", "slices"]

SLICE_RECORDS: Final = 2000
"""Records that one transaction looks at, so that appends can go on in between."""
LATEST_ONLY: Final = ("state.", "view.")

_REWRITE_DUE: Final = "INSERT INTO meta VALUES ('rewrite_due', 1) ON CONFLICT(name) DO UPDATE SET value = 1"


def is_latest_only(topic: str) -> bool:
    """Return whether only the newest record per key is kept, from the append on."""
    return topic.startswith(LATEST_ONLY)


def slices(
    connection: sqlite3.Connection, topic: Topic, *, now_ms: int, until: Mapping[int, int]
) -> Iterator[int]:
    """Yield the number of records that each transaction removed.

    Only records below the compaction point (`until[partition]`, or the end) count as newer ones.
    """
    lanes: list[tuple[int, int, int, int]] = connection.execute(
        "SELECT lane, partition, compacted_to, next_offset FROM lanes WHERE topic = ?", (topic.name,)
    ).fetchall()
    for lane, partition, compacted_to, end in lanes:
        if topic.policy == "delete":
            if topic.retention_ms >= 0:
                yield from _drop_expired(connection, lane, until_ms=now_ms - topic.retention_ms)
            continue
        point = min(end, until.get(partition, end))
        # The bytes of what a latest-only topic replaces are dealt with by `rewrite_if_due`.
        if not is_latest_only(topic.name):
            yield from _drop_superseded(connection, lane, compacted_to, point)
        keep_ms = int(topic.config()["delete.retention.ms"])
        yield _drop_tombstones(connection, topic.name, lane, point=point, until_ms=now_ms - keep_ms)


def drop_topic(connection: sqlite3.Connection, topic: str) -> None:
    """Remove every record of a topic; its lanes stay, so that an offset is never given twice."""
    table = "heads" if is_latest_only(topic) else "records"
    removed = connection.execute(
        f"DELETE FROM {table} WHERE lane IN (SELECT lane FROM lanes WHERE topic = ?)",  # noqa: S608 - our own names
        (topic,),
    ).rowcount
    _note(connection, removed)


def rewrite_if_due(connection: sqlite3.Connection) -> None:
    """Write the file anew, without what was removed or replaced since it was last done.

    `secure_delete` overwrites a deleted row where it lies, but not the copies that SQLite leaves
    in the gaps of its pages when it moves rows between them.
    """
    replaced: list[tuple[int, int, str]] = connection.execute(
        "SELECT next_offset, lane, topic FROM lanes WHERE compacted_to < next_offset"
    ).fetchall()
    done = [(end, lane) for end, lane, topic in replaced if is_latest_only(topic)]
    due = connection.execute("SELECT 1 FROM meta WHERE name = 'rewrite_due'").fetchone()
    if not done and due is None:
        return
    connection.execute("VACUUM")
    with transaction(connection):
        connection.executemany("UPDATE lanes SET compacted_to = ? WHERE lane = ?", done)
        connection.execute("DELETE FROM meta WHERE name = 'rewrite_due'")


def _drop_superseded(connection: sqlite3.Connection, lane: int, start: int, point: int) -> Iterator[int]:
    """Go through the records not yet compacted, and remove the older ones of their keys."""
    base = lane << LANE_SHIFT
    while start < point:
        with transaction(connection):
            row: tuple[int | None] = connection.execute(
                "SELECT max(id) FROM (SELECT id FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)",
                (base + start, base + point, SLICE_RECORDS),
            ).fetchone()
            stop = base + point if row[0] is None else row[0] + 1
            removed = connection.execute(
                "DELETE FROM records WHERE id IN ("
                "SELECT older.id FROM records AS newer CROSS JOIN records AS older"
                " WHERE newer.id >= ? AND newer.id < ?"
                " AND older.lane = newer.lane AND older.key = newer.key AND older.id < newer.id)",
                (base + start, stop),
            ).rowcount
            start = stop - base
            connection.execute(
                "UPDATE lanes SET compacted_to = max(compacted_to, ?) WHERE lane = ?", (start, lane)
            )
            _note(connection, removed)
        yield removed


def _drop_tombstones(
    connection: sqlite3.Connection, topic: str, lane: int, *, point: int, until_ms: int
) -> int:
    base = lane << LANE_SHIFT
    table = "heads" if is_latest_only(topic) else "records"
    with transaction(connection):
        removed = connection.execute(
            f"DELETE FROM {table} WHERE value IS NULL AND appended_ms <= ? AND id >= ? AND id < ?",  # noqa: S608 - our own names
            (until_ms, base, base + point),
        ).rowcount
        _note(connection, removed)
    return removed


def _drop_expired(connection: sqlite3.Connection, lane: int, *, until_ms: int) -> Iterator[int]:
    base = lane << LANE_SHIFT
    removed = SLICE_RECORDS
    while removed == SLICE_RECORDS:
        with transaction(connection):
            removed = connection.execute(
                "DELETE FROM records WHERE id IN (SELECT id FROM (SELECT id, appended_ms FROM records"
                " WHERE id >= ? AND id < ? ORDER BY id LIMIT ?) WHERE appended_ms <= ?)",
                (base, base + (1 << LANE_SHIFT), SLICE_RECORDS, until_ms),
            ).rowcount
            _note(connection, removed)
        yield removed


def _note(connection: sqlite3.Connection, removed: int) -> None:
    if removed:
        connection.execute(_REWRITE_DUE)
