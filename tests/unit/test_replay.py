"""The next version of a projection beside live, on a real home: built, compared, switched, dropped."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

import msgspec
import pytest

from privacy_ledger import bootstrap
from privacy_ledger._passes import HomeLanes
from privacy_ledger.adapters.local.log import LocalLog
from privacy_ledger.app.ingest import Source
from privacy_ledger.app.replay import Folded, Progress, Replay
from privacy_ledger.bootstrap import Runtime, replay_of
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import DLQ
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.engine.declaration import VersionPass
from privacy_ledger.engine.embedded import Lane
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.streams import progress
from privacy_ledger.streams.progress import ProgressPart
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import COURSE, TestHome, home, parse, played, registered, settings, viewed

ADA: Final = "openedx:user_id:7"
PURPOSE: Final = "improve.analyse"
RIGHT: Final = progress.Progress.step


def _older(self: progress.Progress, part: ProgressPart | None, record: Record) -> ProgressPart:
    """Return what an older build made of a record: each play counted twice."""
    return RIGHT(self, RIGHT(self, part, record), record)


async def _plays(runtime: Runtime, ref: SubjectRef) -> int:
    """Return how often a person played anything, as readers see it."""
    view = await runtime.views.get(progress.TABLE, ref)
    if view is None:
        return 0
    return sum(video.plays for video in progress.merge(view)[COURSE].videos.values())


async def build(replay: Replay, name: str = "progress", *, rate: int | None = None) -> Folded:
    """Build a version to its end."""
    version = await replay.begin(name, rate=rate)
    await replay.follow(version)
    return version


def _release(runtime: Runtime) -> None:
    assert runtime.embedded is not None
    runtime.embedded.release()


async def _refused(call: Awaitable[object]) -> Refusal:
    """Return why a call was refused."""
    with pytest.raises(RefusedByPolicy) as refused:
        await call
    return refused.value.refusal


async def _raw(runtime: Runtime, version: Folded, ref: SubjectRef) -> bytes | None:
    """Return a person's row in a version as it lies there, readable or not."""
    return await runtime.latest.get(version.view, partition_of(ref, runtime.partitions), ref)


async def _old_and_new(it: TestHome, monkeypatch: pytest.MonkeyPatch) -> tuple[Replay, Folded]:
    """Return a built version 2 by the right step beside a version 1 by an older one."""
    monkeypatch.setattr(progress.Progress, "step", _older)
    await it.take([played("7", event="e1"), played("8", event="e2")])
    monkeypatch.setattr(progress.Progress, "step", RIGHT)
    replay = replay_of(it.runtime)
    return replay, await build(replay)


# Built, compared, switched to ------------------------------------------------------------------


async def test_readers_see_the_next_version_from_the_switch_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the version before when it was rolled back; both are up to date all the while."""
    async with home(tmp_path) as it:
        replay, version = await _old_and_new(it, monkeypatch)
        seen = [await _plays(it.runtime, it.ref("7"))]
        await replay.check(version)
        await replay.speak(version)
        seen.append(await _plays(it.runtime, it.ref("7")))
        await it.take([played("7", event="e3")])
        seen.append(await _plays(it.runtime, it.ref("7")))
        await replay.speak(await replay.previous("progress"))
        seen.append(await _plays(it.runtime, it.ref("7")))
        await replay.speak(await replay.built("progress"))
        seen.append(await _plays(it.runtime, it.ref("7")))
    assert seen == [2, 1, 2, 3, 2]


async def test_a_diff_tells_figures_and_random_references_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal where the step is the same; else how many differ, and which references."""
    async with home(tmp_path) as it:
        await it.take([played("9", event="e0")])
        replay, _ = await _old_and_new(it, monkeypatch)
        differing = await replay.diff("progress")
        await build(replay, "subject_view")
        equal = await replay.diff("subject_view")
        refs = {it.ref(name).hex() for name in ("7", "8")}
    assert (differing.keys, differing.only, differing.different, differing.moving) == ((3, 3), (0, 0), 2, 0)
    assert (set(differing.refs), differing.is_empty) == (refs, False)
    assert differing.digest[0] != differing.digest[1]
    assert (equal.is_empty, equal.digest[0] == equal.digest[1], equal.keys) == (True, True, (3, 3))


