"""Legal holds on one category of a person: what they put off, and what happens when they end."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from msgspec import structs

from privacy_ledger import bootstrap
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.local.home import open_home, set_trial_clock
from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.domain.errors import BadInput, NotCaughtUp, RefusedByPolicy
from privacy_ledger.domain.events import ErasureRequested
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import Category
from privacy_ledger.ports.passes import Runner
from privacy_ledger.streams import subject_view
from tests.unit.home import NOW, TestHome, home, paid, played, registered, unreadable, viewed

ADA: Final = "openedx:username:ada"
PURPOSE: Final = "improve.analyse"
VIEWED: Final = "usage.page_viewed.v1"
LINES: Final = (
    registered("7", "ada", event="r1", email="ada@example.com"),
    *(played("7", event=f"a{n}") for n in range(2)),
    viewed("7", event="v1"),
    played("8", event="b1"),
)


async def _hold(it: TestHome, category: Category, until: datetime | None = None) -> str:
    name, offsets = await it.subjects.place_hold(ADA, category=category, ground="legal_claims", until=until)
    await it.runtime.passes.settle(offsets)
    return name


async def _live(it: TestHome) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in await it.runtime.views.live(it.ref("7")):
        found[str(row.category)] = found.get(str(row.category), 0) + 1
    return found


async def _counts(it: TestHome) -> dict[str, int]:
    view = await it.runtime.views.get(subject_view.TABLE, it.ref("7"))
    return {} if view is None else dict(subject_view.merge(view).counts)


async def test_a_withdrawal_stops_use_and_removes_when_the_hold_is_lifted(tmp_path: Path) -> None:
    """The record and its key stay meanwhile; no view shows it."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(PURPOSE,))
        name = await _hold(it, Category.USAGE)
        await it.runtime.passes.settle(await it.subjects.withdraw(ADA, PURPOSE))
        groups, live, seen = it.runtime.vault.live_groups(it.ref("7")), await _live(it), await _counts(it)
        await it.runtime.passes.settle(await it.subjects.lift_hold(ADA, name))
        await it.runtime.passes.settle()
        after, left = await _live(it), it.runtime.vault.live_groups(it.ref("7"))
        holds = await it.subjects.holds(ADA)
    group = f"usage+{PURPOSE}"
    assert (live["usage"], VIEWED in seen, group in groups) == (1, False, True)
    assert ("usage" in after, group in left, holds) == (False, False, ())
    assert after["patterns"] == 2


async def test_the_erasure_of_a_category_waits_for_the_hold_and_not_for_others(tmp_path: Path) -> None:
    """Two holds on one category: the last one counts."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        first, second = await _hold(it, Category.PATTERNS), await _hold(it, Category.PATTERNS)
        for category in (Category.PATTERNS, Category.ACCOUNT):
            fact = ErasureRequested(
                request=SystemIds().token().hex(), occurred_at=it.runtime.clock.now(), scope="category",
                category=category,
            )  # fmt: skip
            record = it.runtime.codec.control_fact(
                it.ref("7"), SystemIds().token(), fact, received_at=it.runtime.clock.now()
            )
            await it.runtime.log.append(LEDGER_EVENTS, (record,))
        await it.runtime.passes.settle()
        held, seen = await _live(it), await _counts(it)
        await it.runtime.passes.settle(await it.subjects.lift_hold(ADA, first))
        still = await _live(it)
        await it.runtime.passes.settle(await it.subjects.lift_hold(ADA, second))
        after = await _live(it)
    assert (held, seen) == ({"patterns": 2}, {})
    assert still == held
    assert after == {}


async def test_an_erasure_keeps_the_held_category_and_goes_on_when_the_hold_is_lifted(tmp_path: Path) -> None:
    """The evidence of what is held stays as long; later records of it are refused."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(PURPOSE,))
        ref = it.ref("7")
        name = await _hold(it, Category.USAGE)
        (first,) = await it.erasure().erase(it.subjects.find(ADA).refs)
        live, groups = await _live(it), set(it.runtime.vault.live_groups(ref))
        late = await it.take([viewed("7", event="v2"), paid("7", event="p1")], consents=(PURPOSE,))
        await it.runtime.passes.settle(await it.subjects.lift_hold(ADA, name))
        care = bootstrap.erasure_care_of(it.runtime)
        await care.tend()
        (status,) = await care.status((ref,))
        (done,) = await it.erasure().erase(it.subjects.find(ADA).refs)
        after, left = await _live(it), it.runtime.vault.live_groups(ref)
        remains = await remains_of(PersonRows(it.runtime.log), it.runtime.vault, ref)
    assert live == {"usage": 1, "evidence": 1}
    assert {group for group in groups if not group.startswith("state:")} == {f"usage+{PURPOSE}", "evidence"}
    assert [(i.category, i.ground) for i in first.retained] == [
        ("evidence", "legal_claims"), ("usage", "legal_claims"),
    ]  # fmt: skip
    assert (late.accepted, late.reasons) == (0, {"subject_erased": 2})
    assert (status.state, done.is_completed, after, left) == ("completed", True, {}, ())
    assert (remains.live, remains.readable, remains.unknown) == (0, 0, 0)


