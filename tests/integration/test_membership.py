"""Who a worker is to its group: restarts that move nothing, deaths, and a second worker of one name."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from privacy_ledger.adapters.kafka.topics import open_admin
from privacy_ledger.testing.broker import Broker
from tests.integration.cluster import Cluster, Process
from tests.integration.light import LightCluster

PASSES = 2
HANDOVER_S = 10.0


def owned_by(worker: Process) -> int:
    """Return how many partitions a worker's last shares give it, over all passes."""
    last = {line["pass_name"]: line.number("count") for line in worker.lines("share given")}
    return sum(last.values())


def folded_by(worker: Process) -> set[tuple[str, str]]:
    """Return the passes and partitions that a worker folds since its last shares."""
    given = {line["pass_name"]: line.at for line in worker.lines("share given")}
    running = worker.lines("partition running")
    return {(line["pass_name"], line["partition"]) for line in running if line.at >= given[line["pass_name"]]}


async def committed(admin: AIOKafkaAdminClient, light: LightCluster) -> int:
    """Return how many events the group's offsets say that it has read."""
    offsets = await admin.list_consumer_group_offsets(light.group)
    return sum(int(offset.offset) for offset in offsets.values())


@pytest.mark.timeout(240)
async def test_a_rolling_restart_within_the_session_moves_nothing(kafka: Broker, tmp_path: Path) -> None:
    """With sessions of 30 s each worker comes back to its partitions, and restores no record."""
    cluster = Cluster(kafka.bootstrap, tmp_path)
    await cluster.create()
    session = {"PRIVACY_LEDGER_SESSION_S": "30"}
    try:
        async with cluster.runtime() as runtime:
            workers = [cluster.worker(settings=session), cluster.worker(settings=session)]
            await runtime.registrar.tick()
            await runtime.passes.settle(timeout_s=90)
            owned = [owned_by(worker) for worker in workers]
            while sum(owned) != 4 * PASSES or not all(owned):
                await asyncio.sleep(0.5)
                owned = [owned_by(worker) for worker in workers]
            for number in range(2):
                await runtime.registrar.tick(force=True)
                await runtime.passes.settle(timeout_s=60)
                old, other = workers[number], workers[1 - number]
                before = folded_by(old)
                given = len(other.lines("share given"))
                old.terminate()
                workers[number] = new = cluster.worker(settings=session)
                seconds = await asyncio.to_thread(new.wait_running, owned[number])
                assert folded_by(new) == before
                assert [line.number("records") for line in new.lines("partition running")] == [
                    0 for _ in range(owned[number])
                ]
                assert len(other.lines("share given")) == given
                print(
                    f"restart {number + 1}: {owned[number]} partitions back after {seconds:.1f} s, none moved"
                )
            await runtime.registrar.tick(force=True)
            await runtime.passes.settle(timeout_s=60)
    finally:
        cluster.end()


@pytest.mark.timeout(240)
async def test_a_dead_worker_is_replaced_within_ten_seconds(kafka: Broker, tmp_path: Path) -> None:
    """From kill -9 until the other folds all four partitions, with sessions of six seconds."""
    light = LightCluster(kafka.bootstrap, tmp_path)
    await light.create()
    try:
        first, second = light.worker(), light.worker()
        refs = light.refs(500)
        await light.send(refs)
        assert (await light.settle()).is_exact
        await asyncio.to_thread(second.wait_for, "standby ready", 2)
        kept = folded_by(second)
        before = second.running()
        killed = time.monotonic()
        first.kill()
        await light.send(refs)
        await asyncio.to_thread(second.wait_running, before + 4)
        seconds = time.monotonic() - killed
        print(f"handover after kill -9 at 4 partitions: {seconds:.1f} s")
        assert seconds <= HANDOVER_S
        # The client revokes everything: what comes back goes on without reading a record again.
        again = second.lines("partition running")[before:]
        assert [line.number("records") for line in again if ("bench", line["partition"]) in kept] == [0, 0]
        assert (await light.settle()).is_exact
    finally:
        await light.close()


@pytest.mark.timeout(180)
async def test_of_two_workers_with_one_identity_the_older_ends_and_says_why(
    kafka: Broker, tmp_path: Path
) -> None:
    """A copied state folder makes two of one: the newer folds on, nothing is lost or doubled."""
    light = LightCluster(kafka.bootstrap, tmp_path)
    await light.create()
    try:
        refs = light.refs(300)
        first = light.worker(folder="one")
        await light.send(refs)
        assert (await light.settle()).is_exact
        (tmp_path / "two" / "state" / "worker-0").mkdir(parents=True)
        name = Path("state") / "worker-0" / "identity"
        shutil.copy(tmp_path / "one" / name, tmp_path / "two" / name)
        second = light.worker(folder="two")
        for _ in range(40):
            await light.send(refs)
            await asyncio.sleep(0.5)
            if first.process.poll() is not None:
                break
        assert first.process.poll() not in {None, 0}
        said = first.log.read_text()
        assert f"Another worker runs as worker-0-{(tmp_path / 'one' / name).read_text()}" in said
        assert second.process.poll() is None
        assert (await light.settle()).is_exact
        # The name is free again once its file is gone from the copy's original.
        (tmp_path / "one" / name).unlink()
        third = light.worker(folder="one")
        await asyncio.to_thread(third.wait_running, 2)
        await light.send(refs)
        assert (await light.settle()).is_exact
        assert second.process.poll() is None
    finally:
        await light.close()


@pytest.mark.timeout(120)
async def test_a_second_worker_in_one_state_folder_is_another_worker(kafka: Broker, tmp_path: Path) -> None:
    """Its slot is the next one, and so is its identity: they share the partitions, and show their lag."""
    light = LightCluster(kafka.bootstrap, tmp_path)
    await light.create()
    try:
        workers = [light.worker(), light.worker()]
        await light.send(light.refs(300))
        assert (await light.settle()).is_exact
        names = {(tmp_path / "state" / f"worker-{number}" / "identity").read_text() for number in range(2)}
        assert len(names) == 2
        for worker in workers:
            await asyncio.to_thread(worker.wait_running, 2)
        async with asyncio.timeout(60), open_admin(light.cluster) as admin:
            while await committed(admin, light) < 300:  # noqa: ASYNC110 - the cluster's own figure
                await asyncio.sleep(0.5)
            assert await committed(admin, light) == 300
    finally:
        await light.close()
