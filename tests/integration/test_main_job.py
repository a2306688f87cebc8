"""The main job on a real broker: workers die, people use their rights, and everything is exact."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from privacy_ledger.adapters.formats import openedx
from privacy_ledger.adapters.views import TailedLatest
from privacy_ledger.app.ingest import Source
from privacy_ledger.app.rectification import Correction
from privacy_ledger.app.subjects import Subjects, identity_of
from privacy_ledger.bootstrap import (
    Runtime,
    erasure_of,
    ingest_of,
    rectification_of,
    scope_erasure_of,
    subjects_of,
)
from privacy_ledger.domain.key_release import SUMS
from privacy_ledger.domain.topics import ANALYTICS_PARTIALS, LEDGER_EVENTS
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.engine.rebuild import live_digests
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.testing.broker import Broker, BrokerProcess
from privacy_ledger.testing.checkers import Evidence
from privacy_ledger.testing.checkers.meaning import meaning
from privacy_ledger.testing.generator import course_name, generate, user_id_of
from privacy_ledger.testing.scanner import Scanner
from privacy_ledger.testing.witness import Witness
from tests.integration.cluster import Cluster, Worker

SEED = 20_261
LEARNERS = 560
LINES = 21_000
CHUNKS = 14
KILLS = 5
PACE_S = 3.0
"""Between chunks, so that data flows for as long as workers die."""
PURPOSE = "improve.analyse"
CORRECTED = "course-v1:Example+Corrected+2026"


class Chaos:
    """Kills a worker now and then while data flows, and starts another."""

    def __init__(self, cluster: Cluster) -> None:
        """Start two workers."""
        self._cluster = cluster
        self._alive: list[Worker] = [cluster.worker(), cluster.worker()]
        self.kills = 0

    async def run(self, rng: random.Random, *, until: asyncio.Event) -> None:
        """Kill and replace until told to stop; a dead member is noticed after a six-second session."""
        while not until.is_set():
            await asyncio.sleep(rng.uniform(9.0, 12.0))
            # Where workers take long to start, one that folds nothing yet would be killed in vain.
            for worker in self._alive:
                await asyncio.to_thread(worker.wait_running, 1, timeout_s=180.0)
            victim = self._alive.pop(rng.randrange(len(self._alive)))
            await asyncio.to_thread(victim.kill)
            self.kills += 1
            self._alive.append(self._cluster.worker())


def lines() -> list[bytes]:
    """Return the made-up lines of the whole test: a login of each learner, then what they do."""
    end = datetime.now(UTC) - timedelta(hours=2)
    found = generate(
        seed=SEED, learners=LEARNERS, courses=4, events=LINES, start=end - timedelta(days=25), end=end
    )
    logins = [
        {
            "name": "edx.user.login",
            "event_type": "edx.user.login",
            "event_source": "server",
            "time": (end - timedelta(days=26)).isoformat(),
            "username": "",
            "context": {"user_id": user_id_of(number)},
            "event": {},
        }
        for number in range(LEARNERS)
    ]
    return [*(msgspec.json.encode(login) for login in logins), *found]


def numbered(chunk: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """Return numbered lines."""
    return enumerate(chunk, start=1)


async def _known(runtime: Runtime, count: int, rng: random.Random) -> list[str]:
    """Return some subjects that are known and not erased."""
    subjects = await subjects_of(runtime)
    found: list[str] = []
    order = list(range(LEARNERS))
    rng.shuffle(order)
    for number in order:
        name = f"openedx:user_id:{user_id_of(number)}"
        try:
            subjects.active(name)
        except Exception:  # noqa: BLE001, S112 - unknown so far, or erased: try the next
            continue
        found.append(name)
        if len(found) == count:
            return found
    return found


async def _use_rights(
    runtime: Runtime, witness: Witness, rng: random.Random, step: int, state: dict[str, list[str]]
) -> None:
    """Let some people withdraw, restrict, lift, and let one be erased."""
    subjects = await subjects_of(runtime)
    names = await _known(runtime, 8, rng)
    for name in names[:3]:
        await subjects.withdraw(name, PURPOSE)
    await subjects.grant(names[0], PURPOSE)
    for name in names[3:6]:
        await subjects.restrict(name, ground="accuracy")
        state["restricted"].append(name)
    if step % 2 and state["restricted"]:
        for name in state["restricted"][:3]:
            try:
                await subjects.lift(name, notified_at=runtime.clock.now())
            except Exception:  # noqa: BLE001, S112 - erased meanwhile: nothing to lift
                continue
        state["restricted"] = state["restricted"][3:]
    if step in {2, 6, 10}:
        await _erase_less_and_correct(runtime, subjects, names[6], step)
    if step in {3, 7, 11}:
        await witness.look(runtime.log, runtime.codec)
        refs = subjects.find(names[7]).refs
        state["erased"] += [ref.hex() for ref in refs]
        outcomes = await erasure_of(runtime).erase(refs)
        if not all(outcome.is_completed for outcome in outcomes):
            outcomes = await erasure_of(runtime).resume()
        assert all(outcome.is_completed for outcome in outcomes)


async def _erase_less_and_correct(runtime: Runtime, subjects: Subjects, name: str, step: int) -> None:
    """Correct a course record and a profile field of somebody, and erase what is known of their videos."""
    await runtime.passes.settle(timeout_s=60)
    refs, use_case = subjects.find(name).refs, await rectification_of(runtime)
    bio = Correction(category=Category.PROFILE, member="bio", value=f"learner of step {step}")
    done = [await use_case.rectify(refs, bio)]
    rows = [row for ref in refs for row in await runtime.views.live(ref)]
    courses = [row for row in rows if row.category is Category.COURSEWORK]
    if courses:
        mode = Correction(
            category=Category.COURSEWORK, member="course", value=CORRECTED, record=courses[0].record_id
        )
        done.append(await use_case.rectify(refs, mode))
    less = scope_erasure_of(runtime)
    outcomes = await less.erase_scope(subjects.scopes(name, "category", "patterns"))
    for _ in range(3):
        if all(outcome.is_completed for outcome in outcomes):
            break
        outcomes = await less.resume()
    assert all(outcome.is_completed for outcome in outcomes)
    assert [use_case.open_keys(one) for one in done] == [()] * len(done)
    left = [row for ref in refs for row in await runtime.views.live(ref)]
    assert not any(row.category is Category.PATTERNS for row in left)


@pytest.mark.timeout(600)
async def test_everything_is_exact_though_workers_die_while_data_flows(kafka: Broker, tmp_path: Path) -> None:
    """20,000 events, rights in the middle, five kills: nothing lost, doubled, or seen in vain."""
    rng = random.Random(SEED)
    cluster = Cluster(kafka.bootstrap, tmp_path)
    await cluster.create()
    try:
        async with cluster.runtime() as runtime:
            chaos = Chaos(cluster)
            await runtime.registrar.tick()
            await runtime.passes.settle(timeout_s=60)
            await runtime.registrar.add_courses([course_name(number) for number in range(4)])
            witness, stop = Witness(), asyncio.Event()
            killing = asyncio.create_task(chaos.run(rng, until=stop))
            state: dict[str, list[str]] = {"restricted": [], "erased": []}
            whole = lines()
            size = -(-len(whole) // CHUNKS)
            source = Source(name="openedx", parse=openedx.parse, default_consents=(PURPOSE,))
            read = 0
            for step in range(CHUNKS):
                chunk = whole[step * size : (step + 1) * size]
                summary = await (await ingest_of(runtime)).run(numbered(chunk), source)
                read += summary.read
                parts = summary.accepted + summary.duplicates + summary.refused
                assert parts + summary.unattributed + summary.malformed == summary.read
                again = await (await ingest_of(runtime)).run(numbered(chunk[:50]), source)
                assert again.read == len(chunk[:50])
                await _use_rights(runtime, witness, rng, step, state)
                await asyncio.sleep(PACE_S)
            while chaos.kills < KILLS:
                again = await (await ingest_of(runtime)).run(numbered(whole[:200]), source)
                assert again.read == 200
                await asyncio.sleep(PACE_S)
            stop.set()
            await killing
            await runtime.passes.settle(timeout_s=90)
            await witness.look(runtime.log, runtime.codec)
            evidence = Evidence(runtime, writes=(), witness=witness)
            expected, found = await evidence.expected(), await meaning(evidence)
            assert not found, found[:20]
            assert read == len(whole)
            assert sum(len(said.subjects) for said in expected.values()) >= 500
            assert any(s.is_restricted for said in expected.values() for s in said.subjects.values())
            await _check_windows(runtime, witness)
            await _check_erased(runtime, state["erased"])
            report = await verify(runtime)
            assert report.is_equal, report
            _check_no_identifier(cluster, kafka)
    finally:
        cluster.end()


async def _check_windows(runtime: Runtime, witness: Witness) -> None:
    """Seal one window: the exact sums in the trust zone are those of the oracle."""
    day = (datetime.now(UTC) - timedelta(days=5)).date().isoformat()
    courses = await runtime.registrar.catalogue()
    release = "ab" * 16
    await runtime.registrar.seal_window(
        product="course_views_daily", window=day, policy="0" * 64, keyset=courses,
        release=release, is_early=False, was_opened=False,
    )  # fmt: skip
    await runtime.passes.settle(timeout_s=60)
    await witness.look(runtime.log, runtime.codec)
    expected = await Evidence(runtime, writes=(), witness=witness).expected()
    codec = runtime.state_codec(runtime.declared["analytics"], SUMS)
    for partition, said in expected.items():
        row = await runtime.log.latest(
            ANALYTICS_PARTIALS, partition, bytes.fromhex(release) + partition.to_bytes(4, "big")
        )
        partial = None if row is None else codec.open_partial(row)
        assert partial is not None
        want = said.windows[release]
        assert partial.cells == {course: want.get(course, 0) for course in courses}


async def _check_erased(runtime: Runtime, erased: Sequence[str]) -> None:
    """Nothing of an erased person opens, in the ledger or in any view."""
    assert len(erased) >= 3
    for name in erased:
        ref = SubjectRef(bytes.fromhex(name))
        assert await runtime.views.live(ref) == ()
        assert await runtime.views.get(subject_view.TABLE, ref) is None
        assert await runtime.views.get(progress.TABLE, ref) is None
        for partition in range(runtime.partitions):
            after = -1
            while rows := await runtime.log.read(LEDGER_EVENTS, partition, after=after, limit=5000):
                mine = [row for row in rows if row.key.startswith(ref) and row.value is not None]
                sealed = [row for row in mine if (row.value or b"")[:1] == b"\x01"]
                assert all(runtime.codec.payload(row) is None for row in sealed)
                after = rows[-1].offset


def _check_no_identifier(cluster: Cluster, kafka: Broker) -> None:
    """No user name is in any byte of the broker's files, the stores, the keystore or the logs."""
    tokens = {f"learner {n}": f"learner-{n:04d}".encode() for n in range(LEARNERS)}
    places = [cluster.folder, *([kafka.data_dir] if kafka.data_dir is not None else [])]
    assert list(Scanner(tokens).scan(places)) == []


