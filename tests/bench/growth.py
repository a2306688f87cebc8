"""`poe bench --growth`: what an event costs at more partitions, more subjects and more workers.

Every subject has a state before anything is measured. Each cost is also said as a multiple of what
reading the same events costs (the median of this run): compare these, not microseconds.
"""

import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence
from statistics import geometric_mean, median
from typing import Final

from msgspec import Struct, structs

from tests.bench.group import Group
from tests.bench.measure import Figure, Spread, spread
from tests.bench.plain import OUTPUTS, VIEW_TOPIC
from tests.bench.plot import chart
from tests.bench.processes import Child, do
from tests.bench.run import Bench
from tests.bench.source import SOURCE
from tests.bench.tasks import EngineWork, Feed, Filled, More, Noop

__all__ = ["Cell", "Growth", "bend", "plot", "table"]

PARTITIONS: Final = (1, 4, 16)
WORKERS: Final = (1, 2)
AXES: Final = ("partitions", "subjects", "workers")
CHANGED: Final = 0.95
"""A count that fell below this part of itself explains something."""


class Cell(Struct, frozen=True, kw_only=True):
    """What an event cost at one size: CPU µs, the multiple of reading it, and wall µs.

    Rows per event is what was written to changelogs, events per transaction how many share one.
    """

    partitions: int
    subjects: int
    workers: int
    cpu_us: Spread
    times_noop: Spread
    wall_us: Spread
    events_per_transaction: float
    rows_per_event: float
    peak_mb: float
    is_exact: bool


class _Measured(Struct, frozen=True):
    """The rounds of one size, and what reading the same events cost beside each."""

    partitions: int
    subjects: int
    workers: int
    figures: list[Figure]
    noops: list[Figure]
    is_exact: bool = True


class Growth:
    """Measured size by size; within one, the numbers of workers take turns."""

    def __init__(self, bench: Bench) -> None:
        """Prepare nothing."""
        self._bench = bench

    def run(self) -> list[Cell]:
        """Measure every size."""
        found: list[_Measured] = []
        for partitions, subjects in itertools.product(PARTITIONS, self._bench.size.growth_subjects):
            found += self._size(partitions, subjects)
        noop_us = median(1e6 / noop.rate for measured in found for noop in measured.noops)
        return [_cell(measured, noop_us=noop_us) for measured in found]

    def _size(self, partitions: int, subjects: int) -> list[_Measured]:
        bench = self._bench
        prefix = f"{bench.prefix}growth-{partitions}-{subjects}."
        folder = bench.fresh(f"growth-{partitions}-{subjects}")
        for number in range(max(WORKERS)):
            (folder / str(number)).mkdir()
        found = {workers: _Measured(partitions, subjects, workers, [], []) for workers in WORKERS}
        bench.create(OUTPUTS, prefix=prefix, partitions=partitions)
        feed = Feed(bootstrap=bench.bootstrap, prefix=prefix, subjects=subjects, partitions=partitions)
        with Child(feed) as feeder:
            held = feeder.hear(Filled).targets
            for _, workers in itertools.product(range(bench.size.growth_rounds), WORKERS):
                tasks = [
                    EngineWork(
                        bootstrap=bench.bootstrap, folder=str(folder / str(number)), source_prefix=prefix,
                        prefix=prefix, partitions=partitions, held_after=held,
                    )
                    for number in range(workers)
                ]  # fmt: skip
                with Group(tasks) as group:
                    group.settle()
                    feeder.tell(More(events=bench.size.growth_events))
                    targets = feeder.hear(Filled).targets
                    found[workers].figures.append(group.go(targets))
                    group.end()
                noop = Noop(bootstrap=bench.bootstrap, topic=prefix + SOURCE, after=held, targets=targets)
                found[workers].noops.append(do(noop, Figure))
                held = targets
                _say(found[workers])
            feeder.tell(More(events=0))
            digest = feeder.hear(Filled).digest
            feeder.end(Filled)
        # Every round went into the same view: what one of them broke is still broken.
        last = found[WORKERS[-1]].figures[-1]
        checked = bench.checked(last, topic=prefix + VIEW_TOPIC, digest=digest, partitions=partitions)
        bench.drop(prefix)
        shutil.rmtree(folder)
        return [structs.replace(measured, is_exact=checked.is_exact) for measured in found.values()]


