"""Rectification (GDPR Art. 16): the wrong value is readable nowhere, and all else is as it was."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from msgspec import structs

from privacy_ledger import bootstrap
from privacy_ledger.app.rectification import Corrected, Correction, Rectification
from privacy_ledger.domain.errors import BadInput, Fenced, RefusedByPolicy
from privacy_ledger.domain.events import AccountUpdated, CourseGraded, Fact, event_type
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import Category
from privacy_ledger.ports.keys import Shredded
from privacy_ledger.ports.log import EventLog, NewRecord, Row, header
from privacy_ledger.streams import subject_view
from tests.unit.home import COURSE, RECENT, Said, TestHome, home, line, paid, played, registered, videos_of
from tests.unit.test_scope_erasure import profile_of, said_of_profile

ADA = "openedx:username:ada"
WRONG = "ada.wrong@example.com"
RIGHT = "ada@example.com"


def updated(whose: str, *, event: str, after_s: int, **members: str) -> bytes:
    """Return a line that says that account details changed."""
    fact: dict[str, str | int] = {"type": event_type(AccountUpdated), **members}
    return line(Said(id=event, people=((whose,),), facts=(fact,), at=RECENT + timedelta(seconds=after_s)))


def graded(name: str, letter: str, *, event: str) -> bytes:
    """Return a line that says that somebody was graded."""
    fact: dict[str, str | int] = {"type": event_type(CourseGraded), "course": COURSE, "letter": letter}
    return line(Said(id=event, people=((name,),), facts=(fact,)))


LINES = [
    registered("7", "ada", event="r1", email=WRONG),
    updated("7", event="u1", after_s=1, name="Ada Example", email=WRONG),
    updated("7", event="u2", after_s=2, name="Ada Lovelace Example"),
    said_of_profile("7", "bio", "sailor of seven seas", event="f1"),
    graded("7", "F", event="g1"),
    graded("7", "D", event="g2"),
    *(played("7", event=f"a{n}") for n in range(3)),
    registered("8", "bob", event="r2", email="bob@example.com"),
    played("8", event="b1"),
]


class Meanwhile:
    """A log beside which somebody else collects a line, once the records to correct were read."""

    def __init__(self, it: TestHome, late: bytes) -> None:
        """Take the home, and the line."""
        self._it = it
        self._late = [late]

    def runtime(self) -> bootstrap.Runtime:
        """Return the home with this log."""
        return structs.replace(self._it.runtime, log=cast("EventLog", self))

    def __getattr__(self, name: str) -> object:
        """Return what the log itself does."""
        return getattr(self._it.runtime.log, name)

    async def read_at(self, topic: str, partition: int, offsets: Sequence[int]) -> tuple[Row, ...]:
        """Read, and then let the line come."""
        found = await self._it.runtime.log.read_at(topic, partition, offsets)
        while self._late:
            await self._it.take([self._late.pop()])
        return found


class Overtaken(Meanwhile):
    """A log on which somebody else corrects the name first, and fences who was about to write."""

    def __init__(self, it: TestHome) -> None:
        """Take the home."""
        super().__init__(it, b"")
        self._late = []
        self._is_overtaken = False

    async def supersede(self, writes: Sequence[tuple[str, NewRecord]], *, writer: str) -> None:
        """Append, but the first time."""
        if not self._is_overtaken:
            self._is_overtaken = True
            await correct(self._it, "account.name", "Ada E.")
            raise Fenced("A newer owner of this writer exists.")
        await self._it.runtime.log.supersede(writes, writer=writer)


async def correct(
    it: TestHome, what: str, value: str | None, *, record: bytes | None = None
) -> tuple[Corrected, Rectification]:
    """Correct something of Ada's, and let the passes fold it."""
    category, _, member = what.partition(".")
    use_case = await bootstrap.rectification_of(it.runtime)
    correction = Correction(category=Category(category), member=member, value=value, record=record)
    done = await use_case.rectify(it.subjects.find(ADA).refs, correction)
    await it.runtime.passes.settle()
    return done, use_case


