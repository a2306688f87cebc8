"""The registry of stores: nothing that may hold a person is without one, and none is believed blindly."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from msgspec import structs

from privacy_ledger import bootstrap
from privacy_ledger.app.stores import (
    FILES_OF_NOBODY,
    TOPICS_OF_NOBODY,
    DerivedStore,
    Found,
    PassIndex,
    StoreRegistry,
)
from privacy_ledger.domain.errors import InvariantViolation, KeyUnavailable, LogUnavailable, NotCaughtUp
from privacy_ledger.domain.topics import AUDIT_LEAVES, DLQ, REQUESTS, TOPICS, Topic
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import home, played, registered, viewed

ADA: Final = "openedx:username:ada"
PURPOSE: Final = "improve.analyse"
LINES: Final = [
    registered("7", "ada", event="r1", email="ada@example.com"),
    *(played("7", event=f"a{n}") for n in range(3)),
    viewed("7", event="v1"),
    played("8", event="b1"),
    viewed("8", event="w1"),
]
UNTIL: Final = datetime(2031, 1, 1, tzinfo=UTC)
NAME_MAX: Final = 40
WAIT_S: Final = 10.0
REF: Final = SubjectRef(b"r" * 16)


class Stub:
    """A store of the test: it tells what it is told to."""

    topics: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __init__(self, found: Found | Exception, *, held: int | Exception = 0) -> None:
        """Take what a look finds, or how it fails."""
        self.name = "search"
        self.found = found
        self.held = held

    async def count(self, ref: SubjectRef) -> int:
        """Return what it is said to hold, or raise."""
        del ref
        if isinstance(self.held, Exception):
            raise self.held
        return self.held

    async def purge(self, ref: SubjectRef) -> None:
        """Do nothing."""
        del ref

    async def verify(self, ref: SubjectRef) -> Found:
        """Return or raise."""
        del ref
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def registry_of(*stores: DerivedStore) -> StoreRegistry:
    """Return a registry of these stores alone."""

    async def found() -> Sequence[DerivedStore]:
        return stores

    async def none() -> Sequence[PassIndex]:
        return ()

    return StoreRegistry(found, indexes=none)


# Completeness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS])
async def test_every_topic_has_one_store_or_holds_nobody(topic: str, tmp_path: Path) -> None:
    """A new topic of the declaration fails here until somebody says who purges it."""
    async with home(tmp_path) as it:
        stores = await bootstrap.stores_of(it.runtime).of_topic(topic)
    assert len(stores) + (topic in TOPICS_OF_NOBODY) == 1


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: str(topic.name))
async def test_whoever_looks_after_erasures_may_read_every_store(topic: Topic, tmp_path: Path) -> None:
    """The worker of `core` looks into every store, and reads and writes how far erasures came."""
    async with home(tmp_path) as it:
        stores = await bootstrap.stores_of(it.runtime).of_topic(topic.name)
    is_noted = topic.name in {REQUESTS, AUDIT_LEAVES}
    assert "core" in topic.readers or not (stores or is_noted)
    assert "core" in topic.writers or not is_noted


def test_only_topics_of_the_declaration_are_said_to_hold_nobody() -> None:
    """So that a topic that is renamed is looked at again."""
    assert TOPICS_OF_NOBODY.keys() <= {topic.name for topic in TOPICS}


async def test_a_topic_that_nobody_knows_has_no_store(tmp_path: Path) -> None:
    """The test above can fail: also for a view that no pass publishes."""
    async with home(tmp_path) as it:
        stores = bootstrap.stores_of(it.runtime)
        found = [
            await stores.of_topic(name) for name in ("search.index.v1", "view.search.v1", "state.new.v1")
        ]
    assert found == [(), (), ()]


async def test_every_file_on_the_disk_has_one_store_or_holds_nobody(tmp_path: Path) -> None:
    """Of a home that was used for everything: lines, refusals, an erasure, a roll, a backup."""
    places = {"home": "home", "keys": "keys", "data/privacy-ledger/key-backups": "key-backups"}
    async with home(tmp_path) as it:
        await it.take([*LINES, b"no line"], consents=(PURPOSE,))
        await it.erasure().erase(it.subjects.find(ADA).refs)
        bootstrap.care_of(it.runtime.keystore, it.runtime.clock).roll(is_final=True)
        stores = bootstrap.stores_of(it.runtime)
        named = {_named(path, places) for path in _files_below(tmp_path)}
        owners = {name: len(await stores.of_file(name)) for name in named}
        strange = await stores.of_file("home/spool.db")
    assert {name for name, count in owners.items() if count + (name in FILES_OF_NOBODY) != 1} == set()
    assert {"home/ledger.db", "home/keystore.db", "home/home.json", "keys/journal.ndjson"} <= named
    assert strange == ()


@pytest.mark.parametrize(
    ("file", "owner"),
    [
        ("state/core/worker-0/3/000012.sst", "state core"),
        ("state/analytics/worker-1/0/LOG", "state analytics"),
        ("state/progress-v2/worker-0/1/000001.sst", "versions of projections"),
        ("keys/epoch-3.kek", "keystore"),
        ("key-backups/ab12/keystore-1.backup", "keystore"),
        ("home/ledger.db-wal", "ledger"),
    ],
)
async def test_files_of_workers_and_of_the_keystore_have_their_store(
    file: str, owner: str, tmp_path: Path
) -> None:
    """On a cluster each pass has stores on the disks of its workers, which follow its topic."""
    async with home(tmp_path) as it:
        assert await bootstrap.stores_of(it.runtime).of_file(file) == (owner,)


def _files_below(folder: Path) -> list[str]:
    """Return every file below a folder, by its path there."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _named(path: str, places: dict[str, str]) -> str:
    """Return a file's name as stores tell it; a folder of an id is one of many alike."""
    for place, name in places.items():
        if path.startswith(f"{place}/"):
            return f"{name}/{path.removeprefix(f'{place}/')}"
    return path


