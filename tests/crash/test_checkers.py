"""Every checker catches a bug that was planted for it, and the enumeration finds those of one point."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import pytest
from msgspec import structs

from privacy_ledger.app import _topic_stores, erasure
from privacy_ledger.app._evidence import Remains
from privacy_ledger.app._release_ledger import ReleaseLedger
from privacy_ledger.domain.admission import admit
from privacy_ledger.domain.budget import BudgetState
from privacy_ledger.domain.topics import LEDGER_EVENTS, state_topic
from privacy_ledger.engine.batch import Work
from privacy_ledger.engine.cycle import POSITION_KEY, PartitionCycle
from privacy_ledger.engine.embedded import EmbeddedPasses
from privacy_ledger.ports.keys import KeyStanding, ShredReport
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.ports.runtime import Wrap
from privacy_ledger.streams import fold
from privacy_ledger.streams.backlog import Backlog
from privacy_ledger.streams.states import INDEX
from privacy_ledger.testing.checkers import CHECKERS
from privacy_ledger.testing.crashes import Crashes, Violation
from privacy_ledger.testing.faults import Mode, Point
from tests.crash.scenarios import (
    Erasing,
    Ingesting,
    OnHome,
    Releasing,
    Restricting,
    Withdrawing,
)
from tests.unit.home import TestHome

P = TypeVar("P")
Writes = Sequence[tuple[str, NewRecord]]


class Bent:
    """A port that behaves otherwise: methods of a subclass stand in front of its own."""

    def __init__(self, port: object) -> None:
        """Take the port, which is reached as `_port`."""
        self._port: Any = port

    def __getattr__(self, name: str) -> object:
        """Return what is not bent."""
        return getattr(self._port, name)


class Careless(Bent):
    """A keystore that only says that it destroyed keys."""

    def shred(self, *_: object, **__: object) -> ShredReport:
        """Destroy nothing."""
        return ShredReport(kids=(), by_group={})

    def standing_of(self, *_: object) -> KeyStanding:
        """Own up to nothing."""
        return KeyStanding(live=0, destroyed=1, epoch=1)

    def live_groups(self, *_: object) -> tuple[str, ...]:
        """Own up to nothing."""
        return ()


class Tearing(Bent):
    """A log on which the position is committed before the states that belong to it."""

    async def append_atomically(self, writes: Writes, *, writer: str) -> object:
        """Write in two transactions."""
        first = [write for write in writes if write[1].key == POSITION_KEY]
        if first:
            await self._port.append_atomically(first, writer=writer)
        return await self._port.append_atomically([w for w in writes if w not in first], writer=writer)


class Losing(Bent):
    """A log that loses an index row of each commit."""

    async def append_atomically(self, writes: Writes, *, writer: str) -> object:
        """Write all but one."""
        rows = [w for w in writes if w[0] == state_topic("core") and w[1].key[:1] == INDEX.code]
        return await self._port.append_atomically([w for w in writes if w not in rows[:1]], writer=writer)


class Burying(Bent):
    """A log that takes no tombstones."""

    async def append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        """Append what has a value."""
        kept = [record for record in records if record.value is not None]
        return cast("tuple[int, ...]", await self._port.append(topic, kept)) if kept else ()


class Blind(Bent):
    """A log whose edge knows no copies."""

    def live_tags(self, *_: object) -> dict[object, bytes]:
        """Return none."""
        return {}


class Rewinding(Bent):
    """A log in which every third commit brings the beginning back as its position."""

    commits = 0

    async def append_atomically(self, writes: Writes, *, writer: str) -> object:
        """Write another position now and then."""
        self.commits += 1
        if self.commits % 3 == 0:
            start = msgspec.msgpack.encode(PassPosition(offset=0))
            writes = [
                (topic, structs.replace(record, value=start) if record.key == POSITION_KEY else record)
                for topic, record in writes
            ]
        return await self._port.append_atomically(writes, writer=writer)


def bent(scenario: type[OnHome], name: str, kind: type[Bent]) -> OnHome:
    """Return a scenario one of whose ports is bent, in front of the seam."""

    class Around(scenario):  # type: ignore[misc, valid-type] # a class of this call
        """The scenario with the bent port."""

        def open(self, folder: Path, wrap: Wrap) -> AbstractAsyncContextManager[TestHome]:
            """Open with the port in front."""

            def around(port_name: str, port: P) -> P:
                wrapped = wrap(port_name, port)
                return cast("P", kind(wrapped)) if port_name.partition(".")[0] == name else wrapped

            return cast("AbstractAsyncContextManager[TestHome]", super().open(folder, around))

    return cast("OnHome", Around())


def named(violations: Sequence[Violation]) -> set[str]:
    """Return the checkers that found something."""
    return {violation.what.partition(":")[0] for violation in violations} & CHECKERS.keys()


async def violations_of(scenario: OnHome, folder: Path) -> tuple[Violation, ...]:
    """Return what is found though no process ended."""
    crashes = Crashes(scenario, folder)
    await crashes.prepare()
    return (await crashes.calm()).violations


async def calm(scenario: OnHome, folder: Path) -> set[str]:
    """Return the checkers that find something though no process ended."""
    return named(await violations_of(scenario, folder))


async def test_meaning_sees_a_refold_that_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild forgets the same, so it alone would say that all is well."""
    monkeypatch.setattr(Backlog, "_fold_again", lambda *_: None)
    found = await calm(Restricting(), tmp_path)
    assert "meaning" in found
    assert "rebuilt" not in found


