"""The daily roll of the keystore's epoch, beside whoever runs the passes."""

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from privacy_ledger.app.daily_keys import LOOK_EVERY, RETRY_AFTER, DailyKeys
from privacy_ledger.app.key_care import KeyCare, Rolled
from privacy_ledger.domain.errors import KeyUnavailable
from processors import app
from tests.unit.home import TestHome, home, played, videos_of

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    """A trial clock that the test moves."""

    def __init__(self) -> None:
        """Begin at the start."""
        self.at = START

    def now(self) -> datetime:
        """Return the time."""
        return self.at


def daily_of(it: TestHome, clock: Clock) -> DailyKeys:
    """Return the daily roll of a home."""
    return it.runtime.keystore.daily(it.audit, clock=clock, ids=it.runtime.ids)


def epochs(it: TestHome) -> list[int]:
    """Return the epochs whose keys are there."""
    return [epoch.number for epoch in it.runtime.keystore.keeper.standing().epochs]


def begin_at_start(it: TestHome) -> None:
    """Let the first epoch be as old as the trial clock."""
    at = START.timestamp()
    os.utime(it.runtime.keystore.places.keys / "epoch-1.kek", (at, at))


async def test_an_epoch_is_rolled_once_a_day_and_gone_after_seven(tmp_path: Path) -> None:
    """Looked at every hour of nine days, with a backup a day; everybody stays readable."""
    clock = Clock()
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        begin_at_start(it)
        daily, rolls = daily_of(it, clock), list[Rolled]()
        for _ in range(9 * 24):
            clock.at += timedelta(hours=1)
            rolled = await daily.tend()
            if rolled is not None:
                rolls.append(rolled)
        assert [one.epoch for one in rolls if one.backup] == list(range(2, 11))
        assert epochs(it) == list(range(4, 11))
        assert await videos_of(it, "7") == ["v1"]


async def test_a_second_look_finds_nothing_to_do(tmp_path: Path) -> None:
    """Neither the same process, within the hour and after it, nor another one."""
    clock = Clock()
    async with home(tmp_path) as it:
        begin_at_start(it)
        clock.at += DAY
        daily = daily_of(it, clock)
        first = await daily.tend()
        looks = [await daily.tend()]
        clock.at += LOOK_EVERY
        looks += [await daily.tend(), await daily_of(it, clock).tend()]
        assert first is not None
        assert looks == [None, None, None]
        assert epochs(it) == [1, 2]


async def test_two_that_look_at_once_make_one_epoch(tmp_path: Path) -> None:
    """Each over a connection of its own, in a thread of its own; the keys are wrapped under it."""
    clock = Clock()
    async with home(tmp_path) as it:
        await it.take([played(str(number), event=f"e{number}") for number in range(7, 27)])
        begin_at_start(it)
        clock.at += DAY
        await asyncio.gather(*(daily_of(it, clock).tend() for _ in range(4)))
        old, new = it.runtime.keystore.keeper.standing().epochs
        assert (old.number, old.live, new.number) == (1, 0, 2)
        assert new.live > 20
        assert await videos_of(it, "7") == ["v1"]


async def test_a_roll_that_was_ended_is_finished_by_the_next_look(tmp_path: Path) -> None:
    """A worker that stops gives up at the next step, and leaves a keystore that works."""
    clock = Clock()
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        begin_at_start(it)
        clock.at += DAY
        ending = daily_of(it, clock)
        ending.end()
        assert await ending.tend() is None
        assert it.runtime.keystore.keeper.standing().older[0].live > 0
        rolled = await daily_of(it, clock).tend()
        assert rolled is not None
        assert [epoch.live for epoch in it.runtime.keystore.keeper.standing().older] == [0]
        assert (rolled.epoch, epochs(it)) == (2, [1, 2])


async def test_a_keystore_that_cannot_be_used_is_tried_again_after_minutes() -> None:
    """Not at every look, and not only after the hour."""
    clock, tried = Clock(), list[datetime]()

    @contextmanager
    def unavailable() -> Iterator[KeyCare]:
        tried.append(clock.at)
        raise KeyUnavailable("The keystore is away.")
        yield

    async def account() -> None:
        raise AssertionError

    daily = DailyKeys(unavailable, account=account, clock=clock)
    for _ in range(2):
        with pytest.raises(KeyUnavailable):
            await daily.tend()
        assert await daily.tend() is None
        clock.at += RETRY_AFTER
    assert tried == [START, START + RETRY_AFTER]


