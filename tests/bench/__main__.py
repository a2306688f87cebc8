"""`poe bench`: what the engine costs, as ratios to doing nothing with the same topic in the same run.

Each figure is events per CPU-second of a process of its own. The kinds are interleaved, so that a
busy host slows them alike, and every produced view is compared with what was expected. A bar that
is not met is said; only a view that is not exact makes the exit code 1.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct, structs

from privacy_ledger.testing.broker import BrokerUnavailable, running_broker
from tests.bench.child import Task
from tests.bench.measure import Figure, Spread, spread
from tests.bench.plain import SOURCE, Expected
from tests.bench.sealed import Ledger

__all__ = ["main"]

T = TypeVar("T")
CHILD_TIMEOUT_S: Final = 1800
CHANGELOG_SOURCE: Final = "ledger.events.v1"


class Size(Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int
    plain_events: int
    plain_subjects: int
    lines: int
    learners: int


QUICK: Final = Size(rounds=3, plain_events=40_000, plain_subjects=50_000, lines=4_000, learners=1_000)
FULL: Final = Size(rounds=5, plain_events=300_000, plain_subjects=50_000, lines=60_000, learners=50_000)


class Bar(Struct, frozen=True, kw_only=True):
    """A bar on the median of a ratio, or of a rate where `over` is None."""

    name: str
    kind: str
    over: str | None
    at_least: float


PLAIN: Final = "noop, plain"
SEALED: Final = "noop, sealed"
BARS: Final = (
    Bar(name="core ÷ noop", kind="core", over=PLAIN, at_least=0.25),
    Bar(name="core with de-duplication ÷ noop", kind="core with de-duplication", over=PLAIN, at_least=0.18),
    Bar(name="sealed topology ÷ noop", kind="topology", over=SEALED, at_least=0.05),
    Bar(name="sealed topology ÷ noop over plain events", kind="topology", over=PLAIN, at_least=0.0),
    Bar(name="embedded ingest, sealed events per CPU-second", kind="ingest", over=None, at_least=8000),
)


class Result(Struct, frozen=True, kw_only=True):
    """A bar and what was measured for it."""

    bar: Bar
    spread: Spread
    is_met: bool


class Report(Struct, frozen=True, kw_only=True):
    """What one run measured; compare ratios, never the figures of two runs."""

    machine: dict[str, str]
    broker: str
    size: Size
    plain: Expected | None
    ledger: Ledger | None
    figures: dict[str, list[Figure]]
    results: list[Result]


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table, write the report; return 1 when a view was not exact."""
    parser = argparse.ArgumentParser(prog="poe bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute")
    parser.add_argument("--out", type=Path, help="write the report as JSON here")
    parser.add_argument("--rounds", type=int, help="how often each kind is measured")
    parser.add_argument("--only", action="append", choices=("core", "topology", "ingest"), default=[])
    chosen = parser.parse_args(arguments)
    size = QUICK if chosen.quick else FULL
    if chosen.rounds:
        size = structs.replace(size, rounds=chosen.rounds)
    only = frozenset(chosen.only or ("core", "topology", "ingest"))
    folder = Path(tempfile.mkdtemp(prefix="privacy-ledger-bench-"))
    try:
        if only == {"ingest"}:
            report = _Bench(folder, size, only, bootstrap="", broker="none").run()
        else:
            with running_broker() as broker:
                report = _Bench(folder, size, only, bootstrap=broker.bootstrap, broker=broker.kind).run()
    except BrokerUnavailable as error:
        print(f"KAFKA: NOT RUN ({error})")
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _print(report)
    if chosen.out is not None:
        chosen.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    figures = [figure for some in report.figures.values() for figure in some]
    return 0 if all(figure.is_exact for figure in figures) else 1


