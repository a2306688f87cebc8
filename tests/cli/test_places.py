"""Places of addresses through the command: once a month, as coarse as promised, and never in the way."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import COURSE, RECENT, Cli, adds_up, parts_of, subject

DATABASE: Final = Path(__file__).parents[1] / "fixtures" / "geoip" / "GeoLite2-City-Test.mmdb"
SEATTLE: Final = "216.160.83.56"
LONDON: Final = "81.2.69.142"
NOWHERE: Final = "203.0.113.9"


def seen(number: int, address: str, *, user: int = 1) -> dict[str, object]:
    """Return a line of the tracking log that says from where somebody played a video."""
    return {
        "event_type": "play_video", "event_source": "browser", "event_id": f"seen-{number}", "ip": address,
        "time": (RECENT + timedelta(seconds=number)).isoformat(), "username": f"learner-{user}",
        "context": {"user_id": user, "course_id": COURSE},
        "event": json.dumps({"id": "v1", "currentTime": 1.5, "code": "html5"}),
    }  # fmt: skip


def with_database(cli: Cli, path: Path) -> Cli:
    """Return the command with a database of places."""
    return replace(cli, more={**cli.more, "PRIVACY_LEDGER_GEOIP": str(path)})


def take(cli: Cli, *lines: dict[str, object]) -> dict[str, object]:
    """Ingest lines, and return the summary."""
    text = "\n".join(json.dumps(line) for line in lines).encode()
    document = cli.run("ingest", "-", "--format", "openedx", stdin=text).document
    assert adds_up(document)
    return document


def places_of(cli: Cli, user: int = 1) -> object:
    """Return what a person's own view says of places."""
    shown = cli.run("subject", "show", subject(user), "--reveal", "--reason", "a ticket")
    return shown.document["references"][0]["countries"]


def test_a_place_is_kept_once_a_month_and_no_address_anywhere(used: Cli) -> None:
    """By country and region; whose address the database does not know is nowhere."""
    cli = with_database(used, DATABASE)
    lines = [seen(1, SEATTLE), seen(2, SEATTLE), seen(3, LONDON), seen(4, NOWHERE), seen(5, NOWHERE, user=2)]
    first, again = take(cli, *lines), take(cli, *lines)
    assert parts_of(first) == {"accepted": 5}
    assert parts_of(again) == {"duplicates": 5}
    assert first["location_fault"] is None
    assert places_of(cli) == {"GB-ENG": 1, "US-WA": 1}
    assert places_of(cli, 2) == {}
    addresses = {"one": SEATTLE.encode(), "other": LONDON.encode()}
    assert not Scanner(addresses).scan([cli.folder])


def test_without_a_database_that_can_be_read_all_else_goes_on(used: Cli) -> None:
    """The summary says it, and so does the doctor, who says nothing where none was named."""
    damaged = used.folder / "damaged.mmdb"
    damaged.write_bytes(DATABASE.read_bytes()[:500])
    for number, (path, word) in enumerate(((damaged, "unreadable"), (used.folder / "none.mmdb", "missing"))):
        cli = with_database(used, path)
        document = take(cli, seen(10 + number, SEATTLE))
        findings = cli.run("doctor").document["findings"]
        assert parts_of(document) == {"accepted": 1}
        assert document["location_fault"] == f"location_database_{word}"
        assert [f"location database {word}" in one["finding"] for one in findings] == [True]
    assert used.run("doctor").document["findings"] == []
    assert places_of(used) == {}
