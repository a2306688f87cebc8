"""Zombies: a worker that slept past its session wakes up while another folds its partitions."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.rocks_store import RocksFolder, RocksStore
from privacy_ledger.domain.errors import Fenced
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.testing.broker import Broker
from tests.integration.light import LightCluster, LightWiring, engine_of, open_log
from tests.integration.zombie import PAUSES_LONG, run


class SleepyLog(KafkaLog):
    """A log whose transactions can be held up before they begin, as a frozen process holds them up."""

    is_asleep = False

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Start awake."""
        super().__init__(*args, **kwargs)  # type: ignore[arg-type] # as the real one
        self.awake = asyncio.Event()
        self.sleeping = asyncio.Event()
        self.fenced = asyncio.Event()

    async def append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> dict[tuple[str, int], int]:
        """Append, perhaps much later."""
        if self.is_asleep:
            self.sleeping.set()
            await self.awake.wait()
        try:
            return await super().append_atomically(writes, writer=writer)
        except Fenced:
            self.fenced.set()
            raise


class WatchedFolder(RocksFolder):
    """Keeps the stores that it opened in sight."""

    def __init__(self, path: Path) -> None:
        """Start with none."""
        super().__init__(path)
        self.stores: dict[int, RocksStore] = {}

    def open(self, partition: int) -> RocksStore:
        """Open a store."""
        self.stores[partition] = super().open(partition)
        return self.stores[partition]


async def test_a_worker_that_is_fenced_in_its_transaction_writes_nothing_to_its_store(
    kafka: Broker, tmp_path: Path
) -> None:
    """It has folded a batch when its successor opens the writer: not a byte of its store changes."""
    light = LightCluster(kafka.bootstrap, tmp_path, partitions=1)
    await light.create()
    task = light.task()
    log = await open_log(task, SleepyLog)
    successor = await open_log(task, KafkaLog)
    wiring = LightWiring(task, log)
    wiring.folder = folder = WatchedFolder(wiring.path)
    engine = engine_of(wiring, log)
    running = asyncio.create_task(engine.run())
    try:
        refs = light.refs(50)
        await light.send(refs)
        assert (await light.settle()).is_exact
        log.is_asleep = True
        await light.send(refs)
        await asyncio.wait_for(log.sleeping.wait(), 30)
        before = list(folder.stores[0].scan(b""))
        await successor.open_writer("bench.0")
        log.is_asleep = False
        log.awake.set()
        await asyncio.wait_for(log.fenced.wait(), 30)
        assert list(folder.stores[0].scan(b"")) == before
        # Nobody else folds here: it takes the partition back, and counts what it had folded once.
        assert (await light.settle()).is_exact
        assert list(folder.stores[0].scan(b"")) != before
    finally:
        engine.stop()
        await running
        await log.close()
        await successor.close()
        await light.close()


@pytest.mark.timeout(180)
async def test_a_zombie_resumed_while_data_flows_is_fenced_and_goes_on(kafka: Broker, tmp_path: Path) -> None:
    """One pause past the session: its transaction is fenced, it rejoins, and every event counts once."""
    report = await run(kafka.bootstrap, tmp_path, pauses=1)
    assert report.verdict.is_exact, report
    assert report.fenced >= 1
    assert report.rejoined == 1


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_many_zombies(kafka: Broker, tmp_path: Path) -> None:
    """As above, again and again."""
    report = await run(kafka.bootstrap, tmp_path, pauses=PAUSES_LONG)
    assert report.verdict.is_exact, report
    assert report.fenced >= PAUSES_LONG
    assert report.rejoined == PAUSES_LONG
