"""The event log on a real broker, and the declared topics there."""

import asyncio
import gc
import secrets
import warnings
from collections import OrderedDict
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient

from privacy_ledger.adapters.kafka import ClusterSettings, KafkaLog, _consumer
from privacy_ledger.adapters.kafka._clients import discard, open_producer
from privacy_ledger.adapters.kafka.topics import apply, open_admin, plan
from privacy_ledger.domain.errors import HomeUnusable, InvariantViolation, LogUnavailable
from privacy_ledger.domain.topics import LEDGER_EVENTS, TOPICS, state_topic
from privacy_ledger.ports.log import EventLog
from privacy_ledger.testing.broker import Broker
from privacy_ledger.testing.contracts.event_log import (
    CONTRACT_TOPICS,
    PARTITIONS,
    EventLogContract,
    OpenLog,
    eventually_reads,
    payload,
    read_all,
    values,
)

LARGE = 30_000
LEARNED_S = 30


@pytest.fixture
def cluster(kafka: Broker) -> ClusterSettings:
    """Return how the broker of this run is reached."""
    return ClusterSettings(bootstrap=kafka.bootstrap)


@pytest_asyncio.fixture
async def admin(cluster: ClusterSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Yield an admin client."""
    async with open_admin(cluster) as client:
        yield client


@pytest_asyncio.fixture
async def prefix(admin: AIOKafkaAdminClient) -> AsyncIterator[str]:
    """Yield a prefix of the test's own, and delete its topics afterwards."""
    own = f"t{secrets.token_hex(4)}."
    yield own
    mine = [name for name in await admin.list_topics() if name.startswith(own)]
    if mine:
        await admin.delete_topics(mine)


class TestKafkaLog(EventLogContract):
    """The contract on Kafka."""

    @pytest_asyncio.fixture
    async def open_log(
        self, cluster: ClusterSettings, admin: AIOKafkaAdminClient, prefix: str
    ) -> AsyncIterator[OpenLog]:
        """Create the topics and yield a function that opens a started log on them."""
        await apply(admin, CONTRACT_TOPICS, partitions=PARTITIONS, prefix=prefix)
        opened: list[KafkaLog] = []

        async def open_one() -> EventLog:
            log = KafkaLog(cluster, partitions=PARTITIONS, prefix=prefix)
            opened.append(log)
            await log.start()
            return log

        yield open_one
        for log in opened:
            await log.close()


async def test_who_looks_again_at_the_end_leaves_no_fetch_there(
    cluster: ClusterSettings, admin: AIOKafkaAdminClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait there for records, and the next question of this client would wait for it."""
    asked: list[str] = []
    send = AIOKafkaClient.send

    async def noted(self: AIOKafkaClient, node_id: int, request: object, **more: object) -> object:
        asked.append(type(request).__name__)
        return await send(self, node_id, request, **more)

    await apply(admin, CONTRACT_TOPICS, partitions=PARTITIONS, prefix=prefix)
    log = KafkaLog(cluster, partitions=PARTITIONS, prefix=prefix)
    await log.start()
    try:
        (offset,) = await log.append(LEDGER_EVENTS, [payload(b"first")])
        await read_all(log, LEDGER_EVENTS)
        monkeypatch.setattr(AIOKafkaClient, "send", noted)
        looks = [await log.read(LEDGER_EVENTS, 0, after=offset) for _ in range(3)]
        at_the_end = [name for name in asked if name.startswith("Fetch")]
        await log.append(LEDGER_EVENTS, [payload(b"second")])
        later = await log.read(LEDGER_EVENTS, 0, after=offset)
    finally:
        await log.close()
    assert (looks, at_the_end) == ([(), (), ()], [])
    assert values(later) == [b"second"]
    assert any(name.startswith("Fetch") for name in asked)


async def test_a_place_beyond_an_end_that_went_back_is_the_end(
    cluster: ClusterSettings, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """Never the beginning: who reads on would take old records for new ones."""
    ledger = next(topic for topic in CONTRACT_TOPICS if topic.name == LEDGER_EVENTS)
    await apply(admin, CONTRACT_TOPICS, partitions=PARTITIONS, prefix=prefix)
    reading, other = (KafkaLog(cluster, partitions=PARTITIONS, prefix=prefix) for _ in range(2))
    await reading.start()
    await other.start()
    try:
        for _ in range(5):  # batches so large that one fetch does not bring all
            await other.append(LEDGER_EVENTS, [payload(bytes(LARGE))])
        before = await reading.read(LEDGER_EVENTS, 0, after=-1, limit=2)
        await other.forget(ledger)
        await other.provide(ledger)
        await other.append(LEDGER_EVENTS, [payload(b"anew")])
        after = await reading.read(LEDGER_EVENTS, 0, after=before[-1].offset, limit=2)
    finally:
        await reading.close()
        await other.close()
    assert (len(before), after) == (2, ())


async def test_what_came_behind_a_marker_is_read_though_an_older_end_was_known(
    cluster: ClusterSettings, admin: AIOKafkaAdminClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader stands before the end that it knew, and only a transaction's marker lies between."""
    is_asked = asyncio.Event()
    send = AIOKafkaClient.send

    async def held_up(self: AIOKafkaClient, node_id: int, request: object, **more: object) -> object:
        if type(request).__name__.startswith("Fetch"):
            await is_asked.wait()
        else:
            is_asked.set()
        return await send(self, node_id, request, **more)

    await apply(admin, CONTRACT_TOPICS, partitions=PARTITIONS, prefix=prefix)
    log = KafkaLog(cluster, partitions=PARTITIONS, prefix=prefix)
    other = KafkaLog(cluster, partitions=PARTITIONS, prefix=prefix)
    await log.start()
    await other.start()
    try:
        await log.append_atomically([(LEDGER_EVENTS, payload(b"first"))], writer="core.0")
        await eventually_reads(other, LEDGER_EVENTS, 1)
        before = await log.read(LEDGER_EVENTS, 0, after=-1, limit=1)
        await log.append_atomically([(LEDGER_EVENTS, payload(b"second"))], writer="core.0")
        await eventually_reads(other, LEDGER_EVENTS, 2)
        monkeypatch.setattr(AIOKafkaClient, "send", held_up)
        after = await log.read(LEDGER_EVENTS, 0, after=before[-1].offset, limit=1)
    finally:
        await log.close()
        await other.close()
    assert (values(before), values(after)) == ([b"first"], [b"second"])


async def test_one_reader_is_turned_from_place_to_place_and_mixes_nothing_up(
    cluster: ClusterSettings, admin: AIOKafkaAdminClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open one for each look would take longer than the look; a page that is left is read on later."""
    monkeypatch.setattr("privacy_ledger.adapters.kafka.log._IDLE_READERS", 1)
    started: list[AIOKafkaConsumer] = []
    start = AIOKafkaConsumer.start

    async def noted(self: AIOKafkaConsumer) -> None:
        started.append(self)
        await start(self)

    monkeypatch.setattr(AIOKafkaConsumer, "start", noted)
    await apply(admin, CONTRACT_TOPICS, partitions=PARTITIONS, prefix=prefix)
    log = KafkaLog(cluster, partitions=PARTITIONS, prefix=prefix)
    await log.start()
    try:
        sent = [payload(b"%d/%d" % (place, n), partition=place) for n in range(3) for place in (0, 1)]
        await log.append(LEDGER_EVENTS, sent)
        found = [
            values(await log.read(LEDGER_EVENTS, place, after=n - 1, limit=1))
            for n in range(4)
            for place in (0, 1)
        ]
    finally:
        await log.close()
    assert found == [*([record.value] for record in sent), [], []]
    assert len(started) == 1


async def test_a_topic_that_was_not_created_is_named(cluster: ClusterSettings, prefix: str) -> None:
    """At once, and with the command that creates it."""
    log = KafkaLog(cluster, prefix=prefix)
    await log.start()
    try:
        with pytest.raises(LogUnavailable, match="topics apply"):
            await log.append(LEDGER_EVENTS, [payload(b"x")])
    finally:
        await log.close()


async def test_another_partition_count_than_declared_is_not_used(
    cluster: ClusterSettings, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """A record in a wrong partition would lose its order for ever."""
    await apply(admin, CONTRACT_TOPICS, partitions=PARTITIONS, prefix=prefix)
    log = KafkaLog(cluster, partitions=PARTITIONS + 1, prefix=prefix)
    await log.start()
    try:
        with pytest.raises(HomeUnusable, match="2 partitions, and 3 are declared"):
            await log.append(LEDGER_EVENTS, [payload(b"x", partition=2)])
    finally:
        await log.close()


async def test_a_cluster_that_does_not_answer_is_named() -> None:
    """With its address, so that an operator can look."""
    log = KafkaLog(ClusterSettings(bootstrap="127.0.0.1:1"))
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1:1 "):
        await log.start()
    await log.close()


async def test_a_writer_that_is_given_up_while_it_opens_is_closed(
    cluster: ClusterSettings, prefix: str
) -> None:
    """As when partitions are revoked while a worker takes them over: no producer lives on."""
    log = KafkaLog(cluster, prefix=prefix)
    await log.start()
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        for turns in range(0, 40, 4):
            opening = asyncio.create_task(log.open_writer("core.0"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.sleep(turns / 4000)
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            gc.collect()
        await log.close()
        gc.collect()
    assert [str(one.message) for one in complaints] == []


async def test_an_empty_cluster_lacks_every_topic(admin: AIOKafkaAdminClient, prefix: str) -> None:
    """The plan creates them in the order of the declaration."""
    changes = await plan(admin, TOPICS, partitions=3, prefix=prefix)
    assert [(c.topic, c.action) for c in changes] == [(prefix + topic.name, "create") for topic in TOPICS]


async def test_after_apply_there_is_no_drift(admin: AIOKafkaAdminClient, prefix: str) -> None:
    """And applying again changes nothing."""
    created = await apply(admin, TOPICS, partitions=3, prefix=prefix)
    assert len(created) == len(TOPICS)
    assert await plan(admin, TOPICS, partitions=3, prefix=prefix) == ()
    assert await apply(admin, TOPICS, partitions=3, prefix=prefix) == ()


async def test_topics_of_others_are_left_alone(admin: AIOKafkaAdminClient, prefix: str) -> None:
    """An undeclared topic is neither drift nor removed."""
    await apply(admin, CONTRACT_TOPICS, partitions=2, prefix=prefix)
    await admin.create_topics([NewTopic(prefix + "foreign", 1, 1)])
    async with asyncio.timeout(LEARNED_S):
        while prefix + "foreign" not in await admin.list_topics():  # noqa: ASYNC110 - brokers learn in the background
            await asyncio.sleep(0.05)
    assert await apply(admin, CONTRACT_TOPICS, partitions=2, prefix=prefix) == ()
    assert prefix + "foreign" in await admin.list_topics()


async def test_one_changed_key_keeps_the_cleanup_policy(admin: AIOKafkaAdminClient, prefix: str) -> None:
    """A compacted topic that silently became `delete` would lose the ledger."""
    await apply(admin, CONTRACT_TOPICS, partitions=2, prefix=prefix)
    await apply(admin, CONTRACT_TOPICS, partitions=2, scale_ms=3000, prefix=prefix)
    resource = ConfigResource(ConfigResourceType.TOPIC, prefix + LEDGER_EVENTS)
    (response,) = await admin.describe_configs([resource])
    config = {entry[0]: entry[1] for entry in response.resources[0][4]}
    assert (config["cleanup.policy"], config["max.compaction.lag.ms"]) == ("compact", "3000")


async def set_by_others(admin: AIOKafkaAdminClient, name: str, config: dict[str, str]) -> None:
    """Set a topic's whole configuration, and wait until the broker that is asked knows it."""
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, config)])
    async with asyncio.timeout(LEARNED_S):
        while True:
            (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
            shown = {entry[0]: entry[1] for entry in response.resources[0][4]}
            if all(shown.get(key) == value for key, value in config.items()):
                return
            await asyncio.sleep(0.05)


async def test_a_topic_that_lost_its_policy_is_drift_and_is_repaired(
    admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """Here by the very call that resets what is not sent."""
    await apply(admin, CONTRACT_TOPICS, partitions=2, prefix=prefix)
    name = prefix + LEDGER_EVENTS
    await set_by_others(admin, name, {"segment.ms": "5000"})
    (change,) = await apply(admin, CONTRACT_TOPICS, partitions=2, prefix=prefix)
    assert (change.topic, change.action) == (name, "alter")
    assert "cleanup.policy unset → compact" in change.text
    assert await plan(admin, CONTRACT_TOPICS, partitions=2, prefix=prefix) == ()


async def test_a_key_set_by_others_is_drift(admin: AIOKafkaAdminClient, prefix: str) -> None:
    """What is not declared does not stay."""
    await apply(admin, CONTRACT_TOPICS, partitions=2, prefix=prefix)
    foreign = CONTRACT_TOPICS[0].config() | {"retention.bytes": "1000"}
    await set_by_others(admin, prefix + CONTRACT_TOPICS[0].name, foreign)
    (change,) = await apply(admin, CONTRACT_TOPICS, partitions=2, prefix=prefix)
    assert change.text.endswith("differs: retention.bytes 1000 → unset.")


async def test_another_partition_count_is_refused_and_nothing_is_changed(
    admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """The order per person depends on it."""
    await apply(admin, CONTRACT_TOPICS[:1], partitions=2, prefix=prefix)
    with pytest.raises(InvariantViolation, match="2 partitions, and 4 are declared"):
        await apply(admin, CONTRACT_TOPICS, partitions=4, prefix=prefix)
    assert [name for name in await admin.list_topics() if name.startswith(prefix)] == [
        prefix + CONTRACT_TOPICS[0].name
    ]


async def test_a_refusal_of_the_cluster_is_an_error(admin: AIOKafkaAdminClient, prefix: str) -> None:
    """The client raises nothing by itself: three replicas on one broker."""
    with pytest.raises(LogUnavailable, match="InvalidReplicationFactor"):
        await apply(admin, CONTRACT_TOPICS, partitions=2, replication=3, prefix=prefix)


async def test_a_client_that_unpacks_records_in_another_way_is_refused(
    cluster: ClusterSettings, admin: AIOKafkaAdminClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records look like rows in part: they would be folded without a word."""
    await apply(admin, CONTRACT_TOPICS, partitions=PARTITIONS, prefix=prefix)
    monkeypatch.setattr(_consumer, "_Fetched", OrderedDict)
    log = KafkaLog(cluster, partitions=PARTITIONS, prefix=prefix)
    await log.start()
    try:
        await log.append(LEDGER_EVENTS, [payload(b"1")])
        with pytest.raises(InvariantViolation, match="the locked release"):
            await read_all(log, LEDGER_EVENTS)
    finally:
        await log.close()


async def test_what_an_open_transaction_wrote_is_waited_for(
    cluster: ClusterSettings, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """It is readable partition by partition: who has seen one record of it asks for all the others."""
    await apply(admin, CONTRACT_TOPICS, partitions=PARTITIONS, prefix=prefix)
    log = KafkaLog(cluster, partitions=PARTITIONS, prefix=prefix)
    await log.start()
    writer = await open_producer(cluster, transactional_id=f"{prefix}core.0")
    places = [(state_topic("core"), 0), (LEDGER_EVENTS, 0), (LEDGER_EVENTS, 1)]
    try:
        assert await log.until_readable(places, 0)
        await writer.begin_transaction()
        await writer.send_and_wait(prefix + LEDGER_EVENTS, b"written", key=b"1", partition=1)
        assert not await log.until_readable(places, 0.2)
        assert await log.until_readable(places[:2], 0)
        waiting = asyncio.create_task(log.until_readable(places, 30))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await writer.commit_transaction()
        assert await waiting
        assert values(await log.read(LEDGER_EVENTS, 1, after=-1)) == [b"written"]
    finally:
        await discard(writer)
        await log.close()
