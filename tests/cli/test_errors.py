"""What goes wrong around a home: one plain sentence with the next step, no traceback, nothing lost."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.cli.cli import (
    PURPOSE,
    Cli,
    Result,
    adds_up,
    enrolled,
    parts_of,
    played,
    subject,
)

IMPATIENT: Final = (
    "from privacy_ledger.engine.embedded import EmbeddedPasses as P; "
    "P.settle.__kwdefaults__['timeout_s'] = 1.0; "
    "from privacy_ledger.interfaces.cli import main; main()"
)
"""The command with one second of patience instead of thirty."""
SENTENCE_CHARS: Final = 600
WAIT_S: Final = 30.0
CONTROLS_MAX: Final = 200
"""Records of a home that are nobody's data: registrations, ticks, rules, states."""


def is_plain(result: Result, *words: str, code: int = 1) -> bool:
    """Return whether a command ended with one plain line and one document that says the same."""
    document = result.document
    (line,) = result.err.splitlines()
    return (
        result.code == code == document["exit"]
        and document["error"] == line
        and len(line) < SENTENCE_CHARS
        and result.says(*words)
    )


# The home and its keys ------------------------------------------------------------------------


def test_a_folder_with_other_files_is_no_home(cli: Cli) -> None:
    """It is left as it is."""
    cli.home.mkdir()
    (cli.home / "letter.txt").write_text("mine")
    assert is_plain(cli.run("init"), "holds other files", "--home")
    assert [path.name for path in cli.home.iterdir()] == ["letter.txt"]


def test_a_file_in_the_place_of_the_home_is_refused(cli: Cli) -> None:
    """The operating system's word for it, and the next step."""
    cli.home.write_text("mine")
    assert is_plain(cli.run("init"), "cannot be used", "--home")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff", b'{"format": "other"}'])
def test_a_damaged_description_of_the_home_is_refused(cli: Cli, content: bytes) -> None:
    """Nothing is created in its place."""
    cli.home.mkdir()
    (cli.home / "home.json").write_bytes(content)
    assert is_plain(cli.run("init"), "home.json cannot be read", "backup")
    assert [path.name for path in cli.home.iterdir()] == ["home.json"]


@pytest.mark.parametrize("more", [{}, {"a_member_of_the_future": 1}])
def test_a_home_of_another_version_is_refused(used: Cli, more: dict[str, int]) -> None:
    """It is named as such, also where that version says more than this one."""
    cli = used
    file = cli.home / "home.json"
    said = json.loads(file.read_bytes())
    file.write_text(json.dumps({**said, "version": 2, **more}))
    assert is_plain(cli.run("init"), "version 2", "reads 1")


@pytest.mark.parametrize("file", ["ledger.db", "keystore.db"])
def test_a_damaged_store_is_refused(used: Cli, file: str) -> None:
    """It is not overwritten."""
    cli = used
    for path in cli.home.glob(f"{file}*"):
        path.write_bytes(b"this is no database at all, and it is long enough to be one " * 40)
    assert is_plain(cli.run("init"), "not a readable", "backup")


def _open_folder(cli: Cli) -> None:
    cli.keys.chmod(0o755)


def _open_key(cli: Cli) -> None:
    (cli.keys / "epoch-1.kek").chmod(0o644)


def _no_folder(cli: Cli) -> None:
    shutil.rmtree(cli.keys)


def _no_key(cli: Cli) -> None:
    (cli.keys / "epoch-1.kek").unlink()


def _half_a_key(cli: Cli) -> None:
    (cli.keys / "epoch-1.kek").write_bytes(b"short")


def _keys_inside(cli: Cli) -> None:
    cli.more["PRIVACY_LEDGER_KEYS"] = str(cli.home / "keys")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (_open_folder, "chmod 700"),
        (_open_key, "chmod 600"),
        (_no_folder, "Restore"),
        (_no_key, "Restore"),
        (_half_a_key, "Restore"),
        (_keys_inside, "PRIVACY_LEDGER_KEYS"),
    ],
)
def test_keys_that_cannot_be_used_stop_every_command(
    used: Cli, damage: Callable[[Cli], None], word: str
) -> None:
    """With the command that mends it; no new key is made in the place of a lost one."""
    cli = used
    before = sorted(path.name for path in cli.keys.iterdir())
    damage(cli)
    kept = sorted(path.name for path in cli.keys.iterdir()) if cli.keys.exists() else []
    assert is_plain(cli.ingest([enrolled(1)]), word)
    assert (sorted(path.name for path in cli.keys.iterdir()) if cli.keys.exists() else []) == kept
    assert "epoch-1.kek" in before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRIVACY_LEDGER_PARTITIONS", "many"),
        ("PRIVACY_LEDGER_SECURITY_PROTOCOL", "SECRET"),
        ("PRIVACY_LEDGER_SESSION_S", "5"),
        ("PRIVACY_LEDGER_STANDBYS", "-1"),
    ],
)
def test_an_unusable_environment_is_a_usage_error(cli: Cli, name: str, value: str) -> None:
    """Exit 2 and a sentence."""
    cli.more |= {name: value, "PRIVACY_LEDGER_CLUSTER": "127.0.0.1:1"}
    result = cli.run("doctor")
    assert (result.code, result.says(name)) == (2, True)
    assert value not in result.err


