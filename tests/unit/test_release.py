"""Stage B over a real embedded log: one draw, one charge, one copy, whatever happens in between."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest

from privacy_ledger.adapters import registry
from privacy_ledger.adapters.local.log import LocalLog
from privacy_ledger.adapters.noise import OpenDpNoise
from privacy_ledger.app.release import CurrentCatalogue, Release, SealReport, WindowKeyset
from privacy_ledger.domain.budget import release_id
from privacy_ledger.domain.errors import (
    BadInput,
    Fenced,
    InvariantViolation,
    NotCaughtUp,
    RefusedByPolicy,
)
from privacy_ledger.domain.events import WindowSealed
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Registry, Rules
from privacy_ledger.domain.topics import ANALYTICS_PARTIALS, ANALYTICS_RELEASES, LEDGER_EVENTS, product_topic
from privacy_ledger.ports.codec import Partial
from privacy_ledger.ports.log import EventLog, NewRecord, Row
from privacy_ledger.ports.noise import NoiseSource

PRODUCT: Final = "course_views_daily"
PUBLIC: Final = product_topic(PRODUCT)
PARTITIONS: Final = 2
COURSES: Final = ("course-v1:Ex+A+1", "course-v1:Ex+B|2", "course-v1:Ex+C+3")
COUNTS: Final = ((410_213, 520_317, 0), (630_419, 0, 0))
"""Sums by partition and course; of a size that no noise or other figure has."""
EXACT: Final = frozenset({410_213, 520_317, 630_419, 410_213 + 630_419})
WINDOW: Final = "2026-03-01"
UNTIL: Final = datetime(2026, 3, 2, tzinfo=UTC)
NOW: Final = datetime(2026, 3, 10, 12, tzinfo=UTC)


class Crash(Exception):
    """The process dies here."""


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: datetime = NOW) -> None:
        """Stand at `now`."""
        self.at = now

    def now(self) -> datetime:
        """Return the time that was set."""
        return self.at


class ShiftedNoise:
    """Noise that is told apart from any exact count, and counts its draws."""

    mechanism = "shift"
    libraries: Final = {"shift": "1"}

    def __init__(self, shift: int = 7_000_000) -> None:
        """Add `shift` at the first draw, one more at each further one."""
        self.shift = shift
        self.draws = 0

    def draw(self, values: Sequence[int], *, sigma: str, rho: str, cells_max: int, clip: int) -> list[int]:
        """Return the values, shifted."""
        del sigma, rho, cells_max, clip
        self.draws += 1
        return [value + self.shift + self.draws for value in values]

    def half_width(self, *, sigma: str) -> int:
        """Return any width."""
        del sigma
        return 72


class StageA:
    """Registrar and passes in one: a seal lies in the log, and leaves one partial per partition."""

    def __init__(self, log: EventLog, *, counts: Sequence[Sequence[int]] = COUNTS) -> None:
        """Sum to `counts` by partition and course."""
        self._log = log
        self._counts = counts
        self.seals: list[WindowSealed] = []
        self.is_idle = False

    async def seal_window(
        self, *, product: str, window: str, policy: str, keyset: tuple[str, ...], release: str,
        is_early: bool, was_opened: bool,
    ) -> None:  # fmt: skip
        """Write the seal where every later instance finds it."""
        sealed = WindowSealed(
            at=NOW, product=product, window=window, policy=policy, keyset=keyset, release=release,
            is_early=is_early, was_opened=was_opened,
        )  # fmt: skip
        await self._log.append(LEDGER_EVENTS, [NewRecord(0, bytes(32), msgspec.json.encode(sealed))])
        self.seals.append(sealed)

    async def settle(self, offsets: Mapping[int, int] | None = None, *, timeout_s: float = 30.0) -> None:
        """Sum up what was sealed; a window that has partials keeps them."""
        del offsets, timeout_s
        for row in () if self.is_idle else await self._log.read(LEDGER_EVENTS, 0, after=-1):
            sealed = msgspec.json.decode(row.value or b"", type=WindowSealed)
            for partition, counts in enumerate(self._counts):
                await self._sum(sealed, partition, dict(zip(COURSES, counts, strict=True)))

    async def _sum(self, sealed: WindowSealed, partition: int, counts: Mapping[str, int]) -> None:
        key = bytes.fromhex(sealed.release) + partition.to_bytes(4, "big")
        if await self._log.latest(ANALYTICS_PARTIALS, partition, key) is None:
            cells = {cell: counts.get(cell, 0) for cell in sealed.keyset}
            partial = Partial(release=sealed.release, partition=partition, cells=cells, subjects=9)
            record = NewRecord(partition, key, msgspec.msgpack.encode(partial))
            await self._log.append(ANALYTICS_PARTIALS, [record])


class FaultyLog:
    """An `EventLog` that dies at its k-th call, before or after the call took effect."""

    def __init__(self, log: EventLog, *, dies_at: int, is_after: bool) -> None:
        """Wrap `log`; `dies_at` counts from 1."""
        self._log = log
        self._dies_at = dies_at
        self._is_after = is_after
        self.calls = 0

    def partitions(self, topic: str) -> int:
        """Return the partitions; asks nobody, so it cannot die."""
        return self._log.partitions(topic)

    def _step(self, *, is_after: bool) -> None:
        self.calls += not is_after
        if self.calls == self._dies_at and is_after == self._is_after:
            raise Crash

    async def append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        """Append, or die."""
        self._step(is_after=False)
        offsets = await self._log.append(topic, records)
        self._step(is_after=True)
        return offsets

    async def open_writer(self, writer: str) -> int:
        """Own a writer, or die."""
        self._step(is_after=False)
        epoch = await self._log.open_writer(writer)
        self._step(is_after=True)
        return epoch

    async def append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> Mapping[tuple[str, int], int]:
        """Append in one transaction, or die."""
        self._step(is_after=False)
        ends = await self._log.append_atomically(writes, writer=writer)
        self._step(is_after=True)
        return ends

    async def read(self, topic: str, partition: int, *, after: int, limit: int = 1000) -> tuple[Row, ...]:
        """Read, or die."""
        self._step(is_after=False)
        return await self._log.read(topic, partition, after=after, limit=limit)

    async def read_at(self, topic: str, partition: int, offsets: Sequence[int]) -> tuple[Row, ...]:
        """Read, or die."""
        self._step(is_after=False)
        return await self._log.read_at(topic, partition, offsets)

    async def latest(self, topic: str, partition: int, key: bytes) -> Row | None:
        """Look up, or die."""
        self._step(is_after=False)
        return await self._log.latest(topic, partition, key)

    async def end(self, topic: str, partition: int) -> int:
        """Look up, or die."""
        self._step(is_after=False)
        return await self._log.end(topic, partition)

    async def supersede(self, writes: Sequence[tuple[str, NewRecord]], *, writer: str) -> None:
        """Append as a newer owner."""
        await self._log.supersede(writes, writer=writer)

    async def first(self, topic: str, partition: int) -> int:
        """Return the lowest offset."""
        return await self._log.first(topic, partition)

    async def close(self) -> None:
        """Leave the log to its owner."""


@asynccontextmanager
async def local_log(folder: Path, *, name: str = "ledger.db") -> AsyncIterator[LocalLog]:
    """Yield an embedded log in a folder."""
    log = LocalLog(folder / name, partitions=PARTITIONS, clock=Clock())
    try:
        yield log
    finally:
        await log.close()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[LocalLog]:
    """Yield an empty embedded log."""
    async with local_log(tmp_path) as opened:
        yield opened


def rules(**changes: object) -> Rules:
    """Return the seed's rules with members of the product changed."""
    seed = registry.seed()
    products = tuple(msgspec.structs.replace(product, **changes) for product in seed.products)
    return Rules(Registry(version=seed.version, purposes=seed.purposes, categories=seed.categories,
                          events=seed.events, products=products, defaults=seed.defaults))  # fmt: skip


