"""A rebuild from nothing after an erasure: whoever was erased stays gone, and everybody else is whole."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.domain.topics import TOPICS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import TestHome, home, played, registered, videos_of, viewed

PURPOSE: Final = "improve.analyse"
ADA: Final = "openedx:user_id:7"
FOLDED: Final = tuple(topic.name for topic in TOPICS if topic.name.startswith(("view.", "state.")))
LINES: Final = [
    *(
        line
        for who in ("7", "8")
        for line in (
            registered(who, f"name{who}", event=f"r{who}", email=f"p{who}@example.com"),
            *(played(who, event=f"p{who}{n}", video=f"v{n}") for n in range(3)),
            *(viewed(who, event=f"w{who}{n}") for n in range(3)),
        )
    )
]


def empty(folder: Path) -> int:
    """Remove everything that passes have folded, their positions with it; return how many rows went."""
    topics = ", ".join(f"'{name}'" for name in FOLDED)
    lanes = f"(SELECT lane FROM lanes WHERE topic IN ({topics}))"  # noqa: S608 - names of ours
    with closing(sqlite3.connect(folder / "home" / "ledger.db")) as connection, connection:
        gone = [
            connection.execute(f"DELETE FROM {table} WHERE lane IN {lanes}").rowcount  # noqa: S608
            for table in ("records", "heads")
        ]
        connection.execute(f"DELETE FROM lanes WHERE topic IN ({topics})")  # noqa: S608
    return sum(gone)


async def whole(it: TestHome, name: str) -> tuple[object, ...]:
    """Return what is known of a person, as it is read."""
    r, ref = it.runtime, it.ref(name)
    parts = await r.views.get(subject_view.TABLE, ref)
    assert parts is not None
    return (
        await videos_of(it, name),
        subject_view.merge(parts).counts,
        len(await r.views.live(ref)),
        {path: content for path, content in (await it.export(name)).items() if path != "manifest.json"},
    )


async def assert_gone(it: TestHome, ref: SubjectRef) -> None:
    """Assert that nothing answers for the erased, and that nothing of theirs is read or counted."""
    r = it.runtime
    remains = await remains_of(PersonRows(r.log), r.vault, ref)
    assert (remains.live, remains.readable, remains.unknown) == (0, 0, 0)
    assert await r.views.live(ref) == ()
    assert await r.views.get(progress.TABLE, ref) is None
    assert await r.views.get(subject_view.TABLE, ref) is None
    permissions = await r.views.get(PERMISSIONS, ref)
    assert permissions is not None
    assert permissions.is_ended
    assert r.vault.standing_of(ref).live == 0


@pytest.mark.parametrize("is_compacted", [False, True], ids=["their bytes are there", "compacted"])
@pytest.mark.parametrize("is_worker", [False, True], ids=["a command folds", "a worker folds"])
async def test_a_rebuild_from_an_empty_disk_brings_nobody_back(
    tmp_path: Path, *, is_worker: bool, is_compacted: bool
) -> None:
    """States, views and positions are gone: from offset 0 on it comes to the same, without the erased."""
    async with home(tmp_path) as it:
        await it.take(LINES, consents=(PURPOSE,))
        ref = it.ref("7")
        (done,) = await it.erasure().erase((ref,))
        assert done.is_completed
        if is_compacted:
            assert it.runtime.local is not None
            await it.runtime.local.compact()
        before = await whole(it, "8")
    removed = empty(tmp_path)
    async with home(tmp_path, is_worker=is_worker) as it:
        await it.runtime.passes.settle()
        await assert_gone(it, ref)
        after = await whole(it, "8")
        again = await it.take(LINES, consents=(PURPOSE,))
        await assert_gone(it, ref)
        assert await whole(it, "8") == after
        report = await verify(it.runtime)
        unfinished = await it.erasure().unfinished()
    assert removed > 0
    assert after == before
    assert (again.accepted, again.reasons) == (0, {"subject_erased": len(LINES) // 2})
    assert (report.is_equal, unfinished) == (True, 0)


@pytest.mark.parametrize("step", ["requested", "fenced", "shredded", "derived", "tombstones"])
async def test_an_erasure_that_was_cut_short_is_finished_after_a_rebuild(tmp_path: Path, step: str) -> None:
    """Whatever it had done: what the ledger says of it is enough to go on from an empty disk."""

    class Cut(BaseException):
        """The process ends here."""

    def cut(_ref: SubjectRef, done: str) -> None:
        if done == step:
            raise Cut

    async with home(tmp_path) as it:
        await it.take(LINES, consents=(PURPOSE,))
        ref, before = it.ref("7"), await whole(it, "8")
        with pytest.raises(Cut):
            await it.erasure().erase((ref,), on_step=cut)
    empty(tmp_path)
    async with home(tmp_path) as it:
        await it.runtime.passes.settle()
        (done,) = await it.erasure().resume()
        await it.runtime.passes.settle()
        await assert_gone(it, ref)
        assert await whole(it, "8") == before
        assert len(await it.leaves()) == 1
    assert done.is_completed
