"""Reports of players through the command: of nobody, until a login names their session."""

import json
from typing import Final

from privacy_ledger.domain.topics import LEDGER_UNATTRIBUTED
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import PURPOSE, RECENT, Cli, adds_up, encoded, event, parts_of, rows_of, subject

SESSION: Final = "6e2fb550-c457-11e9-bb97-0800200c9a66"
MILLIS: Final = int(RECENT.timestamp() * 1000)
TEXT: Final = f'bl=4000,br=3000,bs,cid="lecture-7",sid="{SESSION}",ts={MILLIS},v=2'


async def test_reports_of_every_shape_wait_without_their_session(used: Cli) -> None:
    """Lines of text and of JSON in one file; the session is written nowhere."""
    lines = [
        TEXT,
        json.dumps([{"cmcd": f"CMCD={TEXT}"}, {"br": 128, "sid": SESSION, "ts": MILLIS}]),
        "br=,",
        "bs",
    ]
    done = used.run("ingest", "-", "--format", "cmcd", stdin="\n".join(lines).encode()).document

    assert adds_up(done)
    assert (parts_of(done), done["reasons"]) == (
        {"unattributed": 3, "refused": 1, "malformed": 1}, {"schema_mismatch": 1, "time_missing": 1},
    )  # fmt: skip
    async with used.opened() as runtime:
        assert len(await rows_of(runtime, LEDGER_UNATTRIBUTED)) == 3
    scanner = Scanner({"session": SESSION.encode(), "content": b"lecture-7"})
    assert scanner.scan([used.folder]) == []


def test_a_login_of_the_same_session_makes_them_its_persons_with_a_consent(used: Cli) -> None:
    """Without one they are gone; a report without a time is of now only when asked for."""
    used.run("consent", "grant", subject(1), PURPOSE)
    login = encoded(event("edx.user.login", context={"user_id": 1}, session=SESSION))
    words = ("ingest", "-", "--format", "cmcd", "--source", "openedx", "--take-untimed")
    waiting = used.run(*words, stdin=f'bs,sid="{SESSION}"\n{TEXT}'.encode()).document
    done = used.ingest([login]).document
    counts = used.run("subject", "show", subject(1)).document["references"][0]["counts"]

    assert parts_of(waiting) == {"unattributed": 2}
    assert done["linked"] == 1
    assert counts["video.qoe_reported.v1"] == 1