def opened(row: Row) -> Partial | None:
    """Open a partial of `StageA`; an empty value stands for a shredded key."""
    return msgspec.msgpack.decode(row.value, type=Partial) if row.value else None


async def courses() -> Sequence[str]:
    """Return the catalogue."""
    return COURSES


def stage_b(
    log: EventLog,
    *,
    noise: NoiseSource | None = None,
    stage_a: StageA | None = None,
    clock: Clock | None = None,
    terms: Rules | None = None,
    wait_s: float = 0.0,
) -> Release:
    """Return a release with defaults for what a test does not care about."""
    first = stage_a or StageA(log)
    return Release(
        log, passes=first, clock=clock or Clock(), rules=terms or rules(), noise=noise or OpenDpNoise(),
        registrar=first, catalogue=CurrentCatalogue(courses), open_partial=opened, wait_s=wait_s,
    )  # fmt: skip


async def seal(release: Release, *, until: datetime = UNTIL, is_early: bool = False) -> SealReport:
    """Seal the window of 1 March."""
    return await release.seal(PRODUCT, until=until, since=date(2026, 3, 1), is_early=is_early)


async def rows_of(log: EventLog, topic: str) -> list[Row]:
    """Return every record of a topic's first partition."""
    rows: list[Row] = []
    while page := await log.read(topic, 0, after=rows[-1].offset if rows else -1):
        rows += page
    return rows