async def test_rebuilt_sees_a_state_that_was_not_written(tmp_path: Path) -> None:
    """The live digests lack it."""
    assert "rebuilt" in await calm(bent(Withdrawing, "log", Losing), tmp_path)


async def test_records_sees_a_copy_that_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two records of one tag live."""

    def admit_any(*args: object, is_known_copy: bool | None, **more: object) -> object:
        del is_known_copy
        return cast("Callable[..., object]", admit)(*args, is_known_copy=None, **more)

    monkeypatch.setattr(fold, "admit", admit_any)
    assert "records" in await calm(bent(Ingesting, "log", Blind), tmp_path)


async def test_erased_sees_keys_that_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The saga was made to believe that all is gone."""

    async def nothing(*_: object, **__: object) -> Remains:
        return Remains(records=0, live=0, readable=0, unknown=0, kids=())

    for module in (erasure, _topic_stores):
        monkeypatch.setattr(module, "remains_of", nothing)
    assert "erased" in await calm(bent(Erasing, "vault", Careless), tmp_path)


async def test_duties_sees_shreds_that_were_not_carried_out(tmp_path: Path) -> None:
    """Though the pass took them off its list."""
    assert await calm(bent(Withdrawing, "vault", Careless), tmp_path) == {"duties"}


async def test_duties_sees_tombstones_that_were_not_written(tmp_path: Path) -> None:
    """Their records stay, without a row."""
    assert {"duties", "records"} <= await calm(bent(Withdrawing, "log", Burying), tmp_path)


async def test_positions_sees_one_that_falls(tmp_path: Path) -> None:
    """The same commits, in another order."""
    found = await violations_of(bent(Withdrawing, "log", Rewinding), tmp_path)
    assert any(violation.what.startswith("positions: core partition") for violation in found)
    assert any(" fell from " in violation.what for violation in found)


async def test_releases_sees_a_second_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an owner that did not read the ledger to its end."""

    async def own(self: ReleaseLedger) -> BudgetState:
        await self.read_on()
        return BudgetState()

    monkeypatch.setattr(ReleaseLedger, "own", own)
    assert "releases" in await calm(Releasing(), tmp_path)


async def test_the_enumeration_finds_a_commit_in_two_parts(tmp_path: Path) -> None:
    """Nothing is wrong unless the process ends between them."""
    crashes = Crashes(bent(Withdrawing, "log", Tearing), tmp_path)
    await crashes.prepare()
    assert not (await crashes.calm()).violations
    commits = [p for p in crashes.points if p in crashes.distinct and "append_atomically core" in p.call]
    runs = [await crashes.run(point) for point in commits]
    violations = [violation for run in runs for violation in run.violations]
    assert {"meaning", "rebuilt", "records"} <= named(violations)
    command = "poe crash-points --scenario withdrawal --at 'log.append_atomically core."
    assert all(command in str(violation) for violation in violations)


async def test_the_enumeration_finds_an_owner_that_forgets_its_predecessor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decided is lost when a process ends before it was carried out."""
    monkeypatch.setattr(PartitionCycle, "outstanding", lambda _: Work(tombstones=(), shreds=()))
    crashes = Crashes(Withdrawing(), tmp_path)
    await crashes.prepare()
    assert not (await crashes.calm()).violations
    tombstones = [point for point in crashes.points if point.call == f"log.append {LEDGER_EVENTS}"][-2]
    assert tombstones.mode is Mode.BEFORE
    assert {"duties", "records"} <= named((await crashes.run(tombstones)).violations)


async def test_code_that_swallows_the_end_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go on in a process that is dead."""
    right: Callable[..., Awaitable[None]] = EmbeddedPasses.settle

    async def settle(self: EmbeddedPasses, offsets: dict[int, int] | None = None) -> None:
        try:
            await right(self, offsets)
        except BaseException:  # noqa: BLE001 - the planted bug
            return

    monkeypatch.setattr(EmbeddedPasses, "settle", settle)
    crashes = Crashes(Withdrawing(), tmp_path)
    await crashes.prepare()
    await crashes.calm()
    last = [point for point in crashes.points if point.call.startswith("log.append_atomically")][-1]
    assert [v.what for v in (await crashes.end(last)).violations] == ["the process went on after its end"]


async def test_a_point_that_is_not_reached_is_found(tmp_path: Path) -> None:
    """A run that tried nothing must not count as one."""
    crashes = Crashes(Withdrawing(), tmp_path)
    await crashes.prepare()
    run = await crashes.run(Point("log.append nowhere", 1, Mode.AFTER))
    assert [violation.what for violation in run.violations] == ["the point was not reached"]
