"""The embedded engine on a real home: keys of live records, copies, owners in turn, poison."""

from datetime import timedelta
from pathlib import Path

import pytest

from privacy_ledger import bootstrap
from privacy_ledger.app.registrar import Registrar
from privacy_ledger.domain.events import CourseEnrolled, Tick, event_type
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS, state_topic
from privacy_ledger.domain.values import partition_of
from privacy_ledger.engine.batch import Batch
from privacy_ledger.engine.cycle import FAILURES_PER_CYCLE, PartitionCycle
from privacy_ledger.engine.embedded import EmbeddedPasses, Lane
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.held import HELD, Parked
from privacy_ledger.streams.progress import Progress, ProgressPart
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import SHREDS
from privacy_ledger.testing.faults import Mode, Point, Seam, Stopped
from tests.unit.home import (
    COURSE,
    NOW,
    Said,
    TestHome,
    break_progress,
    home,
    line,
    played,
    settings,
    unreadable,
    videos_of,
    viewed,
)

ADA = "openedx:user_id:7"
PURPOSE = "improve.analyse"
FENCED = 3
EVENTS = 3


async def test_a_lift_spares_the_key_of_a_record_under_a_second_consent(tmp_path: Path) -> None:
    """Granted, used, withdrawn and granted again while restricted: the later record stays readable."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e0")])
        now = it.runtime.clock.now
        for step in range(2):
            await it.runtime.passes.settle(await it.subjects.grant(ADA, PURPOSE))
            await it.take([viewed("7", event=f"v{step}", at=now() + timedelta(seconds=1))])
            if step == 0:
                await it.runtime.passes.settle(await it.subjects.restrict(ADA, ground="accuracy"))
                await it.runtime.passes.settle(await it.subjects.withdraw(ADA, PURPOSE))
        await it.runtime.passes.settle(await it.subjects.lift(ADA, notified_at=now()))
        view = await it.runtime.views.get(subject_view.TABLE, it.ref("7"))
        assert view is not None
        assert subject_view.merge(view).counts.get("usage.page_viewed.v1") == 1
        assert (await verify(it.runtime)).is_equal


async def test_a_record_written_again_as_it_is_stays_live(tmp_path: Path) -> None:
    """A copy with the same key is the record itself: no tombstone, and compaction may take the first."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        before = await it.rows()
        (row,) = [r for r in before if r.value is not None and r.value[:1] == b"\x01"]
        await it.runtime.log.append(
            LEDGER_EVENTS, (NewRecord(row.partition, row.key, row.value, row.headers),)
        )
        await it.runtime.passes.settle()
        rows = await it.rows()
        assert [r for r in rows if r.value is None] == []
        (live,) = await it.runtime.views.live(it.ref("7"))
        assert live.offset > row.offset
        assert (await verify(it.runtime)).is_equal


async def test_registrars_take_turns(tmp_path: Path) -> None:
    """A writer that another took over takes it back: ticks never stop."""
    async with home(tmp_path) as it:
        r = it.runtime
        other = Registrar(r.log, r.codec, r.clock, r.ids, views=r.views)
        for registrar in (r.registrar, other, r.registrar, other):
            assert await registrar.tick(force=True)


async def test_two_processes_run_the_passes_of_a_home_in_turn(tmp_path: Path) -> None:
    """Whoever takes the lock next fences the last owner and goes on where it stopped."""
    async with home(tmp_path) as it, bootstrap.open_runtime(settings(tmp_path)) as other:
        await it.take([played("7", event="e1")])
        if it.runtime.embedded is not None:
            it.runtime.embedded.release()
        await other.passes.settle()
        if other.embedded is not None:
            other.embedded.release()
        await it.take([played("7", event="e2")])
        assert len(await it.runtime.views.live(it.ref("7"))) == 2


