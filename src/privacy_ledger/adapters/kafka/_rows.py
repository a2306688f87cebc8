"""What aiokafka fetches, as the rows of the log: unpacked once, for it is on the hot path."""

from collections import OrderedDict
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from privacy_ledger.ports.log import Row

__all__ = ["give_rows"]


def give_rows(consumer: AIOKafkaConsumer) -> None:
    """Let `getmany` of a started consumer return rows, in order, in place of aiokafka's own records.

    A foreign header without a value keeps its None. No public call of aiokafka 0.14 leaves its
    record out, which costs as much as all the rest of unpacking.
    """
    consumer._fetcher._records = _Fetched(consumer._fetcher._records)  # noqa: SLF001


class _Fetched(OrderedDict[TopicPartition, Any]):
    """The answers that nobody took yet; those that are errors hold no records."""

    def __setitem__(self, place: TopicPartition, answer: Any) -> None:  # noqa: ANN401 - aiokafka is untyped
        records = getattr(answer, "_partition_records", None)
        if records is not None:
            records._consumer_record = _row  # noqa: SLF001
        super().__setitem__(place, answer)


def _row(place: TopicPartition, record: Any) -> Row:  # noqa: ANN401 - as above
    return Row(
        place.partition, record.offset, record.key or b"", record.value,
        tuple(record.headers), record.timestamp,
    )  # fmt: skip
