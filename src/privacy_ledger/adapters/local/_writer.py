"""What changes the embedded log: appends, epochs of writers, compaction. One thread only."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from privacy_ledger.adapters.local._compaction import drop_topic, is_latest_only, rewrite_if_due, slices
from privacy_ledger.adapters.local._database import LANE_SHIFT, connect, transaction, translated_errors
from privacy_ledger.adapters.local._reader import mark_of
from privacy_ledger.domain.errors import Fenced
from privacy_ledger.domain.topics import LEDGER_EVENTS, Topic
from privacy_ledger.domain.values import REF_BYTES
from privacy_ledger.ports.log import NewRecord, header

__all__ = ["Writer"]

STATEMENT_ROWS: Final = (100, 10, 1)
"""Rows of one INSERT: a statement per row would wait for the interpreter's lock at each row."""

Param = int | bytes | None
_pack_headers = msgspec.msgpack.Encoder().encode
_COLUMNS: Final = 7
_ROW: Final = "(?,?,?,?,?,?,?)"
# Whatever fails rolls the transaction back; without OR FAIL, SQLite copies each page that it changes
# to a journal of the statement as well.
_APPEND: Final = ("INSERT OR FAIL INTO records VALUES ", "")
_REPLACE: Final = (
    "INSERT INTO heads VALUES ",
    (
        " ON CONFLICT(lane, key) DO UPDATE SET id = excluded.id, mark = excluded.mark,"
        " appended_ms = excluded.appended_ms, headers = excluded.headers, value = excluded.value"
    ),
)


class Writer:
    """The writing connection; its methods block, and one thread at a time may call them."""

    def __init__(self, path: Path, *, max_pages: int | None) -> None:
        """Open a prepared file."""
        self._path = path
        self._connection = connect(path, is_reader=False, max_pages=max_pages)

    def close(self) -> None:
        """Close the connection, which also empties the write-ahead log if nobody else has it open."""
        self._connection.close()

    def next_epoch(self, name: str) -> int:
        """Raise the epoch of a writer and return it."""
        with translated_errors(self._path), transaction(self._connection):
            row: tuple[int] = self._connection.execute(
                "INSERT INTO writers VALUES (?, 1)"
                " ON CONFLICT(name) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                (name,),
            ).fetchone()
        return row[0]

    def append(
        self, writes: Sequence[tuple[str, NewRecord]], *, now_ms: int, owner: tuple[str, int] | None
    ) -> list[int]:
        """Append all in one transaction and return the offsets.

        Raises:
            Fenced: `owner` (name, epoch) is not the current one.
        """
        connection = self._connection
        with translated_errors(self._path), transaction(connection):
            if owner is not None:
                self._check_owner(*owner)
            newest: tuple[int | None] = connection.execute("SELECT max(appended_ms) FROM lanes").fetchone()
            appended_ms = max(now_ms, newest[0] or 0)
            next_ids: dict[tuple[str, int], int] = {}
            records: list[Param] = []
            heads: list[Param] = []
            ids: list[int] = []
            for topic, record in writes:
                place = (topic, record.partition)
                number = next_ids.get(place)
                if number is None:
                    number = self._next_id(*place)
                next_ids[place] = number + 1
                ids.append(number)
                mark = _mark(record) if topic == LEDGER_EVENTS else None
                rows = heads if is_latest_only(topic) else records
                rows += (
                    number, number >> LANE_SHIFT, record.key, mark,
                    appended_ms, _pack_headers(record.headers), record.value,
                )  # fmt: skip
            self._insert(_APPEND, records)
            self._insert(_REPLACE, heads)
            mask = (1 << LANE_SHIFT) - 1
            connection.executemany(
                "UPDATE lanes SET next_offset = ?, appended_ms = ? WHERE lane = ?",
                [(number & mask, appended_ms, number >> LANE_SHIFT) for number in next_ids.values()],
            )
        return [number & mask for number in ids]

    def compaction(self, topic: Topic, *, now_ms: int, until: Mapping[int, int]) -> Iterator[int]:
        """Yield the records removed by each slice of a compaction, a transaction each."""
        with translated_errors(self._path):
            yield from slices(self._connection, topic, now_ms=now_ms, until=until)

    def forget(self, topic: str) -> None:
        """Remove every record of a topic, in one transaction."""
        with translated_errors(self._path), transaction(self._connection):
            drop_topic(self._connection, topic)

    def rewrite(self) -> None:
        """Write the file anew if something was removed or replaced since it was last done."""
        with translated_errors(self._path):
            rewrite_if_due(self._connection)

    def truncate_wal(self) -> bool:
        """Empty the write-ahead log, old page images included; False while a reader is in the way."""
        with translated_errors(self._path):
            row: tuple[int, int, int] = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return row[0] == 0

    def _check_owner(self, name: str, epoch: int) -> None:
        row: tuple[int] | None = self._connection.execute(
            "SELECT epoch FROM writers WHERE name = ?", (name,)
        ).fetchone()
        if row is None or row[0] != epoch:
            raise Fenced(
                f"The writer {name} has a newer owner; nothing was appended. Stop, or open it again."
            )

    def _next_id(self, topic: str, partition: int) -> int:
        row: tuple[int, int] = self._connection.execute(
            "INSERT INTO lanes(topic, partition) VALUES (?, ?)"
            " ON CONFLICT(topic, partition) DO UPDATE SET next_offset = next_offset"
            " RETURNING lane, next_offset",
            (topic, partition),
        ).fetchone()
        return (row[0] << LANE_SHIFT) + row[1]

    def _insert(self, statement: tuple[str, str], params: list[Param]) -> None:
        head, tail = statement
        start = 0
        for rows in STATEMENT_ROWS:
            step = rows * _COLUMNS
            many = head + ",".join([_ROW] * rows) + tail
            while len(params) - start >= step:
                self._connection.execute(many, params[start : start + step])
                start += step


def _mark(record: NewRecord) -> int | None:
    tag = header(record.headers, "tag")
    return None if tag is None or record.value is None else mark_of(record.key[:REF_BYTES], tag)
