"""What a standby must not do: write to a store that is no longer its own, or die unseen."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from privacy_ledger.adapters.clock import SystemClock
from privacy_ledger.adapters.rocks_store import RocksFolder
from privacy_ledger.domain.errors import LogUnavailable, StoreUnfit
from privacy_ledger.engine.handover import stored_marks
from privacy_ledger.engine.soundness import Place as StorePlace
from privacy_ledger.engine.standby import Standby
from privacy_ledger.engine.stores import Stores
from privacy_ledger.ports.log import Row
from privacy_ledger.ports.transport import Place
from tests.integration.cluster import until

CHANGELOG = "state.core.v1"
WAIT_S = 30.0


class ScriptedTail:
    """A tail whose polls end when the test says so, with what the test says."""

    def __init__(self) -> None:
        """Follow nothing."""
        self.places: dict[Place, int] = {}
        self.polls: asyncio.Queue[Mapping[Place, Sequence[Row]] | Exception] = asyncio.Queue()
        self.waiting = asyncio.Event()

    async def follow(self, places: Mapping[Place, int]) -> None:
        """Take the places."""
        self.places = dict(places)

    async def poll(self, *, timeout_s: float, limit: int) -> Mapping[Place, Sequence[Row]]:  # noqa: ARG002 - the port's
        """Return what the test puts."""
        self.waiting.set()
        said = await self.polls.get()
        self.waiting.clear()
        if isinstance(said, Exception):
            raise said
        return said

    async def behind(self, place: Place) -> int | None:
        """Return that nothing is left."""
        return 0 if place in self.places else None

    async def close(self) -> None:
        """Do nothing."""


def rows(*offsets: int) -> Mapping[Place, Sequence[Row]]:
    """Return rows of partition 0 at these offsets; each replaces the one value."""
    return {(CHANGELOG, 0): [Row(0, offset, b"key", b"%d" % offset, (), 0) for offset in offsets]}


def applied_by(standby: Standby) -> int:
    """Return how many records of partition 0 were applied since it is followed."""
    one = standby.following.get(0)
    return 0 if one is None else one.records


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    """Yield stores of one pass."""

    def place(partition: int) -> StorePlace:
        return StorePlace(
            pass_name="core", partition=partition, changelogs={CHANGELOG: b""}, source="ledger.events.v1"
        )

    def report(partition: int, unfit: StoreUnfit) -> None:
        raise AssertionError((partition, unfit))

    found = Stores(RocksFolder(tmp_path), place=place, clock=SystemClock(), report=report)
    yield found
    found.close()


async def test_a_batch_that_comes_after_the_partition_became_its_own_is_not_stored(stores: Stores) -> None:
    """The owner has written on; what the standby still had asked for is older than that."""
    tail = ScriptedTail()
    standby = Standby(tail, stores, pass_name="core", changelogs={CHANGELOG: b""})
    standby.follow([0])
    running = asyncio.create_task(standby.run())
    tail.polls.put_nowait(rows(0, 1))
    await until(lambda: applied_by(standby) >= 2, look_s=0)
    store = stores.open(0)
    assert (store.get_many([b"key"]), stored_marks(store, [CHANGELOG])) == ([b"1"], {CHANGELOG: 1})
    await asyncio.wait_for(tail.waiting.wait(), WAIT_S)
    standby.follow([])
    store.write([(b"key", b"the owner's")])
    tail.polls.put_nowait(rows(2))
    await until(lambda: not tail.places, look_s=0)
    assert (store.get_many([b"key"]), stored_marks(store, [CHANGELOG])) == ([b"the owner's"], {CHANGELOG: 1})
    standby.stop()
    tail.polls.put_nowait({})
    await asyncio.wait_for(running, WAIT_S)


async def test_a_partition_that_is_followed_again_goes_on_from_its_mark(stores: Stores) -> None:
    """And rows that were asked for before are left alone: they come again."""
    tail = ScriptedTail()
    standby = Standby(tail, stores, pass_name="core", changelogs={CHANGELOG: b""})
    standby.follow([0])
    running = asyncio.create_task(standby.run())
    await asyncio.wait_for(tail.waiting.wait(), WAIT_S)
    assert tail.places == {(CHANGELOG, 0): 0}
    standby.follow([])
    standby.follow([0])
    tail.polls.put_nowait(rows(7))
    tail.polls.put_nowait(rows(0, 1))
    tail.polls.put_nowait({})
    await until(lambda: applied_by(standby) >= 2, look_s=0)
    assert stores.open(0).get_many([b"key"]) == [b"1"]
    standby.stop()
    tail.polls.put_nowait({})
    await asyncio.wait_for(running, WAIT_S)


async def test_a_failure_is_said_and_followed_by_another_attempt(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the marks; of a foreign error only the class is said."""
    monkeypatch.setattr("privacy_ledger.engine.standby.RETRY_S", 0.0)
    tail = ScriptedTail()
    standby = Standby(tail, stores, pass_name="core", changelogs={CHANGELOG: b""})
    standby.follow([0])
    with capture_logs() as lines:
        running = asyncio.create_task(standby.run())
        tail.polls.put_nowait(LogUnavailable("no broker"))
        tail.polls.put_nowait(KeyError("a value"))
        tail.polls.put_nowait(rows(0))
        await until(lambda: applied_by(standby) >= 1, look_s=0)
        standby.stop()
        tail.polls.put_nowait({})
        await asyncio.wait_for(running, WAIT_S)
    assert [line["reason"] for line in lines if line["event"] == "standby failed"] == [
        "no broker",
        "KeyError",
    ]
