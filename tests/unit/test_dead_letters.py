"""Dead letters on a real home: who is parked is listed, redriven or discarded, and lines are audited."""

import asyncio
from pathlib import Path
from typing import Final

import msgspec
import pytest

from privacy_ledger import bootstrap
from privacy_ledger.app.dead_letters import DeadLetters, Entry, chosen
from privacy_ledger.bootstrap import dead_letters_of
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.merkle import leaf_hash
from privacy_ledger.domain.topics import CONTROL_HINTS, DLQ, LEDGER_EVENTS
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.streams import subject_view
from tests.unit.home import TestHome, break_progress, home, played, settings, unreadable, videos_of, viewed

ADA: Final = "openedx:user_id:7"
PURPOSE: Final = "improve.analyse"
NOT_JSON: Final = b"\x7bsecret-of-ada"


async def _of_core(use_case: DeadLetters) -> tuple[Entry, ...]:
    return tuple(one for one in await use_case.parked() if one.pass_name == "core")


async def _park(it: TestHome, name: str) -> None:
    """Append a record of a person that nobody can read, and one behind it."""
    await it.take([played(name, event=f"{name}1", video="first")])
    await it.runtime.log.append(
        LEDGER_EVENTS, (unreadable(await it.rows(), it.ref(name), it.runtime.ids),)
    )  # fmt: skip
    await it.take([played(name, event=f"{name}2", video="second")])


async def test_who_is_parked_is_listed_by_pass_offset_and_reason(tmp_path: Path) -> None:
    """In every pass, with what waits; nothing of the person is in it."""
    async with home(tmp_path) as it:
        await _park(it, "7")
        entries = await dead_letters_of(it.runtime).parked()
        ref = it.ref("7")
        (row,) = [row for row in await it.rows() if row.key[:16] == ref and row.offset == entries[0].offset]
        assert {one.pass_name for one in entries} == set(it.runtime.declared)
        assert {(one.offset, one.reason, one.waiting) for one in entries} == {(row.offset, "unknown_key", 1)}
        assert {one.record for one in entries} == {row.key[16:].hex()}
        about = await dead_letters_of(it.runtime).about(entries[0])
        assert set(about) <= {"ce_type", "ce_source", "category", "received"}


