"""The erasure of a category, a purpose or a profile field: that goes for ever, and nothing else."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from msgspec import structs

from privacy_ledger import bootstrap
from privacy_ledger.app._scopes import ScopeKind
from privacy_ledger.app.ingest import Source
from privacy_ledger.app.scope_erasure import ScopeErasure
from privacy_ledger.bootstrap import dead_letters_of
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.events import (
    DeviceObserved,
    ProfileFieldCleared,
    ProfileFieldSet,
    UsagePageViewed,
    event_type,
)
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.ports.keys import DataKey, Shredded
from privacy_ledger.ports.log import EventLog, NewRecord, header
from privacy_ledger.streams import subject_view
from privacy_ledger.streams.analytics import CourseViews, WindowPart
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import (
    COURSE,
    RECENT,
    Said,
    TestHome,
    home,
    line,
    parse,
    played,
    registered,
    unwaiting,
    videos_of,
    viewed,
)
from tests.unit.test_holds import Stopped

ADA = "openedx:username:ada"
CONSENT = "improve.analyse"


class Ended(Exception):
    """The process ends here."""


class Between:
    """A log beside which somebody collects a line, when the keys are retired and before the request."""

    def __init__(self, it: TestHome, late: bytes) -> None:
        """Take the home, and the line."""
        self._it = it
        self._late = [late]

    def runtime(self) -> bootstrap.Runtime:
        """Return the home with this log."""
        parts = structs.replace(self._it.runtime.parts, log=cast("EventLog", self))
        return structs.replace(self._it.runtime, log=cast("EventLog", self), parts=parts)

    def __getattr__(self, name: str) -> object:
        """Return what the log itself does."""
        return getattr(self._it.runtime.log, name)

    async def append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        """Append; after the note of the retired keys comes the line."""
        offsets = await self._it.runtime.log.append(topic, records)
        while self._late and any(b'"retired"' in (record.value or b"") for record in records):
            await self._it.take([self._late.pop()])
        return offsets


class Failing(Between):
    """A log with which the process ends when the keys are retired, before the request."""

    def __init__(self, it: TestHome) -> None:
        """Take the home."""
        super().__init__(it, b"")

    async def append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        """Append what is no fact about a person."""
        if topic == LEDGER_EVENTS:
            raise Ended
        return await self._it.runtime.log.append(topic, records)


def said_of_profile(name: str, field: str, value: str | None, *, event: str, after_s: int = 0) -> bytes:
    """Return a line that sets a profile field, or clears it where there is no value."""
    fact: dict[str, str | int] = {"type": event_type(ProfileFieldCleared), "field": field}
    if value is not None:
        fact |= {"type": event_type(ProfileFieldSet), "value": value}
    return line(Said(id=event, people=((name,),), facts=(fact,), at=RECENT + timedelta(seconds=after_s)))


LINES = [
    registered("7", "ada", event="r1", email="ada@example.com"),
    said_of_profile("7", "bio", "sailor of seven seas", event="f1"),
    said_of_profile("7", "bio", "sailor of eight seas", event="f2", after_s=1),
    said_of_profile("7", "goals", "to see the north", event="f3", after_s=2),
    *(played("7", event=f"a{n}") for n in range(3)),
    viewed("7", event="v1"),
    viewed("7", event="v2"),
    played("8", event="b1"),
]


def scopes(it: TestHome) -> ScopeErasure:
    """Return the use case."""
    return bootstrap.scope_erasure_of(it.runtime, wait_s=5.0)


async def begin(it: TestHome) -> None:
    """Ask for the erasure of Ada's video events, and end as soon as the request is durable."""

    def end(_ref: SubjectRef, step: str) -> None:
        if step == "requested":
            raise Ended

    with pytest.raises(Ended):
        await scopes(it).erase_scope(it.subjects.scopes(ADA, "category", "patterns"), on_step=end)


