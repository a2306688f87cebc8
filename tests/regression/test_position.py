"""A group's committed offset is a lag figure: wherever it stands, a pass goes on at its own position."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from privacy_ledger.adapters.formats import openedx
from privacy_ledger.adapters.kafka.settings import group_options
from privacy_ledger.app.ingest import Source
from privacy_ledger.bootstrap import Runtime, ingest_of, subjects_of
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.streams import subject_view
from privacy_ledger.streams.states import PERMISSIONS
from privacy_ledger.testing.broker import Broker
from privacy_ledger.testing.generator import generate, user_id_of
from tests.integration.cluster import Cluster

PURPOSE = "improve.analyse"
LEARNER = f"openedx:user_id:{user_id_of(0)}"


async def ingested(runtime: Runtime) -> None:
    """Take a few days of one learner and let the passes settle."""
    end = datetime.now(UTC) - timedelta(hours=2)
    lines = list(generate(seed=7, learners=1, courses=2, events=60, start=end - timedelta(days=5), end=end))
    source = Source(name="openedx", parse=openedx.parse, default_consents=(PURPOSE,))
    await (await ingest_of(runtime)).run(enumerate(lines, start=1), source)
    await runtime.passes.settle(timeout_s=60)


async def moved(cluster: Cluster, runtime: Runtime, *, to_end: bool) -> None:
    """Set the committed offsets of every pass's group to the beginning or to the end of the ledger."""
    end = await runtime.log.end(LEDGER_EVENTS, 0)
    settings = cluster.settings.cluster
    assert settings is not None
    place = TopicPartition(cluster.prefix + LEDGER_EVENTS, 0)
    for name in runtime.declared:
        group = f"{cluster.prefix}privacy-ledger.{name}"
        consumer = AIOKafkaConsumer(**group_options(settings, group=group, session_ms=6000, partitions=1))
        await consumer.start()
        try:
            consumer.assign([place])
            await consumer.commit({place: end if to_end else 0})
        finally:
            await consumer.stop()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("to_end", [False, True], ids=["at the beginning", "past what is not folded"])
async def test_a_groups_committed_offset_is_never_a_position(
    kafka: Broker,
    tmp_path: Path,
    to_end: bool,  # noqa: FBT001 - a case of the test
) -> None:
    """Nothing is folded twice and nothing is left out, though the group says otherwise."""
    cluster = Cluster(kafka.bootstrap, tmp_path, partitions=1)
    await cluster.create()
    try:
        async with cluster.runtime() as runtime:
            worker = cluster.worker()
            await runtime.registrar.tick()
            await ingested(runtime)
            subjects = await subjects_of(runtime)
            (ref,) = subjects.find(LEARNER).refs
            before = await runtime.views.get(subject_view.TABLE, ref)
            await asyncio.to_thread(worker.terminate)
            await subjects.restrict(LEARNER, ground="accuracy")
            await moved(cluster, runtime, to_end=to_end)

            cluster.worker()
            await runtime.passes.settle(timeout_s=60)

            after = await runtime.views.get(subject_view.TABLE, ref)
            allowed = await runtime.views.get(PERMISSIONS, ref)
            assert allowed is not None
            assert allowed.is_restricted
            assert before is not None
            assert after == before
            assert (await verify(runtime)).is_equal
    finally:
        cluster.end()