async def test_a_worker_takes_up_again_whom_another_process_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the home all the while; the people whom nobody named stay parked."""
    broken = {"bad", "worse"}
    break_progress(broken, monkeypatch)
    async with home(tmp_path, is_worker=True) as it, bootstrap.open_runtime(settings(tmp_path)) as other:
        await it.take([played("7", event="71", video="bad"), played("7", event="72", video="next")])
        await it.take([played("8", event="81", video="worse")])
        broken.clear()
        entries = await _of_core(dead_letters_of(other))
        named = tuple(one for one in entries if one.ref == it.ref("7").hex())

        async def work() -> None:
            while True:
                await it.runtime.passes.advance()
                await asyncio.sleep(0.05)

        working = asyncio.create_task(work())
        try:
            (outcome,) = await dead_letters_of(other).redrive(named)
        finally:
            working.cancel()
        assert (outcome.state, outcome.entry) == ("gone", named[0])
        assert await videos_of(it, "7") == ["bad", "next"]
        assert [one.ref for one in await _of_core(dead_letters_of(other))] == [it.ref("8").hex()]
        assert all(b"71" not in (row.value or b"") for row in await it.rows(CONTROL_HINTS))


async def test_a_redrive_in_vain_says_where_and_why(tmp_path: Path) -> None:
    """It counts, and the ledger got nothing."""
    async with home(tmp_path) as it:
        await _park(it, "7")
        use_case, before = dead_letters_of(it.runtime), len(await it.rows())
        (entry,) = await _of_core(use_case)
        (outcome,) = await use_case.redrive((entry,))
        (again,) = await _of_core(use_case)
        assert (outcome.state, outcome.offset, outcome.reason) == ("parked", entry.offset, "unknown_key")
        assert again.tries > entry.tries
        written = [row for row in (await it.rows())[before:] if row.key[:16] == it.ref("7")]
        assert written == []


async def test_a_discarded_record_frees_its_person_in_every_pass(tmp_path: Path) -> None:
    """What waited is folded, and a rebuild agrees: the ledger remembers."""
    async with home(tmp_path) as it:
        await _park(it, "7")
        use_case = dead_letters_of(it.runtime)
        outcomes = await use_case.discard(await use_case.parked())
        assert {one.state for one in outcomes} == {"gone"}
        assert await use_case.parked() == ()
        assert await videos_of(it, "7") == ["first", "second"]
        assert sum(row.value is not None and row.key[:16] == it.ref("7") for row in await it.rows()) == 5
        assert (await verify(it.runtime)).is_equal


async def test_a_withdrawal_behind_a_parked_record_moves_nothing_until_it_goes_on(tmp_path: Path) -> None:
    """Neither does data; then both count, in their order."""
    async with home(tmp_path) as it:
        await it.take([viewed("7", event="v0")], consents=(PURPOSE,))
        await _park(it, "7")
        await it.runtime.passes.settle(await it.subjects.withdraw(ADA, PURPOSE))
        before = await it.runtime.views.get(subject_view.TABLE, it.ref("7"))
        assert before is not None
        assert subject_view.merge(before).counts["usage.page_viewed.v1"] == 1
        use_case = dead_letters_of(it.runtime)
        await use_case.discard(await use_case.parked())
        after = await it.runtime.views.get(subject_view.TABLE, it.ref("7"))
        assert after is not None
        assert "usage.page_viewed.v1" not in subject_view.merge(after).counts
        assert (await verify(it.runtime)).is_equal


async def test_a_parked_record_of_an_erased_person_is_gone_for_good(tmp_path: Path) -> None:
    """Nobody is listed any more, and nothing brings them back."""
    async with home(tmp_path) as it:
        await _park(it, "7")
        use_case = dead_letters_of(it.runtime)
        entries, ref = await use_case.parked(), it.ref("7")
        await it.erasure().erase(it.subjects.find(ADA).refs)
        assert await use_case.parked() == ()
        outcomes = await use_case.redrive(entries)
        assert {one.state for one in outcomes} == {"gone"}
        assert await it.runtime.views.get(subject_view.TABLE, ref) is None
        assert await it.runtime.views.live(ref) == ()
        assert (await verify(it.runtime)).is_equal


async def test_discarded_lines_leave_a_leaf_in_the_audit_log(tmp_path: Path) -> None:
    """They are listed no more; later ones are, and nothing of a line was ever kept."""
    async with home(tmp_path) as it:
        await it.take([NOT_JSON, NOT_JSON, played("7", event="e1")])
        use_case = dead_letters_of(it.runtime)
        letters = await use_case.letters()
        assert [(one.reason, one.size) for one in letters] == [("not_json", len(NOT_JSON))] * 2
        document, leaf, index = await use_case.discard_lines(letters)
        await it.take([NOT_JSON])
        assert len(await use_case.letters()) == 1
        assert leaf == leaf_hash(msgspec.json.encode(document)).hex()
        assert (await it.leaves())[index] == bytes.fromhex(leaf)
        assert (await it.audit().verify()).faults == ()
        assert not any(b"secret" in (row.value or b"") for row in await it.rows(DLQ))


async def test_what_is_no_letter_is_passed_over(tmp_path: Path) -> None:
    """Pointers stand in the same topic, and hints of another kind in theirs."""
    async with home(tmp_path) as it:
        await it.runtime.log.append(CONTROL_HINTS, (NewRecord(0, b"k" * 16, b'{"type":"another"}'),))
        await _park(it, "7")
        use_case = dead_letters_of(it.runtime)
        assert len(await it.rows(DLQ)) == len(it.runtime.declared)
        assert await use_case.letters() == ()
        with pytest.raises(BadInput, match="dlq list"):
            chosen(("core/0/999999",), await use_case.parked(), ())
