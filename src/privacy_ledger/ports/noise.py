"""The one source of noise of the release: drawn, never seeded, never repeated."""

from collections.abc import Sequence
from typing import Protocol

__all__ = ["NoiseSource"]


class NoiseSource(Protocol):
    """Noise for the released figures; figures of privacy are exact decimal strings."""

    @property
    def mechanism(self) -> str:
        """The name of the mechanism, as published with each row."""
        ...

    @property
    def libraries(self) -> dict[str, str]:
        """The versions of what draws, by name, as recorded in each release."""
        ...

    def draw(self, values: Sequence[int], *, sigma: str, rho: str, cells_max: int, clip: int) -> list[int]:
        """Return each value with independent noise of scale `sigma`, in order, in one draw.

        Neighbouring inputs differ in at most `cells_max` values, each by at most `clip`.

        Raises:
            InvariantViolation: `sigma` is too small for `rho`; nothing was drawn.
        """
        ...

    def half_width(self, *, sigma: str) -> int:
        """Return the smallest integer h for which |noise| <= h in at least 95 % of draws."""
        ...