@pytest.mark.timeout(240)
async def test_bytes_of_an_erased_person_leave_every_file(
    broker_process: BrokerProcess, tmp_path: Path
) -> None:
    """Sealed bytes and record keys are found before; after tombstones and compaction they are gone."""
    cluster = Cluster(broker_process.bootstrap, tmp_path, partitions=1)
    await cluster.create(scale_ms=3000)
    worker = cluster.worker()
    try:
        async with cluster.runtime() as runtime:
            await runtime.registrar.tick()
            await runtime.passes.settle(timeout_s=60)
            end = datetime.now(UTC) - timedelta(hours=2)
            lines_ = list(
                generate(seed=5, learners=3, courses=2, events=400, start=end - timedelta(days=9), end=end)
            )
            source = Source(name="openedx", parse=openedx.parse, default_consents=(PURPOSE,))
            await (await ingest_of(runtime)).run(numbered(lines_), source)
            await runtime.passes.settle()
            subject = max(
                (f"openedx:user_id:{user_id_of(n)}" for n in range(3)),
                key=lambda name: len(_refs(runtime, name)),
            )
            ref = (await subjects_of(runtime)).find(subject).refs[0]
            tokens = await _captured(runtime, ref)
            assert len(tokens) >= 100
            files = [cluster.folder, broker_process.data_dir]
            before = {hit.name for hit in Scanner(tokens).scan(files)}
            assert {name for name in tokens if name.startswith("sealed")} <= before
            outcomes = await erasure_of(runtime).erase((ref,))
            assert all(outcome.is_completed for outcome in outcomes)
            left = await _wait_gone(runtime, tokens, files)
            assert not left, _where(tokens, files)
        assert worker.terminate() < 5
    finally:
        cluster.end()


