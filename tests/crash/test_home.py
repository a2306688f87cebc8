"""A home converges wherever its process ends: every call of every scenario, and some pairs."""

import os
from collections.abc import Mapping

import pytest

from privacy_ledger.testing.crashes import Report
from tests.crash.lane import homes
from tests.crash.scenarios import HOME_SCENARIOS, OnHome

PAIRS = 4 * len(HOME_SCENARIOS)
SEED = 4


@pytest.fixture(scope="module")
def reports() -> Mapping[str, Report]:
    """Return the report of each scenario; all of them run at once, for the machine's processors."""
    found = homes(HOME_SCENARIOS, jobs=os.cpu_count(), pairs=PAIRS, seed=SEED, every=False)
    return {report.scenario: report for report in found}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", HOME_SCENARIOS, ids=lambda kind: kind.name)
def test_a_home_converges_wherever_its_process_ends(
    scenario: type[OnHome], reports: Mapping[str, Report]
) -> None:
    """Ended at each point once; each distinct state that is left is recovered and looked at."""
    report = reports[scenario.name]
    assert not report.violations, "\n".join(map(str, report.violations))
    assert report.ran == report.points > 100
    assert report.points > report.recovered > 10
    assert report.pairs == PAIRS // len(HOME_SCENARIOS)
