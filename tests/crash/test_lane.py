"""The lane of crash points fails when less ran than was enumerated or asked for."""

from typing import Final

from msgspec import structs

from privacy_ledger.testing.crashes import Report
from tests.crash.lane import PAIRS, shortfalls

WHOLE: Final = Report(scenario="withdrawal", points=10, ran=10, recovered=10, pairs=PAIRS, violations=())


def test_all_that_was_asked_for_is_no_shortfall() -> None:
    """Two thousand pairs unless fewer are asked for."""
    assert (shortfalls([WHOLE], pairs=PAIRS), PAIRS) == ([], 2000)


def test_a_point_that_did_not_run_or_was_not_recovered_is_told() -> None:
    """A scenario without any point as well: its enumeration found nothing."""
    less = [
        structs.replace(WHOLE, ran=9), structs.replace(WHOLE, recovered=7),
        structs.replace(WHOLE, points=0, ran=0, recovered=0),
    ]  # fmt: skip
    assert shortfalls(less, pairs=PAIRS) == [
        "      withdrawal: only 9 of 10 points ran",
        "      withdrawal: only 7 of 10 points ran",
        "      withdrawal: no point was enumerated",
    ]


def test_fewer_pairs_than_asked_are_told_over_all_scenarios() -> None:
    """The sum counts: each scenario has its share."""
    half = structs.replace(WHOLE, pairs=PAIRS // 2)
    assert shortfalls([half, half], pairs=PAIRS) == []
    assert shortfalls([half], pairs=PAIRS) == ["only 1000 of 2000 pairs ran"]