# Outcomes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "held", "outcome", "count"),
    [
        (Found(left=0), 0, "nothing held", 0),
        (Found(left=0), 4, "erased", 4),
        (Found(left=0), None, "erased", None),
        (Found(left=2), 4, "unreachable", 2),
        (Found(left=2, hindrance="retained", ground="tax", until=UNTIL), 4, "retained", 2),
        (Found(left=0, hindrance="unreachable"), 4, "unreachable", 0),
        (Found(left=1, hindrance="unsupported"), 0, "unsupported", 1),
        (NotCaughtUp("late"), 4, "unreachable", 0),
        (KeyUnavailable("away"), 4, "unreachable", 0),
        (LogUnavailable("away"), 0, "unreachable", 0),
    ],
)
async def test_a_store_has_one_of_five_outcomes(
    found: Found | Exception, held: int | None, outcome: str, count: int | None
) -> None:
    """Only what was looked at and found empty counts as done."""
    (one,) = await registry_of(Stub(found)).verify(REF, held={"search": held})
    assert (one.outcome, one.count) == (outcome, count)
    assert (one.ground, one.until) == (("tax", UNTIL) if outcome == "retained" else ("", None))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (NotCaughtUp("late"), "search: unreachable"),
        (Found(left=1), "search: unreachable"),
        (Found(left=1, hindrance="retained", ground="tax"), "search: retained"),
        (Found(left=1, hindrance="unsupported"), "search: unsupported"),
    ],
)
async def test_no_erasure_is_complete_while_a_store_is_not_done(
    found: Found | Exception, said: str, tmp_path: Path
) -> None:
    """It says so once in the partition, goes on when the store can be reached, and is completed once."""
    stub = Stub(found, held=1)
    async with home(tmp_path) as it:
        await it.take(LINES)
        ref = it.ref("7")
        (first,) = await it.erasure(stub).erase(it.subjects.find(ADA).refs)
        (again,) = await it.erasure(stub).resume()
        open_view = await it.runtime.views.get(PERMISSIONS, ref)
        stub.found = Found(left=0)
        (done,) = await it.erasure(stub).resume()
        await it.runtime.passes.settle()
        view, types = await it.runtime.views.get(PERMISSIONS, ref), await it.types("7")
    assert (first.is_completed, first.receipt, first.open_steps) == (False, None, ("verified", said))
    assert again == first
    assert (types.count("erasure.incomplete.v1"), types.count("erasure.completed.v1")) == (1, 1)
    assert open_view is not None
    assert open_view.erasure is not None
    assert open_view.erasure.state in {"requested", "incomplete"}
    assert view is not None
    assert view.erasure is not None
    assert (done.is_completed, done.open_steps, view.erasure.state) == (True, (), "completed")
    stores = {store["store"]: store for store in json.loads(done.receipt or b"")["stores"]}
    assert stores["search"] == {"store": "search", "outcome": "erased", "count": 1}


