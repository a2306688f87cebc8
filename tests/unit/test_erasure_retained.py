"""Erasures of which the law keeps something: duties of the registry, and holds."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec

from privacy_ledger import bootstrap, receipt_verifier
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.local.home import open_home, set_trial_clock
from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.app.erasure import ErasureOutcome
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import IdentityStatus
from privacy_ledger.streams import subject_view
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import NOW, TestHome, home, paid, played, registered, viewed

ADA: Final = "openedx:username:ada"
PURPOSE: Final = "improve.analyse"
LINES: Final = (
    registered("7", "ada", event="r1", email="ada@example.com"),
    *(played("7", event=f"a{n}") for n in range(3)),
    viewed("7", event="v1"),
    *(played("8", event=f"b{n}") for n in range(2)),
)
YEARS: Final = timedelta(days=365 * 11)


async def _erase(it: TestHome) -> ErasureOutcome:
    (done,) = await it.erasure().erase(it.subjects.find(ADA).refs)
    return done


async def _live(it: TestHome, ref: SubjectRef) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in await it.runtime.views.live(ref):
        found[str(row.category)] = found.get(str(row.category), 0) + 1
    return found


async def test_a_duty_keeps_billing_alone_and_the_receipt_says_so(tmp_path: Path) -> None:
    """All else goes, keys included; what stays serves nothing but the duty, and is itemised."""
    async with home(tmp_path) as it:
        await it.take([*LINES, paid("7", event="p1")], consents=(PURPOSE,))
        ref = it.ref("7")
        before = it.runtime.vault.live_groups(ref)
        plan = await it.erasure().plan((ref,))
        done = await _erase(it)
        live, groups = await _live(it, ref), it.runtime.vault.live_groups(ref)
        (row,) = await it.runtime.views.live(ref)
        others = await remains_of(
            PersonRows(it.runtime.log), it.runtime.vault, ref, but=frozenset({row.record_id})
        )
        view = await it.runtime.views.get(subject_view.TABLE, ref)
        permissions = await it.runtime.views.get(PERMISSIONS, ref)
        (status,) = await bootstrap.erasure_care_of(it.runtime).status((ref,))
        seen = await bootstrap.erasure_care_of(it.runtime).look()
        person = it.subjects.find(ADA)
    receipt = json.loads(done.receipt or b"")
    assert {"billing", "patterns", "account", "index"} <= set(before)
    assert (live, groups, row.purposes) == ({"billing": 1}, ("billing", "index"), ("tax.comply",))
    assert (others.live, others.readable, others.unknown) == (0, 0, 0)
    assert view is None
    assert person.status is IdentityStatus.ERASED
    assert permissions is not None
    assert permissions.erasure is not None
    assert (permissions.erasure.state, permissions.erasure.receipt) == ("retained", done.leaf)
    assert [(k.category, k.ground) for k in permissions.erasure.retained] == [("billing", "legal_obligation")]
    assert (done.is_completed, done.is_done, done.open_steps) == (False, True, ())
    assert (status.state, status.is_overdue, seen.still_open) == ("retained", False, 0)
    assert (plan.records["billing"], [item.records for item in plan.retained]) == (1, [1])
    assert receipt["completed_at"] is None
    (item,) = receipt["retained"]
    assert (item["category"], item["records"], item["ground"]) == ("billing", 1, "legal_obligation")
    outcomes = {s["store"]: (s["outcome"], s.get("ground"), s.get("until")) for s in receipt["stores"]}
    law = ("retained", "a legal obligation (GDPR Art. 17(3)(b))", item["until"])
    assert {store for store, outcome in outcomes.items() if outcome == law} == {
        "keystore", "ledger", "state core", "state analytics",
    }  # fmt: skip
    assert {outcome for outcome, *_ in outcomes.values()} <= {"erased", "nothing held", "retained"}


async def test_what_rests_is_told_once_and_asked_again_gives_the_same_receipt(tmp_path: Path) -> None:
    """Also after a look by whoever takes up open erasures."""
    async with home(tmp_path) as it:
        await it.take([*LINES, paid("7", event="p1")])
        first = await _erase(it)
        again = await _erase(it)
        resumed = await it.erasure().resume()
        leaves = await it.leaves()
        types = await it.types("7")
        unfinished = await it.erasure().unfinished()
    assert again == first
    assert (resumed, unfinished) == ((), 0)
    assert (len(leaves), types.count("erasure.retained.v1")) == (1, 1)


async def test_later_records_of_the_duty_are_taken_and_all_others_refused(tmp_path: Path) -> None:
    """Under the live key, known again as copies, and folded into nothing."""
    async with home(tmp_path) as it:
        await it.take([*LINES, paid("7", event="p1")], consents=(PURPOSE,))
        ref = it.ref("7")
        await _erase(it)
        s = await it.take(
            [paid("ada", event="p2"), paid("7", event="p1"), played("7", event="late"), *LINES],
            consents=(PURPOSE,),
        )
        live = await _live(it, ref)
        view = await it.runtime.views.get(subject_view.TABLE, ref)
    assert (s.accepted, s.duplicates, s.reasons) == (1, 3, {"subject_erased": 6})
    assert live == {"billing": 2}
    assert view is None


async def test_who_never_paid_is_erased_whole_and_a_payment_brings_nobody_back(tmp_path: Path) -> None:
    """Without a live key of the category there is nothing to keep."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        done = await _erase(it)
        s = await it.take([paid("7", event="p1")])
        groups = it.runtime.vault.live_groups(it.ref("7"))
    assert done.is_completed
    assert (s.accepted, s.reasons, groups) == (0, {"subject_erased": 1}, ())