async def account_of(it: TestHome, name: str) -> dict[str, str | None]:
    """Return the account details that the view shows."""
    state = await it.runtime.views.get(subject_view.TABLE, it.ref(name))
    assert state is not None
    return {field: stamped.value for field, stamped in subject_view.merge(state).account.items()}


async def readable(it: TestHome, name: str) -> list[Fact]:
    """Return every fact of somebody that any record in the log, tombstoned or not, still opens as."""
    rows = [row for row in await it.rows() if row.key[:16] == it.ref(name) and row.value is not None]
    return [record.body for record in it.runtime.codec.decode(rows) if isinstance(record.body, Fact)]


async def test_the_wrong_value_is_readable_nowhere_and_the_rest_stays(tmp_path: Path) -> None:
    """What else the records say is stated again in its place: the last name still wins."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        before = await account_of(it, "7")
        others = await it.export("8")
        held = [(row.value or b"")[1:33] for row in await it.rows() if row.key[:16] == it.ref("7")]
        done, use_case = await correct(it, "account.email", RIGHT)
        assert use_case.open_keys(done) == ()
        assert await use_case.lost(done) == 0
        assert await account_of(it, "7") == {**before, "email": RIGHT}
        facts = await readable(it, "7")
        assert not any(getattr(fact, "email", None) == WRONG for fact in facts)
        assert sum(getattr(fact, "name", None) == "Ada Example" for fact in facts) == 1
        opened = it.runtime.vault.open_keys(held)
        assert sum(isinstance(key, Shredded) for key in opened.values()) == 2
        assert {p: f for p, f in (await it.export("8")).items() if p != "manifest.json"} == {
            p: f for p, f in others.items() if p != "manifest.json"
        }
        assert WRONG.encode() not in b"".join((await it.export("7")).values())
    assert (done.restated, len(done.kids)) == (2, 2)


async def test_a_late_copy_of_the_wrong_value_changes_nothing(tmp_path: Path) -> None:
    """The restated record has its tag: the same file brings nothing back, from an exact or a blind edge."""
    async with home(tmp_path, is_exact=False) as it:
        await it.take(LINES)
        await correct(it, "account.email", RIGHT)
        account = await account_of(it, "7")
        await it.take(LINES)
        assert await account_of(it, "7") == account
        assert not any(getattr(fact, "email", None) == WRONG for fact in await readable(it, "7"))


async def test_the_export_says_what_was_and_from_whom(tmp_path: Path) -> None:
    """A restated record has the producer's id, source and times; the correction is the ledger's own."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        first = {one["id"]: one for one in json.loads((await it.export("7"))["account.json"])}
        await correct(it, "account.email", RIGHT)
        again = {one["id"]: one for one in json.loads((await it.export("7"))["account.json"])}
    same = ("type", "occurred_at", "received_at", "source", "purposes", "basis", "notice")
    assert [again["r1"][name] for name in same] == [first["r1"][name] for name in same]
    assert first["r1"]["record"] != again["r1"]["record"]
    assert "email" not in again["r1"]["fact"] or again["r1"]["fact"]["email"] is None
    (own,) = [one for name, one in again.items() if name not in first]
    assert (own["source"], own["fact"]["email"]) == ("privacy-ledger", RIGHT)


