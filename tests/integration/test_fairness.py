"""Somebody with many records is lifted on a real broker; others get through, and all is whole."""

from pathlib import Path

import pytest

from privacy_ledger.testing.broker import Broker
from tests.integration.fairness import run


@pytest.mark.timeout(240)
async def test_others_get_through_while_many_records_are_read_again(kafka: Broker, tmp_path: Path) -> None:
    """In slices, and nothing is lost or doubled; how long others wait is measured by the long lane."""
    report = await run(kafka.bootstrap, tmp_path, records=20_000, quiet_s=2)
    assert report.is_whole
    assert report.slices > 20
    assert report.busy_events > 1
