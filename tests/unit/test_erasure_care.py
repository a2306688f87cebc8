"""After the command: open erasures go on by themselves, finality is said once, receipts are handed over."""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar, cast

import msgspec
import pytest

from privacy_ledger import bootstrap
from privacy_ledger.app import _requests
from privacy_ledger.app.erasure import ErasureOutcome
from privacy_ledger.app.erasure_care import ErasureCare
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.merkle import leaf_hash
from privacy_ledger.domain.topics import REQUESTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.interfaces.cli import operate
from privacy_ledger.ports.log import EventLog, NewRecord
from privacy_ledger.ports.observe import Erasures, Seen
from privacy_ledger.ports.runtime import Wrap
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import NOW, Away, TestHome, home, played, registered

P = TypeVar("P")
ADA: Final = "openedx:username:ada"
LINES: Final = [
    registered("7", "ada", event="r1", email="ada@example.com"),
    played("7", event="a1"),
    played("8", event="b1"),
]
LOOKS: Final = 1000
LINK: Final = [played("nick", event="n1")]


class Watched:
    """Meters that keep what they see of erasures."""

    def __init__(self) -> None:
        """See nothing yet."""
        self.seen: list[Erasures] = []

    def note(self, seen: Seen) -> None:
        """Keep it."""
        if isinstance(seen, Erasures):
            self.seen.append(seen)


async def erased(it: TestHome) -> ErasureOutcome:
    """Take lines, and erase one of two people."""
    await it.take(LINES)
    (done,) = await it.erasure().erase(it.subjects.find(ADA).refs)
    return done


async def state_of(it: TestHome, ref: SubjectRef) -> str:
    """Return how far the partition says that an erasure came."""
    await it.runtime.passes.settle()
    permissions = await it.runtime.views.get(PERMISSIONS, ref)
    assert permissions is not None
    assert permissions.erasure is not None
    return permissions.erasure.state


def file_of(done: ErasureOutcome) -> bytes:
    """Return a receipt file, without its proof."""
    return msgspec.json.encode({"receipt": msgspec.Raw(done.receipt or b""), "proof": None})


async def notes(it: TestHome) -> list[dict[str, object]]:
    """Return every record of the requests' topic."""
    return [json.loads(row.value or b"{}") for row in await it.rows(REQUESTS)]


async def until(care: ErasureCare, ref: SubjectRef, state: str) -> None:
    """Return when the erasure of a reference came so far; fail when it does not."""
    found = ""
    for _ in range(LOOKS):
        found = (await care.status((ref,)))[0].state
        if found == state:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"The erasure did not become {state}: it is {found}.")


# Going on -------------------------------------------------------------------------------------


async def test_an_open_erasure_goes_on_by_itself_after_its_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: somebody may be at work on it. Who was linked to an erased person is one of these."""
    async with home(tmp_path) as it:
        await it.take([*LINES, *LINK])
        await it.erasure().erase(it.subjects.find(ADA).refs)
        await it.take([played("7", "nick", event="n2")])
        nick, care = it.ref("nick"), bootstrap.erasure_care_of(it.runtime)
        early = await care.tend()
        waiting = (await care.status((nick,)))[0].state
        monkeypatch.setattr(_requests, "RETRY_FIRST", timedelta(0))
        late = await care.tend()
        (status,) = await care.status((nick,))
        state = await state_of(it, nick)
    assert (early.still_open, waiting) == (1, "requested")
    assert (late.still_open, late.oldest_s) == (0, 0.0)
    assert (status.state, status.open_steps, state) == ("completed", (), "completed")


async def test_a_worker_of_a_home_goes_on_with_what_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a command, until everybody is erased and every erasure is final."""
    monkeypatch.setattr(operate, "TEND_S", 0.05)
    monkeypatch.setattr(operate, "FINAL_S", 0.05)
    monkeypatch.setattr(_requests, "RETRY_FIRST", timedelta(0))
    async with home(tmp_path) as it:
        await it.take([*LINES, *LINK])
        await it.erasure().erase(it.subjects.find(ADA).refs)
        await it.take([played("7", "nick", event="n2")])
        nick, stop = it.ref("nick"), asyncio.Event()
        care, keys = (
            bootstrap.erasure_care_of(it.runtime),
            bootstrap.care_of(it.runtime.keystore, it.runtime.clock),
        )
        said: list[str] = []
        worker = asyncio.create_task(operate.fold_home(it.runtime, stop, say=said.append))
        await until(care, nick, "completed")
        keys.roll(is_final=True)
        await until(care, nick, "final")
        stop.set()
        await worker
        state, unfinished = await state_of(it, nick), await it.erasure().unfinished()
    assert (state, unfinished) == ("final", 0)
    assert said == ["Running all passes of this home. Ctrl-C stops."]


