"""One cycle of a pass over one partition: rows in, one atomic set of writes out.

The caller commits `Batch.writes` in one transaction and only then calls `settle`, which brings
the local store up to date: a crash leaves at worst a store that is behind its changelog.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from heapq import nsmallest
from operator import attrgetter
from typing import Final, Protocol, TypeVar

import msgspec
from msgspec import Struct

from privacy_ledger.domain.errors import InvariantViolation, LedgerError, UnknownKey
from privacy_ledger.domain.events import RulesAdopted, Tick
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import DLQ, state_topic
from privacy_ledger.domain.values import NOBODY, REF_BYTES, SubjectRef, record_key
from privacy_ledger.engine.cache import StateCache
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.ports.codec import HEARTBEAT_KEY, Codec, StateCodec
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.ports.runtime import Ids, StateStore
from privacy_ledger.streams.fold import PassFold, RulesNotLoaded
from privacy_ledger.streams.held import HELD, WAITING, Busy, Held, Parked
from privacy_ledger.streams.protocol import Serving
from privacy_ledger.streams.record import Broken, Record, Removed, Undecodable
from privacy_ledger.streams.states import (
    GENERATIONS,
    INDEX,
    META,
    PERMISSIONS,
    SHREDS,
    WORK,
    Changes,
    Shred,
    Table,
    Tombstone,
    Workspace,
)

__all__ = ["POSITION_KEY", "Batch", "Books", "ControlUnreadable", "PartitionCycle", "Work"]

T = TypeVar("T")
POSITION_KEY: Final = b"\0pos"
UNKNOWN_IN_A_ROW_MAX: Final = 20
REREADS_PER_CYCLE: Final = 2000
"""So many records a cycle reads again on the way; work that takes more is left for slices."""
SLICE: Final = 500
"""So many records a slice of that work reads again, and as many as were put to wait meanwhile."""
_RULES: Final = "rules.adopted.v1"
_BODY: Final = attrgetter("body")
_NOTABLE: Final = frozenset({Tick, RulesAdopted, Undecodable, Removed})
FOLD_SLICE: Final = 500


class ControlUnreadable(LedgerError):
    """A control record for all cannot be read: the partition stops until it can."""


class Books(Protocol):
    """The registry's rule books by digest."""

    @property
    def known(self) -> Mapping[str, Rules]:
        """The books loaded so far."""
        ...

    async def load(self, digest: str) -> None:
        """Load a registry document by its content hash; raises `LogUnavailable` when absent."""
        ...


class Work(Struct, frozen=True, kw_only=True):
    """What the shell does once a batch is committed, outside its transaction."""

    tombstones: tuple[NewRecord, ...]
    shreds: tuple[tuple[bytes, Shred], ...]


class Batch(Struct, frozen=True, kw_only=True):
    """The writes of one cycle: commit them together, then `settle`.

    `foreign` are tombstones that nobody of ours wrote: they change nothing, and are alarmed.
    """

    writes: tuple[tuple[str, NewRecord], ...]
    store: tuple[tuple[bytes, bytes | None], ...]
    changes: tuple[Changes, ...]
    sealed: tuple[list[bytes | None], ...]
    work: Work
    position: PassPosition
    records: int
    parked: int
    is_tick: bool
    foreign: tuple[Record, ...] = ()


ReadAt = Callable[[Sequence[int]], Awaitable[Sequence[Row]]]