async def test_a_diff_counts_who_is_in_one_version_only(tmp_path: Path) -> None:
    """Who has a row that was lost, and nobody of whom neither version knows anything."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1"), played("8", event="e2")])
        await it.take([registered("9", event="e3", email="x@example.com")])
        replay = replay_of(it.runtime)
        version = await build(replay)
        lost = it.ref("7")
        partition = partition_of(lost, it.runtime.partitions)
        await it.runtime.log.append(version.view, [NewRecord(partition, lost, None)])
        diff = await replay.diff("progress")
    assert (diff.keys, diff.only, diff.different, diff.refs) == ((2, 1), (1, 0), 0, (lost.hex(),))


async def test_a_version_is_compared_while_data_flows(tmp_path: Path) -> None:
    """Whoever gets a record meanwhile is looked at again, until a moment is found."""
    async with home(tmp_path) as it:
        await it.take([played(str(n), event=f"e{n}") for n in range(20)])
        replay = replay_of(it.runtime)
        await build(replay)

        async def flow() -> None:
            for number in range(100, 10_000):
                await it.take([played(str(number % 20), event=f"e{number}")])
                await asyncio.sleep(0.02)

        flowing = asyncio.create_task(flow())
        try:
            diff = await replay.diff("progress")
        finally:
            flowing.cancel()
            with suppress(asyncio.CancelledError):
                await flowing
    assert (diff.keys, diff.is_empty) == ((20, 20), True)


async def test_versions_are_folded_by_whoever_runs_the_passes(tmp_path: Path) -> None:
    """Another process takes the version up without being told, and `replay verify` covers it."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        version = await replay_of(it.runtime).begin("progress", rate=None)
        _release(it.runtime)
        async with bootstrap.open_runtime(settings(tmp_path)) as other:
            await other.passes.settle()
            assert await _raw(other, version, it.ref("7")) is not None
            report = await verify(other, "progress")
    assert [(one.pass_name, one.table) for one in report.tables if one.table == "progress"] == [
        ("core", "progress"), ("progress-v2", "progress"),
    ]  # fmt: skip
    assert report.is_equal


# Refusals --------------------------------------------------------------------------------------


async def test_nothing_is_switched_to_that_is_not_there(tmp_path: Path) -> None:
    """Neither forward nor back, and what speaks is not dropped."""
    async with home(tmp_path) as it:
        replay = replay_of(it.runtime)
        assert await _refused(replay.built("progress")) is Refusal.VERSION_UNKNOWN
        assert await _refused(replay.previous("progress")) is Refusal.VERSION_UNKNOWN
        assert await _refused(replay.to_cancel("progress")) is Refusal.VERSION_UNKNOWN
        assert await _refused(replay.to_drop("progress", 2)) is Refusal.VERSION_UNKNOWN
        assert await _refused(replay.to_drop("progress", 1)) is Refusal.VERSION_SPEAKS
        version = await build(replay)
        await replay.speak(version)
        assert await _refused(replay.to_drop("progress", 2)) is Refusal.VERSION_SPEAKS
        assert await _refused(replay.drop(version)) is Refusal.VERSION_SPEAKS


async def test_a_version_that_is_behind_is_not_switched_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how much is left."""
    monkeypatch.setattr("privacy_ledger.app.replay.SHORTLY_S", 0.3)
    async with home(tmp_path) as it:
        await it.take([played(str(n % 5), event=f"e{n}") for n in range(60)])
        replay = replay_of(it.runtime)
        version = await replay.begin("progress", rate=4)
        assert await _refused(replay.check(version)) is Refusal.VERSION_BEHIND
        assert await _refused(replay.diff("progress")) is Refusal.VERSION_BEHIND
        (_, status) = await replay.status("progress")
    assert (status.state, status.rate_limit) == ("building", 4)
    assert status.behind > 0


async def test_a_version_with_an_erased_person_is_refused(tmp_path: Path) -> None:
    """However the row came there; without it the same version may speak."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1"), played("8", event="e2")])
        replay = replay_of(it.runtime)
        version = await build(replay)
        ref = it.ref("7")
        row = await _raw(it.runtime, version, ref)
        await it.erasure().erase((ref,))
        gone = await _raw(it.runtime, version, ref)
        partition = partition_of(ref, it.runtime.partitions)
        await it.runtime.log.append(version.view, [NewRecord(partition, ref, row)])
        assert await _refused(replay.check(version)) is Refusal.ERASED_REAPPEARS
        await it.runtime.log.append(version.view, [NewRecord(partition, ref, None)])
        await replay.check(version)
    assert (row is not None, gone) == (True, None)