async def keys_of(it: TestHome, name: str, **wanted: str) -> list[bytes]:
    """Return the ids of the keys that seal somebody's records whose headers say this."""
    return [
        (row.value or b"")[1:33]
        for row in await it.rows()
        if row.key[:16] == it.ref(name)
        and header(row.headers, "kid") is not None
        and all(header(row.headers, key.replace("_", "-")) == value.encode() for key, value in wanted.items())
    ]


async def profile_of(it: TestHome, name: str) -> dict[str, str | None]:
    """Return the profile that the view shows."""
    state = await it.runtime.views.get(subject_view.TABLE, it.ref(name))
    merged = None if state is None else subject_view.merge(state)
    return {} if merged is None else {field: stamped.value for field, stamped in merged.profile.items()}


async def test_a_category_goes_with_its_keys_and_nothing_else_does(tmp_path: Path) -> None:
    """Views and index forget it; what is collected in it later stays; an old file brings nothing back."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(CONSENT,))
        gone = await keys_of(it, "7", category="patterns")
        kept = await keys_of(it, "7", category="account")
        (done,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "category", "patterns"))
        opened = it.runtime.vault.open_keys([*gone, *kept])
        assert all(isinstance(opened[kid], Shredded) for kid in gone)
        assert all(isinstance(opened[kid], DataKey) for kid in kept)
        assert await videos_of(it, "7") == []
        assert {row.category for row in await it.runtime.views.live(it.ref("7"))} == {
            "account", "profile", "usage", "evidence",
        }  # fmt: skip
        assert await videos_of(it, "8") == ["v1"]
        again = await it.take(LINES)
        later = await it.take([played("7", event="new", at=it.runtime.clock.now(), video="v9")])
        assert again.reasons.get("scope_erased") == 3
        assert later.accepted == 1
        assert await videos_of(it, "7") == ["v9"]
    assert done.is_completed
    assert done.receipt is not None
    receipt = json.loads(done.receipt)
    assert (receipt["scope"], receipt["records"]) == ("category:patterns", {"patterns": 3})
    assert {store["store"]: (store["outcome"], store["count"]) for store in receipt["stores"]} == {
        "ledger": ("erased", 3), "keystore": ("erased", 1), "state core": ("erased", None),
        "state analytics": ("erased", None),
    }  # fmt: skip


async def test_a_second_erasure_of_a_category_takes_what_came_since(tmp_path: Path) -> None:
    """Each has a receipt of its own."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        (first,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "category", "patterns"))
        await it.take([played("7", event="new", at=it.runtime.clock.now())])
        (second,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "category", "patterns"))
        assert await videos_of(it, "7") == []
        assert len(await it.leaves()) == 2
    assert first.request != second.request
    assert first.leaf != second.leaf


async def test_a_field_goes_with_all_its_history(tmp_path: Path) -> None:
    """Other fields stay; a late or repeated value of before is refused; a new one is welcome."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        (done,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "field", "bio"))
        assert await profile_of(it, "7") == {"goals": "to see the north"}
        late = said_of_profile("7", "bio", "sailor of no sea", event="late")
        again = await it.take([*LINES, late])
        assert again.reasons["scope_erased"] == 3
        new = line(Said(
            id="n1", people=(("7",),), at=it.runtime.clock.now(),
            facts=({"type": event_type(ProfileFieldSet), "field": "bio", "value": "ashore"},),
        ))  # fmt: skip
        assert (await it.take([new])).accepted == 1
        assert await profile_of(it, "7") == {"bio": "ashore", "goals": "to see the north"}
    assert done.is_completed
    assert done.receipt is not None
    assert b"bio" not in done.receipt
    assert json.loads(done.receipt)["records"] == {"profile": 2}


async def test_clearing_a_field_erases_what_it_ever_held(tmp_path: Path) -> None:
    """As a platform service reports it: the keys of all earlier values are destroyed (policy P4)."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ref = it.ref("7")
        held = {row.key: (row.value or b"")[1:33] for row in await it.rows() if header(row.headers, "field")}
        assert len(held) == 3
        await it.take([said_of_profile("7", "bio", None, event="c1", after_s=60)])
        assert await profile_of(it, "7") == {"goals": "to see the north"}
        opened = it.runtime.vault.open_keys(list(held.values()))
        assert sorted(type(key).__name__ for key in opened.values()) == ["DataKey", "Shredded", "Shredded"]
        again = await it.take([*LINES, said_of_profile("7", "bio", None, event="c1", after_s=60)])
        assert (again.accepted, again.reasons["scope_erased"]) == (0, 2)
        live = await it.runtime.views.live(ref)
        assert sum(row.category == "profile" for row in live) == 2  # the goals, and that bio was cleared


