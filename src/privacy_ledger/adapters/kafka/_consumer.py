"""aiokafka's consumer as the adapters use it: it gives rows, and keeps nothing that nobody took."""

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import READ_UNCOMMITTED

from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.ports.log import Row

__all__ = ["RowConsumer"]


class RowConsumer(AIOKafkaConsumer):  # type: ignore[misc] # aiokafka is untyped
    """A consumer whose `getmany` returns rows of the log, in order.

    A foreign header without a value keeps its None.
    """

    async def start(self) -> None:
        """Connect; no public call of aiokafka 0.14 leaves out its own record, which costs as much again."""
        await super().start()
        self._fetcher._records = _Fetched(self._fetcher._records)  # noqa: SLF001

    async def getmany(self, *partitions: TopicPartition, **bounds: int) -> dict[TopicPartition, list[Row]]:
        """Return rows by partition.

        Raises:
            InvariantViolation: this release of aiokafka unpacks records another way.
        """
        fetched: dict[TopicPartition, list[Row]] = await super().getmany(*partitions, **bounds)
        if any(rows and type(rows[0]) is not Row for rows in fetched.values()):
            raise InvariantViolation("This aiokafka unpacks records another way. Install the locked release.")
        return fetched

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions and no others."""
        self.let_go(*self.assignment())
        super().assign(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read from here on."""
        self.let_go(partition)
        super().seek(partition, offset)

    async def written_ends(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where the log ends in these places for a reader that waits for no transaction (KIP-98)."""
        asking = copy.copy(self._fetcher)  # aiokafka 0.14 asks as it reads; this one reads nothing
        asking._isolation_level = READ_UNCOMMITTED  # noqa: SLF001 - as above
        return dict(await asking.end_offsets(places, self._request_timeout_ms))

    async def stop(self) -> None:
        """Leave the group, and close."""
        self.let_go(*self.assignment())
        await super().stop()

    def let_go(self, *places: TopicPartition) -> None:
        """Give up what was fetched of these partitions and not taken.

        aiokafka 0.14 drops such an answer as a cycle of references: its megabytes stay in memory
        until Python's collector has looked through all there is, which in a busy worker it hardly
        ever does.
        """
        fetched = {} if self._fetcher is None else self._fetcher._records  # noqa: SLF001
        for place in places:
            records = getattr(fetched.pop(place, None), "_partition_records", None)
            if records is not None and records._records_iterator is not None:  # noqa: SLF001
                records._records_iterator.close()  # noqa: SLF001 - the frame lets go of its records


class _Fetched(OrderedDict[TopicPartition, Any]):
    """The answers that nobody took yet; those that are errors hold no records."""

    def __setitem__(self, place: TopicPartition, answer: Any) -> None:  # noqa: ANN401 - as above
        records = getattr(answer, "_partition_records", None)
        if records is not None:
            records._consumer_record = _row  # noqa: SLF001
        super().__setitem__(place, answer)


def _row(place: TopicPartition, record: Any) -> Row:  # noqa: ANN401 - as above
    return Row(
        place.partition, record.offset, record.key or b"", record.value,
        tuple(record.headers), record.timestamp,
    )  # fmt: skip