def _say(measured: _Measured) -> None:
    figure, noop = measured.figures[-1], measured.noops[-1]
    print(
        f"growth at {_at(measured)}: {figure.rate:,.0f} events/CPU-s, noop {noop.rate:,.0f}",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def _cell(measured: _Measured, *, noop_us: float) -> Cell:
    figures = measured.figures
    events = sum(figure.events for figure in figures)
    costs = [1e6 / figure.rate for figure in figures]
    return Cell(
        partitions=measured.partitions, subjects=measured.subjects, workers=measured.workers,
        cpu_us=spread(costs), times_noop=spread([cost / noop_us for cost in costs]),
        wall_us=spread([1e6 / figure.wall_rate for figure in figures]),
        events_per_transaction=events / sum(figure.more["transactions"] for figure in figures),
        rows_per_event=sum(figure.more["writes"] for figure in figures) / events,
        peak_mb=max(figure.peak_mb for figure in figures), is_exact=measured.is_exact,
    )  # fmt: skip


# What it says -----------------------------------------------------------------------------------


def table(cells: Sequence[Cell]) -> str:
    """Return the cells as text, a row each."""
    head = (
        "partitions",
        "subjects",
        "workers",
        "noops",
        "min",
        "max",
        "CPU µs",
        "wall µs",
        "ev/tx",
        "rows/ev",
        "MB",
    )
    rows = [
        (
            f"{cell.partitions}", f"{cell.subjects:,}", f"{cell.workers}", f"{cell.times_noop.median:.2f}",
            f"{cell.times_noop.low:.2f}", f"{cell.times_noop.high:.2f}", f"{cell.cpu_us.median:.1f}",
            f"{cell.wall_us.median:.1f}", f"{cell.events_per_transaction:,.0f}",
            f"{cell.rows_per_event:.2f}", f"{cell.peak_mb:.0f}{'' if cell.is_exact else '  NOT EXACT'}",
        )
        for cell in cells
    ]  # fmt: skip
    return "\n".join("".join(f"{value:>11}" for value in row) for row in (head, *rows))


def plot(cells: Sequence[Cell]) -> str:
    """Return the cost by subjects as SVG: a panel per number of workers, a line per partitions."""
    panels = {
        _many(workers, "worker"): {
            _many(partitions, "partition"): [
                (cell.subjects, cell.times_noop.median)
                for cell in cells
                if cell.workers == workers and cell.partitions == partitions
            ]
            for partitions in sorted({cell.partitions for cell in cells})
        }
        for workers in sorted({cell.workers for cell in cells})
    }
    return chart(
        panels, title="Cost of an event, core with de-duplication", x_name="subjects",
        y_name="times the CPU of reading it",
    )  # fmt: skip


class _Step(Struct, frozen=True):
    """One step along an axis, over all sizes that differ in it alone."""

    axis: str
    below: int
    above: int
    pairs: tuple[tuple[Cell, Cell], ...]

    @property
    def factors(self) -> list[float]:
        return [above.times_noop.median / below.times_noop.median for below, above in self.pairs]

    @property
    def mean(self) -> float:
        return geometric_mean(self.factors)

    def change(self, member: str) -> float:
        """Return by which factor a member of the cells changes."""
        return geometric_mean(
            [getattr(above, member) / getattr(below, member) for below, above in self.pairs]
        )


def bend(cells: Sequence[Cell]) -> str:
    """Return a paragraph: where the cost per event rises most, and what changes there."""
    steps = list(_steps(cells))
    cheap = min(cells, key=lambda cell: cell.times_noop.median)
    dear = max(cells, key=lambda cell: cell.times_noop.median)
    sharpest = max(steps, key=lambda step: step.mean)
    ends = (
        f"An event costs {cheap.times_noop.median:.1f} times the CPU of reading it at {_at(cheap)}, and "
        f"{dear.times_noop.median:.1f} times at {_at(dear)}."
    )
    where = (
        f"The cost bends most from {sharpest.below:,} to {sharpest.above:,} {sharpest.axis}: by a factor of "
        f"{sharpest.mean:.2f} on average, of {min(sharpest.factors):.2f} to {max(sharpest.factors):.2f}."
    )
    says = [ends, where, _why(sharpest)]
    others = [step for step in steps if step is not sharpest]
    if others:
        factors = ", ".join(
            f"{step.below:,} to {step.above:,} {step.axis} {step.mean:.2f}" for step in others
        )
        says.append(f"The factors of the other steps: {factors}.")
    spread_out = [pair for step in steps if step.axis == "workers" for pair in step.pairs]
    times = [
        above.wall_us.median / below.wall_us.median for below, above in spread_out if below.partitions > 1
    ]
    if times:
        says.append(
            f"A second worker takes {geometric_mean(times):.2f} of the time of one where both have work."
        )
    return " ".join(says)


def _steps(cells: Sequence[Cell]) -> Iterator[_Step]:
    for axis in AXES:
        rest = [other for other in AXES if other != axis]
        values = sorted({getattr(cell, axis) for cell in cells})
        for below, above in itertools.pairwise(values):
            at = {
                tuple(getattr(cell, name) for name in rest): cell
                for cell in cells
                if getattr(cell, axis) == below
            }
            pairs = [
                (at[place], cell)
                for cell in cells
                if getattr(cell, axis) == above
                and (place := tuple(getattr(cell, name) for name in rest)) in at
            ]
            if pairs:
                yield _Step(axis, below, above, tuple(pairs))


def _why(step: _Step) -> str:
    shared, rows = step.change("events_per_transaction"), step.change("rows_per_event")
    counts = (
        f"There a transaction carries {shared:.2f} times the events, and an event writes {rows:.2f} times "
        "the rows"
    )
    if shared < 1 / rows and shared < CHANGED:
        return f"{counts}: the fixed price of a cycle and its transaction is shared by fewer events."
    if 1 / rows < CHANGED:
        return f"{counts}: fewer events share a state, so more states are read, encoded and written for each."
    return f"{counts}: neither explains it, so it lies in the store, and in states not in the cache."


def _at(size: Cell | _Measured) -> str:
    return (
        f"{_many(size.partitions, 'partition')}, {_many(size.subjects, 'subject')} and "
        f"{_many(size.workers, 'worker')}"
    )


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'s' * (count != 1)}"
