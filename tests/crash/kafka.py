"""Real engines on a real broker, one after the other, each ended at a point of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from msgspec import structs

from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.app.ingest import Ingest, Source
from privacy_ledger.bootstrap import Runtime, engine_for, open_runtime, rules_in_force, subjects_of
from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_UNATTRIBUTED
from privacy_ledger.engine.declaration import CORE
from privacy_ledger.engine.line_up import LineUp
from privacy_ledger.engine.remote import RemotePasses
from privacy_ledger.ports.keys import Identity
from privacy_ledger.testing.checkers import Evidence, violations
from privacy_ledger.testing.crashes import History, Report, Violation
from privacy_ledger.testing.faults import Mode, Point, Seam, Stopped
from tests.integration.cluster import Cluster
from tests.unit.home import parse, played, registered, unreadable, viewed

NAME: Final = "engine"
PURPOSE: Final = "improve.analyse"
KEPT: Final = "1"
PARKED: Final = "2"
LOOK_EVERY: Final = 25
"""Engines that end one after the other before all is settled and looked at."""
ATTEMPTS_MAX: Final = 3
FOLDING: Final = "folding"
"""What stands before the names of calls that come after the take-over."""
LOAD_RECORDS: Final = 10
WAIT_S: Final = 60.0


class Engines:
    """The core pass of one cluster, run by engines of this process in turn; use `opened`."""

    def __init__(self, cluster: Cluster, runtime: Runtime, history: History) -> None:
        """Take a runtime that looks on and appends what there is to fold."""
        self._cluster = cluster
        self._runtime = runtime
        self._history = history
        core = LineUp({CORE: runtime.declared[CORE]}, runtime.parts.versions.read, declare=lambda _: None)
        self._passes = RemotePasses(runtime.log, runtime.views, core, source=LEDGER_EVENTS)
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
            await engines.settled()
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
        """Append what makes a cycle do all it can: copies, a purge and a lift that fold again."""
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
        await subjects.restrict(f"openedx:user_id:{KEPT}", ground="accuracy")
        await self._take([played(KEPT, event=f"k{name}")])
        await subjects.lift(f"openedx:user_id:{KEPT}", notified_at=now())

    async def _take(self, lines: Iterable[bytes], *, consents: tuple[str, ...] = ()) -> None:
        """Ingest as an edge that knows no copies, and that waits for no pass."""
        r = self._runtime
        lane = LedgerCodec(r.vault, partitions=r.partitions, stream=LEDGER_UNATTRIBUTED)
        ingest = Ingest(
            log=r.log, vault=r.vault, codec=r.codec, lane_codec=lane, views=r.views, clock=r.clock,
            ids=r.ids, rules=await rules_in_force(r),
        )  # fmt: skip
        source = Source(name="test", parse=parse, default_consents=consents)
        summary = await ingest.run(enumerate(lines, start=1), source)
        assert not summary.refused, summary.reasons

    # Engines ------------------------------------------------------------------------------------

    async def life(self, seam: Seam, until: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
        """Run an engine until it ends at the seam's point, or until `until` is done.

        `until` is told by an event when the engine has taken over. An engine that has ended is
        unwound, so that its folder and its place in the group are free for the next: after a kill
        the system and the session timeout see to that.
        """
        asyncio.get_running_loop().set_exception_handler(_not_of_the_dead)
        taken = asyncio.Event()

        def take(_: int) -> None:
            seam.phase = FOLDING
            taken.set()

        try:
            async with open_runtime(self._cluster.settings, prepare=False, wrap=seam) as runtime:
                engine = engine_for(runtime, runtime.declared[CORE])
                engine.on_acquired = take
                running = asyncio.create_task(engine.run())
                done, stopped = asyncio.create_task(until(taken)), asyncio.create_task(seam.stopped.wait())
                await asyncio.wait((running, done, stopped), return_when=asyncio.FIRST_COMPLETED)
                engine.stop()
                for task in (done, stopped):
                    if not task.done():
                        task.cancel()
                await asyncio.gather(running, done, stopped, return_exceptions=True)
                for task in (running, done):
                    if not task.cancelled():
                        task.result()
        except Stopped:
            return

    async def settled(self) -> None:
        """Let an engine do all that is due."""

        async def settle(_: asyncio.Event) -> None:
            await self._passes.settle(timeout_s=WAIT_S)
            await self._runtime.registrar.tick(force=True)
            await self._passes.settle(timeout_s=WAIT_S)

        await self.life(Seam(on_write=self._history.note), settle)

    async def look(self) -> list[str]:
        """Settle, and return what the checkers find in the core pass."""
        await self.settled()
        ledger = structs.replace(self._runtime, declared={CORE: self._runtime.declared[CORE]})
        return await violations(Evidence(ledger, writes=self._history.writes, witness=self._history.witness))

    # All points ---------------------------------------------------------------------------------

    async def find(self) -> None:
        """Learn the points of an engine that takes over outstanding work and then folds more."""
        await self._be_ready()
        seam = Seam(on_write=self._history.note)
        await self.life(seam, self._folded)
        self.points = tuple(seam.points)

    async def end(self, point: Point) -> str | None:
        """Let an engine end at a point; return what went wrong.

        What an earlier one left will do, where the point is on the way; else the way is made.
        """
        is_folding = point.call.startswith(FOLDING)
        if is_folding and not await self._is_waiting():
            await self.load()
        for _ in range(ATTEMPTS_MAX):
            seam = Seam(stop_at=point, on_write=self._history.note)
            await self.life(seam, self._folded if is_folding else self._taken)
            if seam.stopped_at is not None:
                return None
            await self._be_ready()
        return "the point was not reached"

    async def _taken(self, taken: asyncio.Event) -> None:
        await taken.wait()

    async def _folded(self, taken: asyncio.Event) -> None:
        await taken.wait()
        await self._passes.settle(timeout_s=WAIT_S)

    async def _be_ready(self) -> None:
        """See to it that work was decided and not carried out, and that there is more to fold."""
        await self.load()
        seam = Seam(
            stop_at=Point(f"{FOLDING} log.append {LEDGER_EVENTS}", 1, Mode.BEFORE),
            on_write=self._history.note,
        )
        await self.life(seam, self._folded)
        if seam.stopped_at is None:
            raise AssertionError("no engine left work behind")
        await self.load()

    async def _is_waiting(self) -> bool:
        """Return whether a whole load lies above the position."""
        position = await self._runtime.views.position(CORE, 0)
        rows = await self._runtime.log.read(LEDGER_EVENTS, 0, after=position.offset)
        return sum(row.value is not None for row in rows) >= LOAD_RECORDS

    async def enumerated(self) -> Report:
        """End an engine at every point once; look now and then."""
        await self.find()
        ran, found, since = 0, list[Violation](), list[Point]()
        for number, point in enumerate(self.points, start=1):
            problem = await self.end(point)
            ran += problem is None
            found += [] if problem is None else [Violation(NAME, (point,), problem)]
            since.append(point)
            if number % LOOK_EVERY == 0 or number == len(self.points):
                found += [Violation(NAME, tuple(since), what) for what in await self.look()]
                since = []
        return Report(
            scenario=NAME, points=len(self.points), ran=ran, recovered=ran, pairs=0, violations=tuple(found)
        )


def _not_of_the_dead(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what a task ended with that nobody waits for, unless its process has ended."""
    if not isinstance(context.get("exception"), Stopped):
        loop.default_exception_handler(context)
