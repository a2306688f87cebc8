"""No identifier of a person leaves the seal: not on the log, in no file, in nothing that is said."""

from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger.domain.topics import TOPICS
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import (
    NOW,
    PURPOSE,
    TRACEBACK,
    Cli,
    all_rows,
    encoded,
    enrolled,
    event,
    new_cli,
    played,
    registered,
    subject,
    viewed,
)
from tests.cli.forks import Forks

WHO: Final = 918273645546
OTHER: Final = 564738291911
NAMES: Final = {WHO: "katherine-johnson-x7", OTHER: "dorothy-vaughan-x8"}
EMAILS: Final = {who: f"{name}@example.com" for who, name in NAMES.items()}
TICKET: Final = "ticket-of-katherine-4711"
SESSION: Final = "c0ffee00c0ffee00deadbeef77"
EVENT: Final = "event-of-katherine-0001"
PERSON: Final = f"openedx:username:{NAMES[WHO]}"
TOLD: Final = (NOW - timedelta(minutes=1)).isoformat()

WALK: Final[dict[str, tuple[str, ...]]] = {
    "ingest": (
        "ingest", "-", "--format", "openedx", "--default-consent", PURPOSE, "--report", "report.ndjson",
    ),
    "ingest again": ("ingest", "-", "--format", "openedx"),
    "consent grant": ("consent", "grant", PERSON, PURPOSE),
    "consent withdraw": ("consent", "withdraw", PERSON, PURPOSE),
    "consent show": ("consent", "show", PERSON),
    "consent of nobody": ("consent", "show", f"{PERSON}-unknown"),
    "unknown purpose": ("consent", "grant", PERSON, NAMES[OTHER]),
    "no subject": ("subject", "show", NAMES[WHO]),
    "no number": ("subject", "show", f"openedx:user_id:{NAMES[WHO]}"),
    "subject show": ("subject", "show", PERSON),
    "subject show by number": ("subject", "show", subject(WHO)),
    "restrict": ("restrict", PERSON, "--ground", "accuracy"),
    "unrestrict": ("unrestrict", PERSON, "--notified-at", TOLD),
    "export": ("export", PERSON, "-o", "export"),
    "replay verify": ("replay", "verify"),
    "doctor": ("doctor",),
    "erase planned": ("erase", PERSON),
    "erase": ("erase", PERSON, "--yes", "-o", "receipts"),
    "erased": ("subject", "show", PERSON),
    "refused": ("restrict", PERSON, "--ground", "claims"),
    "ingest after": ("ingest", "-", "--format", "openedx"),
    "return": ("subject", "return", PERSON),
    "usage": ("restrict", PERSON, "--ground", NAMES[OTHER]),
    "worker": ("worker", "run", NAMES[OTHER]),
    "broker": ("--kafka", "127.0.0.1:1", "consent", "grant", PERSON, PURPOSE),
}  # fmt: skip
"""Every command that meets a person, most of them at fault now and then."""


def _lines() -> list[bytes]:
    lines = []
    for who, name in NAMES.items():
        lines += [registered(who, name=name, email=EMAILS[who]), enrolled(who, name=name), viewed(who)]
        lines += [played(who, number=n, name=name) for n in range(5)]
        lines.append(encoded(event(f"/u/{name}/profile?email={EMAILS[who]}", username=name)))
        lines.append(encoded(event(f"{name}.{who}.happened", username=name)))
        lines.append(encoded(event("edx.user.login", username=name, event_id=[EMAILS[who]])))
        lines.append(f'{{"username": "{name}", "email": "{EMAILS[who]}'.encode())
    session = {"session": SESSION, "username": ""}
    lines.append(encoded(event("edx.ui.lms.link_clicked", event_id=EVENT, **session)))
    lines.append(encoded(event("edx.user.login", context={"user_id": WHO}, session=SESSION)))
    return lines


TOKENS: Final = {
    **{f"name of {who}": name.encode() for who, name in NAMES.items()},
    **{f"number of {who}": str(who).encode() for who in NAMES},
    **{f"address of {who}": address.encode() for who, address in EMAILS.items()},
    "session": SESSION.encode(), "event id": EVENT.encode(),
}  # fmt: skip


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> tuple[Cli, dict[str, str]]:
    """Return the home and all that every command said, each in both ways of speaking."""
    cli = new_cli(tmp_path_factory.mktemp("walked") / "cli", forks)
    said: dict[str, str] = {}
    for name, words in WALK.items():
        for as_json in (True, False):
            options = ("--log-level", "DEBUG", *words)
            result = cli.run(*options, stdin=b"\n".join(_lines()), as_json=as_json)
            said[f"{name}, json {as_json}"] = result.out + result.err
    return cli, said


def test_the_walk_met_the_person(walked: tuple[Cli, dict[str, str]]) -> None:
    """Otherwise nothing would be shown: lines were taken, the person was shown and erased."""
    _, said = walked
    assert '"accepted":' in said["ingest, json True"]
    assert '"status":"active"' in said["subject show, json True"]
    assert '"completed":true' in said["erase, json True"]
    assert '"status":"erased"' in said["erased, json True"]
    assert '"reopened":true' in said["return, json True"]
    assert [name for name, text in said.items() if TRACEBACK in text] == []


def test_no_command_says_an_identifier_even_at_log_level_debug(walked: tuple[Cli, dict[str, str]]) -> None:
    """Neither one of a line nor one that was typed."""
    _, said = walked
    scanner = Scanner(TOKENS)
    leaks = {name: scanner.find(text.encode()) for name, text in said.items()}
    assert {name: found for name, found in leaks.items() if found} == {}


async def test_no_key_header_or_topic_name_holds_an_identifier(walked: tuple[Cli, dict[str, str]]) -> None:
    """Nor any value on the log, an e-mail address as the producer's event id included."""
    cli, _ = walked
    scanner = Scanner(TOKENS)
    async with cli.opened() as runtime:
        rows = await all_rows(runtime)
    parts = [part for row in rows for part in (row.key, row.value or b"", *(v for _, v in row.headers))]
    names = [topic.name for topic in TOPICS] + [name for row in rows for name, _ in row.headers]
    assert len(rows) > 100
    assert scanner.find(b"\n".join(parts)) == []
    assert scanner.find("\n".join(names).encode()) == []


def test_no_file_but_the_persons_own_export_holds_an_identifier(walked: tuple[Cli, dict[str, str]]) -> None:
    """Home, keys, report and receipts; the export does, or the scan would be blind."""
    cli, _ = walked
    scanner = Scanner(TOKENS)
    clean: list[Path] = [cli.home, cli.keys, cli.folder / "report.ndjson", cli.folder / "receipts"]
    assert scanner.scan(clean) == []
    found = {hit.name for hit in scanner.scan([cli.folder / "export"])}
    assert found >= {f"name of {WHO}", f"address of {WHO}"}
