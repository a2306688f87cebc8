"""What is judged by time: visibility in the view, memory over a soak, and a group that has settled."""

import pytest

from tests.bench.group import is_settled
from tests.bench.latency import Seen, Sent, visible_after_ms
from tests.bench.soak import Sample, series, verdict
from tests.bench.tasks import Status

ADA = b"a" * 16
BOB = b"b" * 16
MS = 1_000_000


def test_an_event_is_visible_with_the_first_row_that_covers_it() -> None:
    """Of its own subject, and not with a row that was written before."""
    sent = [Sent(ADA, 0, 0), Sent(BOB, 1, 10 * MS), Sent(ADA, 2, 20 * MS), Sent(ADA, 3, 30 * MS)]
    seen = [Seen(ADA, 0, 50 * MS), Seen(ADA, 3, 90 * MS), Seen(BOB, 1, 95 * MS), Seen(ADA, 3, 99 * MS)]

    assert visible_after_ms(sent, seen) == [50, 60, 70, 85]


def test_an_event_that_never_became_visible_is_an_error() -> None:
    """To leave it out would make the figure better."""
    with pytest.raises(ValueError, match="offset 5 never"):
        visible_after_ms([Sent(ADA, 5, 0)], [Seen(ADA, 4, 9), Seen(BOB, 9, 9)])


def sample(at_s: float, resident_mb: float, *, behind: int = 1000) -> Sample:
    """Return a worker that folds a hundred records a second."""
    return Sample(at_s=at_s, resident_mb=resident_mb, behind=behind, written=behind + round(at_s * 100))


@pytest.mark.parametrize(
    ("sizes", "is_flat"),
    [
        ((100, 105, 95, 100), True),
        ((100, 100, 110, 100), True),
        ((100, 100, 111, 100), False),
        ((100, 100, 89, 100), False),
        ((90, 95, 105, 110), True),
        ((80, 95, 105, 120), False),
    ],
    ids=["level", "at the bound", "a peak", "a dip", "slow growth within", "growth"],
)
def test_memory_is_flat_within_a_tenth_of_its_median(sizes: tuple[float, ...], is_flat: bool) -> None:  # noqa: FBT001 - a parameter
    """In every sample after warm-up."""
    samples = [sample(60 + 10 * number, size) for number, size in enumerate(sizes)]

    found = verdict(samples, warm_up_s=60)

    assert found.is_flat is is_flat
    assert found.says.startswith("FLAT" if is_flat else "NOT FLAT")


def test_warm_up_is_not_judged() -> None:
    """Caches fill then."""
    found = verdict([sample(0, 10), sample(59, 400), sample(60, 100), sample(70, 101)], warm_up_s=60)

    assert found.is_flat
    assert (found.low_mb, found.high_mb, found.folded) == (100, 101, 1000)


def test_a_worker_that_folds_nothing_is_not_flat() -> None:
    """Memory at rest proves nothing."""
    still = [Sample(at_s=at, resident_mb=100, behind=10, written=20) for at in (60.0, 70.0)]

    assert not verdict(still, warm_up_s=60).is_flat


def test_a_soak_without_samples_after_warm_up_says_nothing() -> None:
    """It has to run longer."""
    with pytest.raises(ValueError, match="longer"):
        verdict([sample(0, 10)], warm_up_s=60)


def test_the_series_has_a_line_for_each_period() -> None:
    """With memory from lowest to highest, the lag and the rate."""
    rows = series([sample(at, 100 + at) for at in (0, 5, 10, 15)], every_s=10).splitlines()

    assert [row.split() for row in rows[1:]] == [
        ["5", "100", "102", "105", "1,000", "100"],
        ["15", "110", "112", "115", "1,000", "100"],
    ]


def status(*running: int, is_joined: bool = True, is_caught_up: bool = True) -> Status:
    """Return what a worker says."""
    return Status(is_joined=is_joined, running=running, is_caught_up=is_caught_up)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((status(0, 1), status(2, 3)), True),
        ((status(0, 1), status(2)), False),
        ((status(0, 1, 2, 3), status(2, 3)), False),
        ((status(0, 1, 2, 3), status()), False),
        ((status(0, 1, 2, 3), status(is_joined=False)), False),
        ((status(0, 1, 2, 3), None), False),
        ((status(0, 1), status(2, 3, is_caught_up=False)), False),
    ],
    ids=["shared", "one missing", "one twice", "one idle", "one not joined", "one silent", "one behind"],
)
def test_a_group_is_settled_when_each_partition_has_one_owner(
    statuses: tuple[Status | None, ...],
    expected: bool,  # noqa: FBT001 - a parameter
) -> None:
    """And each worker its part, as long as there are enough partitions."""
    assert is_settled(statuses, partitions=4) is expected


def test_a_group_with_more_workers_than_partitions_settles_with_one_idle() -> None:
    """There is nothing for it to own."""
    assert is_settled((status(0), status()), partitions=1)
