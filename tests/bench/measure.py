"""Figures of one measured process, and what several rounds of them say."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from msgspec import Struct, field

__all__ = ["Figure", "Meter", "Spread", "cpu_s_of", "percentile", "resident_mb", "spread", "together"]

_BYTES_PER_KIB: Final = 1024
_BYTES_PER_MB: Final = 1_000_000


class Figure(Struct, frozen=True, kw_only=True, tag="figure"):
    """What one process did: events, CPU and wall seconds, and its peak memory until then.

    `more`: further numbers by name. `note` says what was compared, or why the result is not exact.
    """

    events: int
    cpu_s: float
    wall_s: float
    peak_mb: float
    more: Mapping[str, float] = field(default_factory=dict)
    is_exact: bool = True
    note: str = ""

    @property
    def rate(self) -> float:
        """Events per CPU-second of the process, all threads and children."""
        return self.events / self.cpu_s if self.cpu_s else 0.0

    @property
    def wall_rate(self) -> float:
        """Events per second."""
        return self.events / self.wall_s if self.wall_s else 0.0


class Meter:
    """Measures this process from `start` on."""

    def __init__(self) -> None:
        """Start now; `start` again where the set-up is longer."""
        self._cpu_s = _cpu_s()
        self._wall_s = time.perf_counter()
        self.is_started = False

    def start(self) -> None:
        """Count from here on; later calls change nothing."""
        if not self.is_started:
            self.is_started = True
            self._cpu_s = _cpu_s()
            self._wall_s = time.perf_counter()

    def figure(self, events: int, **more: float) -> Figure:
        """Return what was done since the start."""
        return Figure(
            events=events,
            cpu_s=_cpu_s() - self._cpu_s,
            wall_s=time.perf_counter() - self._wall_s,
            peak_mb=resident_mb("self", "VmHWM"),
            more=more,
        )


class Spread(Struct, frozen=True, kw_only=True):
    """Lowest, median and highest of the rounds."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return lowest, median and highest; there is at least one value."""
    return Spread(low=min(values), median=median(values), high=max(values))


def percentile(ascending: Sequence[float], share: float) -> float:
    """Return the value that this share of all lie at or below; there is at least one."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def together(figures: Sequence[Figure]) -> Figure:
    """Return what processes did side by side: work and CPU add up, the slowest sets the wall time."""
    names = sorted({name for figure in figures for name in figure.more})
    return Figure(
        events=sum(figure.events for figure in figures),
        cpu_s=sum(figure.cpu_s for figure in figures),
        wall_s=max(figure.wall_s for figure in figures),
        peak_mb=max(figure.peak_mb for figure in figures),
        more={name: sum(figure.more.get(name, 0.0) for figure in figures) for name in names},
        is_exact=all(figure.is_exact for figure in figures),
        note="; ".join(figure.note for figure in figures if figure.note),
    )


def resident_mb(process: int | str, member: str) -> float:
    """Return VmRSS or VmHWM of a process in MB of 10⁶ bytes; zero where it or /proc is not there.

    `ru_maxrss` would not do: a child's begins at its parent's peak.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    for line in status.splitlines():
        if line.startswith(member + ":"):
            return int(line.split()[1]) * _BYTES_PER_KIB / _BYTES_PER_MB
    return 0.0


def cpu_s_of(process: int) -> float:
    """Return user and system seconds of a process that runs; zero where it or /proc is not there."""
    try:
        # The name, in brackets, may hold blanks; user and system ticks are the 14th and 15th member.
        members = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    user, system = members.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _cpu_s() -> float:
    """Return user and system seconds of this process, its threads and the children it waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system
