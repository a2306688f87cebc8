"""What a client can know of a cluster's compaction: whether partitions move, and what is left.

An idle partition never rolls its last segment, and the cleaner leaves that one alone: erased bytes
stay. A replaced record that is still there long after it was replaced says that the cleaner is
behind, or gave the partition up after an error. How far the cleaner is, only the broker knows.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.observe import Compaction

__all__ = ["CompactionFinding", "Examined", "Limits", "examine", "idle_partitions", "late_partitions"]

WINDOW: Final = 1000
"""Offsets looked through for a replaced heartbeat: owners write one every few seconds."""


class Limits(Struct, frozen=True, kw_only=True):
    """How long is too long, for the declared periods of an hour."""

    idle: timedelta = timedelta(hours=2)
    """Two missed ticks or heartbeats."""
    late: timedelta = timedelta(hours=6)
    """Thrice what segment, heartbeat and cleaner may take."""
    awake: timedelta = timedelta(minutes=30)
    """A partition that moves again gives the cleaner so much time."""


class CompactionFinding(Struct, frozen=True, kw_only=True):
    """What is wrong with partitions of one topic, and the command that mends it or says more.

    `lag`: the age of the oldest record that should be gone.
    """

    topic: str
    partitions: tuple[int, ...]
    text: str
    mend: str
    lag: timedelta = timedelta()


class Examined(Struct, frozen=True, kw_only=True):
    """What is wrong, and the figures of every topic that was looked at."""

    findings: tuple[CompactionFinding, ...]
    figures: tuple[Compaction, ...]


async def examine(
    log: KafkaLog,
    *,
    sources: Collection[str],
    changelogs: Collection[str],
    now: datetime,
    limits: Limits | None = None,
) -> Examined:
    """Look at the topics that passes read, and at those that they keep."""
    topics = sorted({*sources, *changelogs})
    idle = await idle_partitions(log, topics, now=now, limits=limits)
    late = await late_partitions(log, sorted(changelogs), now=now, limits=limits)
    idle_of, late_of = {one.topic: one for one in idle}, {one.topic: one for one in late}
    figures = tuple(
        Compaction(
            topic=topic,
            idle=len(idle_of[topic].partitions) if topic in idle_of else 0,
            late=len(late_of[topic].partitions) if topic in late_of else 0,
            lag_s=late_of[topic].lag.total_seconds() if topic in late_of else 0.0,
        )
        for topic in topics
    )
    return Examined(findings=(*idle, *late), figures=figures)


async def idle_partitions(
    log: KafkaLog, topics: Sequence[str], *, now: datetime, limits: Limits | None = None
) -> tuple[CompactionFinding, ...]:
    """Return the topics of which a partition holds records and got none for long."""
    limits = limits or Limits()
    since = int((now - limits.idle).timestamp() * 1000)
    found: defaultdict[str, list[int]] = defaultdict(list)
    for topic in topics:
        for partition in range(log.partitions(topic)):
            if await log.end(topic, partition) and await log.since(topic, partition, since) is None:
                found[topic].append(partition)
    return tuple(
        CompactionFinding(
            topic=topic, partitions=tuple(partitions), mend="worker run",
            text=f"{_places(topic, partitions)}: nothing was appended for {_hours(limits.idle)}. What is "
            "idle is never compacted, and keeps the bytes of the erased",
        )
        for topic, partitions in found.items()
    )  # fmt: skip


async def late_partitions(
    log: KafkaLog, topics: Sequence[str], *, now: datetime, limits: Limits | None = None
) -> tuple[CompactionFinding, ...]:
    """Return the changelogs of which a partition moves, and still holds what was replaced long ago."""
    limits = limits or Limits()
    found: defaultdict[str, list[int]] = defaultdict(list)
    lags: defaultdict[str, timedelta] = defaultdict(timedelta)
    for topic in topics:
        for partition in range(log.partitions(topic)):
            lag = await _late_by(log, topic, partition, now=now, limits=limits)
            if lag is not None:
                found[topic].append(partition)
                lags[topic] = max(lags[topic], lag)
    return tuple(
        CompactionFinding(
            topic=topic, partitions=tuple(partitions), mend="topics plan", lag=lags[topic],
            text=f"{_places(topic, partitions)}: what was replaced {_hours(limits.late)} ago is still "
            "there. If no topic differs, the broker's log cleaner is behind or gave up",
        )
        for topic, partitions in found.items()
    )  # fmt: skip


async def _late_by(
    log: KafkaLog, topic: str, partition: int, *, now: datetime, limits: Limits
) -> timedelta | None:
    """Return the age of a replaced heartbeat that should be gone; None where there is none."""
    edge = await log.since(topic, partition, int((now - limits.late).timestamp() * 1000))
    if edge is None or edge.appended_ms > (now - limits.awake).timestamp() * 1000:
        return None
    rows = await log.read(topic, partition, after=max(-1, edge.offset - 1 - WINDOW), limit=WINDOW)
    old = [row for row in rows if row.offset < edge.offset and row.key == HEARTBEAT_KEY]
    newest = await log.latest(topic, partition, HEARTBEAT_KEY) if old else None
    if newest is None or newest.offset <= old[0].offset:
        return None
    return now - datetime.fromtimestamp(old[0].appended_ms / 1000, UTC)


def _places(topic: str, partitions: Sequence[int]) -> str:
    return f"{topic} partition {', '.join(map(str, partitions))}"


def _hours(period: timedelta) -> str:
    return f"{period.total_seconds() / 3600:g} h"
