"""Standbys: a take-over with a warm store, and what it costs without one."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from privacy_ledger.testing.broker import Broker
from tests.integration.cluster import Process
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
