"""What a client sees of a real broker's compaction: idle partitions, and a cleaner that is late."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from privacy_ledger.adapters.kafka.compaction import Limits, idle_partitions, late_partitions
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.domain.topics import state_topic, view_topic
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.testing.broker import Broker
from tests.integration.cluster import Cluster

STATE: Final = state_topic("core")
VIEW: Final = view_topic("progress")
QUICK: Final = Limits(idle=timedelta(hours=1), late=timedelta(seconds=2), awake=timedelta(milliseconds=500))
SCALE_MS: Final = 2000
LATE_S: Final = 30
"""Seconds after which a cleaner on that scale is late: it needs five, and thrice that when busy."""


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@pytest_asyncio.fixture
async def cluster(kafka: Broker, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Yield a cluster of two partitions whose topics do not exist yet, and not afterwards either."""
    made = Cluster(kafka.bootstrap, tmp_path, partitions=2)
    yield made
    await made.remove()


@pytest_asyncio.fixture
async def log(cluster: Cluster) -> AsyncIterator[KafkaLog]:
    """Yield a started log on it."""
    assert cluster.settings.cluster is not None
    opened = KafkaLog(cluster.settings.cluster, partitions=2, prefix=cluster.prefix)
    await opened.start()
    yield opened
    await opened.close()


async def beat(log: KafkaLog, topic: str, partition: int, *, times: int = 1) -> None:
    """Append heartbeats, one after the other."""
    for _ in range(times):
        await log.append(topic, (NewRecord(partition, HEARTBEAT_KEY, b"\0"),))


async def test_a_partition_without_a_recent_record_is_idle(cluster: Cluster, log: KafkaLog) -> None:
    """An empty one has nothing to compact, and one that moved within the bound is well."""
    await cluster.create()
    await beat(log, STATE, 0)
    await beat(log, VIEW, 1)
    well = await idle_partitions(log, (STATE, VIEW), now=now() + timedelta(minutes=50))
    found = await idle_partitions(log, (STATE, VIEW), now=now() + timedelta(hours=3))
    assert well == ()
    assert [(one.topic, one.partitions, one.mend) for one in found] == [
        (STATE, (0,), "worker run"),
        (VIEW, (1,), "worker run"),
    ]
    assert "2 h" in found[0].text


async def test_a_replaced_record_that_stays_for_long_is_late(cluster: Cluster, log: KafkaLog) -> None:
    """Here the segment is young, and no cleaner takes it; a single heartbeat replaces nothing."""
    await cluster.create()
    await beat(log, STATE, 0, times=3)
    await beat(log, STATE, 1)
    await asyncio.sleep(QUICK.late.total_seconds() + 1)
    for partition in (0, 1):
        await log.append(STATE, (NewRecord(partition, b"another", b"x"),))
    just_awake = await late_partitions(log, (STATE,), now=now(), limits=QUICK)
    await asyncio.sleep(QUICK.awake.total_seconds() * 2)
    found = await late_partitions(log, (STATE,), now=now(), limits=QUICK)
    assert just_awake == ()
    assert [(one.topic, one.partitions, one.mend) for one in found] == [(STATE, (0,), "topics plan")]


@pytest.mark.timeout(240)
async def test_a_cleaner_that_does_its_work_is_not_late(cluster: Cluster, log: KafkaLog) -> None:
    """A partition that moves and is compacted holds nothing that was replaced long ago."""
    await cluster.create(scale_ms=SCALE_MS)
    until = time.monotonic() + LATE_S * 1.3
    beats = 0
    while time.monotonic() < until:
        await beat(log, STATE, 0)
        beats += 1
        await asyncio.sleep(0.25)
    limits = Limits(late=timedelta(seconds=LATE_S), awake=timedelta(seconds=1))
    assert await late_partitions(log, (STATE,), now=now(), limits=limits) == ()
    left = len(await log.read(STATE, 0, after=-1))
    edge = await log.since(STATE, 0, int((now() - limits.late).timestamp() * 1000))
    assert (left < beats, edge is not None) == (True, True)
