"""Rectification (GDPR Art. 16): a corrected value takes the place of one that was wrong.

Records never change: those that hold the wrong value are superseded, and what else they say is stated
again, each in the place of its original, under its tag and under a key of its own. The passes fold
the person again and destroy the keys of the originals, so that the wrong value is readable nowhere.
Originals, restatements and the new value go into the log in one transaction.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct, structs

from privacy_ledger.app._own import OwnRecords
from privacy_ledger.app._scopes import newest
from privacy_ledger.app._terms import INDEX_GROUP, field_name
from privacy_ledger.domain.errors import BadInput, Fenced, RefusedByPolicy, SchemaMismatch
from privacy_ledger.domain.events import (
    AccountUpdated,
    Fact,
    FieldErasureRequested,
    ProfileFieldSet,
    RecordsSuperseded,
)
from privacy_ledger.domain.holds import held_categories
from privacy_ledger.domain.keyed_hash import KeyedHash
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import (
    Category,
    Grain,
    LawfulBasis,
    SubjectRef,
    partition_of,
    split_key,
)
from privacy_ledger.ports.codec import Codec, Origin
from privacy_ledger.ports.keys import DataKey, KeyVault, KeyWant
from privacy_ledger.ports.log import EventLog, NewRecord, Row, header
from privacy_ledger.ports.passes import Passes, Views
from privacy_ledger.ports.runtime import Clock, Ids
from privacy_ledger.streams.states import PERMISSIONS, IndexRow

__all__ = ["ACCOUNT_MEMBERS", "Corrected", "Correction", "CorrectionPlan", "Rectification"]

ACCOUNT_MEMBERS: Final = ("email", "name", "username")
SUPERSEDED_MAX: Final = 5000
_PAGE: Final = 2000
_ATTEMPTS: Final = 5
_FIXED: Final = frozenset({"type", "occurred_at", "field", "programme"})
"""Members that the headers of a record repeat, or that say when it was."""
RETIRED_S: Final = 2.0
"""So long after its keys were retired another process may still append what it sealed under one."""


class Correction(Struct, frozen=True, kw_only=True):
    """What is corrected: a member of the account, a field of the profile, or a member of one record.

    `value` None clears it. For a record the value is text that its member's type accepts.
    """

    category: Category
    member: str
    value: str | None
    record: bytes | None = None

    def __repr__(self) -> str:
        """Return what is corrected and no value."""
        return f"Correction({self.category}, {'one record' if self.record else 'every record'})"


class CorrectionPlan(Struct, frozen=True, kw_only=True):
    """How many records hold the value, and how many are stated again, with those that share a key."""

    affected: int
    restated: int


class Corrected(Struct, frozen=True, kw_only=True):
    """What was appended: the first request id, {partition: last offset}, and the keys to be destroyed."""

    request: str | None
    restated: int
    offsets: dict[int, int]
    kids: tuple[bytes, ...]
    written: tuple[tuple[SubjectRef, bytes], ...]


class _Found(Struct, frozen=True):
    """A live record of the person, opened."""

    at: IndexRow
    row: Row
    fact: Fact
    kid: bytes

    def __repr__(self) -> str:
        """Return the type only."""
        return "_Found(...)"


class _Change(Struct):
    """What is to be done for one reference."""

    ref: SubjectRef
    found: list[_Found]
    affected: list[_Found]

    def __repr__(self) -> str:
        """Return the type only."""
        return "_Change(...)"


class Rectification:
    """Plans, makes and checks corrections; call it when the views are settled."""

    def __init__(
        self,
        *,
        log: EventLog,
        vault: KeyVault,
        codec: Codec,
        views: Views,
        passes: Passes,
        clock: Clock,
        ids: Ids,
        rules: Rules,
    ) -> None:
        """Take the ports and the rules in force."""
        self._passes = passes
        self._log = log
        self._vault = vault
        self._codec = codec
        self._views = views
        self._clock = clock
        self._ids = ids
        self._rules = rules
        self._own = OwnRecords(log=log, vault=vault, codec=codec, clock=clock, ids=ids, rules=rules)

    async def plan(self, refs: Sequence[SubjectRef], correction: Correction) -> CorrectionPlan:
        """Return what would be stated again; nothing changes.

        Raises:
            BadInput: nothing of the person can be corrected so, or the value does not fit.
        """
        await self._refuse_kept(refs, correction)
        changes = [await self._change(ref, correction) for ref in refs]
        self._check(changes, correction)
        return CorrectionPlan(
            affected=sum(len(change.affected) for change in changes),
            restated=sum(len(change.found) for change in changes),
        )

    async def rectify(self, refs: Sequence[SubjectRef], correction: Correction) -> Corrected:
        """Append the correction for every reference; the new value goes to the eldest.

        Cut short, nothing of a reference is corrected, or all of it: asking again does the rest.

        Raises:
            BadInput: as `plan`.
            RefusedByPolicy: the person was erased meanwhile.
        """
        await self._refuse_kept(refs, correction)
        changes = [await self._change(ref, correction) for ref in refs]
        self._check(changes, correction)
        if self._shares_keys(correction.category):
            for ref in refs:
                self._vault.retire(ref, category=correction.category)
            await asyncio.sleep(RETIRED_S)
            await self._passes.settle()
            changes = [await self._change(ref, correction) for ref in refs]
        done = Corrected(request=None, restated=0, offsets={}, kids=(), written=())
        for number, change in enumerate(changes):
            done = await self._append_anew(change, correction, done, is_eldest=number == 0)
        return done

    async def _append_anew(
        self, change: _Change, correction: Correction, done: Corrected, *, is_eldest: bool
    ) -> Corrected:
        """Append; where somebody else corrects in this partition, look again: it may be the same record."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._append(change, correction, done, is_eldest=is_eldest)
            except Fenced:
                await self._passes.settle()
                change = await self._change(change.ref, correction)
        return await self._append(change, correction, done, is_eldest=is_eldest)

    def open_keys(self, done: Corrected) -> tuple[bytes, ...]:
        """Return the keys of superseded records that open: none, once the passes have folded it."""
        found = self._vault.open_keys(done.kids) if done.kids else {}
        return tuple(kid for kid, key in found.items() if isinstance(key, DataKey))

    async def follow(self, refs: Sequence[SubjectRef], correction: Correction, done: Corrected) -> Corrected:
        """State again what was sealed under a superseded record's key while it was being superseded.

        Such a record keeps the key of the wrong value alive. Call it when the passes have settled.
        """
        left = frozenset(self.open_keys(done))
        for ref in refs if left else ():
            rows = [row for row in await self._views.live(ref) if row.category is correction.category]
            found = [one for one in await self._open(ref, rows) if one.kid in left]
            if found:
                self._vault.retire(ref, category=correction.category)
                done = await self._append(_Change(ref, found, []), correction, done, is_eldest=False)
        return done

    async def lost(self, done: Corrected) -> int:
        """Return how many of the records that were written are not live once the passes have folded them.

        Somebody else corrected, erased or withdrew the same meanwhile.
        """
        live: set[bytes] = set()
        for ref in {ref for ref, _ in done.written}:
            live.update(row.record_id for row in await self._views.live(ref))
        return sum(record_id not in live for _, record_id in done.written)

    # What is concerned ----------------------------------------------------------------------

    def _shares_keys(self, category: Category) -> bool:
        rule = self._rules.category(category)
        return rule is None or rule.grain is not Grain.RECORD

    async def _refuse_kept(self, refs: Sequence[SubjectRef], correction: Correction) -> None:
        """Refuse to change what a hold or a law keeps as it is."""
        kept = self._rules.duty(correction.category) is not None
        for ref in refs:
            permissions = await self._views.get(PERMISSIONS, ref)
            kept = kept or (
                permissions is not None and correction.category in held_categories(permissions.holds)
            )
        if kept and correction.category is not Category.EVIDENCE:
            raise RefusedByPolicy(
                Refusal.KEPT_BY_LAW,
                "A hold or a law keeps these records as they are. `privacy-ledger hold list SUBJECT` names "
                "the holds.",
            )

    def _check(self, changes: Sequence[_Change], correction: Correction) -> None:
        """Refuse a correction of what is not there, or of what is never corrected."""
        if correction.category is Category.EVIDENCE:
            raise BadInput(
                Refusal.SCHEMA_MISMATCH,
                "Evidence of consents and objections is not corrected: withdraw, or grant anew.",
            )
        is_new_value = correction.record is None and correction.value is not None
        if not is_new_value and not any(change.affected for change in changes):
            raise BadInput(
                Refusal.ENTRY_UNKNOWN,
                "No live record of this person holds that. `privacy-ledger export` lists their records.",
            )

    async def _change(self, ref: SubjectRef, correction: Correction) -> _Change:
        """Return the live records of a reference that hold the value, and those that share a key with one."""
        rows = [row for row in await self._views.live(ref) if row.category is correction.category]
        found = await self._open(ref, rows)
        affected = [one for one in found if _is_affected(one, correction)]
        kids = {one.kid for one in affected}
        return _Change(ref, [one for one in found if one.kid in kids], affected)

    async def _open(self, ref: SubjectRef, rows: Sequence[IndexRow]) -> list[_Found]:
        """Return these records with their facts; what cannot be read is left out."""
        partition = partition_of(ref, self._log.partitions(LEDGER_EVENTS))
        by_offset = {row.offset: row for row in rows}
        offsets, found = sorted(by_offset), []
        for start in range(0, len(offsets), _PAGE):
            page = await self._log.read_at(LEDGER_EVENTS, partition, offsets[start : start + _PAGE])
            for row, record in zip(page, self._codec.decode(page), strict=True):
                if isinstance(record.body, Fact):
                    kid = (row.value or b"")[1:33]
                    found.append(_Found(by_offset[row.offset], row, record.body, kid))
        return found

    # Writing --------------------------------------------------------------------------------

    async def _append(
        self, change: _Change, correction: Correction, done: Corrected, *, is_eldest: bool
    ) -> Corrected:
        """Append what one reference needs, in one transaction."""
        now = self._clock.now()
        request = self._ids.token().hex()
        if correction.record is None and correction.category is Category.PROFILE:
            records = self._profile(change, correction, request, now=now, is_eldest=is_eldest)
            restated: list[NewRecord] = []
        else:
            restated = self._restated(change, correction, now=now)
            records = [*self._superseded(change, request, now=now), *restated]
            if correction.record is None and correction.value is not None and is_eldest:
                fact = AccountUpdated(occurred_at=now, **{correction.member: correction.value})
                records.append(self._sealed(change.ref, fact))
        if not records:
            return done
        partition = records[0].partition
        await self._log.supersede(
            [(LEDGER_EVENTS, record) for record in records], writer=f"rectification.{partition}"
        )
        end = await self._log.end(LEDGER_EVENTS, partition)
        written = [split_key(record.key) for record in records if header(record.headers, "kid") is not None]
        return Corrected(
            request=done.request or request,
            restated=done.restated + len(restated),
            offsets={**done.offsets, partition: max(end - 1, done.offsets.get(partition, 0))},
            kids=tuple(dict.fromkeys((*done.kids, *(one.kid for one in change.found)))),
            written=(*done.written, *((SubjectRef(ref), record_id) for ref, record_id in written)),
        )

    def _profile(
        self, change: _Change, correction: Correction, request: str, *, now: datetime, is_eldest: bool
    ) -> list[NewRecord]:
        """Erase every value that a profile field had, and set the new one after all of them."""
        at = newest([one.row for one in change.affected], now=now)
        records = []
        if change.affected:
            (key,) = self._vault.sealing_keys((KeyWant(change.ref, INDEX_GROUP, 0),), now=now)
            name = field_name(KeyedHash(key.secret), correction.member).hex()
            erased = FieldErasureRequested(request=request, occurred_at=at, field=name)
            records.append(self._own.control(change.ref, erased))
        if correction.value is not None and is_eldest:
            fact = ProfileFieldSet(
                occurred_at=at + timedelta(microseconds=1), field=correction.member, value=correction.value
            )
            records.append(self._sealed(change.ref, fact))
        return records

    def _sealed(self, ref: SubjectRef, fact: Fact) -> NewRecord:
        try:
            return self._own.sealed(ref, fact)
        except (SchemaMismatch, UnicodeError):
            raise _does_not_fit() from None

    def _superseded(self, change: _Change, request: str, *, now: datetime) -> list[NewRecord]:
        """Return the facts that name the records which are stated again; a bounded number in each."""
        names = sorted(one.at.record_id.hex() for one in change.found)
        records = []
        for start in range(0, len(names), SUPERSEDED_MAX):
            fact = RecordsSuperseded(
                request=request if not start else self._ids.token().hex(),
                occurred_at=now,
                category=change.found[0].at.category,
                records=tuple(names[start : start + SUPERSEDED_MAX]),
            )
            records.append(self._own.control(change.ref, fact))
        return records

    def _restated(self, change: _Change, correction: Correction, *, now: datetime) -> list[NewRecord]:
        """Return the records stated again, in their order, under keys that sealed nothing before."""
        if not change.found:
            return []
        affected = {one.at.record_id for one in change.affected}
        facts = [
            _corrected(one.fact, correction) if one.at.record_id in affected else one.fact
            for one in change.found
        ]
        keys = self._keys(change, now=now)
        records = []
        for one, fact, key in zip(change.found, facts, keys, strict=True):
            payload = self._codec.payload(one.row)
            source_id = None if payload is None else payload.id
            if _holds(source_id, one.fact, correction):
                source_id = None
            try:
                record = self._codec.fact(
                    key, self._ids.token(), fact, _origin(one), source_id=source_id,
                    joint=None if payload is None else payload.joint,
                )  # fmt: skip
            except (SchemaMismatch, UnicodeError):
                raise _does_not_fit() from None
            records.append(record)
        return records

    def _keys(self, change: _Change, *, now: datetime) -> tuple[DataKey, ...]:
        """Return a key per record: its own where the category is fine, else a new generation."""
        category = change.found[0].at.category
        groups = [self._rules.key_group(category, _purposes(one.row)) for one in change.found]
        if not self._shares_keys(category):
            return self._vault.fresh_keys([(change.ref, group) for group in groups], now=now)
        return self._vault.sealing_keys([KeyWant(change.ref, group) for group in groups], now=now)