def _refs(runtime: Runtime, subject: str) -> bytes:
    """Return something as long as a subject is known."""
    (row,) = runtime.vault.find((identity_of(subject),))
    return b"" if row is None else row.ref


async def _captured(runtime: Runtime, ref: SubjectRef) -> dict[str, bytes]:
    """Return the sealed bytes and the record keys of a person's records, as scanner tokens."""
    tokens: dict[str, bytes] = {}
    after = -1
    while rows := await runtime.log.read(LEDGER_EVENTS, 0, after=after, limit=5000):
        for row in rows:
            if row.key.startswith(ref) and row.value is not None and row.value[:1] == b"\x01":
                tokens[f"sealed {row.offset}"] = row.value[45:77]
                tokens[f"key {row.offset}"] = row.key[16:]
        after = rows[-1].offset
    return tokens


async def _wait_gone(runtime: Runtime, tokens: dict[str, bytes], files: Sequence[Path]) -> set[str]:
    """Tick, so that partitions roll and compact, until no token is left or time is up."""
    deadline = time.monotonic() + 75
    left = set(tokens)
    while left and time.monotonic() < deadline:
        for _ in range(4):
            await runtime.registrar.tick(force=True)
            await asyncio.sleep(1.0)
        left = {hit.name for hit in Scanner(tokens).scan(files)}
    return left