async def test_a_holder_that_is_fenced_in_one_partition_after_the_other_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that drops a version fences it so: each time it opens its cycles anew, and loses nothing."""
    right, fenced = EmbeddedPasses._commit, set[int]()  # noqa: SLF001 - right before a commit

    async def commit(
        self: EmbeddedPasses, lane: Lane, partition: int, cycle: PartitionCycle, batch: Batch
    ) -> None:
        if lane.declaration.name == "core" and partition not in fenced:
            fenced.add(partition)
            await other.log.open_writer(f"core.{partition}")
        await right(self, lane, partition, cycle, batch)

    people = [str(number) for number in range(100, 140)]
    async with home(tmp_path) as it, bootstrap.open_runtime(settings(tmp_path)) as other:
        monkeypatch.setattr(EmbeddedPasses, "_commit", commit)
        await it.take([played(one, event=f"e{one}") for one in people])
        assert fenced == set(range(it.runtime.partitions))
        assert {len(await it.runtime.views.live(it.ref(one))) for one in people} == {1}


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_holder_that_is_fenced_while_it_opens_its_cycles_opens_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_open: bool
) -> None:
    """Where it takes the home, and where it was fenced before: somebody parked is taken up again there."""
    right, fenced = EmbeddedPasses._commit, list[bool]()  # noqa: SLF001 - right before a commit

    async def commit(
        self: EmbeddedPasses, lane: Lane, partition: int, cycle: PartitionCycle, batch: Batch
    ) -> None:
        if lane.declaration.name == "core" and partition == where and len(fenced) < FENCED:
            fenced.append(bool(lane.cycles))
            await other.log.open_writer(f"core.{partition}")
        await right(self, lane, partition, cycle, batch)

    videos = {"bad"}
    break_progress(videos, monkeypatch)
    async with (
        home(tmp_path, is_worker=is_open) as it,
        bootstrap.open_runtime(settings(tmp_path)) as other,
    ):
        await it.take([played("7", event="e1"), played("7", event="e2", video="bad")])
        where = partition_of(it.ref("7"), it.runtime.partitions)
        monkeypatch.setattr(EmbeddedPasses, "_commit", commit)
        await it.take([played("7", event="e3")])
        assert fenced == [is_open, *[False] * (FENCED - 1)]
        videos.clear()
        assert it.runtime.embedded is not None
        it.runtime.embedded.release()
        await it.runtime.passes.settle()
        assert len(await it.runtime.views.live(it.ref("7"))) == EVENTS


async def test_a_step_that_fails_parks_its_subject_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on; a mended build takes the subject up again and nothing is lost."""
    right = Progress.step

    def broken(self: Progress, part: ProgressPart | None, record: Record) -> ProgressPart:
        if record.ref == victim:
            raise ZeroDivisionError
        return right(self, part, record)

    async with home(tmp_path) as it:
        await it.take([played("7", event="e1"), played("8", event="e2")])
        victim = it.ref("7")
        monkeypatch.setattr(Progress, "step", broken)
        await it.take([played("7", event="e3"), played("8", event="e4"), played("7", event="e5")])
        assert len(await it.runtime.views.live(victim)) == 1
        assert len(await it.runtime.views.live(it.ref("8"))) == 2
        assert len(await it.rows(DLQ)) >= 1
        monkeypatch.setattr(Progress, "step", right)
        assert it.runtime.embedded is not None
        it.runtime.embedded.release()
        await it.runtime.passes.settle()
        assert len(await it.runtime.views.live(victim)) == 3
        assert (await verify(it.runtime)).is_equal


async def test_a_step_that_fails_for_everybody_parks_each_without_folding_all_again_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build may be broken for a type of event: the passes go on, and every subject is kept."""
    right, calls = Progress.step, 0

    def broken(self: Progress, part: ProgressPart | None, record: Record) -> ProgressPart:
        nonlocal calls
        calls += 1
        if getattr(record.body, "video", None) == "broken":
            raise ZeroDivisionError
        return right(self, part, record)

    people = [str(number) for number in range(100, 400)]
    async with home(tmp_path) as it:
        monkeypatch.setattr(Progress, "step", broken)
        await it.take(
            [
                *(played(one, event=f"b{one}", video="broken") for one in people),
                *(played(one, event=f"g{one}") for one in people),
            ]
        )
        assert len(await it.rows(DLQ)) == len(people)
        assert calls < len(people) * FAILURES_PER_CYCLE
        monkeypatch.setattr(Progress, "step", right)
        assert it.runtime.embedded is not None
        it.runtime.embedded.release()
        await it.runtime.passes.settle()
        assert {len(await it.runtime.views.live(it.ref(one))) for one in people} == {2}
        assert (await verify(it.runtime)).is_equal


async def test_shreds_of_a_take_over_leave_the_list_though_somebody_stays_parked(tmp_path: Path) -> None:
    """Else every owner would carry them out again, and the list would only grow."""
    with pytest.raises(Stopped):
        await _ended_before_a_shred(tmp_path)
    async with home(tmp_path) as it:
        await it.runtime.registrar.tick(force=True)
        await it.runtime.passes.settle()
        local = it.runtime.local
        assert local is not None
        left = [list(local.scan_latest(state_topic("core"), part, SHREDS.code)) for part in range(4)]
        parked = [list(local.scan_latest(state_topic("core"), part, HELD.code)) for part in range(4)]
    assert sum(map(len, parked)) == 1
    assert left == [[]] * 4


async def _ended_before_a_shred(folder: Path) -> None:
    """Park somebody, let somebody else of the same partition withdraw, and end before keys go.

    Three appends come from outside; the fourth is of the tombstones, and shreds come after it.
    """
    seam = Seam(stop_at=Point(f"log.append {LEDGER_EVENTS}", 4, Mode.AFTER))
    async with home(folder, wrap=seam) as it:
        names = [str(number) for number in range(20, 25)]  # one more than there are partitions
        await it.take([viewed(name, event=name) for name in names], consents=(PURPOSE,))
        people: dict[int, list[str]] = {}
        for name in names:
            people.setdefault(partition_of(it.ref(name), it.runtime.partitions), []).append(name)
        parked, other, *_ = max(people.values(), key=len)
        broken = unreadable(await it.rows(), it.ref(parked), it.runtime.ids)
        await it.runtime.log.append(LEDGER_EVENTS, (broken,))
        await it.runtime.passes.settle(await it.subjects.withdraw(f"openedx:user_id:{other}", PURPOSE))


async def test_a_foreign_tombstone_changes_nothing(tmp_path: Path) -> None:
    """Neither does one without headers, nor a record whose header has no value."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        (live,) = await it.runtime.views.live(it.ref("7"))
        rows = [r for r in await it.rows() if r.value is not None and r.value[:1] == b"\x01"]
        row = rows[0]
        await it.runtime.log.append(LEDGER_EVENTS, (NewRecord(row.partition, row.key, None),))
        await it.runtime.passes.settle()
        assert await it.runtime.views.live(it.ref("7")) == (live,)


