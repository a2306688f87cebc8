"""Stage B of the anonymised analytics: seal a window, release it once, publish a copy.

Noise is drawn once per window and kept in the release ledger (`analytics.releases.v1`); the public
topic is a copy of it. So a replay, a retry or a second instance repeats bytes and never a draw:
noise that is drawn afresh averages out. Order of one window:

1. Own the release ledger (earlier owners are fenced), read it to the end, decide.
2. Append under which policy and for which cells the window will be sealed.
3. Seal it in every partition of the ledger, and wait for one partial sum of each.
4. Draw, then append charge, cells and commit in one transaction.
5. Copy the committed cells to the public topic.

A crash resumes at the first step that is not in a log. A draw whose transaction provably did not
commit was seen by nobody, so it may be repeated under the same release id, charged once. Exact sums
live in local variables between 3 and 4: they are in no record, return value, message or log line.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Final, Protocol

from msgspec import Struct

from privacy_ledger.app._release_ledger import PublicRow, ReleaseLedger, chunked
from privacy_ledger.app._release_report import ProductReport, ProductSummary, SealReport, summary
from privacy_ledger.domain.budget import (
    BudgetRefusal,
    BudgetReserved,
    BudgetState,
    ReleaseCommitted,
    ReleaseRefused,
    SealDecided,
    decide,
    due_windows,
    epsilon_upper_bound,
    keyset_digest,
    policy_digest,
    release_id,
    sigma_for,
    window_end,
)
from privacy_ledger.domain.errors import BadInput, Fenced, InvariantViolation, NotCaughtUp, RefusedByPolicy
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Product, Rules
from privacy_ledger.domain.topics import ANALYTICS_PARTIALS
from privacy_ledger.ports.codec import Partial
from privacy_ledger.ports.log import EventLog, Row
from privacy_ledger.ports.noise import NoiseSource
from privacy_ledger.ports.passes import Passes
from privacy_ledger.ports.runtime import Clock

__all__ = [
    "Catalogue",
    "CurrentCatalogue",
    "ProductReport",
    "ProductSummary",
    "PublicRow",
    "Registrar",
    "Release",
    "SealReport",
    "WindowKeyset",
]

WINDOWS_MAX: Final = 400
"""Windows that one call seals; the rest is left to the next call."""
KEYSET_MAX: Final = 2_000
"""Cells of a window: their names stand in one control record per partition."""
ATTEMPTS_MAX: Final = 3
FLAG_FLOOR: Final = 20
_DAY: Final = timedelta(days=1)
_POLL_S: Final = 0.05


class WindowKeyset(Struct, frozen=True, kw_only=True):
    """The public cells of a window; `was_opened` False: none were frozen when it began."""

    cells: tuple[str, ...]
    was_opened: bool


class Catalogue(Protocol):
    """The catalogue: cells that are public before anybody contributes to them."""

    async def keyset(self, *, product: str, window: str) -> WindowKeyset:
        """Return the cells frozen when the window was opened, else those in force now."""
        ...


class CurrentCatalogue:
    """`Catalogue` of windows that nobody opened: the courses in force when the seal is decided."""

    def __init__(self, courses: Callable[[], Awaitable[Sequence[str]]]) -> None:
        """Take what reads the courses."""
        self._courses = courses

    async def keyset(self, *, product: str, window: str) -> WindowKeyset:
        """Return the courses in force now, the same for every product and window."""
        del product, window
        return WindowKeyset(cells=tuple(await self._courses()), was_opened=False)


class Registrar(Protocol):
    """Whoever writes control records to every partition."""

    async def seal_window(
        self,
        *,
        product: str,
        window: str,
        policy: str,
        keyset: tuple[str, ...],
        release: str,
        is_early: bool,
        was_opened: bool,
    ) -> object:
        """Write `WindowSealed` to every partition in one transaction; a second has no effect."""
        ...


class Release:
    """Seals windows and releases them; any number of instances may race, one draw wins."""

    def __init__(  # noqa: PLR0913 - every collaborator is named once, here
        self,
        log: EventLog,
        *,
        passes: Passes,
        clock: Clock,
        rules: Rules,
        noise: NoiseSource,
        registrar: Registrar,
        catalogue: Catalogue,
        open_partial: Callable[[Row], Partial | None],
        wait_s: float = 30.0,
    ) -> None:
        """Take the collaborators; `wait_s` bounds each wait for partials and for visibility."""
        self._log = log
        self._passes = passes
        self._clock = clock
        self._rules = rules
        self._noise = noise
        self._registrar = registrar
        self._catalogue = catalogue
        self._open_partial = open_partial
        self._wait_s = wait_s
        self._ledger = ReleaseLedger(log, visible_timeout_s=wait_s)

    # Commands ---------------------------------------------------------------------------------

    async def seal(
        self, product: str, *, until: datetime, since: date | None = None, is_early: bool = False
    ) -> SealReport:
        """Seal and release every day window (UTC) from `since` on that ends at or before `until`.

        Without `since`: from the day after the newest window of the product, else one day before
        `until`. Oldest first, at most 400 windows. What an earlier call left half done is finished,
        and a public copy with missing rows is completed. Idempotent: a released window is not drawn
        or charged again.

        Raises:
            RefusedByPolicy: WINDOW_OPEN before anything was sealed, unless `is_early`;
                CATALOGUE_EMPTY; BUDGET_EXHAUSTED at the first window that does not fit.
            BadInput: an unknown product, a naive time, or a window that has not begun.
            Fenced: other instances took the release ledger over and over.
        """
        policy = self._policy(product)
        if until.utcoffset() is None:
            raise BadInput(Refusal.TIME_NAIVE, "The time has no zone. Add one, such as `Z` for UTC.")
        state = await self._ledger.own()
        windows = _windows(state, product, until=until, since=since)
        todo = [window for window in windows if release_id(product, window) not in state.committed]
        todo, rest = todo[:WINDOWS_MAX], todo[WINDOWS_MAX:]
        fresh = [window for window in todo if release_id(product, window) not in state.decided]
        self._refuse_open(policy, fresh, is_early=is_early)
        await self._complete_copies(state, product, windows=windows)
        released: list[ReleaseCommitted] = []
        for window in todo:
            commit, is_new = await self._through(policy, window, may_decide=True)
            if is_new:
                released.append(commit)
        drawn = {commit.window for commit in released}
        known = set(windows) - set(rest) - drawn
        return SealReport(
            product=product,
            released=tuple(released),
            already_released=tuple(sorted(known)),
            remaining=len(rest),
        )

    async def release(self, product: str, *, window: str) -> ReleaseCommitted:
        """Return the one release of a window whose seal was begun; draw it if nobody has yet.

        Raises:
            RefusedByPolicy: WINDOW_OPEN, nobody sealed it; BUDGET_EXHAUSTED.
            NotCaughtUp: a partition did not deliver its partial sum in time.
        """
        commit, _ = await self._through(self._policy(product), window, may_decide=False)
        return commit

    async def list_products(self) -> tuple[ProductSummary, ...]:
        """Return every product with its budget, by id."""
        state = await self._ledger.read_on()
        products = sorted(self._rules.registry.products, key=lambda row: row.id)
        return tuple(summary(state, policy, today=self._clock.now().date()) for policy in products)

    async def show(self, product: str) -> ProductReport:
        """Return a product's budget and the rows of its public topic.

        Raises:
            BadInput: there is no such product.
        """
        policy = self._policy(product)
        state = await self._ledger.read_on()
        rows = await self._ledger.public_rows(product)
        return ProductReport(summary=summary(state, policy, today=self._clock.now().date()), rows=rows)

    # One window -------------------------------------------------------------------------------

    async def _through(
        self, policy: Product, window: str, *, may_decide: bool
    ) -> tuple[ReleaseCommitted, bool]:
        """Bring one window to its public copy; fenced, look again and take up what is there."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                commit, is_new = await self._once(policy, window, may_decide=may_decide)
            except Fenced:
                if attempt == ATTEMPTS_MAX:
                    raise
                continue
            await self._ledger.publish(commit)
            return commit, is_new
        raise InvariantViolation("No attempt was made at a release. Report this defect.")

    async def _once(self, policy: Product, window: str, *, may_decide: bool) -> tuple[ReleaseCommitted, bool]:
        """Return the window's release and whether it was drawn here."""
        release = release_id(policy.id, window)
        state = await self._ledger.own()
        known = state.committed.get(release)
        if known is not None:
            return known, False
        decided = state.decided.get(release)
        is_resumed = decided is not None
        if decided is None:
            if not may_decide:
                raise RefusedByPolicy(
                    Refusal.WINDOW_OPEN,
                    f"Window {window} of {policy.id} is not sealed. Run `privacy-ledger analytics seal`.",
                )
            decided = await self._decide(state, policy, window)
        request = await self._affordable(state, decided)
        partials = await self._partials(decided, is_resumed=is_resumed)
        await self._commit(decided, request, _sums(decided, partials))
        return await self._ledger.committed(release), True

    async def _decide(self, state: BudgetState, policy: Product, window: str) -> SealDecided:
        """Record the terms of a seal, so that a resumed one has the same; nothing without budget."""
        keyset = await self._catalogue.keyset(product=policy.id, window=window)
        cells = tuple(sorted(set(keyset.cells)))
        if not cells:
            raise RefusedByPolicy(
                Refusal.CATALOGUE_EMPTY,
                "No course is in the catalogue, so there is nothing to count. "
                "Add one with `privacy-ledger catalogue add`.",
            )
        if len(cells) > KEYSET_MAX:
            raise RefusedByPolicy(
                Refusal.SCHEMA_MISMATCH,
                f"The catalogue holds more than {KEYSET_MAX} courses, the most that one window takes.",
            )
        now = self._clock.now()
        decided = SealDecided(
            release_id=release_id(policy.id, window), product=policy.id, window=window, policy=policy,
            keyset=cells, is_early=now < _closes(policy, window), was_opened=keyset.was_opened,
            decided_at=now,
        )  # fmt: skip
        await self._affordable(state, decided)
        await self._ledger.append((decided,))
        return await self._ledger.decision(decided.release_id)

    async def _affordable(self, state: BudgetState, decided: SealDecided) -> BudgetReserved:
        """Return the charge of a release, when the budget holds it; a refusal is recorded once."""
        policy = decided.policy
        request = BudgetReserved(
            release_id=decided.release_id, product=decided.product, window=decided.window, rho=policy.rho,
            mechanism=self._noise.mechanism, cells_max=policy.cells_max, clip=policy.clip,
            sigma=sigma_for(policy.rho, cells_max=policy.cells_max, clip=policy.clip),
        )  # fmt: skip
        refusal = decide(state, request, policy=policy)
        if refusal is None:
            return request
        if state.refused.get(refusal.release_id) != refusal:
            await self._ledger.append((refusal,))
        raise _refused(refusal, policy)

    async def _partials(self, decided: SealDecided, *, is_resumed: bool) -> tuple[Partial, ...]:
        """Seal the window unless an earlier attempt did, and return the partial of every partition."""
        found: tuple[Partial, ...] = ()
        if is_resumed:
            await self._passes.settle()
            found = await self._collect(decided)
        if not found:
            await self._registrar.seal_window(
                product=decided.product, window=decided.window, policy=policy_digest(decided.policy),
                keyset=decided.keyset, release=decided.release_id,
                is_early=decided.is_early, was_opened=decided.was_opened,
            )  # fmt: skip
        count = self._log.partitions(ANALYTICS_PARTIALS)
        deadline = time.monotonic() + self._wait_s
        while True:
            await self._passes.settle()
            found = await self._collect(decided)
            if len(found) == count:
                return found
            if time.monotonic() >= deadline:
                raise NotCaughtUp(
                    f"{count - len(found)} of {count} partitions have not summed up window {decided.window} "
                    f"of {decided.product}. Start the analytics pass, then run the same command again."
                )
            await asyncio.sleep(_POLL_S)

    async def _collect(self, decided: SealDecided) -> tuple[Partial, ...]:
        """Return the partials that are there, in order of partition."""
        name = bytes.fromhex(decided.release_id)
        found: list[Partial] = []
        for partition in range(self._log.partitions(ANALYTICS_PARTIALS)):
            key = name + partition.to_bytes(4, "big")
            row = await self._log.latest(ANALYTICS_PARTIALS, partition, key)
            if row is None or row.value is None:
                continue
            partial = self._open_partial(row)
            if partial is None:
                raise InvariantViolation(
                    f"The key of window {decided.window} of {decided.product} was destroyed before its "
                    "release. The window cannot be released any more; later windows can."
                )
            if partial.release != decided.release_id or partial.partition != partition:
                raise _foreign_partial(decided)
            found.append(partial)
        return tuple(found)

    async def _commit(self, decided: SealDecided, request: BudgetReserved, sums: dict[str, int]) -> None:
        """Draw once, and append charge, cells and commit in one transaction."""
        policy = decided.policy
        noisy = self._noise.draw(
            tuple(sums.values()), sigma=request.sigma, rho=request.rho,
            cells_max=request.cells_max, clip=request.clip,
        )  # fmt: skip
        name, product, window = decided.release_id, decided.product, decided.window
        cells = zip(sums, noisy, strict=True)
        chunks = tuple(chunked(cells, release=name, product=product, window=window))
        commit = ReleaseCommitted(
            release_id=name, product=product, window=window,
            policy=policy_digest(policy), keyset=keyset_digest(decided.keyset),
            cells=len(noisy), chunks=tuple(digest for _, digest in chunks),
            mechanism=request.mechanism, sigma=request.sigma, rho=request.rho,
            epsilon=epsilon_upper_bound(request.rho, delta=policy.delta), delta=policy.delta,
            half_width=self._noise.half_width(sigma=request.sigma), flag_below=_flag_below(request.sigma),
            libraries=self._noise.libraries, is_early=decided.is_early, was_opened=decided.was_opened,
            committed_at=self._clock.now(),
        )  # fmt: skip
        await self._ledger.append((request, *(chunk for chunk, _ in chunks), commit))

    # Around it --------------------------------------------------------------------------------

    async def _complete_copies(self, state: BudgetState, product: str, *, windows: Sequence[str]) -> None:
        """Copy releases again: those asked for, and those whose public rows are not all there."""
        rows = Counter(key.partition(b"|")[0].decode() for key in await self._ledger.public(product))
        for commit in state.committed.values():
            is_short = rows[commit.window] != commit.cells
            if commit.product == product and (is_short or commit.window in windows):
                await self._ledger.publish(commit)

    def _policy(self, product: str) -> Product:
        policy = self._rules.product(product)
        if policy is None:
            raise BadInput(
                Refusal.ID_INVALID,
                "There is no analytics product of that name. `privacy-ledger analytics list` shows them.",
            )
        return policy

    def _refuse_open(self, policy: Product, windows: Sequence[str], *, is_early: bool) -> None:
        """Refuse before anything is sealed: one window that is open refuses the whole call."""
        now = self._clock.now()
        for window in windows:
            if now < window_end(window) - _DAY:
                raise BadInput(Refusal.TIME_FUTURE, f"Window {window} has not begun. Give an earlier time.")
            if now < _closes(policy, window) and not is_early:
                raise RefusedByPolicy(
                    Refusal.WINDOW_OPEN,
                    f"Window {window} of {policy.id} takes late events until "
                    f"{_closes(policy, window):%Y-%m-%dT%H:%MZ}. Nothing was sealed: wait, give an earlier "
                    "time, or seal it early for good.",
                )


