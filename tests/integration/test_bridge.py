"""A platform's own topic, bridged on a real broker by processes that die."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import fastavro
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from privacy_ledger.adapters.formats import openedx
from privacy_ledger.adapters.kafka import topics as kafka_topics
from privacy_ledger.adapters.kafka._clients import open_producer
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.adapters.views import TailedLatest
from privacy_ledger.app.ingest import Source
from privacy_ledger.bootstrap import Runtime
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS
from privacy_ledger.engine.rebuild import live_digests
from privacy_ledger.testing.broker import Broker
from privacy_ledger.testing.generator import generate
from tests.integration.cluster import Cluster, Process
from tests.unit.home import home

RAW: Final = "platform.tracking"
RAW_PARTITIONS: Final = 3
LEARNERS: Final = 60
LINES: Final = 4000
SCHEMAS: Final = Path(__file__).parents[1] / "fixtures" / "openedx-events-avro"


def made(count: int) -> list[bytes]:
    """Return lines of the tracking log of the last days."""
    end = datetime.now(UTC) - timedelta(hours=1)
    start = end - timedelta(days=3)
    return list(generate(seed=11, learners=LEARNERS, courses=3, events=count, start=start, end=end))


class Platform:
    """A cluster with a topic of the platform's own."""

    def __init__(self, cluster: Cluster) -> None:
        """Take the cluster."""
        self.cluster = cluster
        self.topic = cluster.prefix + RAW

    @property
    def settings(self) -> ClusterSettings:
        """How the broker is reached."""
        settings = self.cluster.settings.cluster
        assert settings is not None
        return settings

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """Yield an admin client."""
        async with kafka_topics.open_admin(self.settings) as admin:
            yield admin

    async def send(
        self, values: Sequence[bytes | None], *, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Send messages as the platform does: in turn to each partition, under keys that name people."""
        producer = await open_producer(self.settings)
        try:
            for number, value in enumerate(values):
                await producer.send(
                    self.topic, value, key=b"learner-marker-key", partition=number % RAW_PARTITIONS,
                    headers=list(headers),
                )  # fmt: skip
            await producer.flush()
        finally:
            await producer.stop()

    def bridge(self, *words: str) -> Process:
        """Start a bridge as a process."""
        log = self.cluster.folder / f"bridge-{time.monotonic_ns()}.log"
        command = [
            "-m",
            "privacy_ledger",
            "--log-level",
            "INFO",
            "bridge",
            "--from-topic",
            self.topic,
            *words,
        ]
        return Process(command, log, env=self.cluster.env)

    async def bridged(self, form: str, *words: str) -> dict[str, Any]:
        """Bridge to the end of the topic, and return the summary."""
        code, document = await self.cluster.command(
            "bridge", "--from-topic", self.topic, "--format", form, "--until-end", *words
        )
        assert code in {0, 5}, document
        parts = ("accepted", "duplicates", "refused", "unattributed", "malformed")
        assert document["read"] == sum(document[part] for part in parts)
        return document

    async def live(self, runtime: Runtime) -> dict[str, int]:
        """Return how many keys each projection has, once everything is folded."""
        await runtime.passes.settle(timeout_s=90)
        return await keys_of(runtime, TailedLatest(runtime.log))


async def keys_of(runtime: Runtime, latest: Any) -> dict[str, int]:  # noqa: ANN401 - either kind of home
    """Return how many keys each compared table of the core pass has."""
    digests = await live_digests(
        runtime.declared["core"], runtime.states, latest, partitions=runtime.partitions
    )
    return {one.table: one.keys for one in digests}


@pytest_asyncio.fixture
async def platform(kafka: Broker, tmp_path: Path) -> AsyncIterator[Platform]:
    """Yield a cluster whose passes run, with an empty topic of the platform's."""
    cluster = Cluster(kafka.bootstrap, tmp_path, partitions=2)
    await cluster.create()
    found = Platform(cluster)
    async with found.admin() as admin:
        await admin.create_topics([NewTopic(found.topic, RAW_PARTITIONS, 1)])
    async with cluster.runtime():
        pass  # the registry is in force before a worker starts
    cluster.worker().wait_running(2 * 2)
    try:
        yield found
    finally:
        await cluster.remove()


async def test_every_event_counts_once_though_bridges_die(platform: Platform, tmp_path: Path) -> None:
    """Two share the topic while it grows, one after the other is killed; what they read again is a copy."""
    lines = made(LINES)
    async with home(tmp_path / "plain") as plain:
        summary = await plain.ingest.run(
            enumerate(lines, start=1), Source(name="openedx", parse=openedx.parse)
        )
        await plain.runtime.passes.settle()
        wanted = await keys_of(plain.runtime, plain.runtime.latest)
    bridges: list[Process] = []
    started: list[Process] = []
    try:
        for start in range(0, LINES, LINES // 4):
            fresh = [platform.bridge("--format", "openedx") for _ in range(2 - len(bridges))]
            bridges += fresh
            started += fresh
            await platform.send(lines[start : start + LINES // 4])
            await asyncio.sleep(4)
            bridges.pop(0).kill()
    finally:
        for one in bridges:
            one.end()
    again = await platform.bridged("openedx")
    nothing = await platform.bridged("openedx")
    async with platform.cluster.runtime() as runtime:
        found = await platform.live(runtime)
    assert summary.records > LINES // 2
    assert again["read"] <= LINES
    assert nothing["read"] == 0
    assert found == wanted
    assert not any(b"learner-marker-key" in one.log.read_bytes() for one in started)


async def test_what_is_no_event_is_set_aside_by_its_offset_and_stops_nothing(platform: Platform) -> None:
    """Nothing, no JSON, and a card's number; a stop by SIGTERM commits what was taken."""
    card = b'{"event_type": "x", "event": {"note": "4111 1111 1111 1111"}}'
    await platform.send([None, b"no json", b" ", card, *made(20)])
    process = platform.bridge("--format", "openedx", "--source", "our-lms")
    try:
        async with asyncio.timeout(60):
            while await _committed(platform, "our-lms") < 24:  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(0.2)
        process.terminate()
    finally:
        process.end()
    rest = await platform.bridged("openedx", "--source", "our-lms")
    async with platform.cluster.runtime() as runtime:
        letters = [
            json.loads(row.value or b"{}")
            for partition in range(runtime.log.partitions(DLQ))
            for row in await runtime.log.read(DLQ, partition, after=-1)
        ]
    mine = [one for one in letters if one.get("source") == "our-lms"]
    assert rest["read"] == 0
    assert {"null_value", "not_json", "card_number"} <= {one["reason"] for one in mine}
    assert {one["line"] for one in mine if one["reason"] in {"null_value", "card_number"}} == {0, 1}
    assert "4111" not in json.dumps(letters)


async def test_messages_that_were_removed_before_they_were_read_are_counted(platform: Platform) -> None:
    """The topic's retention was faster than the bridge: it goes on where the topic begins now."""
    lines = made(90)
    await platform.send(lines[:30])
    first = await platform.bridged("openedx")
    await platform.send(lines[30:60])
    async with platform.admin() as admin:
        below = {
            TopicPartition(platform.topic, number): RecordsToDelete(15) for number in range(RAW_PARTITIONS)
        }
        await admin.delete_records(below)
    await platform.send(lines[60:])
    second = await platform.bridged("openedx")
    assert (first["read"], first["lost"]) == (30, 0)
    assert (second["read"], second["lost"]) == (45, 15)


async def test_the_event_bus_is_read_by_the_schemas_of_a_folder(platform: Platform) -> None:
    """The number by which a registry knows the schema says nothing here; the type of the headers does."""
    kind = "org.openedx.learning.course.enrollment.created.v1"
    schema = json.loads((SCHEMAS / f"{kind.replace('.', '+')}_schema.avsc").read_text())
    raw = io.BytesIO()
    fastavro.schemaless_writer(raw, fastavro.parse_schema(schema), _enrolled())
    at = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    headers = [
        ("ce_type", kind.encode()), ("ce_id", b"b2d3a1f0-0000-4000-8000-000000000001"),
        ("ce_source", b"openedx/lms/web"), ("ce_specversion", b"1.0"), ("ce_time", at.encode()),
        ("content-type", b"application/avro"), ("ce_datacontenttype", b"application/avro"),
    ]  # fmt: skip
    await platform.send([b"\0\0\0\0\7" + raw.getvalue()], headers=headers)
    await platform.send([b"\0\0\0\0\7x"], headers=[*headers[1:], ("ce_type", b"org.openedx.unheard.of.v1")])
    done = await platform.bridged("openedx-bus", "--avro-schemas", str(SCHEMAS))
    assert (done["accepted"], done["reasons"]) == (1, {"unknown_event": 1})


async def test_cloudevents_in_either_mode_are_one_event(platform: Platform) -> None:
    """Structured or binary: the same source and id."""
    at = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    line = made(1)[0]
    kind, source = "privacy-ledger.openedx", "https://lms.example.com"
    binary = [
        ("ce_specversion", b"1.0"), ("ce_id", b"one"), ("ce_source", source.encode()),
        ("ce_type", kind.encode()), ("ce_time", at.encode()), ("content-type", b"application/json"),
    ]  # fmt: skip
    whole = {
        "specversion": "1.0", "id": "one", "source": source, "type": kind, "time": at,
        "data": json.loads(line),
    }  # fmt: skip
    await platform.send([line], headers=binary)
    first = await platform.bridged("cloudevents")
    async with platform.cluster.runtime() as runtime:
        before = await platform.live(runtime)
    await platform.send(
        [json.dumps(whole).encode()], headers=[("content-type", b"application/cloudevents+json")]
    )
    second = await platform.bridged("cloudevents")
    async with platform.cluster.runtime() as runtime:
        after = await platform.live(runtime)
        ends = [await runtime.log.end(LEDGER_EVENTS, number) for number in range(2)]
    assert (first["read"], second["read"], second["malformed"], second["refused"]) == (1, 1, 0, 0)
    assert before == after
    assert sum(ends) > 0


async def _committed(platform: Platform, source: str) -> int:
    """Return how many offsets the group has committed, over all partitions."""
    async with platform.admin() as admin:
        offsets = await admin.list_consumer_group_offsets(f"{platform.cluster.prefix}bridge.{source}")
    return sum(found.offset for place, found in offsets.items() if place.topic == platform.topic)


def _enrolled() -> dict[str, Any]:
    user = {
        "id": 77, "is_active": True,
        "pii": {"username": "ada", "email": "ada@example.com", "name": "Ada Example"},
    }  # fmt: skip
    course = {"course_key": "course-v1:Example+One+2026", "display_name": "One", "start": None, "end": None}
    return {
        "enrollment": {
            "user": user, "course": course, "mode": "audit", "is_active": True,
            "creation_date": datetime.now(UTC).isoformat(), "created_by": None,
        }
    }  # fmt: skip
