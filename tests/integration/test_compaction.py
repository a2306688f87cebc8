"""What a client sees of a real broker's compaction: idle partitions, and a cleaner that is late."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from msgspec import structs

from privacy_ledger.adapters.kafka.compaction import Limits, examine, idle_partitions, late_partitions
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.observe.prometheus import PrometheusMeters
from privacy_ledger.domain.topics import LEDGER_EVENTS, TOPICS, product_topic, state_topic, view_topic
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.ports.observe import Compaction
from privacy_ledger.testing.broker import Broker
from processors.app import look_at_compaction
from tests.integration.cluster import Cluster

STATE: Final = state_topic("core")
VIEW: Final = view_topic("progress")
QUICK: Final = Limits(idle=timedelta(hours=1), late=timedelta(seconds=2), awake=timedelta(milliseconds=500))
SCALE_MS: Final = 2000
IMPATIENT: Final = (
    "from datetime import timedelta; from functools import partial; "
    "from privacy_ledger.adapters.kafka import compaction as c; "
    "c.Limits = partial(c.Limits, idle=timedelta(seconds=1)); "
    "from privacy_ledger.interfaces.cli import main; main()"
)
"""The command with one second of patience instead of two hours."""
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


async def test_figures_tell_the_same_as_the_findings(cluster: Cluster, log: KafkaLog) -> None:
    """Idle, late and by how much, for every topic that was looked at; a topic that is well has zeros."""
    await cluster.create()
    await beat(log, STATE, 0, times=3)
    await asyncio.sleep(QUICK.late.total_seconds() + 1)
    await log.append(STATE, (NewRecord(0, b"another", b"x"),))
    await asyncio.sleep(QUICK.awake.total_seconds() * 2)
    late = await examine(log, sources=(), changelogs=(STATE, VIEW), now=now(), limits=QUICK)
    idle = await examine(log, sources=(), changelogs=(STATE, VIEW), now=now() + timedelta(hours=2))
    (of_state, of_view), (of_idle, _) = late.figures, idle.figures
    assert of_view == Compaction(topic=VIEW, idle=0, late=0, lag_s=0.0)
    assert (of_state.idle, of_state.late, of_idle.idle, of_idle.late) == (0, 1, 1, 0)
    assert QUICK.late.total_seconds() < of_state.lag_s < 60


async def test_a_worker_shows_idle_partitions_in_its_metrics_and_the_doctor_names_them(
    cluster: Cluster,
) -> None:
    """Both look at every topic that a pass reads or keeps; with two hours' patience there is nothing yet."""
    await cluster.create()
    meters = PrometheusMeters({})
    async with cluster.runtime() as runtime:
        await runtime.registrar.tick()
        watched = structs.replace(runtime, meters=meters)
        await look_at_compaction(watched)
        patient = meters.expose()
        await asyncio.sleep(1.5)
        await look_at_compaction(watched, limits=Limits(idle=timedelta(seconds=1)))
    idle = f'privacy_ledger_compaction_idle_partitions{{topic="{LEDGER_EVENTS}"}}'.encode()
    assert idle + b" 0.0" in patient
    assert idle + b" 2.0" in meters.expose()
    assert f'idle_partitions{{topic="{STATE}"}} 0.0'.encode() in meters.expose()
    findings = [
        await asyncio.to_thread(doctor, cluster, program)
        for program in (("-m", "privacy_ledger"), ("-c", IMPATIENT))
    ]
    said = [[text for text in found if "never compacted" in text] for found in findings]
    assert said[0] == []
    assert [text.partition(":")[0] for text in said[1]] == [f"{LEDGER_EVENTS} partition 0, 1"]


def doctor(cluster: Cluster, program: tuple[str, str]) -> list[str]:
    """Return what the doctor finds."""
    done = subprocess.run(
        [sys.executable, *program, "--json", "doctor"], env=cluster.env, capture_output=True, check=False,
        stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    return [one["finding"] for one in json.loads(done.stdout)["findings"]]


@pytest.mark.timeout(240)
async def test_owners_and_the_registrar_keep_every_compacted_partition_awake(
    cluster: Cluster, log: KafkaLog
) -> None:
    """With each tick: the registrar's in every ledger partition, a heartbeat in all that passes write.

    The public copy alone gets none: it holds nobody's value, and its writer is no worker.
    """
    await cluster.create()
    cluster.worker()
    async with cluster.runtime() as runtime:
        await runtime.registrar.tick()
        await runtime.passes.settle(timeout_s=120)
        ends = {place: await log.end(*place) for place in places(log)}
        await runtime.registrar.tick(force=True)
        await runtime.passes.settle(timeout_s=60)
        asleep = []
        for (topic, partition), end in ends.items():
            rows = await log.read(topic, partition, after=end - 1)
            is_awake = bool(rows) if topic == LEDGER_EVENTS else any(r.key == HEARTBEAT_KEY for r in rows)
            asleep += [] if is_awake else [(topic, partition)]
    assert len(ends) == 2 * 7
    assert asleep == []


def places(log: KafkaLog) -> list[tuple[str, int]]:
    """Return every partition of every compacted topic, but of the public copy."""
    names = [
        topic.name
        for topic in TOPICS
        if topic.policy == "compact" and topic.name != product_topic("course_views_daily")
    ]
    return [(name, partition) for name in names for partition in range(log.partitions(name))]


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
