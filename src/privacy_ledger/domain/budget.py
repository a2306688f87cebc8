"""The privacy budget as events: what each release was charged, decided, and what was refused.

Unit: one data subject and window; measure: zero-concentrated differential privacy (zCDP; Bun and
Steinke 2016), which adds up over releases. Every release is charged to the whole population, so
the releases of all products count against a product's cap: a spend per active person would itself
be data. Figures are exact: decimal strings in events, fractions in sums, no float anywhere.

A release is charged once, whatever is appended how often: charges of one release id do not add.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from enum import StrEnum
from fractions import Fraction
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.rules import Product
from privacy_ledger.domain.values import UtcTime

__all__ = [
    "BudgetEvent",
    "BudgetRefusal",
    "BudgetReserved",
    "BudgetState",
    "CellsReleased",
    "Charge",
    "ReleaseCommitted",
    "ReleaseRefused",
    "SealDecided",
    "decide",
    "decimal_text",
    "due_windows",
    "epsilon_upper_bound",
    "fold",
    "keyset_digest",
    "policy_digest",
    "release_id",
    "sigma_for",
    "spent",
    "window_end",
]

_FIGURE_DIGITS_MAX: Final = 30
_SIGMA_PLACES: Final = 4
_EPSILON_PLACES: Final = 4
_PRECISION: Final = Context(prec=60)

Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Hex64 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Meta(max_length=64)]
Window = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Cell = Annotated[str, Meta(max_length=255)]
Figure = Annotated[str, Meta(max_length=64)]
"""An exact decimal figure, as text."""


class BudgetRefusal(StrEnum):
    """Why a charge is refused; the first that applies, from the top."""

    NOT_FINITE = "not_finite"
    NOT_POSITIVE = "not_positive"
    DUPLICATE = "duplicate"
    EXHAUSTED = "exhausted"


class BudgetEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """A record of the release ledger, about one window of one product; about no person."""

    release_id: Hex32
    product: Name
    window: Window


class SealDecided(BudgetEvent, frozen=True, kw_only=True, tag="seal.decided.v1"):
    """A window is about to be sealed under this policy, for these public cells.

    Appended before the seal, so that whoever resumes after a crash seals and releases under the
    same terms. The first of a release id counts.
    """

    policy: Product
    keyset: tuple[Cell, ...]
    is_early: bool
    was_opened: bool
    decided_at: UtcTime


class BudgetReserved(BudgetEvent, frozen=True, kw_only=True, tag="budget.reserved.v1"):
    """A release was charged `rho`; at most `cells_max` cells, each by `clip`, are one person's."""

    rho: Figure
    mechanism: Name
    sigma: Figure
    cells_max: Annotated[int, Meta(ge=1)]
    clip: Annotated[int, Meta(ge=1)]


class CellsReleased(BudgetEvent, frozen=True, kw_only=True, tag="release.cells.v1"):
    """A chunk of a release: cells with their noisy values; counts once a commit names its digest."""

    index: Annotated[int, Meta(ge=0)]
    cells: tuple[tuple[Cell, int], ...]


class ReleaseCommitted(BudgetEvent, frozen=True, kw_only=True, tag="release.committed.v1"):
    """A window's one release. `chunks` are the SHA-256 of its cell records, in order.

    `epsilon` is an upper bound at `delta`. `half_width` and `flag_below` make every published row
    a function of this record and its chunks. The first of a release id counts, by offset.
    """

    policy: Hex64
    keyset: Hex64
    cells: Annotated[int, Meta(ge=1)]
    chunks: tuple[Hex64, ...]
    mechanism: Name
    sigma: Figure
    rho: Figure
    epsilon: Figure
    delta: Figure
    half_width: Annotated[int, Meta(ge=0)]
    flag_below: Annotated[int, Meta(ge=0)]
    libraries: dict[str, str]
    is_early: bool
    was_opened: bool
    committed_at: UtcTime


class ReleaseRefused(BudgetEvent, frozen=True, kw_only=True, tag="release.refused.v1"):
    """A release was refused by the budget; figures as they stood."""

    reason: BudgetRefusal
    spent: Figure
    requested: Figure
    remaining: Figure


class Charge(Struct, frozen=True):
    """What one release was charged, and the day whose contributions it spends."""

    product: str
    day: date
    rho: Fraction