# A home held by another process ---------------------------------------------------------------


def test_a_command_waits_for_the_process_that_holds_the_home(used: Cli) -> None:
    """The holder folds what the command appends, and stops on SIGTERM with one document."""
    cli = used
    with cli.worker() as holder:
        granted = cli.run("consent", "grant", subject(1), PURPOSE)
        shown = cli.run("consent", "show", subject(1))
        second = cli.run("worker", "run")
        holder.terminate()
        out, _ = holder.communicate(timeout=WAIT_S)
    assert (granted.code, list(shown.document["consents"])) == (0, [PURPOSE])
    assert is_plain(second, "Another process runs the passes")
    assert (holder.returncode, json.loads(out)) == (0, {"stopped": True})


def test_a_holder_that_stands_still_makes_the_command_give_up(used: Cli) -> None:
    """Exit 5: what was appended is safe, and counts as soon as the holder goes on or dies."""
    cli = used
    words = cli.arguments("consent", "grant", subject(1), PURPOSE)
    with cli.worker() as holder:
        holder.send_signal(signal.SIGSTOP)
        result = cli.execute([sys.executable, "-c", IMPATIENT, *words[3:]])
        unseen = cli.run("--no-wait", "consent", "withdraw", subject(1), PURPOSE)
        stale = cli.run("consent", "show", subject(1))
    after = cli.run("replay", "verify")
    shown = cli.run("consent", "show", subject(1))
    assert is_plain(result, "Another process holds this home", "is safe", "doctor", code=5)
    assert (unseen.code, stale.document["consents"]) == (0, {})
    assert (after.document["equal"], shown.document["consents"]) == (True, {})


# A full disk ----------------------------------------------------------------------------------

SMALL_DISK: Final = """
set -e
mount -t tmpfs -o size={size} tmpfs "$HOME_DIR"
{full} || echo "$?" > "$OUT/full.code"
mount -o remount,size=200m "$HOME_DIR"
{again} || echo "$?" > "$OUT/again.code"
{verify}
"""


def _can_mount() -> bool:
    tried = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False
    )
    return tried.returncode == 0


def _redirected(cli: Cli, name: str, *words: str | Path) -> str:
    quoted = " ".join(f"'{word}'" for word in cli.arguments(*words))
    return f'{quoted} > "$OUT/{name}.out" 2> "$OUT/{name}.err"'


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare: a small disk cannot be made")
@pytest.mark.parametrize("size", ["1400k", "3m"])
def test_a_full_disk_stops_with_a_sentence_and_loses_nothing(cli: Cli, size: str) -> None:
    """Earlier batches are durable; after space returns, the same file adds exactly the rest."""
    if not _can_mount():
        pytest.skip("this machine lets nobody mount a small disk")
    lines = cli.folder / "lines.log"
    lines.write_bytes(b"\n".join(played(n % 7 + 1, number=n) for n in range(5000)))
    cli.home.mkdir()
    cli.more |= {"HOME_DIR": str(cli.home), "OUT": str(cli.folder)}
    words = ("ingest", lines, "--format", "openedx")
    script = SMALL_DISK.format(
        size=size,
        full=_redirected(cli, "full", *words),
        again=_redirected(cli, "again", *words),
        verify=_redirected(cli, "verify", "replay", "verify"),
    )
    done = cli.execute(["unshare", "-Urm", "sh", "-c", script])
    code = int((cli.folder / "full.code").read_text()) if (cli.folder / "full.code").exists() else 0
    full = Result(code, (cli.folder / "full.out").read_text(), (cli.folder / "full.err").read_text())
    again = json.loads((cli.folder / "again.out").read_text())
    verified = json.loads((cli.folder / "verify.out").read_text())
    assert (done.code, done.err) == (0, "")
    assert is_plain(full, "space", "again")
    assert parts_of(again) == {"accepted": 5000 - again["duplicates"], "duplicates": again["duplicates"]}
    assert verified["equal"]


