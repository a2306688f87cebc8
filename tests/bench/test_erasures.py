"""Waits of erasures are taken between the right moments, judged by their bars, and told in full."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import pytest
from msgspec import structs

from tests.bench.erasing import lines_of, subject_of
from tests.bench.erasure_report import Bar, Found, Report, Setup, Wait, broken, found_of, judge, text, wait
from tests.bench.erasure_segments import Segments
from tests.bench.erasures import bound_s, sample_of
from tests.bench.measure import cpu_s_of
from tests.bench.tasks import Checked, Erased, Fed, Gone, Order, Seen

S: Final = 1_000_000_000
SETUP: Final = Setup(
    commit="abc", broker="jars", machine={"cpus": "2", "load": "0.1", "python": "3.11"}, erasures=1,
    per_second=10, in_hand=2, is_fresh=False, rate=500, partitions=4, learners=10, records=6, scale_ms=5000,
    bound_s=11.0,
)  # fmt: skip
ERASED: Final = Erased(
    person=0,
    begun_ns=2 * S,
    requested_ns=3 * S,
    steps={"requested": 3 * S + S // 8},
    tries=1,
    is_completed=True,
)
WELL: Final = Checked(with_live_keys=0, readable=0, unknown=0, answering=0)
FOUND: Final = Found(
    orders=[Order(person=0, due_ns=1 * S)],
    erased=[ERASED],
    unreadable=[Seen(person=0, before_ns=3 * S, at_ns=3 * S + S // 4)],
    clean=[Seen(person=0, before_ns=4 * S, at_ns=5 * S)],
    gone=[
        Gone(
            person=0, records=6, tombstoned_ns=4 * S, left=0,
            first=Seen(person=0, before_ns=8 * S, at_ns=9 * S),
            last=Seen(person=0, before_ns=10 * S, at_ns=11 * S),
        )
    ],
    fed=Fed(events=5000, records=5100, seconds=10.0),
    checked=WELL,
    seconds=2.0,
    events=1000,
    cpu_s={"worker": 1.0, "erasers": 3.0},
)  # fmt: skip


def waits_of(report: Report) -> dict[str, float | None]:
    """Return the highest of each wait."""
    return {one.name: one.highest for one in report.waits}


def test_a_wait_is_told_in_seconds_by_percentiles() -> None:
    """They are values that were measured, never between two."""
    found = wait("a wait", [(0, number * S) for number in range(1, 101)], [S, 2 * S])

    assert found == Wait(
        name="a wait", known=100, missing=0, p50=50.0, p99=99.0, highest=100.0, error_p99=2.0, error_max=2.0
    )


def test_a_wait_whose_end_was_not_seen_is_missing() -> None:
    """It is neither short nor left out."""
    found = wait("a wait", [(0, S), (0, None), (None, S)])

    assert (found.known, found.missing, found.highest) == (1, 2, 1.0)


def test_waits_count_from_the_request_and_from_when_it_was_asked_for() -> None:
    """An eraser that is not free must not hide what people waited for."""
    assert waits_of(found_of(FOUND, SETUP)) == {
        "requested → unreadable": 0.25,
        "asked for → unreadable": 2.25,
        "requested → derived stores clean": 2.0,
        "asked for → derived stores clean": 4.0,
        "request written → unreadable": 0.125,
        "last tombstone → first record's bytes gone": 5.0,
        "last tombstone → last record's bytes gone": 7.0,
        "asked for → taken up by an eraser": 1.0,
        "requested → step requested": 0.125,
    }


@pytest.mark.parametrize(
    ("value", "missing", "is_met"),
    [(5.0, 0, True), (5.1, 0, False), (1.0, 1, False), (None, 1, False)],
    ids=["at", "above", "not seen for somebody", "not seen for anybody"],
)
def test_a_bar_is_met_at_its_bound_and_by_everybody(
    value: float | None,
    missing: int,
    is_met: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Whose end was not seen may have waited for ever."""
    bar = Bar(wait="a wait", of="p99", at_most=5.0)
    measured = Wait(name="a wait", known=1, missing=missing, p50=value, p99=value, highest=value)

    found = judge(bar, [measured])

    assert found is not None
    assert found.is_met is is_met


