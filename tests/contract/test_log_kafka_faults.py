"""The event log on a broker that is killed, restarted and paused."""

import asyncio

import pytest

from privacy_ledger.adapters.kafka import ClusterSettings, KafkaLog
from privacy_ledger.adapters.kafka.topics import apply, open_admin
from privacy_ledger.domain.errors import LogUnavailable
from privacy_ledger.domain.topics import LEDGER_EVENTS, state_topic
from privacy_ledger.testing.broker import BrokerProcess
from privacy_ledger.testing.contracts.event_log import (
    CONTRACT_TOPICS,
    PARTITIONS,
    eventually_reads,
    payload,
    read_all,
    values,
)

STATE = state_topic("core")
RECORDS = 200
DOWN_S = 3.0


async def started(process: BrokerProcess) -> KafkaLog:
    """Return an open log on topics of this broker."""
    cluster = ClusterSettings(bootstrap=process.bootstrap)
    async with open_admin(cluster) as admin:
        await apply(admin, CONTRACT_TOPICS, partitions=PARTITIONS)
    log = KafkaLog(cluster, partitions=PARTITIONS)
    await log.start()
    return log


async def test_appends_survive_a_killed_broker_without_loss_or_repeat(broker_process: BrokerProcess) -> None:
    """The append under way waits for the restart; every acknowledged record is there once, in order."""
    log = await started(broker_process)
    sent = [b"%d" % number for number in range(RECORDS)]

    is_under_way = asyncio.Event()

    async def append() -> None:
        for value in sent:
            await log.append(LEDGER_EVENTS, [payload(value, key=value)])
            # Before the first one it asks whether the topic is as declared, which a kill would end.
            is_under_way.set()

    appending = asyncio.create_task(append())
    await is_under_way.wait()
    await asyncio.to_thread(broker_process.kill)
    await asyncio.to_thread(broker_process.start)
    await appending
    rows = await read_all(log, LEDGER_EVENTS)
    await log.close()
    assert values(rows) == sent


async def test_a_dead_broker_is_an_error_in_bounded_time_and_the_log_recovers(
    broker_process: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reader, appends and writer all go on when it is back; the writer after it is opened again."""
    log = await started(broker_process)
    await log.append(LEDGER_EVENTS, [payload(b"before")])
    await log.append_atomically([(STATE, payload(b"before", key=b"1"))], writer="core.0")
    await eventually_reads(log, STATE, 1)
    await asyncio.to_thread(broker_process.kill)
    with monkeypatch.context() as bounds:
        for bound in ("DELIVERY_TIMEOUT_S", "START_TIMEOUT_S"):
            bounds.setattr(f"privacy_ledger.adapters.kafka._clients.{bound}", DOWN_S)
        async with asyncio.timeout(20 * DOWN_S):
            with pytest.raises(LogUnavailable):
                await log.append(LEDGER_EVENTS, [payload(b"lost")])
            with pytest.raises(LogUnavailable):
                await log.append_atomically([(STATE, payload(b"lost", key=b"2"))], writer="core.0")
            with pytest.raises(LogUnavailable, match="Open it again"):
                await log.append_atomically([(STATE, payload(b"lost", key=b"2"))], writer="core.0")
            with pytest.raises(LogUnavailable):
                await log.end(LEDGER_EVENTS, 0)
    await asyncio.to_thread(broker_process.start)
    await log.append(LEDGER_EVENTS, [payload(b"after")])
    await log.open_writer("core.0")
    await log.append_atomically([(STATE, payload(b"after", key=b"3"))], writer="core.0")
    state = await eventually_reads(log, STATE, 2)
    rows = await read_all(log, LEDGER_EVENTS)
    await log.close()
    assert (values(rows), values(state)) == ([b"before", b"after"], [b"before", b"after"])
