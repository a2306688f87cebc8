"""The zombie lane: workers are frozen past their session, one after the other, while data flows.

Each is frozen where it hurts most: a batch is folded, and its transaction is about to begin.
"""

import asyncio
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.integration.cluster import Process, until
from tests.integration.light import LightCluster, LightWorker, Verdict

__all__ = ["PAUSES_LONG", "ZombieReport", "flow", "folds", "run"]

PAUSES_LONG: Final = 6
WAIT_S: Final = 60.0
SUBJECTS: Final = 2000
EVENTS_PER_S: Final = 1500


class ZombieReport(Struct, frozen=True, kw_only=True):
    """What came of it: `fenced` counts transactions that were refused."""

    pauses: int
    rejoined: int
    fenced: int
    verdict: Verdict


async def flow(light: LightCluster, *, until: asyncio.Event, events_per_s: int = EVENTS_PER_S) -> None:
    """Send events of the same subjects at a pace, until told to stop."""
    refs = light.refs(SUBJECTS)
    at = 0
    while not until.is_set():
        part = [refs[(at + number) % SUBJECTS] for number in range(events_per_s // 10)]
        at += len(part)
        await light.send(part)
        await asyncio.sleep(0.1)


async def run(bootstrap: str, folder: Path, *, pauses: int) -> ZombieReport:
    """Freeze one of two workers until the other folds all partitions, and let it wake up; again and again."""
    light = LightCluster(bootstrap, folder)
    await light.create()
    stop = asyncio.Event()
    sending: asyncio.Task[None] | None = None
    try:
        workers = [light.worker(), light.worker()]
        sending = asyncio.create_task(flow(light, until=stop))
        for worker in workers:
            await asyncio.to_thread(worker.wait_running, 2)
        rejoined = 0
        for number in range(pauses):
            sleeper, other = workers[number % 2], workers[1 - number % 2]
            await _until_shared(workers)
            shares = len(sleeper.lines("share given"))
            await sleeper.freeze_in_transaction()
            await _until_folds(other, light.partitions)
            await asyncio.sleep(1.0)
            sleeper.resume()
            await asyncio.to_thread(sleeper.wait_for, "share given", shares + 1)
            rejoined += 1
        await _until_shared(workers)
        stop.set()
        await sending
        verdict = await light.settle()
        fenced = sum(len(worker.lines("fenced")) for worker in workers)
        return ZombieReport(pauses=pauses, rejoined=rejoined, fenced=fenced, verdict=verdict)
    finally:
        stop.set()
        if sending is not None:
            await asyncio.gather(sending, return_exceptions=True)
        await light.close()


def folds(worker: Process) -> int:
    """Return how many partitions a worker folds since its last share."""
    share = worker.lines("share given")[-1:]
    running = worker.lines("partition running")
    return len({line["partition"] for line in running if share and line.at >= share[0].at})


async def _until_folds(worker: Process, count: int) -> None:
    await until(lambda: folds(worker) >= count, timeout_s=WAIT_S)


async def _until_shared(workers: list[LightWorker]) -> None:
    """Wait until each of two workers folds its half."""
    for worker in workers:
        await _until_folds(worker, 2)
