"""Any partitions of the cluster, read without a group: what a standby follows."""

import asyncio
from collections.abc import Mapping, Sequence

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from privacy_ledger.adapters.kafka._clients import START_TIMEOUT_S, STOP_TIMEOUT_S, translated_errors
from privacy_ledger.adapters.kafka._consumer import RowConsumer
from privacy_ledger.adapters.kafka.safety import safe_consumer
from privacy_ledger.adapters.kafka.settings import ClusterSettings, tail_options
from privacy_ledger.ports.log import Row
from privacy_ledger.ports.transport import OutOfRange, Place

__all__ = ["KafkaTail"]


class KafkaTail:
    """`Tail` on a cluster; it reads committed records only, and connects at the first `follow`."""

    def __init__(self, cluster: ClusterSettings, *, prefix: str, places: int) -> None:
        """Take the topic prefix, and at most how many places will be followed."""
        self._cluster = cluster
        self._prefix = prefix
        self._options = tail_options(cluster, places=places)
        self._consumer: RowConsumer | None = None

    async def follow(self, places: Mapping[Place, int]) -> None:
        """Read these places from these offsets on, and no others; 0 is wherever a log begins."""
        if not places:
            await self.close()
            return
        with translated_errors(self._cluster):
            if self._consumer is None:
                self._consumer = await self._started()
            self._consumer.assign([self._physical(place) for place in places])
            for place, offset in places.items():
                if offset > 0:
                    self._consumer.seek(self._physical(place), offset)
            new = [self._physical(place) for place, offset in places.items() if offset <= 0]
            if new:
                await self._consumer.seek_to_beginning(*new)

    async def poll(self, *, timeout_s: float, limit: int) -> Mapping[Place, Sequence[Row]]:
        """Return at most `limit` rows of the places, each in offset order.

        Raises:
            OutOfRange: an offset that was asked for lies outside its log.
        """
        if self._consumer is None:
            await asyncio.sleep(timeout_s)
            return {}
        with translated_errors(self._cluster):
            try:
                fetched = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=limit)
            except OffsetOutOfRangeError as error:
                raise OutOfRange(frozenset(self._logical(place) for place in error.args[0])) from error
        return {self._logical(place): rows for place, rows in fetched.items()}

    async def behind(self, place: Place) -> int | None:
        """Return how many offsets a place is behind its stable end; None before a fetch saw it."""
        physical = self._physical(place)
        if self._consumer is None or physical not in self._consumer.assignment():
            return None
        end: int | None = self._consumer.last_stable_offset(physical)
        return None if end is None else max(0, end - int(await self._consumer.position(physical)))

    async def close(self) -> None:
        """Close; idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with translated_errors(self._cluster):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await consumer.stop()

    async def _started(self) -> RowConsumer:
        consumer = RowConsumer(**safe_consumer(self._options))
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    def _physical(self, place: Place) -> TopicPartition:
        topic, partition = place
        return TopicPartition(self._prefix + topic, partition)

    def _logical(self, place: TopicPartition) -> Place:
        return place.topic.removeprefix(self._prefix), place.partition