async def bytes_of(log: EventLog, topic: str) -> dict[bytes, set[bytes | None]]:
    """Return every value that a key ever had: a key with two values changed its mind."""
    found: dict[bytes, set[bytes | None]] = {}
    for row in await rows_of(log, topic):
        found.setdefault(row.key, set()).add(row.value)
    return found


async def ledger_types(log: EventLog) -> list[str]:
    """Return the types of the release ledger's records, in order."""
    return [json.loads(row.value or b"")["type"] for row in await rows_of(log, ANALYTICS_RELEASES)]


ONE_RELEASE: Final = ["seal.decided.v1", "budget.reserved.v1", "release.cells.v1", "release.committed.v1"]


async def test_a_sealed_window_is_released_and_copied(log: LocalLog) -> None:
    """One decision, one charge, one commit, and one public row per course of the catalogue."""
    noise = ShiftedNoise()
    report = await seal(stage_b(log, noise=noise))
    assert [commit.window for commit in report.released] == [WINDOW]
    assert await ledger_types(log) == ONE_RELEASE
    public = await bytes_of(log, PUBLIC)
    row = json.loads((await rows_of(log, PUBLIC))[0].value or b"")
    assert sorted(public) == [f"{WINDOW}|{course}".encode() for course in COURSES]
    value = 410_213 + 630_419 + 7_000_001
    assert row == {
        "product": PRODUCT, "window": WINDOW, "course": COURSES[0], "value": value, "ci_low": value - 72,
        "ci_high": value + 72, "value_nonneg": value, "flag": "ok", "sigma": 36.5149, "rho": 0.0015,
        "epsilon": 0.3125, "delta": 1e-7, "mechanism": "shift", "is_early": False,
        "release_id": release_id(PRODUCT, WINDOW),
    }  # fmt: skip


async def test_low_and_negative_values_are_flagged_and_kept(log: LocalLog) -> None:
    """The flag looks at the noisy value: a true zero with much noise is not low."""
    noise = ShiftedNoise(-1)
    await seal(stage_b(log, noise=noise, stage_a=StageA(log, counts=((0, 73, 74), (0, 0, 0)))))
    rows = [json.loads(row.value or b"") for row in await rows_of(log, PUBLIC)]
    assert [(row["value"], row["flag"]) for row in rows] == [(0, "low"), (73, "low"), (74, "ok")]
    negative = StageA(log, counts=((0, 0, 0), (0, 0, 0)))
    release = stage_b(log, noise=ShiftedNoise(-31), stage_a=negative)
    await release.seal(PRODUCT, until=UNTIL + timedelta(days=1))
    row = json.loads((await rows_of(log, PUBLIC))[-1].value or b"")
    assert (row["window"], row["value"], row["value_nonneg"], row["flag"]) == ("2026-03-02", -30, 0, "low")


