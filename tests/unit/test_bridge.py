"""The bridge while what it needs is away: nothing is lost, nothing moves too early, and it can be stopped."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from privacy_ledger.app import bridge
from privacy_ledger.app.bridge import Bridge
from privacy_ledger.app.ingest import OpenIngest, Source
from privacy_ledger.domain.errors import HomeUnusable, KeyUnavailable, LogUnavailable
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.log import Row
from tests.unit.home import TestHome, home, parse, played, registered

LINES = [
    registered("7", "ada", event="r1", email="ada@example.com"),
    *(played("7", event=f"a{number}") for number in range(5)),
]


class Topic:
    """A topic of two partitions in memory, whose cluster may be away for some calls."""

    def __init__(self, lines: Sequence[bytes | None], *, away: int = 0) -> None:
        """Put the lines into the partitions in turn."""
        self.lost = 0
        self.taken: dict[int, int] = {}
        self.away = away
        self._rows = [Row(at % 2, at // 2, b"key", line, (), 0) for at, line in enumerate(lines)]
        self._given = 0

    async def poll(self, *, timeout_s: float, limit: int) -> Mapping[int, Sequence[Row]]:
        """Return the next four messages."""
        del timeout_s, limit
        await asyncio.sleep(0)
        self._fail()
        rows = self._rows[self._given : self._given + 4]
        self._given += len(rows)
        return {
            number: some for number in (0, 1) if (some := [row for row in rows if row.partition == number])
        }

    async def commit(self, taken: Mapping[int, int]) -> bool:
        """Note them."""
        self._fail()
        self.taken.update(taken)
        return True

    async def behind(self) -> int | None:
        """Return how many were not given."""
        return len(self._rows) - self._given

    def _fail(self) -> None:
        if self.away:
            self.away -= 1
            raise LogUnavailable("away")


def over(it: TestHome, topic: Topic, *, fails: Sequence[Exception] = ()) -> Bridge:
    """Return a bridge into a home, whose ingest cannot be begun for these errors."""
    errors = list(fails)

    async def begin() -> OpenIngest:
        if errors:
            raise errors.pop(0)
        return await it.ingest.begin()

    return Bridge(
        topic, Source(name="ledger", parse=parse), begin=begin,
        message=lambda row: row.value or Refusal.NOT_JSON, events=iter,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing."""
    monkeypatch.setattr(bridge, "RETRY_FIRST_S", 0.001)


async def test_what_is_away_for_a_while_costs_nothing(tmp_path: Path) -> None:
    """The topic's cluster, the ledger and the keystore; every message is taken, once."""
    async with home(tmp_path) as it:
        topic = Topic([*LINES, None, b" "], away=3)
        fails = [KeyUnavailable("away"), LogUnavailable("away")]
        summary = await over(it, topic, fails=fails).run(asyncio.Event(), until_end=True)
        await it.runtime.passes.settle()
        live = await it.runtime.views.live(it.ref("7"))
    assert (summary.read, summary.accepted, summary.malformed) == (8, 6, 2)
    assert summary.reasons == {"null_value": 1, "not_json": 1}
    assert (topic.taken, len(live)) == ({0: 3, 1: 3}, 6)


async def test_who_is_told_to_stop_while_something_is_away_commits_nothing(tmp_path: Path) -> None:
    """The messages stay for whoever comes next."""
    async with home(tmp_path) as it:
        topic, stop = Topic(LINES), asyncio.Event()
        running = asyncio.create_task(over(it, topic, fails=[KeyUnavailable("away")] * 10_000).run(stop))
        await asyncio.sleep(0.05)
        stop.set()
        summary = await asyncio.wait_for(running, 10)
        again = await over(it, Topic(LINES)).run(asyncio.Event(), until_end=True)
    assert (summary.read, topic.taken) == (0, {})
    assert again.accepted == len(LINES)


async def test_what_does_not_pass_by_itself_ends_it(tmp_path: Path) -> None:
    """Before anything is committed."""
    async with home(tmp_path) as it:
        topic = Topic(LINES)
        with pytest.raises(HomeUnusable):
            await over(it, topic, fails=[HomeUnusable("replaced")]).run(asyncio.Event())
    assert topic.taken == {}


async def test_the_same_messages_again_are_duplicates(tmp_path: Path) -> None:
    """As after a crash between the append and the commit."""
    async with home(tmp_path) as it:
        first = await over(it, Topic(LINES)).run(asyncio.Event(), until_end=True)
        second = await over(it, Topic(LINES)).run(asyncio.Event(), until_end=True)
    assert (first.accepted, second.duplicates) == (len(LINES), len(LINES))
