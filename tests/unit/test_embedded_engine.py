"""The embedded engine on a real home: keys of live records, copies, owners in turn, poison."""

from datetime import timedelta
from pathlib import Path

import pytest

from privacy_ledger import bootstrap
from privacy_ledger.app.registrar import Registrar
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.streams import subject_view
from privacy_ledger.streams.progress import Progress, ProgressPart
from privacy_ledger.streams.record import Record
from tests.unit.home import home, played, settings, viewed

ADA = "openedx:user_id:7"
PURPOSE = "improve.analyse"


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