async def test_no_exact_count_leaves(log: LocalLog) -> None:
    """No record of either topic, report or listing holds a sum or a partition's share of it."""
    release = stage_b(log, noise=ShiftedNoise())
    report = await seal(release)
    said = [row.value or b"" for topic in (ANALYTICS_RELEASES, PUBLIC) for row in await rows_of(log, topic)]
    said += [repr(report).encode(), repr(await release.show(PRODUCT)).encode()]
    said += [repr(await release.list_products()).encode()]
    numbers = {int(found) for text in said for found in re.findall(rb"\d+", text)}
    assert not numbers & EXACT


async def test_no_error_names_an_exact_count(log: LocalLog) -> None:
    """Neither a broken mechanism nor a foreign partial makes a message that holds a sum."""

    class _Broken(ShiftedNoise):
        def draw(
            self, values: Sequence[int], *, sigma: str, rho: str, cells_max: int, clip: int
        ) -> list[int]:
            negative = [-value for value in values]
            return OpenDpNoise().draw(negative, sigma=sigma, rho=rho, cells_max=cells_max, clip=clip)

    with pytest.raises(InvariantViolation) as caught:
        await seal(stage_b(log, noise=_Broken()))
    assert not {int(found) for found in re.findall(r"\d+", str(caught.value))} & EXACT


async def test_released_values_are_noisy(log: LocalLog) -> None:
    """The shipped mechanism moves the values of many windows around the exact sums, by its scale."""
    clock = Clock(NOW + timedelta(days=400))
    release = stage_b(log, clock=clock, terms=rules(horizon_rho="100"))
    await release.seal(PRODUCT, until=UNTIL + timedelta(days=99), since=date(2026, 3, 1))
    exact = dict(zip(COURSES, (sum(pair) for pair in zip(*COUNTS, strict=True)), strict=True))
    rows = (await release.show(PRODUCT)).rows
    errors = [row.value - exact[row.course] for row in rows]
    assert len(errors) == 300
    variance = sum(error * error for error in errors) / len(errors)
    assert 0.55 < variance / 36.5149**2 < 1.55  # chi-square of 300 at alpha 1e-6
    assert sum(row.ci_low <= exact[row.course] <= row.ci_high for row in rows) >= 262


async def test_fifty_repeats_draw_once_and_change_no_byte(log: LocalLog) -> None:
    """A second seal is a copy: no draw, no charge, no other byte."""
    first_noise = ShiftedNoise()
    await seal(stage_b(log, noise=first_noise))
    ledger, public = await bytes_of(log, ANALYTICS_RELEASES), await rows_of(log, PUBLIC)
    budget = (await stage_b(log).list_products())[0].spent
    noise = ShiftedNoise(1)
    same = stage_b(log, noise=noise)
    for number in range(50):
        report = await seal(same if number % 2 else stage_b(log, noise=noise))
        assert (report.released, report.already_released) == ((), (WINDOW,))
    assert (first_noise.draws, noise.draws) == (1, 0)
    assert await bytes_of(log, ANALYTICS_RELEASES) == ledger
    assert await rows_of(log, PUBLIC) == public
    assert (await stage_b(log).list_products())[0].spent == budget == "0.0015"


@pytest.mark.parametrize("is_after", [False, True])
async def test_a_crash_at_any_call_leaves_one_release(tmp_path: Path, *, is_after: bool) -> None:
    """Killed before or after each call of the log, then run again: one commit, one charge, one copy."""
    dies_at, crashes = 1, 0
    while True:
        async with local_log(tmp_path, name=f"{dies_at}.db") as log:
            faulty = FaultyLog(log, dies_at=dies_at, is_after=is_after)
            try:
                await seal(stage_b(faulty, stage_a=StageA(faulty)))
            except Crash:
                crashes += 1
            before = await bytes_of(log, PUBLIC)
            for _ in range(2):
                await stage_b(log).seal(PRODUCT, until=UNTIL)
                assert sorted(await ledger_types(log)) == sorted(ONE_RELEASE), dies_at
            public = await bytes_of(log, PUBLIC)
            assert len(public) == len(COURSES), dies_at
            assert all(len(values) == 1 for values in public.values()), dies_at
            assert before.items() <= public.items(), dies_at
            assert (await stage_b(log).list_products())[0].spent == "0.0015", dies_at
        if faulty.calls < dies_at:
            break
        dies_at += 1
    assert crashes >= (6 if is_after else 15)


