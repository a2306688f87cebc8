"""The noise of the release: its law, its price, and that it is drawn once."""

import math
import statistics
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import cast

import opendp.prelude as dp
import pytest

from privacy_ledger.adapters.noise import OpenDpNoise, check_version
from privacy_ledger.domain.budget import epsilon_upper_bound, sigma_for
from privacy_ledger.domain.errors import InvariantViolation

DRAWS = 60_000
NORMAL_QUANTILE = 4.8916
"""Two-sided quantile of the standard normal distribution at alpha 1e-6."""


def draws(sigma: str, *, count: int = DRAWS, at: int = 0) -> list[int]:
    """Return noisy copies of one value; rho is large, as only the law is looked at."""
    noise = OpenDpNoise()
    return [value - at for value in noise.draw([at] * count, sigma=sigma, rho="1000", cells_max=1, clip=1)]


def weights(sigma: str) -> dict[int, float]:
    """Return the probabilities of the discrete Gaussian (Canonne, Kamath, Steinke 2020, def. 1)."""
    scale = float(sigma)
    reach = math.ceil(12 * scale)
    raw = {k: math.exp(-(k * k) / (2 * scale * scale)) for k in range(-reach, reach + 1)}
    total = math.fsum(raw.values())
    return {k: weight / total for k, weight in raw.items()}


def chi_square_bound(freedom: int) -> float:
    """Return the 1 - 1e-6 quantile of chi-square, by Wilson and Hilferty's cube."""
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + 4.7534 * math.sqrt(spread)) ** 3)


@pytest.mark.parametrize("sigma", ["0.8", "2.5", "36.5149"])
@pytest.mark.parametrize("at", [0, 1_000_003])
def test_noise_is_discrete_gaussian(sigma: str, at: int) -> None:
    """Chi-square over bins of at least 20 expected draws, at alpha 1e-6."""
    law, found = weights(sigma), Counter(draws(sigma, at=at))
    bins: list[tuple[float, int]] = []
    expected, seen = 0.0, 0
    for value in sorted(law):
        expected += law[value] * DRAWS
        seen += found[value]
        if expected >= 20:
            bins.append((expected, seen))
            expected, seen = 0.0, 0
    bins[-1] = (bins[-1][0] + expected, bins[-1][1] + seen)
    assert sum(seen for _, seen in bins) == DRAWS
    statistic = sum((seen - expected) ** 2 / expected for expected, seen in bins)
    assert statistic < chi_square_bound(len(bins) - 1)


@pytest.mark.parametrize("sigma", ["2.5", "36.5149"])
def test_noise_has_the_declared_mean_and_variance(sigma: str) -> None:
    """Mean 0 and variance sigma squared, each at alpha 1e-6."""
    found = draws(sigma)
    scale = float(sigma)
    assert abs(statistics.fmean(found)) < NORMAL_QUANTILE * scale / math.sqrt(DRAWS)
    variance = statistics.fmean(value * value for value in found)
    assert abs(variance / scale**2 - 1) < NORMAL_QUANTILE * math.sqrt(2 / DRAWS)


def test_noise_of_neighbouring_cells_is_independent() -> None:
    """Correlation of pairs within one draw, at alpha 1e-6: shared noise would cancel out."""
    found = draws("36.5149")
    left, right = found[::2], found[1::2]
    assert abs(statistics.correlation(left, right)) < NORMAL_QUANTILE / math.sqrt(len(left))


def test_two_draws_differ() -> None:
    """Nothing is seeded: two draws of 100 cells are equal with a chance below 1e-100."""
    assert draws("36.5149", count=100) != draws("36.5149", count=100)


@pytest.mark.parametrize(
    ("rho", "cells_max", "clip"), [("0.0015", 4, 1), ("0.005", 16, 1), ("0.004", 8, 40), ("0.1", 3, 7)]
)
def test_the_policy_s_own_scale_is_accepted(rho: str, cells_max: int, clip: int) -> None:
    """The scale that is derived from rho holds in floating point too."""
    sigma = sigma_for(rho, cells_max=cells_max, clip=clip)
    assert len(OpenDpNoise().draw([0, 1], sigma=sigma, rho=rho, cells_max=cells_max, clip=clip)) == 2


