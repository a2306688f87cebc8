"""Erasure at the command line: idempotent, resumable wherever it is killed, and physical."""

import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct

from privacy_ledger.adapters.local.log import LocalLog
from privacy_ledger.bootstrap import Runtime
from privacy_ledger.domain.merkle import HASH_BYTES
from privacy_ledger.domain.topics import AUDIT_LEAVES, DLQ
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, Identity
from privacy_ledger.ports.log import NewRecord, Row, header
from privacy_ledger.ports.runtime import Clock
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import (
    PURPOSE,
    SEALED_FROM,
    Cli,
    encoded,
    enrolled,
    event,
    is_sealed,
    new_cli,
    played,
    ref_of,
    registered,
    rows_about,
    rows_of,
    subject,
    viewed,
)
from tests.cli.forks import Forks

KILLED: Final = -9
OF_THE_SAGA: Final = 40
"""After so many effects an erasure has been opened and is not complete."""
POINTS_MAX: Final = 400
NAME: Final = "grace-hopper"
IMPATIENT: Final = (
    "from privacy_ledger import bootstrap as b; "
    "from privacy_ledger.engine.embedded import EmbeddedPasses as P; "
    "P.settle.__kwdefaults__['timeout_s'] = b.erasure_of.__kwdefaults__['wait_s'] = 1.0; "
    "from privacy_ledger.interfaces.cli import main; main()"
)
"""The command with one second of patience instead of thirty."""
EMAIL: Final = "grace.hopper@example.com"
OF_THE_PERSON: Final = 60
WRAPPED_BYTES: Final = 60