async def test_a_purpose_goes_with_what_it_alone_allowed(tmp_path: Path) -> None:
    """Its keys too; nothing that occurred before is used for it again, also after a new consent."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(CONSENT,))
        gone = await keys_of(it, "7", category="usage")
        assert len(set(gone)) == 1
        (done,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "purpose", CONSENT))
        assert isinstance(it.runtime.vault.open_keys(gone)[gone[0]], Shredded)
        assert not any(row.category == "usage" for row in await it.runtime.views.live(it.ref("7")))
        again = await it.take(LINES)
        assert again.reasons["scope_erased"] == 2
    assert done.is_completed
    assert done.receipt is not None
    assert json.loads(done.receipt)["records"] == {"usage": 2}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("category", "evidence"),
        ("category", "shoes"),
        ("category", "billing"),
        ("purpose", "rights.fulfil"),
        ("purpose", "tax.comply"),
    ],
)
async def test_what_is_not_erased_apart_is_refused(tmp_path: Path, kind: ScopeKind, value: str) -> None:
    """Nothing is written."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        count = len(await it.rows())
        with pytest.raises(RefusedByPolicy):
            await scopes(it).erase_scope(it.subjects.scopes(ADA, kind, value))
        assert len(await it.rows()) == count


async def test_a_scope_under_restriction_goes_at_once(tmp_path: Path) -> None:
    """And the lift brings back the rest alone."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        await it.subjects.restrict(ADA, ground="accuracy")
        await it.take([played("7", event="held", video="v7")])
        (done,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "field", "bio"))
        assert done.is_completed
        await it.subjects.lift(ADA, notified_at=it.runtime.clock.now())
        await it.runtime.passes.settle()
        assert await videos_of(it, "7") == ["v1", "v7"]
        assert await profile_of(it, "7") == {"goals": "to see the north"}


async def test_a_person_who_is_erased_meanwhile_ends_the_smaller_erasure(tmp_path: Path) -> None:
    """It is complete, and changes nothing any more."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        refs = it.subjects.find(ADA).refs
        await begin(it)
        await it.erasure().erase(refs)
        (done,) = await scopes(it).resume()
        permissions = await it.runtime.views.get(PERMISSIONS, refs[0])
    assert done.is_completed
    assert permissions is not None
    assert permissions.is_ended


async def test_what_is_collected_while_the_keys_are_retired_goes_and_what_comes_after_stays(
    tmp_path: Path,
) -> None:
    """It shares a key with what is collected after the request: that key stays, and so does the record."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        log = Between(it, played("7", event="between", at=it.runtime.clock.now(), video="v5"))
        use_case = bootstrap.scope_erasure_of(log.runtime(), wait_s=5.0)
        (done,) = await use_case.erase_scope(it.subjects.scopes(ADA, "category", "patterns"))
        assert done.is_completed
        await it.take([played("7", event="after", at=it.runtime.clock.now(), video="v9")])
        assert await videos_of(it, "7") == ["v9"]
        assert b"their key stays" in (done.receipt or b"")


async def test_keys_are_asked_for_anew_where_the_request_was_not_made(tmp_path: Path) -> None:
    """What was collected since the process ended goes with its keys, too."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        use_case = bootstrap.scope_erasure_of(Failing(it).runtime(), wait_s=5.0)
        with pytest.raises(Ended):
            await use_case.erase_scope(it.subjects.scopes(ADA, "category", "patterns"))
        await it.take([played("7", event="since", at=it.runtime.clock.now(), video="v5")])
        (kid,) = set(await keys_of(it, "7", category="patterns", gen="1"))
        (done,) = await scopes(it).resume()
        assert done.is_completed
        assert isinstance(it.runtime.vault.open_keys([kid])[kid], Shredded)
        assert await videos_of(it, "7") == []


