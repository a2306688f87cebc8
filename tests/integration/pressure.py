"""The lane of pressure: a burst, half of it of one subject, on a worker whose memory is bounded."""

import asyncio
import random
import time
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.integration.cluster import Process
from tests.integration.light import LightCluster, Verdict

__all__ = ["EVENTS_LONG", "PEAK_MIB", "PressureReport", "describe", "run"]

EVENTS_LONG: Final = 1_000_000
PARTITIONS: Final = 16
SUBJECTS: Final = 50_000
BURST: Final = 20
"""The burst comes with so many times the steady rate, or faster."""
STEADY_S: Final = 10.0
PEAK_MIB: Final = 300
"""Interpreter and libraries, and what is bounded by name: fetched batches, states, buffers, blocks."""
_STATUS: Final = "/proc/{pid}/status"


class PressureReport(Struct, frozen=True, kw_only=True):
    """What came of it; memory in MiB."""

    steady_per_s: float
    burst_per_s: float
    drained_s: float
    steady_mib: float
    peak_mib: float
    verdict: Verdict

    @property
    def is_bounded(self) -> bool:
        """Whether the worker kept its bound, under a burst that was one."""
        return self.peak_mib <= PEAK_MIB and self.burst_per_s >= BURST * self.steady_per_s


def describe(report: PressureReport) -> str:
    """Return the figures as words."""
    return (
        f"steady {report.steady_per_s:.0f}/s at {report.steady_mib:.0f} MiB, "
        f"burst {report.burst_per_s:.0f}/s, lag drained {report.drained_s:.1f} s after its end, "
        f"peak {report.peak_mib:.0f} MiB (bound {PEAK_MIB})"
    )


async def run(bootstrap: str, folder: Path, *, events: int, seed: int) -> PressureReport:
    """Let one worker fold a steady flow, then a burst of `events`; half of all belong to one subject."""
    rng = random.Random(seed)
    light = LightCluster(bootstrap, folder, partitions=PARTITIONS, seed=seed)
    await light.create()
    try:
        worker = light.worker()
        refs = light.refs(SUBJECTS)
        await asyncio.to_thread(worker.wait_running, PARTITIONS)
        steady = max(50, events // 400)
        started = time.monotonic()
        for _ in range(10):
            await light.send(_some(refs, steady // 10, rng))
            await asyncio.sleep(STEADY_S / 10)
        steady_s = time.monotonic() - started
        await light.settle()
        steady_mib = _peak_mib(worker)

        started = time.monotonic()
        for start in range(0, events, 20_000):
            await light.send(_some(refs, min(20_000, events - start), rng))
        burst_s = time.monotonic() - started
        started = time.monotonic()
        verdict = await light.settle(timeout_s=600)
        return PressureReport(
            steady_per_s=steady / steady_s, burst_per_s=events / burst_s,
            drained_s=time.monotonic() - started, steady_mib=steady_mib,
            peak_mib=_peak_mib(worker), verdict=verdict,
        )  # fmt: skip
    finally:
        await light.close()


def _some(refs: list[bytes], count: int, rng: random.Random) -> list[bytes]:
    """Return subjects of so many events: every second one is the first subject."""
    return [refs[0] if number % 2 else rng.choice(refs) for number in range(count)]


def _peak_mib(worker: Process) -> float:
    """Return the most memory that a worker ever had, by the system's own count."""
    status = Path(_STATUS.format(pid=worker.process.pid)).read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
