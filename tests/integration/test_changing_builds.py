"""Builds that differ, on a real broker: a processor joins late, moves, and its old owner wakes up again."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec import structs

from privacy_ledger.adapters.formats import openedx
from privacy_ledger.app.ingest import Source
from privacy_ledger.bootstrap import Runtime, engine_for, ingest_of, subjects_of
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.topics import state_topic
from privacy_ledger.engine.declaration import PassDeclaration, passes
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.streams.protocol import Processor
from privacy_ledger.streams.roster import ROSTER, Standing
from privacy_ledger.testing.broker import Broker
from privacy_ledger.testing.generator import generate, user_id_of
from processors.analytics import PROCESSOR as COURSE_VIEWS
from processors.permissions import PROCESSOR as PERMISSIONS
from processors.progress import PROCESSOR as PROGRESS
from processors.subject_view import PROCESSOR as SUBJECT_VIEW
from tests.integration.cluster import Cluster
from tests.integration.seen import differences
from tests.integration.test_main_job import numbered

LEARNERS: Final = 40
PURPOSE: Final = "improve.analyse"


def build(*processors: Processor[Any]) -> dict[str, PassDeclaration]:
    """Return the passes of a build with these processors."""
    return passes((PERMISSIONS, *processors))


WITHOUT: Final = build(SUBJECT_VIEW, COURSE_VIEWS)
MOVED: Final = structs.replace(PROGRESS, runs_in="analytics", moved_from=("core",))
ELSEWHERE: Final = build(SUBJECT_VIEW, MOVED, COURSE_VIEWS)


def lines(seed: int, events: int) -> list[bytes]:
    """Return made-up lines of the last days."""
    end = datetime.now(UTC) - timedelta(hours=2)
    start = end - timedelta(days=9)
    return list(generate(seed=seed, learners=LEARNERS, courses=3, events=events, start=start, end=end))


async def take(runtime: Runtime, chunk: Sequence[bytes]) -> None:
    """Ingest lines."""
    source = Source(name="openedx", parse=openedx.parse, default_consents=(PURPOSE,))
    await (await ingest_of(runtime)).run(numbered(chunk), source)


async def restrict_some(runtime: Runtime) -> None:
    """Restrict the first three people who are known by their user id."""
    subjects = await subjects_of(runtime)
    restricted = 0
    for name in (f"openedx:user_id:{user_id_of(number)}" for number in range(LEARNERS)):
        try:
            await subjects.restrict(name, ground="accuracy")
        except RefusedByPolicy:
            continue
        restricted += 1
        if restricted == 3:
            return
    raise AssertionError("the generator knows too few people")


@asynccontextmanager
async def running(runtime: Runtime, *names: str) -> AsyncIterator[None]:
    """Run passes of this runtime's build in this process."""
    engines = [engine_for(runtime, runtime.declared[name]) for name in names]
    tasks = [asyncio.create_task(engine.run()) for engine in engines]
    try:
        yield
    finally:
        for engine in engines:
            engine.stop()
        await asyncio.gather(*tasks)


async def settled(runtime: Runtime, name: str, pass_name: str) -> list[Standing]:
    """Return the standings of a processor once it is brought up in every partition."""
    async with asyncio.timeout(90):
        while True:
            found = []
            for partition in range(runtime.partitions):
                row = await runtime.log.latest(state_topic(pass_name), partition, ROSTER.code + name.encode())
                opened = runtime.states.open_many(ROSTER, ((b"", None if row is None else row.value),))
                found += [one for one in opened if one and one.state == "folds" and one.cursor is None]
            if len(found) == runtime.partitions:
                return found
            await asyncio.sleep(0.2)


@pytest.mark.timeout(300)
async def test_a_late_processor_is_brought_up_while_the_pass_goes_on(kafka: Broker, tmp_path: Path) -> None:
    """It begins at 0 while the others stand at the end; nobody waits, and its view is the oracle's."""
    cluster = Cluster(kafka.bootstrap, tmp_path)
    await cluster.create()
    try:
        async with cluster.runtime(WITHOUT) as runtime:
            await runtime.registrar.tick()
            async with running(runtime, "core", "analytics"):
                await take(runtime, lines(1, 3000))
                await runtime.passes.settle(timeout_s=60)
                await restrict_some(runtime)
                await take(runtime, lines(2, 500))
                await runtime.passes.settle(timeout_s=60)
        worker = cluster.worker()
        async with cluster.runtime() as runtime:
            await take(runtime, lines(3, 1000))
            await runtime.passes.settle(timeout_s=90)
            await settled(runtime, "progress", "core")
            await take(runtime, lines(4, 500))
            await runtime.passes.settle(timeout_s=60)
            assert await differences(runtime) == []
            assert (await verify(runtime)).is_equal
        assert worker.terminate() < 15
    finally:
        cluster.end()


@pytest.mark.timeout(400)
async def test_a_predecessor_that_wakes_up_after_a_move_is_refused(kafka: Broker, tmp_path: Path) -> None:
    """A worker of the old build is frozen, its processor moves, it goes on: it never writes again."""
    cluster = Cluster(kafka.bootstrap, tmp_path)
    await cluster.create()
    old = cluster.worker()
    try:
        async with cluster.runtime(ELSEWHERE) as runtime:
            await runtime.registrar.tick()
            await take(runtime, lines(1, 2000))
            await runtime.passes.settle(timeout_s=60)
            await asyncio.to_thread(old.wait_running, 2 * cluster.partitions)
            old.process.send_signal(signal.SIGSTOP)
            await take(runtime, lines(2, 1000))
            async with running(runtime, "core", "analytics"):
                await settled(runtime, "progress", "analytics")
                old.process.send_signal(signal.SIGCONT)
                await take(runtime, lines(3, 1000))
                assert await asyncio.to_thread(old.process.wait, 90) != 0
                said = old.log.read_text(errors="replace")
                assert "build refused" in said
                assert "progress moved from" in said
                again = cluster.worker("core")  # the old build, started anew
                assert await asyncio.to_thread(again.process.wait, 90) != 0
                assert "progress moved from" in again.log.read_text(errors="replace")
                await take(runtime, lines(4, 500))
                await runtime.passes.settle(timeout_s=90)
                assert await differences(runtime) == []
                assert (await verify(runtime)).is_equal
    finally:
        cluster.end()
