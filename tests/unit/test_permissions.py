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
    ErasureRetained,
    HoldLifted,
    HoldPlaced,
    RetainedCategory,
)
from privacy_ledger.domain.holds import Hold
from privacy_ledger.domain.permissions import ErasureStatus, Permissions, apply_control
from privacy_ledger.domain.values import Category

AT: Final = datetime(2026, 3, 1, tzinfo=UTC)
OURS, OTHER = "0a" * 16, "0b" * 16
LEAF: Final = "0c" * 32
HOLD, THIRD = "0d" * 16, "0e" * 16
KEPT: Final = (RetainedCategory(category=Category.BILLING, ground="legal_obligation"),)


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


def retained() -> ControlFact:
    """Return that only what the law keeps is left."""
    return ErasureRetained(request=OURS, occurred_at=AT, receipt=LEAF, kept=KEPT)


def placed(request: str = HOLD) -> HoldPlaced:
    """Return a hold."""
    return HoldPlaced(
        request=request, occurred_at=AT, category=Category.USAGE, ground="legal_claims", until=None
    )


def lifted(request: str = OTHER) -> ControlFact:
    """Return the lift of that hold."""
    return HoldLifted(request=request, occurred_at=AT, hold=HOLD)


def folded(*facts: ControlFact) -> Permissions:
    """Return the permissions after these facts."""
    state = Permissions()
    for offset, fact in enumerate(facts):
        state = apply_control(state, fact, offset=offset)
    return state


def standing(*facts: ControlFact) -> ErasureStatus | None:
    """Return how the erasure stands after these facts."""
    return folded(*facts).erasure


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


def test_what_is_retained_is_itemised_until_the_erasure_is_complete() -> None:
    """Then nothing is; and what is complete is not retained again."""
    resting = standing(requested(), incomplete(), retained())
    assert resting is not None
    assert (resting.state, resting.receipt, resting.retained) == ("retained", LEAF, KEPT)
    open_again = standing(requested(), retained(), incomplete())
    assert open_again is not None
    assert (open_again.state, open_again.retained) == ("incomplete", ())
    whole = ErasureStatus(request=OURS, state="completed", requested_at=AT, receipt=LEAF)
    assert standing(requested(), retained(), completed(), retained()) == whole


@pytest.mark.parametrize(
    ("facts", "holds"),
    [
        ((placed(),), (HOLD,)),
        ((placed(), placed()), (HOLD,)),
        ((placed(), placed(THIRD), lifted()), (THIRD,)),
        ((placed(), lifted(), placed()), ()),
        ((placed(), lifted(HOLD)), (HOLD,)),
        ((placed(), requested()), (HOLD,)),
        ((placed(), requested(), lifted()), ()),
        ((placed(), requested(), lifted(), placed()), ()),
        ((requested(), placed()), (HOLD,)),
        ((requested(), lifted()), ()),
    ],
    ids=["placed", "twice", "one of two", "retried after the lift", "lift by a used id", "outlives",
         "lifted after the end", "retried after the end", "after the end", "no hold"],
)  # fmt: skip
def test_holds_are_in_force_until_they_are_lifted(
    facts: tuple[ControlFact, ...], holds: tuple[str, ...]
) -> None:
    """Also over the end of the person; a retried request has no effect."""
    state = folded(*facts)
    assert tuple(hold.request for hold in state.holds) == holds
    assert all(hold == Hold.of(placed(hold.request)) for hold in state.holds)