async def test_an_erasure_completes_by_itself_when_the_duty_is_over(tmp_path: Path) -> None:
    """Then the rest is shredded, and a final receipt takes the place of the first."""
    begin = NOW - YEARS
    at = begin - timedelta(days=1)
    async with home(tmp_path, trial=begin) as it:
        await it.take(
            [registered("7", "ada", event="r1", email="ada@example.com", at=at), paid("7", event="p1", at=at)]
        )
        ref = it.ref("7")
        first = await _erase(it)
    async with home(tmp_path, trial=None) as it:
        care = bootstrap.erasure_care_of(it.runtime)
        (early,) = await care.status((ref,))
    _move(tmp_path)
    async with home(tmp_path) as it:
        await it.runtime.registrar.tick()
        await it.runtime.registrar.confirm_time()
        await it.runtime.passes.settle()
        care = bootstrap.erasure_care_of(it.runtime)
        await care.tend()
        (late,) = await care.status((ref,))
        groups, live = it.runtime.vault.live_groups(ref), await _live(it, ref)
        again = await _erase(it)
        types = await it.types("7")
        remains = await remains_of(PersonRows(it.runtime.log), it.runtime.vault, ref)
        leaves = await it.leaves()
        s = await it.take([paid("7", event="p9")])
    assert (early.state, late.state) == ("retained", "completed")
    assert (groups, live, remains.live, remains.readable) == ((), {}, 0, 0)
    assert again.is_completed
    receipt = json.loads(again.receipt or b"")
    assert (receipt["retained"], receipt["completed_at"] is None) == ([], False)
    assert leaves == [bytes.fromhex(first.leaf or ""), bytes.fromhex(again.leaf or "")]
    assert (types.count("erasure.retained.v1"), types.count("erasure.completed.v1")) == (1, 1)
    assert (s.accepted, s.reasons) == (0, {"subject_erased": 1})


def _move(folder: Path) -> None:
    """Let the home go on eleven years later."""
    set_trial_clock(open_home(folder / "home", ids=SystemIds()), NOW - timedelta(days=1))


async def test_a_receipt_that_itemises_can_be_verified_and_handed_over(tmp_path: Path) -> None:
    """The single file shows ground and end; the next receipt has a salt of its own."""
    async with home(tmp_path) as it:
        await it.take([*LINES, paid("7", event="p1")])
        done = await _erase(it)
        proof = await it.audit().prove(bytes.fromhex(done.leaf or ""))
        bundle = msgspec.json.encode({"receipt": msgspec.Raw(done.receipt or b""), "proof": proof})
        receipt, _, _ = receipt_verifier.verify(bundle, it.audit().verifier_key)
        handed = await bootstrap.erasure_care_of(it.runtime).hand_over(bundle)
        again = await _erase(it)
    file = tmp_path / "receipt.json"
    file.write_bytes(bundle)
    assert receipt_verifier.main([str(file)]) == 0
    assert len(receipt["retained"]) == 1
    assert (handed.state, handed.is_handed_over) == ("retained", True)
    assert (again.receipt, again.leaf) == (None, done.leaf)
