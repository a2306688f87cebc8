"""What an erasure waits for before keys go: that its request is folded where the person's records lie."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import pytest
from msgspec import structs

from privacy_ledger import bootstrap
from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.app._receipt import salted
from privacy_ledger.app._requests import SagaReader
from privacy_ledger.app.erasure import Erasure
from privacy_ledger.app.stores import DerivedStore
from privacy_ledger.domain.errors import KeyUnavailable, NotCaughtUp
from privacy_ledger.domain.events import ErasureRequested, event_type
from privacy_ledger.domain.key_release import Caller
from privacy_ledger.domain.topics import LEDGER_EVENTS, REQUESTS, state_topic
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.engine.line_up import LineUp
from privacy_ledger.engine.remote import RemotePasses
from privacy_ledger.ports.keys import KeyVault, ShredReport
from privacy_ledger.ports.log import EventLog, NewRecord, Row, header
from privacy_ledger.ports.passes import PassPosition, Runner, Views
from privacy_ledger.streams.states import MEMBERS
from tests.unit.home import Away, TestHome, home, played, registered, viewed

Goal = Mapping[int, int] | None
ADA: Final = "openedx:username:ada"
LINES: Final = [
    registered("7", "ada", event="r1", email="ada@example.com"),
    played("7", event="a1"),
    played("8", event="b1"),
]


class Watched:
    """The passes of a home; it notes what is waited for. `is_stuck`: in one partition they stand still.

    That is another one than where anybody of the test lies.
    """

    def __init__(self, passes: Runner, *, is_stuck: bool = False) -> None:
        """Take the passes."""
        self.passes = passes
        self.is_stuck = is_stuck
        self.goals: list[Goal] = []

    async def settle(self, offsets: Goal = None, *, timeout_s: float = 30.0) -> None:
        """Wait, or say that it was in vain."""
        self.goals.append(offsets)
        await self.passes.settle(offsets, timeout_s=timeout_s)
        if self.is_stuck and offsets is None:
            raise NotCaughtUp("late")

    async def advance(self) -> bool:
        """Run the passes."""
        return await self.passes.advance()


class Untold:
    """A log that appends, and does not know where: its first acknowledgement was lost."""

    def __init__(self, log: EventLog) -> None:
        """Take the log."""
        self.log = log

    def __getattr__(self, name: str) -> object:
        """Do all else as the log does."""
        return getattr(self.log, name)

    async def append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        """Append."""
        return (-1,) * len(await self.log.append(topic, records))


class Crash(Exception):
    """The process ends."""


def crash(ref: SubjectRef, step: str) -> None:
    """End the process when the request is written."""
    del ref
    if step == "requested":
        raise Crash


async def requested(it: TestHome) -> dict[int, int]:
    """Return where the request for an erasure lies."""
    (found,) = [row for row in await it.rows() if header(row.headers, "ce_type") == b"erasure.requested.v1"]
    return {found.partition: found.offset}


async def test_keys_go_though_passes_stand_still_where_others_lie(tmp_path: Path) -> None:
    """What is theirs lies in one partition; the erasure is complete when the others go on, too."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        watched, ref = Watched(it.runtime.passes, is_stuck=True), it.ref("7")
        erasure = bootstrap.erasure_of(structs.replace(it.runtime, passes=watched))
        (stuck,) = await erasure.erase(it.subjects.find(ADA).refs)
        place, standing = await requested(it), it.runtime.vault.standing_of(ref)
        watched.is_stuck = False
        (done,) = await erasure.resume()
    assert watched.goals[0] == place
    assert (stuck.is_completed, "fenced" in stuck.open_steps, "derived" in stuck.open_steps) == (
        False, False, True,
    )  # fmt: skip
    assert standing.live == 0
    assert done.is_completed


async def test_keys_of_every_reference_go_before_any_store_is_waited_for(tmp_path: Path) -> None:
    """Of several references one may have a store, or a partition beside it, that stands still."""
    steps: list[tuple[SubjectRef, str]] = []
    async with home(tmp_path) as it:
        await it.take([played("7", event="a1")])
        await it.take([played("ada", event="a2")])
        await it.take([registered("7", "ada", event="r1", email="ada@example.com")])
        refs = it.subjects.find(ADA).refs
        erasure = bootstrap.erasure_of(it.runtime)
        outcomes = await erasure.erase(refs, on_step=lambda ref, step: steps.append((ref, step)))
    names = [step for _, step in steps]
    assert (len(refs), [one.is_completed for one in outcomes]) == (2, [True, True])
    assert names[:6] == ["requested", "requested", "fenced", "shredded", "fenced", "shredded"]


class Stopped(Watched):
    """The passes of a home while nobody runs them."""

    async def settle(self, offsets: Goal = None, *, timeout_s: float = 30.0) -> None:
        """Say that it was in vain."""
        del timeout_s
        self.goals.append(offsets)
        raise NotCaughtUp("late")


