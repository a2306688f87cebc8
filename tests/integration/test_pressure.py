"""Back-pressure: a burst and a hot subject are folded exactly, in a bounded memory."""

from pathlib import Path

import pytest

from privacy_ledger.testing.broker import Broker
from tests.integration.pressure import EVENTS_LONG, describe, run

SEED = 20


@pytest.mark.timeout(300)
async def test_a_burst_with_a_hot_subject_is_exact_and_bounded(kafka: Broker, tmp_path: Path) -> None:
    """Sixteen partitions, one worker, and half of 60,000 events about one person."""
    report = await run(kafka.bootstrap, tmp_path, events=60_000, seed=SEED)
    print(describe(report))
    assert report.verdict.is_exact, report
    assert report.is_bounded, describe(report)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_million_events_of_backlog(kafka: Broker, tmp_path: Path) -> None:
    """Under the same bound."""
    report = await run(kafka.bootstrap, tmp_path, events=EVENTS_LONG, seed=SEED)
    assert report.verdict.is_exact, report
    assert report.is_bounded, describe(report)