@pytest.mark.parametrize(
    ("sigma", "cells_max", "clip"),
    [("36.5148", 4, 1), ("36.5149", 5, 1), ("36.5149", 4, 2), ("1", 4, 1)],
)
def test_a_scale_too_small_for_its_rho_draws_nothing(sigma: str, cells_max: int, clip: int) -> None:
    """The library's own price of the draw is checked first."""
    with pytest.raises(InvariantViolation, match=r"rho 0\.0015"):
        OpenDpNoise().draw([7], sigma=sigma, rho="0.0015", cells_max=cells_max, clip=clip)


@pytest.mark.parametrize("value", [-1, 2**53, 2**63 - 1])
def test_a_sum_that_is_no_bounded_count_draws_nothing_and_is_not_named(value: int) -> None:
    """The message holds no value."""
    with pytest.raises(InvariantViolation) as caught:
        OpenDpNoise().draw([value], sigma="36.5149", rho="0.0015", cells_max=4, clip=1)
    assert str(abs(value)) not in str(caught.value).replace("2**53", "")


def test_a_metric_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """One measurement is made and asked once, however many cells there are."""
    calls: list[int] = []
    make = dp.m.make_gaussian

    class _Counting:
        def __init__(self, domain: dp.Domain, metric: dp.Metric, *, scale: float) -> None:
            self._measurement = make(domain, metric, scale=scale)
            self.map = self._measurement.map

        def __call__(self, values: list[int]) -> list[int]:
            calls.append(len(values))
            return list(self._measurement(values))

    monkeypatch.setattr(dp.m, "make_gaussian", _Counting)
    OpenDpNoise().draw([0] * 500, sigma="36.5149", rho="0.0015", cells_max=4, clip=1)
    assert calls == [500]


@pytest.mark.parametrize("sigma", ["2.5", "22.3607", "36.5149"])
def test_intervals_cover_what_they_promise(sigma: str) -> None:
    """The 95 % half-width covers at least 95 % of the law, and fewer than 98 %."""
    half_width = OpenDpNoise().half_width(sigma=sigma)
    covered = math.fsum(chance for value, chance in weights(sigma).items() if abs(value) <= half_width)
    assert 0.95 <= covered < 0.98


@pytest.mark.parametrize(("sigma", "half_width"), [("36.5149", 72), ("31.6228", 62), ("40.0001", 78)])
def test_intervals_are_those_of_the_published_table(sigma: str, half_width: int) -> None:
    """The 95 % error per cell of table D3."""
    assert OpenDpNoise().half_width(sigma=sigma) == half_width


def test_our_epsilon_is_above_the_library_s() -> None:
    """Bun and Steinke's bound is never below OpenDP's tighter conversion."""
    for rho in ("0.0015", "0.02", "0.19", "2.155"):
        sigma = float(sigma_for(rho, cells_max=4, clip=1))
        space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T=float)
        measurement = dp.m.make_gaussian(*space, scale=sigma)
        cost = cast("Callable[[float], float]", measurement.map)
        curve = cast("Callable[[float], dp.PrivacyProfile]", dp.c.make_zCDP_to_approxDP(measurement).map)
        tighter = cast("Callable[[float], float]", curve(2.0).epsilon)
        assert tighter(1e-7) <= float(epsilon_upper_bound(rho, delta="0.0000001"))
        assert Fraction(cost(2.0)) <= Fraction(rho)


@pytest.mark.parametrize("found", ["0.14.1", "0.15.1", "0.9.0", "", "unknown", "dev.16"])
def test_an_old_or_nameless_library_is_refused(found: str) -> None:
    """Samplers before 0.14.2 were biased."""
    with pytest.raises(InvariantViolation):
        check_version(found)


@pytest.mark.parametrize("found", ["0.16.0", "0.17.2", "1.0.0"])
def test_a_sound_library_is_accepted(found: str) -> None:
    """From 0.16 on."""
    check_version(found)
