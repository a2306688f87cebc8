"""Standbys: a take-over with a warm store, and what it costs without one."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from privacy_ledger.adapters.rocks_store import RocksFolder
from privacy_ledger.domain.topics import view_topic
from privacy_ledger.engine.handover import applied
from privacy_ledger.ports.log import Row
from privacy_ledger.testing.broker import Broker
from tests.bench import plain
from tests.integration.cluster import Process, until
from tests.integration.light import LightCluster

KEYS = 200_000
TAKEOVER_S = 2.0


def takeover_s(worker: Process, count: int) -> float:
    """Return the seconds from the worker's last share until that many partitions ran after it."""
    share = worker.lines("share given")[-1]
    running = [line for line in worker.lines("partition running") if line.at >= share.at]
    assert len(running) >= count
    return max((line.at - share.at).total_seconds() for line in running)


def restored(worker: Process) -> list[int]:
    """Return the records that the worker's last share had to restore, per partition."""
    share = worker.lines("share given")[-1]
    return [line.number("records") for line in worker.lines("partition running") if line.at >= share.at]


async def wait_all(workers: Sequence[Process], event: str, count: int) -> None:
    """Wait until each worker has so many lines of an event."""
    await asyncio.gather(*(asyncio.to_thread(worker.wait_for, event, count) for worker in workers))


@pytest.mark.timeout(300)
async def test_a_warm_standby_takes_over_at_once_and_a_cold_worker_restores_everything(
    kafka: Broker, tmp_path: Path
) -> None:
    """Over 200,000 keys: at most two seconds from the share to folding, and only the last records."""
    light = LightCluster(kafka.bootstrap, tmp_path)
    await light.create()
    try:
        await light.send(light.refs(KEYS))
        first = light.worker()
        await wait_all([first], "partition running", 4)
        assert (await light.settle()).is_exact
        second = light.worker()
        await wait_all([first, second], "standby ready", 2)
        await light.send(light.refs(2000))
        assert (await light.settle()).is_exact
        before = second.running()
        first.kill()
        await asyncio.to_thread(second.wait_running, before + 4)
        warm_s, warm = takeover_s(second, 4), restored(second)

        cold = light.worker(folder="elsewhere", standbys=0)
        second.kill()
        await asyncio.to_thread(cold.wait_running, 4)
        cold_s, everything = takeover_s(cold, 4), restored(cold)
        print(
            f"keys {KEYS}: with a standby {sum(warm)} records restored in {warm_s:.2f} s; "
            f"without {sum(everything)} in {cold_s:.2f} s"
        )
        assert warm_s <= TAKEOVER_S
        assert sum(warm) < KEYS / 10
        assert sum(everything) >= KEYS
        await light.send(light.refs(100))
        assert (await light.settle()).is_exact
    finally:
        await light.close()


@pytest.mark.timeout(240)
async def test_a_store_that_its_changelog_does_not_reach_is_begun_anew(kafka: Broker, tmp_path: Path) -> None:
    """Owned or followed: with a mark behind the end it is no part of this changelog's history."""
    light = LightCluster(kafka.bootstrap, tmp_path)
    await light.create()
    try:
        refs = light.refs(2000)
        first, second = light.worker(folder="one"), light.worker(folder="two")
        await light.send(refs)
        assert (await light.settle()).is_exact
        await wait_all([first, second], "standby ready", 2)
        second.terminate()
        folder = RocksFolder(tmp_path / "two" / "state" / "worker-0")
        for partition in range(light.partitions):
            store = folder.open(partition)
            foreign = Row(partition, 10**9, b"foreign", b"\0", (), 0)
            store.write(applied(view_topic("bench"), plain.VIEW.code, [foreign]))
            store.close()
        second = light.worker(folder="two")
        await asyncio.to_thread(second.wait_for, "store begins anew", 2)
        await asyncio.to_thread(second.wait_for, "standby begins anew", 2)
        await asyncio.to_thread(second.wait_for, "standby ready", 2)
        await light.send(refs)
        assert (await light.settle()).is_exact
        before = second.running()
        first.kill()
        await asyncio.to_thread(second.wait_running, before + 4)
        await light.send(refs)
        assert (await light.settle()).is_exact
        assert takeover_s(second, 4) <= 3 * TAKEOVER_S
    finally:
        await light.close()


@pytest.mark.timeout(240)
async def test_a_worker_keeps_the_stores_that_it_owns_or_follows_and_no_others(
    kafka: Broker, tmp_path: Path
) -> None:
    """A store that nobody brings up to date would keep what is erased elsewhere."""
    light = LightCluster(kafka.bootstrap, tmp_path)
    await light.create()
    folders = [RocksFolder(tmp_path / "state" / f"worker-{number}") for number in range(3)]
    try:
        first = light.worker()
        await light.send(light.refs(500))
        assert (await light.settle()).is_exact
        await asyncio.to_thread(first.wait_running, 4)
        assert folders[0].kept() == (0, 1, 2, 3)
        light.worker()
        light.worker()

        def copies() -> list[int]:
            kept = [partition for folder in folders for partition in folder.kept()]
            return [kept.count(partition) for partition in range(light.partitions)]

        await until(lambda: all(folder.kept() for folder in folders) and copies() == [2, 2, 2, 2])
        await light.send(light.refs(500))
        assert (await light.settle()).is_exact
    finally:
        await light.close()
