"""A projection's next version at the command line: wherever a command is killed, it goes on."""

import shutil
import sqlite3
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger.domain.topics import version_topics, view_topic
from privacy_ledger.domain.versions import pass_of
from privacy_ledger.ports.log import NewRecord
from tests.cli.cli import Cli, Document, enrolled, new_cli, played, ref_of, rows_of, subject
from tests.cli.forks import Forks

KILLED: Final = -9
POINTS_MAX: Final = 400
LINES: Final = [enrolled(1), enrolled(2), *(played(who, number=n) for who in (1, 2) for n in range(6))]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Cli:
    """Return a home with two people, and one who was erased."""
    cli = new_cli(tmp_path_factory.mktemp("prepared") / "cli", forks)
    assert cli.ingest([*LINES, enrolled(3), played(3, number=1)]).code == 0
    assert cli.run("erase", subject(3), "--yes").code == 0
    return cli


@pytest.fixture(scope="module")
def built(prepared: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Return the same home with a built version 2 of `progress`."""
    cli = prepared.copied(tmp_path_factory.mktemp("built") / "cli")
    assert cli.run("replay", "build", "progress").code == 0
    return cli


def _status(cli: Cli) -> list[tuple[int, str]]:
    """Return the versions of `progress` and what they are."""
    versions: list[Document] = cli.run("replay", "status", "progress").document["versions"]
    return [(one["version"], one["state"]) for one in versions]


def _plays(cli: Cli, who: int) -> int:
    """Return how often a person played something, as readers see it."""
    (reference,) = cli.run("subject", "show", subject(who)).document["references"]
    return sum(course["plays"] for course in reference["courses"].values())


def _live_keys(cli: Cli, version: int) -> int:
    """Return how many keys of a version can still open something."""
    connection = sqlite3.connect(cli.home / "keystore.db")
    (count,) = connection.execute(
        "SELECT count(*) FROM keys WHERE grp IN (?, ?) AND shredded_at IS NULL",
        (f"view:progress.v{version}", f"state:{pass_of('progress', version)}"),
    ).fetchone()
    connection.close()
    return int(count)


async def _rows(cli: Cli, version: int) -> int:
    """Return how many records of a later version the log holds."""
    topics = version_topics("progress", version, folded_by=pass_of("progress", version), role="core")
    async with cli.opened() as runtime:
        runtime.log.declare(*topics)  # type: ignore[attr-defined] # a home's log declares
        return sum([len(await rows_of(runtime, topic.name)) for topic in topics])


def test_a_build_goes_on_wherever_it_was_killed(prepared: Cli, tmp_path: Path) -> None:
    """By SIGKILL after every write, key change and sync: it ends equal, once, and nobody is back."""
    points, wrong, resumed = 0, {}, 0
    while points < POINTS_MAX:
        cli = prepared.copied(tmp_path / f"killed-{points}")
        killed = cli.run("replay", "build", "progress", fuse=points)
        if killed.code != KILLED:
            assert killed.code == 0
            break
        (_, *begun) = _status(cli)
        resumed += bool(begun)
        done = cli.run("replay", "build", "progress")
        diff = cli.run("replay", "diff", "progress")
        verified = cli.run("replay", "verify", "progress")
        claims = {
            "built": (done.code, done.document.get("version"), done.document.get("behind")) == (0, 2, 0),
            "equal": diff.code == 0 and bool(diff.document["empty"]) and diff.document["keys"] == [2, 2],
            "verified": verified.code == 0 and bool(verified.document["equal"]),
            "listed": _status(cli) == [(1, "speaks"), (2, "ready")],
        }
        if not all(claims.values()):
            wrong[points] = (claims, done.out + done.err + diff.err)
        points += 1
        shutil.rmtree(cli.folder)
    assert wrong == {}
    assert 20 < points < POINTS_MAX
    assert resumed > 10


async def test_a_cancel_goes_on_wherever_it_was_killed(built: Cli, tmp_path: Path) -> None:
    """Afterwards nothing of the version is left, and the one that speaks lost nothing."""
    points, wrong = 0, {}
    while points < POINTS_MAX:
        cli = built.copied(tmp_path / f"killed-{points}")
        killed = cli.run("replay", "cancel", "progress", "--yes", fuse=points)
        if killed.code != KILLED:
            assert killed.code == 0
            break
        listed = _status(cli)
        done = cli.run("replay", "cancel", "progress", "--yes")
        claims = {
            "ended": done.code == (0 if len(listed) > 1 else 4),
            "listed": _status(cli) == [(1, "speaks")],
            "keys": _live_keys(cli, 2) == 0,
            "rows": await _rows(cli, 2) == 0,
            "read": _plays(cli, 1) == 6,
            "verified": cli.run("replay", "verify").code == 0,
        }
        if not all(claims.values()):
            wrong[points] = (claims, listed, done.out + done.err)
        points += 1
        shutil.rmtree(cli.folder)
    assert wrong == {}
    assert 10 < points < POINTS_MAX


async def test_a_build_is_cancelled_at_any_moment(prepared: Cli, tmp_path: Path) -> None:
    """Killed anywhere while it was built, it can be given up; the next one has a number of its own."""
    wrong = {}
    for point in (0, 2, 5, 9, 14, 20):
        cli = prepared.copied(tmp_path / f"killed-{point}")
        assert cli.run("replay", "build", "progress", fuse=point).code == KILLED
        was_begun = len(_status(cli)) > 1
        cancelled = cli.run("replay", "cancel", "progress", "--yes")
        again = cli.run("replay", "build", "progress")
        claims = {
            "cancelled": cancelled.code == (0 if was_begun else 4),
            "gone": (_live_keys(cli, 2), await _rows(cli, 2)) == (0, 0) or not was_begun,
            "again": again.document["version"] == (3 if was_begun else 2),
            "verified": cli.run("replay", "verify").code == 0,
        }
        if not all(claims.values()):
            wrong[point] = (claims, cancelled.out + cancelled.err)
    assert wrong == {}


def test_a_switch_happens_once_or_not_at_all(built: Cli, tmp_path: Path) -> None:
    """Killed anywhere, one of the versions speaks in all partitions, and the command may be repeated."""
    states = set()
    for point in range(POINTS_MAX):
        cli = built.copied(tmp_path / f"killed-{point}")
        if cli.run("replay", "switch", "progress", "--yes", fuse=point).code != KILLED:
            break
        before = _status(cli)
        states.add(tuple(before))
        if before == [(1, "speaks"), (2, "ready")]:
            assert cli.run("replay", "switch", "progress", "--yes").code == 0
        assert _status(cli) == [(1, "ready"), (2, "speaks")]
        assert (_plays(cli, 1), _plays(cli, 2)) == (6, 6)
        shutil.rmtree(cli.folder)
    assert states == {((1, "speaks"), (2, "ready")), ((1, "ready"), (2, "speaks"))}


def test_a_switch_back_and_forth_and_out(built: Cli, tmp_path: Path) -> None:
    """Plans first; what speaks is not dropped; what is dropped does not come back."""
    cli = built.copied(tmp_path / "walk")
    planned = cli.run("replay", "switch", "progress")
    switched = cli.run("replay", "switch", "progress", "--yes")
    spoken = cli.run("replay", "drop", "progress", "--version", "2", "--yes")
    cli.ingest([played(1, number=50)])
    seen = [_plays(cli, 1)]
    back_planned = cli.run("replay", "rollback", "progress")
    back = cli.run("replay", "rollback", "progress", "--yes")
    seen.append(_plays(cli, 1))
    forth = cli.run("replay", "switch", "progress", "--yes")
    drop_planned = cli.run("replay", "drop", "progress", "--version", "1")
    dropped = cli.run("replay", "drop", "progress", "--version", "1", "--yes")
    seen.append(_plays(cli, 1))
    nothing = cli.run("replay", "rollback", "progress", "--yes")
    codes = [one.code for one in (planned, switched, spoken, back_planned, back, forth)]
    assert codes == [3, 0, 4, 3, 0, 0]
    assert [one.code for one in (drop_planned, dropped, nothing)] == [3, 0, 4]
    assert (planned.document["switched"], switched.document["switched"]) == (False, True)
    assert planned.document["diff"]["empty"]
    assert (spoken.document["reason"], nothing.document["reason"]) == ("version_speaks", "version_unknown")
    assert drop_planned.document == {
        "projection": "progress", "version": 1, "topics": [view_topic("progress")], "subjects": 2,
        "removed": False,
    }  # fmt: skip
    assert (dropped.document["removed"], dropped.document["keys"]) == (True, 2)
    assert seen == [7, 7, 7]
    assert (cli.run("replay", "verify").code, cli.run("doctor").code) == (0, 0)
    assert _status(cli) == [(2, "speaks")]


async def test_a_version_that_differs_is_accepted_in_so_many_words(built: Cli, tmp_path: Path) -> None:
    """Without them it is refused, with the counts; references are told to who asks for them."""
    cli = built.copied(tmp_path / "differs")
    async with cli.opened() as runtime:
        ref = ref_of(runtime, 1)
        view = view_topic("progress", 2)
        runtime.log.declare(  # type: ignore[attr-defined] # a home's log declares
            *version_topics("progress", 2, folded_by="progress-v2", role="core")
        )
        row = next(row for row in await rows_of(runtime, view) if row.key == ref)
        await runtime.log.append(view, [NewRecord(row.partition, ref, None)])
    diff = cli.run("replay", "diff", "progress")
    told = cli.run("replay", "diff", "progress", "--refs")
    planned = cli.run("replay", "switch", "progress")
    refused = cli.run("replay", "switch", "progress", "--yes")
    accepted = cli.run("replay", "switch", "progress", "--accept-diff", "--yes")
    assert [one.code for one in (diff, told, planned, refused, accepted)] == [0, 0, 3, 4, 0]
    assert (diff.document["only"], diff.document["different"], diff.document["empty"]) == ([1, 0], 0, False)
    assert ("refs" in diff.document, told.document["refs"]) == (False, [ref.hex()])
    assert planned.document["diff"] == diff.document
    assert refused.document["reason"] == "version_differs"
    assert refused.says("1 only in version 1", "--accept-diff")
    assert accepted.document["switched"]


async def test_a_version_with_somebody_erased_is_refused(built: Cli, tmp_path: Path) -> None:
    """However their row came there."""
    cli = built.copied(tmp_path / "reappears")
    async with cli.opened() as runtime:
        ref = ref_of(runtime, 3)
        view = view_topic("progress", 2)
        runtime.log.declare(  # type: ignore[attr-defined] # a home's log declares
            *version_topics("progress", 2, folded_by="progress-v2", role="core")
        )
        row = next(row for row in await rows_of(runtime, view) if row.key == ref_of(runtime, 1))
        partition = int.from_bytes(ref[:4], "big") % runtime.partitions
        await runtime.log.append(view, [NewRecord(partition, ref, row.value)])
    refused = cli.run("replay", "switch", "progress", "--accept-diff", "--yes")
    assert (refused.code, refused.document["reason"]) == (4, "erased_reappears")
    assert _status(cli) == [(1, "speaks"), (2, "ready")]


def test_a_worker_builds_what_a_command_began(prepared: Cli, tmp_path: Path) -> None:
    """The command watches; a cancel takes the version from the worker, which goes on with the rest."""
    cli = prepared.copied(tmp_path / "worker")
    with cli.worker() as process:
        done = cli.run("replay", "build", "progress")
        switched = cli.run("replay", "switch", "progress", "--yes")
        cli.ingest([played(1, number=70)])
        seen = _plays(cli, 1)
        dropped = cli.run("replay", "drop", "progress", "--version", "1", "--yes")
        cli.ingest([played(1, number=71)])
        third = cli.run("replay", "build", "progress", "--rate", "100000")
        cancelled = cli.run("replay", "cancel", "progress", "--yes")
        assert process.poll() is None
        assert [one.code for one in (done, switched, dropped, third, cancelled)] == [0] * 5
        assert (seen, _plays(cli, 1)) == (7, 8)
        assert _status(cli) == [(2, "speaks")]
        assert cli.run("replay", "verify").code == 0
    assert (_live_keys(cli, 3), third.document["version"]) == (0, 3)


def test_people_are_told_what_to_do_next(built: Cli, tmp_path: Path) -> None:
    """The same figures as sentences."""
    cli = built.copied(tmp_path / "told")
    status = cli.run("replay", "status", as_json=False)
    diff = cli.run("replay", "diff", "progress", as_json=False)
    plan = cli.run("replay", "switch", "progress", as_json=False)
    drop = cli.run("replay", "cancel", "progress", as_json=False)
    assert [line.split()[:3] for line in status.out.splitlines()] == [
        ["progress", "v1", "speaks"], ["progress", "v2", "ready"], ["subject_view", "v1", "speaks"],
    ]  # fmt: skip
    assert "They are equal." in diff.out
    assert plan.says("Next: privacy-ledger replay switch progress --yes")
    assert drop.says("Next: privacy-ledger replay cancel progress --yes", "cannot be undone")
    assert "states of 2 subjects" in drop.out