def test_a_file_that_may_not_grow_stops_with_a_sentence_and_loses_nothing(cli: Cli) -> None:
    """As under a quota: a limit on the size of every file that the process writes."""
    lines = [played(n % 7 + 1, number=n) for n in range(2500)]
    words = cli.arguments("ingest", "-", "--format", "openedx")
    limited = ["sh", "-c", 'ulimit -f 1200; exec "$0" "$@"', *words]
    cli.run("init")
    stopped = cli.execute(limited, stdin=b"\n".join(lines))
    again = cli.ingest(lines)
    verified = cli.run("replay", "verify")
    assert is_plain(stopped)
    assert adds_up(again.document)
    assert again.document["accepted"] + again.document["duplicates"] == len(lines)
    assert verified.document["equal"]


# A broker that is down, and being stopped -----------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("init",), ("topics", "plan"), ("doctor",), ("ingest", "-", "--format", "openedx"),
        ("worker", "run"), ("consent", "grant", "openedx:user_id:1", PURPOSE), ("replay", "verify"),
    ],
)  # fmt: skip
def test_a_broker_that_is_down_gives_one_sentence_within_seconds(cli: Cli, words: tuple[str, ...]) -> None:
    """With the address and what to check; no traceback, exit 1."""
    started = time.monotonic()
    result = cli.run("--kafka", "127.0.0.1:1", *words)
    assert time.monotonic() - started < WAIT_S
    assert result.code == 1
    said = result.document
    sentence = said["error"] if "error" in said else said["findings"][0]["finding"]
    assert "127.0.0.1:1 could not be used" in sentence
    assert "Check the address" in sentence
    assert result.err.splitlines() in ([], [sentence])


def _records(cli: Cli) -> int:
    """Return how many records the log holds now, as another process sees it."""
    if not (cli.home / "ledger.db").exists():
        return 0
    try:
        connection = sqlite3.connect(f"file:{cli.home / 'ledger.db'}?mode=ro", uri=True, timeout=5)
        try:
            (count,) = connection.execute("SELECT count(*) FROM records").fetchone()
            return int(count)
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return 0


def _stopped(cli: Cli, lines: Path, number: signal.Signals, *, at: int) -> tuple[int, bytes, bytes]:
    """Ingest a file, and send a signal when the log holds `at` records; return how it ended."""
    process = cli.start("ingest", lines, "--format", "openedx")
    deadline = time.monotonic() + WAIT_S
    while _records(cli) < at and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


def test_an_ingest_that_is_stopped_goes_on_with_exactly_the_rest(cli: Cli) -> None:
    """By Ctrl-C, SIGTERM and SIGKILL in turn: no line is lost or doubled, views equal a rebuild."""
    count = 12_000
    lines = cli.folder / "lines.log"
    lines.write_bytes(b"\n".join(played(n % 50 + 1, number=n) for n in range(count)))
    gently = [_stopped(cli, lines, signal.SIGINT, at=500), _stopped(cli, lines, signal.SIGTERM, at=3000)]
    killed = _stopped(cli, lines, signal.SIGKILL, at=6000)
    before = _records(cli)
    again = cli.run("ingest", lines, "--format", "openedx")
    verified = cli.run("replay", "verify")
    for code, out, err in gently:
        assert (code, json.loads(out)["exit"]) == (1, 1)
        assert err.splitlines() == [b"Stopped. What was acknowledged is safe; run the command again."]
    assert killed == (-signal.SIGKILL, b"", b"")
    assert 6000 <= before < count
    rest = again.document["accepted"]
    assert parts_of(again.document) == {"accepted": rest, "duplicates": count - rest}
    assert 0 < rest <= count - before + CONTROLS_MAX
    assert verified.document["equal"]


def test_control_c_ends_a_command_that_waits_for_its_input(cli: Cli) -> None:
    """One signal is enough, although nothing arrives on standard input."""
    process = cli.start("ingest", "-", "--format", "openedx")
    deadline = time.monotonic() + WAIT_S
    while _records(cli) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=WAIT_S)
    _, err = process.communicate()
    assert (code, b"What was acknowledged is safe" in err) == (1, True)


def test_a_reader_that_leaves_early_is_no_error(used: Cli) -> None:
    """`| head` closes the pipe."""
    cli = used
    line = " ".join(f"'{word}'" for word in cli.arguments("replay", "verify", as_json=False))
    done = cli.execute(["sh", "-c", f"{line} | true"])
    assert (done.code, done.err) == (0, "")


def test_an_output_folder_that_cannot_be_made_is_a_sentence(used: Cli) -> None:
    """Neither for a report nor for an export."""
    cli = used
    nowhere = os.devnull + "/report.ndjson"
    report = cli.ingest([enrolled(1)], "--report", nowhere)
    export = cli.run("export", subject(1), "-o", os.devnull)
    assert is_plain(report, "The operating system refused")
    assert is_plain(export, "The operating system refused")
