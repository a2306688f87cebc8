"""Figures of one measured process, and what several rounds of them say."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from msgspec import Struct

__all__ = ["Figure", "Meter", "Spread", "spread"]

_STATUS: Final = Path("/proc/self/status")
_KIB_PER_MIB: Final = 1024


class Figure(Struct, frozen=True, kw_only=True):
    """What one process did: events, CPU and wall seconds, and its peak memory until then.

    `note` says what was compared, or why the result is not exact.
    """

    events: int
    cpu_s: float
    wall_s: float
    peak_mib: float
    is_exact: bool = True
    note: str = ""

    @property
    def rate(self) -> float:
        """Events per CPU-second of the process, all threads."""
        return self.events / self.cpu_s


class Meter:
    """Measures this process from `start` on."""

    def __init__(self) -> None:
        """Start now; `start` again where the set-up is longer."""
        self._cpu_s = time.process_time()
        self._wall_s = time.perf_counter()
        self.is_started = False

    def start(self) -> None:
        """Count from here on; later calls change nothing."""
        if not self.is_started:
            self.is_started = True
            self._cpu_s = time.process_time()
            self._wall_s = time.perf_counter()

    def figure(self, events: int) -> Figure:
        """Return what was done since the start."""
        return Figure(
            events=events,
            cpu_s=time.process_time() - self._cpu_s,
            wall_s=time.perf_counter() - self._wall_s,
            peak_mib=_peak_mib(),
        )


class Spread(Struct, frozen=True, kw_only=True):
    """Lowest, median and highest of the rounds."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return lowest, median and highest; there is at least one value."""
    return Spread(low=min(values), median=median(values), high=max(values))


def _peak_mib() -> float:
    """Return VmHWM: `ru_maxrss` of a child begins at its parent's peak. Zero where there is no /proc."""
    if not _STATUS.exists():
        return 0.0
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / _KIB_PER_MIB
    return 0.0
