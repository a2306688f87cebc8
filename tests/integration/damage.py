"""One pass on a real broker whose store, changelogs and ledger are damaged between two runs."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from privacy_ledger.adapters.formats import openedx
from privacy_ledger.adapters.kafka import topics as kafka_topics
from privacy_ledger.adapters.kafka._clients import open_producer, translated_errors
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.adapters.views import TailedLatest
from privacy_ledger.app.ingest import Source
from privacy_ledger.bootstrap import Runtime, engine_for, ingest_of, subjects_of
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.topics import TOPICS
from privacy_ledger.engine.declaration import passes
from privacy_ledger.engine.inspection import inspect
from privacy_ledger.engine.kafka import KafkaEngine
from privacy_ledger.interfaces.cli.operate import place_of, verify
from privacy_ledger.streams.protocol import Processor, Published
from privacy_ledger.streams.record import Record, Undecodable
from privacy_ledger.testing.generator import generate, user_id_of
from processors.permissions import PROCESSOR as PERMISSIONS
from processors.progress import PROCESSOR as PROGRESS
from processors.subject_view import PROCESSOR as SUBJECT_VIEW
from tests.integration.cluster import Cluster
from tests.integration.seen import differences
from tests.integration.test_main_job import numbered

__all__ = ["CORE_ALONE", "Damaged", "lines"]

_ALONE: Final[tuple[Processor[Any] | Published, ...]] = (PERMISSIONS, SUBJECT_VIEW, PROGRESS)
CORE_ALONE: Final = passes(_ALONE)
LEARNERS: Final = 30
PURPOSE: Final = "improve.analyse"


def lines(seed: int, events: int) -> list[bytes]:
    """Return made-up lines of the last days."""
    end = datetime.now(UTC) - timedelta(hours=2)
    start = end - timedelta(days=9)
    return list(generate(seed=seed, learners=LEARNERS, courses=3, events=events, start=start, end=end))


class Damaged(Cluster):
    """A cluster whose core pass runs in this process, and stops for somebody to break something."""

    @asynccontextmanager
    async def core(self) -> AsyncIterator[tuple[Runtime, KafkaEngine]]:
        """Run the core pass in this process."""
        async with self.runtime(CORE_ALONE) as runtime:
            engine = engine_for(runtime, runtime.declared["core"])
            running = asyncio.create_task(engine.run())
            try:
                yield runtime, engine
            finally:
                engine.stop()
                await running

    async def grow(self, seed: int, *, events: int = 600) -> None:
        """Let people do things and use their rights, fold it, and stop."""
        async with self.core() as (runtime, _):
            await runtime.registrar.tick(force=True)
            await self.take(runtime, lines(seed, events))
            await self.use_rights(runtime, seed)
            await runtime.passes.settle(timeout_s=90)

    async def take(self, runtime: Runtime, chunk: Sequence[bytes]) -> None:
        """Ingest lines."""
        source = Source(name="openedx", parse=openedx.parse, default_consents=(PURPOSE,))
        await (await ingest_of(runtime)).run(numbered(chunk), source)

    async def use_rights(self, runtime: Runtime, seed: int) -> None:
        """Let one person withdraw and another be restricted, where they are known."""
        subjects = await subjects_of(runtime)
        for number, act in ((seed, subjects.withdraw), (seed + 1, subjects.restrict)):
            name = f"openedx:user_id:{user_id_of(number % LEARNERS)}"
            try:
                await (
                    act(name, PURPOSE)
                    if act == subjects.withdraw
                    else subjects.restrict(name, ground="accuracy")
                )
            except RefusedByPolicy:
                continue

    async def exact(self, runtime: Runtime) -> None:
        """Fold some more, then compare every projection with the oracle and with a rebuild."""
        await self.take(runtime, lines(77, 300))
        await runtime.registrar.tick(force=True)
        await runtime.passes.settle(timeout_s=120)
        found = await differences(runtime, without=_is_nobodys)
        assert not found, found[:20]
        assert (await verify(runtime)).is_equal

    async def outcome(self, engine: KafkaEngine, name: str, partition: int = 0) -> str:
        """Wait for a named outcome; return what it says."""
        async with asyncio.timeout(90):
            while partition not in engine.outcomes or engine.outcomes[partition].name != name:  # noqa: ASYNC110 - it may come at any moment
                await asyncio.sleep(0.05)
        return engine.outcomes[partition].text

    async def doctor(self) -> set[str]:
        """Return the names of what somebody finds who only looks at the topics."""
        async with self.runtime(CORE_ALONE) as runtime:
            declaration, latest = runtime.declared["core"], TailedLatest(runtime.log)
            return {
                one.name
                for partition in range(self.partitions)
                for one in await inspect(
                    runtime.log,
                    latest,
                    declaration,
                    place_of(runtime, declaration, partition),
                    runtime.states,
                )
            }

    # The store ----------------------------------------------------------------------------------

    def store(self, partition: int = 0) -> Path:
        """Return the folder of a store; nobody has it open."""
        (path,) = (self.folder / "state" / "core").glob(f"worker-0/{partition}")
        return path

    def put_back(self, copy: Path, partition: int = 0) -> None:
        """Replace a store by a copy of one."""
        shutil.rmtree(self.store(partition))
        shutil.copytree(copy, self.folder / "state" / "core" / "worker-0" / str(partition))

    # The topics -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """Yield an admin client."""
        cluster = self.settings.cluster
        assert isinstance(cluster, ClusterSettings)
        async with kafka_topics.open_admin(cluster) as admin:
            yield admin

    @asynccontextmanager
    async def policy(self, topic: str, policy: str) -> AsyncIterator[AIOKafkaAdminClient]:
        """Give a topic a wrong cleanup policy for a while."""
        name = self.prefix + topic
        (declared,) = (one for one in TOPICS if one.name == topic)
        right = declared.config()
        async with self.admin() as admin:
            wrong = ConfigResource(ConfigResourceType.TOPIC, name, right | {"cleanup.policy": policy})
            await admin.alter_configs([wrong])
            try:
                yield admin
            finally:
                await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, right)])

    async def delete_below(self, topic: str, offset: int, partition: int = 0) -> None:
        """Delete the records below an offset, as a wrong policy does; then put the policy right."""
        place = TopicPartition(self.prefix + topic, partition)
        below = {place: RecordsToDelete(before_offset=offset)}
        async with self.policy(topic, "compact,delete") as admin, asyncio.timeout(60):
            await _eventually(lambda: admin.delete_records(below))

    async def send_without_key(self, topic: str, partition: int = 0) -> None:
        """Send a record without a key, once the broker has learned of the policy that it has."""
        cluster = self.settings.cluster
        assert isinstance(cluster, ClusterSettings)
        await asyncio.sleep(1)
        with translated_errors(cluster):
            producer = await open_producer(cluster)
            try:
                await producer.send_and_wait(self.prefix + topic, b"lost", partition=partition)
            finally:
                await producer.stop()

    async def make_anew(self, *topics: str) -> None:
        """Delete topics with all that is in them, and create them again under their names."""
        names = {self.prefix + topic for topic in topics}
        declared = {one.name: one for one in TOPICS}
        created = [
            NewTopic(self.prefix + topic, self.partitions, 1, topic_configs=declared[topic].config())
            for topic in topics
        ]
        async with self.admin() as admin:
            await admin.delete_topics(list(names))
            await self._learned(admin, lambda there: not names & there)
            await admin.create_topics(created)
            await self._learned(admin, lambda there: names <= there)

    async def _learned(self, admin: AIOKafkaAdminClient, is_so: Callable[[set[str]], bool]) -> None:
        """Wait until the broker says what topics there are."""
        async with asyncio.timeout(60):
            while not is_so(set(await admin.list_topics())):  # noqa: ASYNC110 - brokers learn in the background
                await asyncio.sleep(0.1)


def _is_nobodys(record: Record) -> bool:
    """Return whether a record belongs to no subject of its partition, as the documents say."""
    body = record.body
    return isinstance(body, Undecodable) and body.reason in {"key_length", "wrong_partition"}


async def _eventually(attempt: Callable[[], Awaitable[object]]) -> None:
    """Try until it works: brokers learn of changes one by one."""
    while True:
        try:
            await attempt()
        except KafkaError:
            await asyncio.sleep(0.2)
        else:
            return
