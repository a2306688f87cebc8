"""What aiokafka hands out, as the rows of the log: one function, for it is on the hot path."""

from collections.abc import Iterable

from aiokafka import ConsumerRecord

from privacy_ledger.ports.log import Row

__all__ = ["to_rows"]


def to_rows(records: Iterable[ConsumerRecord]) -> tuple[Row, ...]:
    """Return one row per record, in order. A foreign header without a value keeps its None."""
    return tuple(
        Row(
            record.partition, record.offset, record.key or b"", record.value,
            tuple(record.headers), record.timestamp,
        )
        for record in records
    )  # fmt: skip