@pytest.mark.parametrize(
    ("tries", "minutes"), [(0, 5), (1, 10), (2, 20), (3, 40), (4, 60), (5, 60), (10_000, 60)]
)
def test_the_pause_doubles_up_to_an_hour(tries: int, minutes: int) -> None:
    """From the last note of the saga on."""
    saga = _requests.Saga(
        request="00" * 16, ref=SubjectRef(b"r" * 16), opened_at=NOW, cause="request", counts={}, done={},
        tries=tries, last_at=NOW + timedelta(days=1),
    )  # fmt: skip
    assert saga.due_at == NOW + timedelta(days=1, minutes=minutes)


async def test_what_is_open_for_a_day_is_an_alarm(tmp_path: Path) -> None:
    """The meters see it, the status says it, and it goes with the completion."""
    watched, store = Watched(), Away()
    begun = NOW - timedelta(days=10)
    async with home(tmp_path, trial=begun, meters=watched) as it:
        await it.take([registered("7", "ada", event="r1", email="ada@example.com", at=begun)])
        ref = it.ref("7")
        await it.erasure(store).erase((ref,))
        await bootstrap.erasure_care_of(it.runtime).look()
    _move(tmp_path, begun + timedelta(hours=25))
    async with home(tmp_path, meters=watched) as it:
        care = bootstrap.erasure_care_of(it.runtime)
        await care.look()
        (late,) = await care.status((ref,))
        store.is_away = False
        await it.erasure(store).resume()
        await care.look()
        (done,) = await care.status((ref,))
    assert [(seen.still_open, seen.overdue) for seen in watched.seen] == [(1, 0), (1, 1), (0, 0)]
    assert watched.seen[0].oldest_s < 3600 < 25 * 3600 <= watched.seen[1].oldest_s
    assert (late.state, late.is_overdue) == ("incomplete", True)
    assert late.open_steps == ("verified", "search: unreachable")
    assert (done.state, done.is_overdue) == ("completed", False)


def _move(folder: Path, at: object) -> None:
    """Move the trial clock of a home."""
    file = folder / "home" / "home.json"
    said = json.loads(file.read_bytes())
    said["trial_started_at"] = str(at).replace(" ", "T")
    file.write_text(json.dumps(said))


# Final ----------------------------------------------------------------------------------------


async def test_an_erasure_is_final_when_the_last_epoch_of_its_keys_is_gone(tmp_path: Path) -> None:
    """Not after a roll that keeps the old epochs; said once, whoever asks; of the erased person only."""
    async with home(tmp_path) as it:
        done = await erased(it)
        ref, keys = done.ref, bootstrap.care_of(it.runtime.keystore, it.runtime.clock)
        care = bootstrap.erasure_care_of(it.runtime)
        at_once = await care.finalise()
        keys.roll(is_final=False)
        after_a_roll = await care.finalise()
        before = await state_of(it, ref)
        keys.roll(is_final=True)
        said = [await care.finalise(), await bootstrap.erasure_care_of(it.runtime).finalise()]
        after = await state_of(it, ref)
        types = await it.types("7")
        (status,) = await care.status((ref,))
        again = await it.erasure().erase((ref,))
        others = await it.take([played("8", event="b2")])
    receipt = json.loads(done.receipt or b"")
    assert (at_once, after_a_roll, before) == (0, 0, "completed")
    assert (said, after) == ([1, 0], "final")
    assert types.count("erasure.final.v1") == 1
    assert (status.state, status.epoch, receipt["epoch"]) == ("final", 1, 1)
    assert status.final_at is not None
    assert again == (done,)
    assert others.accepted == 1


async def test_the_daily_roll_makes_final_what_is_a_week_old(tmp_path: Path) -> None:
    """`rotate` on every day: within eight days, and not before the epoch is destroyed."""
    begun = NOW
    async with home(tmp_path, trial=begun) as it:
        await it.take(LINES)
        await it.erasure().erase(it.subjects.find(ADA).refs)
    said: list[int] = []
    for day in range(1, 10):
        _move(tmp_path, begun + timedelta(days=day, minutes=day))
        async with home(tmp_path) as it:
            bootstrap.care_of(it.runtime.keystore, it.runtime.clock).rotate()
            said.append(await bootstrap.erasure_care_of(it.runtime).finalise())
    assert sum(said) == 1
    assert said.index(1) + 1 <= 8