async def test_one_record_of_many_under_one_key_is_corrected(tmp_path: Path) -> None:
    """What shares its key is stated again unchanged, and the key of all is destroyed."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        rows = [row for row in await it.rows() if header(row.headers, "category") == b"coursework"]
        (first,) = {(row.value or b"")[1:33] for row in rows}
        done, use_case = await correct(it, "coursework.letter", "B", record=rows[0].key[16:])
        facts = [fact for fact in await readable(it, "7") if isinstance(fact, CourseGraded)]
        assert sorted(fact.letter or "" for fact in facts) == ["B", "D"]
        assert isinstance(it.runtime.vault.open_keys([first])[first], Shredded)
        assert use_case.open_keys(done) == ()
        assert await videos_of(it, "7") == ["v1"]
    assert done.restated == 2


async def test_a_profile_field_gets_its_right_value(tmp_path: Path) -> None:
    """And cleared, it has none; every earlier value goes."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        done, use_case = await correct(it, "profile.bio", "sailor of one lake")
        assert await profile_of(it, "7") == {"bio": "sailor of one lake"}
        assert use_case.open_keys(done) == ()
        done, use_case = await correct(it, "profile.bio", None)
        assert await profile_of(it, "7") == {}
        assert use_case.open_keys(done) == ()


async def test_a_late_value_from_before_the_correction_is_refused(tmp_path: Path) -> None:
    """What occurred up to the correction does not come back, however new it is to the ledger."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        await correct(it, "profile.bio", "sailor of one lake")
        late = await it.take([said_of_profile("7", "bio", "sailor of no sea", event="late", after_s=600)])
        assert late.reasons == {"scope_erased": 1}
        assert await profile_of(it, "7") == {"bio": "sailor of one lake"}


async def test_under_restriction_a_correction_acts_at_once(tmp_path: Path) -> None:
    """What the records said before the restriction stays in the view; the new value waits for the lift."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        before = await account_of(it, "7")
        await it.subjects.restrict(ADA, ground="accuracy")
        await it.take([played("7", event="held", video="v7")])
        done, use_case = await correct(it, "account.email", RIGHT)
        assert use_case.open_keys(done) == ()
        assert await account_of(it, "7") == {k: v for k, v in before.items() if k != "email"}
        await it.subjects.lift(ADA, notified_at=it.runtime.clock.now())
        await it.runtime.passes.settle()
        assert await account_of(it, "7") == {**before, "email": RIGHT}
        assert await videos_of(it, "7") == ["v1", "v7"]


def _written(done: Corrected) -> frozenset[bytes]:
    """Return the keys of the records that a correction wrote."""
    return frozenset(ref + record_id for ref, record_id in done.written)


async def test_what_came_under_the_old_key_meanwhile_is_stated_again(tmp_path: Path) -> None:
    """It would keep the key of the wrong value alive: the record stays, and the key goes."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        rows = [row for row in await it.rows() if header(row.headers, "category") == b"coursework"]
        late = Meanwhile(it, graded("7", "C", event="late"))
        use_case = await bootstrap.rectification_of(late.runtime())
        correction = Correction(
            category=Category.COURSEWORK, member="letter", value="B", record=rows[0].key[16:]
        )
        refs = it.subjects.find(ADA).refs
        done = await use_case.rectify(refs, correction)
        await it.runtime.passes.settle()
        assert (done.restated, use_case.open_keys(done)) == (3, ())
        (kid,) = {row.value[1:33] for row in await it.rows() if row.value and row.key in _written(done)}
        done = await use_case.follow(refs, correction, structs.replace(done, kids=(kid,)))
        await it.runtime.passes.settle()
        assert (done.restated, use_case.open_keys(done)) == (6, ())
        facts = [fact for fact in await readable(it, "7") if isinstance(fact, CourseGraded)]
        assert sorted(fact.letter or "" for fact in facts) == ["B", "C", "D"]


async def test_what_a_hold_or_a_law_keeps_is_not_corrected(tmp_path: Path) -> None:
    """It is refused, nothing is written, and the export still tells the value."""
    async with home(tmp_path) as it:
        await it.take([*LINES, paid("7", event="p1")])
        hold, _ = await it.subjects.place_hold(
            ADA, category=Category.ACCOUNT, ground="legal_claims", until=None
        )
        await it.runtime.passes.settle()
        (payment,) = [row for row in await it.rows() if header(row.headers, "category") == b"billing"]
        count = len(await it.rows(LEDGER_EVENTS))
        with pytest.raises(RefusedByPolicy):
            await correct(it, "account.email", RIGHT)
        with pytest.raises(RefusedByPolicy):
            await correct(it, "billing.currency", "USD", record=payment.key[16:])
        assert len(await it.rows(LEDGER_EVENTS)) == count
        await it.runtime.passes.settle(await it.subjects.lift_hold(ADA, hold))
        await correct(it, "account.email", RIGHT)
        assert (await account_of(it, "7"))["email"] == RIGHT
        assert b"pay_" in (await it.export("7"))["billing.json"]


async def test_an_export_keeps_an_original_of_which_nothing_was_stated_again(tmp_path: Path) -> None:
    """A correction that races a hold has no effect: what is kept is exported."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        use_case = await bootstrap.rectification_of(it.runtime)
        refs = it.subjects.find(ADA).refs
        await it.subjects.place_hold(ADA, category=Category.ACCOUNT, ground="legal_claims", until=None)
        correction = Correction(category=Category.ACCOUNT, member="email", value=RIGHT)
        done = await use_case.rectify(refs, correction)  # nobody has folded the hold yet
        await it.runtime.passes.settle()
        exported = json.loads((await it.export("7"))["account.json"])
        assert await use_case.lost(done) == 2
        assert sum(one["fact"].get("email") == WRONG for one in exported) == 2


