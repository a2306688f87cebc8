"""The engine on a real broker converges wherever it ends: take-over, cycle, refold, note of progress."""

from pathlib import Path

import pytest

from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.engine import cycle
from privacy_ledger.testing.broker import Broker
from tests.crash.kafka import FOLDING, Engines
from tests.integration.cluster import Cluster


@pytest.mark.timeout(900)
async def test_an_engine_converges_wherever_it_ends(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended at each of its calls once, and replaced by a fresh one; each refold takes several slices."""
    monkeypatch.setattr(cycle, "REREADS_PER_CYCLE", 2)
    monkeypatch.setattr(cycle, "SLICE", 3)
    cluster = Cluster(kafka.bootstrap, tmp_path, partitions=1)
    await cluster.create()
    async with Engines.opened(cluster) as engines:
        report = await engines.enumerated()
        points = {str(point) for point in engines.points}
    assert not report.violations, "\n".join(map(str, report.violations))
    assert report.ran == report.points > 100
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