async def test_an_account_that_failed_is_made_by_the_next_look(tmp_path: Path) -> None:
    """Though nothing is left to roll then; and once."""
    clock, accounts = Clock(), list[datetime]()

    async def account() -> None:
        accounts.append(clock.at)
        if len(accounts) == 1:
            raise KeyUnavailable("The keystore is away.")

    async with home(tmp_path) as it:
        begin_at_start(it)
        clock.at += DAY
        places = it.runtime.keystore.places

        @contextmanager
        def opened() -> Iterator[KeyCare]:
            yield KeyCare(it.runtime.keystore.keeper, clock=clock, backups=places.backups)

        daily = DailyKeys(opened, account=account, clock=clock)
        with pytest.raises(KeyUnavailable):
            await daily.tend()
        looks: list[Rolled | None] = []
        for wait in (RETRY_AFTER, LOOK_EVERY):
            clock.at += wait
            looks.append(await daily.tend())
    assert looks == [None, None]
    assert accounts == [START + DAY, START + DAY + RETRY_AFTER]


def refused_at(name: str) -> Callable[..., None]:
    """Return an `unlink` that is refused for files of a name, as if their folder were another user's."""
    unlink = Path.unlink

    def refused(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, missing_ok=missing_ok)

    return refused


async def test_a_backup_that_cannot_be_removed_keeps_no_account_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a day as ever: a look that only finds the file again gives none."""
    clock, accounts, looks = Clock(), list[datetime](), list[Rolled | None]()

    async def account() -> None:
        accounts.append(clock.at)

    async with home(tmp_path) as it:
        begin_at_start(it)
        keystore = it.runtime.keystore

        @contextmanager
        def opened() -> Iterator[KeyCare]:
            yield KeyCare(keystore.keeper, clock=clock, backups=keystore.places.backups)

        daily = DailyKeys(opened, account=account, clock=clock)
        with opened() as care:
            stuck = care.back_up().name
        monkeypatch.setattr(Path, "unlink", refused_at(stuck))
        for wait in (*(DAY,) * 7, LOOK_EVERY, LOOK_EVERY):
            clock.at += wait
            looks.append(await daily.tend())
    seventh, after, idle = [one and (one.has_effect, one.stuck) for one in looks[6:]]
    assert (seventh, after, idle) == ((True, (stuck,)), (True, (stuck,)), (False, (stuck,)))
    assert accounts == [*(START + day * DAY for day in range(1, 8)), START + 7 * DAY + LOOK_EVERY]


async def test_a_home_on_trial_time_lets_no_epoch_grow_old(tmp_path: Path) -> None:
    """Its first key was made by a real clock, years ahead: that epoch goes like every other."""
    clock = Clock()
    clock.at = trial = datetime(2015, 3, 1, 12, tzinfo=UTC)
    async with home(tmp_path, trial=trial) as it:
        rolled = await daily_of(it, clock).tend()
        assert rolled is not None
        assert epochs(it) == [1, 2]
        for _ in range(7):
            clock.at += DAY
            await daily_of(it, clock).tend()
        assert 1 not in epochs(it)


class Counting:
    """A daily roll that fails at first, and counts how often it was looked at."""

    def __init__(self) -> None:
        """Begin with no look."""
        self.looks = 0

    async def tend(self) -> None:
        """Look once more."""
        self.looks += 1
        if self.looks == 1:
            raise KeyUnavailable("The keystore is away.")


@pytest.mark.parametrize("is_registrar", [True, False])
async def test_on_a_cluster_the_registrar_alone_looks(
    monkeypatch: pytest.MonkeyPatch, *, is_registrar: bool
) -> None:
    """A keystore that is away for a moment does not end its looking."""
    monkeypatch.setattr(app, "TICK_CHECK_S", 0.001)
    counting, engine = Counting(), SimpleNamespace(is_registrar=is_registrar)
    rolled = asyncio.Event()
    looking = asyncio.create_task(
        app._tend(  # noqa: SLF001 - the host's own
            cast("DailyKeys", counting), cast("app.EngineService", SimpleNamespace(engines=[engine])), rolled
        )
    )
    for _ in range(1000 if is_registrar else 20):
        if counting.looks > 1:
            break
        await asyncio.sleep(0.01)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert (counting.looks > 1) is is_registrar
