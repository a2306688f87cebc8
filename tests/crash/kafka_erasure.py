"""Erasures on a real broker and a real PostgreSQL, each ended at a point of its own beside live workers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.app.erasure import ErasureOutcome
from privacy_ledger.app.ingest import Source
from privacy_ledger.bootstrap import (
    Runtime,
    audit_of,
    engine_for,
    erasure_care_of,
    erasure_of,
    open_runtime,
    subjects_of,
)
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.log import Row, header
from privacy_ledger.testing.checkers import Evidence, violations
from privacy_ledger.testing.crashes import History, Report, Violation
from privacy_ledger.testing.faults import Point, Seam, Stopped
from tests.integration.cluster import Cluster
from tests.unit.home import parse, played, registered, unwaiting, viewed

NAME: Final = "erasure-on-kafka"
PURPOSE: Final = "improve.analyse"
ERASING: Final = "erasing"
"""What stands before the names of the calls of an erasure, which are numbered apart from its start."""
KEPT: Final = "1"
LOOK_EVERY: Final = 25
ATTEMPTS_MAX: Final = 20
"""How often a saga looks where the passes are depends on them: not every run makes as many calls."""
_COMPLETED: Final = b"erasure.completed.v1"
_REQUESTED: Final = b"erasure.requested.v1"


class Sagas:
    """Erasures of one person after the other, beside workers that run all the while; use `opened`."""

    def __init__(self, cluster: Cluster, runtime: Runtime, history: History) -> None:
        """Take a runtime that looks on and appends what there is to erase."""
        self._cluster = cluster
        self._runtime = runtime
        self._history = history
        self._people = 0
        self._leaves = set[str | None]()
        self.points: tuple[Point, ...] = ()

    @classmethod
    @asynccontextmanager
    async def opened(cls, cluster: Cluster) -> AsyncIterator["Sagas"]:
        """Yield the sagas of a fresh cluster whose passes run here."""
        history = History()

        def seam() -> Seam:
            return Seam(on_write=history.note)

        async with (
            open_runtime(cluster.settings, wrap=seam()) as hosts,
            open_runtime(cluster.settings, wrap=seam()) as runtime,
        ):
            engines = [engine_for(hosts, declaration) for declaration in hosts.declared.values()]
            running = [asyncio.create_task(engine.run()) for engine in engines]
            try:
                sagas = cls(cluster, runtime, history)
                await runtime.registrar.tick()
                await sagas.take(KEPT)
                yield sagas
            finally:
                for engine in engines:
                    engine.stop()
                await asyncio.gather(*running)

    async def take(self, name: str) -> tuple[bytes, ...]:
        """Collect lines of a person; return them, for somebody may bring them again."""
        lines = (
            registered(name, event=f"r{name}", email="ada@example.com"),
            *(played(name, event=f"a{number}-{name}") for number in range(3)),
            viewed(name, event=f"v{name}"),
        )
        await self._runtime.passes.settle()
        ingest = await unwaiting(self._runtime)
        source = Source(name="test", parse=parse, default_consents=(PURPOSE,))
        summary = await ingest.run(enumerate(lines, start=1), source)
        assert summary.accepted == len(lines), summary.reasons
        await self._runtime.passes.settle()
        return lines

    # Erasures -----------------------------------------------------------------------------------

    async def _refs(self, it: Runtime, name: str) -> tuple[SubjectRef, ...]:
        return (await subjects_of(it)).find(f"openedx:user_id:{name}").refs

    async def run(self, name: str, stop_at: Point | None) -> tuple[Seam, tuple[ErasureOutcome, ...]]:
        """Erase a person by a runtime of its own, up to a point; return its seam and what came of it."""
        asyncio.get_running_loop().set_exception_handler(_not_of_the_dead)
        seam = Seam(stop_at=stop_at, on_write=self._history.note)
        done: tuple[ErasureOutcome, ...] = ()
        try:
            async with open_runtime(self._cluster.settings, prepare=False, wrap=seam) as it:
                seam.phase = ERASING
                done = await erasure_of(it).erase(await self._refs(it, name))
        except Stopped:
            pass
        return seam, done

    async def end(self, point: Point) -> tuple[bool, list[str]]:
        """Let an erasure end at a point and another process go on.

        Return whether it came to that point, and what is wrong at the end.
        """
        self._people += 1
        name = str(1000 + self._people)
        lines = await self.take(name)
        (ref,) = await self._refs(self._runtime, name)
        kids = [(row.value or b"")[1:33] for row in await self._rows(ref) if header(row.headers, "kid")]
        seam, _ = await self.run(name, point)
        async with open_runtime(self._cluster.settings, prepare=False) as it:
            await erasure_care_of(it).resume()
        _, done = await self.run(name, None)
        return seam.stopped_at is not None, await self._wrong(ref, kids, lines, done)

    async def _rows(self, ref: SubjectRef) -> list[Row]:
        """Return every record and tombstone of a person."""
        return list(await PersonRows(self._runtime.log).of(ref))

    async def _wrong(
        self, ref: SubjectRef, kids: Sequence[bytes], lines: Sequence[bytes], done: Sequence[ErasureOutcome]
    ) -> list[str]:
        """Return what an erasure promises and does not hold: complete, once, and for ever."""
        log, vault = self._runtime.log, self._runtime.vault
        again = await (await unwaiting(self._runtime)).run(
            enumerate(lines, start=1), Source(name="test", parse=parse, default_consents=(PURPOSE,))
        )
        await self._runtime.passes.settle()
        types = [header(row.headers, "ce_type") for row in await self._rows(ref)]
        audit = await audit_of(self._runtime).verify()
        remains = await remains_of(PersonRows(log), vault, ref)
        opened = [type(key).__name__ for key in vault.open_keys(list(kids)).values()]
        leaf = {one.leaf for one in done}
        self._leaves |= leaf
        found = {
            "completed": ([one.is_completed for one in done], [True]),
            "key groups": (vault.live_groups(ref), ()),
            "ended": (vault.is_ended(ref), True),
            "keys": (set(opened), {"Shredded"}),
            "remains": ((remains.live, remains.readable, remains.unknown), (0, 0, 0)),
            "live": (await self._runtime.views.live(ref), ()),
            "answering": (tuple(await self._runtime.views.answering(ref)), ()),
            "said": ((types.count(_REQUESTED), types.count(_COMPLETED)), (1, 1)),
            "taken again": (again.reasons, {"subject_erased": len(lines)}),
            "audit log": ((audit.leaves, audit.faults), (len(self._leaves), ())),
        }
        return [
            f"{name}: {is_so}, not {should}" for name, (is_so, should) in found.items() if is_so != should
        ]

    async def look(self) -> list[str]:
        """Settle, and return what the checkers find."""
        for _ in range(2):
            await self._runtime.registrar.tick(force=True)
            await self._runtime.passes.settle()
        return await violations(
            Evidence(self._runtime, writes=self._history.writes, witness=self._history.witness)
        )

    # All points ---------------------------------------------------------------------------------

    async def find(self) -> None:
        """Learn the points of an erasure: those that two of them have in common.

        How often one looks where the passes are depends on them.
        """
        passed = []
        for number in range(2):
            name = str(100 + number)
            await self.take(name)
            seam, done = await self.run(name, None)
            assert all(one.is_completed for one in done)
            self._leaves |= {one.leaf for one in done}
            passed.append([point for point in seam.points if point.call.startswith(ERASING)])
        both = set(passed[1])
        self.points = tuple(point for point in passed[0] if point in both)

    async def enumerated(self, only: Sequence[Point] = (), *, every: int = 1) -> Report:
        """End an erasure at every point once, or at these only, or at every so-many-th; look now and then."""
        await self.find()
        points = only or self.points[::every]
        ran, found, since = 0, list[Violation](), list[Point]()
        for number, point in enumerate(points, start=1):
            for _ in range(ATTEMPTS_MAX):
                was_reached, wrong = await self.end(point)
                found += [Violation(NAME, (point,), what) for what in wrong]
                if was_reached:
                    ran += 1
                    break
            since.append(point)
            if number % LOOK_EVERY == 0 or number == len(points):
                found += [Violation(NAME, tuple(since), what) for what in await self.look()]
                since = []
        return Report(
            scenario=NAME, points=len(points), ran=ran, recovered=ran, pairs=0, violations=tuple(found)
        )


def _not_of_the_dead(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what a task ended with that nobody waits for, unless its process has ended."""
    if not isinstance(context.get("exception"), Stopped):
        loop.default_exception_handler(context)
