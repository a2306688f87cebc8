"""Discrete Gaussian noise by OpenDP: the only randomness of the release.

Discrete Gaussian: Canonne, Kamath and Steinke 2020. OpenDP takes no seed and draws from the
operating system's generator by way of OpenSSL. Versions before 0.14.2 had a biased sampler, so an
old library is refused at start-up and not at the first release.
"""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from importlib.metadata import version
from typing import Final, cast

import opendp.prelude as dp

from privacy_ledger.domain.errors import InvariantViolation

__all__ = ["ALPHA", "OpenDpNoise", "check_version"]

ALPHA: Final = 0.05
"""The chance that a published interval misses the exact value."""
_OLDEST: Final = (0, 16)
_LARGEST: Final = 2**53
"""Counts at or above it are refused: no noise may come near the ends of 64 bits."""


def check_version(found: str) -> None:
    """Check that a version of OpenDP is one whose sampler was verified.

    Raises:
        InvariantViolation: it is older than 0.16, or not a version.
    """
    parts = found.split(".")[:2]
    if len(parts) < len(_OLDEST) or not all(part.isdecimal() for part in parts):
        raise InvariantViolation("OpenDP does not tell its version. Install opendp 0.16 again.")
    if tuple(int(part) for part in parts) < _OLDEST:
        raise InvariantViolation(
            f"OpenDP {found} is older than 0.16, and older samplers were biased. Install opendp 0.16."
        )


class OpenDpNoise:
    """`NoiseSource` by OpenDP's exact discrete Gaussian under zCDP."""

    def __init__(self) -> None:
        """Check the library.

        Raises:
            InvariantViolation: OpenDP is older than 0.16.
        """
        self._version = version("opendp")
        check_version(self._version)
        dp.enable_features("contrib")  # the constructor of the vector Gaussian asks for it

    @property
    def mechanism(self) -> str:
        """The name of the mechanism, as published with each row."""
        return "discrete_gaussian"

    @property
    def libraries(self) -> dict[str, str]:
        """The version of OpenDP."""
        return {"opendp": self._version}

    def draw(self, values: Sequence[int], *, sigma: str, rho: str, cells_max: int, clip: int) -> list[int]:
        """Return each value with independent noise of scale `sigma`, in one vectorised call.

        Raises:
            InvariantViolation: `sigma` is too small for `rho`, a value is no bounded count, or the
                library returned another number of values. Messages hold no value.
        """
        if any(not 0 <= value < _LARGEST for value in values):
            raise InvariantViolation("A sum is no count below 2**53. Nothing was drawn; check stage A.")
        if not values:
            return []
        space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T=float)
        measurement = dp.m.make_gaussian(*space, scale=float(Decimal(sigma)))
        price = cast("Callable[[float], float]", measurement.map)
        loss = price(_sensitivity(cells_max=cells_max, clip=clip))
        if not (math.isfinite(loss) and 0 < Fraction(loss) <= Fraction(rho)):
            raise InvariantViolation(
                f"Noise of scale {sigma} costs more than rho {rho} for {cells_max} cells of {clip}. "
                "Nothing was drawn; correct the policy."
            )
        noisy = [int(value) for value in measurement(list(values))]
        if len(noisy) != len(values):
            raise InvariantViolation("OpenDP returned another number of values. Nothing is released.")
        return noisy

    def half_width(self, *, sigma: str) -> int:
        """Return the smallest integer h with |noise| <= h in at least 95 %."""
        accuracy = dp.discrete_gaussian_scale_to_accuracy(scale=float(Decimal(sigma)), alpha=ALPHA)
        return math.ceil(float(accuracy)) - 1  # the library's figure is the first that noise reaches in 5 %


def _sensitivity(*, cells_max: int, clip: int) -> float:
    """Return the L2 sensitivity sqrt(cells_max) * clip as a float that is not below it."""
    squared = cells_max * clip * clip
    found = math.sqrt(squared)
    while Fraction(found) ** 2 < squared:
        found = math.nextafter(found, math.inf)
    return found