async def test_a_crash_loop_ends_in_one_release(tmp_path: Path) -> None:
    """A process that dies at each call in turn on one log gets through in the end, charged once."""
    async with local_log(tmp_path) as log:
        for dies_at in range(1, 60):
            faulty = FaultyLog(log, dies_at=dies_at, is_after=bool(dies_at % 2))
            try:
                await seal(stage_b(faulty, stage_a=StageA(faulty)))
            except Crash:
                continue
        assert await ledger_types(log) == ONE_RELEASE
        assert all(len(values) == 1 for values in (await bytes_of(log, PUBLIC)).values())


async def test_two_racing_instances_make_one_release(tmp_path: Path) -> None:
    """Both start at once on one file; the loser of the fence reads again and copies."""
    async with local_log(tmp_path) as one, local_log(tmp_path) as two:
        both = await asyncio.gather(seal(stage_b(one)), seal(stage_b(two)), return_exceptions=True)
        assert all(isinstance(result, SealReport | Fenced) for result in both)
        await seal(stage_b(one))
        types = await ledger_types(one)
        assert (types.count("release.committed.v1"), types.count("budget.reserved.v1")) == (1, 1)
        public = await bytes_of(one, PUBLIC)
        assert [len(values) for values in public.values()] == [1, 1, 1]


async def test_an_instance_that_was_overtaken_before_its_commit_copies_the_winner(tmp_path: Path) -> None:
    """Fenced at the commit: its own draw was never appended and the winner's is published."""
    async with local_log(tmp_path) as one, local_log(tmp_path) as two:
        winner = ShiftedNoise(5_000_000)

        class _Overtaken(ShiftedNoise):
            async def overtake(self) -> None:
                await seal(stage_b(two, noise=winner))

        class _Late(StageA):
            async def settle(
                self, offsets: Mapping[int, int] | None = None, *, timeout_s: float = 30.0
            ) -> None:
                await super().settle(offsets, timeout_s=timeout_s)
                if not winner.draws:
                    await loser.overtake()

        loser = _Overtaken()
        report = await seal(stage_b(one, noise=loser, stage_a=_Late(one)))
        assert (report.released, winner.draws, loser.draws) == ((), 1, 1)
        values = [json.loads(row.value or b"")["value"] for row in await rows_of(one, PUBLIC)]
        assert all(5_000_000 < value < 7_000_000 for value in values)


async def test_an_instance_overtaken_on_a_resumed_seal_does_not_commit(tmp_path: Path) -> None:
    """It owns the ledger before it reads: its first append of all must not outdo a newer owner."""
    async with local_log(tmp_path) as one, local_log(tmp_path) as two:
        idle = StageA(one)
        idle.is_idle = True
        with pytest.raises(NotCaughtUp):
            await seal(stage_b(one, stage_a=idle))
        async with local_log(tmp_path) as three:
            overtaken: list[SealReport] = []

            class _Late(StageA):
                async def settle(
                    self, offsets: Mapping[int, int] | None = None, *, timeout_s: float = 30.0
                ) -> None:
                    await super().settle(offsets, timeout_s=timeout_s)
                    if not overtaken:
                        overtaken.append(await seal(stage_b(two)))

            report = await seal(stage_b(three, stage_a=_Late(three)))
        assert (report.released, len(overtaken[0].released)) == ((), 1)
        assert await ledger_types(one) == ONE_RELEASE


