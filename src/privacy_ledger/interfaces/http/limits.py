"""How fast each source may send: a bucket of tokens, one per event, that fills at a steady rate."""

import math
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from privacy_ledger.interfaces.http.problems import Kind, Problem

__all__ = ["RATE_DEFAULT", "Limits"]

RATE_DEFAULT: Final = 10_000
BURST_MIN: Final = 1000
"""The largest request must fit into a full bucket, or it could never be sent."""


class _Bucket(Struct):
    tokens: float
    filled_at: float


class Limits:
    """A bucket per source. Sources come from the keys that the operator made, so their number is bounded."""

    def __init__(
        self, rate: float = RATE_DEFAULT, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the events a second that one source may send; a second's worth may come at once."""
        self._rate = rate
        self._burst = max(float(BURST_MIN), rate)
        self._monotonic = monotonic
        self._buckets: dict[str, _Bucket] = {}

    def take(self, source: str, count: int) -> None:
        """Take tokens for so many events.

        Raises:
            Problem: there are too few; nothing was taken, and `Retry-After` says when there are enough.
        """
        now = self._monotonic()
        bucket = self._buckets.setdefault(source, _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.filled_at) * self._rate)
        bucket.filled_at = now
        if bucket.tokens < count:
            wait_s = max(1, math.ceil((count - bucket.tokens) / self._rate))
            raise Problem(Kind.TOO_FAST, headers={"Retry-After": str(wait_s)})
        bucket.tokens -= count
