"""`demo` and `tour`: the whole job, checked by themselves."""

import time

from tests.cli.cli import Cli

DEMO_S = 60.0


def test_the_demo_holds_all_its_checks_within_a_minute(cli: Cli) -> None:
    """In a fresh home, with its figures, the story on standard error."""
    started = time.monotonic()
    result = cli.run("demo")
    seconds = time.monotonic() - started
    assert (result.code, result.document["ok"], result.says("All checks hold")) == (0, True, True)
    assert {check["holds"] for check in result.document["checks"]} == {True}
    assert result.document["figures"]["lines"] >= 20_000
    assert seconds < DEMO_S


def test_the_tour_ends_well_in_a_home_in_use(used: Cli) -> None:
    """Emit, see, restrict, export, erase, replay: nobody is back."""
    result = used.run("tour")
    assert result.code == 0
    assert {check["holds"] for check in result.document["checks"]} == {True}


def test_the_demo_refuses_a_home_in_use(used: Cli) -> None:
    """It wants a new one."""
    result = used.run("demo")
    assert (result.code, result.says("wants a new home")) == (1, True)
