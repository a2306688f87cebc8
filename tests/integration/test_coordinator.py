"""A coordinator that stands still: nothing is doubled, and folding goes on within seconds."""

from pathlib import Path

import pytest

from privacy_ledger.testing.broker import BrokerProcess
from tests.integration.coordinator import PAUSES_LONG, CoordinatorReport, run

STALL_S = 15.0


def check(report: CoordinatorReport) -> None:
    """Fail where an event was lost or doubled, or a partition stood still for too long."""
    assert report.verdict.is_exact, report
    assert report.longest_stall_s <= STALL_S, report


@pytest.mark.timeout(240)
async def test_a_paused_coordinator_doubles_nothing(broker_process: BrokerProcess, tmp_path: Path) -> None:
    """One pause of 12 s, with our client settings."""
    check(await run([broker_process], tmp_path, pauses=1, has_client_defaults=False))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("has_client_defaults", [True, False], ids=["client defaults", "our settings"])
async def test_six_pauses_double_nothing(
    broker_cluster: tuple[BrokerProcess, ...], tmp_path: Path, *, has_client_defaults: bool
) -> None:
    """In a cluster, where others take over; not even with the settings that a client has by default."""
    check(await run(broker_cluster, tmp_path, pauses=PAUSES_LONG, has_client_defaults=has_client_defaults))