async def test_a_commit_that_becomes_readable_later_is_waited_for(log: LocalLog) -> None:
    """On Kafka a transaction is readable shortly after it ended: it is neither lost nor repeated."""

    class _Lagging(FaultyLog):
        hidden = 0

        async def append_atomically(
            self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
        ) -> Mapping[tuple[str, int], int]:
            ends = await super().append_atomically(writes, writer=writer)
            self.hidden = 1
            return ends

        async def read(self, topic: str, partition: int, *, after: int, limit: int = 1000) -> tuple[Row, ...]:
            if topic == ANALYTICS_RELEASES and self.hidden:
                self.hidden -= 1
                return ()
            return await super().read(topic, partition, after=after, limit=limit)

    lagging = _Lagging(log, dies_at=0, is_after=False)
    report = await seal(stage_b(lagging, wait_s=10.0))
    assert (len(report.released), await ledger_types(log)) == (1, ONE_RELEASE)


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hours", "is_open"), [(47.99, True), (48, False)])
async def test_a_window_is_open_until_its_lateness_has_passed(
    log: LocalLog, hours: float, *, is_open: bool
) -> None:
    """Refused before anything is written; sealed from the very instant on."""
    release = stage_b(log, clock=Clock(UNTIL + timedelta(hours=hours)))
    if not is_open:
        assert not (await seal(release)).released[0].is_early
        return
    with pytest.raises(RefusedByPolicy) as caught:
        await seal(release)
    assert caught.value.refusal is Refusal.WINDOW_OPEN
    assert await ledger_types(log) == []


async def test_one_open_window_refuses_the_whole_call(log: LocalLog) -> None:
    """The closed ones stay unsealed, and the message names the time from which it works."""
    release = stage_b(log, clock=Clock(UNTIL + timedelta(hours=50)))
    with pytest.raises(RefusedByPolicy, match="2026-03-05T00:00Z"):
        await seal(release, until=UNTIL + timedelta(days=1))
    assert await ledger_types(log) == []


async def test_an_early_seal_says_so_everywhere(log: LocalLog) -> None:
    """In the seal, the release and each public row; a window past its lateness is not early."""
    stage_a = StageA(log)
    release = stage_b(log, stage_a=stage_a, clock=Clock(UNTIL + timedelta(hours=50)))
    report = await seal(release, until=UNTIL + timedelta(days=1), is_early=True)
    assert [commit.is_early for commit in report.released] == [False, True]
    assert [seal.is_early for seal in stage_a.seals] == [False, True]
    rows = (await release.show(PRODUCT)).rows
    assert {row.window: row.is_early for row in rows} == {"2026-03-01": False, "2026-03-02": True}


async def test_a_window_that_has_not_begun_is_not_sealed(log: LocalLog) -> None:
    """Not even early."""
    with pytest.raises(BadInput) as caught:
        await seal(stage_b(log, clock=Clock(UNTIL)), until=UNTIL + timedelta(days=2), is_early=True)
    assert caught.value.refusal is Refusal.TIME_FUTURE


async def test_a_naive_time_and_an_unknown_product_are_refused(log: LocalLog) -> None:
    """Neither is guessed."""
    with pytest.raises(BadInput) as naive:
        await stage_b(log).seal(PRODUCT, until=UNTIL.replace(tzinfo=None))
    with pytest.raises(BadInput) as unknown:
        await stage_b(log).show("nothing")
    assert (naive.value.refusal, unknown.value.refusal) == (Refusal.TIME_NAIVE, Refusal.ID_INVALID)


async def test_an_empty_catalogue_is_refused(log: LocalLog) -> None:
    """Without public cells there is nothing to publish, and nothing is sealed."""

    class _Empty:
        async def keyset(self, *, product: str, window: str) -> WindowKeyset:
            del product, window
            return WindowKeyset(cells=(), was_opened=True)

    stage_a = StageA(log)
    release = Release(
        log, passes=stage_a, clock=Clock(), rules=rules(), noise=ShiftedNoise(), registrar=stage_a,
        catalogue=_Empty(), open_partial=opened, wait_s=0.0,
    )  # fmt: skip
    with pytest.raises(RefusedByPolicy) as caught:
        await seal(release)
    assert (caught.value.refusal, stage_a.seals) == (Refusal.CATALOGUE_EMPTY, [])


