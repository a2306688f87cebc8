"""How far a take-over came: for log lines, for whoever asks the engine, and for the alarm."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.errors import LogUnavailable
from privacy_ledger.logging import get_logger

__all__ = ["RestoreProgress", "RestoreStalled", "Restoring"]

STALL_S: Final = 30.0
"""A take-over that does not move for so long is an alarm, and is begun again."""
REPORT_S: Final = 5.0

log_line = get_logger()


class RestoreStalled(LogUnavailable):
    """A partition's changelogs could not be read on for too long."""


class Restoring(Struct, frozen=True, kw_only=True):
    """A partition that is being taken over, as of now.

    `left` counts offsets: of a compacted changelog there are fewer records. `eta_s` is None before
    anything was read. `idle_s`: seconds since the last record, over all attempts; `reason` says
    what ended the last one.
    """

    records: int
    left: int
    rate: float
    eta_s: float | None
    idle_s: float
    is_stalled: bool
    reason: str | None


class RestoreProgress:
    """Counts what one partition's take-over has read, over all its attempts."""

    def __init__(
        self, pass_name: str, partition: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start counting the seconds."""
        self._clock = clock
        self._pass_name = pass_name
        self._partition = partition
        self._started = self._moved = self._reported = self._clock()
        self._alarmed = 0.0
        self._left: dict[str, int] = {}
        self._passed = 0
        self._records = 0
        self._reason: str | None = None
        self.stall_s = STALL_S
        self.on_move: Callable[[], None] | None = None

    def expect(self, left: Mapping[str, int]) -> None:
        """Take the offsets that are left in each changelog; an attempt begins."""
        self._left = dict(left)

    def advance(self, topic: str, *, records: int, offsets: int) -> None:
        """Count what was applied of a changelog, and report now and then."""
        self._records += records
        self._passed += offsets
        self._left[topic] = max(0, self._left.get(topic, 0) - offsets)
        self._moved = now = self._clock()
        if self.on_move is not None:
            self.on_move()
        if now - self._reported > REPORT_S:
            self._reported = now
            seen = self.now()
            log_line.info(
                "restoring", **self._where(), topic=topic, records=seen.records, rate=round(seen.rate),
                eta_s=None if seen.eta_s is None else round(seen.eta_s),
            )  # fmt: skip

    def now(self) -> Restoring:
        """Return how things stand."""
        now = self._clock()
        left = sum(self._left.values())
        reading_s = max(1e-6, self._moved - self._started)
        return Restoring(
            records=self._records,
            left=left,
            rate=self._records / reading_s,
            eta_s=left * reading_s / self._passed if self._passed else None,
            idle_s=now - self._moved,
            is_stalled=now - self._moved > self.stall_s,
            reason=self._reason,
        )

    def failed(self, reason: str) -> None:
        """Take why an attempt ended; where nothing has moved for long, say so once in a while."""
        self._reason = reason
        now = self._clock()
        if now - self._moved > self.stall_s and now - self._alarmed > self.stall_s:
            self._alarmed = now
            log_line.error(
                "restore stalled", **self._where(), records=self._records, reason=reason,
                duration_ms=round((now - self._moved) * 1000),
            )  # fmt: skip

    def _where(self) -> dict[str, object]:
        return {"pass_name": self._pass_name, "partition": self._partition}
