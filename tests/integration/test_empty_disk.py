"""A worker that begins with an empty disk after an erasure: whoever was erased stays gone."""

import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.bootstrap import Runtime, erasure_of, subjects_of
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.topics import state_topic, view_topic
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import IdentityStatus
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.states import PERMISSIONS
from privacy_ledger.testing.broker import Broker
from privacy_ledger.testing.generator import user_id_of
from tests.integration.damage import LEARNERS, Damaged, lines

CHANGELOGS = (
    state_topic("core"),
    *(view_topic(name) for name in ("permissions", "progress", "subject_view")),
)


@pytest_asyncio.fixture
async def damaged(kafka: Broker, tmp_path: Path) -> AsyncIterator[Damaged]:
    """Yield a cluster of two partitions on which core has folded something and stopped."""
    cluster = Damaged(kafka.bootstrap, tmp_path, partitions=2)
    await cluster.create()
    await cluster.grow(1)
    yield cluster
    cluster.end()


async def somebody(runtime: Runtime) -> tuple[str, SubjectRef]:
    """Return the name and the reference of somebody whose progress is known."""
    subjects = await subjects_of(runtime)
    for number in range(LEARNERS):
        name = f"openedx:user_id:{user_id_of(number)}"
        with suppress(RefusedByPolicy):  # who did nothing is unknown
            ref = subjects.find(name).refs[0]
            if await runtime.views.get(progress.TABLE, ref) is not None:
                return name, ref
    raise AssertionError("nobody has any progress")


async def assert_gone(runtime: Runtime, name: str, ref: SubjectRef) -> None:
    """Assert that nothing answers for the erased person, and that nothing of theirs is read."""
    remains = await remains_of(PersonRows(runtime.log), runtime.vault, ref)
    assert (remains.live, remains.readable, remains.unknown) == (0, 0, 0)
    assert await runtime.views.live(ref) == ()
    assert await runtime.views.get(progress.TABLE, ref) is None
    assert await runtime.views.get(subject_view.TABLE, ref) is None
    permissions = await runtime.views.get(PERMISSIONS, ref)
    assert permissions is not None
    assert permissions.is_ended
    assert (await subjects_of(runtime)).find(name).status is IdentityStatus.ERASED


@pytest.mark.timeout(240)
async def test_a_worker_that_begins_with_an_empty_disk_brings_nobody_back(damaged: Damaged) -> None:
    """Restored from the changelogs, and folded anew from the ledger alone; the old lines come again."""
    async with damaged.core() as (runtime, _):
        await runtime.passes.settle(timeout_s=60)
        name, ref = await somebody(runtime)
        (done,) = await erasure_of(runtime).erase((ref,))
        assert done.is_completed
    for is_alone in (False, True):
        shutil.rmtree(damaged.folder / "state")
        if is_alone:
            await damaged.make_anew(*CHANGELOGS)
        async with damaged.core() as (runtime, engine):
            await runtime.passes.settle(timeout_s=90)
            await assert_gone(runtime, name, ref)
            await damaged.take(runtime, lines(1, 600))
            await damaged.exact(runtime)
            await assert_gone(runtime, name, ref)
            assert engine.is_ready
