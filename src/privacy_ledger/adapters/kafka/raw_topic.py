"""`RawTopic` on Kafka: a consumer group of its own, whose committed offsets are what was taken."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from privacy_ledger.adapters.kafka._clients import translated_errors
from privacy_ledger.adapters.kafka._consumer import RowConsumer
from privacy_ledger.adapters.kafka.safety import safe_consumer
from privacy_ledger.adapters.kafka.settings import ClusterSettings, group_options
from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.log import Row

__all__ = ["KafkaRawTopic"]

POLL_GRACE_S: Final = 1.0
SESSION_MS: Final = 10_000
_PARTITIONS_SHARED: Final = 16
log_line = get_logger()


class KafkaRawTopic:
    """A member of the group; open it as a context.

    A partition that the group has never read is read from its beginning. One whose messages were removed
    before they were read goes on where it begins now, and what is missing is counted.
    """

    def __init__(self, cluster: ClusterSettings, *, topic: str, group: str) -> None:
        """Describe the member; nothing is opened."""
        self.lost = 0
        self._cluster = cluster
        self._topic = topic
        options = group_options(cluster, group=group, session_ms=SESSION_MS, partitions=_PARTITIONS_SHARED)
        self._consumer = RowConsumer(**safe_consumer(options))

    async def __aenter__(self) -> Self:
        """Join the group.

        Raises:
            HomeUnusable: there is no such topic.
            LogUnavailable: the cluster cannot be reached.
        """
        with translated_errors(self._cluster):
            await self._consumer.start()
            try:
                await self._subscribe()
            except BaseException:
                await self._consumer.stop()
                raise
        return self

    async def _subscribe(self) -> None:
        if self._topic not in await self._consumer.topics():
            raise HomeUnusable("The cluster has no such topic. Check `--from-topic`, and the rights.")
        self._consumer.subscribe([self._topic])

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the group."""
        await self._consumer.stop()

    async def poll(self, *, timeout_s: float, limit: int) -> Mapping[int, Sequence[Row]]:
        """Return at most `limit` messages by partition; see `RawTopic.poll`."""
        with translated_errors(self._cluster):
            try:
                async with asyncio.timeout(timeout_s + POLL_GRACE_S):
                    fetched = await self._consumer.getmany(
                        timeout_ms=int(timeout_s * 1000), max_records=limit
                    )
            except TimeoutError:
                return {}  # the group is divided anew
            except NoOffsetForPartitionError as error:
                await self._begin(error.args[0])
                return {}
            except OffsetOutOfRangeError as error:
                for place, offset in error.args[0].items():
                    await self._begin(place, after=offset)
                return {}
        return {place.partition: rows for place, rows in fetched.items() if rows}

    async def commit(self, taken: Mapping[int, int]) -> bool:
        """Note what was taken; see `RawTopic.commit`."""
        offsets = {TopicPartition(self._topic, partition): last + 1 for partition, last in taken.items()}
        with translated_errors(self._cluster):
            try:
                await self._consumer.commit(offsets)
            except (CommitFailedError, IllegalStateError):
                return False
        return True

    async def behind(self) -> int | None:
        """Return how many offsets were not given yet; see `RawTopic.behind`."""
        places = list(self._consumer.assignment())
        if not places:
            return None
        with translated_errors(self._cluster):
            ends = await self._consumer.end_offsets(places)
            starts = await self._consumer.beginning_offsets(places)
            total = 0
            for place in places:
                committed = await self._consumer.committed(place)
                total += max(0, ends[place] - max(committed or 0, starts[place]))
        return total

    async def _begin(self, place: TopicPartition, *, after: int | None = None) -> None:
        """Go on at the beginning of a partition; `after`: where the group was before."""
        if place not in self._consumer.assignment():
            return
        start = (await self._consumer.beginning_offsets([place]))[place]
        if after is not None:
            missing = max(0, start - after)
            self.lost += missing
            log_line.warning(
                "raw messages removed before they were read", partition=place.partition, count=missing
            )
        self._consumer.seek(place, start)