# Erasure and rotation reach every version -------------------------------------------------------


@pytest.mark.parametrize("moment", ["building", "built", "switched"])
async def test_nothing_of_an_erased_person_can_be_read_in_any_version(tmp_path: Path, moment: str) -> None:
    """The keys of the version die with the others, and its own pass removes the row."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1"), *(played("8", event=f"f{n}") for n in range(40))])
        replay = replay_of(it.runtime)
        ref = it.ref("7")
        if moment == "building":
            version = await replay.begin("progress", rate=20)
            while await _raw(it.runtime, version, ref) is None:
                await it.runtime.passes.advance()
                await asyncio.sleep(0.01)
            _release(it.runtime)
            (_, status) = await replay.status("progress")
            assert status.state == "building"
        else:
            version = await build(replay)
        if moment == "switched":
            await replay.speak(version)
        before = await _raw(it.runtime, version, ref)
        assert before is not None
        assert version.states.open_many(version.table, [(ref, before)]) != [None]
        assert await it.runtime.views.answering(ref) == ("progress.v1", "progress.v2", "subject_view.v1")
        (outcome,) = await it.erasure().erase((ref,))
        assert outcome.is_completed
        assert await it.runtime.views.answering(ref) == ()
        assert version.states.open_many(version.table, [(ref, before)]) == [None]
        await replay.begin("progress", rate=None)
        await replay.follow(version)
        assert await _raw(it.runtime, version, ref) is None
        assert await it.runtime.views.get(progress.TABLE, ref) is None
        assert (await verify(it.runtime)).is_equal
        await replay.check(version)


async def test_an_erasure_is_not_complete_while_a_version_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that no shred reaches keeps it open until the version's own pass has removed it."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        version = await build(replay_of(it.runtime))
        ref = it.ref("7")
        unsealed = b"\0" + msgspec.msgpack.encode(await it.runtime.views.get(progress.TABLE, ref))
        partition = partition_of(ref, it.runtime.partitions)
        await it.runtime.log.append(version.view, [NewRecord(partition, ref, unsealed)])
        _release(it.runtime)
        with monkeypatch.context() as still:
            stop_versions(still)
            (first,) = await it.erasure().erase((ref,))
            assert await it.runtime.views.answering(ref) == ("progress.v2",)
        (second,) = await it.erasure().erase((ref,))
    open_steps = ("derived", "verified", "versions of projections: unreachable")
    assert (first.is_completed, first.open_steps) == (False, open_steps)
    assert second.is_completed


async def test_a_withdrawal_rotates_the_keys_of_every_version(tmp_path: Path) -> None:
    """The state of before cannot be read any more, in the old version as in the new one."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        await it.runtime.passes.settle(await it.subjects.grant(ADA, PURPOSE))
        now = it.runtime.clock.now
        await it.take([viewed("7", event="v1", at=now() + timedelta(seconds=1))])
        replay = replay_of(it.runtime)
        version = await build(replay, "subject_view")
        old = await _raw(it.runtime, version, it.ref("7"))
        await it.runtime.passes.settle(await it.subjects.withdraw(ADA, PURPOSE))
        await replay.follow(version)
        new = await _raw(it.runtime, version, it.ref("7"))
        opened = version.states.open_many(version.table, [(it.ref("7"), old), (it.ref("7"), new)])
        assert [one is None for one in opened] == [True, False]
        assert (await replay.diff("subject_view")).is_empty
        assert (await verify(it.runtime)).is_equal


