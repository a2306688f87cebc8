"""A home under builds that differ: processors join, leave, change and move, and nothing is mixed."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec import structs

from privacy_ledger import bootstrap
from privacy_ledger._passes import HomeLanes
from privacy_ledger.adapters.state_codec import PassStateCodec
from privacy_ledger.domain.errors import InvariantViolation, ProcessorChanged, ProcessorMoved
from privacy_ledger.domain.events import CourseEnrolled, event_type
from privacy_ledger.domain.topics import state_topic, view_topic
from privacy_ledger.engine.batch import Batch
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration, passes
from privacy_ledger.engine.embedded import Lane
from privacy_ledger.engine.inspection import inspect
from privacy_ledger.interfaces.cli.operate import place_of, verify
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.streams import progress
from privacy_ledger.streams.analytics import TABLE as COURSE_VIEWS_TABLE
from privacy_ledger.streams.progress import Progress, ProgressPart
from privacy_ledger.streams.protocol import Processor
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.roster import MOVED as MOVED_MARK
from privacy_ledger.streams.roster import ROSTER, Claim, Standing
from privacy_ledger.streams.states import MEMBERS
from processors.analytics import PROCESSOR as COURSE_VIEWS
from processors.permissions import PROCESSOR as PERMISSIONS
from processors.progress import PROCESSOR as PROGRESS
from processors.subject_view import PROCESSOR as SUBJECT_VIEW
from tests.unit.home import COURSE, Said, TestHome, home, line, played, settings, viewed

PURPOSE: Final = "improve.analyse"
ENROLLED: Final[dict[str, str | int]] = {"type": event_type(CourseEnrolled), "course": COURSE}
MOVED: Final = structs.replace(PROGRESS, runs_in="analytics", moved_from=("core",))


def build(*processors: Processor[Any]) -> dict[str, PassDeclaration]:
    """Return the passes of a build with these processors."""
    return passes((PERMISSIONS, *processors))


WHOLE: Final = build(SUBJECT_VIEW, PROGRESS, COURSE_VIEWS)
WITHOUT: Final = build(SUBJECT_VIEW, COURSE_VIEWS)
ELSEWHERE: Final = build(SUBJECT_VIEW, MOVED, COURSE_VIEWS)
SILENT: Final = build(SUBJECT_VIEW, structs.replace(PROGRESS, runs_in="analytics"), COURSE_VIEWS)


async def _live_a_little(it: TestHome, step: str) -> None:
    """Let some people do things, withdraw, and restrict."""
    r = it.runtime
    await it.take([line(Said(id=f"{step}{n}", people=((n,),), facts=(ENROLLED,))) for n in ("7", "8", "9")])
    await r.passes.settle(await it.subjects.grant("openedx:user_id:7", PURPOSE))
    await it.take([viewed("7", event=f"{step}v", at=r.clock.now() + timedelta(seconds=1))])
    await it.take([played(n, event=f"{step}p{n}") for n in ("7", "8", "9")])


async def _courses(it: TestHome, name: str) -> set[str] | None:
    view = await it.runtime.views.get(progress.TABLE, it.ref(name))
    return None if view is None else set(progress.merge(view))


async def _standing(it: TestHome, pass_name: str, name: str, partition: int) -> Standing | None:
    row = await it.runtime.log.latest(state_topic(pass_name), partition, ROSTER.code + name.encode())
    value = None if row is None else row.value
    return it.runtime.states.open_many(ROSTER, ((b"", value),))[0]


async def _lane(r: bootstrap.Runtime, name: str) -> Lane:
    """Return a pass of an opened home, before anybody runs it."""
    assert r.local is not None
    (lane,) = (one for one in await HomeLanes(r.parts, r.local).current() if one.declaration.name == name)
    return lane


async def test_a_new_processor_is_brought_up_and_goes_on_with_the_others(tmp_path: Path) -> None:
    """What it says of the past is what it would have said; a held record stays held."""
    async with home(tmp_path, declared=WITHOUT) as it:
        await _live_a_little(it, "a")
        await it.runtime.passes.settle(await it.subjects.restrict("openedx:user_id:8", ground="accuracy"))
        await it.take([line(Said(id="held", people=(("8",),), facts=({**ENROLLED, "course": "x"},)))])
        assert await _courses(it, "7") is None
    async with home(tmp_path, declared=WHOLE) as it:
        assert await _courses(it, "7") == {COURSE}
        assert await _courses(it, "8") == {COURSE}
        await _live_a_little(it, "b")
        assert (await verify(it.runtime)).is_equal


async def test_a_private_processor_takes_its_rows_along(tmp_path: Path) -> None:
    """And comes back as if it had never been away."""
    async with home(tmp_path, declared=WHOLE) as it:
        await _live_a_little(it, "a")
        assert await _private_rows(it) > 0
    async with home(tmp_path, declared=build(SUBJECT_VIEW, MOVED)) as it:
        await _live_a_little(it, "b")
        assert await _private_rows(it) == 0
    async with home(tmp_path, declared=ELSEWHERE) as it:
        assert await _private_rows(it) > 0
        assert (await verify(it.runtime, "course_views")).is_equal


async def _private_rows(it: TestHome) -> int:
    """Return how many rows course views has, with its members, in the state of the analytics pass."""
    rows = await it.rows(state_topic("analytics"))
    codes = {COURSE_VIEWS_TABLE.code, MEMBERS.code}
    return sum(row.value is not None and row.key[:1] in codes for row in rows)


async def test_a_view_that_nobody_writes_is_reached_by_a_removal(tmp_path: Path) -> None:
    """Its rows stay as they were, until something of the person is removed: then the key goes."""
    async with home(tmp_path, declared=WHOLE) as it:
        await _live_a_little(it, "a")
        before = await it.rows(view_topic("progress"))
    async with home(tmp_path, declared=WITHOUT) as it:
        await _live_a_little(it, "b")
        assert await it.rows(view_topic("progress")) == before
        assert _readable(it, before) == {it.ref(name) for name in ("7", "8", "9")}
        await it.runtime.passes.settle(await it.subjects.withdraw("openedx:user_id:7", PURPOSE))
        assert _readable(it, before) == {it.ref(name) for name in ("8", "9")}


def _readable(it: TestHome, rows: list[Row]) -> set[bytes]:
    """Return the people whose row of the view of progress still opens."""
    codec = PassStateCodec("core", it.runtime.vault, publishes=frozenset({"progress"}))
    people = [(row.key, row.value) for row in rows if row.key != HEARTBEAT_KEY]
    opened = codec.open_many(progress.TABLE, people)
    return {key for (key, _), state in zip(people, opened, strict=True) if state is not None}


async def test_a_moved_processor_goes_on_with_its_view(tmp_path: Path) -> None:
    """The new pass writes it, the old one does not, and what is removed there is removed for good."""
    async with home(tmp_path, declared=WHOLE) as it:
        await _live_a_little(it, "a")
    async with home(tmp_path, declared=ELSEWHERE) as it:
        assert await _courses(it, "7") == {COURSE}
        await _live_a_little(it, "b")
        await it.runtime.passes.settle(await it.subjects.withdraw("openedx:user_id:7", PURPOSE))
        assert await _courses(it, "7") == {COURSE}
        assert (await verify(it.runtime)).is_equal
        for partition in range(it.runtime.partitions):
            old = await _standing(it, "core", "progress", partition)
            new = await _standing(it, "analytics", "progress", partition)
            assert (old and old.state, new and new.state, new and new.moves) == ("left", "folds", 1)


async def test_a_build_that_does_not_know_of_the_move_is_refused(tmp_path: Path) -> None:
    """By name, before it writes; the view is what the new pass made of it."""
    async with home(tmp_path, declared=WHOLE) as it:
        await _live_a_little(it, "a")
    async with home(tmp_path, declared=ELSEWHERE) as it:
        await _live_a_little(it, "b")
        written = await it.rows(view_topic("progress"))
    with pytest.raises(ProcessorMoved, match=r"progress moved from .* to the pass analytics"):
        async with home(tmp_path, declared=WHOLE):
            pass
    async with bootstrap.open_runtime(settings(tmp_path), declared=WHOLE, prepare=False) as looking:
        assert await _findings(looking) == {"processor moved"}
    async with home(tmp_path, declared=ELSEWHERE) as it:
        assert await it.rows(view_topic("progress")) == written
        assert (await verify(it.runtime)).is_equal


async def _findings(runtime: bootstrap.Runtime) -> set[str]:
    """Return the names of what the topics of a home say to somebody who only looks."""
    found: set[str] = set()
    for one in runtime.declared.values():
        states = runtime.state_codec(one)
        for place in (place_of(runtime, one, partition) for partition in range(runtime.partitions)):
            found |= {
                finding.name for finding in await inspect(runtime.log, runtime.latest, one, place, states)
            }
    return found


async def test_the_old_owner_is_fenced_while_it_runs(tmp_path: Path) -> None:
    """It holds cycles from before the move: what it folds then is not appended, and it learns why."""
    async with home(tmp_path, declared=WHOLE) as it:
        await _live_a_little(it, "a")
        old = it.runtime.embedded
        assert old is not None
        assert await old.hold()
        # The lock of a home would keep a second owner out; a worker on Kafka has none.
        (tmp_path / "home" / "worker.lock").unlink()
        async with bootstrap.open_runtime(settings(tmp_path), declared=ELSEWHERE) as other:
            await other.passes.settle()
            await it.ingest.run(enumerate([played("7", event="late")], start=1), _source())
            with pytest.raises(ProcessorMoved):
                await old.drain()


def _source() -> Any:  # noqa: ANN401 - of the test home's format
    from privacy_ledger.app.ingest import Source  # noqa: PLC0415
    from tests.unit.home import parse  # noqa: PLC0415

    return Source(name="test", parse=parse, is_authoritative=True)


async def test_moving_back_is_a_move_of_its_own(tmp_path: Path) -> None:
    """The build that knows more moves is the newer one."""
    back = build(SUBJECT_VIEW, structs.replace(PROGRESS, moved_from=("core", "analytics")), COURSE_VIEWS)
    for step, declared in enumerate((WHOLE, ELSEWHERE, back)):
        async with home(tmp_path, declared=declared) as it:
            await _live_a_little(it, f"{step}")
            assert (await verify(it.runtime)).is_equal
    for earlier in (WHOLE, ELSEWHERE):
        with pytest.raises(ProcessorMoved):
            async with home(tmp_path, declared=earlier):
                pass


async def test_partitions_may_join_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where workers change to a build at different times: keys of one partition hold up no other."""
    people = [str(number) for number in range(100, 130)]
    right = PartitionCycle.enrol

    def late(
        self: PartitionCycle, *, now: datetime, claims: Mapping[str, Claim] | None = None
    ) -> Batch | None:
        return None if self._partition == 0 else right(self, now=now, claims=claims)

    async with home(tmp_path, declared=WITHOUT) as it:
        await it.take([line(Said(id=f"e{n}", people=((n,),), facts=(ENROLLED,))) for n in people])
    monkeypatch.setattr(PartitionCycle, "enrol", late)
    async with home(tmp_path, declared=WHOLE) as it:
        assert {one is None for one in [await _courses(it, name) for name in people]} == {True, False}
    monkeypatch.setattr(PartitionCycle, "enrol", right)
    async with home(tmp_path, declared=WHOLE) as it:
        assert [await _courses(it, name) for name in people] == [{COURSE}] * len(people)
        assert (await verify(it.runtime)).is_equal


