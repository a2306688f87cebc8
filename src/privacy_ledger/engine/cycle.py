"""One cycle of a pass over one partition: rows in, one atomic set of writes out.

The caller commits `Batch.writes` in one transaction and only then calls `settle`, which brings
the local store up to date: a crash leaves at worst a store that is behind its changelog.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from heapq import nsmallest
from operator import attrgetter
from typing import Final, TypeVar

import msgspec

from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.events import RulesAdopted, Tick
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import state_topic
from privacy_ledger.domain.values import NOBODY, REF_BYTES, SubjectRef, record_key
from privacy_ledger.engine.batch import Batch, Books, Work
from privacy_ledger.engine.cache import StateCache
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.guards import is_nobodys, refuse_foreign_keystore
from privacy_ledger.engine.hand import Hand, ReadAt
from privacy_ledger.engine.outlet import Outlet
from privacy_ledger.engine.roll import Roll
from privacy_ledger.ports.codec import HEARTBEAT_KEY, Decoder, StateCodec
from privacy_ledger.ports.log import NewRecord, Row, received_at
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.ports.runtime import StateStore
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.held import HELD, WAITING, Busy, Held, Parked
from privacy_ledger.streams.record import Record, Removed, Undecodable
from privacy_ledger.streams.roster import Claim
from privacy_ledger.streams.states import (
    GENERATIONS,
    INDEX,
    META,
    PERMISSIONS,
    SHREDS,
    WORK,
    Changes,
    Table,
    Tombstone,
    Workspace,
)

__all__ = ["POSITION_KEY", "PartitionCycle"]

T = TypeVar("T")
POSITION_KEY: Final = b"\0pos"
REREADS_PER_CYCLE: Final = 2000
"""So many records a cycle reads again on the way; work that takes more is left for slices."""
SLICE: Final = 300
"""So many records a slice of that work reads again, and as many as were put to wait meanwhile."""
_BODY: Final = attrgetter("body")
_NOTABLE: Final = frozenset({Tick, RulesAdopted, Undecodable, Removed})
FAILURES_PER_CYCLE: Final = 8
"""A step may fail on so many records of one cycle; then it ends at the last of them."""
FOLD_SLICE: Final = 500
LOOK_BACK: Final = 8
"""Among so many last rows one that says when it was received is looked for; tombstones do not."""


class PartitionCycle:
    """The cycle of one pass and partition; single-owner, not thread-safe."""

    def __init__(  # noqa: PLR0913 - every collaborator is named once, here
        self,
        declaration: PassDeclaration,
        partition: int,
        *,
        store: StateStore,
        codec: Decoder,
        states: StateCodec,
        books: Books,
        initial: Rules,
        sampling_key: bytes,
        outlet: Outlet,
        read_at: ReadAt,
    ) -> None:
        """Take the collaborators; `position` is read from the store."""
        self._declaration = declaration
        self._partition = partition
        self._codec = codec
        self._states = states
        self._books = books
        self._outlet = outlet
        self._cache = StateCache(store, states)
        self._fold = PassFold(
            declaration.processors,
            rules=books.known,
            initial=initial,
            sampling_key=sampling_key,
            writes_tombstones=declaration.writes_tombstones,
        )
        (stored,) = store.get_many([POSITION_KEY])
        self.position = (
            PassPosition() if stored is None else msgspec.msgpack.decode(stored, type=PassPosition)
        )
        self.roll = Roll(declaration, partition, cache=self._cache, states=states, fold=self._fold)
        self.roll.seat(self.position.offset)
        self._pending_shreds: list[bytes] = []
        self._has_books = False
        self._started = 0.0
        self._hand = Hand(codec=codec, books=books, read_at=read_at)
        held = self._cache.scan(HELD, b"")
        self._busy = {key: value.since for key, value in held if isinstance(value, Busy)}
        self._put_to_wait = 0
        self._reached = 0
        self._unknown = self._unknown_next = 0

    # One cycle ----------------------------------------------------------------------------

    async def run(self, rows: Sequence[Row], *, now: datetime) -> Batch:
        """Return what these rows, in offset order, change; nothing is written here.

        A record on which a step fails alone parks its subject; the others go on. Where it fails on
        many, the batch ends early, at a position below the last row: else each of them would have
        all the others folded again.

        Raises:
            KeyUnavailable: keys cannot be reached; the position is kept.
            UnknownKey: many records in a row name keys that this keystore never held.
            ControlUnreadable: a control record for all cannot be read.
        """
        await self._load_books()
        last = self.position.offset
        fresh = rows if rows and rows[0].offset > last else [row for row in rows if row.offset > last]
        notable: list[Record] = []
        is_slice = bool(self._busy)
        self._reached = 0

        async def fold() -> Workspace:
            nonlocal fresh
            if self._hand.failures >= FAILURES_PER_CYCLE:
                fresh = fresh[: self._reached]
            return await self._fold_all(fresh, notable)

        work = await self._hand.around_failures(fold)
        return self._batch(work, notable, fresh, now=now, is_slice=is_slice)

    @property
    def is_working(self) -> bool:
        """Whether there is work beside the rows: subjects in hand, or processors that come and go."""
        return bool(self._busy) or self.roll.seats.is_moving

    @property
    def busy(self) -> int:
        """How many subjects have work in hand, for `serve`."""
        return len(self._busy)

    async def serve(self, *, now: datetime) -> Batch | None:
        """Return what the next slice of the work in hand changes, oldest first; None: there is none.

        A slice grows with what was put to wait since the last one, so that a subject to whom
        records come fast is caught up with. One on whose record a step fails ends it.
        """
        if not self._busy:
            return None
        await self._load_books()
        work = await self._hand.around_failures(self._serve_slice)
        return self._batch(work, (), (), now=now, is_slice=True)

    async def _serve_slice(self) -> Workspace:
        work = self._workspace(budget=SLICE + self._put_to_wait)
        await self._go_on(work)
        return work

    async def _go_on(self, work: Workspace) -> None:
        """Serve the oldest work in hand, as far as the workspace's budget allows."""
        oldest = nsmallest(work.left, ((since, key) for key, since in self._busy.items()))
        refs = [SubjectRef(key) for _, key in oldest]
        if self._hand.failing in refs:  # who made the slice begin again ends it
            del refs[refs.index(self._hand.failing) + 1 :]
        await self._hand.drive(self._fold.serve(work, refs))

    async def retake(self, refs: Sequence[bytes], *, now: datetime) -> Batch | None:
        """Return what taking these parked subjects up again changes; `serve` then goes on with them."""
        work = self._workspace()
        for ref in refs:
            self._fold.retake(work, SubjectRef(ref))
        return self._batch(work, (), (), now=now) if len(work) else None

    async def redrive(self, offset: int, *, now: datetime) -> Batch | None:
        """Return what taking up the subject that is parked at an offset changes; None: there is none."""
        held = self._cache.scan(HELD, b"")
        refs = [key for key, one in held if isinstance(one, Parked) and one.offset == offset]
        return await self.retake(refs, now=now)

    async def _load_books(self) -> None:
        """Load the rule book in force, once after a take-over."""
        if self._has_books:
            return
        meta = self._cache.load(META, b"")
        if meta is not None and meta.registry_digest is not None:
            await self._books.load(meta.registry_digest)
        self._has_books = True

    async def _fold_all(self, rows: Sequence[Row], notable: list[Record]) -> Workspace:
        """Fold rows into one workspace, serving what must be read again on the way.

        Then comes a slice of the work that was in hand before, in the same transaction, which costs
        others less than one of its own. Rows are folded in parts: decoded records while the
        processor's caches still hold them. `notable` is filled with ticks, foreign tombstones and
        what could not be read.
        """
        work = self._workspace(budget=REREADS_PER_CYCLE)
        notable.clear()
        self._reached = 0
        unknown = self._unknown
        for start in range(0, len(rows), FOLD_SLICE):
            await asyncio.sleep(
                0
            )  # where many fail, a fold begins again as often: the group must hear from us
            records = self._codec.decode(rows[start : start + FOLD_SLICE])
            kinds = set(map(type, map(_BODY, records)))
            if not kinds.isdisjoint(_NOTABLE):
                unknown = refuse_foreign_keystore(records, unknown, partition=self._partition)
                notable += [record for record in records if _is_notable(record)]
                await self._load_adopted(records)
            else:
                unknown = 0
            self._preload(records)
            await self._fold_slice(work, records, is_readable=Undecodable not in kinds)
        self._unknown_next = unknown
        if self._busy:
            work.left = min(work.left, SLICE + self._put_to_wait)
            await self._go_on(work)
        return work

    async def _fold_slice(self, work: Workspace, records: Sequence[Record], *, is_readable: bool) -> None:
        apply, take = self._fold.apply, self._hand.take
        for record in records:
            self._reached += 1
            if not is_readable and isinstance(record.body, Undecodable) and is_nobodys(record):
                continue
            serving = apply(work, take(record))
            if serving is not None:
                await self._hand.drive(serving)

    async def _load_adopted(self, records: Sequence[Record]) -> None:
        """Load the rule books that these records adopt."""
        for record in records:
            if isinstance(record.body, RulesAdopted):
                await self._books.load(record.body.digest)

    # Processors that come and go ------------------------------------------------------------

    def enrol(self, *, now: datetime, claims: Mapping[str, Claim] | None = None) -> Batch | None:
        """Return what brings the roster to the declaration, or None when it is that already.

        Raises:
            BuildRefused: a processor changed, or moved away; nothing may be folded.
        """
        work = self._workspace()
        self.roll.enrol(work, self.position.offset, claims=claims or {})
        return self._batch(work, (), (), now=now) if len(work) else None

    def check_roll(self) -> None:
        """Raise `BuildRefused` where `enrol` would; nothing changes."""
        self.roll.enrol(Workspace(self._cache), self.position.offset, claims={})

    async def bring_up(self, *, now: datetime) -> Batch:
        """Return one bounded slice for the processors that are brought up, or that leave."""
        await self._load_books()
        work = await self._hand.around_failures(self._join_slice)
        return self._batch(work, (), (), now=now)

    async def _join_slice(self) -> Workspace:
        work = self._workspace()
        joining = self._fold.bring_up(work, position=self.position.offset, ends_at=self._hand.failing)
        await self._hand.drive(joining)
        return work

    # The batch ----------------------------------------------------------------------------

    def _workspace(self, *, budget: int = 0) -> Workspace:
        """Return a workspace in which the shreds that were carried out are off the list."""
        self._started = time.perf_counter()
        work = Workspace(self._cache, budget=budget)
        for key in self._pending_shreds:
            work.delete(SHREDS, key)
        return work

    def _preload(self, records: Sequence[Record]) -> None:
        """Read the states that the batch will surely touch, in one query a table."""
        refs = sorted({record.ref for record in records if record.ref != NOBODY})
        rows = sorted({record.ref + record.tag for record in records if record.tag})
        self._cache.fetch(HELD, refs)
        self._cache.fetch(PERMISSIONS, refs)
        self._cache.fetch(GENERATIONS, refs)
        self._cache.pass_by(INDEX, rows)
        for processor in self._declaration.processors:
            self._cache.fetch(processor.table, refs)

    def _batch(
        self,
        work: Workspace,
        notable: Sequence[Record],
        rows: Sequence[Row],
        *,
        now: datetime,
        is_slice: bool = False,
    ) -> Batch:
        """Seal the changes and put position, outputs and pointers beside them."""
        changes = work.changes()
        floor = self.roll.seats.floor
        sealed = self._states.seal(
            changes, generation=lambda ref: max(work.get(GENERATIONS, ref) or 0, floor), now=now
        )
        reasons = self._reasons(work, notable)
        ticks = [record for record in notable if isinstance(record.body, Tick)]
        position = self._advance(work, ticks, rows, is_slice=is_slice)
        encoded = msgspec.msgpack.encode(position)
        writes: list[tuple[str, NewRecord]] = []
        store: list[tuple[bytes, bytes | None]] = []
        partition = self._partition
        for one, values in zip(changes, sealed, strict=True):
            table, code = one.table, one.table.code
            topic = self._states.topic(table)
            rows_of = [(code + key, value) for key, value in zip(one.values, values, strict=True)]
            store += rows_of
            # A private changelog has the store's own keys; those of a view lack the table's code.
            has_code = self._states.changelog_key(table, b"") == code
            pairs = rows_of if has_code else zip(one.values, values, strict=True)
            writes += [(topic, NewRecord(partition, key, value)) for key, value in pairs]
        own = state_topic(self._declaration.name)
        writes.append((own, NewRecord(self._partition, POSITION_KEY, encoded)))
        store.append((POSITION_KEY, encoded))
        if work.emits or reasons:
            writes.extend(self._outlet.outputs(work.emits, reasons, partition=partition, now=now))
        if ticks:
            writes.extend(self._heartbeats(own))
        return Batch(
            writes=tuple(writes),
            store=tuple(store),
            changes=changes,
            sealed=tuple(sealed),
            work=self._work(changes, notable),
            position=position,
            records=len(rows),
            parked=len(reasons),
            reasons=tuple(sorted(set(reasons.values()))),
            is_tick=bool(ticks),
            received_at=max(filter(None, map(received_at, rows[-LOOK_BACK:])), default=None),
            fold_s=time.perf_counter() - self._started,
        )

    def _advance(
        self, work: Workspace, ticks: Sequence[Record], rows: Sequence[Row], *, is_slice: bool
    ) -> PassPosition:
        """Return the position after these rows: offsets and keys of the last one and the last Tick."""
        position = self.position
        changed = work.changed(HELD)
        if is_slice or changed:
            busy = _with(self._busy, changed)
            position = msgspec.structs.replace(
                position, busy_since=min(busy.values(), default=None), slices=position.slices + is_slice
            )
        if ticks:
            tick = ticks[-1]
            key = record_key(tick.ref, tick.record_id)
            position = msgspec.structs.replace(position, tick_offset=tick.offset, tick_key=key)
        if rows:
            position = msgspec.structs.replace(position, offset=rows[-1].offset, key=rows[-1].key)
        return position

    def _reasons(self, work: Workspace, notable: Sequence[Record]) -> dict[int, str]:
        """Return why each record cannot be read, or why a subject now waits behind it, by offset."""
        reasons = {one.offset: one.body.reason for one in notable if isinstance(one.body, Undecodable)}
        for ref, held in work.changed(HELD).items():
            if isinstance(held, Parked) and not _was_parked_there(self._cache.load(HELD, ref), held):
                reasons.setdefault(held.offset, held.reason)
        return reasons

    def _heartbeats(self, own: str) -> list[tuple[str, NewRecord]]:
        """Return a heartbeat for each of the pass's compacted topics in this partition."""
        tables = (self._states.topic(table) for table in self._declaration.tables)
        topics = {own, *tables, *self._declaration.outputs}
        beat = NewRecord(self._partition, HEARTBEAT_KEY, b"\0")
        return [(topic, beat) for topic in sorted(topics)]

    def _work(self, changes: Sequence[Changes], notable: Sequence[Record]) -> Work:
        """Return the tombstones and shreds that these changes decided, in decision order."""
        by_table = {one.table.name: one.values for one in changes}
        decided = [value for value in by_table.get(WORK.name, {}).values() if value is not None]
        shreds = [pair for pair in by_table.get(SHREDS.name, {}).items() if pair[1] is not None]
        return Work(
            tombstones=self._tombstones(decided),
            shreds=tuple(shreds),
            causes=Counter(one.cause for one in decided),
            foreign=tuple(record for record in notable if isinstance(record.body, Removed)),
        )

    def _tombstones(self, decided: Iterable[Tombstone]) -> tuple[NewRecord, ...]:
        """Return the records that free what was decided, in decision order."""
        return self._outlet.tombstones(sorted(decided, key=lambda one: one.sequence))

    # After the commit -----------------------------------------------------------------------

    def settle(self, batch: Batch, marks: Sequence[tuple[bytes, bytes | None]] = ()) -> None:
        """Bring store, cache and position up to the committed batch; `marks` go into the same write."""
        if batch.position.offset < self.position.offset:
            raise InvariantViolation("a committed batch lies behind the position")
        self._cache.commit((*batch.store, *marks), batch.changes, batch.sealed)
        if batch.position.slices > self.position.slices:
            self._put_to_wait = 0
        self.position = batch.position
        self._unknown = self._unknown_next
        self.roll.follow(batch.changes, batch.position.offset)
        self._pending_shreds = []
        by_table = {one.table.name: one.values for one in batch.changes}
        self._busy = _with(self._busy, by_table.get(HELD.name, {}))
        waiting = by_table.get(WAITING.name, {})
        self._put_to_wait += sum(
            moment is not None and key[:REF_BYTES] in self._busy for key, moment in waiting.items()
        )

    def shredded(self, work: Work) -> None:
        """Note that these shreds are done; the next cycle takes them off the list."""
        self._pending_shreds = [key for key, _ in work.shreds]

    def outstanding(self) -> Work:
        """Return all work that was decided and not seen done, for a new owner to do again."""
        return Work(
            tombstones=self._tombstones(value for _, value in self._cache.scan(WORK, b"")),
            shreds=tuple(self._cache.scan(SHREDS, b"")),
        )

    def parked(self) -> tuple[bytes, ...]:
        """Return the references of parked subjects, sorted."""
        return tuple(key for key, held in self._cache.scan(HELD, b"") if isinstance(held, Parked))

    def count(self, table: Table[T], *, limit: int) -> int:
        """Return how many committed rows a table has, counted up to `limit`."""
        return self._cache.count(table, limit=limit)

    def load(self, table: Table[T], key: bytes) -> T | None:
        """Return a committed value (commands and tests look through this)."""
        return self._cache.load(table, key)


def _with(busy: dict[bytes, int], changed: Mapping[bytes, Held | None]) -> dict[bytes, int]:
    """Return the subjects with work in hand, and since when, after changes."""
    if not changed:
        return busy
    kept = {key: since for key, since in busy.items() if key not in changed}
    return kept | {key: held.since for key, held in changed.items() if isinstance(held, Busy)}


def _was_parked_there(before: Held | None, parked: Parked) -> bool:
    """Return whether a subject was parked at this record already, or was taken up from there."""
    if isinstance(before, Parked):
        return before.offset == parked.offset
    return before is not None and before.tries > 0 and before.since == parked.offset


def _is_notable(record: Record) -> bool:
    body = record.body
    return isinstance(body, Tick | Undecodable) or (isinstance(body, Removed) and not body.is_ours)