# A replay is muted -----------------------------------------------------------------------------


async def test_a_replay_leaves_nothing_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that its step cannot take parks the subject there, and no pointer goes out."""

    def broken(self: progress.Progress, part: ProgressPart | None, record: Record) -> ProgressPart:
        if record.ref == victim:
            raise ZeroDivisionError
        return RIGHT(self, part, record)

    async with home(tmp_path) as it:
        await it.take([played("7", event="e1"), played("8", event="e2")])
        victim = it.ref("7")
        before = {topic: len(await it.rows(topic)) for topic in (DLQ, "ledger.events.v1")}
        monkeypatch.setattr(progress.Progress, "step", broken)
        replay = replay_of(it.runtime)
        version = await build(replay)
        (_, parked) = await replay.status("progress")
        after = {topic: len(await it.rows(topic)) for topic in (DLQ, "ledger.events.v1")}
        monkeypatch.setattr(progress.Progress, "step", RIGHT)
        _release(it.runtime)
        await replay.follow(version)
        (_, mended) = await replay.status("progress")
        assert (await replay.diff("progress")).is_empty
    assert (parked.parked, mended.parked) == (1, 0)
    assert before == after


async def test_a_version_writes_nothing_but_its_own_topics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies, refusals and an erasure make the core send tombstones, and a version none."""
    written: dict[str, set[str]] = {}
    atomically = LocalLog.append_atomically

    async def spying(self: LocalLog, writes: Sequence[tuple[str, NewRecord]], *, writer: str) -> None:
        written.setdefault(writer.partition(".")[0], set()).update(topic for topic, _ in writes)
        await atomically(self, writes, writer=writer)

    monkeypatch.setattr(LocalLog, "append_atomically", spying)
    async with home(tmp_path, is_exact=False) as it:
        await it.take([played("7", event="e1"), played("8", event="e2"), played("7", event="e1")])
        replay = replay_of(it.runtime)
        version = await build(replay)
        await it.erasure().erase((it.ref("7"),))
        await replay.follow(version)
        assert [row for row in await it.rows() if row.value is None] != []
    assert written["progress-v2"] == {topic.name for topic in version.topics}


# Dropping --------------------------------------------------------------------------------------


def _live_keys(runtime: Runtime, group: str) -> int:
    """Return how many keys of a group can still open something."""
    assert runtime.home is not None
    connection = sqlite3.connect(runtime.home.path / "keystore.db")
    (count,) = connection.execute(
        "SELECT count(*) FROM keys WHERE grp = ? AND shredded_at IS NULL", (group,)
    ).fetchone()
    connection.close()
    return int(count)


async def _rows(it: TestHome, version: Folded) -> int:
    return sum([len(await it.rows(topic.name)) for topic in version.topics])


async def test_a_cancelled_version_is_gone_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    """Rows and keys; the version that speaks lost nothing."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1"), played("8", event="e2")])
        replay = replay_of(it.runtime)
        version = await build(replay)
        held = [_live_keys(it.runtime, group) for group in version.groups]
        _release(it.runtime)
        destroyed = await replay.drop(await replay.to_cancel("progress"))
        left = [_live_keys(it.runtime, group) for group in version.groups]
        assert (held, left, destroyed) == ([2, 2], [0, 0], 4)
        assert await _rows(it, version) == 0
        assert await _plays(it.runtime, it.ref("7")) == 1
        await it.take([played("7", event="e3")])
        assert await _rows(it, version) == 0
        again = await build(replay)
        assert (again.version, (await replay.diff("progress")).is_empty) == (3, True)
        assert [one.version for one in await replay.status("progress")] == [1, 3]


async def test_the_declared_version_can_be_dropped_when_another_speaks(tmp_path: Path) -> None:
    """Its pass goes on without it; erasure, rebuild and the next build know."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1"), played("8", event="e2")])
        replay = replay_of(it.runtime)
        await replay.speak(await build(replay))
        _release(it.runtime)
        first = await replay.to_drop("progress", 1)
        assert await replay.drop(first) == 2
        await it.take([played("7", event="e3")])
        assert (await _rows(it, first), _live_keys(it.runtime, first.groups[0])) == (0, 0)
        assert await _plays(it.runtime, it.ref("7")) == 2
        assert await _refused(replay.previous("progress")) is Refusal.VERSION_UNKNOWN
        third = await build(replay)
        assert (third.version, (await replay.diff("progress")).is_empty) == (3, True)
        (outcome,) = await it.erasure().erase((it.ref("8"),))
        assert outcome.is_completed
        report = await verify(it.runtime)
        assert report.is_equal
        assert {one.pass_name for one in report.tables if one.table == "progress"} == {
            "progress-v2", "progress-v3",
        }  # fmt: skip


