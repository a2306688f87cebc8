"""The one place that reads the wall clock."""

from datetime import UTC, datetime, timedelta

__all__ = ["SystemClock", "TrialClock"]


class SystemClock:
    """The machine's UTC time."""

    def now(self) -> datetime:
        """Return the current UTC time."""
        return datetime.now(UTC)


class TrialClock:
    """A given time that goes on at real pace from `anchored_at` on (homes for old logs)."""

    def __init__(self, started_at: datetime, *, anchored_at: datetime) -> None:
        """Say `started_at` at the real instant `anchored_at`."""
        self._ahead: timedelta = started_at - anchored_at

    def now(self) -> datetime:
        """Return the trial time."""
        return datetime.now(UTC) + self._ahead