async def test_retention_of_one_view_spares_the_others(tmp_path: Path) -> None:
    """A device falls due; the person's progress has no part of it, and stays readable under the new key."""
    enrolled: dict[str, str | int] = {"type": event_type(CourseEnrolled), "course": COURSE}
    async with home(tmp_path) as it:
        await it.take([line(Said(id="e1", people=(("7",),), facts=(enrolled,), browser="Firefox"))])
        for at in (NOW + timedelta(days=31 * month) for month in range(1, 15)):
            ticks = [
                it.runtime.codec.control_record(
                    it.runtime.ids.token(), partition, Tick(at=at), received_at=at
                )
                for partition in range(it.runtime.partitions)
            ]
            await it.runtime.log.append(LEDGER_EVENTS, ticks)
        await it.runtime.passes.settle()
        view = await it.runtime.views.get(subject_view.TABLE, it.ref("7"))
        assert view is not None
        assert subject_view.merge(view).devices == {}
        courses = await it.runtime.views.get(progress.TABLE, it.ref("7"))
        assert courses is not None
        assert COURSE in progress.merge(courses)
        assert (await verify(it.runtime)).is_equal


async def test_what_a_retaken_subject_decides_is_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that waited behind a parked record gets its tombstone when the subject is taken up."""
    right = Progress.step

    def broken(*_: object) -> ProgressPart:
        raise ZeroDivisionError

    async with home(tmp_path, is_exact=False) as it:
        await it.take([played("7", event="e1")])
        monkeypatch.setattr(Progress, "step", broken)
        await it.take([played("7", event="e2")])
        await it.take([played("7", event="e1")])
        assert [r for r in await it.rows() if r.value is None] == []
        monkeypatch.setattr(Progress, "step", right)
        assert it.runtime.embedded is not None
        it.runtime.embedded.release()
        await it.runtime.passes.settle()
        assert len(await it.runtime.views.live(it.ref("7"))) == 2
        assert len([r for r in await it.rows() if r.value is None]) == 1


async def _go_on(it: TestHome) -> None:
    """Let another owner of the home take parked subjects up again."""
    assert it.runtime.embedded is not None
    it.runtime.embedded.release()
    await it.runtime.passes.settle()


async def test_a_step_that_fails_in_a_refold_parks_its_subject_at_that_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lift stands, others go on, and a mended build folds the held records exactly."""
    broken: set[str] = {"bad"}
    break_progress(broken, monkeypatch)
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1", video="first"), played("8", event="x1", video="first")])
        await it.runtime.passes.settle(await it.subjects.restrict(ADA, ground="accuracy"))
        held = [played("7", event=f"h{video}", video=video) for video in ("bad", "last")]
        await it.take(held)
        now = it.runtime.clock.now()
        await it.runtime.passes.settle(await it.subjects.lift(ADA, notified_at=now))
        await it.take([played("7", event="e2", video="later"), played("8", event="x2", video="later")])
        parked = await it.runtime.views.get(HELD, it.ref("7"))
        assert isinstance(parked, Parked)
        assert parked.reason == "step"
        assert [row.offset for row in await it.runtime.views.live(it.ref("7"))][1] == parked.offset
        assert await videos_of(it, "7") == ["first"]
        assert await videos_of(it, "8") == ["first", "later"]
        assert sum(b'"reason":"step"' in (row.value or b"") for row in await it.rows(DLQ)) == 1
        broken.clear()
        await _go_on(it)
        assert await videos_of(it, "7") == ["bad", "first", "last", "later"]
        assert (await verify(it.runtime)).is_equal


async def test_a_step_that_fails_when_a_subject_is_taken_up_holds_nobody_else_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three parked subjects the two whose records can be read again go on; the third waits on."""
    broken = {"bad", "worse"}
    break_progress(broken, monkeypatch)
    async with home(tmp_path) as it:
        for name, video in (("7", "bad"), ("8", "worse"), ("9", "bad")):
            await it.take([played(name, event=f"{name}1", video=video), played(name, event=f"{name}2")])
        broken.remove("bad")
        await _go_on(it)
        assert [await videos_of(it, name) for name in "789"] == [["bad", "v1"], [], ["bad", "v1"]]
        letters = len(await it.rows(DLQ))
        await it.take([played("8", event="83", video="last")])
        broken.clear()
        await _go_on(it)
        assert await videos_of(it, "8") == ["last", "v1", "worse"]
        assert len(await it.rows(DLQ)) == letters, "a subject that stays parked is no news"
        assert (await verify(it.runtime)).is_equal
