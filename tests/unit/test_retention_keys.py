"""Retention's last step in a home: keys go when all that they sealed is due, and nothing needs them."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from msgspec import Raw, structs
from msgspec import json as msgspec_json

from privacy_ledger import bootstrap, receipt_verifier
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.local.home import open_home, set_trial_clock
from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.app.expiry_care import ExpiryCare
from privacy_ledger.app.retention import KeptItem
from privacy_ledger.app.retention_status import DueItem
from privacy_ledger.domain.errors import KeyUnavailable, RefusedByPolicy
from privacy_ledger.domain.key_release import ERASE
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import LEDGER_EVENTS, version_topics
from privacy_ledger.domain.values import Category
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.keys import DataKey
from tests.unit.home import TestHome, break_progress, home, paid, played, registered, unreadable, viewed

ADA: Final = "openedx:username:ada"
PURPOSE: Final = "improve.analyse"
BEGIN: Final = datetime(2024, 1, 10, 12, tzinfo=UTC)
"""Keys of that day seal until 9 February: patterns are wholly due in March 2025, usage in April."""
SECOND: Final = timedelta(seconds=1)
MARCH: Final = datetime(2025, 3, 1, tzinfo=UTC)
LINES: Final = (
    registered("7", "ada", event="r1", email="ada@example.com", at=BEGIN),
    played("7", event="a1", at=BEGIN),
    viewed("7", event="v1", at=BEGIN),
    paid("7", event="p1", at=BEGIN),
    played("8", event="b1", at=BEGIN),
)


@asynccontextmanager
async def begun(folder: Path, *more: bytes) -> AsyncIterator[TestHome]:
    """Yield a home at its beginning, with a few lines of two people."""
    async with home(folder, trial=BEGIN) as it:
        await it.take((*LINES, *more), consents=(PURPOSE,))
        yield it


@asynccontextmanager
async def moved(folder: Path, at: datetime) -> AsyncIterator[TestHome]:
    """Yield the home at a later time, with its tick passed by all."""
    set_trial_clock(open_home(folder / "home", ids=SystemIds()), at)
    async with home(folder) as it:
        await it.runtime.registrar.tick(force=True)
        await it.runtime.registrar.confirm_time()
        await it.runtime.passes.settle()
        yield it


def gone(it: TestHome, name: str = "7") -> set[str]:
    """Return the groups of which retention destroyed a key of somebody."""
    return {key.group for key in it.runtime.vault.keys_of(it.ref(name)) if key.is_expired}


@pytest.mark.parametrize(
    ("at", "due"),
    [
        (datetime(2025, 2, 1, tzinfo=UTC), set[str]()),
        (MARCH - timedelta(minutes=1), set[str]()),
        (MARCH + SECOND, {"patterns"}),
        (datetime(2025, 4, 1, tzinfo=UTC) + SECOND, {"patterns", f"usage+{PURPOSE}"}),
        (datetime(2034, 2, 28, tzinfo=UTC), {"patterns", f"usage+{PURPOSE}"}),
        (datetime(2034, 3, 1, tzinfo=UTC) + SECOND, {"billing", "patterns", f"usage+{PURPOSE}"}),
    ],
)
async def test_keys_go_with_the_month_in_which_all_under_them_is_due(
    tmp_path: Path, at: datetime, due: set[str]
) -> None:
    """Not before; the records themselves went a month earlier. A legal duty ends with its own retention."""
    async with begun(tmp_path):
        pass
    async with moved(tmp_path, at) as it:
        planned = await bootstrap.expiry_of(it.runtime).look()
        before = gone(it)
        done = await bootstrap.expiry_of(it.runtime).tend()
        again = await bootstrap.expiry_of(it.runtime).run()
        found, other = gone(it), gone(it, "8")
        states = {key for key in it.runtime.vault.live_groups(it.ref("7")) if ":" in key}
    assert (before, found, other) == (set(), due, due & {"patterns"})
    assert (planned.keys, done.keys, again.keys, done.kept) == (len(due) + len(other), planned.keys, 0, {})
    assert states


async def test_a_generation_that_still_seals_what_is_not_due_stays(tmp_path: Path) -> None:
    """The younger one of the same group, too; each record goes in its own month."""
    async with begun(tmp_path):
        pass
    async with moved(tmp_path, BEGIN + timedelta(days=40)) as it:
        await it.take([played("7", event="a2", at=BEGIN + timedelta(days=40))])
    async with moved(tmp_path, MARCH + SECOND) as it:
        await bootstrap.expiry_of(it.runtime).run()
        keys = [key for key in it.runtime.vault.keys_of(it.ref("7")) if key.group == "patterns"]
        opened = it.runtime.vault.open_keys([key.kid for key in keys])
        status = await (await bootstrap.statements_of(it.runtime)).status((it.ref("7"),))
    assert [key.is_expired for key in keys] == [True, False]
    assert [isinstance(opened[key.kid], DataKey) for key in keys] == [False, True]
    assert [item for item in status.due if item.category is Category.PATTERNS] == [
        DueItem(category=Category.PATTERNS, until=MARCH.replace(year=2024), outcome="bytes gone", keys=1),
        DueItem(
            category=Category.PATTERNS, until=MARCH.replace(year=2024), outcome="key destroyed", keys=1,
            at=keys[0].destroyed_at,
        ),
    ]  # fmt: skip


async def test_a_record_of_the_past_is_due_before_its_key(tmp_path: Path) -> None:
    """An import seals it under a key of today: its bytes go in its month, the key when all is due."""
    old = played("7", event="old", at=datetime(2023, 3, 5, tzinfo=UTC))
    async with home(tmp_path, trial=BEGIN) as it:
        await it.take([old, played("7", event="new", at=BEGIN)], is_import=True)
    async with moved(tmp_path, datetime(2024, 4, 2, tzinfo=UTC)) as it:
        done = await bootstrap.expiry_of(it.runtime).run()
        live = [row.month for row in await it.runtime.views.live(it.ref("7"))]
        status = await (await bootstrap.statements_of(it.runtime)).status((it.ref("7"),))
    assert (done.due, len(live)) == (0, 1)
    assert [(item.outcome, item.keys) for item in status.due] == [("bytes gone", 1)]


async def test_who_is_restricted_keeps_every_key_until_the_lift(tmp_path: Path) -> None:
    """Retention is frozen meanwhile; other people's goes on."""
    async with begun(tmp_path) as it:
        await it.runtime.passes.settle(await it.subjects.restrict(ADA, ground="accuracy"))
    async with moved(tmp_path, MARCH + SECOND) as it:
        frozen = await bootstrap.expiry_of(it.runtime).run()
        remains = await remains_of(PersonRows(it.runtime.log), it.runtime.vault, it.ref("7"))
        kept, other = gone(it), gone(it, "8")
        status = await (await bootstrap.statements_of(it.runtime)).status((it.ref("7"),))
        lift = await it.subjects.lift(ADA, notified_at=it.runtime.clock.now())
        await it.runtime.passes.settle(lift)
        await bootstrap.expiry_of(it.runtime).run()
        lifted = gone(it)
    assert (frozen.kept, kept, other, lifted) == ({"restricted": 1}, set(), {"patterns"}, {"patterns"})
    assert remains.readable == remains.live == len(LINES)
    assert {(item.outcome, item.keys, item.records) for item in status.due if "Art. 18" in item.why} == {
        ("kept", 1, 1), ("kept", 0, 1),
    }  # fmt: skip