async def test_no_erasure_is_final_while_a_younger_backup_opens(tmp_path: Path) -> None:
    """Its keys lie under a newer epoch than the rows of the older backup in which they were destroyed."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ref, keystore = it.ref("7"), it.runtime.keystore
        keys = bootstrap.care_of(keystore, it.runtime.clock)
        backup = keystore.places.backups / keys.back_up().name
        keys.roll(is_final=False)
        keystore.restorer.restore(backup, beside_others=True)
    async with home(tmp_path) as it:
        await it.erasure().erase((ref,))
        care = bootstrap.erasure_care_of(it.runtime)
        keeper = it.runtime.keystore.keeper
        while keeper.rewrap(after=0).moved:
            pass
        keeper.back_up(it.runtime.keystore.places.backups, now=it.runtime.clock.now())
        keeper.destroy_epochs(through=1, now=it.runtime.clock.now())
        too_early = await care.finalise()
        bootstrap.care_of(it.runtime.keystore, it.runtime.clock).roll(is_final=True)
        said = await care.finalise()
        (status,) = await care.status((ref,))
    assert (too_early, said, status.epoch) == (0, 1, 2)


# Receipts -------------------------------------------------------------------------------------


async def test_a_receipt_is_given_again_until_it_is_handed_over(tmp_path: Path) -> None:
    """Then its salt is gone: neither the topic nor any key makes it again, and the leaf stays."""
    async with home(tmp_path) as it:
        done = await erased(it)
        again = await it.erasure().erase((done.ref,))
        care = bootstrap.erasure_care_of(it.runtime)
        handed = [await care.hand_over(file_of(done)) for _ in range(2)]
        (after,) = await it.erasure().erase((done.ref,))
        written = await notes(it)
        of_file = await care.of_file(file_of(done))
        leaves = await it.leaves()
    salt = json.loads(done.receipt or b"")["salt"]
    assert again == (done,)
    assert len(salt) == 32
    assert salt not in json.dumps(written)
    assert [note["step"] for note in written].count("handed") == 1
    assert (after.is_completed, after.is_handed_over, after.receipt, after.leaf) == (
        True,
        True,
        None,
        done.leaf,
    )
    assert [one.is_handed_over for one in handed] == [True, True]
    assert of_file == handed[1]
    assert leaves == [bytes.fromhex(done.leaf or "")]


async def test_what_the_ledger_keeps_of_a_receipt_is_its_text_without_the_salt(tmp_path: Path) -> None:
    """So nobody but the person can make the leaf from it."""
    async with home(tmp_path) as it:
        done = await erased(it)
        (kept,) = [str(note["receipt"]) for note in await notes(it) if "receipt" in note]
    receipt = json.loads(done.receipt or b"")
    assert json.loads(kept) == {**receipt, "salt": ""}
    assert leaf_hash(kept.encode()).hex() != done.leaf
    assert leaf_hash(done.receipt or b"").hex() == done.leaf


@pytest.mark.parametrize("cut", ["salt", "keys", "stores"])
async def test_nothing_is_handed_over_by_a_file_that_is_not_whole(cut: str, tmp_path: Path) -> None:
    """A copy that somebody changed, or that is none: the ledger keeps giving the receipt."""
    async with home(tmp_path) as it:
        done = await erased(it)
        care = bootstrap.erasure_care_of(it.runtime)
        receipt = json.loads(done.receipt or b"")
        del receipt[cut]
        for file in (json.dumps({"receipt": receipt}).encode(), b"{}", b"\xff", b"[]", done.receipt or b""):
            with pytest.raises(BadInput):
                await care.hand_over(file)
        assert await it.erasure().erase((done.ref,)) == (done,)


async def erased_before_a_restore(folder: Path) -> ErasureOutcome:
    """Erase one of two people, and restore the keystore of before: the salt of the receipt is lost."""
    async with home(folder) as it:
        await it.take(LINES)
        keys = bootstrap.care_of(it.runtime.keystore, it.runtime.clock)
        backup = it.runtime.keystore.places.backups / keys.back_up().name
        (outcome,) = await it.erasure().erase((it.ref("7"),))
        it.runtime.keystore.restorer.restore(backup, beside_others=True)
    return outcome


async def test_a_salt_that_was_lost_with_a_keystore_gives_a_new_receipt(tmp_path: Path) -> None:
    """The first leaf stays in the log, the completion is said once, and the new one is given again."""
    first = await erased_before_a_restore(tmp_path)
    async with home(tmp_path) as it:
        (second,) = await it.erasure().erase((first.ref,))
        again = await it.erasure().erase((first.ref,))
        leaves, types = await it.leaves(), await it.types("7")
    assert second.receipt is not None
    assert first.leaf != second.leaf
    assert again == (second,)
    assert leaves == [bytes.fromhex(first.leaf or ""), bytes.fromhex(second.leaf or "")]
    assert types.count("erasure.completed.v1") == 1


class Held:
    """A log that holds the first receipt note up until it is told to go on."""

    def __init__(self, log: EventLog) -> None:
        """Take the log."""
        self._log = log
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> object:
        """Be the log in everything else."""
        return getattr(self._log, name)

    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[int]:
        """Append; of a receipt's note, only when it may go on."""
        is_receipt = topic == REQUESTS and b'"step":"receipt"' in (records[0].value or b"")
        if is_receipt and not self.reached.is_set():
            self.reached.set()
            await self.go.wait()
        return await self._log.append(topic, records)


