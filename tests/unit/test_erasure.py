"""The erasure saga on the real log, keystore and passes; `tests/crash` cuts it short everywhere."""

import hashlib
import json
from pathlib import Path

import msgspec

from privacy_ledger import receipt_verifier
from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.app.erasure import STEPS
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import IdentityStatus
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import TestHome, home, played, registered

ADA = "openedx:username:ada"
LINES = [
    registered("7", "ada", event="r1", email="ada@example.com"),
    *(played("7", event=f"a{n}") for n in range(5)),
    *(played("8", event=f"b{n}") for n in range(5)),
]


async def assert_gone(it: TestHome, ref: SubjectRef) -> None:
    """Assert that nothing of a person can be read or found, and that others are untouched."""
    r = it.runtime
    remains = await remains_of(PersonRows(r.log), r.vault, ref)
    assert (remains.live, remains.readable, remains.unknown) == (0, 0, 0)
    assert await r.views.live(ref) == ()
    assert await r.views.get(progress.TABLE, ref) is None
    assert await r.views.get(subject_view.TABLE, ref) is None
    assert it.subjects.find(ADA).status is IdentityStatus.ERASED
    assert len(await r.views.live(it.ref("8"))) == 5


async def test_a_plan_counts_and_changes_nothing(tmp_path: Path) -> None:
    """By category."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        plan = await it.erasure().plan(it.subjects.find(ADA).refs)
        again = await it.take(LINES)
    assert (plan.references, plan.records) == (1, {"account": 1, "patterns": 5})
    assert again.duplicates == len(LINES)


async def test_an_erasure_ends_with_a_receipt_and_its_leaf(tmp_path: Path) -> None:
    """The receipt names nobody; its hash is the leaf; the partition says completed."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ref, steps = it.ref("7"), list[str]()
        (done,) = await it.erasure().erase(
            it.subjects.find(ADA).refs, on_step=lambda _, step: steps.append(step)
        )
        await assert_gone(it, ref)
        leaves = await it.leaves()
        permissions = await it.runtime.views.get(PERMISSIONS, ref)
    assert done.is_completed
    assert steps == [*STEPS[1:], "completed"]
    assert done.receipt is not None
    leaf = hashlib.sha256(b"\0" + done.receipt).hexdigest()
    assert (done.leaf, leaves) == (leaf, [bytes.fromhex(leaf)])
    assert permissions is not None
    assert permissions.erasure is not None
    assert (permissions.erasure.state, permissions.erasure.receipt) == ("completed", leaf)
    receipt = json.loads(done.receipt)
    committed = hashlib.sha256(bytes.fromhex(receipt["salt"]) + ref + bytes.fromhex(done.request))
    assert receipt["commitment"] == committed.hexdigest()
    assert receipt["records"] == {"account": 1, "patterns": 5}
    assert {s["store"]: s["count"] for s in receipt["stores"]}["keystore identities"] == 2
    assert ref.hex() not in done.receipt.decode()


async def test_asking_twice_gives_the_same_receipt(tmp_path: Path) -> None:
    """And writes neither a second leaf nor a second request."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        refs = it.subjects.find(ADA).refs
        first = await it.erasure().erase(refs)
        rows = len(await it.rows(LEDGER_EVENTS))
        assert await it.erasure().erase(it.subjects.find(ADA).refs) == first
        assert len(await it.rows(LEDGER_EVENTS)) == rows
        assert len(await it.leaves()) == 1


async def test_the_same_file_after_an_erasure_brings_nobody_back(tmp_path: Path) -> None:
    """Also not under a known alias."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        await it.erasure().erase(it.subjects.find(ADA).refs)
        s = await it.take([*LINES, played("ada", event="x1")])
        assert (s.accepted, s.duplicates, s.reasons) == (0, 5, {"subject_erased": 7})


async def test_every_reference_of_a_person_is_erased(tmp_path: Path) -> None:
    """References that were joined share the request and have a saga each."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        await it.take([played("ada", event="e2"), *LINES[6:]])
        await it.take([played("7", "ada", event="e3")])
        refs = it.subjects.find(ADA).refs
        done = await it.erasure().erase(refs)
        for ref in refs:
            await assert_gone(it, ref)
    assert [one.is_completed for one in done] == [True, True]
    assert len({one.request for one in done}) == 1
    assert len({one.leaf for one in done}) == 2


async def test_one_who_was_linked_to_an_erased_person_is_erased_by_resume(tmp_path: Path) -> None:
    """The request of the ingest is durable; the saga is run by whoever comes next."""
    async with home(tmp_path) as it:
        await it.take([*LINES, played("nick", event="n1")])
        await it.erasure().erase(it.subjects.find(ADA).refs)
        s = await it.take([played("7", "nick", event="n2")])
        nick = it.ref("nick")
        assert s.linked_to_erased == (nick,)
        assert await it.erasure().unfinished() == 1
        (done,) = await it.erasure().resume()
        assert done.is_completed
        await assert_gone(it, nick)


async def test_a_receipt_claims_no_count_where_the_request_came_before_it(tmp_path: Path) -> None:
    """The ingest requested, and the passes cleared everything before anybody could look."""
    async with home(tmp_path) as it:
        await it.take([*LINES, played("nick", event="n1")])
        await it.erasure().erase(it.subjects.find(ADA).refs)
        await it.take([played("7", "nick", event="n2")])
        (done,) = await it.erasure().resume()
        proof = await it.audit().prove(bytes.fromhex(done.leaf or ""))
        bundle = msgspec.json.encode({"receipt": msgspec.Raw(done.receipt or b""), "proof": proof})
        receipt, _, _ = receipt_verifier.verify(bundle, it.audit().verifier_key)
    file = tmp_path / "receipt.json"
    file.write_bytes(bundle)
    said = {store["store"]: (store["outcome"], store["count"]) for store in receipt["stores"]}
    identities = said.pop("keystore identities")
    assert receipt["records"] is None
    assert set(said.values()) == {("erased", None)}
    assert identities == ("erased", 1)
    assert receipt_verifier.main([str(file)]) == 0
