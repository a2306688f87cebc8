"""What one run measured, as JSON and as text; compare ratios, never the figures of two runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import Struct

from tests.bench.bars import BARS, RIVALS, Result, judge
from tests.bench.growth import Cell, bend, table
from tests.bench.measure import Figure, Spread, spread
from tests.bench.run import Size

__all__ = ["Report", "inexact", "report_of", "text"]


class Report(Struct, frozen=True, kw_only=True):
    """One run. `missing` says why a kind was not measured, `growth` is there where it was asked for."""

    machine: Mapping[str, str]
    broker: str
    size: Size
    figures: Mapping[str, Sequence[Figure]]
    missing: Mapping[str, str]
    results: Sequence[Result]
    growth: Sequence[Cell] = ()
    growth_says: str = ""


def report_of(
    figures: Mapping[str, Sequence[Figure]],
    *,
    machine: Mapping[str, str],
    broker: str,
    size: Size,
    missing: Mapping[str, str],
    growth: Sequence[Cell] = (),
) -> Report:
    """Return the report of a run: every bar judged whose kinds were measured."""
    return Report(
        machine=machine, broker=broker, size=size, figures=figures, missing=missing,
        results=[result for bar in BARS if (result := judge(bar, figures)) is not None],
        growth=growth, growth_says=bend(growth) if growth else "",
    )  # fmt: skip


def inexact(report: Report) -> list[str]:
    """Return what of ours was not exact, which is what a run fails for; a rival's is only told."""
    found = [
        f"{name}: {figure.note}"
        for name, figures in report.figures.items()
        if name not in RIVALS
        for figure in figures
        if not figure.is_exact
    ]
    found += [
        f"growth at {cell.partitions} partitions and {cell.subjects:,} subjects: the view is DIFFERENT."
        for cell in report.growth
        if not cell.is_exact
    ]
    return found


def text(report: Report) -> str:
    """Return the report for a reader."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    size = report.size
    yield (
        f"Broker: {report.broker}. {size.rounds} interleaved rounds on {report.machine.get('cpus')} CPUs, "
        f"load {report.machine.get('load')}. Python {report.machine.get('python')}."
    )
    if not size.is_full:
        yield "QUICK: a fraction of the sizes that kinds and bars are named after; it shows that all works."
    if report.figures:
        yield (
            f"Plain events: 1 KB of JSON, {size.subjects:,} skewed subjects, 1 partition; CPU is user and "
            "system time of a process with its threads and children."
        )
        yield from _figures(report)
        yield from _results(report)
    if report.growth:
        yield ""
        yield "Core with de-duplication as it grows, every view compared with the expected one:"
        yield table(report.growth)
        yield ""
        yield report.growth_says
    yield ""
    broken = inexact(report)
    yield from ["NOT EXACT:", *broken] if broken else ["Every view of ours is exact."]
    for name in sorted(RIVALS & report.figures.keys()):
        for figure in report.figures[name]:
            if not figure.is_exact:
                yield f"A rival is not exact: {name}: {figure.note}"
    for name, reason in report.missing.items():
        yield f"Not run: {name}: {reason}"


def _figures(report: Report) -> Iterator[str]:
    yield ""
    yield (
        f"{'k per CPU-second':<36}{'min':>9}{'median':>9}{'max':>9}"
        f"{'wall k/s':>10}{'peak MB':>9}{'events':>10}"
    )
    for name, figures in report.figures.items():
        rates = _row(spread([figure.rate / 1000 for figure in figures]), "{:>9.1f}".format)
        wall = spread([figure.wall_rate / 1000 for figure in figures]).median
        peak = max(figure.peak_mb for figure in figures)
        yield f"{name:<36}{rates}{wall:>10.1f}{peak:>9.0f}{figures[0].events:>10,}"


def _results(report: Report) -> Iterator[str]:
    yield ""
    yield f"{'':<62}{'min':>10}{'median':>10}{'max':>10}{'bar':>11}"
    for result in report.results:
        bar = result.bar
        style = "{:>10.3f}" if bar.over is not None else "{:>10,.0f}"
        met = {True: "  met", False: "  NOT MET", None: ""}[result.is_met]
        yield f"{bar.name:<62}{_row(result.spread, style.format)}{bar.bound:>11}{met}"


def _row(values: Spread, show: Callable[[float], str]) -> str:
    return show(values.low) + show(values.median) + show(values.high)
