"""What an erasure waits for before keys go: that its request is folded where the person's records lie."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import pytest
from msgspec import structs

from privacy_ledger import bootstrap
from privacy_ledger.domain.errors import NotCaughtUp
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.line_up import LineUp
from privacy_ledger.engine.remote import RemotePasses
from privacy_ledger.ports.log import EventLog, NewRecord, header
from privacy_ledger.ports.passes import PassPosition, Runner, Views
from tests.unit.home import TestHome, home, played, registered

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


async def test_passes_are_looked_at_often_at_first_and_then_ever_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request that is folded at once is not waited for any longer, nor a late one asked for always."""
    pauses: list[float] = []

    async def noted(pause_s: float) -> None:
        pauses.append(pause_s)

    moving = Moving(looks=7)
    passes = RemotePasses(
        cast("EventLog", None), cast("Views", moving), cast("LineUp", moving), source=LEDGER_EVENTS
    )
    monkeypatch.setattr(asyncio, "sleep", noted)
    await passes.settle({0: 0})
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.1, 0.1]
