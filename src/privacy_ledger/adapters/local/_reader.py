"""Queries on the embedded log: short, and each on one snapshot."""

import sqlite3
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from privacy_ledger.adapters.local._database import LANE_SHIFT, connect, translated_errors
from privacy_ledger.domain.errors import LogUnavailable
from privacy_ledger.domain.values import REF_BYTES
from privacy_ledger.ports.log import Headers, Row, header

__all__ = ["LOOKUP_KEYS", "Reader", "mark_of"]

LOOKUP_KEYS: Final = 500
"""Keys of one look-up statement, and rows of one page of a scan."""
READ_BYTES: Final = 32 * 1024 * 1024
"""A read stops early above this many bytes of values."""
STEPS: Final = (1, 8, 64, LOOKUP_KEYS)
"""Lists are padded to these lengths, so that few statements have to be prepared."""

Param = int | str | bytes
T = TypeVar("T")
_unpack_headers = msgspec.msgpack.Decoder(Headers).decode


class Reader:
    """A reading connection; `table` is `records` or `heads` and never comes from outside."""

    def __init__(self, path: Path) -> None:
        """Open a prepared file."""
        self._path = path
        self._connection: sqlite3.Connection | None = connect(path, is_reader=True)
        self._lanes: dict[tuple[str, int], int] = {}

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def lane(self, topic: str, partition: int) -> int | None:
        """Return the lane of a partition, or None while nothing was ever appended to it."""
        lane = self._lanes.get((topic, partition))
        if lane is None:
            rows: list[tuple[int]] = self._fetch(
                "SELECT lane FROM lanes WHERE topic = ? AND partition = ?", (topic, partition)
            )
            if not rows:
                return None
            self._lanes[topic, partition] = lane = rows[0][0]
        return lane

    def end(self, lane: int) -> int:
        """Return the next offset of a lane."""
        rows: list[tuple[int]] = self._fetch("SELECT next_offset FROM lanes WHERE lane = ?", (lane,))
        return rows[0][0]

    def after(self, table: str, lane: int, partition: int, *, after: int, limit: int) -> tuple[Row, ...]:
        """Return at most `limit` rows above an offset, fewer when they are large."""
        base = lane << LANE_SHIFT
        where = "id > ? AND id < ? ORDER BY id LIMIT ?"
        return self._rows(table, partition, where, (base + max(after, -1), base + (1 << LANE_SHIFT), limit))

    def at(self, table: str, lane: int, partition: int, offsets: Sequence[int]) -> tuple[Row, ...]:
        """Return the rows at these ascending offsets that are there."""
        base = lane << LANE_SHIFT
        found: list[Row] = []
        position = 0
        while position < len(offsets):
            part = [base + offset for offset in offsets[position : position + LOOKUP_KEYS]]
            rows = self._rows(table, partition, f"id IN ({_marks(len(part))}) ORDER BY id", _padded(part))
            found += rows
            position += len(part)
            if sum(len(row.value or b"") for row in rows) > READ_BYTES:
                # The read stopped early: go on after the last row it gave.
                position = next(
                    (n for n, offset in enumerate(offsets) if offset > rows[-1].offset), len(offsets)
                )
        return tuple(found)

    def latest(self, table: str, lane: int, partition: int, key: bytes) -> Row | None:
        """Return the newest row of a key, or None."""
        rows = self._rows(table, partition, "lane = ? AND key = ? ORDER BY id DESC LIMIT 1", (lane, key))
        return rows[0] if rows else None

    def latest_many(self, table: str, lane: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the newest value of each key, in order."""
        values: dict[bytes, bytes | None] = {}
        for start in range(0, len(keys), LOOKUP_KEYS):
            part = keys[start : start + LOOKUP_KEYS]
            statement = (
                f"SELECT key, value, max(id) FROM {table}"  # noqa: S608 - our own names and marks
                f" WHERE lane = ? AND key IN ({_marks(len(part))}) GROUP BY key"
            )
            rows: list[tuple[bytes, bytes | None, int]] = self._fetch(statement, (lane, *_padded(part)))
            values.update({key: value for key, value, _ in rows})
        return [values.get(key) for key in keys]

    def scan_latest(
        self, table: str, lane: int, prefix: bytes, start: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of the live keys with this prefix, in key order, page by page."""
        stop = _successor(prefix)
        bound = "" if stop is None else "AND key < ?"
        statement = (
            f"SELECT key, value, max(id) FROM {table}"  # noqa: S608 - our own names
            f" WHERE lane = ? AND key >= ? {bound}"
            " GROUP BY key ORDER BY key LIMIT ?"
        )
        at = prefix + start
        while True:
            params = (lane, at, LOOKUP_KEYS) if stop is None else (lane, at, stop, LOOKUP_KEYS)
            page: list[tuple[bytes, bytes | None, int]] = self._fetch(statement, params)
            for key, value, _ in page:
                if value is not None:
                    yield key, value
            if len(page) < LOOKUP_KEYS:
                return
            at = page[-1][0] + b"\0"

    def live_tags(self, lane: int, pairs: Sequence[tuple[bytes, bytes]]) -> dict[tuple[bytes, bytes], bytes]:
        """Return the digest of the oldest live record of each (ref, tag) that has one."""
        wanted = set(pairs)
        found: dict[tuple[bytes, bytes], bytes] = {}
        for start in range(0, len(pairs), LOOKUP_KEYS):
            part = [mark_of(ref, tag) for ref, tag in pairs[start : start + LOOKUP_KEYS]]
            statement = (
                "SELECT r.key, r.headers FROM records AS r INDEXED BY records_by_mark"  # noqa: S608 - our own marks
                f" WHERE r.mark IS NOT NULL AND r.mark IN ({_marks(len(part))}) AND r.lane = ?"
                " AND NOT EXISTS (SELECT 1 FROM records AS t WHERE t.lane = r.lane AND t.key = r.key"
                " AND t.id > r.id AND t.value IS NULL) ORDER BY r.id"
            )
            rows: list[tuple[bytes, bytes]] = self._fetch(statement, (*_padded(part), lane))
            for key, packed in rows:
                headers = _unpack_headers(packed)
                pair = (key[:REF_BYTES], header(headers, "tag") or b"")
                if pair in wanted:
                    found.setdefault(pair, header(headers, "digest") or b"")
        return found

    def _rows(self, table: str, partition: int, where: str, params: Sequence[Param]) -> tuple[Row, ...]:
        # Every `where` is written above; what comes from outside is a parameter.
        statement = f"SELECT id, key, value, headers, appended_ms FROM {table} WHERE {where}"  # noqa: S608
        mask = (1 << LANE_SHIFT) - 1
        rows: list[Row] = []
        size = 0
        with translated_errors(self._path):
            cursor = self._opened().execute(statement, params)
            for number, key, value, headers, appended_ms in cursor:
                rows.append(Row(partition, number & mask, key, value, _unpack_headers(headers), appended_ms))
                if value is not None:
                    size += len(value)
                    if size > READ_BYTES:
                        break
            cursor.close()
        return tuple(rows)

    def _fetch(self, statement: str, params: Sequence[Param]) -> list[T]:
        with translated_errors(self._path):
            rows: list[T] = self._opened().execute(statement, params).fetchall()
        return rows

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LogUnavailable(f"The log {self._path} is closed. Open it again.")
        return self._connection


def mark_of(ref: bytes, tag: bytes) -> int:
    """Return the 63-bit number under which a tag of a subject is indexed."""
    return int.from_bytes(blake2b(ref + tag, digest_size=8).digest(), "big") >> 1


def _marks(count: int) -> str:
    return ",".join("?" * _step(count))


def _step(count: int) -> int:
    return next(step for step in STEPS if count <= step)


def _padded(values: Sequence[T]) -> list[T]:
    """Repeat the last value, which changes nothing inside `IN`."""
    return [*values, *[values[-1]] * (_step(len(values)) - len(values))]


def _successor(prefix: bytes) -> bytes | None:
    """Return the first key after every key with this prefix, or None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