async def test_an_exhausted_budget_refuses_before_the_seal(log: LocalLog) -> None:
    """The cap is reached exactly by two windows; the third stays open, and its refusal is recorded once."""
    stage_a = StageA(log)
    release = stage_b(log, stage_a=stage_a, terms=rules(horizon_rho="0.003"))
    for _ in range(2):
        with pytest.raises(RefusedByPolicy, match=r"0\.0015.* 0 of 0\.003") as caught:
            await seal(release, until=UNTIL + timedelta(days=2))
        assert caught.value.refusal is Refusal.BUDGET_EXHAUSTED
    assert len(stage_a.seals) == 2
    assert await ledger_types(log) == [*ONE_RELEASE, *ONE_RELEASE, "release.refused.v1"]
    (summary,) = await release.list_products()
    assert (summary.spent, summary.remaining, summary.releases) == ("0.003", "0", 2)


async def test_a_partition_that_does_not_deliver_stops_the_release(log: LocalLog) -> None:
    """No partial sum is ever released for a whole one; a later call goes on under the same terms."""
    stage_a = StageA(log)
    stage_a.is_idle = True
    noise = ShiftedNoise()
    release = stage_b(log, stage_a=stage_a, noise=noise)
    with pytest.raises(NotCaughtUp):
        await seal(release)
    assert (noise.draws, await ledger_types(log)) == (0, ["seal.decided.v1"])
    stage_a.is_idle = False
    commit = await release.release(PRODUCT, window=WINDOW)
    assert (commit.window, noise.draws, await ledger_types(log)) == (WINDOW, 1, ONE_RELEASE)


async def test_the_sums_of_some_partitions_are_not_the_sum(log: LocalLog) -> None:
    """One partial of two is there: nothing is drawn, and the window is not sealed again."""
    release = release_id(PRODUCT, WINDOW)
    stage_a, noise = StageA(log), ShiftedNoise()
    stage_a.is_idle = True
    with pytest.raises(NotCaughtUp):
        await seal(stage_b(log, stage_a=stage_a))
    partial = Partial(release=release, partition=0, cells=dict.fromkeys(COURSES, 1), subjects=1)
    await log.append(
        ANALYTICS_PARTIALS, [NewRecord(0, bytes.fromhex(release) + bytes(4), msgspec.msgpack.encode(partial))]
    )
    with pytest.raises(NotCaughtUp, match="1 of 2"):
        await seal(stage_b(log, stage_a=stage_a, noise=noise))
    assert (noise.draws, len(stage_a.seals), await ledger_types(log)) == (0, 1, ["seal.decided.v1"])


async def test_a_window_that_nobody_sealed_is_not_released(log: LocalLog) -> None:
    """`release` finishes a seal and never begins one."""
    with pytest.raises(RefusedByPolicy) as caught:
        await stage_b(log).release(PRODUCT, window=WINDOW)
    assert caught.value.refusal is Refusal.WINDOW_OPEN


@pytest.mark.parametrize("partial", [
    Partial(release="0" * 32, partition=0, cells=dict.fromkeys(COURSES, 1), subjects=1),
    Partial(release=release_id(PRODUCT, WINDOW), partition=1, cells=dict.fromkeys(COURSES, 1), subjects=1),
    Partial(release=release_id(PRODUCT, WINDOW), partition=0, cells={"other": 1}, subjects=1),
    None,
])  # fmt: skip
async def test_a_foreign_or_shredded_partial_stops_the_release(
    log: LocalLog, partial: Partial | None
) -> None:
    """Another seal's sums, another partition's, another keyset's, or none that can be read."""
    key = bytes.fromhex(release_id(PRODUCT, WINDOW)) + bytes(4)
    value = b"" if partial is None else msgspec.msgpack.encode(partial)
    await log.append(ANALYTICS_PARTIALS, [NewRecord(0, key, value or b"\0")])

    def open_partial(row: Row) -> Partial | None:
        return None if row.value == b"\0" else opened(row)

    stage_a, noise = StageA(log), ShiftedNoise()
    release = Release(
        log, passes=stage_a, clock=Clock(), rules=rules(), noise=noise, registrar=stage_a,
        catalogue=CurrentCatalogue(courses), open_partial=open_partial, wait_s=0.0,
    )  # fmt: skip
    with pytest.raises(InvariantViolation):
        await seal(release)
    assert noise.draws == 0


