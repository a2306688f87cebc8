"""Every point at which a process can end in a scenario, each tried: end there, restart, settle, check.

A run begins from one prepared folder, so that all points start from the same state. What a process
leaves behind is copied at the very instant of its end; whatever unwinding does afterwards happens
to the folder that nobody opens again. The next process opens the copy, lets everything settle, does
what the scenario does once more, as a person without an answer would, and is looked at by every
checker after each of the two.
"""

import asyncio
import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.domain.key_release import RIGHTS
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.ports.runtime import Wrap
from privacy_ledger.testing.checkers import Evidence, Ledger, violations
from privacy_ledger.testing.faults import Mode, Point, Seam, Stopped, Write
from privacy_ledger.testing.witness import Witness

__all__ = ["Crashes", "History", "Report", "Run", "Scenario", "Violation", "enumerate_crashes", "scratch"]

T = TypeVar("T")
_Body: TypeAlias = Callable[[T], Awaitable[None]]
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there


class Scenario(Protocol[T]):
    """What is done while a process may end at any call."""

    @property
    def name(self) -> str:
        """The name in reports."""
        ...

    @property
    def prepared_until(self) -> str | None:
        """The call before whose last occurrence the preparing process ends; None: it ends well."""
        ...

    def open(self, folder: Path, wrap: Wrap) -> AbstractAsyncContextManager[T]:
        """Open what lies in a folder, as a process of its own would."""
        ...

    def opened_to_look(self, folder: Path) -> AbstractAsyncContextManager[Ledger]:
        """Open what lies in a folder without doing any work that is due there."""
        ...

    async def prepare(self, it: T) -> None:
        """Bring about the state from which every run begins."""
        ...

    async def act(self, it: T) -> None:
        """Do it; doing it again after any crash must end in the same state."""
        ...

    async def settle(self, it: T) -> None:
        """Let all work that is due be done, and taken off its lists."""
        ...

    async def claims(self, it: T) -> list[str]:
        """Return what is not as the scenario promises, once it was done and all is settled."""
        ...


class Violation(Struct, frozen=True):
    """A promise that was broken after ends at one or two points."""

    scenario: str
    points: tuple[Point, ...]
    what: str

    def __str__(self) -> str:
        """Return the points, what happened, and the command that repeats it."""
        at = "".join(f" --at '{point}'" for point in self.points)
        where = ", then at ".join(f"`{point}`" for point in self.points) or "no point"
        return (
            f"{self.scenario}, ended at {where}: {self.what}\n"
            f"  repeat: uv run --group dev poe crash-points --scenario {self.scenario}{at}"
        )


class Run(Struct, frozen=True, kw_only=True):
    """One run: what was broken, and the points that its last process passed."""

    violations: tuple[Violation, ...]
    points: tuple[Point, ...]


class Report(Struct, frozen=True, kw_only=True):
    """What an enumeration did: points found and ended at, recoveries that were looked at, pairs."""

    scenario: str
    points: int
    ran: int
    recovered: int
    pairs: int
    violations: tuple[Violation, ...]


class History:
    """How a ledger came to be, over all processes so far."""

    def __init__(self) -> None:
        """Start with an empty ledger."""
        self.writes: list[Write] = []
        self.witness = Witness()
        self._looking = asyncio.Lock()

    def copy(self) -> "History":
        """Return a history that goes on apart from here."""
        other = History()
        other.writes, other.witness = list(self.writes), self.witness.copy()
        return other

    async def note(self, seam: Seam, writes: Sequence[Write]) -> None:
        """Note what a process has just written, and read the ledger on while it can be read."""
        self.writes += writes
        if any(write.topic == LEDGER_EVENTS for write in writes):
            log, vault = seam.bare["log"], seam.bare["vault"].released_to(RIGHTS)
            codec = LedgerCodec(vault, partitions=log.partitions(LEDGER_EVENTS))
            async with self._looking:
                await self.witness.look(log, codec)