def _lines() -> list[bytes]:
    """Return lines of person 1, once by number and once by name, and of person 2."""
    by_name = event("edx.user.login", username=NAME, event_id="login-by-name")
    return [
        registered(1, name="", email=EMAIL), encoded(by_name), enrolled(1, name=NAME),
        *(played(1, number=n) for n in range(4)), viewed(1),
        enrolled(2), *(played(2, number=n) for n in range(4)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Cli:
    """Return a home with a person of two references, restricted, and another one."""
    cli = Cli(tmp_path_factory.mktemp("prepared"), Path(), forks)
    cli.home = cli.folder / "home"
    lines = _lines()
    cli.ingest(lines[:1])
    cli.ingest(lines[1:2])
    assert cli.ingest(lines, "--default-consent", PURPOSE).code == 0
    assert cli.run("restrict", subject(1), "--ground", "objection").code == 0
    return cli


class State(Struct, frozen=True):
    """What is left of person 1, and what is said of their erasure; one entry per reference."""

    completions: tuple[int, ...]
    readable: int
    live: int
    leaves: int
    others: int


async def _state(cli: Cli) -> State:
    """Look into the home through the library."""
    async with cli.opened() as runtime:
        refs = runtime.vault.refs_of(Identity("openedx:user_id", "1"))
        completions, readable, live = [], 0, 0
        for ref in refs:
            rows = await rows_about(runtime, ref)
            completions.append(_types(rows).count("erasure.completed.v1"))
            sealed = [row for row in rows if is_sealed(row)]
            readable += sum(runtime.codec.payload(row) is not None for row in sealed)
            live += len({row.key for row in sealed} - {row.key for row in rows if row.value is None})
        leaves = [row for row in await rows_of(runtime, AUDIT_LEAVES) if len(row.value or b"") == HASH_BYTES]
        others = await runtime.views.live(ref_of(runtime, 2))
        return State(tuple(completions), readable, live, len({row.value for row in leaves}), len(others))


def _types(rows: Iterable[Row]) -> list[str]:
    """Return the type header of each record."""
    return [(header(row.headers, "ce_type") or b"").decode() for row in rows if row.value is not None]


async def test_an_erasure_goes_on_wherever_it_was_killed(prepared: Cli, tmp_path: Path) -> None:
    """By SIGKILL after every write, key change and sync: it ends complete, once, and nobody is back."""
    begun = await _state(prepared)
    expected = State((1,) * len(begun.completions), 0, 0, len(begun.completions), begun.others)
    points, wrong = 0, {}
    while points < POINTS_MAX:
        cli = prepared.copied(tmp_path / f"killed-{points}")
        killed = cli.run("erase", subject(1), "--yes", fuse=points)
        if killed.code != KILLED:
            assert killed.code == 0
            break
        done = cli.run("erase", subject(1), "--yes")
        verified = cli.run("replay", "verify")
        again = cli.run("erase", subject(1), "--yes")
        state = await _state(cli)
        claims = {
            "completed": (done.code, done.document.get("completed")) == (0, True),
            "equal": verified.code == 0 and bool(verified.document["equal"]),
            "same receipt": again.out == done.out,
            "state": state == expected,
        }
        if not all(claims.values()):
            wrong[points] = (claims, state, done.out + done.err + verified.err)
        points += 1
        shutil.rmtree(cli.folder)
    assert wrong == {}
    assert len(begun.completions) == 2
    assert 40 < points < POINTS_MAX


def test_nobody_comes_back_before_they_return_and_then_as_somebody_new(used: Cli) -> None:
    """Old and new events are refused until the return; then only what is later counts."""
    used.run("erase", subject(1), "--yes")
    later = (datetime.now(UTC) + timedelta(seconds=240)).isoformat()
    before = used.ingest([enrolled(1), enrolled(1, at=later, number=2)])
    returned = used.run("subject", "return", subject(1))
    after = used.ingest([enrolled(1), enrolled(1, at=later, number=2)])
    shown = used.run("subject", "show", subject(1))
    twice = used.run("subject", "return", subject(1))
    verified = used.run("replay", "verify")
    assert before.document["reasons"] == {"subject_erased": 2}
    assert returned.code == 0
    assert (after.document["accepted"], after.document["reasons"]) == (1, {"before_subject": 1})
    assert shown.document["status"] == "active"
    assert [reference["counts"] for reference in shown.document["references"]] == [{"course.enrolled.v1": 1}]
    assert (twice.document["reason"], verified.document["equal"]) == ("not_erased", True)


async def test_a_person_who_returned_has_another_reference(used: Cli) -> None:
    """The erased one is ended for ever."""
    async with used.opened() as runtime:
        old = ref_of(runtime, 1)
    used.run("erase", subject(1), "--yes")
    used.run("subject", "return", subject(1))
    async with used.opened() as runtime:
        new = ref_of(runtime, 1)
        assert (runtime.vault.is_ended(old), runtime.vault.is_ended(new), new == old) == (True, False, False)


def test_a_second_erasure_after_a_return_has_a_receipt_of_its_own(used: Cli) -> None:
    """The first receipt stays what it is."""
    first = used.run("erase", subject(1), "--yes").document["receipts"]
    used.run("subject", "return", subject(1))
    later = (datetime.now(UTC) + timedelta(seconds=240)).isoformat()
    used.ingest([enrolled(1, at=later)])
    second = used.run("erase", subject(1), "--yes")
    again = used.run("erase", subject(1), "--yes")
    assert (second.code, again.out) == (0, second.out)
    assert second.document["receipts"][0]["receipt"] != first[0]["receipt"]
    assert used.run("replay", "verify").document["equal"]


async def test_an_erasure_that_cannot_look_into_a_store_is_not_complete(used: Cli) -> None:
    """Exit code 5, and the status names the store; then `--resume` completes it, and says what is final."""
    nothing = used.run("erase", subject(1), "--status")
    async with used.opened() as runtime:
        await runtime.log.append(DLQ, (NewRecord(0, b"key", b'{"line": "grace.hopper@example.com"}'),))
    begun = used.run("erase", subject(1), "--yes")
    resumed, shown = used.run("erase", "--resume"), used.run("erase", subject(1), "--status")
    healthy = used.run("doctor")
    connection = sqlite3.connect(used.home / "ledger.db")
    connection.execute("DELETE FROM records WHERE value = ?", (b'{"line": "grace.hopper@example.com"}',))
    connection.commit()
    connection.close()
    done, rolled = used.run("erase", "--resume"), used.run("keys", "roll", "--final-now", "--yes")
    idle, status = used.run("erase", "--resume"), used.run("erase", subject(1), "--status")
    still_open = ["dead letters: unsupported", "verified"]
    assert (nothing.code, nothing.document) == (0, {"erasures": []})
    assert (begun.code, begun.document["completed"], begun.document["open"]) == (5, False, still_open)
    assert (resumed.code, resumed.document["open"], resumed.document["completed"]) == (5, still_open, 0)
    (erasure,) = shown.document["erasures"]
    assert (shown.code, erasure["state"], sorted(erasure["open_steps"])) == (5, "incomplete", still_open)
    assert healthy.code == 0
    assert (done.code, done.document["resumed"], done.document["completed"]) == (0, 1, 1)
    assert (rolled.code, rolled.document["final"]) == (0, 1)
    assert (idle.code, idle.document["resumed"], idle.document["final"]) == (0, 0, 0)
    assert (status.code, [one["state"] for one in status.document["erasures"]]) == (0, ["final"])
    (ended,) = status.document["erasures"]
    names = ("requested_at", "unreadable_at", "derived_clean_at", "completed_at", "bytes_gone_at")
    times = [datetime.fromisoformat(ended[name]) for name in names]
    assert times == sorted(times)
    assert erasure["bytes_gone_at"] is None


def test_the_next_command_of_a_home_goes_on_with_an_erasure_that_was_killed(
    tmp_path: Path, forks: Forks
) -> None:
    """Once nobody has worked on it for a while: whoever runs the passes runs what is left of it."""
    cli = new_cli(tmp_path / "killed", forks)
    begun = datetime.now(UTC) - timedelta(hours=3)
    cli.run("init", "--trial-clock", begun.isoformat())
    cli.ingest([enrolled(1, at=begun), enrolled(2, at=begun)])
    killed = cli.run("erase", subject(1), "--yes", fuse=OF_THE_SAGA)
    soon = cli.run("subject", "show", subject(2)), cli.run("erase", subject(1), "--status")
    cli.run("init", "--trial-clock", (begun + timedelta(hours=1)).isoformat())
    later = cli.run("subject", "show", subject(2)), cli.run("erase", subject(1), "--status")
    assert killed.code == KILLED
    assert (soon[0].code, soon[1].code, later[0].code, later[1].code) == (0, 5, 0, 0)
    assert [one["state"] for one in later[1].document["erasures"]] == ["completed"]


async def test_keys_are_destroyed_also_while_nobody_folds(used: Cli) -> None:
    """The worker stands still: exit code 5, nothing opens any more, and the rest follows when it is gone."""
    cli = used
    async with cli.opened() as runtime:
        sealed = [row for row in await rows_about(runtime, ref_of(runtime, 1)) if is_sealed(row)]
        readable = [runtime.codec.payload(row) is not None for row in sealed]
    with cli.worker() as holder:
        holder.send_signal(signal.SIGSTOP)
        words = cli.arguments("erase", subject(1), "--yes")
        begun = cli.execute([sys.executable, "-c", IMPATIENT, *words[3:]])
        async with cli.opened() as runtime:
            left = [runtime.codec.payload(row) is not None for row in sealed]
        shown = cli.run("--no-wait", "erase", subject(1), "--status")
    done, verified = cli.run("erase", subject(1), "--yes"), cli.run("replay", "verify")
    assert (begun.code, begun.document["completed"]) == (5, False)
    assert {"fenced", "derived", "state core: unreachable"} <= set(begun.document["open"])
    assert (shown.code, [one["state"] for one in shown.document["erasures"]]) == (5, ["incomplete"])
    assert (any(readable), any(left)) == (True, False)
    assert (done.code, done.document["completed"], verified.document["equal"]) == (0, True, True)


async def test_the_doctor_names_an_erasure_that_is_open_for_a_day(tmp_path: Path, forks: Forks) -> None:
    """And how to look which store it waits for."""
    cli = new_cli(tmp_path / "late", forks)
    begun = datetime.now(UTC) - timedelta(hours=30)
    cli.run("init", "--trial-clock", begun.isoformat())
    cli.ingest([enrolled(1, at=begun)])
    async with cli.opened() as runtime:
        await runtime.log.append(DLQ, (NewRecord(0, b"key", b'{"line": "of nobody known"}'),))
    erased = cli.run("erase", subject(1), "--yes")
    before = cli.run("doctor")
    cli.run("init", "--trial-clock", (begun + timedelta(hours=25)).isoformat())
    after, shown = cli.run("doctor"), cli.run("erase", subject(1), "--status")
    assert (erased.code, before.code, after.code) == (5, 0, 1)
    assert after.document["findings"] == [
        {"finding": "1 erasures are open for more than 24 hours", "mend": "erase --resume"}
    ]
    assert [one["is_overdue"] for one in shown.document["erasures"]] == [True]


@pytest.mark.parametrize("words", [(), ("--resume", "--plan"), ("--resume", "openedx:user_id:1")])
def test_erase_wants_a_subject_or_everybody(words: tuple[str, ...], used: Cli) -> None:
    """Not both, and not neither."""
    assert used.run("erase", *words).code == 2


# Physically gone ------------------------------------------------------------------------------


class _Later:
    """A clock that runs ahead."""

    def __init__(self, clock: Clock, *, days: int) -> None:
        self._clock = clock
        self._ahead = timedelta(days=days)

    def now(self) -> datetime:
        return self._clock.now() + self._ahead


class Captured(Struct):
    """What stood in the home before an erasure, by name."""

    sealed: dict[str, bytes]
    keys: dict[str, bytes]
    wrapped: dict[str, bytes]


def _wrapped(cli: Cli, refs: tuple[SubjectRef, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield the wrapped keys of a person as the keystore holds them."""
    connection = sqlite3.connect(cli.home / "keystore.db")
    marks = ",".join("?" * len(refs))
    rows = connection.execute(
        f"SELECT k.id, m.wrapped FROM keys k JOIN material m ON m.id = k.id WHERE k.ref IN ({marks})",  # noqa: S608
        refs,
    ).fetchall()
    connection.close()
    yield from ((f"wrapped {number}", wrapped) for number, wrapped in rows)


async def _captured(cli: Cli, runtime: Runtime) -> Captured:
    """Return the sealed bytes and keys of person 1."""
    refs = runtime.vault.refs_of(Identity("openedx:user_id", "1"))
    rows = [row for ref in refs for row in await rows_about(runtime, ref) if is_sealed(row)]
    values = {f"sealed {n}": (row.value or b"")[SEALED_FROM:] for n, row in enumerate(rows)}
    kids = [(row.value or b"")[1:SEALED_FROM] for row in rows]
    opened = runtime.vault.open_keys(list(dict.fromkeys(kids))).values()
    keys = {f"key {n}": key.secret for n, key in enumerate(opened) if isinstance(key, DataKey)}
    return Captured(values, keys, dict(_wrapped(cli, refs)))


async def _compacted(cli: Cli, *, days: int) -> None:
    """Compact every topic of the home's log, so many days later."""
    async with cli.opened() as runtime:
        assert runtime.home is not None
        clock, partitions = _Later(runtime.clock, days=days), runtime.home.file.partitions
    log = LocalLog(cli.home / "ledger.db", partitions=partitions, clock=clock)
    await log.compact()
    await log.close()


def _names(scanner: Scanner, *paths: Path) -> set[str]:
    return {hit.name for hit in scanner.scan(paths)}


async def test_sealed_bytes_and_keys_of_an_erased_person_are_in_no_file(
    prepared: Cli, tmp_path: Path
) -> None:
    """They are found before; after erasure and compaction none is, in log, keystore, WAL or journal."""
    cli = prepared.copied(tmp_path / "physical")
    cli.ingest([played(1, number=100 + n) for n in range(OF_THE_PERSON)])
    for number in range(5):
        words = ("subject", "show", subject(1), "--reveal", "--reason", f"ticket {number}")
        cli.run(*words)
    async with cli.opened() as runtime:
        held = await _captured(cli, runtime)
        others = [row for row in await rows_about(runtime, ref_of(runtime, 2)) if is_sealed(row)]
    control = {f"other {n}": (row.value or b"")[SEALED_FROM:] for n, row in enumerate(others)}
    sealed, keys = Scanner(held.sealed), Scanner(held.keys)
    wrapped, other = Scanner(held.wrapped), Scanner(control)
    before = _names(sealed, cli.home), _names(wrapped, cli.home)
    raw_before = _names(keys, cli.home, cli.keys)
    erased = cli.run("erase", subject(1), "--yes")
    wrapped_after = _names(wrapped, cli.home, cli.keys)
    soon = _names(sealed, cli.home, cli.keys)
    await _compacted(cli, days=8)
    verified, again = cli.run("replay", "verify"), cli.run("erase", subject(1), "--yes")
    assert min(len(held.sealed), len(held.wrapped) * 5) >= 50
    assert {len(value) for value in held.wrapped.values()} == {WRAPPED_BYTES}
    assert before == (set(held.sealed), set(held.wrapped))
    assert raw_before == set()
    assert (erased.code, wrapped_after, soon) == (0, set(), set())
    assert _names(sealed, cli.home, cli.keys) == set()
    assert _names(keys, cli.home, cli.keys) == set()
    assert _names(wrapped, cli.home, cli.keys) == set()
    assert _names(other, cli.home) == set(control)
    assert (verified.document["equal"], again.out) == (True, erased.out)


async def test_the_bytes_go_with_the_erasure_also_beside_a_running_worker(
    prepared: Cli, tmp_path: Path
) -> None:
    """The worker reads the log all the while, and does not keep old pages alive."""
    cli = prepared.copied(tmp_path / "beside")
    async with cli.opened() as runtime:
        held = await _captured(cli, runtime)
    scanner = Scanner({**held.sealed, **held.wrapped})
    before = _names(scanner, cli.home)
    with cli.worker():
        erased = cli.run("erase", subject(1), "--yes")
        left = _names(scanner, cli.home, cli.keys)
    assert before == {*held.sealed, *held.wrapped}
    assert (erased.code, left) == (0, set())
