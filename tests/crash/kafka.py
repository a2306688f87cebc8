"""Real engines on a real broker, one after the other, each ended at a point of its own."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from privacy_ledger.app.ingest import Source
from privacy_ledger.bootstrap import Runtime, engine_for, open_runtime, subjects_of
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.engine.declaration import CORE
from privacy_ledger.engine.kafka import KafkaEngine
from privacy_ledger.engine.pace import Pace
from privacy_ledger.ports.keys import Identity
from privacy_ledger.ports.log import Row
from privacy_ledger.testing.checkers import Evidence, violations
from privacy_ledger.testing.crashes import History, Report, Violation
from privacy_ledger.testing.faults import Mode, Point, Seam, Stopped
from tests.integration.cluster import Cluster, until
from tests.unit.home import parse, played, registered, unreadable, unwaiting, viewed

NAME: Final = "engine"
PURPOSE: Final = "improve.analyse"
KEPT: Final = "1"
PARKED: Final = "2"
LOOK_EVERY: Final = 25
"""Engines that end one after the other before all is settled and looked at."""
ATTEMPTS_MAX: Final = 20
"""In which cycle a sweep meets a person lies with their reference: not every life makes as many calls."""
FOLDING: Final = "folding"
"""What stands before the names of calls that come after the take-over."""
LEAVING: Final = "leaving"
"""What stands before the names of calls that an engine makes in vain, so that the next has work."""
LOAD_RECORDS: Final = 10
WAIT_S: Final = 60.0
POLL_S: Final = 0.02


class Gate(Pace):
    """Holds an engine between two polls while it is shut, so that what is appended comes in one."""

    def __init__(self) -> None:
        """Let everything pass."""
        super().__init__()
        self.is_shut = False
        self.holds = False

    async def rest(self, count: int, *, until: asyncio.Event) -> None:
        """Wait while the gate is shut, or until the event."""
        while self.is_shut and not until.is_set():
            self.holds = True
            await asyncio.sleep(POLL_S)
        self.holds = False
        await super().rest(count, until=until)


class Life:
    """One engine while it runs: whether it has taken over, and whether it is over."""

    def __init__(self, engine: KafkaEngine, seam: Seam) -> None:
        """Name the calls after the take-over apart."""
        self.has_taken_over = False
        self.is_over = False
        self.seam = seam
        self.gate = engine.pace = Gate()

        def take(_: int) -> None:
            seam.phase = FOLDING
            self.has_taken_over = True

        engine.on_acquired = take


class Engines:
    """The core pass of one cluster, run by engines of this process in turn; use `opened`."""

    def __init__(self, cluster: Cluster, runtime: Runtime, history: History) -> None:
        """Take a runtime that looks on and appends what there is to fold."""
        self._cluster = cluster
        self._runtime = runtime
        self._history = history
        self._loads = 0
        self.points: tuple[Point, ...] = ()

    @classmethod
    @asynccontextmanager
    async def opened(cls, cluster: Cluster) -> AsyncIterator["Engines"]:
        """Yield the engines of a fresh cluster that holds two people; one of them is parked."""
        history = History()
        async with open_runtime(cluster.settings, wrap=Seam(on_write=history.note)) as runtime:
            engines = cls(cluster, runtime, history)
            await runtime.registrar.tick()
            await engines.life(engines._settled, None)
            lines = [played(KEPT, event="k0"), viewed(KEPT, event="k1"), played(PARKED, event="p0")]
            await engines._take(lines, consents=(PURPOSE,))
            (found,) = runtime.vault.find((Identity("openedx:user_id", PARKED),))
            assert found is not None
            rows = await runtime.log.read(LEDGER_EVENTS, 0, after=-1)
            await runtime.log.append(LEDGER_EVENTS, (unreadable(rows, found.ref, runtime.ids),))
            await engines._take([played(PARKED, event="p1")])
            yield engines

    # What there is to fold --------------------------------------------------------------------

    async def load(self) -> None:
        """Append what makes a cycle do all it can: copies, a purge and a lift that fold again, a tick."""
        self._loads += 1
        name = f"{1000 + self._loads}"
        subjects, now = await subjects_of(self._runtime), self._runtime.clock.now
        lines = [
            registered(name, event=f"r{name}", email="ada@example.com"), played(name, event=f"a{name}"),
            *(viewed(name, event=f"v{number}-{name}") for number in range(2)),
        ]  # fmt: skip
        await self._take(lines, consents=(PURPOSE,))
        await self._take(lines[:2])
        await subjects.withdraw(f"openedx:user_id:{name}", PURPOSE)
        await subjects.restrict(f"openedx:user_id:{name}", ground="accuracy")
        await self._take([played(name, event=f"k{name}")])
        await subjects.lift(f"openedx:user_id:{name}", notified_at=now())
        await self._runtime.registrar.tick(force=True)

    async def _take(self, lines: Iterable[bytes], *, consents: tuple[str, ...] = ()) -> None:
        """Ingest as an edge that knows no copies, and that waits for no pass."""
        ingest = await unwaiting(self._runtime)
        source = Source(name="test", parse=parse, default_consents=consents)
        summary = await ingest.run(enumerate(lines, start=1), source)
        assert not summary.refused, summary.reasons

    # Engines ------------------------------------------------------------------------------------

    async def life(self, work: Callable[["Life"], Coroutine[Any, Any, None]], stop_at: Point | None) -> Seam:
        """Run an engine until it ends at a point, or until `work` is done; return its seam.

        An engine that has ended is unwound, so that its folder and its place in the group are free
        for the next: after a kill the system and the session timeout see to that. Its store's files
        become what they were at the end: what lay in memory only is lost.
        """
        asyncio.get_running_loop().set_exception_handler(_not_of_the_dead)
        state, left = self._cluster.folder / "state", self._cluster.folder / "left"
        seam = Seam(stop_at=stop_at, on_write=self._history.note, on_stop=lambda: _copy(state, left))
        try:
            async with open_runtime(self._cluster.settings, prepare=False, wrap=seam) as runtime:
                engine = engine_for(runtime, runtime.declared[CORE])
                life = Life(engine, seam)
                running, working = asyncio.create_task(engine.run()), asyncio.create_task(work(life))
                # No event to wait for: the end may come from another thread.
                while seam.stopped_at is None and not (working.done() or running.done()):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
                engine.stop()
                life.is_over = True
                await asyncio.gather(running, working, return_exceptions=True)
                working.result()
                running.result()
        except Stopped:
            pass
        if left.exists():
            shutil.rmtree(state)
            left.rename(state)
        return seam

    async def _taken(self, life: "Life") -> None:
        """Wait until the engine has taken over."""
        deadline = time.monotonic() + WAIT_S
        while not (life.is_over or life.has_taken_over):
            assert time.monotonic() < deadline, "the engine does not take over"
            await asyncio.sleep(POLL_S)

    async def _folded(self, life: "Life") -> None:
        """Wait until all is folded: twice, for what the first time appended."""
        await self._taken(life)
        deadline = time.monotonic() + WAIT_S
        for _ in range(2):
            while not life.is_over and await self._is_behind():
                assert time.monotonic() < deadline, "the engine does not come to the end"
                await asyncio.sleep(POLL_S)

    async def _worked(self, life: "Life") -> None:
        """Wait until all is folded, and then until more is."""
        await self._folded(life)
        if not life.is_over:
            await self.load()
        await self._folded(life)

    async def _settled(self, life: "Life") -> None:
        """Wait until all is folded, and a tick: what was carried out is then off the lists."""
        await self._folded(life)
        await self._runtime.registrar.tick(force=True)
        await self._folded(life)

    async def _is_behind(self) -> bool:
        """Return whether there is anything above the position of the pass, or in hand."""
        position = await self._runtime.views.position(CORE, 0)
        return position.busy_since is not None or bool(await self._waiting(limit=1))

    async def _waiting(self, *, limit: int) -> Sequence[Row]:
        """Return what lies above the position of the pass."""
        position = await self._runtime.views.position(CORE, 0)
        return await self._runtime.log.read(LEDGER_EVENTS, 0, after=position.offset, limit=limit)

    async def look(self) -> list[str]:
        """Settle, and return what the checkers find in the core pass."""
        await self.life(self._settled, None)
        ledger = structs.replace(self._runtime, declared={CORE: self._runtime.declared[CORE]})
        return await violations(Evidence(ledger, writes=self._history.writes, witness=self._history.witness))

    # All points ---------------------------------------------------------------------------------

    async def find(self) -> None:
        """Learn the points of an engine that takes over outstanding work and then folds more."""
        await self._be_ready()
        self.points = tuple((await self.life(self._folded, None)).points)

    async def end(self, point: Point) -> str | None:
        """Let an engine end at a point; return what went wrong.

        What an earlier one left will do, where the point is on the way; else the way is made.
        """
        is_folding = point.call.startswith(FOLDING)
        if is_folding:
            waiting = await self._waiting(limit=LOAD_RECORDS * 10)
            if sum(row.value is not None for row in waiting) < LOAD_RECORDS:
                await self.load()
        for _ in range(ATTEMPTS_MAX):
            seam = await self.life(self._worked if is_folding else self._taken, point)
            if seam.stopped_at is not None:
                return None
            await self._be_ready()
        return "the point was not reached"

    async def _be_ready(self) -> None:
        """See to it that work was decided and not carried out, and that there is more to fold.

        And that somebody is parked, whom the next engine takes up again.
        """
        last = Point(f"{LEAVING} log.append {LEDGER_EVENTS}", 1, Mode.BEFORE)
        if (await self.life(self._left, last)).stopped_at is None:
            raise AssertionError("no engine left work behind")
        await self.load()

    async def _left(self, life: "Life") -> None:
        """Wait until nothing is in hand, and then for what more work makes the engine do."""
        await self._folded(life)
        life.seam.phase = LEAVING
        life.gate.is_shut = True
        await until(lambda: life.gate.holds or life.is_over, look_s=POLL_S)
        await self.load()
        life.gate.is_shut = False
        await self._folded(life)

    async def enumerated(self, only: Sequence[Point] = (), *, every: int = 1) -> Report:
        """End an engine at every point once, or at these only, or at every so-many-th; look now and then."""
        await self.find()
        points = only or self.points[::every]
        ran, found, since = 0, list[Violation](), list[Point]()
        for number, point in enumerate(points, start=1):
            problem = await self.end(point)
            ran += problem is None
            found += [] if problem is None else [Violation(NAME, (point,), problem)]
            since.append(point)
            if number % LOOK_EVERY == 0 or number == len(points):
                found += [Violation(NAME, tuple(since), what) for what in await self.look()]
                since = []
        return Report(
            scenario=NAME, points=len(points), ran=ran, recovered=ran, pairs=0, violations=tuple(found)
        )


def _copy(state: Path, left: Path) -> None:
    """Copy what the stores have in files; an engine may end before it has any."""
    if state.exists():
        shutil.copytree(state, left)


def _not_of_the_dead(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what a task ended with that nobody waits for, unless its process has ended."""
    if not isinstance(context.get("exception"), Stopped):
        loop.default_exception_handler(context)