async def both_run(it: TestHome, ref: SubjectRef, held: Held) -> tuple[ErasureOutcome, ErasureOutcome]:
    """Run one erasure twice: the second wholly while the first is about to write its receipt."""
    slow = asyncio.create_task(it.erasure().erase((ref,)))
    await held.reached.wait()
    (second,) = await it.erasure().erase((ref,))
    held.go.set()
    (first,) = await slow
    return first, second


def holding(held: list[Held]) -> Wrap:
    """Return what puts such a log in front of a home's log."""

    def wrap(name: str, port: P) -> P:
        if name != "log":
            return port
        held.append(Held(cast("EventLog", port)))
        return cast("P", held[0])

    return wrap


async def test_two_who_run_one_erasure_make_one_receipt(tmp_path: Path) -> None:
    """The one that was written first is both's: one leaf, and the file of either is accepted."""
    held: list[Held] = []
    async with home(tmp_path, wrap=holding(held)) as it:
        await it.take(LINES)
        first, second = await both_run(it, it.ref("7"), held[0])
        leaves, types = await it.leaves(), await it.types("7")
        handed = await bootstrap.erasure_care_of(it.runtime).hand_over(file_of(first))
    assert first == second
    assert leaves == [bytes.fromhex(second.leaf or "")]
    assert types.count("erasure.completed.v1") == 1
    assert (handed.is_handed_over, handed.leaf) == (True, second.leaf)


async def test_two_who_make_a_lost_receipt_anew_make_one(tmp_path: Path) -> None:
    """The first that replaces it counts for both."""
    held: list[Held] = []
    lost = await erased_before_a_restore(tmp_path)
    async with home(tmp_path, wrap=holding(held)) as it:
        first, second = await both_run(it, lost.ref, held[0])
        leaves = await it.leaves()
        handed = await bootstrap.erasure_care_of(it.runtime).hand_over(file_of(first))
    assert first == second
    assert leaves == [bytes.fromhex(lost.leaf or ""), bytes.fromhex(second.leaf or "")]
    assert handed.is_handed_over


async def test_a_saga_of_an_earlier_build_is_read_as_it_was(tmp_path: Path) -> None:
    """Its receipt lies whole in the topic, and is given as it is until it is handed over."""
    async with home(tmp_path) as it:
        done = await erased(it)
        receipt, leaf = (done.receipt or b"").decode(), done.leaf
        ref = SubjectRef(it.runtime.ids.token())
        rows = await it.rows(REQUESTS)
        old = [
            NewRecord(row.partition, row.key, msgspec.json.encode(_as_before(note, receipt, ref)))
            for row, note in zip(rows, await notes(it), strict=True)
        ]
        await it.runtime.log.append(REQUESTS, old)
        (found,) = await it.erasure().erase((ref,))
        care = bootstrap.erasure_care_of(it.runtime)
        (status,) = await care.status((ref,))
        said = await care.finalise()
        (bounded,) = await care.status((ref,))
    assert (said, bounded.state, bounded.epoch) == (0, "completed", 1)
    assert (found.receipt, found.leaf, found.is_handed_over) == (done.receipt, leaf, False)
    assert (status.state, status.epoch) == ("completed", None)


def _as_before(note: dict[str, object], receipt: str, ref: SubjectRef) -> dict[str, object]:
    """Return a note as an earlier build wrote it, of another reference."""
    kept = {name: value for name, value in note.items() if name not in {"held", "salt", "epoch"}}
    kept["ref"] = ref.hex()
    return {**kept, "receipt": receipt} if note["step"] == "receipt" else kept