@pytest.mark.parametrize("which", [1, 2])
async def test_a_holder_of_the_home_lets_go_of_a_version_that_another_process_drops(
    tmp_path: Path, which: int
) -> None:
    """It is fenced in the middle of its work, and goes on with what is left."""
    source = Source(name="test", parse=parse)
    async with home(tmp_path) as it, bootstrap.open_runtime(settings(tmp_path)) as other:
        await it.take([played("7", event="e1")])
        replay = replay_of(it.runtime)
        version = await build(replay)
        if which == 1:
            await replay.speak(version)
        assert await it.runtime.passes.advance()
        stop = asyncio.Event()

        async def work() -> None:
            for number in count():
                if stop.is_set():
                    return
                await it.ingest.run([(1, played("7", event=f"n{number}"))], source)
                await it.runtime.passes.advance()

        working = asyncio.create_task(work())
        try:
            dropping = replay_of(other)
            gone = await dropping.to_drop("progress", which)
            await dropping.drop(gone)
            await asyncio.sleep(0.2)
        finally:
            stop.set()
            await working
        await it.runtime.passes.settle()
        assert await _rows(it, gone) == 0
        assert [_live_keys(it.runtime, group) for group in gone.groups] == [0] * len(gone.groups)
        assert await _plays(it.runtime, it.ref("7")) > 1
        assert (await verify(it.runtime)).is_equal


async def test_two_operators_at_once_decide_one_after_the_other(tmp_path: Path) -> None:
    """Whoever comes second decides on what the first one left."""
    async with home(tmp_path) as it, bootstrap.open_runtime(settings(tmp_path)) as other:
        await it.take([played("7", event="e1")])
        one, two = replay_of(it.runtime), replay_of(other)
        both = await asyncio.gather(one.begin("progress", rate=None), two.begin("progress", rate=9))
        assert [version.version for version in both] == [2, 2]
        await one.follow(both[0])
        _release(it.runtime)
        results = await asyncio.gather(one.speak(both[0]), two.drop(both[1]), return_exceptions=True)
        refused = [result for result in results if isinstance(result, RefusedByPolicy)]
        assert len(refused) == 1, results
        assert await _plays(it.runtime, it.ref("7")) == 1


# Pace ------------------------------------------------------------------------------------------


async def test_a_build_keeps_to_its_rate_and_nobody_waits_for_it(tmp_path: Path) -> None:
    """Commands go on meanwhile; a new rate holds at once."""
    loop = asyncio.get_running_loop()
    async with home(tmp_path) as it:
        await it.take([played("7", event=f"e{n}") for n in range(60)])
        replay = replay_of(it.runtime)
        version = await replay.begin("progress", rate=40)
        seen: list[Progress] = []
        started = loop.time()
        await it.take([played("8", event="x")])
        took = loop.time() - started
        with suppress(TimeoutError):
            await asyncio.wait_for(replay.follow(version, on_progress=seen.append), 1.5)
        slow = seen[-1].passed
        await replay.begin("progress", rate=None)
        await replay.follow(version)
        quick = await replay.follow(version)
    assert took < 1.5
    assert slow < quick.of
    assert quick.behind == 0


# The law ---------------------------------------------------------------------------------------


ACTIONS: Final = ("play", "play", "view", "grant", "withdraw", "restrict", "lift", "erase", "crash")