async def test_a_hold_keeps_the_keys_of_its_category_and_no_others(tmp_path: Path) -> None:
    """And lets them go when it is lifted."""
    async with begun(tmp_path) as it:
        name, offsets = await it.subjects.place_hold(
            ADA, category=Category.USAGE, ground="legal_claims", until=None
        )
        await it.runtime.passes.settle(offsets)
    async with moved(tmp_path, datetime(2025, 6, 1, tzinfo=UTC)) as it:
        done = await bootstrap.expiry_of(it.runtime).run()
        held = gone(it)
        status = await (await bootstrap.statements_of(it.runtime)).status((it.ref("7"),))
        await it.runtime.passes.settle(await it.subjects.lift_hold(ADA, name))
        await bootstrap.expiry_of(it.runtime).run()
        lifted = gone(it)
    assert (done.kept, held, lifted) == ({"held": 1}, {"patterns"}, {"patterns", f"usage+{PURPOSE}"})
    assert status.held == (KeptItem(category=Category.USAGE, records=1, ground="legal_claims"),)


async def test_who_is_parked_in_any_pass_keeps_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `core` behind a record that nobody can read, in another pass behind a step that fails."""
    broken = {"v9"}
    break_progress(broken, monkeypatch)
    async with begun(tmp_path) as it:
        await it.take([played("8", event="b2", at=BEGIN, video="v9")])
        record = unreadable(await it.rows(), it.ref("7"), SystemIds())
        await it.runtime.log.append(LEDGER_EVENTS, (record,))
        await it.runtime.passes.settle()
    async with moved(tmp_path, MARCH + SECOND) as it:
        done = await bootstrap.expiry_of(it.runtime).run()
        found = gone(it), gone(it, "8")
    assert (done.keys, done.kept, found) == (0, {"waiting": 2}, (set(), set()))


async def test_views_that_lag_behind_the_tick_keep_every_key(tmp_path: Path) -> None:
    """What no pass has passed says nothing: the same call destroys it later."""
    async with begun(tmp_path):
        pass
    set_trial_clock(open_home(tmp_path / "home", ids=SystemIds()), MARCH + SECOND)
    async with home(tmp_path) as it:
        await it.runtime.registrar.tick(force=True)
        await it.runtime.registrar.confirm_time()
        early = await bootstrap.expiry_of(it.runtime).run()
        before = gone(it)
        await it.runtime.passes.settle()
        done = await bootstrap.expiry_of(it.runtime).run()
    assert (early.keys, before, done.keys) == (0, set(), 2)


async def test_a_late_line_is_refused_and_what_is_new_gets_a_key_of_its_own(tmp_path: Path) -> None:
    """Nothing is sealed again under what retention destroyed."""
    async with begun(tmp_path):
        pass
    async with moved(tmp_path, MARCH + SECOND) as it:
        await bootstrap.expiry_of(it.runtime).run()
        late = played("7", event="late", at=BEGIN)
        new = played("7", event="new", at=MARCH)
        summary = await it.take([*LINES, late, new], is_import=True)
        keys = [key for key in it.runtime.vault.keys_of(it.ref("7")) if key.group == "patterns"]
        live = [
            row.generation for row in await it.runtime.views.live(it.ref("7")) if row.category == "patterns"
        ]
    assert summary.reasons["past_retention"] == 4
    assert [(key.generation, key.is_expired) for key in keys] == [(0, True), (1, False)]
    assert live == [1]


async def test_the_erased_are_left_to_their_erasure(tmp_path: Path) -> None:
    """What a law kept goes by the saga, which says so with a receipt."""
    async with begun(tmp_path) as it:
        await it.erasure().erase(it.subjects.find(ADA).refs)
        ref = it.subjects.find(ADA).refs[0]
    async with moved(tmp_path, datetime(2034, 3, 1, tzinfo=UTC) + SECOND) as it:
        before = await bootstrap.expiry_of(it.runtime).run()
        await bootstrap.erasure_care_of(it.runtime).tend()
        after = await bootstrap.expiry_of(it.runtime).look()
        (status,) = await bootstrap.erasure_care_of(it.runtime).status((ref,))
        groups = it.runtime.vault.live_groups(ref)
    assert (before.kept, after.kept, status.state, groups) == ({"ended": 1}, {}, "completed", ())


async def test_a_receipt_says_which_and_is_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same all month long, one leaf; it holds no id of a key in clear, and nothing of the person."""
    async with begun(tmp_path):
        pass
    async with moved(tmp_path, MARCH + SECOND) as it:
        await bootstrap.expiry_of(it.runtime).run()
        statements = await bootstrap.statements_of(it.runtime)
        (one,) = await statements.receipts((it.ref("7"),))
        await it.runtime.registrar.tick(force=True)
        await it.runtime.passes.settle()
        (again,) = await statements.receipts((it.ref("7"),))
        (other,) = await statements.receipts((it.ref("8"),))
        leaves, key, ref = await it.leaves(), it.audit().verifier_key, it.ref("7").hex()
    file = msgspec_json.encode({"receipt": Raw(one.receipt), "proof": one.proof})
    receipt, _, _ = receipt_verifier.verify(file, key)
    (tmp_path / "receipt.json").write_bytes(file)
    assert receipt_verifier.main([str(tmp_path / "receipt.json"), key]) == 0
    shown = capsys.readouterr().out
    assert (one.receipt, one.leaf) == (again.receipt, again.leaf)
    assert leaves == [bytes.fromhex(one.leaf), bytes.fromhex(other.leaf)]
    due = {(item["category"], item["outcome"]) for item in receipt["due"]}
    assert ("patterns", "key destroyed") in due
    assert ("usage", "bytes gone") in due
    assert "patterns" in shown
    assert "key destroyed" in shown
    assert len(receipt["keys"]) == 1
    assert ref not in json.dumps(receipt)


