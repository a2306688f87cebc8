"""One cycle of a pass over one partition: rows in, one atomic set of writes out.

The caller commits `Batch.writes` in one transaction and only then calls `settle`, which brings
the local store up to date: a crash leaves at worst a store that is behind its changelog.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol, TypeVar

import msgspec
from msgspec import Struct

from privacy_ledger.domain.errors import InvariantViolation, LedgerError, UnknownKey
from privacy_ledger.domain.events import RulesAdopted, Tick
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import DLQ, state_topic
from privacy_ledger.domain.values import NOBODY, SubjectRef
from privacy_ledger.engine.cache import StateCache
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.ports.codec import HEARTBEAT_KEY, Codec, StateCodec
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.ports.runtime import Ids, StateStore
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.protocol import Emit, Reread
from privacy_ledger.streams.record import Record, Undecodable
from privacy_ledger.streams.states import (
    GENERATIONS,
    INDEX,
    META,
    PARKED,
    PERMISSIONS,
    SHREDS,
    WAITING,
    WORK,
    Change,
    Shred,
    Table,
    Tombstone,
    Workspace,
)

__all__ = ["POSITION_KEY", "Batch", "Books", "ControlUnreadable", "PartitionCycle", "Work"]

T = TypeVar("T")
POSITION_KEY: Final = b"\0pos"
UNKNOWN_IN_A_ROW_MAX: Final = 20
REREAD_SLICE: Final = 500
_RULES: Final = "rules.adopted.v1"


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
    """The writes of one cycle: commit them together, then `settle`."""

    writes: tuple[tuple[str, NewRecord], ...]
    store: tuple[tuple[bytes, bytes | None], ...]
    changes: tuple[Change, ...]
    work: Work
    position: PassPosition
    records: int
    parked: int
    is_tick: bool


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
        self._at = 0

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
        fresh = [row for row in rows if row.offset > self.position.offset]
        records = self._codec.decode(fresh)
        kinds = _kinds(records)
        if Undecodable in kinds:
            self._refuse_foreign_keystore(records)
        if RulesAdopted in kinds or Undecodable in kinds:
            for record in records:
                if record.type == _RULES:
                    await self._books.load(str(getattr(record.body, "digest", "")))
        records, work, emits = await self._fold_around(records)
        return self._batch(work, emits, records, fresh, now=now)

    async def _load_books(self) -> None:
        """Load every rule book that the committed states name, once after a take-over."""
        if self._has_books:
            return
        meta = self._cache.load(META, b"")
        digests = {None if meta is None else meta.registry_digest}
        digests.update(parked.moment.registry_digest for _, parked in self._cache.scan(PARKED, b""))
        digests.update(waits.moment.registry_digest for _, waits in self._cache.scan(WAITING, b""))
        for digest in digests:
            if digest is not None:
                await self._books.load(digest)
        self._has_books = True

    async def _fold_all(self, records: Sequence[Record]) -> tuple[Workspace, list[Emit]]:
        """Fold records into one workspace, serving what must be read again on the way."""
        work = Workspace(self._cache)
        self._preload(work, records)
        for key in self._pending_shreds:
            work.delete(SHREDS, key)
        emits: list[Emit] = []
        for number, record in enumerate(records):
            self._at = number
            if isinstance(record.body, Undecodable) and self._is_nobodys(record):
                continue
            demands, out = self._fold.apply(work, record)
            if demands or out:
                await self._follow(work, emits, demands, out)
        return work, emits

    async def _follow(
        self, work: Workspace, emits: list[Emit], demands: Sequence[Reread], out: Sequence[Emit]
    ) -> None:
        """Serve what a fold demands before the next record is folded."""
        emits.extend(out)
        for demand in demands:
            await self._serve(work, demand, emits)

    async def _serve(self, work: Workspace, demand: Reread, emits: list[Emit]) -> None:
        """Read a subject's records again, in bounded slices, and fold or apply them."""
        for start in range(0, len(demand.offsets), REREAD_SLICE):
            rows = await self._read_at(demand.offsets[start : start + REREAD_SLICE])
            for record in self._codec.decode(rows):
                if demand.is_refold:
                    self._fold.refold(work, record)
                else:
                    await self._follow(work, emits, *self._fold.again(work, demand, record))
        self._fold.finish(work, demand)

    async def retry_parked(self, refs: Sequence[bytes], *, now: datetime) -> Batch | None:
        """Return what taking parked subjects up again changes, or None when nothing moves."""
        await self._load_books()
        work = Workspace(self._cache)
        emits: list[Emit] = []
        for ref in refs:
            for demand in self._fold.retry(work, SubjectRef(ref), partition=self._partition):
                await self._serve(work, demand, emits)
        return self._batch(work, emits, (), (), now=now) if len(work) else None

    async def _fold_around(self, records: list[Record]) -> tuple[list[Record], Workspace, list[Emit]]:
        """Fold records; one on which a step fails is made undecodable, and parks its subject."""
        while True:
            try:
                work, emits = await self._fold_all(records)
            except LedgerError:
                raise
            except Exception:  # a step's bug: the record in hand is the one
                failing = records[self._at]
                if failing.ref == NOBODY or isinstance(failing.body, Undecodable):
                    raise
                parked = msgspec.structs.replace(failing, body=Undecodable("step"))
                records = [*records[: self._at], parked, *records[self._at + 1 :]]
            else:
                return records, work, emits

    def _preload(self, work: Workspace, records: Sequence[Record]) -> None:
        """Read the states that the batch will surely touch, in one query a table.

        A tag is hardly ever asked for again: its row goes to this cycle's workspace only.
        """
        refs = sorted({record.ref for record in records if record.ref != NOBODY})
        rows = sorted({record.ref + record.tag for record in records if record.tag})
        self._cache.fetch(PARKED, refs)
        self._cache.fetch(PERMISSIONS, refs)
        self._cache.fetch(GENERATIONS, refs)
        found = self._cache.read(INDEX, rows)
        work.preload(INDEX, found)
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

    def _refuse_foreign_keystore(self, records: Sequence[Record]) -> None:
        """Stop when a run of records all name keys that this keystore never held."""
        run = 0
        for record in records:
            unknown = isinstance(record.body, Undecodable) and record.body.reason == "unknown_key"
            run = run + 1 if unknown else 0
            if run > UNKNOWN_IN_A_ROW_MAX:
                raise UnknownKey(
                    f"partition {self._partition}: more than {UNKNOWN_IN_A_ROW_MAX} records in a "
                    "row name keys that this keystore never held. Check PRIVACY_LEDGER_KEYSTORE."
                )

    # The batch ----------------------------------------------------------------------------

    def _batch(
        self,
        work: Workspace,
        emits: Sequence[Emit],
        records: Sequence[Record],
        rows: Sequence[Row],
        *,
        now: datetime,
    ) -> Batch:
        """Seal the changes and put position, outputs and pointers beside them."""
        changes = tuple(work.changes())
        sealed = self._states.seal(changes, generation=lambda ref: work.get(GENERATIONS, ref) or 0, now=now)
        position = self._advance(records, rows)
        encoded = msgspec.msgpack.encode(position)
        writes: list[tuple[str, NewRecord]] = []
        store: list[tuple[bytes, bytes | None]] = []
        partition = self._partition
        name = topic = ""
        code = prefix = b""
        for change, value in zip(changes, sealed, strict=True):
            table, key = change.table, change.key
            if table.name != name:  # changes come table by table
                name, code = table.name, table.code
                topic, prefix = self._states.topic(table), self._states.changelog_key(table, b"")
            writes.append((topic, NewRecord(partition, prefix + key, value)))
            store.append((code + key, value))
        own = state_topic(self._declaration.name)
        writes.append((own, NewRecord(self._partition, POSITION_KEY, encoded)))
        store.append((POSITION_KEY, encoded))
        writes.extend((emit.topic, self._states.partial(emit, now=now)) for emit in emits)
        kinds = _kinds(records)
        parked = []
        if Undecodable in kinds:
            parked = [record for record in records if isinstance(record.body, Undecodable)]
            writes.extend((DLQ, self._pointer(record)) for record in parked)
        is_tick = Tick in kinds
        if is_tick:
            writes.extend(self._heartbeats(own))
        return Batch(
            writes=tuple(writes),
            store=tuple(store),
            changes=changes,
            work=self._work(changes),
            position=position,
            records=len(records),
            parked=len(parked),
            is_tick=is_tick,
        )

    def _advance(self, records: Sequence[Record], rows: Sequence[Row]) -> PassPosition:
        """Return the position after these records: offsets and keys of the last and last Tick."""
        position = self.position
        for record, row in zip(records, rows, strict=True) if Tick in _kinds(records) else ():
            if isinstance(record.body, Tick):
                position = msgspec.structs.replace(position, tick_offset=row.offset, tick_key=row.key)
        if rows:
            position = msgspec.structs.replace(position, offset=rows[-1].offset, key=rows[-1].key)
        return position

    def _pointer(self, record: Record) -> NewRecord:
        """Return a pointer to a record that could not be read: where, and a reason code."""
        body = record.body
        pointer = {
            "pass": self._declaration.name,
            "partition": record.partition,
            "offset": record.offset,
            "reason": body.reason if isinstance(body, Undecodable) else "",
        }
        return NewRecord(self._partition, self._ids.token(), msgspec.json.encode(pointer))

    def _heartbeats(self, own: str) -> list[tuple[str, NewRecord]]:
        """Return a heartbeat for each of the pass's compacted topics in this partition."""
        topics = {own, *(self._states.topic(table) for table in self._declaration.tables)}
        beat = NewRecord(self._partition, HEARTBEAT_KEY, b"\0")
        return [(topic, beat) for topic in sorted(topics)]

    def _work(self, changes: Sequence[Change]) -> Work:
        """Return the tombstones and shreds that these changes decided, in decision order."""
        decided: list[tuple[bytes, Tombstone]] = []
        shreds: list[tuple[bytes, Shred]] = []
        for change in changes:
            value = change.value
            if isinstance(value, Tombstone):
                decided.append((value.key, value))
            elif isinstance(value, Shred):
                shreds.append((change.key, value))
        decided.sort(key=lambda pair: pair[1].sequence)
        return Work(
            tombstones=tuple(self._tombstone(key, value) for key, value in decided),
            shreds=tuple(shreds),
        )

    def _tombstone(self, key: bytes, value: Tombstone) -> NewRecord:
        return self._codec.tombstone(key[:16], key[16:], cause=value.cause, request=value.request)

    # After the commit -----------------------------------------------------------------------

    def settle(self, batch: Batch) -> None:
        """Bring store, cache and position up to the committed batch."""
        if batch.position.offset < self.position.offset:
            raise InvariantViolation("a committed batch lies behind the position")
        self._cache.commit(batch.store, batch.changes)
        self.position = batch.position
        self._pending_shreds = []

    def shredded(self, work: Work) -> None:
        """Note that these shreds are done; the next cycle takes them off the list."""
        self._pending_shreds = [key for key, _ in work.shreds]

    def outstanding(self) -> Work:
        """Return all work that was decided and not seen done, for a new owner to do again."""
        tombstones = sorted(self._cache.scan(WORK, b""), key=lambda pair: pair[1].sequence)
        return Work(
            tombstones=tuple(self._tombstone(value.key, value) for _, value in tombstones),
            shreds=tuple(self._cache.scan(SHREDS, b"")),
        )

    def parked(self) -> tuple[bytes, ...]:
        """Return the references of parked subjects, sorted."""
        return tuple(key for key, _ in self._cache.scan(PARKED, b""))

    def load(self, table: Table[T], key: bytes) -> T | None:
        """Return a committed value (commands and tests look through this)."""
        return self._cache.load(table, key)


def _kinds(records: Sequence[Record]) -> set[type]:
    """Return the classes of the bodies: most batches hold no control record and nothing unreadable."""
    return {type(record.body) for record in records}
