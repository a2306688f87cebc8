"""The engine on a real broker converges wherever it ends: take-over, cycle, refold, note of progress."""

from pathlib import Path

import pytest
from msgspec import structs

from privacy_ledger.adapters.keystore.address import place_of
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.engine import cycle
from privacy_ledger.testing.broker import Broker
from privacy_ledger.testing.postgres import PostgresProcess
from tests.crash.kafka import FOLDING, Engines
from tests.crash.kafka_erasure import ERASING, Sagas
from tests.integration.cluster import Cluster

EVERY = 4
SAGA_EVERY = 40
"""`poe crash-points` takes each point."""


@pytest.mark.timeout(900)
async def test_an_engine_converges_wherever_it_ends(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended at many of its calls, and replaced by a fresh one; each refold takes several slices."""
    monkeypatch.setattr(cycle, "REREADS_PER_CYCLE", 2)
    monkeypatch.setattr(cycle, "SLICE", 3)
    cluster = Cluster(kafka.bootstrap, tmp_path, partitions=1)
    await cluster.create()
    async with Engines.opened(cluster) as engines:
        report = await engines.enumerated(every=EVERY)
        points = {str(point) for point in engines.points}
    assert not report.violations, "\n".join(map(str, report.violations))
    assert report.ran == report.points > 40
    assert len(points) > 160
    assert points >= {
        "log.open_writer core.0 #1 after", "log.read state.core.v1 #1 before", "store.core.0.write #1 after",
        f"log.append {LEDGER_EVENTS} #1 after", f"{FOLDING} log.read_at {LEDGER_EVENTS} #3 before",
        "log.append_atomically core.0 #1 after", "vault.shred #1 after",
    }  # fmt: skip
    assert points >= {
        f"{FOLDING} {call} after"
        for call in (
            "log.append_atomically core.0 #9", "store.core.0.write #9", f"log.append {LEDGER_EVENTS} #1",
            "vault.shred #1", "store.core.0.compact #1",
        )
    }  # fmt: skip


@pytest.mark.timeout(600)
async def test_an_erasure_converges_wherever_its_process_ends(
    kafka: Broker, postgres: PostgresProcess, tmp_path: Path
) -> None:
    """On a cluster with workers and a keystore server: another process goes on, and nobody comes back."""
    cluster = Cluster(kafka.bootstrap, tmp_path, partitions=2)
    name = f"crashes_{cluster.prefix.strip('.')}"
    postgres.sql(f"CREATE DATABASE {name}")
    cluster.settings = structs.replace(cluster.settings, keystore=place_of(postgres.url(name)))
    await cluster.create()
    async with Sagas.opened(cluster) as sagas:
        report = await sagas.enumerated(every=SAGA_EVERY)
        calls = {point.call for point in sagas.points}
    assert not report.violations, "\n".join(map(str, report.violations))
    assert report.ran == report.points > 3
    assert calls >= {
        f"{ERASING} {call}"
        for call in (
            "log.append requests.v1", f"log.append {LEDGER_EVENTS}", "vault.erase_identities", "vault.end",
            "vault.shred", "vault.end_lanes", "log.append_atomically audit-leaves",
        )
    }  # fmt: skip
