"""Who gets which keys in a home that runs, and what is left of it in the audit log."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger import bootstrap
from privacy_ledger._passes import grant_of
from privacy_ledger.adapters.books import NOTHING as NO_RULES
from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.adapters.state_codec import PassStateCodec
from privacy_ledger.app.key_releases import KeyReleases
from privacy_ledger.domain.errors import KeyWithheld
from privacy_ledger.domain.events import COLLECTION_EVENTS, Fact
from privacy_ledger.domain.key_release import DECLARED, ERASE, Caller, Kind, Releases, Role, class_of
from privacy_ledger.domain.merkle import leaf_hash
from privacy_ledger.domain.permissions import PERMISSION_FACTS, Permissions, apply_fact
from privacy_ledger.domain.values import Category
from privacy_ledger.engine.declaration import version_pass
from privacy_ledger.engine.rebuild import Rebuild
from privacy_ledger.ports.keeping import ReleaseOutcome
from privacy_ledger.streams import progress
from privacy_ledger.streams.record import Withheld
from tests.unit.home import RECENT, TestHome, home, played, registered, viewed

EVERY_GROUP = (
    *map(str, Category),
    *(f"{category}+improve.analyse" for category in Category),
    "index", "lane", "window", "state:core", "view:progress.v1", "unheard-of",
)  # fmt: skip


async def peopled(it: TestHome) -> None:
    """Let people do something of several categories."""
    lines = [
        registered("7", event="e1", email="ada@example.com"),
        played("7", event="e2"),
        viewed("7", event="e3"),
        played("8", event="e4"),
    ]
    await it.take(lines, consents=("improve.analyse",))


def released(it: TestHome, role: str, purpose: str) -> dict[tuple[str, ReleaseOutcome], int]:
    """Return how many keys a caller was answered for, by category and outcome."""
    return {
        (one.category, one.outcome): one.keys
        for one in it.runtime.keystore.bare.release_figures
        if (one.role, one.purpose) == (role, purpose)
    }


# The table ------------------------------------------------------------------------------------


@given(role=st.sampled_from(Role), purpose=st.text(), group=st.sampled_from(EVERY_GROUP) | st.text())
def test_what_is_not_declared_is_not_released(role: Role, purpose: str, group: str) -> None:
    """A role that declares a purpose of its own making gets nothing, whatever it asks for."""
    caller = Caller(role, purpose)
    assert caller in DECLARED or not Releases().grant(caller).covers(group)


@given(group=st.text(alphabet="abcdefghijklmnopqrstuvwxyz+:.", max_size=20))
def test_a_group_is_of_a_class_only_by_its_whole_name(group: str) -> None:
    """No name that begins or ends like one is taken for it."""
    found = class_of(group)
    if found is None:
        assert group not in {*map(str, Category), *(set(Kind) - {Kind.STATE, Kind.VIEW})}
    elif isinstance(found, Category):
        assert group.split("+", 1)[0] == found
    else:
        assert group.split(":", 1)[0] == found


def test_every_fact_that_changes_permissions_is_one_that_every_pass_can_read() -> None:
    """Facts of any other type leave permissions as they are."""
    readable = {kind.category for kind in PERMISSION_FACTS}
    for kind in COLLECTION_EVENTS:
        fact = made(kind)
        changes = any(
            apply_fact(before, fact) != before
            for before in (Permissions(), Permissions(grants={"p": RECENT}))
        )
        assert (kind in PERMISSION_FACTS) >= changes
        if changes:
            assert kind.category in readable


def made(kind: type[Fact]) -> Fact:
    """Return a fact of a type, all of whose values are made up."""
    samples: dict[object, object] = {str: "p", int: 1, bool: True, float: 1.0}
    fields = {
        field.name: samples.get(field.type, RECENT if field.name.endswith("_at") else "p")
        for field in msgspec.structs.fields(kind)
        if field.required
    }
    return kind(**fields)


def test_a_pass_needs_the_categories_of_its_steps() -> None:
    """Page views alone for analytics, coursework for a later progress, and everything for core."""
    declared = bootstrap.declared_passes()
    later = version_pass(declared["core"], "progress", 2)
    assert grant_of(declared["analytics"]).categories == {Category.EVIDENCE, Category.USAGE}
    assert grant_of(later).categories == {Category.EVIDENCE, Category.COURSEWORK, Category.PATTERNS}
    assert grant_of(declared["core"]).categories == frozenset(Category) & {
        kind.category for kind in COLLECTION_EVENTS
    }
    assert [bool(grant_of(one).kinds) for one in (declared["analytics"], later, declared["core"])] == [
        True, False, False,
    ]  # fmt: skip
    assert "view:progress.v1" not in grant_of(later).groups


# A home ---------------------------------------------------------------------------------------


async def test_a_running_pass_is_given_what_its_steps_need(tmp_path: Path) -> None:
    """Analytics opens page views and consents; all else is withheld from it, and core opens it."""
    async with home(tmp_path) as it:
        await peopled(it)
        analytics, core = released(it, "worker", "analytics"), released(it, "worker", "core")
    opened = {category for category, outcome in analytics if outcome is ReleaseOutcome.RELEASED}
    withheld = {category for category, outcome in analytics if outcome is ReleaseOutcome.WITHHELD}
    assert (opened, withheld) == ({"evidence", "usage", "state", "view"}, {"account", "patterns"})
    assert {"account", "patterns", "usage", "evidence"} <= {category for category, _ in core}
    assert {outcome for _, outcome in core} == {ReleaseOutcome.RELEASED}


async def test_an_erasure_needs_no_key_but_for_its_receipt(tmp_path: Path) -> None:
    """It sees which keys are there, destroys them, and sees that they are gone."""
    async with home(tmp_path) as it:
        await peopled(it)
        ref = it.ref("7")
        (outcome,) = await it.erasure().erase([ref])
        answers = released(it, "eraser", "erase")
    assert outcome.is_completed
    given = {group for group, answered in answers if answered is ReleaseOutcome.RELEASED}
    assert given == {Kind.RECEIPT}
    assert {group for group, _ in answers} > given


async def test_what_is_withheld_changes_no_state(tmp_path: Path) -> None:
    """A pass folds to the same states with the keys that it needs as with every key there is."""
    async with home(tmp_path) as it:
        await peopled(it)
        await it.subjects.restrict("openedx:user_id:8", ground="claims")
        await it.take([played("8", event="e5"), registered("8", event="e6", email="grace@example.com")])
        await it.subjects.lift("openedx:user_id:8", notified_at=it.runtime.clock.now())
        await it.runtime.passes.settle()
        runtime, declared = it.runtime, it.runtime.declared
        until = {
            partition: (await runtime.views.position("core", partition)).offset
            for partition in range(runtime.partitions)
        }
        for declaration in (declared["analytics"], version_pass(declared["core"], "progress", 2)):
            narrow = bootstrap.rebuild_of(runtime, declaration)
            wide = Rebuild(
                declaration, log=runtime.log, codec=runtime.codec, books=runtime.books, initial=NO_RULES,
                sampling_key=runtime.vault.secret("sampling"),
            )  # fmt: skip
            for rebuild in (narrow, wide):
                await rebuild.run(until, now=runtime.clock.now())
            assert narrow.digests() == wide.digests()


async def test_a_record_that_lies_about_its_category_is_not_taken_for_a_withheld_one(tmp_path: Path) -> None:
    """The key says of which category it is, also where it opens nothing."""
    async with home(tmp_path) as it:
        await peopled(it)
        rows = [row for row in await it.rows() if ("category", b"patterns") in row.headers]
        analytics = it.runtime.keystore.bare.released_to_pass(
            "analytics", grant_of(it.runtime.declared["analytics"])
        )
        decode = LedgerCodec(analytics, partitions=it.runtime.partitions).decode
        lying = [
            msgspec.structs.replace(
                row,
                headers=tuple((n, b"evidence" if n == "category" else v) for n, v in row.headers),
            )
            for row in rows
        ]
        honest, caught = decode(rows), decode(lying)
    assert rows
    assert {type(record.body) for record in honest} == {Withheld}
    assert {getattr(record.body, "reason", "") for record in caught} == {"envelope"}


async def test_a_state_that_is_withheld_is_not_taken_for_an_absent_one(tmp_path: Path) -> None:
    """Who looks at states without a right to them is refused loudly."""
    async with home(tmp_path) as it:
        await peopled(it)
        runtime, ref = it.runtime, it.ref("7")
        core = runtime.declared["core"]
        states = PassStateCodec("core", runtime.released_to(ERASE), publishes=core.publishes)
        rows = await it.rows(states.topic(progress.TABLE))
        held = [(row.key, row.value) for row in rows if row.key == ref]
        assert held
        with pytest.raises(KeyWithheld, match=r"view:progress\.v1"):
            states.open_many(progress.TABLE, held)


def releases_of(it: TestHome) -> KeyReleases:
    """Return the account of a home."""
    return it.runtime.keystore.releases(it.audit(), clock=it.runtime.clock)


# The account ----------------------------------------------------------------------------------


async def test_a_closed_report_has_its_hash_in_the_audit_log_once(tmp_path: Path) -> None:
    """Whoever closes again finds nothing to do, and what was counted since goes into the next one."""
    async with home(tmp_path) as it:
        await peopled(it)
    async with home(tmp_path) as it:
        releases = releases_of(it)
        (first,) = await releases.account()
        again = await releases.account()
        report = await it.audit().verify()
    assert (first.report.number, first.index, again) == (1, 0, ())
    assert first.leaf == leaf_hash(msgspec.json.encode(first.report)).hex()
    assert ("worker", "analytics", "patterns", "withheld") in {
        (one.role, one.purpose, one.category, one.outcome) for one in first.report.counts
    }
    assert (report.leaves, report.faults) == (1, ())


async def test_a_report_whose_leaf_was_not_appended_is_made_up_for(tmp_path: Path) -> None:
    """Ended between the two, the next account appends it."""
    async with home(tmp_path) as it:
        await peopled(it)
    async with home(tmp_path) as it:
        keeper, clock = it.runtime.keystore.keeper, it.runtime.clock
        assert keeper.close_report(now=clock.now()) == 1
        releases = releases_of(it)
        (closed,) = await releases.closed()
        (added,) = await releases.account()
    assert (closed.index, added.index, added.report) == (None, 0, closed.report)


async def test_a_report_tells_of_no_person(tmp_path: Path) -> None:
    """Its bytes hold no reference, no id and no value."""
    async with home(tmp_path) as it:
        await peopled(it)
        refs = [it.ref(name) for name in ("7", "8")]
    async with home(tmp_path) as it:
        (one,) = await releases_of(it).account()
    document = msgspec.json.encode(one)
    for ref in refs:
        assert ref.hex().encode() not in document
    assert b"ada@example.com" not in document
