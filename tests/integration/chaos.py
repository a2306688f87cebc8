"""The lane of kills: workers die by kill -9, again and again, while events flow."""

import asyncio
import random
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.integration.light import LightCluster, LightWorker, Verdict
from tests.integration.zombie import folds

__all__ = ["EVENTS_LONG", "KILLS_LONG", "ChaosReport", "run"]

EVENTS_LONG: Final = 300_000
KILLS_LONG: Final = 20
PAUSE_S: Final = (2.0, 7.0)
ABSENCE_S: Final = 9.0
"""Some are replaced at once and come back to their partitions; others stay away past their session."""
SUBJECTS: Final = 5000
WAIT_S: Final = 60.0
CHUNK: Final = 250
FEWER: Final = 20


class ChaosReport(Struct, frozen=True, kw_only=True):
    """What came of it."""

    kills: int
    takeovers: int
    verdict: Verdict


class _Flow:
    """Sends events at an even pace over the run, and the rest of them at its end.

    Kills may take longer than planned: towards the end ever fewer go at a time, so that they still flow.
    """

    def __init__(self, light: LightCluster, events: int, *, over_s: float) -> None:
        self._light = light
        self._refs = light.refs(SUBJECTS)
        self._events = events
        self._rest_s = over_s * CHUNK / events
        self.is_hurried = False
        self.sent = 0

    async def run(self) -> None:
        while left := self._events - self.sent:
            count = min(CHUNK, left if self.is_hurried else left // FEWER)
            await self._light.send([self._refs[(self.sent + n) % SUBJECTS] for n in range(count)])
            self.sent += count
            if not self.is_hurried:
                await asyncio.sleep(self._rest_s)


async def run(bootstrap: str, folder: Path, *, events: int, kills: int, seed: int) -> ChaosReport:
    """Kill one of two workers so many times; every event must count once."""
    rng = random.Random(seed)
    light = LightCluster(bootstrap, folder, seed=seed)
    await light.create()
    flow = _Flow(light, events, over_s=kills * (sum(PAUSE_S) / 2 + ABSENCE_S / 3))
    sending: asyncio.Task[None] | None = None
    try:
        workers = [light.worker(), light.worker()]
        await asyncio.to_thread(workers[0].wait_running, 1)
        sending = asyncio.create_task(flow.run())
        for _ in range(kills):
            await asyncio.sleep(rng.uniform(*PAUSE_S))
            victim = await _one_that_folds(workers, rng)
            await asyncio.to_thread(victim.kill)
            await asyncio.sleep(rng.choice((0.0, 0.0, rng.uniform(0.0, ABSENCE_S))))
            workers.remove(victim)
            workers.append(light.worker())
        assert not sending.done(), "the events ended before the kills"
        flow.is_hurried = True
        await sending
        verdict = await light.settle(timeout_s=180)
        return ChaosReport(
            kills=kills, takeovers=sum(worker.running() for worker in light.workers), verdict=verdict
        )
    finally:
        if sending is not None:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        await light.close()


async def _one_that_folds(workers: list[LightWorker], rng: random.Random) -> LightWorker:
    """Return a worker that folds partitions at this moment."""
    order = list(workers)
    rng.shuffle(order)
    async with asyncio.timeout(WAIT_S):
        while True:
            for worker in order:
                if worker.process.poll() is None and folds(worker):
                    return worker
            await asyncio.sleep(0.1)
