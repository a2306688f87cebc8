"""Five failures of a keystore and five reactions of whoever folds: none of them looks like an erasure."""

import asyncio
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from privacy_ledger import bootstrap
from privacy_ledger.adapters.keystore import PostgresAddress
from privacy_ledger.app.ingest import Source
from privacy_ledger.domain.errors import KekMissing, KeyUnavailable, LedgerError, UnknownKey
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS
from privacy_ledger.domain.values import partition_of
from privacy_ledger.engine.guards import UNKNOWN_IN_A_ROW_MAX
from privacy_ledger.engine.outcomes import STOPPED_RETRY_S, Outcomes
from privacy_ledger.interfaces.cli.operate import fold_home, verify
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.streams.held import HELD, Held, Parked
from privacy_ledger.testing.postgres import PostgresProcess, postgres_programs, running_postgres
from tests.unit.home import TestHome, home, parse, played, unreadable, unwaiting, videos_of

PEOPLE: Final = [str(number) for number in range(100, 112)]
UNAVAILABLE: Final = "keys unavailable"
PATIENCE_S: Final = 45.0
"""How long something that must happen may take."""
FRESH_S: Final = 1.1
"""After so long a process asks the keystore before it uses a key."""


async def until(claim: Callable[[], bool]) -> None:
    """Wait until something is so that others bring about."""
    async with asyncio.timeout(PATIENCE_S):
        while not claim():  # noqa: ASYNC110 - it can only be looked at
            await asyncio.sleep(0.02)


async def positions(it: TestHome) -> dict[tuple[str, int], int]:
    """Return how far each pass is in each partition."""
    return {
        (name, partition): (await it.runtime.views.position(name, partition)).offset
        for name in it.runtime.declared
        for partition in range(it.runtime.partitions)
    }


async def ends(it: TestHome) -> dict[int, int]:
    """Return the last offset of each partition of the ledger."""
    log = it.runtime.log
    return {p: await log.end(LEDGER_EVENTS, p) - 1 for p in range(it.runtime.partitions)}


async def append_unfolded(it: TestHome, lines: Sequence[bytes]) -> None:
    """Take lines, and let nobody fold them yet."""
    taken = await (await unwaiting(it.runtime)).run(enumerate(lines, 1), Source(name="test", parse=parse))
    assert taken.accepted == len(lines)


