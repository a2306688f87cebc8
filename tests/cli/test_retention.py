"""`retention`: what is due of a person and how it is gone, as commands say it."""

import json
from pathlib import Path

from tests.cli.cli import Cli, enrolled

ONE = "openedx:user_id:1"
BEGIN = "2020-03-01T12:00:00+00:00"
AFTER = "2024-03-01T12:00:00+00:00"


def _aged(cli: Cli) -> None:
    """Let four years pass over one line."""
    cli.run("init", "--trial-clock", BEGIN)
    cli.ingest([enrolled(1, at="2020-02-28T12:00:00+00:00")])
    cli.run("init", "--trial-clock", AFTER)
    cli.run("doctor", "--accept-time")


def test_a_receipt_of_retention_is_written_and_verified(cli: Cli, tmp_path: Path) -> None:
    """`keys status` counts what is due until it is done; `keys rotate` does it, too."""
    _aged(cli)
    before = cli.run("keys", "status").document["retention"]
    waiting = cli.run("retention", "status", ONE)
    cli.run("keys", "rotate")
    after = cli.run("keys", "status").document["retention"]
    status, told = cli.run("retention", "status", ONE), cli.run("retention", "status", ONE, as_json=False)
    made = cli.run("retention", "receipt", ONE, "-o", str(tmp_path / "out"))
    again = cli.run("retention", "receipt", ONE, "-o", str(tmp_path / "again"))
    (file,) = (tmp_path / "out").iterdir()
    key = cli.run("audit", "key").document["verifier_key"]
    verified = cli.run("receipt", "verify", str(file), "--key", key)
    shown = cli.run("receipt", "verify", str(file), "--key", key, as_json=False)
    assert (before, after) == ({"due": 1, "kept": {}}, {"due": 0, "kept": {}})
    assert [(i["category"], i["outcome"]) for i in waiting.document["due"]] == [("coursework", "kept")]
    assert [(i["category"], i["outcome"]) for i in status.document["due"]] == [
        ("coursework", "key destroyed")
    ]
    assert "coursework, what occurred before 2022-03: key destroyed" in told.out
    assert (made.code, made.document["leaves"]) == (0, again.document["leaves"])
    assert (verified.code, verified.document["verified"]) == (0, True)
    assert "key destroyed" in shown.out
    assert ONE.rpartition(":")[2] not in json.dumps(made.document["files"]).split("-")


def test_who_has_nothing_due_is_told_so(cli: Cli, tmp_path: Path) -> None:
    """There is no receipt of nothing."""
    cli.run("init", "--trial-clock", BEGIN)
    cli.ingest([enrolled(1, at="2020-02-28T12:00:00+00:00")])
    status = cli.run("retention", "status", ONE, as_json=False)
    refused = cli.run("retention", "receipt", ONE, "-o", str(tmp_path / "out"))
    unknown = cli.run("retention", "status", "openedx:user_id:99")
    assert (status.code, status.out.splitlines()[0]) == (0, "Nothing is due.")
    assert (refused.code, refused.document["reason"]) == (4, "receipt_unknown")
    assert unknown.code == 4