def _windows(state: BudgetState, product: str, *, until: datetime, since: date | None) -> tuple[str, ...]:
    """Return the windows of a call: those due, and those whose seal was begun and not finished."""
    begun = [
        event
        for events in (state.decided, state.committed)
        for event in events.values()
        if event.product == product
    ]
    newest = max((event.window for event in begun), default=None)
    first = since
    if first is None:
        first = (until - _DAY).astimezone(UTC).date() if newest is None else date.fromisoformat(newest) + _DAY
    open_ends = {
        event.window
        for event in begun
        if event.release_id not in state.committed and window_end(event.window) <= until
    }
    return tuple(sorted(open_ends.union(due_windows(first, until))))


def _closes(policy: Product, window: str) -> datetime:
    return window_end(window) + timedelta(hours=policy.lateness_hours)


def _flag_below(sigma: str) -> int:
    """Return the bound of the `low` flag: max(20, 2 sigma), rounded up."""
    twice = (2 * Decimal(sigma)).to_integral_value(rounding=ROUND_CEILING)
    return max(FLAG_FLOOR, int(twice))


def _sums(decided: SealDecided, partials: Sequence[Partial]) -> dict[str, int]:
    """Return the exact sums by cell, true zeros too, in the order of the keyset.

    Raises:
        InvariantViolation: a partition summed other cells than those of the seal.
    """
    sums = dict.fromkeys(decided.keyset, 0)
    for partial in partials:
        if partial.cells.keys() != sums.keys():
            raise _foreign_partial(decided)
        for cell, count in partial.cells.items():
            sums[cell] += count
    return sums


def _refused(refusal: ReleaseRefused, policy: Product) -> RefusedByPolicy:
    if refusal.reason is BudgetRefusal.DUPLICATE:
        return RefusedByPolicy(
            Refusal.ALREADY_RELEASED,
            f"Window {refusal.window} of {refusal.product} was charged before and has no release. "
            "Check the release ledger with `privacy-ledger doctor`.",
        )
    return RefusedByPolicy(
        Refusal.BUDGET_EXHAUSTED,
        f"Window {refusal.window} of {refusal.product} asks for rho {refusal.requested}, and "
        f"{refusal.remaining} of {policy.horizon_rho} is left within {policy.horizon_days} days "
        f"({refusal.spent} is spent). It is not released; give a later window, outside that horizon.",
    )


def _foreign_partial(decided: SealDecided) -> InvariantViolation:
    return InvariantViolation(
        f"A partial sum of window {decided.window} of {decided.product} belongs to another seal. Nothing is "
        "released; rebuild the analytics pass."
    )
