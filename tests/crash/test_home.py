"""A home converges wherever its process ends: every call of every scenario, and some pairs."""

import pytest

from privacy_ledger.testing.crashes import enumerate_crashes, scratch
from tests.crash.scenarios import HOME_SCENARIOS, OnHome

PAIRS = 8
SEED = 4


@pytest.mark.parametrize("scenario", HOME_SCENARIOS, ids=lambda kind: kind.name)
async def test_a_home_converges_wherever_its_process_ends(scenario: type[OnHome]) -> None:
    """Ended at each point once; each distinct state that is left is recovered and looked at."""
    with scratch() as folder:
        report = await enumerate_crashes(scenario(), folder, pairs=PAIRS, seed=SEED)
    assert not report.violations, "\n".join(map(str, report.violations))
    assert report.points > 100
    assert (report.ran, report.pairs) == (report.points, PAIRS)
    assert report.recovered > 20
