"""Which versions there are, which passes follow from that, and how fast a build may go."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.worker_slot import forget_slots, take_slot
from privacy_ledger.bootstrap import declared_passes
from privacy_ledger.domain.topics import TOPICS, Topic
from privacy_ledger.domain.versions import (
    Version,
    VersionBegun,
    VersionChosen,
    VersionDropped,
    VersionDropping,
    VersionFact,
    VersionKey,
    speaking,
    versions_of,
)
from privacy_ledger.engine.declaration import VersionPass, topics_of
from privacy_ledger.engine.line_up import LineUp
from privacy_ledger.engine.pace import Pace

AT: Final = datetime(2026, 3, 1, tzinfo=UTC)
PROGRESS: Final = "progress"


def _begun(version: int, rate: int | None = None) -> VersionBegun:
    return VersionBegun(projection=PROGRESS, version=version, at=AT, build="1", rate=rate)


def _chosen(version: int) -> VersionChosen:
    return VersionChosen(projection=PROGRESS, version=version, at=AT)


def _dropping(version: int) -> VersionDropping:
    return VersionDropping(projection=PROGRESS, version=version, at=AT)


def _dropped(version: int) -> VersionDropped:
    return VersionDropped(projection=PROGRESS, version=version, at=AT)


def _line_up(*facts: VersionFact) -> tuple[LineUp, list[Topic]]:
    """Return a line-up after these facts, and the topics that it declares."""
    declared: list[Topic] = []

    async def read() -> dict[VersionKey, Version]:
        return versions_of(facts)

    return LineUp(declared_passes(), read, declare=declared.append), declared


# Facts -----------------------------------------------------------------------------------------


def test_a_version_that_was_dropped_never_comes_back() -> None:
    """Whatever is said of it later."""
    for last in (_begun(2), _chosen(2), _dropping(2)):
        found = versions_of([_begun(2), _dropping(2), _dropped(2), last])
        assert found[PROGRESS, 2].status == "dropped"
    assert versions_of([_begun(2), _dropping(2), _begun(2)])[PROGRESS, 2].status == "dropping"


def test_the_version_that_was_chosen_last_speaks() -> None:
    """One of each projection; without a choice the declared one."""
    facts = [_begun(2), _begun(3), _chosen(2), _chosen(1), _chosen(3)]
    said = [speaking(versions_of(facts[:count]), PROGRESS, declared=1) for count in range(len(facts) + 1)]
    assert said == [1, 1, 1, 2, 1, 3]
    assert sum(version.speaks for version in versions_of(facts).values()) == 1


def test_a_new_rate_leaves_the_rest_as_it_was() -> None:
    """The time when it was begun stays."""
    later = VersionBegun(projection=PROGRESS, version=2, at=AT.replace(year=2027), build="1", rate=9)
    version = versions_of([_begun(2, 5), later])[PROGRESS, 2]
    assert (version.begun_at, version.rate) == (AT, 9)


# Passes ----------------------------------------------------------------------------------------


async def test_without_versions_the_passes_are_those_declared() -> None:
    """And so are the topics."""
    line_up, declared = _line_up()
    current = await line_up.current()
    assert current == declared_passes()
    assert set(await line_up.required()) == set(current)
    assert (topics_of(current.values()), declared) == (TOPICS, [])


async def test_a_version_is_a_muted_pass_with_topics_and_keys_of_its_own() -> None:
    """Nobody waits for it until it speaks, and then its rate holds no more."""
    line_up, declared = _line_up(_begun(2, 500))
    current = await line_up.current()
    version = current["progress-v2"]
    assert isinstance(version, VersionPass)
    assert not version.writes_tombstones
    assert version.own == {"state.progress-v2.v1", "view.progress.v2"} == {t.name for t in declared}
    assert topics_of(current.values()) == (*TOPICS, *version.topics)
    assert (await line_up.rate(version), "progress-v2" in await line_up.required()) == (500, False)
    spoken, _ = _line_up(_begun(2, 500), _chosen(2))
    assert (await spoken.rate(version), "progress-v2" in await spoken.required()) == (None, True)


async def test_a_dropped_projection_is_in_no_pass() -> None:
    """The declared pass goes on without it, from the first fact on."""
    for facts in ((_dropping(1),), (_dropping(1), _dropped(1))):
        line_up, _ = _line_up(_begun(2), _chosen(2), *facts)
        current = await line_up.current()
        assert {one.table.name for one in current["core"].processors} == {"subject_view"}
        assert current["core"].publishes == {"permissions", "subject_view"}
        names = {topic.name for topic in topics_of(current.values())}
        declared = {topic.name for topic in TOPICS}
        assert declared - names == {"view.progress.v1"}
        assert names - declared == {"state.progress-v2.v1", "view.progress.v2"}
    gone, _ = _line_up(_begun(2), _dropping(2), _dropped(2))
    assert await gone.current() == declared_passes()


async def test_a_version_of_a_projection_that_is_not_installed_is_left_alone() -> None:
    """Another program may have built it."""
    line_up, _ = _line_up(VersionBegun(projection="foreign", version=2, at=AT, build="1"))
    assert await line_up.current() == declared_passes()


# Pace ------------------------------------------------------------------------------------------


class Seconds:
    """A clock that is set."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_a_pace_pays_for_what_it_took_before_it_takes_more() -> None:
    """Over any stretch it took no more than its rate, and one burst."""
    clock = Seconds()
    pace = Pace(clock)
    pace.rate = 100.0
    taken = 0
    for _ in range(1000):
        count = pace.allowed(2000)
        assert count <= 50
        pace.took(count)
        taken += count
        clock.now += 0.01
    assert 950 <= taken <= 1050


def test_a_pace_without_a_rate_takes_all() -> None:
    """Also when it had one before, at once."""
    clock = Seconds()
    pace = Pace(clock)
    pace.rate = 1.0
    pace.took(500)
    assert pace.allowed(2000) == 0
    pace.rate = None
    assert pace.allowed(2000) == 2000


async def test_a_rest_ends_with_the_event() -> None:
    """A stop does not wait for what is to be paid."""
    pace, stop = Pace(), asyncio.Event()
    pace.rate = 0.001
    resting = asyncio.create_task(pace.rest(100, until=stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(resting, 10)


# Stores ----------------------------------------------------------------------------------------


def test_the_stores_of_a_dropped_version_go_but_those_in_use(tmp_path: Path) -> None:
    """A living worker holds its own."""
    held, free = (take_slot(tmp_path / "progress-v2", ids=SystemIds()) for _ in range(2))
    (free.path / "0").mkdir()
    os.close(free.lock)
    forget_slots(tmp_path / "progress-v2")
    assert (held.path.exists(), free.path.exists()) == (True, False)
    os.close(held.lock)
    forget_slots(tmp_path / "progress-v2")
    forget_slots(tmp_path / "never-there")
    assert not held.path.exists()
