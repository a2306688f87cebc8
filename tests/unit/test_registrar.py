"""Control records in every partition, and the registry, on the real embedded log."""

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec import Struct

from privacy_ledger import bootstrap
from privacy_ledger.adapters import registry
from privacy_ledger.app.registrar import Registrar, RegistryReader
from privacy_ledger.domain.errors import LogUnavailable, RefusedByPolicy
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import LEDGER_REGISTRY
from privacy_ledger.domain.values import NOBODY
from tests.unit.home import TestHome, home, played

DOCUMENT = b'{"version": 2}'
DIGEST = "ab" * 32


class FixedClock(Struct):
    """A clock that stands still."""

    at: datetime

    def now(self) -> datetime:
        """Return the time."""
        return self.at


def registrar(it: TestHome, *, ahead: timedelta, has_views: bool = True) -> Registrar:
    """Return a registrar whose clock is ahead of the log's."""
    r = it.runtime
    views = r.views if has_views else None
    return Registrar(r.log, r.codec, FixedClock(r.clock.now() + ahead), r.ids, views=views)


async def controls(it: TestHome, kind: str) -> list[int]:
    """Return the partition of each control record of a type."""
    rows = [row for row in await it.rows() if row.key.startswith(NOBODY)]
    return [row.partition for row in rows if dict(row.headers)["ce_type"].decode() == kind]


@pytest.mark.parametrize("has_views", [True, False])
async def test_a_tick_comes_once_an_hour_in_every_partition(tmp_path: Path, *, has_views: bool) -> None:
    """Unless it is forced; the first settle of a home wrote the first one."""
    async with home(tmp_path) as it:
        soon = registrar(it, ahead=timedelta(minutes=1), has_views=has_views)
        before = len(await controls(it, "tick.v1"))
        assert not await soon.tick()
        assert await soon.tick(force=True)
        found = await controls(it, "tick.v1")
        assert len(found) == before + it.runtime.partitions


@pytest.mark.parametrize("ahead", [timedelta(minutes=-10), timedelta(minutes=10), timedelta(days=400)])
async def test_a_clock_that_disagrees_with_the_log_writes_no_tick(tmp_path: Path, ahead: timedelta) -> None:
    """Ahead or behind, forced or not."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        before = await controls(it, "tick.v1")
        with pytest.raises(RefusedByPolicy) as raised:
            await registrar(it, ahead=ahead).tick(force=True)
        assert raised.value.refusal is Refusal.CLOCK_DISAGREES
        assert await controls(it, "tick.v1") == before


async def test_a_registry_is_published_and_adopted_once(tmp_path: Path) -> None:
    """By its content hash, with its own offset."""
    async with home(tmp_path) as it:
        use = registrar(it, ahead=timedelta())
        seen: list[bytes | None] = []

        def amended(current: bytes | None) -> tuple[bytes, str]:
            seen.append(current)
            return DOCUMENT, DIGEST

        assert await use.amend(amended)
        assert not await use.amend(amended)
        assert seen == [registry.encode(registry.seed()), DOCUMENT]
        reader = RegistryReader(it.runtime.log)
        offset, document = (await reader.documents())[DIGEST]
        assert document == DOCUMENT == await reader.load(DIGEST)
        rows = await it.rows(LEDGER_REGISTRY)
        assert rows[offset].value == DOCUMENT
        assert len(await controls(it, "rules.adopted.v1")) == 2 * it.runtime.partitions
        with pytest.raises(LogUnavailable):
            await reader.load("cd" * 32)


async def test_courses_are_added_once_and_read_up_to_an_offset(tmp_path: Path) -> None:
    """Sorted; a course that is known is not added again."""
    async with home(tmp_path) as it:
        use = registrar(it, ahead=timedelta())
        assert await use.add_courses(["b", "a", "b"]) == ("b", "a")
        cut = await it.runtime.log.end(LEDGER_REGISTRY, 0) - 1
        assert await use.add_courses(["a", "c"]) == ("c",)
        assert await use.catalogue() == ("a", "b", "c")
        assert await RegistryReader(it.runtime.log).catalogue(until_offset=cut) == ("a", "b")


async def test_a_window_is_opened_and_sealed_in_every_partition(tmp_path: Path) -> None:
    """In one transaction each."""
    async with home(tmp_path) as it:
        use = registrar(it, ahead=timedelta())
        shared = {"product": "course_views_daily", "window": "2026-01-01", "policy": "ab" * 32}
        await use.open_window(**shared, keyset=("a",))
        await use.seal_window(**shared, keyset=("a",), release="cd" * 16, is_early=True, was_opened=True)
        every = list(range(it.runtime.partitions))
        assert await controls(it, "window.opened.v1") == every
        assert await controls(it, "window.sealed.v1") == every


async def test_registrars_at_once_all_write_their_ticks(tmp_path: Path) -> None:
    """A command beside a worker: whoever is fenced has written nothing, and writes again."""
    async with home(tmp_path) as it, AsyncExitStack() as stack:
        await it.take([played("7", event="e1")])
        before = len(await controls(it, "tick.v1"))
        settings = it.runtime.settings
        others = [await stack.enter_async_context(bootstrap.open_runtime(settings)) for _ in range(4)]
        told = await asyncio.gather(*(one.registrar.tick(force=True) for one in others))
        assert told == [True] * len(others)
        found = await controls(it, "tick.v1")
        assert len(found) == before + len(others) * it.runtime.partitions