class BudgetState(Struct, frozen=True, kw_only=True):
    """The release ledger, folded: by release id."""

    charges: Mapping[str, Charge] = MappingProxyType({})
    decided: Mapping[str, SealDecided] = MappingProxyType({})
    committed: Mapping[str, ReleaseCommitted] = MappingProxyType({})
    refused: Mapping[str, ReleaseRefused] = MappingProxyType({})


# Fold and decide -----------------------------------------------------------------------------


def fold(events: Iterable[BudgetEvent], *, since: BudgetState | None = None) -> BudgetState:
    """Return the state after `events`, in log order, on top of `since`.

    Of two charges with one release id the larger counts, so charges do not depend on order; of
    two decisions or commits the first counts; of two refusals the last.

    Raises:
        InvariantViolation: a recorded charge is no positive decimal figure; nothing may be
            released until the ledger is repaired.
    """
    start = BudgetState() if since is None else since
    charges, decided = dict(start.charges), dict(start.decided)
    committed, refused = dict(start.committed), dict(start.refused)
    for event in events:
        name = event.release_id
        match event:
            case BudgetReserved():
                charge = _charge(event)
                known = charges.get(name)
                if known is None or charge.rho > known.rho:
                    charges[name] = charge
            case SealDecided():
                decided.setdefault(name, event)
            case ReleaseCommitted():
                committed.setdefault(name, event)
            case ReleaseRefused():
                refused[name] = event
            case _:
                pass  # cells are read where they are published
    return BudgetState(charges=charges, decided=decided, committed=committed, refused=refused)


def decide(state: BudgetState, request: BudgetReserved, *, policy: Product) -> ReleaseRefused | None:
    """Return None when the charge fits under the policy's cap, else the refusal with its figures.

    A charge that reaches the cap exactly fits. The horizon rolls over the windows' own days: no
    `horizon_days` consecutive days may cost more than `horizon_rho`, so the order in which windows
    are released does not matter.
    """
    before = spent(state, _day(request.window), horizon_days=policy.horizon_days)
    remaining = Fraction(policy.horizon_rho) - before
    reason = _reason(state, request, remaining)
    if reason is None:
        return None
    return ReleaseRefused(
        release_id=request.release_id, product=request.product, window=request.window, reason=reason,
        spent=decimal_text(before), requested=_echo(request.rho), remaining=decimal_text(remaining),
    )  # fmt: skip


def spent(state: BudgetState, day: date, *, horizon_days: int) -> Fraction:
    """Return what the dearest `horizon_days` consecutive days that hold `day` were charged."""
    reach = timedelta(days=horizon_days - 1)
    near = sorted(
        (charge.day, charge.rho)
        for charge in state.charges.values()
        if day - reach <= charge.day <= day + reach
    )
    dearest = running = Fraction(0)
    first = 0
    for last, rho in near:
        running += rho
        while near[first][0] < last - reach:
            running -= near[first][1]
            first += 1
        dearest = max(dearest, running)
    return dearest


# Names and windows ---------------------------------------------------------------------------


def release_id(product: str, window: str) -> str:
    """Return the one release id that a window of a product ever has, in hex.

    The first 16 bytes of SHA-256 over a label, product and window: public names in, so it tells
    nothing; the same after every crash, so a resumed release is charged and drawn under one id.
    """
    named = b"\0".join((b"release", product.encode(), window.encode()))
    return hashlib.sha256(named).hexdigest()[:32]


