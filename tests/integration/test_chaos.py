"""Kill -9 under load: exact, where Faust's own exactly-once lost 644 of 300,000 events."""

from pathlib import Path

import pytest

from privacy_ledger.testing.broker import Broker
from tests.integration.chaos import EVENTS_LONG, KILLS_LONG, run

SEED = 340


@pytest.mark.timeout(240)
async def test_no_event_is_lost_or_doubled_though_workers_are_killed(kafka: Broker, tmp_path: Path) -> None:
    """Three kills in 30,000 events."""
    report = await run(kafka.bootstrap, tmp_path, events=30_000, kills=3, seed=SEED)
    assert (report.kills, report.verdict.events) == (3, 30_000)
    assert report.verdict.is_exact, report


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_twenty_kills_in_three_hundred_thousand_events(kafka: Broker, tmp_path: Path) -> None:
    """The size of the test that breaks others."""
    report = await run(kafka.bootstrap, tmp_path, events=EVENTS_LONG, kills=KILLS_LONG, seed=SEED)
    assert (report.kills, report.verdict.events) == (KILLS_LONG, EVENTS_LONG)
    assert report.verdict.is_exact, report
