"""What a client fetched and nobody took is freed at once, not when Python's collector has time.

aiokafka holds a whole answer, megabytes, in a cycle of references. A worker looks at single records
of its ledger every few seconds, and its collector hardly ever runs: the rest of each answer stayed.
"""

import gc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from aiokafka.consumer.fetcher import PartitionRecords

from privacy_ledger.adapters.kafka import ClusterSettings, _clients
from privacy_ledger.adapters.kafka.source import GroupMember, GroupSource
from privacy_ledger.adapters.kafka.tail import KafkaTail
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.engine.assignment import divide
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.testing.broker import Broker
from tests.integration.cluster import Cluster, until
from tests.integration.test_source import Reader

RECORDS = 400
LOOKS = 12
VALUE = bytes(500)


@pytest.fixture
def _collector_at_rest() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _kept(topic: str) -> int:
    """Return how many answers of a topic are in memory."""
    return sum(isinstance(one, PartitionRecords) and one._tp.topic == topic for one in gc.get_objects())  # noqa: SLF001


@pytest.mark.usefixtures("_collector_at_rest")
async def test_no_answer_outlives_who_asked_for_it(kafka: Broker, tmp_path: Path) -> None:
    """A reader that looks here and there keeps one, and none after its end; likewise group and tail."""
    cluster = Cluster(kafka.bootstrap, tmp_path, partitions=1)
    assert cluster.settings.cluster is not None
    await cluster.create()
    topic = cluster.prefix + LEDGER_EVENTS
    async with cluster.runtime() as runtime:
        records = [NewRecord(0, number.to_bytes(32), VALUE) for number in range(RECORDS)]
        first, *_, last = await runtime.log.append(LEDGER_EVENTS, records)
        while await runtime.log.end(LEDGER_EVENTS, 0) <= last:  # a marker of before may be on its way
            pass
        for number in range(LOOKS):
            (row,) = await runtime.log.read_at(LEDGER_EVENTS, 0, (first + number * RECORDS // LOOKS,))
            assert row.value == VALUE
        assert _kept(topic) <= 1
    assert _kept(topic) == 0

    source = GroupSource(
        cluster.settings.cluster, GroupMember(group=f"{cluster.prefix}left", session_ms=6000),
        topic=topic, partitions=1, plan=partial(divide, standbys=0),
    )  # fmt: skip
    reader = Reader(source)
    await source.join(reader)
    await until(lambda: bool(reader.shares))
    for number in range(LOOKS):
        source.resume(0, offset=first + number)
        while not (rows := (await source.poll(timeout_s=5, limit=1)).get(0, ())):
            pass
        assert rows[0].offset == first + number
        source.pause(0)
    assert _kept(topic) <= 1
    await source.leave()
    assert _kept(topic) == 0

    tail = KafkaTail(cluster.settings.cluster, prefix=cluster.prefix, places=1)
    place = (LEDGER_EVENTS, 0)
    for number in range(1, LOOKS):
        await tail.follow({place: first + number})
        while not (found := (await tail.poll(timeout_s=5, limit=1)).get(place, ())):
            pass
        assert found[0].offset == first + number
    assert _kept(topic) <= 1
    await tail.close()
    assert _kept(topic) == 0
    cluster.end()


async def test_a_producer_that_does_not_stop_in_time_leaves_no_connection(
    kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stop waits for its sender, which may wait for a broker."""
    producer = await _clients.open_producer(ClusterSettings(bootstrap=kafka.bootstrap))
    connections = list(producer.client._conns.values())  # noqa: SLF001
    assert any(connection.connected() for connection in connections)
    monkeypatch.setattr(_clients, "STOP_TIMEOUT_S", 0)
    await _clients.discard(producer)
    assert not any(connection.connected() for connection in connections)
