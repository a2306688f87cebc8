"""While a recording is on, what any producer of this process emits is kept in memory, and nothing is sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from privacy_ledger.sdk.events import Event

__all__ = ["is_on", "recorded", "take"]

_RECORDINGS: Final[list[list[Event]]] = []


@contextmanager
def recorded() -> Iterator[list[Event]]:
    """Yield the list to which every event that is emitted meanwhile is added, in order.

    Events are checked as they would be otherwise. For tests of producers; a recording within a recording gets
    all to itself.
    """
    events: list[Event] = []
    _RECORDINGS.append(events)
    try:
        yield events
    finally:
        _RECORDINGS[:] = [one for one in _RECORDINGS if one is not events]


def is_on() -> bool:
    """Return whether anything is recorded now."""
    return bool(_RECORDINGS)


def take(event: Event) -> bool:
    """Return whether the event was recorded, and so is not to be sent."""
    if not _RECORDINGS:
        return False
    _RECORDINGS[-1].append(event)
    return True
