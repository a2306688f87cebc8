"""`audit` and `receipt`, as an operator and a person use them."""

import json

from tests.cli.cli import Cli, enrolled, subject


def test_a_receipt_is_checked_with_the_published_key(used: Cli) -> None:
    """The person gets a file and a program; the ledger publishes a key."""
    folder = used.folder / "proofs"
    used.run("erase", subject(1), "--yes", "-o", folder)
    (file,) = folder.iterdir()
    key = used.run("audit", "key").document["verifier_key"]
    checked = used.run("receipt", "verify", file, "--key", key)
    shown = used.run("receipt", "show", file)
    program = used.run("receipt", "verifier", "-o", used.folder / "check.py")
    again = used.run("receipt", "verifier", "-o", used.folder / "check.py")
    document = json.loads(file.read_bytes())
    assert (checked.code, checked.document["verified"], checked.document["key_given"]) == (0, True, True)
    assert checked.document["receipt"] == document["receipt"] == shown.document
    assert (program.code, again.code) == (0, 1)
    assert (used.folder / "check.py").read_text().startswith('"""Checks the receipt of an erasure, offline.')


def test_a_receipt_is_given_until_it_is_handed_over(used: Cli) -> None:
    """By the file that the person has, and by no other; said twice it changes nothing."""
    folder = used.folder / "handed"
    first = used.run("erase", subject(1), "--yes", "-o", folder)
    (file,) = folder.iterdir()
    foreign = folder / "other.json"
    foreign.write_text(file.read_text().replace('"cause":"request"', '"cause":"restore"'))
    refused = [used.run("receipt", word, foreign) for word in ("handed", "status")]
    again = used.run("erase", subject(1), "--yes")
    handed = [used.run("receipt", "handed", file) for _ in range(2)]
    after = used.run("erase", subject(1), "--yes", "-o", used.folder / "empty")
    status, verified = used.run("receipt", "status", file), used.run("receipt", "verify", file)
    assert [(one.code, one.document["reason"]) for one in refused] == [(2, "receipt_unknown")] * 2
    assert (again.out, first.document["handed_over"]) == (first.out, 0)
    assert [one.code for one in handed] == [0, 0]
    assert handed[0].out == handed[1].out
    assert (after.code, after.document["receipts"], after.document["handed_over"]) == (0, [], 1)
    assert list((used.folder / "empty").iterdir()) == []
    assert (status.document["state"], status.document["is_handed_over"]) == ("completed", True)
    assert verified.document["verified"]


def test_a_changed_receipt_is_refused(used: Cli) -> None:
    """With exit code 1 and the check that failed; a file that is none as well."""
    folder = used.folder / "changed"
    used.run("erase", subject(1), "--yes", "-o", folder)
    (file,) = folder.iterdir()
    document = json.loads(file.read_bytes())
    document["receipt"]["not_reached"] = []
    file.write_text(json.dumps(document))
    refused = used.run("receipt", "verify", file)
    file.write_text("{}")
    none, shown = used.run("receipt", "verify", file), used.run("receipt", "show", file)
    missing = used.run("receipt", "verify", folder / "none.json")
    assert (refused.code, none.code, shown.code, missing.code) == (1, 1, 1, 1)
    assert refused.document == {
        "verified": False, "why": "The receipt is not in the log that the checkpoint describes.",
    }  # fmt: skip


def test_the_audit_log_is_checked_and_shows_its_growth(used: Cli) -> None:
    """Before the first erasure there is no checkpoint; after each there is one more leaf."""
    empty = used.run("audit", "checkpoint")
    used.ingest([enrolled(2)])
    for who in (1, 2):
        used.run("erase", subject(who), "--yes")
    report = used.run("audit", "verify")
    grown = used.run("audit", "checkpoint", "--from", "1")
    beyond = used.run("audit", "checkpoint", "--from", "9")
    assert (empty.code, report.code, grown.code, beyond.code) == (1, 0, 0, 2)
    assert (report.document["leaves"], report.document["faults"]) == (2, [])
    assert len(grown.document["consistency"]) == 1
    assert grown.document["checkpoint"].split("\n")[1] == "2"
