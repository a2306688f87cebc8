"""A stage for Faust applications: topics of one test on a shared broker, and what the broker says of them.

Nothing is timed here. A scene holds an event in the hand of an agent, or a call of Faust that may
take long on a busy worker, until what must happen meanwhile has happened. It is played in a process
of its own, which is killed afterwards: tasks of Faust that was stopped midway outlive their loop.
"""

import asyncio
import os
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import faust
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from privacy_ledger.adapters.kafka.settings import (
    ClusterSettings,
    client_options,
    producer_options,
    reader_options,
)

__all__ = ["ROOT", "Outcome", "Stage", "host_app", "open_stage", "played", "until"]

NEVER_S: Final = 3600.0
"""A commit interval that no test lives to see: offsets are committed when the scene says so."""
WAIT_S: Final = 60.0
"""The bound of every wait; a Faust application takes two seconds to start on an idle machine."""
SCENE_S: Final = 150.0
ROOT: Final = Path(__file__).parents[2]
POLL_S: Final = 0.02

Outcome = dict[str, Any]
"""What a scene saw, as JSON: numbers, strings and lists of them."""


def played(
    scene: Callable[..., Awaitable[Outcome]], bootstrap: str, folder: Path, *arguments: str
) -> Outcome:
    """Play a scene of a test module in a process of its own, and return what it saw.

    Raises:
        AssertionError: it ended with an error, or did not end; the message says where.
    """
    command = [sys.executable, "-m", __name__, scene.__module__, scene.__name__, bootstrap, str(folder)]
    try:
        done = subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            capture_output=True,
            check=False,
            timeout=SCENE_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
        raise AssertionError(f"The scene did not end in {SCENE_S:.0f} s: {said[-2000:]}") from None
    if done.returncode:
        raise AssertionError(f"The scene failed: {done.stderr.decode(errors='replace')[-3000:]}")
    return msgspec.json.decode(done.stdout, type=Outcome)


async def until(condition: Callable[[], bool], *, what: str) -> None:
    """Return when the condition holds.

    Raises:
        AssertionError: it did not hold in time; the message says what was waited for.
    """
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 - Faust offers nothing to wait on
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"After {WAIT_S:.0f} s still not: {what}.") from None


def host_app(name: str, bootstrap: str, folder: Path, **settings: Any) -> faust.App:  # noqa: ANN401 - as Faust takes them
    """Return an application with Faust's own defaults, but for what keeps it quiet and small."""
    defaults: dict[str, Any] = {
        "key_serializer": "raw",
        "value_serializer": "raw",
        "web_enabled": False,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "broker_commit_interval": NEVER_S,
        "broker_session_timeout": 6.0,
        "broker_heartbeat_interval": 1.0,
        "store": "memory://",
        "datadir": str(folder / "faust"),
        "env": {},
    }
    app = faust.App(name, broker=f"kafka://{bootstrap}", **{**defaults, **settings})
    app.in_worker = True  # as `faust.Worker` says it; without it `exactly_once` would be ignored
    return app


class Stage:
    """Topics under a prefix of the test's own, read and written without Faust."""

    def __init__(
        self, cluster: ClusterSettings, admin: AIOKafkaAdminClient, producer: AIOKafkaProducer, folder: Path
    ) -> None:
        """Take started clients; nothing is created yet."""
        self.prefix = f"f{uuid4().hex[:10]}."
        self.cluster = cluster
        self.folder = folder
        self._admin = admin
        self._producer = producer

    def app(self, **settings: Any) -> faust.App:  # noqa: ANN401 - as Faust takes them
        """Return the application of this test, not started."""
        return host_app(self.prefix + "app", self.cluster.bootstrap, self.folder, **settings)

    async def create(self, name: str, *, partitions: int = 1) -> str:
        """Create a topic and return its name in the cluster."""
        physical = self.prefix + name
        await self._admin.create_topics([NewTopic(physical, partitions, 1)])
        return physical

    async def create_changelog(self, table: str) -> str:
        """Create the topic in which the application keeps a table of one partition."""
        return await self.create(f"app-{table}-changelog")

    async def produce(
        self, topic: str, values: Sequence[bytes | None], *, partition: int = 0, key: bytes = b"key"
    ) -> None:
        """Append records in order; they are acknowledged when it returns."""
        for value in values:
            await self._producer.send_and_wait(topic, value, key=key, partition=partition)

    async def commit(self, app: faust.App, topic: str, *, partition: int = 0, in_hand: int = 0) -> int | None:
        """Let Faust commit what it holds for acknowledged, and return what the broker says then.

        `in_hand`: events that a handler still holds; all others are acknowledged before.
        """
        await until(lambda: len(app.consumer.unacked) <= in_hand, what="handled events are acknowledged")
        try:
            async with asyncio.timeout(WAIT_S):
                await app.consumer.commit()  # joins a commit that is under way, which may know less
                await app.consumer.commit()
        except TimeoutError:
            raise AssertionError(f"Faust waits to commit for more than {WAIT_S:.0f} s.") from None
        return await self.committed(topic, partition=partition)

    async def committed(self, topic: str, *, partition: int = 0) -> int | None:
        """Return the offset that the application's group has committed, as the broker has it."""
        offsets = await self._admin.list_consumer_group_offsets(self.prefix + "app")
        found = offsets.get(TopicPartition(topic, partition))
        return None if found is None else int(found.offset)

    async def read(self, topic: str, *, partition: int = 0, isolation: str = "read_committed") -> list[str]:
        """Return every value that lies in a partition now."""
        consumer = AIOKafkaConsumer(**(reader_options(self.cluster) | {"isolation_level": isolation}))
        await consumer.start()
        place = TopicPartition(topic, partition)
        try:
            consumer.assign([place])
            end = (await consumer.end_offsets([place]))[place]
            consumer.seek(place, 0)
            found: list[str] = []
            async with asyncio.timeout(WAIT_S):
                while end and await consumer.position(place) < end:
                    batches = await consumer.getmany(place, timeout_ms=100)
                    found += [record.value.decode() for record in batches.get(place, ())]
            return found
        finally:
            await consumer.stop()


@asynccontextmanager
async def open_stage(bootstrap: str, folder: Path) -> AsyncIterator[Stage]:
    """Yield a stage on a broker and close its clients afterwards."""
    cluster = ClusterSettings(bootstrap=bootstrap)
    async with AsyncExitStack() as stack:
        admin = AIOKafkaAdminClient(**client_options(cluster))
        stack.push_async_callback(admin.close)
        await admin.start()
        producer = AIOKafkaProducer(**producer_options(cluster))
        stack.push_async_callback(producer.stop)
        await producer.start()
        yield Stage(cluster, admin, producer, folder)


async def _play(module: str, name: str, bootstrap: str, folder: str, *arguments: str) -> None:
    """Print what a scene saw; the process ends here, with everything that Faust still runs in it."""
    code = 1
    try:
        async with open_stage(bootstrap, Path(folder)) as stage:
            outcome = await getattr(import_module(module), name)(stage, *arguments)
        sys.stdout.buffer.write(msgspec.json.encode(outcome))
        code = 0
    except BaseException:  # noqa: BLE001 - the outermost frame: the parent reads what is printed
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    asyncio.run(_play(*sys.argv[1:]))