def test_a_bar_that_is_not_met_is_printed_and_fails_nothing() -> None:
    """Speed is told; who is not erased fails."""
    report = found_of(FOUND, SETUP)

    assert "NOT MET" in text(report)
    assert "Everybody is erased." in text(report)
    assert not broken(report)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (
            structs.replace(FOUND, erased=[structs.replace(ERASED, is_completed=False)]),
            "1 erasures are not complete",
        ),
        (structs.replace(FOUND, orders=[], erased=[]), "1 erasures are not complete"),
        (
            structs.replace(FOUND, checked=structs.replace(WELL, with_live_keys=1)),
            "1 people have keys that were not destroyed",
        ),
        (
            structs.replace(FOUND, checked=structs.replace(WELL, readable=2)),
            "2 people have records that open",
        ),
        (
            structs.replace(FOUND, checked=structs.replace(WELL, unknown=1)),
            "1 people have records whose key this keystore does not know as destroyed",
        ),
        (
            structs.replace(FOUND, checked=structs.replace(WELL, answering=1)),
            "1 people are still in a projection or an index",
        ),
        (
            structs.replace(
                FOUND, gone=[Gone(person=0, records=6, tombstoned_ns=S, first=None, last=None, left=6)]
            ),
            "6 sealed records of the sample are still in the broker's files",
        ),
    ],
    ids=["incomplete", "not begun", "live keys", "readable", "unknown", "answering", "bytes"],
)
def test_who_is_not_erased_fails_the_run(found: Found, says: str) -> None:
    """What is left is named."""
    report = found_of(found, SETUP)

    assert broken(report)
    assert f"NOT ERASED:\n{says}" in text(report)


def test_a_rate_that_was_not_reached_is_told() -> None:
    """The waits of a lighter load are no answer; what the feed did before and after does not count."""
    slow = found_of(structs.replace(FOUND, events=600), SETUP)

    assert "NOT THE RATE THAT WAS ASKED FOR" in text(slow)
    assert "NOT THE RATE THAT WAS ASKED FOR" not in text(found_of(FOUND, SETUP))


def test_what_looking_on_cost_is_told() -> None:
    """It is taken from the same CPUs."""
    told = text(found_of(FOUND, SETUP))

    assert "the broker left out: worker 0.50, erasers 1.50." in told
    assert "A saga took 3.00 CPU-seconds of its eraser." in told


def test_the_cpu_of_a_process_is_what_it_used() -> None:
    """Of one that is not there it is nothing."""
    assert cpu_s_of(os.getpid()) > 0
    assert cpu_s_of(-1) == 0


def test_bytes_that_nobody_could_look_for_are_told() -> None:
    """Silence would look like a proof."""
    report = found_of(structs.replace(FOUND, gone=None), SETUP)

    assert "Bytes: NOT RUN" in text(report)
    assert [one for one in report.results if "bytes" in one.bar.wait] == []


def test_a_report_of_erasures_reads_back_from_its_json() -> None:
    """Other tools compare reports."""
    written = found_of(FOUND, SETUP)

    assert msgspec.json.decode(msgspec.json.encode(written), type=Report) == msgspec.convert(
        msgspec.to_builtins(written), Report
    )


def test_the_bound_on_bytes_comes_from_the_ledgers_settings() -> None:
    """Segment and lag of five seconds each, and one until the file is deleted."""
    assert bound_s(5000) == 11.0


@pytest.mark.parametrize(
    ("erasures", "wanted", "sample"),
    [(10, 2, (0, 5)), (3, 50, (0, 1, 2)), (7, 3, (0, 2, 4))],
    ids=["evenly", "all", "not a multiple"],
)
def test_a_sample_is_even(erasures: int, wanted: int, sample: tuple[int, ...]) -> None:
    """The first and the last of a run differ most."""
    assert sample_of(erasures, wanted) == sample


def test_the_people_are_made_up() -> None:
    """Each has lines of their own, and lives at example.com."""
    lines = b"\n".join(lines_of(7, now=datetime(2026, 1, 3, tzinfo=UTC)))

    assert subject_of(7).removeprefix("openedx:user_id:").encode() in lines
    assert b"erased-000007@example.com" in lines


def test_a_record_is_there_until_no_file_has_it(tmp_path: Path) -> None:
    """A file that is about to be deleted still has it; one that was rewritten is read anew."""
    segments = Segments(tmp_path)
    (tmp_path / "0.log").write_bytes(b"..first..second..")
    (tmp_path / "9.log").write_bytes(b"")

    before = segments.present([b"first", b"second"])
    (tmp_path / "0.log").rename(tmp_path / "0.log.deleted")
    (tmp_path / "0.log").write_bytes(b"..second..")
    renamed = segments.present([b"first", b"second"])
    (tmp_path / "0.log.deleted").unlink()
    after = segments.present([b"first", b"second"])

    assert (before, renamed, after) == ({b"first", b"second"}, {b"first", b"second"}, {b"second"})
