"""Erasures on a cluster: the worker that writes the ticks looks after them, beside that work."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Final, cast

import pytest

from privacy_ledger import bootstrap
from privacy_ledger.adapters.views import TailedLatest
from privacy_ledger.app.expiry_care import Expired
from privacy_ledger.domain.errors import LogUnavailable
from privacy_ledger.domain.topics import view_topic
from privacy_ledger.domain.values import partition_of
from privacy_ledger.ports.log import EventLog, Row
from privacy_ledger.streams.states import PERMISSIONS
from processors import app
from tests.unit.home import home, registered

LOOKS: Final = 1000
FEW: Final = 2
LINES: Final = [registered("7", "ada", event="r1", email="ada@example.com")]


class Care:
    """What looks after erasures on a cluster: one is never done with, or fails; it counts its calls."""

    def __init__(self, failure: Exception | None = None) -> None:
        """Take how it fails."""
        self.failure = failure
        self.tended = self.finalised = self.forgot = self.expired = 0

    async def tend(self) -> None:
        """Fail, or go on for ever."""
        self.tended += 1
        if self.failure is not None:
            raise self.failure
        await asyncio.Event().wait()

    async def look_for_bytes(self) -> int:
        """See nothing."""
        return 0

    async def finalise(self) -> int:
        """Say nothing."""
        self.finalised += 1
        return 0

    async def expire(self) -> Expired:
        """Destroy nothing."""
        self.expired += 1
        return Expired()

    def forget(self) -> None:
        """Let go of what was read."""
        self.forgot += 1


class Registrar:
    """It counts its ticks."""

    def __init__(self) -> None:
        """Begin with none."""
        self.ticks = 0

    async def tick(self) -> None:
        """Tick once more."""
        self.ticks += 1


def a_worker(
    care: Care, monkeypatch: pytest.MonkeyPatch, *, tend_s: float, final_s: float = 3600.0
) -> tuple[bootstrap.Runtime, app.EngineService, Registrar]:
    """Return the parts of a worker that writes the ticks, without a cluster."""
    monkeypatch.setattr(app, "TICK_CHECK_S", 0.001)
    monkeypatch.setattr(app, "TEND_S", tend_s)
    monkeypatch.setattr(app, "FINAL_S", final_s)
    monkeypatch.setattr(app, "erasure_care_of", lambda _: care)
    monkeypatch.setattr(app, "expiry_of", lambda _: SimpleNamespace(tend=care.expire))
    monkeypatch.setattr(app.EngineService, "engines", [SimpleNamespace(is_registrar=True)])
    registrar = Registrar()
    latest = SimpleNamespace(forget=care.forget)
    runtime = cast("bootstrap.Runtime", SimpleNamespace(registrar=registrar, latest=latest))
    return runtime, app.EngineService(runtime, ()), registrar


async def test_on_a_cluster_an_erasure_that_is_not_done_holds_no_tick_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits for passes and stores, and the ticks do not wait for it."""
    care = Care()
    runtime, service, registrar = a_worker(care, monkeypatch, tend_s=0.0)
    tasks = [
        service.guard(app._tick(runtime, service)),  # noqa: SLF001 - the host's own
        service.guard(app._look_after_erasures(runtime, service, asyncio.Event())),  # noqa: SLF001
    ]
    for _ in range(LOOKS):
        if care.tended and registrar.ticks > FEW:
            break
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (care.tended, registrar.ticks > FEW, service.failure) == (1, True, None)


@pytest.mark.parametrize(
    ("is_rolled", "final_s", "is_asked"), [(False, 3600.0, False), (False, 0.0, True), (True, 3600.0, True)]
)
async def test_on_a_cluster_finality_and_what_is_due_are_looked_at_hourly_and_after_each_roll(
    monkeypatch: pytest.MonkeyPatch, *, is_rolled: bool, final_s: float, is_asked: bool
) -> None:
    """Once for a roll."""
    care, rolled = Care(), asyncio.Event()
    runtime, service, _ = a_worker(care, monkeypatch, tend_s=3600.0, final_s=final_s)
    if is_rolled:
        rolled.set()
    task = service.guard(app._look_after_erasures(runtime, service, rolled))  # noqa: SLF001 - the host's own
    for _ in range(LOOKS if is_asked else 20):
        if care.finalised and not rolled.is_set():
            break
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (care.finalised > 0, care.expired, rolled.is_set()) == (is_asked, care.finalised, False)


async def test_on_a_cluster_a_foreign_error_in_looking_after_erasures_takes_the_worker_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not pass unseen: nobody else there takes erasures up."""
    care = Care(OSError())
    runtime, service, _ = a_worker(care, monkeypatch, tend_s=0.0)
    task = service.guard(app._look_after_erasures(runtime, service, asyncio.Event()))  # noqa: SLF001 - the host's own
    await asyncio.wait_for(service.failed.wait(), 10.0)
    await asyncio.gather(task, return_exceptions=True)
    assert (service.failure, care.forgot) == (care.failure, 1)


async def test_on_a_cluster_erasures_are_tried_again_when_the_ledger_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the ledger itself says is no end."""
    care = Care(LogUnavailable("The log is away."))
    runtime, service, _ = a_worker(care, monkeypatch, tend_s=0.0)
    task = service.guard(app._look_after_erasures(runtime, service, asyncio.Event()))  # noqa: SLF001 - the host's own
    for _ in range(LOOKS):
        if care.tended > 1:
            break
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (care.tended > 1, service.failure) == (True, None)


class Reading:
    """A log that notes behind which offset each read began."""

    def __init__(self, log: EventLog) -> None:
        """Take the log."""
        self.log = log
        self.begun: list[int] = []

    async def read(self, topic: str, partition: int, *, after: int, limit: int) -> Sequence[Row]:
        """Read on."""
        self.begun.append(after)
        return await self.log.read(topic, partition, after=after, limit=limit)


async def test_partitions_that_were_let_go_are_read_again_from_the_beginning(tmp_path: Path) -> None:
    """And what they answer is the same; without that they are read on."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        reading, place = Reading(it.runtime.log), partition_of(it.ref("7"), it.runtime.partitions)
        latest, topic = TailedLatest(cast("EventLog", reading)), view_topic(PERMISSIONS.name)
        first = await latest.scan(topic, place, b"")
        again = await latest.scan(topic, place, b"")
        kept = reading.begun.count(-1)
        latest.forget()
        anew = await latest.scan(topic, place, b"")
    assert first
    assert (again, anew) == (first, first)
    assert (kept, reading.begun.count(-1)) == (1, 2)
