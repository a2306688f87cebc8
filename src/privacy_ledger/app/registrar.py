"""The registrar: control records to every partition, and the registry that they put in force.

One fenced writer. A control record is in all partitions or in none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from privacy_ledger.domain.errors import Fenced, LogUnavailable, RefusedByPolicy
from privacy_ledger.domain.events import (
    ControlRecord,
    RulesAdopted,
    Tick,
    TimeConfirmed,
    WindowOpened,
    WindowSealed,
)
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_REGISTRY
from privacy_ledger.domain.values import NOBODY
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.log import EventLog, NewRecord, Row
from privacy_ledger.ports.passes import Views
from privacy_ledger.ports.runtime import Clock, Ids

__all__ = [
    "CLOCK_TOLERANCE",
    "REGISTRAR",
    "TICK_PERIOD",
    "Amend",
    "CourseAdded",
    "Registrar",
    "RegistryReader",
    "append_decided",
]

TICK_PERIOD: Final = timedelta(hours=1)
CLOCK_TOLERANCE: Final = timedelta(minutes=5)
REGISTRAR: Final = "registrar"
"""The one writer of control records."""
_CORE: Final = "core"
_DOCUMENT: Final = b"registry:"
_COURSE: Final = b"course:"
_CLOCK: Final = b"clock:"
_PAGE: Final = 1000
_TAIL: Final = 200
_ATTEMPTS: Final = 5
Amend = Callable[[bytes | None], tuple[bytes, str] | None]
"""From the document in force (None: the first is to come) to another and its digest; None: let it be."""
T = TypeVar("T", bound=ControlRecord)


class CourseAdded(Struct, frozen=True, kw_only=True, tag="catalogue.course_added", tag_field="type"):
    """A course stands in the catalogue from here on; a fact about no person."""

    course: str
    added_at: datetime


class RegistryReader:
    """Reads `ledger.registry.v1`: documents by content hash, and the catalogue."""

    def __init__(self, log: EventLog) -> None:
        """Take the log; nothing is kept between calls but documents, which never change."""
        self._log = log
        self._documents: dict[str, bytes] = {}

    async def documents(self) -> dict[str, tuple[int, bytes]]:
        """Return offset and bytes of every registry document by its digest; the first one counts."""
        found: dict[str, tuple[int, bytes]] = {}
        for row in await self._rows():
            if row.key.startswith(_DOCUMENT) and row.value is not None:
                digest = row.key.removeprefix(_DOCUMENT).decode("ascii")
                found.setdefault(digest, (row.offset, row.value))
        self._documents = {digest: document for digest, (_, document) in found.items()}
        return found

    async def load(self, digest: str) -> bytes:
        """Return a document by its digest.

        Raises:
            LogUnavailable: the topic does not hold it (yet).
        """
        if digest not in self._documents:
            await self.documents()
        document = self._documents.get(digest)
        if document is None:
            raise LogUnavailable(
                f"{LEDGER_REGISTRY} holds no registry {digest[:12]}. "
                "Run `privacy-ledger init`, or check the cluster's address."
            )
        return document

    async def catalogue(self, *, until_offset: int | None = None) -> tuple[str, ...]:
        """Return the courses, sorted, that were added up to and including an offset of the registry."""
        found = set()
        for row in await self._rows():
            if until_offset is not None and row.offset > until_offset:
                break
            if row.key.startswith(_COURSE) and row.value is not None:
                found.add(msgspec.json.decode(row.value, type=CourseAdded).course)
        return tuple(sorted(found))

    async def _rows(self) -> list[Row]:
        rows: list[Row] = []
        after = -1
        while page := await self._log.read(LEDGER_REGISTRY, 0, after=after, limit=_PAGE):
            rows += page
            after = page[-1].offset
        return rows


class Registrar:
    """Writes control records for all; the log fences an earlier registrar."""

    def __init__(
        self, log: EventLog, codec: Codec, clock: Clock, ids: Ids, *, views: Views | None = None
    ) -> None:
        """Take log, codec, clock and ids; `views` tell what is in force already.

        Where the views lag, something may be written twice, which has no second effect. Without
        views the ledger itself is read backwards, which is exact and may be long.
        """
        self._log = log
        self._codec = codec
        self._clock = clock
        self._ids = ids
        self._views = views
        self._registry = RegistryReader(log)
        self._told: datetime | None = None
        self._turn = asyncio.Lock()

    # Rules ----------------------------------------------------------------------------------

    async def amend(self, decide: Amend) -> bool:
        """Put in force what `decide` makes of the registry in force; return whether that changed anything.

        It is asked under the registrar's writer, and again when another registrar came in between:
        so two amendments never start from one document.

        Raises:
            LogUnavailable: the document in force is not in the registry's topic (yet).
        """
        return await self._as_registrar(lambda: self._amendment(decide))

    async def _amendment(self, decide: Amend) -> ControlRecord | None:
        """Return the adoption of what was decided, its document published; None: nothing is to change."""
        adopted = await self._adopted()
        wanted = decide(None if adopted is None else await self._registry.load(adopted))
        if wanted is None or wanted[1] == adopted:
            return None
        document, digest = wanted
        known = (await self._registry.documents()).get(digest)
        key = _DOCUMENT + digest.encode("ascii")
        offset = await self._publish(key, document) if known is None else known[0]
        return RulesAdopted(at=self._clock.now(), registry_offset=offset, digest=digest)

    async def _adopted(self) -> str | None:
        """Return the registry that was adopted last, folded or not; None before the first."""
        newest = await self._newest(0, RulesAdopted)
        if newest is not None or self._views is None:
            return None if newest is None else newest.digest
        return (await self._views.meta(0)).registry_digest

    # Time -----------------------------------------------------------------------------------

    async def tick(self, *, force: bool = False) -> bool:
        """Write a Tick when the last one is more than an hour old; return whether one was written.

        Raises:
            RefusedByPolicy: `clock_disagrees`: this clock and the log's differ by more than five
                minutes; nothing was written.
        """
        now = self._clock.now()
        last = await self._last_tick()
        if not force and last is not None and now - last <= TICK_PERIOD:
            return False
        await self._check_clock(now)
        await self._write(Tick(at=now))
        self._told = now
        return True

    async def confirm_time(self) -> None:
        """Confirm that a jump of more than forty days between two Ticks is right."""
        now = self._clock.now()
        await self._check_clock(now)
        await self._write(TimeConfirmed(at=now))

    async def _last_tick(self) -> datetime | None:
        """Return the time that the last Tick of partition 0 has told, confirmed or not.

        One that is known here and not an hour old is taken for it: whether a later one was written
        changes nothing. Beyond the ledger's tail it is found by the position of the core pass, for
        a worker must not read that pass's states to learn the time.
        """
        if self._told is not None and self._clock.now() - self._told <= TICK_PERIOD:
            return self._told
        newest = await self._newest(0, Tick)
        if newest is None and self._views is not None:
            newest = await self._tick_at((await self._views.position(_CORE, 0)).tick_offset)
        self._told = None if newest is None else newest.at
        return self._told

    async def _tick_at(self, offset: int) -> Tick | None:
        """Return the Tick at an offset of partition 0; None: there is none."""
        rows = await self._log.read_at(LEDGER_EVENTS, 0, (offset,)) if offset >= 0 else ()
        bodies = [record.body for record in self._codec.decode(rows)]
        return next((body for body in bodies if isinstance(body, Tick)), None)

    async def _newest(self, partition: int, kind: type[T]) -> T | None:
        """Return the newest control record of a kind: in the tail, or anywhere where no view tells.

        The tail is at least what the core pass has not folded yet.
        """
        end = await self._log.end(LEDGER_EVENTS, partition)
        stop = 0
        if self._views is not None:
            folded = (await self._views.position(_CORE, partition)).offset + 1
            stop = max(0, min(end - _PAGE, folded))
        while end > stop:
            start = max(0, end - _PAGE)
            rows = await self._log.read(LEDGER_EVENTS, partition, after=start - 1, limit=_PAGE)
            controls = [row for row in rows if row.offset < end and row.key.startswith(NOBODY)]
            for record in reversed(self._codec.decode(controls)):
                if isinstance(record.body, kind):
                    return record.body
            end = start
        return None

    async def _check_clock(self, now: datetime) -> None:
        """Compare this clock with the log's; an old newest record says nothing, so one is asked for."""
        newest = -1
        for partition in self._all():
            for row in (await self._tail(partition))[-1:]:
                newest = max(newest, row.appended_ms)
        now_ms = int(now.timestamp() * 1000)
        tolerance_ms = int(CLOCK_TOLERANCE.total_seconds() * 1000)
        if newest < now_ms - tolerance_ms:
            offset = await self._publish(_CLOCK + self._ids.token(), b"{}")
            (row,) = await self._log.read_at(LEDGER_REGISTRY, 0, (offset,))
            newest = row.appended_ms
        if abs(newest - now_ms) > tolerance_ms:
            raise RefusedByPolicy(
                Refusal.CLOCK_DISAGREES,
                f"This machine's clock and the log's differ by {abs(newest - now_ms) // 60_000} minutes. "
                "Set the clock, check it with `privacy-ledger doctor`, then run the command again.",
            )

    async def _tail(self, partition: int) -> Sequence[Row]:
        """Return the newest records of a partition, oldest first; not all of the last offsets exist."""
        end = await self._log.end(LEDGER_EVENTS, partition)
        return await self._log.read(LEDGER_EVENTS, partition, after=max(-1, end - 1 - _TAIL), limit=_TAIL)

    # Windows --------------------------------------------------------------------------------

    async def open_window(self, *, product: str, window: str, policy: str, keyset: Sequence[str]) -> None:
        """Open a window of a product for these cells."""
        now = self._clock.now()
        event = WindowOpened(at=now, product=product, window=window, policy=policy, keyset=tuple(keyset))
        await self._write(event)

    async def seal_window(
        self,
        *,
        product: str,
        window: str,
        policy: str,
        keyset: Sequence[str],
        release: str,
        is_early: bool,
        was_opened: bool,
    ) -> None:
        """Seal a window: the offset of the record in each partition is the cut."""
        now = self._clock.now()
        event = WindowSealed(
            at=now, product=product, window=window, policy=policy, keyset=tuple(keyset),
            release=release, is_early=is_early, was_opened=was_opened,
        )  # fmt: skip
        await self._write(event)

    # Catalogue ------------------------------------------------------------------------------

    async def add_courses(self, courses: Sequence[str]) -> tuple[str, ...]:
        """Add courses to the catalogue; return those that were new, in the order given."""
        known = set(await self._registry.catalogue())
        new = tuple(dict.fromkeys(course for course in courses if course not in known))
        now = self._clock.now()
        facts = [CourseAdded(course=course, added_at=now) for course in new]
        records = [NewRecord(0, _COURSE + f.course.encode(), msgspec.json.encode(f)) for f in facts]
        if records:
            await self._log.append(LEDGER_REGISTRY, records)
        return new

    async def catalogue(self) -> tuple[str, ...]:
        """Return the courses of the catalogue, sorted."""
        return await self._registry.catalogue()

    # Writing --------------------------------------------------------------------------------

    def _all(self) -> range:
        return range(self._log.partitions(LEDGER_EVENTS))

    async def _publish(self, key: bytes, value: bytes) -> int:
        (offset,) = await self._log.append(LEDGER_REGISTRY, (NewRecord(0, key, value),))
        return offset

    async def _write(self, event: ControlRecord) -> None:
        """Append one control record to every partition, in one transaction."""

        async def decided() -> ControlRecord:
            return event

        await self._as_registrar(decided)

    async def _as_registrar(self, decide: Callable[[], Awaitable[ControlRecord | None]]) -> bool:
        """Append what is decided, all partitions or none; return whether there was anything.

        Of this process one at a time; `append_decided` sees to those of others.
        """

        async def writes() -> Sequence[tuple[str, NewRecord]]:
            event = await decide()
            return () if event is None else self._records(event)

        async with self._turn:
            return await append_decided(self._log, writes)

    def _records(self, event: ControlRecord) -> list[tuple[str, NewRecord]]:
        """Return a control record for each partition of the ledger."""
        now = self._clock.now()
        return [
            (LEDGER_EVENTS, self._codec.control_record(self._ids.token(), partition, event, received_at=now))
            for partition in self._all()
        ]


async def append_decided(
    log: EventLog, decide: Callable[[], Awaitable[Sequence[tuple[str, NewRecord]]]]
) -> bool:
    """Append what is decided, all of it or nothing; return whether there was anything.

    Commands and workers are registrars in turn: each takes the writer over before it decides, which
    fences whoever is between reading and writing; who was fenced has appended nothing and decides again.

    Raises:
        Fenced: others came in between again and again; nothing was appended.
    """
    for attempt in range(_ATTEMPTS):
        await log.open_writer(REGISTRAR)
        writes = await decide()
        if not writes:
            return False
        try:
            await log.append_atomically(writes, writer=REGISTRAR)
        except Fenced:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return True
    return False
