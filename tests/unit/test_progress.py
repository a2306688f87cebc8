"""What a take-over says about itself."""

from structlog.testing import capture_logs

from privacy_ledger.engine.progress import RestoreProgress


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_rate_and_remaining_time_follow_what_was_read() -> None:
    """A rate in records, and a remaining time in offsets: of a compacted changelog most are gone."""
    clock = Clock()
    progress = RestoreProgress("core", 3, clock=clock)
    progress.expect({"state": 9000, "view": 1000})
    first = progress.now()
    assert (first.left, first.eta_s, first.is_stalled) == (10_000, None, False)
    clock.now += 2.0
    progress.advance("state", records=500, offsets=2500)
    seen = progress.now()
    assert (seen.records, seen.left, seen.rate, seen.eta_s) == (500, 7500, 250.0, 6.0)


def test_a_report_comes_every_few_seconds_and_not_with_every_batch() -> None:
    """It names place, records, rate and remaining time."""
    clock = Clock()
    progress = RestoreProgress("core", 3, clock=clock)
    progress.expect({"state": 1000})
    with capture_logs() as lines:
        for _ in range(8):
            clock.now += 1.0
            progress.advance("state", records=100, offsets=100)
    (line,) = lines
    assert line == {
        "event": "restoring", "log_level": "info", "pass_name": "core", "partition": 3, "topic": "state",
        "records": 600, "rate": 100, "eta_s": 4,
    }  # fmt: skip


def test_standing_still_is_an_alarm_once_in_each_period_and_over_all_attempts() -> None:
    """A failure before that is none, and a record ends it."""
    clock = Clock()
    progress = RestoreProgress("core", 3, clock=clock)
    with capture_logs() as lines:
        clock.now += progress.stall_s - 1
        progress.failed("no answer")
        assert not progress.now().is_stalled
        clock.now += 2
        progress.expect({"state": 1000})
        for _ in range(3):
            progress.failed("no answer")
        assert (progress.now().is_stalled, progress.now().reason) == (True, "no answer")
        clock.now += progress.stall_s + 1
        progress.failed("no answer")
    assert [(line["event"], line["log_level"], line["reason"]) for line in lines] == [
        ("restore stalled", "error", "no answer")
    ] * 2
    progress.advance("state", records=1, offsets=1)
    assert not progress.now().is_stalled
