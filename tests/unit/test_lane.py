"""A session's events that wait for their person, when that person is erased before they came."""

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from privacy_ledger.app._evidence import waiting_of
from privacy_ledger.bootstrap import restorer_for
from privacy_ledger.domain.events import VideoPlayed, event_type
from privacy_ledger.domain.key_release import COLLECT
from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_UNATTRIBUTED
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, Identity
from privacy_ledger.testing.faults import Mode, Point, Seam, Stopped
from tests.unit.home import COURSE, Said, TestHome, home, line, played, registered, settings

ADA: Final = "openedx:username:ada"
MINE: Final = [played(event=f"w{n}", session="one") for n in range(3)]
OTHERS: Final = played(event="o1", session="two")
PLAYED: Final[dict[str, str | int]] = {"type": event_type(VideoPlayed), "course": COURSE, "video": "v2"}
LOGIN: Final = line(Said(id="l1", people=(("7",),), facts=(PLAYED,), session="one"))
JOINED: Final = Point("vault.join_lanes", 1, Mode.AFTER)
BOUND: Final = Point("vault.mint", 1, Mode.AFTER)


async def prepared(folder: Path) -> None:
    """Leave a home in which a session of nobody known waits, and somebody else's beside it."""
    async with home(folder) as it:
        await it.take(
            [registered("7", "ada", event="r1", email="ada@example.com"), played("8", event="b1"), *MINE]
        )
        await it.take([OTHERS])


async def cut_short(folder: Path, stop_at: Point | None) -> list[Point]:
    """Take the login of the session, and end at a point; return the points passed."""
    seam = Seam(stop_at=stop_at)
    with suppress(Stopped):
        async with home(folder, wrap=seam) as it:
            await it.take([LOGIN])
    return seam.points


async def keys_of_lanes(it: TestHome) -> tuple[list[bytes], list[bytes]]:
    """Return the ids of the keys of the session, and those of the other one."""
    session = Identity("lane:test", "session:one")
    (row,) = it.runtime.vault.find((session,))
    assert row is not None
    mine, others = list[bytes](), list[bytes]()
    for record in await it.rows(LEDGER_UNATTRIBUTED):
        assert record.value is not None
        (mine if record.key[:16] == row.ref else others).append(record.value[1:33])
    return mine, others


async def readable(it: TestHome) -> tuple[int, int]:
    """Return how many lane events of the session open for an ingest, and how many of the other one."""
    vault = it.runtime.released_to(COLLECT)
    counts = []
    for kids in await keys_of_lanes(it):
        found = vault.open_keys(kids)
        counts.append(sum(isinstance(found[kid], DataKey) for kid in kids))
    return counts[0], counts[1]


def told(receipt: bytes | None) -> tuple[str, int]:
    """Return what a receipt says of the lane."""
    stores = {store["store"]: store for store in json.loads(receipt or b"")["stores"]}
    return stores["unattributed events"]["outcome"], stores["unattributed events"]["count"]


async def test_a_move_that_was_cut_short_leaves_nothing_to_read_after_an_erasure(tmp_path: Path) -> None:
    """Cut short at every call from the join to the binding: found, counted, destroyed, verified."""
    start = tmp_path / "start"
    await prepared(start)
    shutil.copytree(start, tmp_path / "calm")
    points = await cut_short(tmp_path / "calm", None)
    window = points[points.index(JOINED) : points.index(BOUND)]
    appended = [p for p in window if p.call == f"log.append {LEDGER_EVENTS}" and p.mode is Mode.AFTER]
    assert len(appended) > 1
    seen = list[int]()
    for number, point in enumerate(window):
        folder = tmp_path / str(number)
        shutil.copytree(start, folder)
        await cut_short(folder, point)
        async with home(folder) as it:
            held, _ = await readable(it)
            (done,) = await it.erasure().erase(it.subjects.find(ADA).refs)
            left = await readable(it)
            late = await it.take([played(event="late", session="one"), LOGIN])
        seen.append(held)
        assert (done.is_completed, left) == (True, (0, 1)), point
        assert told(done.receipt) == (("erased", held) if held else ("nothing held", 0)), point
        assert late.reasons == {"subject_erased": 2}, point
    assert set(seen) == {len(MINE), 0}
    assert seen == sorted(seen, reverse=True)


async def test_a_lane_is_joined_before_the_login_is_durable(tmp_path: Path) -> None:
    """A ledger that knows of the login knows whose the lane is."""
    await prepared(tmp_path)
    seam = Seam(stop_at=Point(f"log.append {LEDGER_EVENTS}", 1, Mode.BEFORE))
    with suppress(Stopped):
        async with home(tmp_path, wrap=seam) as it:
            await it.take([LOGIN])
    assert JOINED in seam.points
    async with home(tmp_path) as it:
        waiting = await waiting_of(it.runtime.log, it.runtime.vault, it.ref("7"))
        assert waiting.readable == len(MINE)