async def test_a_hold_on_what_the_law_keeps_leaves_the_duty_when_it_is_lifted(tmp_path: Path) -> None:
    """The erasure rests on, for the other reason, and the person gets another receipt."""
    async with home(tmp_path) as it:
        await it.take([*LINES, paid("7", event="p1")])
        name = await _hold(it, Category.BILLING)
        (first,) = await it.erasure().erase(it.subjects.find(ADA).refs)
        await it.runtime.passes.settle(await it.subjects.lift_hold(ADA, name))
        (second,) = await it.erasure().resume()
        live, groups = await _live(it), it.runtime.vault.live_groups(it.ref("7"))
        leaves = await it.leaves()
    assert [i.ground for i in first.retained] == ["legal_claims", "legal_obligation"]
    assert [i.ground for i in second.retained] == ["legal_obligation"]
    assert (live, groups) == ({"billing": 1}, ("billing", "index"))
    assert leaves == [bytes.fromhex(one.leaf or "") for one in (first, second)]


async def test_a_hold_is_over_at_the_first_tick_that_is_not_before_its_end(tmp_path: Path) -> None:
    """The erasure goes on by itself then."""
    begin = NOW - timedelta(days=30)
    at = begin - timedelta(days=1)
    async with home(tmp_path, trial=begin) as it:
        await it.take([registered("7", "ada", event="r1", email="ada@example.com", at=at),
                       played("7", event="a1", at=at)])  # fmt: skip
        ref = it.ref("7")
        await _hold(it, Category.PATTERNS, begin + timedelta(days=10))
        (first,) = await it.erasure().erase(it.subjects.find(ADA).refs)
    set_trial_clock(open_home(tmp_path / "home", ids=SystemIds()), begin + timedelta(days=9))
    async with home(tmp_path) as it:
        await it.runtime.registrar.tick()
        await it.runtime.passes.settle()
        early = await _live(it)
    set_trial_clock(open_home(tmp_path / "home", ids=SystemIds()), begin + timedelta(days=11))
    async with home(tmp_path) as it:
        await it.runtime.registrar.tick()
        await it.runtime.passes.settle()
        await bootstrap.erasure_care_of(it.runtime).tend()
        (status,) = await bootstrap.erasure_care_of(it.runtime).status((ref,))
        late = await _live(it)
    assert (first.retained[0].until, early) == (begin + timedelta(days=10), {"patterns": 1})
    assert (late, status.state) == ({}, "completed")


def _of_records(it: TestHome) -> tuple[str, ...]:
    """Return the key groups in use that are not those of what passes keep."""
    return tuple(g for g in it.runtime.vault.live_groups(it.ref("7")) if not g.startswith("state:"))


class Stopped:
    """The passes of a home that fold nothing until they are let."""

    def __init__(self, passes: Runner) -> None:
        """Take the passes."""
        self.passes = passes
        self.is_stopped = True

    async def settle(self, offsets: Mapping[int, int] | None = None, *, timeout_s: float = 30.0) -> None:
        """Say that it is in vain, or fold."""
        if self.is_stopped:
            raise NotCaughtUp("late")
        await self.passes.settle(offsets, timeout_s=timeout_s)

    async def advance(self) -> bool:
        """Run the passes."""
        return not self.is_stopped and await self.passes.advance()


async def test_keys_go_while_nobody_folds_and_what_may_be_held_is_spared(tmp_path: Path) -> None:
    """A hold that no pass has seen yet counts by the log; a duty counts for whatever there is."""
    async with home(tmp_path) as it:
        await it.take([*LINES, paid("7", event="p1")], consents=(PURPOSE,))
        await it.subjects.place_hold(ADA, category=Category.USAGE, ground="legal_claims", until=None)
        stopped = Stopped(it.runtime.passes)
        erasure = bootstrap.erasure_of(structs.replace(it.runtime, passes=stopped))
        (stuck,) = await erasure.erase(it.subjects.find(ADA).refs)
        spared = _of_records(it)
        stopped.is_stopped = False
        (done,) = await erasure.erase(it.subjects.find(ADA).refs)
        groups, live = _of_records(it), await _live(it)
    kept = ("billing", "evidence", "index", f"usage+{PURPOSE}")
    assert (stuck.is_done, spared) == (False, kept)
    assert (done.open_steps, done.is_done, groups) == ((), True, kept)
    assert live == {"billing": 1, "evidence": 1, "usage": 1}


async def test_what_waits_behind_a_parked_record_is_spared_too(tmp_path: Path) -> None:
    """Nobody has folded the hold, though the passes went on: nothing is destroyed that it may keep."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(PURPOSE,))
        await _hold(it, Category.ACCOUNT)
        poison = unreadable(await it.rows(), it.ref("7"), it.runtime.ids)
        await it.runtime.log.append(LEDGER_EVENTS, (poison,))
        await it.subjects.place_hold(ADA, category=Category.USAGE, ground="legal_claims", until=None)
        await it.runtime.passes.settle()
        (waits,) = await it.erasure().erase(it.subjects.find(ADA).refs)
        groups = _of_records(it)
    assert not waits.is_done
    assert f"usage+{PURPOSE}" in groups


async def test_holds_that_nobody_can_mean_are_refused(tmp_path: Path) -> None:
    """An end that has passed, a hold that is none, and a person of whom nothing is left."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        with pytest.raises(BadInput) as past:
            await _hold(it, Category.USAGE, NOW - timedelta(days=1))
        with pytest.raises(RefusedByPolicy) as unknown:
            await it.subjects.lift_hold(ADA, "0" * 32)
        await it.erasure().erase(it.subjects.find(ADA).refs)
        with pytest.raises(RefusedByPolicy) as erased:
            await _hold(it, Category.USAGE)
    assert past.value.refusal is Refusal.TIME_INVALID
    assert unknown.value.refusal is Refusal.HOLD_UNKNOWN
    assert erased.value.refusal is Refusal.SUBJECT_ERASED
