"""The privacy budget: what is charged, what is refused, and that nothing depends on order."""

import itertools
import math
import random
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from privacy_ledger.adapters import registry
from privacy_ledger.domain.budget import (
    BudgetEvent,
    BudgetRefusal,
    BudgetReserved,
    BudgetState,
    SealDecided,
    decide,
    decimal_text,
    due_windows,
    epsilon_upper_bound,
    fold,
    keyset_digest,
    policy_digest,
    release_id,
    sigma_for,
    spent,
    window_end,
)
from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.rules import Product

PRODUCT = "course_views_daily"
DAY = date(2026, 3, 1)


def policy(*, horizon_days: int = 30, horizon_rho: str = "0.5", rho: str = "0.1") -> Product:
    """Return a policy with room for a few releases."""
    return Product(
        id=PRODUCT, title="t", period="day", purpose="improve.analyse", cells_max=4, clip=1, rho=rho,
        lateness_hours=48, horizon_days=horizon_days, horizon_rho=horizon_rho, delta="0.0000001",
        source="test", confidence="general",
    )  # fmt: skip


def charge(
    day: date, rho: str = "0.1", *, product: str = PRODUCT, release: str | None = None
) -> BudgetReserved:
    """Return the charge of a day's window."""
    window = day.isoformat()
    return BudgetReserved(
        release_id=release or release_id(product, window), product=product, window=window, rho=rho,
        mechanism="discrete_gaussian", sigma="36.5149", cells_max=4, clip=1,
    )  # fmt: skip


def reason(state: BudgetState, request: BudgetReserved, terms: Product) -> BudgetRefusal | None:
    """Return why a charge is refused, or None."""
    refusal = decide(state, request, policy=terms)
    return None if refusal is None else refusal.reason


@pytest.mark.parametrize(
    ("rho", "expected"),
    [
        ("NaN", BudgetRefusal.NOT_FINITE),
        ("sNaN", BudgetRefusal.NOT_FINITE),
        ("Infinity", BudgetRefusal.NOT_FINITE),
        ("-Infinity", BudgetRefusal.NOT_FINITE),
        ("", BudgetRefusal.NOT_FINITE),
        ("a tenth", BudgetRefusal.NOT_FINITE),
        ("1E+999999999", BudgetRefusal.NOT_FINITE),
        ("1E-999999999", BudgetRefusal.NOT_FINITE),
        ("0", BudgetRefusal.NOT_POSITIVE),
        ("-0", BudgetRefusal.NOT_POSITIVE),
        ("0.000", BudgetRefusal.NOT_POSITIVE),
        ("-0.1", BudgetRefusal.NOT_POSITIVE),
        ("0.500000000001", BudgetRefusal.EXHAUSTED),
        ("0.5", None),
        ("0.1", None),
    ],
)
def test_a_charge_is_a_positive_finite_figure_within_the_cap(
    rho: str, expected: BudgetRefusal | None
) -> None:
    """A negative or endless spend would otherwise give budget back."""
    assert reason(BudgetState(), charge(DAY, rho), policy()) is expected


def test_the_cap_may_be_reached_exactly_and_not_passed() -> None:
    """Five tenths fit into a half, and a sixth does not: sums are exact, unlike floats."""
    state = fold(charge(DAY + timedelta(days=number)) for number in range(4))
    fifth = charge(DAY + timedelta(days=4))
    assert reason(state, fifth, policy()) is None
    refusal = decide(fold([fifth], since=state), charge(DAY + timedelta(days=5)), policy=policy())
    assert refusal is not None
    assert (refusal.reason, refusal.spent, refusal.requested, refusal.remaining) == (
        BudgetRefusal.EXHAUSTED, "0.5", "0.1", "0",
    )  # fmt: skip


def test_a_release_is_charged_once() -> None:
    """The same reservation read twice, or asked for again, adds nothing."""
    state = fold([charge(DAY), charge(DAY)])
    assert spent(state, DAY, horizon_days=30) == Fraction(1, 10)
    assert reason(state, charge(DAY), policy()) is BudgetRefusal.DUPLICATE


