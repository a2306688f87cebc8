"""A log on topics of one test's own, on a broker that others may use too."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from privacy_ledger.adapters.kafka import ClusterSettings, KafkaLog
from privacy_ledger.adapters.kafka.topics import apply, open_admin
from privacy_ledger.testing.contracts.event_log import CONTRACT_TOPICS, PARTITIONS

__all__ = ["own_log"]


@asynccontextmanager
async def own_log(cluster: ClusterSettings) -> AsyncIterator[KafkaLog]:
    """Yield a started log on fresh topics, and delete them afterwards."""
    prefix = f"r{uuid4().hex[:10]}."
    async with open_admin(cluster) as admin:
        await apply(admin, CONTRACT_TOPICS, partitions=PARTITIONS, prefix=prefix)
        log = KafkaLog(cluster, partitions=PARTITIONS, prefix=prefix)
        await log.start()
        try:
            yield log
        finally:
            await log.close()
            await admin.delete_topics([prefix + topic.name for topic in CONTRACT_TOPICS])