async def test_a_window_is_left_also_where_the_keys_of_its_members_went_first(tmp_path: Path) -> None:
    """A late pass cannot read any more in which windows somebody was: no row names them afterwards."""
    async with home(tmp_path) as it:
        consents = ("improve.analyse",)
        await it.take([viewed("7", event="v1"), viewed("8", event="v2")], consents=consents)
        others = await _memberships(it, "8")
        refs, before = (it.ref("7"),), await _memberships(it, "7")
    async with home(tmp_path) as it:
        stopped = structs.replace(it.runtime, passes=Stopped(it.runtime.passes))
        (late,) = await bootstrap.erasure_of(stopped, wait_s=0.1).erase(refs)
        standing = it.runtime.vault.standing_of(refs[0])
    async with home(tmp_path) as it:
        (done,) = await it.erasure().resume()
        left, kept = await _memberships(it, refs[0]), await _memberships(it, "8")
    assert (late.is_completed, standing.live, before) == (False, 0, others)
    assert (done.is_completed, done.open_steps, left, kept, others) == (True, (), 0, 1, 1)


async def _memberships(it: TestHome, who: str | SubjectRef) -> int:
    """Return in how many windows somebody is a member."""
    ref = it.ref(who) if isinstance(who, str) else who
    latest = {row.key: row.value for row in await it.rows(state_topic("analytics"))}
    return sum(key[:1] == MEMBERS.code and key.endswith(ref) for key, value in latest.items() if value)


async def test_who_goes_on_with_an_erasure_of_somebody_else_waits_for_all_passes(tmp_path: Path) -> None:
    """It did not write the request, and does not know where it lies."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        with pytest.raises(Crash):
            await it.erasure().erase(it.subjects.find(ADA).refs, on_step=crash)
        watched = Watched(it.runtime.passes)
        (done,) = await bootstrap.erasure_of(structs.replace(it.runtime, passes=watched)).resume()
    assert (done.is_completed, watched.goals[0]) == (True, None)


async def test_a_request_whose_place_was_not_told_waits_for_all_passes(tmp_path: Path) -> None:
    """No place is one that was reached long ago."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        watched = Watched(it.runtime.passes)
        parts = structs.replace(it.runtime.parts, log=Untold(it.runtime.log))
        runtime = structs.replace(it.runtime, passes=watched, parts=parts)
        (done,) = await bootstrap.erasure_of(runtime).erase(it.subjects.find(ADA).refs)
    assert (done.is_completed, [goal for goal in watched.goals if goal is not None]) == (True, [])


class Reading:
    """A log that notes what of the ledger is read from its beginning, and fails once where it is told.

    `fails_at`: at the note of this step.
    """

    def __init__(self, log: EventLog, *, fails_at: str | None = None) -> None:
        """Take the log."""
        self.log = log
        self.fails_at = fails_at
        self.scans = 0

    def __getattr__(self, name: str) -> object:
        """Do all else as the log does."""
        return getattr(self.log, name)

    async def read(self, topic: str, partition: int, *, after: int, limit: int = 1000) -> Sequence[Row]:
        """Read on."""
        self.scans += topic == LEDGER_EVENTS and after < 0
        return await self.log.read(topic, partition, after=after, limit=limit)

    async def append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        """Append, or end the process."""
        step = f'"step":"{self.fails_at}"'.encode()
        if topic == REQUESTS and any(step in (record.value or b"") for record in records):
            raise Crash
        return await self.log.append(topic, records)


def over(it: TestHome, log: Reading, *beside: DerivedStore) -> Erasure:
    """Return the erasure saga over another log."""
    own = cast("EventLog", log)
    parts = structs.replace(it.runtime.parts, log=log, rows=PersonRows(own), sagas=SagaReader(own))
    return bootstrap.erasure_of(structs.replace(it.runtime, parts=parts), beside=beside)


async def test_no_reading_of_the_whole_ledger_lies_between_request_and_shred(tmp_path: Path) -> None:
    """The larger the ledger is, the longer keys would live for it.

    All steps share one reading, and so do all erasures of a process.
    """
    scans: dict[str, int] = {}
    async with home(tmp_path) as it:
        await it.take(LINES)
        reading = Reading(it.runtime.log)

        def note(_: SubjectRef, step: str) -> None:
            scans[step] = reading.scans

        erasure = over(it, reading)
        (done,) = await erasure.erase(it.subjects.find(ADA).refs, on_step=note)
        (other,) = await erasure.erase(it.subjects.find("openedx:user_id:8").refs)
    assert (done.is_completed, other.is_completed) == (True, True)
    assert scans["shredded"] == scans["requested"] > 0
    assert scans["completed"] == 1
    assert reading.scans == len({partition_of(one.ref, it.runtime.partitions) for one in (done, other)})


