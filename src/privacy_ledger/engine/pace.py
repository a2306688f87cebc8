"""How fast a build may go, so that it leaves room for those who work beside it."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Pace"]

BURST_S: Final = 0.5
"""At most what may be folded in this time is taken at once."""


class Pace:
    """Bounds the records that one owner folds in a second; unbounded while `rate` is None."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a bound."""
        self.rate: float | None = None
        self._clock = clock
        self._not_before = 0.0

    def most(self, wanted: int) -> int:
        """Return how many of the wanted records may be taken at once, whenever that is."""
        return wanted if self.rate is None else max(1, min(wanted, int(self.rate * BURST_S)))

    def allowed(self, wanted: int) -> int:
        """Return how many of the wanted records may be taken now; 0 while the last ones are paid for."""
        if self.rate is not None and self._clock() < self._not_before:
            return 0
        return self.most(wanted)

    def took(self, count: int) -> None:
        """Note that so many records were folded."""
        if self.rate is not None and count:
            self._not_before = max(self._clock(), self._not_before) + count / self.rate

    async def rest(self, count: int, *, until: asyncio.Event) -> None:
        """Note that so many records were folded, and wait until they are paid for, or the event."""
        self.took(count)
        wait_s = self._not_before - self._clock()
        if self.rate is None or wait_s <= 0:
            return
        try:
            await asyncio.wait_for(until.wait(), wait_s)
        except TimeoutError:
            return