async def sealed_only(it: TestHome, lines: Sequence[bytes]) -> list[NewRecord]:
    """Return the records of lines, sealed, of which the log has none yet."""
    sealed: list[NewRecord] = []

    async def keep(_topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        sealed.extend(records)
        return (0,) * len(records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(it.runtime.log, "append", keep)
        await append_unfolded(it, lines)
    return sealed


@asynccontextmanager
async def worker(it: TestHome) -> AsyncIterator[asyncio.Task[None]]:
    """Yield a worker of the home as the command runs it, once it does; it is told to stop at the end."""
    stop, said = asyncio.Event(), list[str]()
    running = asyncio.create_task(fold_home(it.runtime, stop, say=said.append))
    try:
        await until(lambda: bool(said) or running.done())
        yield running
    finally:
        stop.set()
        await asyncio.wait([running], timeout=PATIENCE_S)
        assert running.done()
        running.exception()  # seen: who cares for how it ended has asked


async def settled(it: TestHome) -> None:
    """Wait until every pass has folded what is in the ledger."""
    goal = await ends(it)
    async with asyncio.timeout(PATIENCE_S):
        # The worker writes them: they are only seen by reading them.
        while any(offset < goal[p] for (_, p), offset in (await positions(it)).items()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def assert_exact(it: TestHome, videos: Mapping[str, Sequence[str]]) -> None:
    """Assert that everybody is as if nothing had happened: all there, once, nobody set aside."""
    assert {name: await videos_of(it, name) for name in videos} == dict(videos)
    assert await it.rows(DLQ) == []
    assert (await verify(it.runtime)).is_equal


class Lines:
    """What was logged so far, as warnings and errors."""

    def __init__(self, logs: Sequence[Mapping[str, object]]) -> None:
        """Take the list that grows."""
        self._logs = logs

    def has(self, count: int, event: str) -> bool:
        """Return whether there are so many lines of an event."""
        return len(self.of(event)) >= count

    def of(self, *events: str) -> list[str]:
        """Return the reasons that the lines of these events give; of all, where none is named."""
        loud = [line for line in self._logs if line["log_level"] in {"warning", "error"}]
        return [str(line.get("reason")) for line in loud if not events or line["event"] in events]


@pytest.fixture
def said() -> Iterator[Lines]:
    """Yield what is logged."""
    with capture_logs() as logs:
        yield Lines(logs)


# Unknown keys ----------------------------------------------------------------------------------


async def broken(it: TestHome, names: Sequence[str]) -> None:
    """Append to each person's records one under a key that no keystore holds."""
    rows = await it.rows()
    await it.runtime.log.append(
        LEDGER_EVENTS, [unreadable(rows, it.ref(name), it.runtime.ids) for name in names]
    )


async def held_of(it: TestHome, names: Sequence[str]) -> list[Held | None]:
    """Return where each person is held up, if they are."""
    found: list[Held | None] = []
    for name in names:
        one = await it.runtime.views.get(HELD, it.ref(name))
        found.append(one)
    return found


async def of_one_partition(it: TestHome, count: int) -> list[str]:
    """Return the names of so many people of one partition, each of whom played one video."""
    names = [str(number) for number in range(500, 500 + 6 * count)]
    await it.take([played(name, event=f"first-{name}") for name in names])
    mine = [name for name in names if partition_of(it.ref(name), it.runtime.partitions) == 0]
    assert len(mine) >= count
    return mine[:count]


async def test_a_key_that_nobody_held_parks_its_person_and_is_told(tmp_path: Path) -> None:
    """It is no erasure: what they did stays in their view, and a pointer says why they wait."""
    async with home(tmp_path) as it:
        await it.take([played(name, event=name) for name in PEOPLE])
        await broken(it, PEOPLE[:3])
        await it.take([played(name, event=f"later-{name}", video="v2") for name in PEOPLE])
        held = await held_of(it, PEOPLE)
        videos = [await videos_of(it, name) for name in PEOPLE]
        entries = await bootstrap.dead_letters_of(it.runtime).parked()
        assert it.runtime.vault.standing_of(it.ref(PEOPLE[0])).destroyed == 0
    assert [isinstance(one, Parked) and one.reason for one in held[:3]] == ["unknown_key"] * 3
    assert held[3:] == [None] * (len(PEOPLE) - 3)
    assert videos == [["v1"]] * 3 + [["v1", "v2"]] * (len(PEOPLE) - 3)
    assert {entry.reason for entry in entries} == {"unknown_key"}


@pytest.mark.parametrize("at_once", [True, False], ids=["in one batch", "one by one"])
async def test_more_unknown_keys_in_a_row_than_a_few_stop_the_partition(
    tmp_path: Path, *, at_once: bool
) -> None:
    """It is a wrong keystore: nobody more is parked, the position stays, and the reason is named."""
    async with home(tmp_path, is_worker=True) as it:
        names = await of_one_partition(it, UNKNOWN_IN_A_ROW_MAX + 1)
        if at_once:
            before = await positions(it)
            await broken(it, names)
        else:
            for name in names[:-1]:
                await broken(it, [name])
                await it.runtime.passes.settle()
            before = await positions(it)
            await broken(it, names[-1:])
        for _ in range(2):
            with pytest.raises(UnknownKey, match="PRIVACY_LEDGER_KEYSTORE"):
                await it.runtime.passes.settle()
        after = await positions(it)
        parked = await held_of(it, names)
    assert {place: offset for place, offset in after.items() if place[1] == 0} == {
        place: offset for place, offset in before.items() if place[1] == 0
    }
    assert [one is not None for one in parked] == [not at_once] * (len(names) - 1) + [False]


async def test_a_readable_record_between_unknown_keys_ends_the_row(tmp_path: Path) -> None:
    """So many are broken records of their people, and no wrong keystore: the partition goes on."""
    async with home(tmp_path, is_worker=True) as it:
        names = await of_one_partition(it, UNKNOWN_IN_A_ROW_MAX + 2)
        reader = names.pop()
        half = len(names) // 2
        await broken(it, names[:half])
        await append_unfolded(it, [played(reader, event="between", video="v2")])
        await broken(it, names[half:])
        await it.runtime.passes.settle()
        held = await held_of(it, names)
    assert all(isinstance(one, Parked) for one in held)


# Down ------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[PostgresProcess]:
    """Yield a server of the test's own, to stop and start, with an empty database for the keystore."""
    with running_postgres() as running:
        running.sql("CREATE DATABASE keystore")
        yield running


def in_database(server: PostgresProcess) -> PostgresAddress:
    """Return where the keystore is."""
    return PostgresAddress(server.url("keystore"))


async def test_a_keystore_that_is_down_stops_the_worker_where_it_is_until_it_is_back(
    postgres: PostgresProcess, server: PostgresProcess, tmp_path: Path, said: Lines
) -> None:
    """The server is really stopped: no position moves, nobody is parked, and it goes on by itself."""
    assert postgres.port  # says that there is none, where there is none
    async with home(tmp_path, keystore=in_database(server)) as it:
        await it.take([played(name, event=name) for name in PEOPLE])
        sealed = await sealed_only(it, [played(name, event=f"{name}-2", video="v2") for name in PEOPLE])
        async with worker(it) as running:
            await settled(it)
            before = await positions(it)
            server.stop()
            await asyncio.sleep(FRESH_S)
            await it.runtime.log.append(LEDGER_EVENTS, sealed)
            await until(lambda: len(said.of(UNAVAILABLE)) > 1 or running.done())
            meanwhile = (running.done(), await positions(it), await it.rows(DLQ))
            server.start()
            await settled(it)
        await assert_exact(it, {name: ["v1", "v2"] for name in PEOPLE})
    assert meanwhile == (False, before, [])
    assert all("cannot be used" in line for line in said.of(UNAVAILABLE))


async def test_a_keystore_that_goes_down_in_the_middle_loses_and_doubles_nothing(
    postgres: PostgresProcess, server: PostgresProcess, tmp_path: Path, said: Lines
) -> None:
    """Killed as by a crash while a worker folds, twice, with lines in between."""
    assert postgres.port
    async with home(tmp_path, keystore=in_database(server)) as it:
        await it.take([played(name, event=name, video="v0") for name in PEOPLE])
        async with worker(it) as running:
            for number in range(1, 3):
                lines = [played(name, event=f"{name}-{number}", video=f"v{number}") for name in PEOPLE]
                await append_unfolded(it, lines)
                later = [played(name, event=f"{name}-{number}-later", video="later") for name in PEOPLE]
                sealed = await sealed_only(it, later)
                seen = len(said.of(UNAVAILABLE)) + 1
                server.kill()
                await asyncio.sleep(FRESH_S)
                await it.runtime.log.append(LEDGER_EVENTS, sealed)
                await until(partial(said.has, seen, UNAVAILABLE))
                assert not running.done()
                server.start()
            await settled(it)
        await assert_exact(it, {name: ["later", "v0", "v1", "v2"] for name in PEOPLE})


# Slow ------------------------------------------------------------------------------------------


@contextmanager
def held_up(server: PostgresProcess, database: str, *, seconds: float) -> Iterator[None]:
    """Let every reader of keys wait at the server for so long."""
    said = (
        "BEGIN; LOCK TABLE privacy_ledger_keystore.keys IN ACCESS EXCLUSIVE MODE; "
        f"SELECT pg_sleep({seconds}); COMMIT"
    )
    holding = threading.Thread(target=server.sql, args=(said,), kwargs={"database": database})
    holding.start()
    locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
    while server.sql(locks, database=database) == "0":
        time.sleep(0.02)
    yield
    holding.join()


async def test_a_slow_keystore_is_waited_for_and_nothing_else_happens(
    postgres: PostgresProcess, tmp_path: Path, said: Lines
) -> None:
    """It answers after two seconds: that is no failure, and nobody is parked, skipped or erased."""
    postgres.sql("CREATE DATABASE slow_keystore")
    try:
        async with home(tmp_path, keystore=PostgresAddress(postgres.url("slow_keystore"))) as it:
            await it.take([played(name, event=name) for name in PEOPLE])
            await append_unfolded(it, [played(name, event=f"{name}-2", video="v2") for name in PEOPLE])
            await asyncio.sleep(FRESH_S)
            begun = time.monotonic()
            with held_up(postgres, "slow_keystore", seconds=2.0):
                async with worker(it) as running:
                    await settled(it)
                    took = time.monotonic() - begun
                    assert not running.done()
            await assert_exact(it, {name: ["v1", "v2"] for name in PEOPLE})
    finally:
        postgres.sql("DROP DATABASE IF EXISTS slow_keystore WITH (FORCE)")
    assert took > 1.5
    assert said.of() == []


# Yesterday's ----------------------------------------------------------------------------------


async def test_yesterdays_keystore_under_a_worker_releases_nothing_before_the_journal_is_applied(
    postgres: PostgresProcess, tmp_path: Path, said: Lines
) -> None:
    """Its rows are brought back behind the worker's back: the erased stay erased, and others go on."""
    postgres.sql("CREATE DATABASE yesterday_keystore")
    try:
        async with home(tmp_path, keystore=PostgresAddress(postgres.url("yesterday_keystore"))) as it:
            await it.take([played(name, event=name) for name in PEOPLE])
            ref = it.ref(PEOPLE[0])
            kids = [bytes(r.value[1:33]) for r in await it.rows() if r.key[:16] == ref and r.value]
            kids = [kid for kid in kids if it.runtime.vault.open_keys([kid])]
            dump = tmp_path / "yesterday.sql"
            dumped(postgres, "yesterday_keystore", dump)
            (done,) = await it.erasure().erase((ref,))
            await append_unfolded(it, [played(name, event=f"{name}-2", video="v2") for name in PEOPLE[1:]])
            assert done.is_completed
            brought_back(postgres, "yesterday_keystore", dump)
            async with worker(it) as running:
                await settled(it)
                assert not running.done()
            opened = it.runtime.vault.open_keys(kids)
            statuses = [it.subjects.find(f"openedx:user_id:{name}").status for name in PEOPLE[:2]]
            await assert_exact(it, {name: ["v1", "v2"] for name in PEOPLE[1:]})
            again = await it.take([played(PEOPLE[0], event="again")])
    finally:
        postgres.sql("DROP DATABASE IF EXISTS yesterday_keystore WITH (FORCE)")
    assert len(opened) == len(kids) > 0
    assert {type(key).__name__ for key in opened.values()} == {"Shredded"}
    assert statuses == ["erased", "active"]
    assert (again.accepted, again.reasons) == (0, {"subject_erased": 1})
    assert all("behind its shred journal" in reason for reason in said.of())


def program(name: str) -> str:
    """Return where a program of the server's release is."""
    return str(postgres_programs() / name)


def dumped(server: PostgresProcess, database: str, path: Path) -> None:
    """Write the database's own dump of the keystore into a file."""
    words = [
        program("pg_dump"),
        "--schema",
        "privacy_ledger_keystore",
        "--clean",
        "--dbname",
        server.url(database),
    ]
    path.write_bytes(subprocess.run(words, capture_output=True, check=True).stdout)


def brought_back(server: PostgresProcess, database: str, path: Path) -> None:
    """Put a dump in the place of what there is, as an operator of the database may, in one transaction."""
    words = [
        program("psql"),
        "-X",
        "-q",
        "-1",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        server.url(database),
        "-f",
        str(path),
    ]
    subprocess.run(words, capture_output=True, check=True)


# Without its key-encryption keys ---------------------------------------------------------------


async def test_a_missing_key_encryption_key_stops_the_worker_and_is_named_by_its_epoch(
    tmp_path: Path,
) -> None:
    """Waiting brings no file back: it ends with what to do, nothing is skipped, and the next one goes on."""
    newcomers = [f"2{name}" for name in PEOPLE]
    async with home(tmp_path) as it:
        await it.take([played(name, event=name) for name in PEOPLE])
        async with home(tmp_path) as other:  # whose keys this one has never opened
            await append_unfolded(other, [played(name, event=name) for name in newcomers])
        bootstrap.care_of(it.runtime.keystore, it.runtime.clock).roll(is_final=False)
        before = await positions(it)
        kek = it.runtime.keystore.places.keys / "epoch-2.kek"
        aside = kek.rename(tmp_path / "aside.kek")
        await asyncio.sleep(FRESH_S)
        async with worker(it) as running:
            await asyncio.wait([running], timeout=PATIENCE_S)
            assert running.done()
        error = running.exception()
        after = await positions(it), await it.rows(DLQ)
        aside.rename(kek)
        async with worker(it):
            await settled(it)
        await assert_exact(it, {name: ["v1"] for name in (*PEOPLE, *newcomers)})
    assert isinstance(error, KekMissing)
    assert (error.epoch, error.retriable) == (2, False)
    assert "epoch 2 is not in" in str(error)
    assert after == (before, [])


async def test_an_epoch_that_is_destroyed_beside_a_worker_does_not_stop_it(tmp_path: Path) -> None:
    """A final roll wraps what is in use anew before; who looked just then looks again."""
    async with home(tmp_path) as it:
        await it.take([played(name, event=name) for name in PEOPLE])
        async with worker(it) as running:
            for number in range(2, 5):
                lines = [played(name, event=f"{name}-{number}", video=f"v{number}") for name in PEOPLE]
                await append_unfolded(it, lines)
                bootstrap.care_of(it.runtime.keystore, it.runtime.clock).roll(is_final=True)
                await settled(it)
            assert not running.done()
        await assert_exact(it, {name: ["v1", "v2", "v3", "v4"] for name in PEOPLE})


# Replaced --------------------------------------------------------------------------------------


async def test_a_file_that_is_exchanged_under_a_worker_stops_it(tmp_path: Path) -> None:
    """What it destroyed or made from then on would be in a file that nobody else has."""
    async with home(tmp_path) as it:
        await it.take([played(name, event=name) for name in PEOPLE])
        file = tmp_path / "home" / "keystore.db"
        copy = tmp_path / "copy.db"
        shutil.copy2(file, copy)
        copy.replace(file)
        async with worker(it) as running:
            await asyncio.wait([running], timeout=PATIENCE_S)
            assert running.done()
        error = running.exception()
    assert isinstance(error, KeyUnavailable)
    assert "was replaced or removed while it was open" in str(error)


# On a cluster ----------------------------------------------------------------------------------

AWAY: Final = KeyUnavailable("The keystore is away.")
LOST: Final = KekMissing("The key of epoch 3 is not there.", epoch=3)
FOREIGN: Final = UnknownKey("More than a few records name keys that this keystore never held.")


@pytest.mark.parametrize(
    ("errors", "reactions"),
    [
        ([AWAY] * 3, ["attempt failed"] * 3),
        ([LOST] * 3, ["attempt failed", "partition stopped", "partition stopped"]),
        ([LOST, AWAY, LOST], ["attempt failed"] * 3),
        ([FOREIGN], ["partition stopped"]),
    ],
    ids=["away", "an epoch lost", "an epoch missed once", "another keystore"],
)
def test_a_partition_of_a_cluster_tries_again_at_once_or_is_said_to_have_stopped(
    errors: Sequence[LedgerError], reactions: Sequence[str], said: Lines
) -> None:
    """Whatever it is, it is tried again: soon where waiting helps, and seldom, as an error, where not."""
    outcomes = Outcomes("core")
    waits = [outcomes.stopped(0, error) for error in errors]
    assert [wait >= STOPPED_RETRY_S for wait in waits] == [one == "partition stopped" for one in reactions]
    assert said.of("partition stopped") == [
        str(error) for error, one in zip(errors, reactions, strict=True) if one == "partition stopped"
    ]
    assert len(said.of()) == len(errors)