def _is_affected(found: _Found, correction: Correction) -> bool:
    """Return whether a record holds what is to be corrected."""
    if correction.record is not None:
        return found.at.record_id == correction.record
    if correction.category is Category.PROFILE:
        return isinstance(found.fact, ProfileFieldSet) and found.fact.field == correction.member
    return getattr(found.fact, correction.member, None) is not None


def _holds(source_id: str | None, fact: Fact, correction: Correction) -> bool:
    """Return whether the producer's own id of an event says the wrong value: it goes with it."""
    wrong = getattr(fact, correction.member, None)
    return source_id is not None and isinstance(wrong, str) and wrong.casefold() in source_id.casefold()


def _corrected(fact: Fact, correction: Correction) -> Fact:
    """Return a fact with its member corrected: cleared where the new value is stated apart.

    Raises:
        BadInput: it has no such member, or the value is none of its type.
    """
    member = correction.member
    if member in _FIXED or member not in fact.__struct_fields__:
        members = ", ".join(name for name in fact.__struct_fields__ if name not in _FIXED)
        raise BadInput(
            Refusal.SCHEMA_MISMATCH, f"A record of this type has no such member. It has: {members}."
        )
    if correction.record is None:
        return structs.replace(fact, **{member: None})
    kind = next(field.type for field in structs.fields(fact) if field.name == member)
    try:
        value = None if correction.value is None else msgspec.convert(correction.value, kind, strict=False)
        return msgspec.convert({**structs.asdict(fact), member: value}, type(fact), from_attributes=True)
    except msgspec.ValidationError:
        raise _does_not_fit() from None


def _does_not_fit() -> BadInput:
    return BadInput(Refusal.SCHEMA_MISMATCH, "The value does not fit there. `schemas/` says what does.")


def _origin(found: _Found) -> Origin:
    """Return the headers of the original, and its place."""
    headers = dict(found.row.headers)
    return Origin(
        source=headers["ce_source"].decode("ascii"),
        purposes=_purposes(found.row),
        basis=LawfulBasis(headers["basis"].decode("ascii")),
        notice=headers["notice"].decode("ascii"),
        jurisdiction=headers["jurisdiction"].decode("ascii"),
        received_at=datetime.fromisoformat(headers["received"].decode("ascii")),
        tag=bytes.fromhex(headers["tag"].decode("ascii")),
        digest=bytes.fromhex(headers["digest"].decode("ascii")),
        field=bytes.fromhex(headers.get("field", b"").decode("ascii")),
        instead=found.at.place,
    )


def _purposes(row: Row) -> tuple[str, ...]:
    return tuple((header(row.headers, "purposes") or b"").decode("ascii").split(","))
