"""`keys`, as an operator uses it."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from privacy_ledger.interfaces.cli import main
from tests.cli.cli import Cli, enrolled, subject


def test_a_rotation_is_due_once_a_day(used: Cli) -> None:
    """A young epoch is left alone; the plan says so."""
    status, plan, rotated = (
        used.run("keys", "status"),
        used.run("keys", "rotate", "--plan"),
        used.run("keys", "rotate"),
    )
    assert (status.code, plan.code, rotated.code) == (0, 0, 0)
    assert plan.document == {
        "new_epoch": False,
        "to_rewrap": 0,
        "to_destroy": [],
        "lacks_backup": False,
        "to_prune": [],
    }
    assert rotated.document == {"due": False, "final": 0}
    (epoch,) = status.document["standing"]["epochs"]
    assert (epoch["number"], epoch["live"] > 1, status.document["overdue"]) == (1, True, [])


def test_a_worker_rolls_an_epoch_that_is_a_day_old(used: Cli) -> None:
    """Beside the passes, and it goes on running."""
    long_ago = time.time() - 90_000
    os.utime(used.keys / "epoch-1.kek", (long_ago, long_ago))
    assert used.run("keys", "status").code == 3
    ends_at = time.monotonic() + 60
    with used.worker() as worker:
        while (rolled := used.run("keys", "status")).code != 0:
            assert time.monotonic() < ends_at
            time.sleep(0.2)
        assert worker.poll() is None
    assert [epoch["live"] == 0 for epoch in rolled.document["standing"]["epochs"]] == [True, False]
    assert used.run("subject", "show", subject(1)).code == 0


def test_a_final_roll_wants_a_word_and_leaves_one_epoch(used: Cli) -> None:
    """Without --yes nothing changes; with it every older epoch is gone and everybody is readable."""
    plan = used.run("keys", "roll", "--final-now")
    rolled = used.run("keys", "roll", "--final-now", "--yes")
    status = used.run("keys", "status")
    shown = used.run("subject", "show", subject(1))
    assert (plan.code, rolled.code, status.code, shown.code) == (3, 0, 0, 0)
    assert (rolled.document["epoch"], rolled.document["destroyed"]) == (2, [1])
    assert [epoch["number"] for epoch in status.document["standing"]["epochs"]] == [2]
    assert [path.name for path in used.keys.glob("*.kek")] == ["epoch-2.kek"]
    assert status.document["standing"]["backup"]["keys"] == rolled.document["backup"]["keys"]


def test_backups_are_told_and_named_before_they_are_removed(used: Cli) -> None:
    """Those of this keystore; what somebody else put beside them stays."""
    backup = used.run("keys", "backup")
    name = backup.document["backup"]["name"]
    other = Path(backup.document["path"]).with_name("keystore-of-others.backup")
    other.write_bytes(b"theirs")
    before, plan = used.run("keys", "status"), used.run("keys", "roll", "--final-now")
    rolled, after = used.run("keys", "roll", "--final-now", "--yes"), used.run("keys", "status")
    assert before.document["backups"] == [{"note": backup.document["backup"], "state": "kept"}]
    assert (plan.code, plan.document) == (3, {"older_epochs": [1], "backups": [name]})
    assert rolled.document["pruned"] == [name]
    assert [(own["note"]["name"], own["state"]) for own in after.document["backups"]] == [
        (rolled.document["backup"]["name"], "kept")
    ]
    assert {path.name for path in other.parent.iterdir()} == {rolled.document["backup"]["name"], other.name}


def test_a_backup_that_cannot_be_removed_is_told_after_its_roll(
    used: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, where its removal can be refused: by name, with what to do, and an exit code."""
    name = used.run("keys", "backup").document["backup"]["name"]
    unlink = Path.unlink

    def refused(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, missing_ok=missing_ok)

    for variable, value in used.environment.items():
        monkeypatch.setenv(variable, value)
    results = list[tuple[object, str, str]]()
    with monkeypatch.context() as refusing:
        refusing.setattr(Path, "unlink", refused)
        for words, as_json in ((("roll", "--final-now", "--yes"), True), (("rotate",), False)):
            with pytest.raises(SystemExit) as ended:
                main(used.arguments("keys", *words, as_json=as_json)[3:])
            results.append((ended.value.code, *capsys.readouterr()))
    (rolled, document, told), (again, text, _) = results
    done = json.loads(document)
    assert (rolled, again) == (5, 5)
    assert (done["destroyed"], done["stuck"]) == ([1], [name])
    assert "privacy-ledger keys rotate" in told
    assert f"backup {name} is over" in text
    assert used.run("keys", "rotate").document["pruned"] == [name]


def test_a_lost_keystore_comes_back_and_the_erased_do_not(used: Cli) -> None:
    """Backup, erasure, loss, restore: one is erased, the other is readable, and the log agrees."""
    used.ingest([enrolled(2)])
    backup = used.run("keys", "backup")
    assert used.run("erase", subject(1), "--yes").code == 0
    for path in used.home.glob("keystore.db*"):
        path.unlink()
    lost = used.run("subject", "show", subject(2))
    asked = used.run("keys", "restore", backup.document["path"])
    restored = used.run("keys", "restore", backup.document["path"], "--yes")
    reconciled = used.run("keys", "reconcile")
    erased, other = used.run("subject", "show", subject(1)), used.run("subject", "show", subject(2))
    assert (backup.code, lost.code, asked.code, restored.code, reconciled.code) == (0, 1, 3, 0, 0)
    assert restored.document["applied"] >= len(("shred", "end", "erase"))
    assert reconciled.document == {"erased_again": 0, "open": 0}
    assert erased.document["status"] == "erased"
    assert other.code == 0
    assert other.document["status"] == "active"


def test_what_is_no_backup_is_refused(used: Cli) -> None:
    """A missing file, a foreign one and the keystore of another home; nothing is changed."""
    foreign = used.folder / "foreign"
    foreign.write_text("nothing of ours")
    codes = [used.run("keys", "restore", path, "--yes").code for path in (foreign, used.folder / "none")]
    assert codes == [1, 1]
    assert used.run("subject", "show", subject(1)).code == 0


def test_every_release_of_keys_is_accounted_for(used: Cli) -> None:
    """A closed report has its leaf in the audit log, and what comes later goes into the next one."""
    before = used.run("keys", "releases")
    closed = used.run("keys", "releases", "--close")
    assert used.run("subject", "show", subject(1)).code == 0
    after, audit = used.run("keys", "releases"), used.run("audit", "verify")
    assert (before.code, closed.code, after.code, audit.code) == (0, 0, 0, 0)
    (first,) = closed.document["closed"]
    assert first["index"] == 0
    assert audit.document["leaves"] == 1
    told = {(one["role"], one["outcome"]) for one in before.document["running"]}
    assert told >= {("ingest", "released"), ("worker", "released"), ("worker", "withheld")}
    assert after.document["closed"] == closed.document["closed"]
    assert {one["role"] for one in after.document["running"]} == {"privacy"}