@pytest.mark.parametrize(
    ("what", "value", "is_record"),
    [
        ("account.username", None, False),
        ("evidence.purpose", "improve.analyse", True),
        ("coursework.score", "much", True),
        ("coursework.shoe", "1", True),
        ("coursework.occurred_at", "2026-01-01T00:00:00Z", True),
        ("coursework.course", None, True),
    ],
)
async def test_what_cannot_be_corrected_is_refused_and_nothing_is_written(
    tmp_path: Path, what: str, value: str | None, *, is_record: bool
) -> None:
    """Nothing there, evidence, a value of another type, no such member, when it was, a needed member."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        rows = [row for row in await it.rows() if header(row.headers, "category") == b"coursework"]
        count = len(await it.rows(LEDGER_EVENTS))
        with pytest.raises(BadInput) as refused:
            await correct(it, what, value, record=rows[0].key[16:] if is_record else None)
        assert len(await it.rows(LEDGER_EVENTS)) == count
    assert value is None or value not in str(refused.value)


async def test_two_who_correct_the_same_record_at_once_are_told(tmp_path: Path) -> None:
    """The second one's records are copies of the first one's: they are refused, and said to be lost."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        refs = it.subjects.find(ADA).refs
        use_case = await bootstrap.rectification_of(it.runtime)
        corrections = [
            Correction(category=Category.ACCOUNT, member=member, value=value)
            for member, value in (("email", RIGHT), ("name", "Ada E."))
        ]
        done = [await use_case.rectify(refs, one) for one in corrections]
        await it.runtime.passes.settle()
        assert [await use_case.lost(one) for one in done] == [0, 2]
        await correct(it, "account.name", "Ada E.")
        assert (await account_of(it, "7"))["name"] == "Ada E."
        assert (await account_of(it, "7"))["email"] == RIGHT
        assert not any(getattr(fact, "email", None) == WRONG for fact in await readable(it, "7"))


async def test_a_correction_that_was_fenced_starts_from_what_the_other_one_wrote(tmp_path: Path) -> None:
    """Nothing of either is lost, and nothing needs to be asked for again."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        use_case = await bootstrap.rectification_of(Overtaken(it).runtime())
        correction = Correction(category=Category.ACCOUNT, member="email", value=RIGHT)
        done = await use_case.rectify(it.subjects.find(ADA).refs, correction)
        await it.runtime.passes.settle()
        assert await use_case.lost(done) == 0
        account = await account_of(it, "7")
        assert (account["name"], account["email"]) == ("Ada E.", RIGHT)
        assert not any(getattr(fact, "email", None) == WRONG for fact in await readable(it, "7"))
