"""The erasure of a category, a purpose or a profile field: that goes for ever, and nothing else."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from privacy_ledger import bootstrap
from privacy_ledger.app._scopes import ScopeKind
from privacy_ledger.app.scope_erasure import ScopeErasure
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.events import ProfileFieldCleared, ProfileFieldSet, event_type
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, Shredded
from privacy_ledger.ports.log import header
from privacy_ledger.streams import subject_view
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import COURSE, RECENT, Said, TestHome, home, line, played, registered, videos_of, viewed

ADA = "openedx:username:ada"
CONSENT = "improve.analyse"


class Ended(Exception):
    """The process ends here."""


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
        "ledger": ("erased", 3), "keystore": ("erased", 1),
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
    ("kind", "value"), [("category", "evidence"), ("category", "shoes"), ("purpose", "rights.fulfil")]
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