async def test_a_store_that_was_away_at_the_opening_is_not_said_to_have_held_nothing(tmp_path: Path) -> None:
    """What it held is unknown for good, also to whoever goes on with the erasure."""
    stub = Stub(Found(left=1), held=LogUnavailable("away"))
    async with home(tmp_path) as it:
        await it.take(LINES)
        await it.erasure(stub).erase(it.subjects.find(ADA).refs)
        stub.held, stub.found = 0, Found(left=0)
        (done,) = await it.erasure(stub).resume()
    receipt = json.loads(done.receipt or b"")
    stores = {store["store"]: store for store in receipt["stores"]}
    assert stores["search"] == {"store": "search", "outcome": "erased", "count": None}
    assert stores["ledger"]["count"] > 0
    assert receipt["records"] is not None


async def test_two_who_run_one_erasure_give_one_receipt(tmp_path: Path) -> None:
    """Somebody else completes it while this one looks into the last store."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ref = it.ref("7")
        other = it.erasure()

        class Meanwhile(Stub):
            """A store whose look takes as long as the other needs."""

            async def verify(self, ref: SubjectRef) -> Found:
                """Let the other go to the end."""
                self.seen = await other.erase((ref,))
                return await super().verify(ref)

        store = Meanwhile(Found(left=0))
        done = await it.erasure(store).erase((ref,))
        leaves, types = await it.leaves(), await it.types("7")
    assert done == store.seen
    assert done[0].is_completed
    assert (len(leaves), types.count("erasure.completed.v1")) == (1, 1)


class Meeting(Stub):
    """A store that answers when as many as were invited are asked."""

    def __init__(self, guests: asyncio.Barrier, *, held: int | Exception) -> None:
        """Take whom it waits for, and what it says then."""
        super().__init__(Found(left=0), held=held)
        self.guests = guests
        self.name = f"store {held}"

    async def count(self, ref: SubjectRef) -> int:
        """Wait for the others."""
        await self.guests.wait()
        return await super().count(ref)


async def test_stores_are_counted_side_by_side() -> None:
    """Each answers for itself, in the order of the stores; who is away holds up nobody."""
    guests = asyncio.Barrier(3)
    stores = [Meeting(guests, held=held) for held in (2, LogUnavailable("away"), 1)]
    async with asyncio.timeout(WAIT_S):
        counts = await registry_of(*stores).count(REF)
    assert list(counts.items()) == [("store 2", 2), ("store away", None), ("store 1", 1)]


async def test_an_error_that_is_no_stores_own_is_not_taken_for_one_that_is_away() -> None:
    """It reaches the caller as it is, when every store has ended."""
    guests = asyncio.Barrier(2)
    broken, other = Meeting(guests, held=InvariantViolation("broken")), Meeting(guests, held=1)
    with pytest.raises(InvariantViolation, match="broken"):
        async with asyncio.timeout(WAIT_S):
            await registry_of(broken, other).count(REF)


async def test_a_receipt_tells_every_store(tmp_path: Path) -> None:
    """What each held when the erasure began; those of others are untouched."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(PURPOSE,))
        stores = bootstrap.stores_of(it.runtime)
        ref, other = it.ref("7"), it.ref("8")
        before, held = await stores.count(other), await stores.count(ref)
        (done,) = await it.erasure().erase((ref,))
        after = await stores.count(other)
        left = await stores.count(ref)
    told = {
        store["store"]: (store["outcome"], store["count"])
        for store in json.loads(done.receipt or b"")["stores"]
    }
    assert left == {}
    assert before == after != {}
    assert {name: found for name, found in told.items() if found[0] == "erased"} == {
        **{name: ("erased", count) for name, count in held.items()}, "keystore identities": ("erased", 2),
    }  # fmt: skip
    assert {name for name, found in told.items() if found == ("nothing held", 0)} == {
        "dead letters", "unattributed events",
    }  # fmt: skip
    assert max(map(len, told)) <= NAME_MAX
    assert held.keys() == {
        "keystore", "ledger", "versions of projections", "state core", "state analytics",
        "view permissions", "view progress", "view subject_view",
    }  # fmt: skip


async def test_a_dead_letter_with_content_is_not_vouched_for(tmp_path: Path) -> None:
    """Our own letters and an operator's discard are pointers; one with a line in it is none."""
    async with home(tmp_path) as it:
        await it.take([*LINES, b"no line"])
        letters = bootstrap.dead_letters_of(it.runtime)
        await letters.discard_lines(await letters.letters())
        stores = bootstrap.stores_of(it.runtime)
        before = await stores.verify(REF, held={})
        await it.runtime.log.append(DLQ, (NewRecord(0, b"k", b'{"line": "ada@example.com"}'),))
        after = await stores.verify(REF, held={})
    assert {one.outcome for one in before if one.store == "dead letters"} == {"nothing held"}
    assert [structs.asdict(one) for one in after if one not in before] == [
        {"store": "dead letters", "outcome": "unsupported", "count": 1, "ground": "", "until": None}
    ]