def _where(tokens: dict[str, bytes], files: Sequence[Path]) -> dict[str, int]:
    """Return how many hits each file has."""
    found: dict[str, int] = {}
    for hit in Scanner(tokens).scan(files):
        found[str(hit.path)[-60:]] = found.get(str(hit.path)[-60:], 0) + 1
    return found


@pytest.mark.timeout(120)
async def test_a_second_worker_takes_over_within_ten_seconds(kafka: Broker, tmp_path: Path) -> None:
    """Handover after kill -9 takes at most ten seconds, SIGTERM at most five, nobody listens."""
    import psutil  # noqa: PLC0415

    cluster = Cluster(kafka.bootstrap, tmp_path)
    await cluster.create()
    try:
        async with cluster.runtime() as runtime:
            first = cluster.worker()
            first.wait_running(8)
            await runtime.registrar.tick()
            await runtime.passes.settle(timeout_s=60)
            second = cluster.worker()
            await asyncio.to_thread(second.wait_running, 1)
            listening = [
                connection
                for worker in (first, second)
                for connection in psutil.Process(worker.process.pid).net_connections()
                if connection.status == psutil.CONN_LISTEN
            ]
            assert listening == []
            before = second.running()
            first.kill()
            assert await asyncio.to_thread(second.wait_running, before + 1) <= 10
            await runtime.registrar.tick(force=True)
            await runtime.passes.settle(timeout_s=60)
            assert second.terminate() <= 5
    finally:
        cluster.end()


async def test_live_digests_are_read_from_the_views(kafka: Broker, tmp_path: Path) -> None:
    """An empty cluster has digests of nothing, and a rebuild of it agrees."""
    cluster = Cluster(kafka.bootstrap, tmp_path, partitions=2)
    await cluster.create()
    worker = cluster.worker()
    try:
        async with cluster.runtime() as runtime:
            await runtime.passes.settle(timeout_s=60)
            declaration = runtime.declared["core"]
            digests = await live_digests(declaration, runtime.states, TailedLatest(runtime.log), partitions=2)
            assert all(digest.keys == 0 for digest in digests)
            assert (await verify(runtime)).is_equal
        assert worker.terminate() < 5
    finally:
        cluster.end()
