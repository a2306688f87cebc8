"""How an erasure stands in a person's permissions: it only goes on, and only by its own request."""

from datetime import UTC, datetime
from typing import Final

import pytest

from privacy_ledger.domain.events import (
    ControlFact,
    ErasureCompleted,
    ErasureFinal,
    ErasureIncomplete,
    ErasureRequested,
)
from privacy_ledger.domain.permissions import ErasureStatus, Permissions, apply_control

AT: Final = datetime(2026, 3, 1, tzinfo=UTC)
OURS, OTHER = "0a" * 16, "0b" * 16
LEAF: Final = "0c" * 32


def requested() -> ControlFact:
    """Return the request."""
    return ErasureRequested(request=OURS, occurred_at=AT)


def incomplete() -> ControlFact:
    """Return that a store could not be reached."""
    return ErasureIncomplete(request=OURS, occurred_at=AT, open_steps=("verified",))


def completed() -> ControlFact:
    """Return that every store was verified."""
    return ErasureCompleted(request=OURS, occurred_at=AT, receipt=LEAF)


def final(request: str = OURS) -> ControlFact:
    """Return that no copy of a key opens."""
    return ErasureFinal(request=request, occurred_at=AT, epoch=3)


def standing(*facts: ControlFact) -> ErasureStatus | None:
    """Return how the erasure stands after these facts."""
    state = Permissions()
    for offset, fact in enumerate(facts):
        state = apply_control(state, fact, offset=offset)
    return state.erasure


@pytest.mark.parametrize(
    ("facts", "state", "receipt"),
    [
        ((requested(),), "requested", None),
        ((requested(), incomplete()), "incomplete", None),
        ((requested(), incomplete(), completed()), "completed", LEAF),
        ((requested(), completed(), incomplete()), "completed", LEAF),
        ((requested(), completed(), final()), "final", LEAF),
        ((requested(), completed(), final(), final()), "final", LEAF),
        ((requested(), completed(), final(), completed(), incomplete()), "final", LEAF),
        ((requested(), completed(), final(OTHER)), "completed", LEAF),
    ],
)
def test_an_erasure_only_goes_on(facts: tuple[ControlFact, ...], state: str, receipt: str | None) -> None:
    """Whatever is said later, or said twice, or of another request."""
    expected = ErasureStatus(request=OURS, state=state, requested_at=AT, receipt=receipt)
    assert standing(*facts) == expected


def test_nothing_is_final_of_somebody_who_was_not_erased() -> None:
    """Progress without a request has no effect."""
    assert standing(final(), completed(), incomplete()) is None