class PartitionCycle:
    """The cycle of one pass and partition; single-owner, not thread-safe."""

    def __init__(  # noqa: PLR0913 - every collaborator is named once, here
        self,
        declaration: PassDeclaration,
        partition: int,
        *,
        store: StateStore,
        codec: Codec,
        states: StateCodec,
        books: Books,
        initial: Rules,
        sampling_key: bytes,
        ids: Ids,
        read_at: ReadAt,
    ) -> None:
        """Take the collaborators; `position` is read from the store."""
        self._declaration = declaration
        self._partition = partition
        self._codec = codec
        self._states = states
        self._books = books
        self._ids = ids
        self._read_at = read_at
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
        self._pending_shreds: list[bytes] = []
        self._has_books = False
        self._hand: Record | None = None
        self._taken = 0
        self._failed: set[tuple[int, int]] = set()
        self._failing = NOBODY
        held = self._cache.scan(HELD, b"")
        self._busy = {key: value.since for key, value in held if isinstance(value, Busy)}
        self._put_to_wait = 0

    # One cycle ----------------------------------------------------------------------------

    async def run(self, rows: Sequence[Row], *, now: datetime) -> Batch:
        """Return what these rows, in offset order, change; nothing is written here.

        A record on which a step fails alone parks its subject; the others go on.

        Raises:
            KeyUnavailable: keys cannot be reached; the position is kept.
            UnknownKey: many records in a row name keys that this keystore never held.
            ControlUnreadable: a control record for all cannot be read.
        """
        await self._load_books()
        last = self.position.offset
        fresh = rows if rows and rows[0].offset > last else [row for row in rows if row.offset > last]
        notable: list[Record] = []
        work = await self._around_failures(lambda: self._fold_all(fresh, notable))
        return self._batch(work, notable, fresh, now=now)

    @property
    def is_busy(self) -> bool:
        """Whether some subject has work in hand, for `serve`."""
        return bool(self._busy)

    async def serve(self, *, now: datetime) -> Batch | None:
        """Return what the next slice of the work in hand changes, oldest first; None: there is none.

        A slice grows with what was put to wait since the last one, so that a subject to whom
        records come fast is caught up with. One on whose record a step fails ends it.
        """
        if not self._busy:
            return None
        await self._load_books()
        work = await self._around_failures(self._serve_slice)
        return self._batch(work, (), (), now=now, is_slice=True)

    async def _serve_slice(self) -> Workspace:
        budget = SLICE + self._put_to_wait
        work = self._workspace(budget=budget)
        oldest = nsmallest(budget, ((since, key) for key, since in self._busy.items()))
        refs = [SubjectRef(key) for _, key in oldest]
        if self._failing in refs:  # who made the slice begin again ends it
            del refs[refs.index(self._failing) + 1 :]
        await self._drive(self._fold.serve(work, refs))
        return work

    async def retake(self, refs: Sequence[bytes], *, now: datetime) -> Batch | None:
        """Return what taking these parked subjects up again changes; `serve` then goes on with them."""
        work = self._workspace()
        for ref in refs:
            self._fold.retake(work, SubjectRef(ref))
        return self._batch(work, (), (), now=now) if len(work) else None

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

        Slice by slice: decoded records are folded while the processor's caches still hold them.
        `notable` is filled with ticks, foreign tombstones and what could not be read.
        """
        work = self._workspace(budget=REREADS_PER_CYCLE)
        notable.clear()
        unknown = 0
        for start in range(0, len(rows), FOLD_SLICE):
            records = self._codec.decode(rows[start : start + FOLD_SLICE])
            kinds = set(map(type, map(_BODY, records)))
            if not kinds.isdisjoint(_NOTABLE):
                unknown = self._refuse_foreign_keystore(records, unknown)
                notable += [record for record in records if _is_notable(record)]
                await self._load_adopted(records)
            else:
                unknown = 0
            self._preload(records)
            await self._fold_slice(work, records, is_readable=Undecodable not in kinds)
        return work

    async def _fold_slice(self, work: Workspace, records: Sequence[Record], *, is_readable: bool) -> None:
        apply, take = self._fold.apply, self._take
        for record in records:
            if not is_readable and isinstance(record.body, Undecodable) and self._is_nobodys(record):
                continue
            serving = apply(work, take(record))
            if serving is not None:
                await self._drive(serving)

    async def _load_adopted(self, records: Sequence[Record]) -> None:
        """Load the rule books that these records adopt; one that cannot be read stops the partition."""
        for record in records:
            if record.type == _RULES:
                await self._books.load(str(getattr(record.body, "digest", "")))

    async def _drive(self, serving: Serving[None]) -> None:
        """Read again what the fold asks for, until it ends."""
        try:
            offsets = next(serving)
            while True:
                self._hand = None
                rows = await self._read_at(offsets) if offsets else ()
                offsets = serving.send(map(self._take, self._codec.decode(rows)))
        except StopIteration:
            return

    # Steps that fail ------------------------------------------------------------------------

    async def _around_failures(self, fold: Callable[[], Awaitable[Workspace]]) -> Workspace:
        """Return what `fold` does; a record on which a step fails parks its subject.

        Such a record, of the batch or read again, is not folded where it failed, and `fold` starts
        again from the committed states: nothing of its subject moves, and the others never notice.
        """
        self._failed.clear()
        self._failing = NOBODY
        while True:
            self._taken, self._hand = 0, None
            try:
                return await fold()
            except RulesNotLoaded as missing:
                await self._books.load(missing.digest)
            except LedgerError:
                raise
            except Exception:  # a step's bug, if a subject's record was in hand
                hand = self._hand
                if hand is None or hand.ref == NOBODY or (self._taken, hand.offset) in self._failed:
                    raise
                self._failed.add((self._taken, hand.offset))
                self._failing = hand.ref

    def _workspace(self, *, budget: int = 0) -> Workspace:
        """Return a workspace in which the shreds that were carried out are off the list."""
        work = Workspace(self._cache, budget=budget)
        for key in self._pending_shreds:
            work.delete(SHREDS, key)
        return work

    def _take(self, record: Record) -> Record:
        """Take the next record in hand; where a step failed on it before, it is not folded.

        What is taken is counted: a record may be folded several times, and fail once.
        """
        self._taken += 1
        self._hand = record
        if self._failed and (self._taken, record.offset) in self._failed:
            return msgspec.structs.replace(record, body=Broken())
        return record

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

    # Guards -------------------------------------------------------------------------------

    def _is_nobodys(self, record: Record) -> bool:
        """Return whether an unreadable record belongs to no subject of this partition.

        Raises:
            ControlUnreadable: it is a control record for all.
        """
        body = record.body
        reason = body.reason if isinstance(body, Undecodable) else ""
        if record.ref == NOBODY:
            raise ControlUnreadable(
                f"partition {self._partition} offset {record.offset}: a control record cannot be "
                f"read ({reason}). Check the keystore and the build, then start the worker again."
            )
        return reason in ("key_length", "wrong_partition")

    def _refuse_foreign_keystore(self, records: Sequence[Record], run: int) -> int:
        """Stop when a run of records all name keys that this keystore never held.

        `run` and the returned figure: how many of them in a row stood at the end of a slice.
        """
        for record in records:
            unknown = isinstance(record.body, Undecodable) and record.body.reason == "unknown_key"
            run = run + 1 if unknown else 0
            if run > UNKNOWN_IN_A_ROW_MAX:
                raise UnknownKey(
                    f"partition {self._partition}: more than {UNKNOWN_IN_A_ROW_MAX} records in a "
                    "row name keys that this keystore never held. Check PRIVACY_LEDGER_KEYSTORE."
                )
        return run

    # The batch ----------------------------------------------------------------------------

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
        sealed = self._states.seal(changes, generation=lambda ref: work.get(GENERATIONS, ref) or 0, now=now)
        pointers = self._pointers(work, notable)
        ticks = [record for record in notable if isinstance(record.body, Tick)]
        position = self._advance(work, ticks, rows, is_slice=is_slice)
        encoded = msgspec.msgpack.encode(position)
        writes: list[tuple[str, NewRecord]] = []
        store: list[tuple[bytes, bytes | None]] = []
        partition = self._partition
        for one, values in zip(changes, sealed, strict=True):
            table, code = one.table, one.table.code
            topic, prefix = self._states.topic(table), self._states.changelog_key(table, b"")
            pairs = tuple(zip(one.values, values, strict=True))
            writes.extend([(topic, NewRecord(partition, prefix + key, value)) for key, value in pairs])
            store.extend([(code + key, value) for key, value in pairs])
        own = state_topic(self._declaration.name)
        writes.append((own, NewRecord(self._partition, POSITION_KEY, encoded)))
        store.append((POSITION_KEY, encoded))
        writes.extend((emit.topic, self._states.partial(emit, now=now)) for emit in work.emits)
        writes.extend((DLQ, pointer) for pointer in pointers)
        if ticks:
            writes.extend(self._heartbeats(own))
        return Batch(
            writes=tuple(writes),
            store=tuple(store),
            changes=changes,
            sealed=tuple(sealed),
            work=self._work(changes),
            position=position,
            records=len(rows),
            parked=len(pointers),
            is_tick=bool(ticks),
            foreign=tuple(record for record in notable if isinstance(record.body, Removed)),
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

    def _pointers(self, work: Workspace, notable: Sequence[Record]) -> list[NewRecord]:
        """Return a pointer to each record that cannot be read, or that a subject now waits behind."""
        reasons = {one.offset: one.body.reason for one in notable if isinstance(one.body, Undecodable)}
        for ref, held in work.changed(HELD).items():
            if isinstance(held, Parked) and not _was_parked_there(self._cache.load(HELD, ref), held):
                reasons.setdefault(held.offset, held.reason)
        return [self._pointer(offset, reason) for offset, reason in reasons.items()]

    def _pointer(self, offset: int, reason: str) -> NewRecord:
        """Return a pointer to a record of the ledger: where, and a reason code."""
        pointer = {
            "pass": self._declaration.name,
            "partition": self._partition,
            "offset": offset,
            "reason": reason,
        }
        return NewRecord(self._partition, self._ids.token(), msgspec.json.encode(pointer))

    def _heartbeats(self, own: str) -> list[tuple[str, NewRecord]]:
        """Return a heartbeat for each of the pass's compacted topics in this partition."""
        topics = {own, *(self._states.topic(table) for table in self._declaration.tables)}
        beat = NewRecord(self._partition, HEARTBEAT_KEY, b"\0")
        return [(topic, beat) for topic in sorted(topics)]

    def _work(self, changes: Sequence[Changes]) -> Work:
        """Return the tombstones and shreds that these changes decided, in decision order."""
        by_table = {one.table.name: one.values for one in changes}
        decided = [value for value in by_table.get(WORK.name, {}).values() if value is not None]
        shreds = [pair for pair in by_table.get(SHREDS.name, {}).items() if pair[1] is not None]
        return Work(tombstones=self._tombstones(decided), shreds=tuple(shreds))

    def _tombstones(self, decided: Iterable[Tombstone]) -> tuple[NewRecord, ...]:
        """Return the records that free what was decided, in decision order."""
        return tuple(
            self._codec.tombstone(one.key[:16], one.key[16:], cause=one.cause, request=one.request)
            for one in sorted(decided, key=lambda one: one.sequence)
        )

    # After the commit -----------------------------------------------------------------------

    def settle(self, batch: Batch, marks: Sequence[tuple[bytes, bytes | None]] = ()) -> None:
        """Bring store, cache and position up to the committed batch; `marks` go into the same write."""
        if batch.position.offset < self.position.offset:
            raise InvariantViolation("a committed batch lies behind the position")
        self._cache.commit((*batch.store, *marks), batch.changes, batch.sealed)
        if batch.position.slices > self.position.slices:
            self._put_to_wait = 0
        self.position = batch.position
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
