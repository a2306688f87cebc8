"""What carries events away: one batch at a time, and an answer for each event of it."""

import os
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct

from privacy_ledger.sdk.events import Encoded

__all__ = ["BatchRefused", "ItemResult", "Transport", "TryAgain", "pause_s"]

_DOUBLINGS_MAX: Final = 20


class ItemResult(Struct, frozen=True):
    """What became of one event; `reason` is a reason code where it was refused."""

    is_taken: bool
    reason: str | None = None


class TryAgain(Exception):
    """The batch was not taken, or nobody knows whether it was: it is sent again as it is.

    `code` says why in one word. `after_s`: the service asked for so long a pause.
    """

    def __init__(self, code: str, *, after_s: float | None = None) -> None:
        """Take why, and the pause that was asked for."""
        super().__init__(code)
        self.code = code
        self.after_s = after_s


class BatchRefused(Exception):
    """The batch as a whole will never be taken: it is halved, and a single event is refused with `code`."""

    def __init__(self, code: str) -> None:
        """Take the problem's code."""
        super().__init__(code)
        self.code = code


class Transport(Protocol):
    """Called by one thread at a time, and never by the thread that emits."""

    def send(self, batch: Sequence[Encoded], *, attempt_key: str) -> Sequence[ItemResult]:
        """Return what became of each event, in order. `attempt_key` is the same when a batch is sent again.

        Raises:
            TryAgain: it may be sent again.
            BatchRefused: it must not be.
        """
        ...

    def abort(self) -> None:
        """End a `send` that is under way, from another thread; it raises `TryAgain`."""
        ...

    def forget(self) -> None:
        """Let go of what was inherited by a fork, without a word to the other side."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def pause_s(failures: int, after_s: float | None, *, first_s: float, max_s: float) -> float:
    """Return how long to wait after so many failures in a row: those that failed together part.

    Drawn from 0 to a bound that doubles from `first_s` to `max_s`; where the service asked for a pause, that
    one and up to `first_s` more.
    """
    share = int.from_bytes(os.urandom(4)) / (1 << 32)
    if after_s is not None:
        return after_s + share * first_s
    return float(share * min(max_s, first_s * 2 ** min(failures - 1, _DOUBLINGS_MAX)))
