"""What the release commands report: nothing here holds an exact count."""

from datetime import date
from fractions import Fraction

from msgspec import Struct

from privacy_ledger.app._release_ledger import PublicRow
from privacy_ledger.domain.budget import (
    BudgetState,
    ReleaseCommitted,
    decimal_text,
    epsilon_upper_bound,
    sigma_for,
    spent,
)
from privacy_ledger.domain.rules import Product
from privacy_ledger.domain.topics import product_topic

__all__ = ["ProductReport", "ProductSummary", "SealReport", "summary"]


class SealReport(Struct, frozen=True, kw_only=True):
    """What a seal did: windows drawn now, windows that had been, and windows left to the next call."""

    product: str
    released: tuple[ReleaseCommitted, ...]
    already_released: tuple[str, ...]
    remaining: int


class ProductSummary(Struct, frozen=True, kw_only=True):
    """A product, its policy and its budget; `spent` counts every product's releases.

    `spent_epsilon` is an upper bound at `delta` for all releases of the dearest horizon.
    """

    product: str
    title: str
    topic: str
    period: str
    rho: str
    sigma: str
    epsilon: str
    delta: str
    releases: int
    last_window: str | None
    horizon_days: int
    horizon_rho: str
    spent: str
    spent_epsilon: str
    remaining: str


class ProductReport(Struct, frozen=True, kw_only=True):
    """A product with the rows of its public topic, by window and course."""

    summary: ProductSummary
    rows: tuple[PublicRow, ...]


def summary(state: BudgetState, policy: Product, *, today: date) -> ProductSummary:
    """Return a product's policy and budget; the horizon is the dearest that holds the newest charge."""
    days = [charge.day for charge in state.charges.values()]
    used = spent(state, max(days, default=today), horizon_days=policy.horizon_days)
    windows = sorted(commit.window for commit in state.committed.values() if commit.product == policy.id)
    figure = decimal_text(used)
    return ProductSummary(
        product=policy.id,
        title=policy.title,
        topic=product_topic(policy.id),
        period=policy.period,
        rho=policy.rho,
        sigma=sigma_for(policy.rho, cells_max=policy.cells_max, clip=policy.clip),
        epsilon=epsilon_upper_bound(policy.rho, delta=policy.delta),
        delta=policy.delta,
        releases=len(windows),
        last_window=windows[-1] if windows else None,
        horizon_days=policy.horizon_days,
        horizon_rho=policy.horizon_rho,
        spent=figure,
        spent_epsilon=epsilon_upper_bound(figure, delta=policy.delta) if used else "0",
        remaining=decimal_text(Fraction(policy.horizon_rho) - used),
    )