async def test_a_purpose_that_shares_its_keys_is_used_no_more(tmp_path: Path) -> None:
    """What served it alone is removed; what serves another purpose, too, stays for that."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        (done,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "purpose", "course.deliver"))
        rows = await it.runtime.views.live(it.ref("7"))
        assert done.is_completed
        assert await videos_of(it, "7") == []
        assert {row.category for row in rows} == {"account", "profile", "patterns"}
        assert not any("course.deliver" in row.purposes for row in rows)
    assert json.loads(done.receipt or b"")["records"] == {}


async def test_what_is_collected_after_a_minor_was_declared_keeps_its_key(tmp_path: Path) -> None:
    """What only consent allowed goes with its keys; what came since, under an approval, has others."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(CONSENT,))
        before = set(await keys_of(it, "7", category="usage"))
        await it.subjects.minor(ADA, is_minor=True)
        await it.subjects.minor(ADA, is_minor=True, is_approved=True)
        late = line(Said(
            id="late", people=(("7",),), at=it.runtime.clock.now(),
            facts=({"type": event_type(UsagePageViewed), "course": COURSE},),
        ))  # fmt: skip
        await it.take([late])
        after = set(await keys_of(it, "7", category="usage")) - before
        opened = it.runtime.vault.open_keys([*before, *after])
        assert [type(opened[kid]) for kid in before] == [Shredded]
        assert [type(opened[kid]) for kid in after] == [DataKey]
        assert sum(row.category == "usage" for row in await it.runtime.views.live(it.ref("7"))) == 1


async def test_a_hold_keeps_the_keys_of_a_scope_until_it_is_lifted(tmp_path: Path) -> None:
    """Also where nobody has folded the hold yet; it rests without an alarm, and goes on by itself."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        gone = await keys_of(it, "7", category="patterns")
        hold, _ = await it.subjects.place_hold(
            ADA, category=Category.PATTERNS, ground="legal_claims", until=None
        )
        still = structs.replace(it.runtime, passes=Stopped(it.runtime.passes))
        wanted = it.subjects.scopes(ADA, "category", "patterns")
        (waits,) = await bootstrap.scope_erasure_of(still, wait_s=1.0).erase_scope(wanted)
        (held,) = await scopes(it).resume()
        care = bootstrap.erasure_care_of(it.runtime)
        assert (await care.tend()).still_open == 0
        (resting,) = await care.status((it.ref("7"),))
        assert not waits.is_done
        assert not held.is_completed
        assert held.is_done
        assert [(one.category, one.records, one.ground) for one in held.retained] == [
            ("patterns", 3, "legal_claims")
        ]
        assert (resting.state, resting.is_overdue) == ("retained", False)
        assert all(isinstance(key, DataKey) for key in it.runtime.vault.open_keys(gone).values())
        assert (
            len([row for row in await it.runtime.views.live(it.ref("7")) if row.category == "patterns"]) == 3
        )
        await it.runtime.passes.settle(await it.subjects.lift_hold(ADA, hold))
        assert (await care.tend()).still_open == 0
        (done,) = await care.status((it.ref("7"),))
        again = await it.take(LINES)
        assert (done.state, done.retained) == ("completed", ())
        assert all(isinstance(key, Shredded) for key in it.runtime.vault.open_keys(gone).values())
        assert again.reasons["scope_erased"] == 3
        assert len(await it.leaves()) == 2
    first = json.loads(held.receipt or b"{}")
    assert first["completed_at"] is None
    assert {(one["store"], one["outcome"]) for one in first["stores"]} >= {("ledger, held", "retained")}


async def test_a_hold_on_another_category_does_not_keep_a_scope(tmp_path: Path) -> None:
    """Nor does it keep of a purpose more than what is held."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(CONSENT,))
        await it.subjects.place_hold(ADA, category=Category.USAGE, ground="legal_claims", until=None)
        await it.runtime.passes.settle()
        (done,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "category", "patterns"))
        (held,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "purpose", CONSENT))
        assert done.is_completed
        assert not held.is_completed
        assert [one.category for one in held.retained] == ["usage"]