async def test_keys_whose_shred_was_not_noted_are_told_though_their_records_went_since(
    tmp_path: Path,
) -> None:
    """After a crash only the records name them; who goes on notes them before the records go."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ref, away, local = it.ref("7"), Away(), it.runtime.local
        assert local is not None
        kids = (await remains_of(PersonRows(it.runtime.log), it.runtime.vault, ref)).kids
        with pytest.raises(Crash):
            await over(it, Reading(it.runtime.log, fails_at="shredded")).erase((ref,))
        left = it.runtime.vault.standing_of(ref).live
        await it.erasure(away).resume()
        await local.compact(LEDGER_EVENTS)
        records = (await remains_of(PersonRows(it.runtime.log), it.runtime.vault, ref)).kids
        away.is_away = False
        (done,) = await it.erasure(away).resume()
    assert (left, records, done.is_completed) == (0, (), True)
    receipt = json.loads(done.receipt or b"")
    assert set(salted(bytes.fromhex(receipt["salt"]), kids)) <= set(receipt["keys"])


async def test_a_request_whose_note_was_lost_is_not_made_again(tmp_path: Path) -> None:
    """The ledger holds it: who goes on looks there first."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        with pytest.raises(Crash):
            await over(it, Reading(it.runtime.log, fails_at="requested")).erase((it.ref("7"),))
        (done,) = await it.erasure().resume()
        kinds = [header(row.headers, "ce_type") for row in await it.rows(LEDGER_EVENTS)]
    assert done.is_completed
    assert kinds.count(event_type(ErasureRequested).encode()) == 1


class Vaults(Protocol):
    """The keystore, as each caller sees it."""

    def released_to(self, caller: Caller) -> KeyVault:
        """Return what is released to a caller."""
        ...


class Refusing:
    """A keystore that cannot be reached for a shred, as every caller sees it."""

    def __init__(self, port: object) -> None:
        """Take the keystore, or one that was released."""
        self.port = port

    def __getattr__(self, name: str) -> object:
        """Do all else as it does."""
        return getattr(self.port, name)

    def released_to(self, caller: Caller) -> object:
        """Return one that refuses, too."""
        return Refusing(cast("Vaults", self.port).released_to(caller))

    def shred(self, *_: object, **__: object) -> ShredReport:
        """Be away."""
        raise KeyUnavailable("away")


async def test_keys_that_were_not_destroyed_are_not_noted_as_if_they_were(tmp_path: Path) -> None:
    """The steps behind a shred that failed are tried nevertheless."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        refs = it.subjects.find(ADA).refs
        parts = structs.replace(it.runtime.parts, vaults=Refusing(it.runtime.parts.vaults))
        (failed,) = await bootstrap.erasure_of(structs.replace(it.runtime, parts=parts)).erase(refs)
        steps = [json.loads(row.value or b"")["step"] for row in await it.rows(REQUESTS)]
        (done,) = await it.erasure().resume()
        standing = it.runtime.vault.standing_of(it.ref("7"))
    assert (failed.is_completed, "shredded" in failed.open_steps, "shredded" in steps) == (False, True, False)
    assert (done.is_completed, standing.live) == (True, 0)


class Moving:
    """Positions of one pass that comes to its goal after so many looks."""

    def __init__(self, looks: int) -> None:
        """Take the number."""
        self.left = looks

    async def position(self, pass_name: str, partition: int) -> PassPosition:
        """Come nearer."""
        del pass_name, partition
        self.left -= 1
        return PassPosition(offset=-self.left)

    async def required(self) -> tuple[str, ...]:
        """Return its name."""
        return ("core",)

    async def current(self) -> dict[str, None]:
        """Return it, without a declaration."""
        return {"core": None}


async def test_passes_are_looked_at_often_at_first_and_then_ever_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request that is folded at once is not waited for any longer, nor a late one asked for always."""
    pauses: list[float] = []

    async def noted(pause_s: float) -> None:
        pauses.append(pause_s)

    moving = Moving(looks=7)
    asked: list[object] = []

    async def until_readable(places: object, timeout_s: float) -> bool:
        asked.append((places, timeout_s))
        return len(asked) == 1

    passes = RemotePasses(
        cast("EventLog", None), cast("Views", moving), cast("LineUp", moving), source=LEDGER_EVENTS,
        written=lambda _: ("view.two", "view.one"), until_readable=until_readable,
    )  # fmt: skip
    monkeypatch.setattr(asyncio, "sleep", noted)
    await passes.settle({0: 0})
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.1, 0.1]
    assert asked == [([("view.one", 0), ("view.two", 0)], 30.0)]
    with pytest.raises(NotCaughtUp, match="not readable yet"):
        await passes.settle({0: 0})