class _Bench:
    """One interleaved run."""

    def __init__(
        self, folder: Path, size: Size, only: frozenset[str], *, bootstrap: str, broker: str
    ) -> None:
        self._folder = folder
        self._size = size
        self._only = only
        self._bootstrap = bootstrap
        self._broker = broker
        self._figures: dict[str, list[Figure]] = {}
        self._prefix = f"bench{os.getpid()}.{time.time_ns():x}."

    def run(self) -> Report:
        """Prepare the data, then measure every kind once a round."""
        plain = self._fill_plain() if "core" in self._only else None
        ledger = None
        for number in range(self._size.rounds):
            if plain is not None:
                self._plain_round(number, plain)
            if self._only & {"ingest", "topology"}:
                home = self._folder / f"ingest-{number}"
                task = Task(
                    kind="ingest", folder=str(home), events=self._size.lines, subjects=self._size.learners
                )
                if number == 0 or "ingest" in self._only:
                    self._measure("ingest", task)
            if "topology" in self._only:
                home = self._folder / "ingest-0"
                if ledger is None:
                    ledger = self._do(Task(kind="prepare", folder=str(home)), Ledger)
                self._sealed_round(number, home, ledger)
        return Report(
            machine={
                "python": platform.python_version(), "machine": platform.machine(),
                "cpus": str(os.cpu_count()), "load": f"{os.getloadavg()[0]:.1f}",
            },
            broker=self._broker, size=self._size, plain=plain, ledger=ledger, figures=self._figures,
            results=[result for bar in BARS if (result := self._result(bar)) is not None],
        )  # fmt: skip

    def _fill_plain(self) -> Expected:
        return self._do(
            Task(
                kind="plain fill", bootstrap=self._bootstrap, prefix=self._prefix,
                events=self._size.plain_events, subjects=self._size.plain_subjects,
            ),
            Expected,
        )  # fmt: skip

    def _plain_round(self, number: int, expected: Expected) -> None:
        topic = self._prefix + SOURCE
        noop = Task(kind="noop", bootstrap=self._bootstrap, topic=topic, last=expected.last_offset)
        self._measure(PLAIN, noop)
        for kind in ("core", "core with de-duplication"):
            name = f"{kind.replace(' ', '-')}-{number}"
            task = Task(
                kind=kind, bootstrap=self._bootstrap, folder=str(self._fresh(name)), expected=expected,
                source_prefix=self._prefix, prefix=f"{self._prefix}{name}.",
            )  # fmt: skip
            self._measure(kind, task)

    def _sealed_round(self, number: int, home: Path, ledger: Ledger) -> None:
        """Measure over a copy of the ledger of its own: core writes to its source."""
        prefix = f"{self._prefix}sealed-{number}."
        fill = Task(kind="sealed fill", bootstrap=self._bootstrap, home=str(home), prefix=prefix)
        last = self._do(fill, int)
        topic = prefix + CHANGELOG_SOURCE
        self._measure(SEALED, Task(kind="noop", bootstrap=self._bootstrap, topic=topic, last=last))
        folder = self._fresh(f"topology-{number}")
        task = Task(
            kind="topology", bootstrap=self._bootstrap, folder=str(folder), home=str(home),
            prefix=prefix, ledger=ledger, last=last,
        )  # fmt: skip
        self._measure("topology", task)

    def _fresh(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _measure(self, name: str, task: Task) -> None:
        figure = self._do(task, Figure)
        self._figures.setdefault(name, []).append(figure)
        print(f"{name}: {figure.rate:,.0f} events/CPU-s. {figure.note}", file=sys.stderr, flush=True)

    def _do(self, task: Task, kind: type[T]) -> T:
        """Run a task in a process of its own and return what it says."""
        command = [sys.executable, "-m", "tests.bench.child", msgspec.json.encode(task).decode()]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=CHILD_TIMEOUT_S)
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=kind)

    def _result(self, bar: Bar) -> Result | None:
        """Return the ratio of each round, not of the medians: a round is what was measured together."""
        figures = self._figures.get(bar.kind)
        bases = None if bar.over is None else self._figures.get(bar.over)
        if figures is None or (bar.over is not None and bases is None):
            return None
        over = [1.0] * len(figures) if bases is None else [base.rate for base in bases]
        found = spread([figure.rate / base for figure, base in zip(figures, over, strict=True)])
        return Result(bar=bar, spread=found, is_met=found.median >= bar.at_least)


def _print(report: Report) -> None:
    size = report.size
    print(f"Broker: {report.broker}. {size.rounds} interleaved rounds, load {report.machine['load']}.")
    if report.plain is not None:
        print(
            f"Plain: {report.plain.events:,} events of 1 KB, {size.plain_subjects:,} skewed subjects "
            f"({report.plain.subjects:,} met), 1 partition."
        )
    if report.ledger is not None:
        print(
            f"Sealed: {report.ledger.events:,} events of {report.ledger.value_bytes} B and 17 headers, "
            f"{report.ledger.subjects:,} subjects, 1 partition, passes core and analytics in one process."
        )
    print(
        f"\n{'k events per CPU-second':<34}{'min':>9}{'median':>9}{'max':>9}{'wall k/s':>10}{'peak MiB':>10}"
    )
    for name, figures in report.figures.items():
        rates = _row(spread([figure.rate / 1000 for figure in figures]), "{:>9.1f}".format)
        wall = spread([figure.events / figure.wall_s / 1000 for figure in figures]).median
        print(f"{name:<34}{rates}{wall:>10.1f}{max(figure.peak_mib for figure in figures):>10.0f}")
    print(f"\n{'bar':<48}{'min':>9}{'median':>9}{'max':>9}{'bar':>8}")
    for result in report.results:
        bar = result.bar
        style = "{:>9.3f}" if bar.over is not None else "{:>9,.0f}"
        met = "NOT MET" if not result.is_met else "met" if bar.at_least else "for comparison"
        print(f"{bar.name:<48}{_row(result.spread, style.format)}{bar.at_least:>8g}  {met}")
    broken = [(name, f.note) for name, some in report.figures.items() for f in some if not f.is_exact]
    print("\nEvery view is exact." if not broken else "\nNOT EXACT:")
    for name, note in broken:
        print(f"{name}: {note}")


def _row(values: Spread, show: Callable[[float], str]) -> str:
    return show(values.low) + show(values.median) + show(values.high)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