async def test_who_has_nothing_due_gets_no_receipt(tmp_path: Path) -> None:
    """There is nothing that it could say."""
    async with begun(tmp_path) as it:
        statements = await bootstrap.statements_of(it.runtime)
        status = await statements.status((it.ref("7"),))
        with pytest.raises(RefusedByPolicy) as caught:
            await statements.receipts((it.ref("7"),))
    assert (status.due, caught.value.refusal) == ((), Refusal.RECEIPT_UNKNOWN)


async def test_a_person_with_two_references_gets_receipts_of_what_is_due(tmp_path: Path) -> None:
    """Of the younger one nothing is due yet, and that hinders nothing."""
    async with begun(tmp_path):
        pass
    async with moved(tmp_path, MARCH + SECOND) as it:
        at = it.runtime.clock.now()
        await it.take([played("bob2", event="q1", at=at)])
        await it.take([played("7", "bob2", event="q2", at=at)])
        refs = it.subjects.active(ADA).refs
        made = await (await bootstrap.statements_of(it.runtime)).receipts(refs)
        leaves = await it.leaves()
    assert len(refs) == 2
    assert leaves == [bytes.fromhex(one.leaf) for one in made]
    assert len(leaves) == 1


async def test_a_restored_keystore_has_the_keys_destroyed_again(tmp_path: Path) -> None:
    """And still says that it was retention."""
    async with begun(tmp_path) as it:
        bootstrap.care_of(it.runtime.keystore, it.runtime.clock).back_up()
    async with moved(tmp_path, MARCH + SECOND) as it:
        await bootstrap.expiry_of(it.runtime).run()
        (backup,) = it.runtime.keystore.places.backups.glob("*.backup")
        it.runtime.keystore.restorer.restore(backup, beside_others=True)
    async with home(tmp_path) as it:
        keys = [key for key in it.runtime.vault.keys_of(it.ref("7")) if key.group == "patterns"]
        opened = it.runtime.vault.open_keys([key.kid for key in keys])
        left = await bootstrap.expiry_of(it.runtime).look()
    assert [(key.is_expired, isinstance(opened[key.kid], DataKey)) for key in keys] == [(True, False)]
    assert left.due == 0