class Crashes(Generic[T]):
    """The runs of one scenario, in folders below a scratch folder."""

    def __init__(self, scenario: Scenario[T], folder: Path) -> None:
        """Take the scenario and a folder for its runs; `prepare` comes first."""
        self._scenario = scenario
        self._folder = folder
        self._base = folder / "base"
        self._history = History()
        self.points: tuple[Point, ...] = ()
        self.distinct: frozenset[Point] = frozenset()

    async def prepare(self) -> None:
        """Make the folder from which every run begins."""
        until, prepare = self._scenario.prepared_until, self._scenario.prepare
        if until is None:
            await self._live(self._base, Seam(on_write=self._history.note, seed="base"), prepare)
            return
        passed = Seam(seed="base")
        await self._live(self._folder / "passed", passed, prepare)
        point = [p for p in passed.points if (p.call, p.mode) == (until, Mode.BEFORE)][-1]
        problem = await self._die(
            point, self._folder / "until", self._base, history=self._history, seed="base", body=prepare
        )
        if problem is not None:
            raise AssertionError(f"{self._scenario.name} could not be prepared: {problem}")

    async def calm(self, *, tells_apart: bool = True) -> Run:
        """Do it without an end, and look; `points` and `distinct` of this object are known then.

        What a process leaves at one point is, byte for byte, what it leaves at the next as long as
        no call in between had an effect. `distinct` has one point of each such row, and every point
        inside a call; without `tells_apart` it has all.
        """
        history, found = self._history.copy(), list[str]()
        folder = self._copy(self._base, "calm")
        states: list[tuple[Point, bytes]] = []

        def passed(point: Point) -> None:
            states.append((point, _digest(folder) if tells_apart else str(point).encode()))

        seam = Seam(on_write=history.note, seed=_seed(0), on_point=passed)

        async def act(it: T) -> None:
            await self._scenario.act(it)
            self.points = tuple(seam.points)
            await self._finish(it, found)

        await self._live(folder, seam, act)
        found += await self._look(folder, history)
        shutil.rmtree(folder)
        last, distinct = b"", set[Point]()
        for point, state in states[: len(self.points)]:
            if point.mode is Mode.PART or state != last:
                distinct.add(point)
            last = state
        self.distinct = frozenset(distinct)
        return self._run((), found, self.points)

    async def end(self, point: Point) -> Run:
        """End at a point, and see only that the process ends there."""
        problem = await self._die(
            point, self._copy(self._base, "act"), None,
            history=self._history.copy(), seed=_seed(0), body=self._scenario.act,
        )  # fmt: skip
        return self._run((point,), [problem] if problem else [], ())

    async def run(self, first: Point, *then: Point) -> Run:
        """End at a point, and then at points of the recoveries; recover, and look at everything.

        `points` of the run are those that the last recovery passed.
        """
        points = (first, *then)
        history, found = self._history.copy(), list[str]()
        folder = self._copy(self._base, "act")
        body: _Body[T] = self._scenario.act
        for number, point in enumerate(points):
            left = self._folder / f"left-{number}"
            problem = await self._die(point, folder, left, history=history, seed=_seed(number), body=body)
            if problem is not None:
                shutil.rmtree(left, ignore_errors=True)
                return self._run(points, [problem], ())
            folder, body = left, self._recovering(left, history, found)
        seam = Seam(on_write=history.note, seed=_seed(len(points)))
        try:
            await self._live(folder, seam, body)
            found += await self._look(folder, history)
        except Exception as error:  # noqa: BLE001 - whatever the recovery failed with is the finding
            found.append(f"the recovery failed: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
        return self._run(points, found, seam.points)

    # Processes ------------------------------------------------------------------------------

    def _recovering(self, folder: Path, history: History, found: list[str]) -> _Body[T]:
        """Return what a process does that comes after one that ended."""

        async def recover(it: T) -> None:
            await self._scenario.settle(it)
            copy = self._copy(folder, "looked-at")
            found.extend(await self._look(copy, history))
            shutil.rmtree(copy)
            await self._scenario.act(it)
            await self._finish(it, found)

        return recover

    async def _finish(self, it: T, found: list[str]) -> None:
        await self._scenario.settle(it)
        found.extend(await self._scenario.claims(it))
        await self._scenario.settle(it)

    async def _die(
        self, point: Point, folder: Path, left: Path | None, *, history: History, seed: str, body: _Body[T]
    ) -> str | None:
        """Run a process that ends at a point; `left` becomes what it leaves. Return what went wrong."""
        seam = Seam(
            stop_at=point, on_write=history.note, seed=seed,
            on_stop=None if left is None else lambda: shutil.copytree(folder, left),
        )  # fmt: skip
        problem = None
        try:
            await self._live(folder, seam, body)
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001 - whatever came instead of the end is the finding
            problem = f"{type(error).__name__} came out instead of the end: {error}"
        else:
            problem = "the process went on after its end" if seam.stopped_at else "the point was not reached"
        shutil.rmtree(folder, ignore_errors=True)
        return problem

    async def _live(self, folder: Path, seam: Seam, body: _Body[T]) -> None:
        """Run one process to its end, whatever it is."""
        async with self._scenario.open(folder, seam) as it:
            await body(it)

    async def _look(self, folder: Path, history: History) -> list[str]:
        """Return what every checker finds in a settled folder."""
        async with self._scenario.opened_to_look(folder) as ledger:
            return await violations(Evidence(ledger, writes=history.writes, witness=history.witness))

    def _run(self, points: Sequence[Point], found: Sequence[str], passed: Sequence[Point]) -> Run:
        name = self._scenario.name
        return Run(
            violations=tuple(Violation(name, tuple(points), what) for what in dict.fromkeys(found)),
            points=tuple(passed),
        )

    def _copy(self, folder: Path, name: str) -> Path:
        copy = self._folder / name
        if folder.exists():
            shutil.copytree(folder, copy)
        return copy


def _seed(number: int) -> str:
    """Return the seed of the ids of the process that comes after so many that ended."""
    return "act" if number == 0 else f"recovery-{number}"


def _digest(folder: Path) -> bytes:
    """Return a digest of what a killed process would leave; locks and shared memory go with it."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")) if folder.exists() else ():
        if path.is_file() and path.suffix != ".lock" and not path.name.endswith("-shm"):
            whole.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            whole.update(path.read_bytes())
    return whole.digest()


async def enumerate_crashes(
    scenario: Scenario[T],
    folder: Path,
    *,
    pairs: int = 0,
    seed: int = 0,
    every: bool = False,
    slice_of: tuple[int, int] = (0, 1),
) -> Report:
    """End at every point of a scenario, and at a sample of pairs: a point, and one of its recovery.

    What is left is recovered and looked at once for each distinct state, or with `every` for each
    point. `slice_of` (i, n) does every n-th point from the i-th.
    """
    crashes = Crashes(scenario, folder)
    await crashes.prepare()
    found = list((await crashes.calm(tells_apart=not every)).violations)
    mine = crashes.points[slice_of[0] :: slice_of[1]]
    recoveries: list[tuple[Point, Point]] = []
    ran = recovered = 0
    for point in mine:
        if point in crashes.distinct:
            run = await crashes.run(point)
            recoveries += [(point, second) for second in run.points]
            recovered += 1
        else:
            run = await crashes.end(point)
        found += run.violations
        ran += 1
    rng = random.Random(f"{seed} {scenario.name} {slice_of}")
    chosen = rng.sample(recoveries, min(pairs, len(recoveries)))
    for first, second in chosen:
        found += (await crashes.run(first, second)).violations
    return Report(
        scenario=scenario.name, points=len(mine), ran=ran, recovered=recovered, pairs=len(chosen),
        violations=tuple(found),
    )  # fmt: skip


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder that goes at the end, in memory where the system has such a place."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="crashes-", dir=place) as name:
        yield Path(name)