def test_every_product_spends_the_same_population_s_budget() -> None:
    """Another product's releases count against this one's cap."""
    state = fold([charge(DAY, "0.45", product="video_views_daily")])
    assert reason(state, charge(DAY), policy()) is BudgetRefusal.EXHAUSTED


@pytest.mark.parametrize(("after_days", "expected"), [(29, BudgetRefusal.EXHAUSTED), (30, None)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_horizon_rolls_both_ways(after_days: int, expected: BudgetRefusal | None, sign: int) -> None:
    """A charge counts for the days within one horizon of it, whichever window came first."""
    state = fold([charge(DAY, "0.5")])
    assert reason(state, charge(DAY + sign * timedelta(days=after_days)), policy()) is expected


def test_a_window_between_two_full_horizons_is_refused_by_the_dearer() -> None:
    """Neither span alone is over; the one that holds both neighbours is."""
    state = fold([charge(DAY, "0.2"), charge(DAY + timedelta(days=20), "0.25")])
    between = DAY + timedelta(days=10)
    assert spent(state, between, horizon_days=30) == Fraction(45, 100)
    assert spent(state, between, horizon_days=15) == Fraction(25, 100)
    assert reason(state, charge(between), policy(horizon_days=15)) is None
    assert reason(state, charge(between), policy(horizon_days=30)) is BudgetRefusal.EXHAUSTED


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=12),
    st.integers(0, 60),
    st.integers(1, 40),
)
def test_what_was_spent_is_the_dearest_span_around_a_day(
    charges: list[tuple[int, int]], at: int, horizon_days: int
) -> None:
    """The sliding sum equals every span of the horizon that holds the day, tried one by one."""
    events = [
        charge(DAY + timedelta(days=offset), f"0.{figure}", release=f"{number:032x}")
        for number, (offset, figure) in enumerate(charges)
    ]
    spans = (
        sum(Fraction(figure, 10) for offset, figure in charges if start <= offset < start + horizon_days)
        for start in range(at - horizon_days + 1, at + 1)
    )
    found = spent(fold(events), DAY + timedelta(days=at), horizon_days=horizon_days)
    assert found == max(spans)


def test_charges_do_not_depend_on_their_order() -> None:
    """Every order of a set of charges, duplicates of other size included, folds to one state."""
    events = [charge(DAY, "0.1"), charge(DAY, "0.2"), charge(DAY + timedelta(days=1)), charge(DAY, "0.15")]
    states = {tuple(sorted(fold(order).charges.items())) for order in itertools.permutations(events)}
    assert len(states) == 1
    assert spent(fold(events), DAY, horizon_days=30) == Fraction(3, 10)


def test_any_order_of_release_keeps_every_horizon_below_the_cap() -> None:
    """Windows released in a random order, each only when it fits, never overspend any span."""
    rng = random.Random(20260301)
    for _ in range(50):
        days = rng.sample(range(60), 60)
        state, terms = BudgetState(), policy(horizon_days=7)
        for offset in days:
            request = charge(DAY + timedelta(days=offset), f"0.{rng.randint(1, 3)}")
            if decide(state, request, policy=terms) is None:
                state = fold([request], since=state)
        spans = (
            sum((c.rho for c in state.charges.values() if 0 <= (c.day - DAY).days - start < 7), Fraction(0))
            for start in range(60)
        )
        assert max(spans) <= Fraction(1, 2)


@pytest.mark.parametrize("rho", ["-0.1", "NaN", "0", "Infinity"])
def test_a_recorded_charge_that_is_no_spend_stops_everything(rho: str) -> None:
    """A ledger that gives budget back is broken, not generous."""
    with pytest.raises(InvariantViolation):
        fold([charge(DAY, rho)])


def test_the_first_decision_of_a_release_counts() -> None:
    """A second one, by a racing instance, changes nothing."""
    first = SealDecided(
        release_id=release_id(PRODUCT, "2026-03-01"),
        product=PRODUCT,
        window="2026-03-01",
        policy=policy(),
        keyset=("a",),
        is_early=False,
        was_opened=True,
        decided_at=datetime(2026, 3, 4, tzinfo=UTC),
    )
    second = structs.replace(first, keyset=("b",))
    events: list[BudgetEvent] = [first, second]
    assert list(fold(events).decided.values()) == [first]