async def test_the_receipt_names_the_keys_of_lanes(tmp_path: Path) -> None:
    """Salted like those of the ledger, also where the first try ended after it had destroyed them."""
    await prepared(tmp_path)
    await cut_short(tmp_path, JOINED)
    async with home(tmp_path) as it:
        mine, _ = await keys_of_lanes(it)
        refs = it.subjects.find(ADA).refs
        seam = Seam(stop_at=Point("vault.end_lanes", 1, Mode.AFTER))
    with suppress(Stopped):
        async with home(tmp_path, wrap=seam) as it:
            await it.erasure().erase(refs)
    async with home(tmp_path) as it:
        (done,) = await it.erasure().resume()
    receipt = json.loads(done.receipt or b"")
    assert told(done.receipt) == ("erased", len(MINE))
    assert set(_salted(receipt["salt"], mine)) <= set(receipt["keys"])


async def test_lanes_whose_keys_are_gone_are_not_looked_for(tmp_path: Path) -> None:
    """An erasure of a regular visitor reads nothing of the topic, and its receipt names the keys."""
    await prepared(tmp_path)
    async with home(tmp_path) as it:
        await it.take([LOGIN])
        mine, _ = await keys_of_lanes(it)
    seam = Seam()
    async with home(tmp_path, wrap=seam) as it:
        (done,) = await it.erasure().erase(it.subjects.find(ADA).refs)
    receipt = json.loads(done.receipt or b"")
    assert done.is_completed
    assert [point for point in seam.points if LEDGER_UNATTRIBUTED in point.call] == []
    assert set(_salted(receipt["salt"], mine)) <= set(receipt["keys"])


async def test_a_receipt_does_not_vouch_for_a_join_that_a_restore_lost(tmp_path: Path) -> None:
    """The keystore is of before the join, the ledger of after it: nobody knows whose the lane is."""
    await prepared(tmp_path)
    async with home(tmp_path) as it:
        await it.take([played("7", event="a1")])
        keystore = it.runtime.keystore
        note = keystore.keeper.back_up(keystore.places.backups, now=it.runtime.clock.now())
        backup = keystore.places.backups / note.name
    await cut_short(tmp_path, Point(f"log.append {LEDGER_EVENTS}", 1, Mode.AFTER))
    restorer_for(settings(tmp_path)).restore(backup, beside_others=True)
    async with home(tmp_path) as it:
        (done,) = await it.erasure().erase(it.subjects.find(ADA).refs)
        assert await readable(it) == (len(MINE), 1)
    assert told(done.receipt) == ("nothing held", 0)
    assert any(
        "interrupted before a restore" in what for what in json.loads(done.receipt or b"")["not_reached"]
    )


def _salted(salt: str, kids: list[bytes]) -> list[str]:
    return [hashlib.sha256(bytes.fromhex(salt) + kid).hexdigest() for kid in kids]


async def test_a_move_that_was_cut_short_is_finished_by_the_same_file(tmp_path: Path) -> None:
    """The join is repeated, and nothing comes twice."""
    await prepared(tmp_path)
    await cut_short(tmp_path, JOINED)
    async with home(tmp_path) as it:
        again = await it.take([LOGIN])
        live = len(await it.runtime.views.live(it.ref("7")))
        assert (again.accepted, again.linked) == (1, len(MINE))
        assert live == len(MINE) + 2
        assert await readable(it) == (0, 1)


async def test_a_second_person_of_a_joined_session_gets_nothing_of_it(tmp_path: Path) -> None:
    """Though the first one's move never ended."""
    await prepared(tmp_path)
    await cut_short(tmp_path, JOINED)
    login = line(Said(id="l2", people=(("8",),), facts=(PLAYED,), session="one"))
    async with home(tmp_path) as it:
        s = await it.take([login])
        assert (s.accepted, s.linked, await readable(it)) == (1, 0, (len(MINE), 1))
        (done,) = await it.erasure().erase((it.ref("8"),))
        assert told(done.receipt) == ("nothing held", 0)
        assert await readable(it) == (len(MINE), 1)


async def test_a_lane_that_ended_while_its_line_was_on_the_way_takes_no_record(tmp_path: Path) -> None:
    """The line is refused like every other of an erased person, and the others of its batch are taken."""
    await prepared(tmp_path)
    await cut_short(tmp_path, JOINED)
    async with home(tmp_path) as it:
        vault, now = it.runtime.vault, it.runtime.clock.now()
        (lane,) = vault.lanes_of(it.ref("7"))
        vault.end(lane, now=now)  # its session's name was looked up before
        s = await it.take([played(event="late", session="one"), played(event="o2", session="two")])
        rows = await it.rows(LEDGER_UNATTRIBUTED)
    assert (s.reasons, s.unattributed) == ({"subject_erased": 1}, 1)
    assert sum(SubjectRef(row.key[:16]) == lane for row in rows) == len(MINE)
