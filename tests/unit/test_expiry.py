"""When a key is wholly due, and what keeps it all the same: the decision alone."""

from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from privacy_ledger.adapters import registry
from privacy_ledger.domain.admission import FUTURE_TOLERANCE, is_past_retention
from privacy_ledger.domain.expiry import (
    GENERATION_AGE,
    Hindrance,
    LiveRecord,
    Moment,
    Sealed,
    aged_before,
    hindrance,
    is_wholly_due,
    sealed_until,
)
from privacy_ledger.domain.holds import Hold, Postponed
from privacy_ledger.domain.permissions import ErasureStatus, Permissions
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, month_of, start_of

RULES: Final = Rules(registry.seed())
SECOND: Final = timedelta(seconds=1)
MONTHS: Final = 12
"""Of patterns, in the seed."""
LAST: Final = datetime(2025, 4, 1, tzinfo=UTC)
"""All that the key seals occurred before this instant, so its last month is March."""
CREATED: Final = LAST - GENERATION_AGE - FUTURE_TOLERANCE
DUE: Final = datetime(2026, 4, 1, tzinfo=UTC)
"""The first instant after the twelve months that follow March 2025."""
KEY: Final = Sealed(category=Category.PATTERNS, generation=3, created_at=CREATED - SECOND)
KNOWN: Final = Permissions(is_registered=True)
MARCH: Final = month_of(datetime(2025, 3, 1, tzinfo=UTC))
INSTANTS: Final = st.integers(-(10**14), 10**14).map(lambda some: LAST + timedelta(microseconds=some))


def _hold(category: Category) -> Hold:
    return Hold(request="00" * 16, category=category, ground="legal_claims", placed_at=LAST)


def _why(
    permissions: Permissions | None = KNOWN,
    *,
    key: Sealed = KEY,
    ticks: tuple[datetime | None, ...] = (DUE, DUE),
    is_waiting: bool = False,
    live: tuple[LiveRecord, ...] = (),
) -> Hindrance | None:
    moments = [Moment(last_tick=tick, rules=RULES) for tick in ticks]
    return hindrance(key, permissions, moments=moments, is_waiting=is_waiting, live=live)