async def test_whoever_has_a_receipt_of_retention_is_erased_as_others_are(tmp_path: Path) -> None:
    """The key that salts it is the person's own, and goes with them."""
    async with begun(tmp_path):
        pass
    async with moved(tmp_path, MARCH + SECOND) as it:
        await bootstrap.expiry_of(it.runtime).run()
        statements, ref = await bootstrap.statements_of(it.runtime), it.ref("8")
        await statements.receipts((ref,))
        (done,) = await it.erasure().erase((ref,))
        groups = it.runtime.vault.live_groups(ref)
        with pytest.raises(RefusedByPolicy):
            await statements.receipts((ref,))
    assert (done.is_completed, groups) == (True, ())


async def test_a_call_of_the_daily_care_is_bounded_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look of three rows at a time, from where the last one ended, and then from the beginning."""
    monkeypatch.setattr("privacy_ledger.adapters.keystore._expiry.LOOKED_AT", 3)
    monkeypatch.setattr("privacy_ledger.app.expiry_care.LOOKS_MAX", 1)
    async with begun(tmp_path):
        pass
    async with moved(tmp_path, MARCH + SECOND) as it:
        await bootstrap.expiry_of(it.runtime).look()
        found: list[int] = []
        while await _is_left(it) and len(found) < 100:
            found.append((await bootstrap.expiry_of(it.runtime).tend()).keys)
        rows = [
            key.row
            for key in (*it.runtime.vault.keys_of(it.ref("7")), *it.runtime.vault.keys_of(it.ref("8")))
        ]
        cursor = it.runtime.parts.expiry_cursor["after"]
        turns = [(await bootstrap.expiry_of(it.runtime).tend()).due for _ in range(30)]
    assert (sum(found), len(found) > 1, len(found) <= max(rows)) == (2, True, True)
    assert (cursor > 0, set(turns)) == (True, {0})


async def _is_left(it: TestHome) -> bool:
    return bool((await bootstrap.expiry_of(it.runtime).look()).due)


async def test_two_who_look_at_once_destroy_each_key_once(tmp_path: Path) -> None:
    """And a key is destroyed at one time only."""
    async with begun(tmp_path):
        pass
    async with moved(tmp_path, MARCH + SECOND) as it:
        done = await asyncio.gather(*(bootstrap.expiry_of(it.runtime).run() for _ in range(2)))
        journal = (it.runtime.keystore.places.keys / "journal.ndjson").read_bytes().splitlines()
        left = await _is_left(it)
    marks = [mark for entry in map(json.loads, journal) if entry["is_expiry"] for mark in entry["marks"]]
    assert (len(marks), len(set(marks)), left) == (2, 2, False)
    assert all(one.kept == {} for one in done)


async def test_a_keystore_of_an_earlier_build_is_read(tmp_path: Path) -> None:
    """It knows of no key that retention destroyed: what was destroyed before is told as it was."""
    async with begun(tmp_path) as it:
        it.runtime.vault.shred(it.ref("8"), now=it.runtime.clock.now(), group="patterns")
    with closing(sqlite3.connect(tmp_path / "home" / "keystore.db")) as file:
        file.execute("DROP TABLE expired")
        file.commit()
    async with moved(tmp_path, MARCH + SECOND) as it:
        await bootstrap.expiry_of(it.runtime).run()
        found = gone(it), gone(it, "8")
    assert found == ({"patterns"}, set())


async def test_an_end_between_journal_and_keystore_is_made_good_at_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal comes first, and says that it was retention."""

    def ends(*_: object, **__: object) -> None:
        raise KeyUnavailable("The process ends here.")

    async with begun(tmp_path):
        pass
    async with moved(tmp_path, MARCH + SECOND) as it:
        with monkeypatch.context() as patched:
            patched.setattr("privacy_ledger.adapters.keystore._recorder.Recorder.destroy", ends)
            with pytest.raises(KeyUnavailable):
                await bootstrap.expiry_of(it.runtime).run()
        before = [key.destroyed_at for key in it.runtime.vault.keys_of(it.ref("7"))]
    async with home(tmp_path) as it:
        found, left = (gone(it), gone(it, "8")), await _is_left(it)
    assert (set(before), found, left) == ({None}, ({"patterns"}, {"patterns"}), False)


async def test_one_pass_that_has_seen_nothing_keeps_every_key(tmp_path: Path) -> None:
    """Such as a version that is being built."""
    async with begun(tmp_path):
        pass
    async with moved(tmp_path, MARCH + SECOND) as it:
        runtime, states = it.runtime, [it.runtime.state_codec(one) for one in it.runtime.declared.values()]
        late = runtime.state_codec(structs.replace(runtime.declared["core"], name="late"))
        assert runtime.local is not None
        runtime.local.declare(*version_topics("progress", 2, folded_by="late", role="core"))

        async def all_states() -> dict[str, StateCodec]:
            return {str(number): one for number, one in enumerate((*states, late))}

        async def rules(digest: str) -> Rules:
            await runtime.books.load(digest)
            return runtime.books.known[digest]

        care = ExpiryCare(
            vault=runtime.released_to(ERASE), views=runtime.views, latest=runtime.latest, states=all_states,
            rules=rules, clock=runtime.clock, partitions=runtime.partitions, cursor={},
        )  # fmt: skip
        done = await care.run()
    assert (done.keys, done.kept) == (0, {"lagging": 2})