@pytest.mark.parametrize("seed", range(6))
async def test_a_build_equals_a_rebuild_whenever_it_is_looked_at(tmp_path: Path, seed: int) -> None:
    """While people use their rights, owners die and the build is begun anywhere: at every point."""
    random = Random(seed)
    async with home(tmp_path) as it:
        await it.take([played(str(n), event=f"first-{n}") for n in range(4)])
        replay = replay_of(it.runtime)
        begin_at = random.randrange(30)
        for number in range(40):
            if number == begin_at:
                name = random.choice(("progress", "subject_view"))
                await replay.begin(name, rate=random.choice((None, 60)))
            with suppress(RefusedByPolicy):  # of somebody who was erased
                await _act(it, random.choice(ACTIONS), str(random.randrange(4)), number=number)
            if random.random() < 0.4:
                await it.runtime.passes.settle()
            if number > begin_at and random.random() < 0.3:
                report = await verify(it.runtime)
                assert [one for one in report.tables if not one.equal] == []
        await it.runtime.passes.settle()
        for name in replay.projections:
            version = await replay.candidate(name)
            if version is not None:
                await replay.begin(name, rate=None)
                await replay.follow(version)
                assert (await replay.diff(name)).is_empty
                await replay.check(version)
        assert (await verify(it.runtime)).is_equal


async def _act(it: TestHome, action: str, who: str, *, number: int) -> None:
    """Let a person do something, or something happen to the owner of the passes."""
    now, subject = it.runtime.clock.now(), f"openedx:user_id:{who}"
    match action:
        case "play":
            await it.take([played(who, event=f"p{number}")])
        case "view":
            await it.take([viewed(who, event=f"v{number}", at=now + timedelta(seconds=1))])
        case "grant":
            await it.subjects.grant(subject, PURPOSE)
        case "withdraw":
            await it.subjects.withdraw(subject, PURPOSE)
        case "restrict":
            await it.subjects.restrict(subject, ground="accuracy")
        case "lift":
            await it.subjects.lift(subject, notified_at=now)
        case "erase" if number % 3 == 0:
            await it.erasure().erase((it.ref(who),))
        case "crash":
            _release(it.runtime)
        case _:
            pass


async def test_a_version_folds_permissions_of_its_own(tmp_path: Path) -> None:
    """They are the same as those that are published, fences included, under keys of its own."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1"), played("8", event="e2")])
        replay = replay_of(it.runtime)
        version = await build(replay)
        await it.erasure().erase((it.ref("7"),))
        await replay.follow(version)
        for name in ("7", "8"):
            ref = it.ref(name)
            partition = partition_of(ref, it.runtime.partitions)
            key = version.states.changelog_key(PERMISSIONS, ref)
            sealed = await it.runtime.latest.get(version.states.topic(PERMISSIONS), partition, key)
            (own,) = version.states.open_many(PERMISSIONS, [(ref, sealed)])
            assert own == await it.runtime.views.get(PERMISSIONS, ref)


async def test_a_reader_goes_on_with_the_old_version_until_the_new_one_has_passed_the_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would answer with a state of before its own beginning."""
    async with home(tmp_path) as it:
        replay, version = await _old_and_new(it, monkeypatch)
        _release(it.runtime)
        with monkeypatch.context() as still:
            stop_versions(still)
            await replay.speak(version)
            meta = await it.runtime.views.meta(0)
            held = await _plays(it.runtime, it.ref("7"))
        await it.runtime.passes.settle()
        seen = await _plays(it.runtime, it.ref("7"))
    assert (meta.versions, held, seen) == ({"progress": 2}, 2, 1)


def stop_versions(patch: pytest.MonkeyPatch) -> None:
    """Let nobody run the passes of versions, nor wait for them."""
    current, required = HomeLanes.current, HomeLanes.required

    async def declared_only(self: HomeLanes) -> tuple[Lane, ...]:
        return tuple(lane for lane in await current(self) if not isinstance(lane.declaration, VersionPass))

    async def of_the_declared(self: HomeLanes) -> tuple[str, ...]:
        return tuple(name for name in await required(self) if name in {"core", "analytics"})

    patch.setattr(HomeLanes, "current", declared_only)
    patch.setattr(HomeLanes, "required", of_the_declared)