async def test_a_scope_waits_for_whoever_is_parked_in_another_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That pass still knows the records: the erasure is incomplete and says where, until it goes on."""
    right = CourseViews.step
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(CONSENT,))
        with monkeypatch.context() as patched:

            def step(self: CourseViews, part: WindowPart | None, record: Record) -> WindowPart:
                if record.occurred_at > RECENT + timedelta(seconds=50):
                    raise ZeroDivisionError
                return right(self, part, record)

            patched.setattr(CourseViews, "step", step)
            await it.take([viewed("7", event="x1", at=RECENT + timedelta(seconds=60))])
            parked = await dead_letters_of(it.runtime).parked()
            assert {one.pass_name for one in parked} == {"analytics"}
            wanted = it.subjects.scopes(ADA, "category", "patterns")
            (waits,) = await bootstrap.scope_erasure_of(it.runtime, wait_s=1.0).erase_scope(wanted)
        assert not waits.is_done
        assert "state analytics: unreachable" in waits.open_steps
        assert "derived" in waits.open_steps
        await dead_letters_of(it.runtime).redrive(parked)
        (done,) = await scopes(it).resume()
        assert done.is_completed
        indexes = await bootstrap.stores_of(it.runtime).indexes()
        rows = [row for index in indexes for row in await index.rows(it.ref("7"))]
        assert not any(row.category == "patterns" for row in rows)


async def test_a_record_that_no_view_knows_yet_is_fenced_too(tmp_path: Path) -> None:
    """A producer's clock runs ahead, and the views lag: its line brings nothing back after the erasure."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ahead = played("7", event="ahead", at=it.runtime.clock.now() + timedelta(minutes=2), video="v5")
        unsettled = await unwaiting(it.runtime)
        summary = await unsettled.run(
            [(1, ahead)], Source(name="test", parse=parse, is_authoritative=True)
        )  # fmt: skip
        assert summary.accepted == 1
        (done,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "category", "patterns"))
        assert done.is_completed
        again = await it.take([ahead])
        assert again.reasons == {"scope_erased": 1}


async def test_a_purpose_is_final_when_nothing_of_it_opens(tmp_path: Path) -> None:
    """A record that served another purpose, too, shares its key: its bytes are waited for."""
    async with home(tmp_path) as it:
        seen = line(Said(
            id="d1", people=(("7",),), at=RECENT,
            facts=({"type": event_type(DeviceObserved), "browser": "Firefox"},),
        ))  # fmt: skip
        await it.take([*LINES, seen], consents=(CONSENT,))
        await it.runtime.passes.settle(await it.subjects.object_to(ADA, "security.protect"))
        (done,) = await scopes(it).erase_scope(it.subjects.scopes(ADA, "purpose", CONSENT))
        stores = {one["store"]: one["count"] for one in json.loads(done.receipt or b"{}")["stores"]}
        assert done.is_completed
        assert stores["ledger, sealed with records that stay"] == 1
        bootstrap.care_of(it.runtime.keystore, it.runtime.clock).roll(is_final=True)
        care = bootstrap.erasure_care_of(it.runtime)
        assert await care.finalise() == 0
        assert it.runtime.local is not None
        await it.runtime.local.compact()
        assert await care.finalise() == 1


async def test_resuming_persons_leaves_smaller_erasures_alone_and_care_takes_both(tmp_path: Path) -> None:
    """The care of erasures goes on with each."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ref = it.ref("7")
        await begin(it)
        assert await it.erasure().resume() == ()
        care = bootstrap.erasure_care_of(it.runtime)
        (done,) = await care.resume()
        assert await care.resume() == ()
        (status,) = await care.status((ref,))
    assert done.is_completed
    assert (status.scope, status.state) == ("category:patterns", "completed")
    assert COURSE.encode() not in (done.receipt or b"")
