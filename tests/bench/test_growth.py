"""The growth paragraph names the step where the cost rises most, and why by what was counted."""

import itertools
from collections.abc import Callable
from xml.etree import ElementTree as ET

from tests.bench.growth import Cell, bend, plot, table
from tests.bench.measure import Spread
from tests.bench.plot import chart

SVG = "{http://www.w3.org/2000/svg}"


def cells(
    cost: Callable[[int, int, int], float],
    *,
    shared: Callable[[int, int, int], float] = lambda *_: 100.0,
    rows: Callable[[int, int, int], float] = lambda *_: 1.0,
) -> list[Cell]:
    """Return a cell for each size, its cost by (partitions, subjects, workers)."""
    found = []
    for size in itertools.product((1, 4, 16), (1_000, 100_000, 1_000_000), (1, 2)):
        at = cost(*size)
        found.append(
            Cell(
                partitions=size[0], subjects=size[1], workers=size[2],
                cpu_us=Spread(low=at, median=at, high=at), times_noop=Spread(low=at, median=at, high=at),
                wall_us=Spread(low=at, median=at / size[2], high=at),
                events_per_transaction=shared(*size), rows_per_event=rows(*size), peak_mb=100.0,
                is_exact=True,
            )
        )  # fmt: skip
    return found


def test_the_bend_is_the_step_that_raises_the_cost_most() -> None:
    """By the mean over all sizes that differ in that step alone."""
    found = bend(cells(lambda partitions, subjects, _: 3.0 * (1 + (partitions == 16)) + (subjects > 1_000)))

    assert "bends most from 4 to 16 partitions" in found
    assert "costs 3.0 times the CPU of reading it at 1 partition, 1,000 subjects and 1 worker" in found
    assert "7.0 times at 16 partitions" in found
    assert "A second worker takes 0.50 of the time" in found


def test_fewer_events_in_a_transaction_explain_a_bend() -> None:
    """The price of a transaction is shared by fewer."""
    found = bend(
        cells(
            lambda partitions, *_: float(partitions),
            shared=lambda partitions, *_: 1600.0 / partitions,
        )
    )

    assert "shared by fewer events" in found


def test_more_rows_for_an_event_explain_a_bend() -> None:
    """Fewer events meet in one state."""
    found = bend(
        cells(
            lambda _, subjects, __: 1.0 + subjects / 1_000_000,
            rows=lambda _, subjects, __: 1.0 + subjects / 1_000_000,
        )
    )

    assert "fewer events share a state" in found


def test_a_bend_that_nothing_counted_explains_is_said_to_be_so() -> None:
    """No cause is made up."""
    assert "neither explains it" in bend(cells(lambda _, subjects, __: float(subjects)))


def test_the_table_has_a_row_for_each_size() -> None:
    """And marks a view that was not exact."""
    made = cells(lambda *_: 2.0)

    rows = table(made).splitlines()

    assert len(rows) == 1 + len(made)
    assert not any("NOT EXACT" in row for row in rows)


def test_the_plot_is_well_formed_and_has_a_line_for_each_number_of_partitions() -> None:
    """In a panel for each number of workers."""
    root = ET.fromstring(plot(cells(lambda partitions, *_: float(partitions))))  # noqa: S314 - our own

    assert len(root.findall(f"{SVG}g")) == 2
    assert len(root.findall(f".//{SVG}polyline")) == 6


def test_a_higher_cost_is_drawn_higher() -> None:
    """The vertical axis of a picture grows downwards."""
    drawn = chart({"one": {"line": [(1, 1), (10, 5)]}}, title="t < u", x_name="x", y_name="y")
    root = ET.fromstring(drawn)  # noqa: S314 - our own

    (line,) = root.findall(f".//{SVG}polyline")
    (x_low, y_low), (x_high, y_high) = (
        tuple(map(float, place.split(","))) for place in line.attrib["points"].split()
    )
    assert x_low < x_high
    assert y_low > y_high
