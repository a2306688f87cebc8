"""What the rounds say is judged by the declared bars, within each round, and told in the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import pytest

from tests.bench.bars import BARS, RIVALS, Bar, Kind, judge
from tests.bench.measure import Figure, Spread, percentile, spread, together
from tests.bench.report import Report, inexact, report_of, text
from tests.bench.run import FULL, QUICK

MACHINE: Final = {"cpus": "2", "load": "0.1", "python": "3.11"}
RATIO: Final = Bar(name="fast ÷ slow", kind="fast", over="slow", at_least=0.5)


def figure(rate: float, *, peak_mb: float = 50.0, is_exact: bool = True, **more: float) -> Figure:
    """Return what a process did in one CPU-second."""
    return Figure(
        events=round(rate), cpu_s=1.0, wall_s=2.0, peak_mb=peak_mb, more=more, is_exact=is_exact,
        note="as expected" if is_exact else "one state differs",
    )  # fmt: skip


def report(figures: Mapping[str, Sequence[Figure]], **missing: str) -> Report:
    """Return the report of these figures."""
    return report_of(figures, machine=MACHINE, broker="jars", size=FULL, missing=missing)


def test_a_ratio_is_taken_within_each_round() -> None:
    """The host is slow in one round for both: the ratio of the medians would be 1."""
    figures = {"fast": [figure(100), figure(40), figure(60)], "slow": [figure(200), figure(50), figure(60)]}

    found = judge(RATIO, figures)

    assert found is not None
    assert found.spread == Spread(low=0.5, median=0.8, high=1.0)
    assert found.is_met is True


@pytest.mark.parametrize(("rate", "is_met"), [(49, False), (50, True)], ids=["below", "at"])
def test_a_bar_is_met_at_its_bound(rate: float, is_met: bool) -> None:  # noqa: FBT001 - a parameter
    """Below it, it is not."""
    found = judge(RATIO, {"fast": [figure(rate)], "slow": [figure(100)]})

    assert found is not None
    assert found.is_met is is_met


def test_memory_is_judged_by_its_highest_round() -> None:
    """A worker that needs too much once has needed too much."""
    bar = Bar(name="memory", kind="fast", of="peak_mb", at_most=200)

    found = judge(bar, {"fast": [figure(1, peak_mb=peak) for peak in (150, 160, 201)]})

    assert found is not None
    assert found.is_met is False


def test_another_number_is_judged_by_its_median() -> None:
    """A latency may be slow in one round on a busy host."""
    bar = Bar(name="latency", kind="fast", of="p99_ms", at_most=200)

    found = judge(bar, {"fast": [figure(1, p99_ms=wait) for wait in (150, 180, 900)]})

    assert found is not None
    assert found.is_met is True


@pytest.mark.parametrize(
    "figures",
    [{}, {"fast": [figure(1)]}, {"fast": [figure(1)], "slow": [figure(1), figure(1)]}],
    ids=["neither", "no base", "not in the same rounds"],
)
def test_a_bar_without_both_kinds_in_the_same_rounds_says_nothing(
    figures: dict[str, list[Figure]],
) -> None:
    """A ratio of two runs would be no ratio."""
    assert judge(RATIO, figures) is None


def test_each_bar_names_kinds_that_there_are() -> None:
    """A bar with a misspelt kind would never be judged."""
    kinds = {value for name, value in vars(Kind).items() if name.isupper()}
    kinds |= {Kind.latency(partitions) for partitions in FULL.latency_partitions}

    assert {bar.kind for bar in BARS} | {bar.over for bar in BARS if bar.over} <= kinds
    assert kinds >= RIVALS
    assert len({bar.name for bar in BARS}) == len(BARS)


def test_a_bar_that_is_not_met_is_printed_and_fails_nothing() -> None:
    """Speed is told; what is wrong fails."""
    figures = {Kind.CORE: [figure(10)], Kind.NOOP: [figure(100)]}

    found = report(figures)

    assert "NOT MET" in text(found)
    assert inexact(found) == []


def test_a_view_of_ours_that_is_not_exact_is_what_a_run_fails_for() -> None:
    """Its note is printed."""
    found = report({Kind.CORE: [figure(10), figure(10, is_exact=False)]})

    assert inexact(found) == ["core: one state differs"]
    assert "NOT EXACT:\ncore: one state differs" in text(found)


def test_a_rival_that_is_not_exact_is_told_and_fails_nothing() -> None:
    """It is theirs to be exact."""
    found = report({Kind.FAUST: [figure(10, is_exact=False)]})

    assert inexact(found) == []
    assert "A rival is not exact: Faust table agent: one state differs" in text(found)


def test_a_kind_that_did_not_run_is_told() -> None:
    """Silence would look like a comparison."""
    found = report({}, bytewax="not installed")

    assert "Not run: bytewax: not installed" in text(found)


def test_quick_sizes_are_told() -> None:
    """Nobody may take them for measurements."""
    found = report_of({}, machine=MACHINE, broker="jars", size=QUICK, missing={})

    assert "QUICK" in text(found)


def test_a_report_reads_back_from_its_json() -> None:
    """Other tools compare reports."""
    written = report({Kind.CORE: [figure(10, transactions=3)], Kind.NOOP: [figure(100)]})

    assert msgspec.json.decode(msgspec.json.encode(written), type=Report) == msgspec.convert(
        msgspec.to_builtins(written), Report
    )


def test_what_processes_did_side_by_side_adds_up() -> None:
    """Work and CPU add up; the slowest sets the wall time, the largest the memory."""
    one = Figure(events=10, cpu_s=1.0, wall_s=3.0, peak_mb=70, more={"transactions": 2})
    two = Figure(events=30, cpu_s=3.0, wall_s=2.0, peak_mb=60, more={"transactions": 5}, is_exact=False)

    both = together([one, two])

    assert (both.events, both.cpu_s, both.wall_s, both.peak_mb) == (40, 4.0, 3.0, 70)
    assert both.more == {"transactions": 7}
    assert not both.is_exact


def test_a_spread_is_lowest_median_highest() -> None:
    """In any order of the rounds."""
    assert spread([3, 1, 2]) == Spread(low=1, median=2, high=3)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    """The smallest at or below which that share of all lie."""
    values = [float(value) for value in range(1, 101)]

    found = percentile(values, share)

    assert math.isclose(found, expected)