@pytest.mark.parametrize(
    ("created_at", "at", "is_due"),
    [
        (CREATED - SECOND, DUE - timedelta(days=31), False),
        (CREATED - SECOND, DUE - SECOND, False),
        (CREATED - SECOND, DUE, True),
        (CREATED - SECOND, DUE + SECOND, True),
        (CREATED, DUE, False),
        (CREATED + SECOND, DUE, False),
        (CREATED, datetime(2026, 5, 1, tzinfo=UTC) - SECOND, False),
        (CREATED, datetime(2026, 5, 1, tzinfo=UTC), True),
    ],
)
def test_a_key_is_due_with_the_last_month_that_it_may_have_sealed(
    created_at: datetime,
    at: datetime,
    is_due: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    """The month before, at, and after, a second around each."""
    assert is_wholly_due(Category.PATTERNS, created_at, RULES, at=at) is is_due


@given(category=st.sampled_from(Category), created_at=INSTANTS, at=INSTANTS, into=st.floats(0, 1))
def test_all_that_a_due_key_can_seal_is_refused_as_past_its_retention(
    category: Category, created_at: datetime, at: datetime, into: float
) -> None:
    """Whatever occurred up to the tolerance after the last moment at which it seals."""
    whole = sealed_until(created_at) - created_at
    occurred_at = created_at + whole * min(into, 0.999)
    if is_wholly_due(category, created_at, RULES, at=at):
        assert is_past_retention(category, occurred_at, RULES, at=at)


@given(category=st.sampled_from(Category), created_at=INSTANTS, at=INSTANTS)
def test_the_age_that_is_asked_for_is_that_of_what_is_due(
    category: Category, created_at: datetime, at: datetime
) -> None:
    """So the keystore finds all keys that are due, and no others."""
    before = aged_before(category, RULES, at=at)
    assert is_wholly_due(category, created_at, RULES, at=at) is (before is not None and created_at < before)


@pytest.mark.parametrize("category", [Category.ACCOUNT, Category.PROFILE, Category.EVIDENCE])
def test_what_lives_as_long_as_the_account_is_never_due(category: Category) -> None:
    """Nor is a category that no rule knows."""
    nothing = Rules(structs.replace(registry.seed(), categories=()))
    assert not is_wholly_due(category, CREATED, RULES, at=DUE + timedelta(days=36_500))
    assert not is_wholly_due(Category.PATTERNS, CREATED, nothing, at=DUE)
    assert aged_before(Category.PATTERNS, nothing, at=DUE) is None


def test_a_key_that_nothing_keeps_is_free_to_go() -> None:
    """Other categories, younger generations and holds on others do not keep it."""
    live = (
        LiveRecord(category=Category.USAGE, month=MARCH, generation=3),
        LiveRecord(category=Category.PATTERNS, month=MARCH + 1, generation=4),
    )
    held = structs.replace(KNOWN, holds=(_hold(Category.USAGE),))
    assert (_why(live=live), _why(held)) == (None, None)


@pytest.mark.parametrize("ticks", [(), (None,), (DUE, None), (DUE, DUE - SECOND), (DUE - SECOND,)])
def test_a_pass_that_has_not_passed_the_tick_keeps_it(ticks: tuple[datetime | None, ...]) -> None:
    """One is enough, and so is to know of none."""
    assert _why(ticks=ticks) is Hindrance.LAGGING


def test_a_pass_under_rules_that_keep_longer_keeps_it() -> None:
    """Of the rules of all passes the longest count."""
    seed = registry.seed()
    longer = structs.replace(
        seed,
        categories=tuple(structs.replace(row, retention_months=MONTHS + 1) for row in seed.categories),
    )
    moments = [Moment(last_tick=DUE, rules=RULES), Moment(last_tick=DUE, rules=Rules(longer))]
    assert hindrance(KEY, KNOWN, moments=moments, is_waiting=False, live=()) is Hindrance.LAGGING


@pytest.mark.parametrize(
    ("permissions", "why"),
    [
        (None, Hindrance.UNKNOWN),
        (Permissions(), Hindrance.UNKNOWN),
        (structs.replace(KNOWN, ended_at=7), Hindrance.ENDED),
        (
            structs.replace(
                KNOWN, erasure=ErasureStatus(request="00" * 16, state="requested", requested_at=LAST)
            ),
            Hindrance.ENDED,
        ),
        (structs.replace(KNOWN, restricted_since=7), Hindrance.RESTRICTED),
        (structs.replace(KNOWN, holds=(_hold(Category.PATTERNS),)), Hindrance.HELD),
        (structs.replace(KNOWN, postponed=(Postponed(cause="withdrawn", below=7),)), Hindrance.HELD),
        (structs.replace(KNOWN, overdue=((7, Category.PATTERNS, MARCH),)), Hindrance.HELD),
    ],
)
def test_what_is_in_force_for_the_person_keeps_it(permissions: Permissions | None, why: Hindrance) -> None:
    """Doubt means no: what no view knows stays."""
    assert _why(permissions) is why


def test_whoever_is_held_up_by_a_pass_keeps_it() -> None:
    """Parked, with work in hand, or with a tick that waits."""
    assert _why(is_waiting=True) is Hindrance.WAITING


@pytest.mark.parametrize(("month", "generation"), [(MARCH, 9), (MARCH - 5, 9), (MARCH + 9, 3)])
def test_a_live_record_that_is_due_or_of_its_generation_keeps_it(month: int, generation: int) -> None:
    """Whatever it serves: its purposes do not tell under which group it was sealed."""
    live = (LiveRecord(category=Category.PATTERNS, month=month, generation=generation),)
    assert _why(live=live) is Hindrance.LIVE


def test_a_month_begins_where_it_is_counted_from() -> None:
    """The one undoes the other."""
    months = range(MARCH, MARCH + 24)
    assert [month_of(start_of(month)) for month in months] == list(months)
    assert [month_of(start_of(month) - SECOND) for month in months] == [month - 1 for month in months]
