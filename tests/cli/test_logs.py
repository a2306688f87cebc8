"""Whole logs: the shared samples, each at its own time, and a made-up one as odd as real ones."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger.testing.generator import generate
from tests.cli.cli import NOW, PURPOSE, Cli, adds_up

SAMPLES: Final = Path(__file__).parents[3] / "shared" / "samples" / "openedx-tracking" / "logs"
FILES: Final = sorted(SAMPLES.glob("*.log"))
LINES: Final = 10_500
_TIME: Final = re.compile(rb'"time(?:stamp)?": ?"([^"]+)"')


def _newest(file: Path) -> datetime:
    """Return the newest time that a log tells."""
    found = [datetime.fromisoformat(text.decode()) for text in _TIME.findall(file.read_bytes())]
    return max(time for time in found if time.tzinfo is not None)


@pytest.mark.skipif(not FILES, reason="the shared tracking logs are not on this machine")
@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_a_shared_tracking_log_goes_through_at_its_own_time(cli: Cli, file: Path) -> None:
    """The parts add up, some of it is accepted, and the same file again adds nothing."""
    at = _newest(file) + timedelta(days=1)
    cli.run("init", "--trial-clock", at.isoformat())
    words = ("ingest", file, "--format", "openedx", "--import", "--default-consent", PURPOSE)
    first, again = cli.run(*words), cli.run(*words)
    verified = cli.run("replay", "verify")
    assert adds_up(first.document)
    assert adds_up(again.document)
    assert first.document["accepted"] > 0
    assert (again.document["accepted"], verified.document["equal"]) == (0, True)


def test_ten_thousand_odd_lines_add_up_and_rebuild_alike(cli: Cli) -> None:
    """Not JSON, repeated, without a person, longer times and all: in the shares of real logs."""
    lines = list(
        generate(
            seed=3, learners=300, courses=4, events=LINES, start=NOW - timedelta(days=20),
            end=NOW - timedelta(hours=1), quirks=True,
        )
    )  # fmt: skip
    report = cli.folder / "report.ndjson"
    first = cli.ingest(lines, "--default-consent", PURPOSE, "--report", report)
    again = cli.ingest(lines, "--default-consent", PURPOSE)
    verified = cli.run("replay", "verify")
    rows = [json.loads(row) for row in report.read_bytes().splitlines()]
    summary = first.document
    assert (len(lines), summary["read"]) == (LINES, sum(bool(line.strip()) for line in lines))
    assert (adds_up(summary), adds_up(again.document)) == (True, True)
    assert len(rows) == summary["read"]
    assert min(summary["accepted"] - 7000, summary["duplicates"], summary["malformed"]) > 0
    assert (again.document["accepted"], verified.document["equal"]) == (0, True)