def policy_digest(policy: Product) -> str:
    """Return the SHA-256 in hex of a product's policy, over its canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(policy, order="sorted")).hexdigest()


def keyset_digest(keyset: Iterable[str]) -> str:
    """Return the SHA-256 in hex of a set of cells, whatever their order."""
    return hashlib.sha256(msgspec.json.encode(sorted(set(keyset)))).hexdigest()


def window_end(window: str) -> datetime:
    """Return the instant at which a day window ends: the next midnight, UTC.

    Raises:
        ValueError: `window` is no ISO day.
    """
    following = _day(window) + timedelta(days=1)
    return datetime(following.year, following.month, following.day, tzinfo=UTC)


def due_windows(first_day: date, until: datetime) -> tuple[str, ...]:
    """Return the day windows from `first_day` on whose end is at or before `until`, oldest first."""
    last_day = until.astimezone(UTC).date() - timedelta(days=1)
    count = (last_day - first_day).days + 1
    return tuple((first_day + timedelta(days=number)).isoformat() for number in range(max(0, count)))


# Figures -------------------------------------------------------------------------------------


def sigma_for(rho: str, *, cells_max: int, clip: int) -> str:
    """Return the noise scale that keeps a release strictly below `rho`, as a decimal string.

    zCDP of the discrete Gaussian: rho = d**2 / (2 sigma**2) for L2 sensitivity d (Canonne, Kamath
    and Steinke 2020, theorem 4), and d**2 = cells_max * clip**2. The scale is rounded up to the
    next of four places, never to the value itself: rho then holds in floating point as well.

    Raises:
        InvariantViolation: `rho` is no positive finite figure.
    """
    squared = Fraction(cells_max * clip * clip) / (2 * _positive(rho)) * 10 ** (2 * _SIGMA_PLACES)
    above = math.isqrt(squared.numerator // squared.denominator) + 1
    return decimal_text(Fraction(above, 10**_SIGMA_PLACES))


def epsilon_upper_bound(rho: str, *, delta: str) -> str:
    """Return an upper bound of epsilon at `delta`, rounded up to four places.

    rho-zCDP implies (rho + 2 sqrt(rho ln(1/delta)), delta)-differential privacy for every delta
    above 0 (Bun and Steinke 2016, proposition 1.3). The bound is not tight: numerical accountants
    give smaller figures.

    Raises:
        InvariantViolation: `rho` or `delta` is no positive finite figure, or delta is 1 or more.
    """
    cost, chance = _positive(rho), _positive(delta)
    if chance >= 1:
        raise InvariantViolation("A policy's delta is 1 or more and promises nothing. Correct the policy.")
    upward = Context(prec=_PRECISION.prec, rounding=ROUND_CEILING)
    precise = upward.divide(Decimal(cost.numerator), Decimal(cost.denominator))
    odds = upward.divide(Decimal(chance.denominator), Decimal(chance.numerator))
    logarithm = upward.next_plus(upward.ln(odds))  # ln and sqrt round to nearest, so step up
    root = upward.next_plus(upward.sqrt(upward.multiply(precise, logarithm)))
    bound = upward.add(precise, upward.multiply(Decimal(2), root))
    return format(bound.quantize(Decimal(1).scaleb(-_EPSILON_PLACES), context=upward), "f")


def decimal_text(figure: Fraction) -> str:
    """Return a fraction as the decimal string that equals it exactly.

    Raises:
        InvariantViolation: no decimal of at most 30 places equals it.
    """
    for places in range(_FIGURE_DIGITS_MAX + 1):
        scaled = figure * 10**places
        if scaled.denominator == 1:
            digits = f"{abs(scaled.numerator):0{places + 1}d}"
            whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
            return f"{'-' if figure < 0 else ''}{whole}{'.' if part else ''}{part}"
    raise InvariantViolation("A budget figure is no decimal of at most 30 places. Correct the policy.")


# Helpers -------------------------------------------------------------------------------------


def _reason(state: BudgetState, request: BudgetReserved, remaining: Fraction) -> BudgetRefusal | None:
    figure = _figure(request.rho)
    if figure is None:
        return BudgetRefusal.NOT_FINITE
    if figure <= 0:
        return BudgetRefusal.NOT_POSITIVE
    if request.release_id in state.charges:
        return BudgetRefusal.DUPLICATE
    return BudgetRefusal.EXHAUSTED if figure > remaining else None


def _figure(text: str) -> Fraction | None:
    """Return a finite decimal figure of bounded size, else None."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number.adjusted()) > _FIGURE_DIGITS_MAX:
        return None
    return Fraction(number) if len(number.as_tuple().digits) <= _FIGURE_DIGITS_MAX else None


def _positive(text: str) -> Fraction:
    figure = _figure(text)
    if figure is None or figure <= 0:
        raise InvariantViolation(
            "A privacy figure is not a positive finite decimal. Correct the policy, or repair the ledger."
        )
    return figure


def _charge(event: BudgetReserved) -> Charge:
    return Charge(event.product, _day(event.window), _positive(event.rho))


def _day(window: str) -> date:
    return date.fromisoformat(window)


def _echo(text: str) -> str:
    """Return a requested figure as it came, cut to what an event may hold."""
    return text[:64]
