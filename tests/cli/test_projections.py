"""What operators see of projections and workers, in a home: lag, health pages, and closed ports."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psutil

from tests.cli.cli import PURPOSE, Cli, subject

WAIT_S: Final = 60.0
_ADDRESS: Final = re.compile(rb"http://(127\.0\.0\.1:\d+)/")


@contextmanager
def worker(cli: Cli, health: str | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Yield a running worker of the home, and where it answers."""
    if health is not None:
        cli.more["PRIVACY_LEDGER_HEALTH"] = health
    process = cli.start("worker", "run")
    address = b""
    assert process.stderr is not None
    try:
        while b"Running all passes" not in (line := process.stderr.readline()):
            assert line, "the worker ended"
            found = _ADDRESS.search(line)
            address = address or (found[1] if found else b"")
        yield process, address.decode()
    finally:
        process.kill()
        process.communicate()


def got(address: str, path: str) -> tuple[int, bytes]:
    """Return status and body of a page."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=WAIT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def rows_of(cli: Cli, *words: str) -> list[dict[str, Any]]:
    """Return the rows that `projections lag` says."""
    rows: list[dict[str, Any]] = cli.run("projections", "lag", *words).document["projections"]
    return rows


def test_every_projection_is_listed_with_its_view(used: Cli) -> None:
    """Private ones have none."""
    listed = used.run("projections", "list").document["projections"]
    assert {row["projection"]: (row["pass_name"], row["view"]) for row in listed} == {
        "permissions": ("core", "view.permissions.v1"),
        "progress": ("core", "view.progress.v1"),
        "subject_view": ("core", "view.subject_view.v1"),
        "course_views": ("analytics", None),
    }


def test_lag_is_counted_from_the_first_record_that_is_not_folded(used: Cli) -> None:
    """In the partition of that person alone, and looking at it folds nothing."""
    before = rows_of(used)
    for _ in range(3):
        used.run("--no-wait", "consent", "grant", subject(1), PURPOSE)
        used.run("--no-wait", "consent", "withdraw", subject(1), PURPOSE)
    behind = rows_of(used, "progress")
    again = rows_of(used, "progress")
    used.run("replay", "verify")
    after = rows_of(used, "progress")
    assert {row["behind"] for row in before} == {0}
    assert sorted(row["behind"] for row in behind) == [0, 0, 0, 6]
    assert [row["position"] for row in again] == [row["position"] for row in behind]
    (late,) = [row for row in again if row["behind"]]
    assert late["end"] - late["position"] - 1 == 6
    assert 0 < late["seconds"] < WAIT_S
    assert {(row["behind"], row["seconds"]) for row in after} == {(0, 0.0)}


def test_lag_is_a_table_for_people(used: Cli) -> None:
    """One row for a projection and partition, and nothing else on standard output."""
    shown = used.run("projections", "lag", "core", as_json=False)
    titles, *rows = shown.out.splitlines()
    assert titles.split() == ["projection", "pass", "part", "position", "end", "behind", "seconds"]
    assert [row.split()[:3] for row in rows] == [
        [name, "core", str(partition)]
        for name in ("permissions", "progress", "subject_view")
        for partition in range(4)
    ]
    assert (shown.code, shown.err) == (0, "")


def test_watching_looks_again_until_it_is_stopped(used: Cli) -> None:
    """Ctrl-C ends it with the code of its last look."""
    words = used.arguments("projections", "lag", "progress", "--watch", "--fail-above", "0", as_json=False)
    watcher = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=used.folder, env=used.environment
    )
    assert watcher.stdout is not None
    seen: list[bytes] = []
    try:
        while len([line for line in seen if line.startswith(b"projection")]) < 2:
            seen.append(watcher.stdout.readline())
            if seen[-1] == b"":
                break
        used.run("--no-wait", "consent", "grant", subject(1), PURPOSE)
        while (line := watcher.stdout.readline()) and b" 1 " not in line[40:]:
            continue
        watcher.send_signal(signal.SIGINT)
        _, err = watcher.communicate(timeout=WAIT_S)
    finally:
        watcher.kill()
    assert (watcher.returncode, err) == (5, b"")


def test_a_worker_has_no_open_port_unless_it_was_told(used: Cli) -> None:
    """Neither a port of ours nor one of a library."""
    with worker(used) as (process, address):
        sockets = psutil.Process(process.pid).net_connections()
    assert (address, sockets) == ("", [])


def test_a_worker_that_was_told_answers_on_this_machine(used: Cli) -> None:
    """Alive, ready, and with figures; asked by `projections lag`, and gone with the worker."""
    with worker(used, ":0") as (process, address):
        host, _, port = address.partition(":")
        listening = [
            (found.laddr.ip, str(found.laddr.port))
            for found in psutil.Process(process.pid).net_connections()
            if found.status == psutil.CONN_LISTEN
        ]
        alive, ready = got(address, "/livez"), got(address, "/readyz")
        status, metrics = got(address, "/metrics")
        used.more["PRIVACY_LEDGER_HEALTH"] = address
        rows = rows_of(used)
        shown = used.run("projections", "lag", as_json=False)
        process.terminate()
        out, err = process.communicate(timeout=WAIT_S)
    assert listening == [(host, port)] == [("127.0.0.1", port)]
    assert (alive[0], ready[0], status) == (200, 200, 200)
    assert set(json.loads(ready[1])["passes"]) == {"analytics", "core"}
    assert b'privacy_ledger_partition_state{partition="0",pass="core",state="running"} 1.0' in metrics
    assert {row["worker"]["state"] for row in rows} == {"running"}
    assert shown.out.splitlines()[0].endswith("state")
    assert (process.returncode, json.loads(out), err) == (0, {"stopped": True}, b"")


def test_a_worker_that_others_can_reach_says_so(used: Cli) -> None:
    """On standard error, at its start."""
    used.more["PRIVACY_LEDGER_HEALTH"] = "0.0.0.0:0"
    process = used.start("worker", "run")
    assert process.stderr is not None
    try:
        first, second = process.stderr.readline(), process.stderr.readline()
    finally:
        process.kill()
        process.communicate()
    assert b"http://0.0.0.0:" in first
    assert b"Other machines can reach" in second


def test_an_address_that_is_taken_stops_the_worker_with_a_sentence(used: Cli) -> None:
    """It would be watched by nobody."""
    with worker(used, ":0") as (_, address):
        used.more["PRIVACY_LEDGER_HEALTH"] = address
        second = used.run("worker", "run")
    assert (second.code, second.says("Health checks cannot be answered", "PRIVACY_LEDGER_HEALTH")) == (
        1,
        True,
    )


def test_an_unusable_address_is_a_usage_error(used: Cli) -> None:
    """With the variable's name, and without its value."""
    used.more["PRIVACY_LEDGER_HEALTH"] = "grace-hopper"
    result = used.run("doctor")
    assert (result.code, result.says("PRIVACY_LEDGER_HEALTH"), "hopper" in result.err) == (2, True, False)


def test_a_process_that_is_stopped_does_not_hold_up_a_look(used: Cli) -> None:
    """The state is left out; the figures come from the log."""
    with worker(used, ":0") as (process, address):
        used.more["PRIVACY_LEDGER_HEALTH"] = address
        os.kill(process.pid, signal.SIGSTOP)
        started = time.monotonic()
        rows = rows_of(used, "core")
        took = time.monotonic() - started
    assert {row["worker"] for row in rows} == {None}
    assert took < WAIT_S / 2
