"""The next version of a projection on a real broker, while data flows and workers come and go."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger.adapters.formats import openedx
from privacy_ledger.adapters.kafka.topics import open_admin
from privacy_ledger.app.ingest import Source
from privacy_ledger.bootstrap import Runtime, erasure_of, ingest_of, replay_of, subjects_of
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.streams import progress
from privacy_ledger.testing.broker import Broker
from privacy_ledger.testing.generator import generate, user_id_of
from tests.integration.cluster import Cluster, Worker
from tests.integration.seen import differences
from tests.integration.test_main_job import numbered

SEED: Final = 42
LEARNERS: Final = 60
LINES: Final = 6_000
FIRST: Final = 2_500
CHUNK: Final = 120
WATCHED: Final = 8
OLDER: Final = "tests.integration.older"
SETTLE_S: Final = 120.0


class Reader:
    """Looks at some people all the while, as a portal would, and notes every gap."""

    def __init__(self, runtime: Runtime, refs: Sequence[SubjectRef]) -> None:
        """Start with nothing seen."""
        self._runtime = runtime
        self._refs = refs
        self.floor: dict[SubjectRef, int] = dict.fromkeys(refs, 1)
        self.gaps: list[str] = []
        self.looks = 0
        self.erased: list[SubjectRef] = []
        self.versions: set[int] = set()

    async def look(self, ref: SubjectRef) -> int:
        """Return how often a person played, paused or completed a video: 0 where nothing answers."""
        view = await self._runtime.views.get(progress.TABLE, ref)
        courses = {} if view is None else progress.merge(view)
        videos = [video for course in courses.values() for video in course.videos.values()]
        return sum(video.plays + video.pauses + video.completions for video in videos)

    async def note(self) -> None:
        """Note what is settled: nobody may see less from here on."""
        for ref in self._refs:
            self.floor[ref] = max(self.floor[ref], await self.look(ref))

    async def run(self, stop: asyncio.Event) -> None:
        """Look until it is told to stop."""
        while not stop.is_set():
            for ref in self._refs:
                floor = self.floor[ref]
                seen = await self.look(ref)
                self.looks += 1
                if seen < floor:
                    self.gaps.append(f"{ref.hex()[:6]}: {seen} after {floor}")
                partition = partition_of(ref, self._runtime.partitions)
                self.versions.add(await self._runtime.views.speaking(progress.TABLE, partition))
            await asyncio.sleep(0.01)


class Flow:
    """Ingests chunk after chunk, and lets the reader know what is settled."""

    def __init__(self, runtime: Runtime, lines: Sequence[bytes], reader: Reader | None = None) -> None:
        """Take the lines that are left."""
        self._runtime = runtime
        self._lines = list(lines)
        self.reader = reader
        self._source = Source(name="openedx", parse=openedx.parse)

    async def take(self, count: int) -> None:
        """Ingest so many lines, and wait until they are seen."""
        chunk, self._lines = self._lines[:count], self._lines[count:]
        await (await ingest_of(self._runtime)).run(numbered(chunk), self._source)
        await self._runtime.passes.settle(timeout_s=SETTLE_S)
        if self.reader is not None:
            await self.reader.note()

    async def run(self, stop: asyncio.Event) -> None:
        """Go on until it is told to stop or nothing is left."""
        while self._lines and not stop.is_set():
            await self.take(CHUNK)
            await asyncio.sleep(0.3)


def _lines() -> list[bytes]:
    end = datetime.now(UTC) - timedelta(hours=2)
    return list(
        generate(
            seed=SEED, learners=LEARNERS, courses=3, events=LINES, start=end - timedelta(days=20), end=end
        )
    )


async def _watched(runtime: Runtime) -> list[SubjectRef]:
    """Return some people who have watched a video."""
    subjects = await subjects_of(runtime)
    found: list[SubjectRef] = []
    for number in range(LEARNERS):
        with suppress(Exception):  # unknown so far
            (ref, *_) = subjects.active(f"openedx:user_id:{user_id_of(number)}").refs
            if await Reader(runtime, ()).look(ref):
                found.append(ref)
    return found


async def _topics(cluster: Cluster) -> set[str]:
    """Return the topics of the test, without its prefix."""
    assert cluster.settings.cluster is not None
    async with open_admin(cluster.settings.cluster) as admin:
        names = await admin.list_topics()
    return {name.removeprefix(cluster.prefix) for name in names if name.startswith(cluster.prefix)}


async def _check_exact(runtime: Runtime) -> None:
    """Compare what readers see with what the documents say."""
    await runtime.passes.settle(timeout_s=SETTLE_S)
    found = await differences(runtime)
    assert not found, found[:20]


async def _erase(runtime: Runtime, ref: SubjectRef, reader: Reader) -> None:
    """Erase a person; afterwards no version answers for them."""
    reader.erased.append(ref)
    outcomes = await erasure_of(runtime).erase((ref,))
    if not all(outcome.is_completed for outcome in outcomes):
        outcomes = await erasure_of(runtime).resume()
    assert all(outcome.is_completed for outcome in outcomes)
    assert await runtime.views.answering(ref) == ()


@pytest.mark.timeout(1200)
async def test_a_mended_step_is_built_beside_live_and_switched_to(kafka: Broker, tmp_path: Path) -> None:
    """A worker dies in the middle, people are erased, and no reader ever sees a gap."""
    cluster = Cluster(kafka.bootstrap, tmp_path)
    await cluster.create()
    lines = _lines()
    try:
        async with cluster.runtime() as runtime, cluster.runtime() as beside:
            older = cluster.worker(program=OLDER)
            await runtime.registrar.tick()
            flow = Flow(runtime, lines)
            await flow.take(FIRST)
            older.terminate()
            workers = [cluster.worker(), cluster.worker()]
            await runtime.passes.settle(timeout_s=SETTLE_S)
            people = await _watched(runtime)
            assert len(people) >= WATCHED + 2
            reader = flow.reader = Reader(beside, people[:WATCHED])
            await reader.note()
            stop = asyncio.Event()
            tasks = [asyncio.create_task(one.run(stop)) for one in (reader, flow)]
            try:
                await _build_and_switch(cluster, runtime, workers, reader, erased=people[WATCHED])
            finally:
                stop.set()
                failures = await asyncio.gather(*tasks, return_exceptions=True)
            assert failures == [None, None]
            assert reader.gaps == []
            assert (reader.looks > 50, reader.versions) == (True, {1, 2})
            await _check_exact(runtime)
            await _go_back_and_drop(cluster, runtime, reader, erased=people[WATCHED + 1])
            assert all(worker.process.poll() is None for worker in cluster.workers[-2:])
    finally:
        cluster.end()


async def _build_and_switch(
    cluster: Cluster, runtime: Runtime, workers: list[Worker], reader: Reader, *, erased: SubjectRef
) -> None:
    """Build version 2 while data flows, lose a worker and a person on the way, and switch."""
    building = asyncio.create_task(cluster.command("replay", "build", "progress", "--rate", "1500"))
    version = await _begun(runtime)
    workers.pop(0).kill()
    workers.append(cluster.worker())
    await _erase(runtime, erased, reader)
    code, document = await building
    assert (code, document["version"], document["behind"]) == (0, version, 0)
    code, diff = await cluster.command("replay", "diff", "progress")
    assert (code, diff["empty"], diff["only"]) == (0, False, [0, 0])
    assert diff["different"] > 0
    code, refused = await cluster.command("replay", "switch", "progress", "--yes")
    assert (code, refused["reason"]) == (4, "version_differs")
    code, switched = await cluster.command("replay", "switch", "progress", "--yes", "--accept-diff")
    assert (code, switched["switched"]) == (0, True)
    await asyncio.sleep(2.0)


async def _begun(runtime: Runtime) -> int:
    """Return the version that is built, once some of it is folded."""
    replay, deadline = replay_of(runtime), time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [one for one in await replay.status("progress") if one.state == "building" and one.passed]
        if found:
            return found[0].version
        await asyncio.sleep(0.2)
    raise AssertionError("no build was seen")


async def _go_back_and_drop(
    cluster: Cluster, runtime: Runtime, reader: Reader, *, erased: SubjectRef
) -> None:
    """Roll back, switch again, drop version 1, cancel a third, and end exact with two workers."""
    seen = [(await runtime.views.speaking(progress.TABLE, p)) for p in range(runtime.partitions)]
    assert seen == [2] * runtime.partitions
    assert (await cluster.command("replay", "rollback", "progress", "--yes"))[0] == 0
    seen = [(await runtime.views.speaking(progress.TABLE, p)) for p in range(runtime.partitions)]
    assert seen == [1] * runtime.partitions
    old = await differences(runtime)
    assert old != []
    assert {text.partition(" of ")[0] for text in old} == {"progress"}
    assert (await cluster.command("replay", "switch", "progress", "--yes", "--accept-diff"))[0] == 0
    assert (await cluster.command("replay", "drop", "progress", "--version", "1", "--yes"))[0] == 0
    assert "view.progress.v1" not in await _topics(cluster)
    await _erase(runtime, erased, reader)
    await Flow(runtime, _lines()[-CHUNK:]).take(CHUNK)
    third = asyncio.create_task(cluster.command("replay", "build", "progress", "--rate", "300"))
    assert await _begun(runtime) == 3
    assert (await cluster.command("replay", "cancel", "progress", "--yes"))[0] == 0
    third.cancel()
    with suppress(asyncio.CancelledError):
        await third
    left = {name for name in await _topics(cluster) if "progress" in name}
    assert left == {"view.progress.v2", "state.progress-v2.v1"}
    plan = await cluster.command("topics", "plan")
    assert plan == (0, {"changes": []})
    for ref in reader.erased:
        partition = partition_of(ref, runtime.partitions)
        assert await runtime.latest.get("view.progress.v2", partition, ref) is None
    code, status = await cluster.command("replay", "status", "progress")
    assert (code, [(one["version"], one["state"]) for one in status["versions"]]) == (0, [(2, "speaks")])
    await _check_exact(runtime)
    assert (await verify(runtime)).is_equal
    assert reader.gaps == []
