"""When the bytes of the erased are gone: somebody looks, and notes it once; nothing is estimated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from privacy_ledger import bootstrap
from privacy_ledger.app._bytes import FirstSeen, without_bytes
from privacy_ledger.app.erasure_care import ErasureStatus
from privacy_ledger.domain.topics import LEDGER_EVENTS, REQUESTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.interfaces.cli.deletion import status_text
from privacy_ledger.ports.log import EventLog, Row
from tests.unit.home import TestHome, home, played, registered, unreadable

ADA: Final = "openedx:username:ada"
LINES: Final = [
    registered("7", "ada", event="r1", email="ada@example.com"),
    played("7", event="a1"),
    played("8", event="b1"),
]


class Read:
    """A log that counts the pages that are read from it."""

    def __init__(self, log: EventLog) -> None:
        """Take the log."""
        self.log = log
        self.pages = 0

    def __getattr__(self, name: str) -> object:
        """Do all else as the log does."""
        return getattr(self.log, name)

    async def read(self, topic: str, partition: int, *, after: int, limit: int) -> Sequence[Row]:
        """Read a page."""
        self.pages += 1
        return await self.log.read(topic, partition, after=after, limit=limit)


async def compacted(it: TestHome) -> None:
    """Compact the log."""
    assert it.runtime.local is not None
    await it.runtime.local.compact()


async def status_of(it: TestHome, ref: SubjectRef) -> ErasureStatus:
    """Return how far the erasure of a reference came."""
    (status,) = await bootstrap.erasure_care_of(it.runtime).status((ref,))
    return status


async def test_the_bytes_are_gone_when_a_look_finds_none_and_not_before(tmp_path: Path) -> None:
    """Records are there below their tombstones; after a compaction they are not, which is noted once."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ref = it.ref("7")
        await it.erasure().erase((ref,))
        care = bootstrap.erasure_care_of(it.runtime)
        early, before = await care.look_for_bytes(), await status_of(it, ref)
        await compacted(it)
        looks = [await care.look_for_bytes(), await care.look_for_bytes()]
        other_process = bootstrap.erasure_care_of(it.runtime)
        looks.append(await other_process.look_for_bytes())
        after = await status_of(it, ref)
        steps = [msgspec.json.decode(row.value or b"{}")["step"] for row in await it.rows(REQUESTS)]
    assert (early, before.bytes_gone_at, looks, steps.count("gone")) == (0, None, [1, 0, 0], 1)
    times = [
        after.requested_at, after.unreadable_at, after.derived_clean_at, after.completed_at,
        after.bytes_gone_at,
    ]  # fmt: skip
    seen = [at for at in times if at is not None]
    assert len(seen) == len(times)
    assert seen == sorted(seen)
    assert "bytes gone" not in status_text(before)
    assert all(
        said in status_text(after)
        for said in (
            ", unreadable after ",
            ", derived stores clean after ",
            ", bytes gone from the ledger after ",
        )
    )


async def test_a_record_that_stays_keeps_the_bytes_from_being_called_gone(tmp_path: Path) -> None:
    """Somebody appends one more sealed record of the erased: every later look finds it."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ref = it.ref("7")
        stray = unreadable(await it.rows(), ref, it.runtime.ids)
        await it.erasure().erase((ref,))
        await it.runtime.log.append(LEDGER_EVENTS, (stray,))
        await compacted(it)
        care = bootstrap.erasure_care_of(it.runtime)
        looks = [await care.look_for_bytes(), await care.look_for_bytes()]
        status = await status_of(it, ref)
    assert (looks, status.bytes_gone_at) == ([0, 0], None)


async def test_a_look_begins_where_the_last_one_found_something(tmp_path: Path) -> None:
    """As long as that record is there nothing else is read; then the next one is looked for from there."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        refs, seen = (it.ref("7"), it.ref("8")), FirstSeen()
        log = Read(it.runtime.log)
        first = await without_bytes(log, refs, first_seen=seen)  # type: ignore[arg-type] # a log but for its type
        found, pages = dict(seen), log.pages
        again = await without_bytes(log, refs, first_seen=seen)  # type: ignore[arg-type] # as above
        still, more = dict(seen), log.pages
        await it.erasure().erase((refs[0],))
        await compacted(it)
        last = await without_bytes(log, refs, first_seen=seen)  # type: ignore[arg-type] # as above
    assert (first, again, last) == (frozenset(), frozenset(), frozenset({refs[0]}))
    assert (found, set(found), pages > 0, more) == (still, set(refs), True, pages)
    assert set(seen) == {refs[1]}