async def test_a_changed_version_is_refused(tmp_path: Path) -> None:
    """The rows of one version are never folded on by another."""
    async with home(tmp_path, declared=WHOLE) as it:
        await _live_a_little(it, "a")
    later = structs.replace(PROGRESS, table=structs.replace(progress.TABLE, version=2))
    with pytest.raises(ProcessorChanged, match="version 2 instead of 1"):
        async with home(tmp_path, declared=build(SUBJECT_VIEW, later, COURSE_VIEWS)):
            pass


async def test_a_step_that_fails_in_a_join_parks_its_subject_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mended build takes the subject up, and then it is as if it had never failed."""
    right = Progress.step

    def broken(self: Progress, part: ProgressPart | None, record: Record) -> ProgressPart:
        if record.ref == victim:
            raise ZeroDivisionError
        return right(self, part, record)

    async with home(tmp_path, declared=WITHOUT) as it:
        await _live_a_little(it, "a")
        victim = it.ref("7")
    monkeypatch.setattr(Progress, "step", broken)
    async with home(tmp_path, declared=WHOLE) as it:
        assert await _courses(it, "7") is None
        assert await _courses(it, "8") == {COURSE}
    monkeypatch.setattr(Progress, "step", right)
    async with home(tmp_path, declared=WHOLE) as it:
        assert await _courses(it, "7") == {COURSE}
        assert (await verify(it.runtime)).is_equal


def test_rows_that_could_not_be_told_apart_are_refused() -> None:
    """Two tables with one code in a pass, or a move from a pass to itself."""
    clash = structs.replace(PROGRESS, table=structs.replace(progress.TABLE, code=SUBJECT_VIEW.table.code))
    with pytest.raises(InvariantViolation, match="share the code"):
        build(SUBJECT_VIEW, clash)
    with pytest.raises(InvariantViolation, match="moved from core to itself"):
        build(structs.replace(PROGRESS, moved_from=("core",)))


async def test_a_move_that_is_not_declared_is_refused(tmp_path: Path) -> None:
    """A view has one writer: who changes the pass must say where the processor comes from."""
    topics = (view_topic("progress"), state_topic("core"), state_topic("analytics"))
    async with home(tmp_path, declared=WHOLE) as it:
        # One person, so that there are partitions without a row of theirs.
        await it.take([played("7", event="a")])
        written = [await it.rows(topic) for topic in topics]
    with pytest.raises(ProcessorMoved, match="moved_from"):
        async with home(tmp_path, declared=SILENT):
            pass
    async with home(tmp_path, declared=WHOLE) as it:
        assert [await it.rows(topic) for topic in topics] == written


@pytest.mark.parametrize("before", [WHOLE, {"core": WHOLE["core"]}], ids=["both passes ran", "core alone"])
async def test_it_is_refused_in_every_partition_by_whoever_runs_the_new_pass_alone(
    tmp_path: Path, before: Mapping[str, PassDeclaration]
) -> None:
    """A worker meets few partitions, and not the pass that something came from."""
    async with home(tmp_path, declared=before) as it:
        await it.take([played("7", event="a")])
    async with bootstrap.open_runtime(settings(tmp_path), declared=SILENT) as r:
        lane = await _lane(r, "analytics")
        for partition in range(r.partitions):
            with pytest.raises(
                ProcessorMoved, match=rf"the pass core .* analytics \(partition {partition}\)"
            ):
                await lane.means.mover.claims(partition, lane.open_cycle(partition))


async def test_who_joins_partition_by_partition_is_no_stranger_to_its_own_view(tmp_path: Path) -> None:
    """In the first partitions its view may be written before the last one is entered."""
    async with home(tmp_path, declared=WITHOUT) as it:
        await it.take([played("7", event="a")])
    async with bootstrap.open_runtime(settings(tmp_path), declared=WHOLE) as r:
        lane = await _lane(r, "core")
        await r.log.append(view_topic("progress"), [NewRecord(0, bytes(17), bytes(1))])
        assert await lane.means.mover.claims(1, lane.open_cycle(1)) == {}


async def test_a_pass_that_something_moved_on_from_is_not_its_writer(tmp_path: Path) -> None:
    """Its roster speaks of it still; the mark beside it says where it went."""
    async with home(tmp_path, declared=WITHOUT) as it:
        await it.take([played("7", event="a")])
    async with bootstrap.open_runtime(settings(tmp_path), declared=WHOLE) as r:
        lane = await _lane(r, "core")
        await r.log.append(view_topic("progress"), [NewRecord(0, bytes(17), bytes(1))])
        await r.log.append(state_topic("analytics"), [NewRecord(1, ROSTER.code + b"progress", bytes(1))])
        with pytest.raises(ProcessorMoved, match="the pass analytics"):
            await lane.means.mover.claims(1, lane.open_cycle(1))
        await r.log.append(state_topic("analytics"), [NewRecord(1, MOVED_MARK.code + b"progress", bytes(1))])
        assert await lane.means.mover.claims(1, lane.open_cycle(1)) == {}
