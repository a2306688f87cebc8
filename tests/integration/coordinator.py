"""The lane of the paused coordinator: the broker stands still, and sessions end, while events flow.

With aiokafka alone this doubles a transaction: the group's offsets are read again while the
transaction that moves them is pending, and nothing ties one to the other. Here a position rides in
the transaction of the states that it belongs to, under a writer that a successor fences first.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from privacy_ledger.adapters.kafka.topics import open_admin
from privacy_ledger.domain.errors import LogUnavailable
from privacy_ledger.testing.broker import BrokerProcess
from tests.integration.light import LightCluster, Verdict
from tests.integration.zombie import flow

__all__ = ["PAUSES_LONG", "PAUSE_S", "CoordinatorReport", "run"]

PAUSES_LONG: Final = 6
PAUSE_S: Final = 12.0
FLOW_S: Final = 4.0
WAIT_S: Final = 120.0
DEFAULT_SESSION_MS: Final = 10_000
SESSION_MS: Final = 6000


class CoordinatorReport(Struct, frozen=True, kw_only=True):
    """What came of it; a stall is the time from the resume until every partition moved again."""

    pauses: int
    longest_stall_s: float
    shares: int
    verdict: Verdict


async def run(
    brokers: Sequence[BrokerProcess], folder: Path, *, pauses: int, has_client_defaults: bool
) -> CoordinatorReport:
    """Freeze the broker that coordinates the group, so many times, under two workers.

    Of one broker it is the one; of several, another takes over meanwhile, as leader, too.
    """
    light = LightCluster(",".join(broker.bootstrap for broker in brokers), folder)
    await light.create()
    stop = asyncio.Event()
    sending: asyncio.Task[None] | None = None
    session_ms = DEFAULT_SESSION_MS if has_client_defaults else SESSION_MS
    try:
        workers = [
            light.worker(has_client_defaults=has_client_defaults, session_ms=session_ms) for _ in range(2)
        ]
        sending = asyncio.create_task(flow(light, until=stop))
        for worker in workers:
            await asyncio.to_thread(worker.wait_running, 2)
        stalls: list[float] = []
        for _ in range(pauses):
            await asyncio.sleep(FLOW_S)
            broker = brokers[await _coordinator(light)]
            broker.pause()
            await asyncio.sleep(PAUSE_S)
            broker.resume()
            stalls.append(await _until_moving(light))
        stop.set()
        await sending
        verdict = await light.settle(timeout_s=180)
        return CoordinatorReport(
            pauses=pauses, longest_stall_s=max(stalls), verdict=verdict,
            shares=sum(len(worker.lines("share given")) for worker in workers),
        )  # fmt: skip
    finally:
        for broker in brokers:
            broker.resume()
        stop.set()
        if sending is not None:
            await asyncio.gather(sending, return_exceptions=True)
        await light.close()


async def _coordinator(light: LightCluster) -> int:
    """Return the place of the broker that coordinates the workers' group."""
    async with open_admin(light.cluster) as admin:
        number: int = await admin.find_coordinator(light.group)
        return number - 1


async def _until_moving(light: LightCluster) -> float:
    """Return the seconds until the view has moved in every partition; the broker runs again."""
    started = time.monotonic()
    before: list[int] | None = None
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await light.counted()
            except LogUnavailable:  # our own reader was waiting when the broker stood still
                continue
            # What was committed before the pause, and is only read now, is no movement.
            before = before or list(light.seen)
            if all(now > then for now, then in zip(light.seen, before, strict=True)):
                return time.monotonic() - started
            await asyncio.sleep(0.1)