def test_a_release_id_names_one_window_of_one_product_for_ever() -> None:
    """Pinned: a changed id would charge and draw an old window again."""
    assert release_id(PRODUCT, "2026-03-01") == "1a6b7c5c55b8893892b63ebd2d9841a6"
    assert len({release_id(p, w) for p in ("a", "b", "a-b") for w in ("2026-03-01", "2026-03-02")}) == 6


def test_digests_tell_policies_and_keysets_apart() -> None:
    """Order and repeats of cells do not matter; any figure of a policy does."""
    assert keyset_digest(["b", "a", "a"]) == keyset_digest(("a", "b")) != keyset_digest(["ab"])
    assert policy_digest(policy()) == policy_digest(policy()) != policy_digest(policy(rho="0.2"))


def test_due_windows_are_the_whole_days_before_a_time() -> None:
    """A day counts once its last instant has passed; the order is oldest first."""
    midnight = datetime(2026, 3, 3, tzinfo=UTC)
    assert due_windows(DAY, midnight) == ("2026-03-01", "2026-03-02")
    assert due_windows(DAY, midnight - timedelta(microseconds=1)) == ("2026-03-01",)
    assert due_windows(DAY, datetime(2026, 2, 1, tzinfo=UTC)) == ()
    assert window_end("2026-02-28") == datetime(2026, 3, 1, tzinfo=UTC)


# Figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rho", "cells_max", "clip", "sigma"),
    [
        ("0.0015", 4, 1, "36.5149"),
        ("0.0005", 1, 1, "31.6228"),
        ("0.005", 16, 1, "40.0001"),
        ("0.004", 8, 40, "1264.9111"),
    ],
)
def test_sigma_is_rounded_up_above_the_exact_scale(rho: str, cells_max: int, clip: int, sigma: str) -> None:
    """Table D3, to four places and strictly above, also where the scale is a whole number."""
    assert sigma_for(rho, cells_max=cells_max, clip=clip) == sigma
    assert Fraction(sigma) ** 2 * 2 * Fraction(rho) > cells_max * clip**2


@pytest.mark.parametrize("rho", ["0", "-1", "NaN"])
def test_no_scale_exists_for_no_budget(rho: str) -> None:
    """A policy without a positive rho has no noise, and no release."""
    with pytest.raises(InvariantViolation):
        sigma_for(rho, cells_max=1, clip=1)


@pytest.mark.parametrize("rho", ["0.0001", "0.0015", "0.02", "0.19", "2.155", "10"])
@pytest.mark.parametrize("delta", ["0.0000001", "0.000000001"])
def test_epsilon_is_an_upper_bound_by_less_than_a_rounding(rho: str, delta: str) -> None:
    """It equals rho + 2 sqrt(rho ln(1/delta)), rounded up to four places."""
    formula = float(rho) + 2 * math.sqrt(float(rho) * math.log(1 / float(delta)))
    assert formula <= float(epsilon_upper_bound(rho, delta=delta)) < formula + 1.01e-4


def test_epsilon_of_the_shipped_policy() -> None:
    """The figure that every row of the daily course views carries."""
    (product,) = (row for row in registry.seed().products if row.id == PRODUCT)
    assert epsilon_upper_bound(product.rho, delta=product.delta) == "0.3125"


@given(st.decimals(min_value=-1000, max_value=1000, places=12, allow_nan=False))
def test_figures_survive_as_text(figure: Fraction) -> None:
    """Text to fraction to text loses nothing."""
    exact = Fraction(figure)
    assert Fraction(decimal_text(exact)) == exact


def test_a_figure_that_is_no_decimal_is_refused() -> None:
    """A third would be rounded, so it is not written."""
    with pytest.raises(InvariantViolation):
        decimal_text(Fraction(1, 3))