# The ledger ----------------------------------------------------------------------------------


async def test_a_broken_ledger_releases_nothing(log: LocalLog) -> None:
    """A record that cannot be read may be a charge."""
    await log.append(ANALYTICS_RELEASES, [NewRecord(0, b"k", b'{"type":"budget.granted.v9"}')])
    with pytest.raises(InvariantViolation, match="offset 0"):
        await seal(stage_b(log))


async def test_of_two_commits_the_first_is_published(log: LocalLog) -> None:
    """A second one of the same id, however it came there, changes no public byte."""
    await seal(stage_b(log, noise=ShiftedNoise()))
    public = await rows_of(log, PUBLIC)
    for row in await rows_of(log, ANALYTICS_RELEASES):
        other = (row.value or b"").replace(b"shift", b"other").replace(b"70", b"71")
        await log.append(ANALYTICS_RELEASES, [NewRecord(0, row.key, other)])
    await seal(stage_b(log))
    assert await rows_of(log, PUBLIC) == public


async def test_a_lost_public_topic_is_copied_again_byte_for_byte(tmp_path: Path) -> None:
    """The ledger alone gives the copy back, without a seal of that window being asked for."""
    async with local_log(tmp_path, name="a.db") as one, local_log(tmp_path, name="b.db") as two:
        await seal(stage_b(one))
        for row in await rows_of(one, ANALYTICS_RELEASES):
            await two.append(ANALYTICS_RELEASES, [NewRecord(0, row.key, row.value)])
        report = await stage_b(two).seal(PRODUCT, until=UNTIL)
        assert report.released == ()
        assert await bytes_of(two, PUBLIC) == await bytes_of(one, PUBLIC)


async def test_a_large_release_is_cut_into_chunks(log: LocalLog) -> None:
    """No record of the ledger is above 512 KiB, and the copy is complete."""
    names = tuple(f"course-v1:{number:04d}+" + "x" * 240 for number in range(2000))

    class _Many:
        async def keyset(self, *, product: str, window: str) -> WindowKeyset:
            del product, window
            return WindowKeyset(cells=names, was_opened=True)

    stage_a = StageA(log)
    release = Release(
        log, passes=stage_a, clock=Clock(), rules=rules(), noise=OpenDpNoise(), registrar=stage_a,
        catalogue=_Many(), open_partial=opened, wait_s=0.0,
    )  # fmt: skip
    (commit,) = (await seal(release)).released
    assert (commit.cells, len(commit.chunks)) == (2000, 2)
    sizes = [len(row.value or b"") for row in await rows_of(log, ANALYTICS_RELEASES)]
    assert max(sizes) <= 512 * 1024
    assert len((await release.show(PRODUCT)).rows) == 2000


async def test_windows_follow_one_another_by_themselves(log: LocalLog) -> None:
    """Without a first day: one day before the time, then from the newest window on."""
    release = stage_b(log)
    first = await release.seal(PRODUCT, until=UNTIL)
    second = await release.seal(PRODUCT, until=UNTIL + timedelta(days=3))
    third = await release.seal(PRODUCT, until=UNTIL + timedelta(days=3))
    assert [[commit.window for commit in report.released] for report in (first, second, third)] == [
        ["2026-03-01"], ["2026-03-02", "2026-03-03", "2026-03-04"], [],
    ]  # fmt: skip


async def test_a_call_seals_a_bounded_number_of_windows(
    log: LocalLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest first; the next call takes the rest."""
    monkeypatch.setattr("privacy_ledger.app.release.WINDOWS_MAX", 2)
    release = stage_b(log)
    report = await seal(release, until=UNTIL + timedelta(days=2))
    assert ([commit.window for commit in report.released], report.remaining) == (
        ["2026-03-01", "2026-03-02"],
        1,
    )
    again = await release.seal(PRODUCT, until=UNTIL + timedelta(days=2))
    assert ([commit.window for commit in again.released], again.remaining) == (["2026-03-03"], 0)
