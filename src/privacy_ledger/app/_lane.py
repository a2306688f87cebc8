"""The unattributed lane: events of nobody known, under a key per session, until a link moves them.

A lane record is sealed like any other, under a random reference that stands for the session (or
for the day, where the line has no anonymous id). Nothing outside the seal is an id of the line.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.app._members import BEGINNING, Members
from privacy_ledger.app._ports import Ports
from privacy_ledger.domain.admission import FUTURE_TOLERANCE, is_past_retention
from privacy_ledger.domain.errors import InvariantViolation, SchemaMismatch
from privacy_ledger.domain.events import Fact, Personal
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import LEDGER_UNATTRIBUTED
from privacy_ledger.domain.values import REF_BYTES, SubjectRef, partition_of
from privacy_ledger.ports.keys import DataKey, Identity, KeyWant
from privacy_ledger.ports.log import NewRecord, Row, header

__all__ = ["LANE_ROWS_MAX", "Lane", "LaneEvent", "LaneFact", "is_session"]

LANE_ROWS_MAX: Final = 200_000
"""How many records of one lane partition a move reads; what lies beyond expires unmoved."""
LANE_AGE: Final = timedelta(days=13)
"""Lane keys are shredded at this age, a day before their records go (`fine-print` 3)."""
_GROUP: Final = "lane"
_PAGE: Final = 2000
_KID: Final = slice(1, 33)


class _Note(Struct, frozen=True):
    """What a move needs beside the fact; sealed with it. Hashes in hex."""

    role: str
    event: str
    content: str


class LaneFact(Personal, frozen=True, kw_only=True):
    """One fact of nobody known, on its way into the lane; `event` and `content` as tags take them."""

    line: int
    anonymous: str | None
    fact: Fact
    source_id: str | None
    role: str
    event: bytes
    content: bytes


class LaneEvent(Personal, frozen=True, kw_only=True):
    """One fact that a move takes out of the lane, with its original source, id and times."""

    fact: Fact
    source: str
    source_id: str | None
    role: str
    event: bytes
    content: bytes
    occurred_at: datetime
    received_at: datetime


class Lane:
    """Writes, moves and sweeps the lane of one source."""

    def __init__(self, ports: Ports, members: Members, *, source: str) -> None:
        """Take the ports, and what asks for the keys of a run."""
        self._members = members
        self._log = ports.log
        self._vault = ports.vault
        self._codec = ports.lane_codec
        self._ids = ports.ids
        self._book = ports.book
        self._source = source

    def session(self, anonymous: str) -> Identity:
        """Return the identity under which the keystore knows the lane of an anonymous id."""
        return Identity(f"lane:{self._source}", anonymous)

    def link(self, anonymous: str) -> Identity:
        """Return the identity under which the keystore knows whose session this is."""
        return Identity(f"link:{self._source}", anonymous)

    # Into the lane --------------------------------------------------------------------------

    def admit(self, fact: Fact, *, occurred_at: datetime, now: datetime) -> Refusal | None:
        """Return why a fact may not even wait for its person; all else is decided at the move."""
        terms = self._book.of(fact)
        if terms is None:
            return Refusal.UNKNOWN_EVENT
        if occurred_at > now + FUTURE_TOLERANCE:
            return Refusal.TIME_FUTURE
        if is_past_retention(terms.category, occurred_at, self._book.rules, at=now):
            return Refusal.PAST_RETENTION
        return None

    def records(
        self, facts: Sequence[LaneFact], *, now: datetime
    ) -> tuple[list[NewRecord], dict[int, Refusal]]:
        """Return sealed lane records, and the lines that may not wait, each with its reason.

        Their facts break their own schema, or the person of their session was erased meanwhile.
        """
        refs = self._refs([self._identity(fact.anonymous, now=now) for fact in facts], now=now)
        keys = self._members.keys([KeyWant(ref, _GROUP) for ref in refs], now=now)
        records: list[NewRecord] = []
        refused: dict[int, Refusal] = {}
        for fact, key in zip(facts, keys, strict=True):
            terms = self._book.of(fact.fact)
            if terms is None:
                continue
            if key is None:
                refused[fact.line] = Refusal.SUBJECT_ERASED
                continue
            note = _Note(fact.role, fact.event.hex(), fact.content.hex())
            origin = self._book.origin(terms, source=self._source, received_at=now, tag=b"", digest=b"")
            try:
                records.append(
                    self._codec.fact(
                        key, self._ids.token(), fact.fact, origin,
                        source_id=fact.source_id, joint=msgspec.json.encode(note).decode(),
                    )
                )  # fmt: skip
            except (SchemaMismatch, UnicodeError):
                refused[fact.line] = Refusal.SCHEMA_MISMATCH
        return records, refused

    def _identity(self, anonymous: str | None, *, now: datetime) -> Identity:
        return self.session(anonymous or f"day:{now.date().isoformat()}")

    def _refs(self, identities: Sequence[Identity], *, now: datetime) -> list[SubjectRef]:
        """Return a lane reference per identity, one look-up and one mint for all."""
        wanted = list(dict.fromkeys(identities))
        rows = dict(zip(wanted, self._vault.find(wanted), strict=True)) if wanted else {}
        known = {identity: row.ref for identity, row in rows.items() if row is not None}
        missing = [identity for identity in wanted if identity not in known]
        if missing:
            minted = self._vault.mint([(i,) for i in missing], now=now, not_before=BEGINNING)
            known.update(zip(missing, minted, strict=True))
        return [known[identity] for identity in identities]

    # Out of the lane ------------------------------------------------------------------------

    def join(self, lanes: Mapping[SubjectRef, SubjectRef], *, now: datetime) -> frozenset[SubjectRef]:
        """Make it known whose each of these lanes is, {lane: person}; return those that may move.

        It comes first in a move, before the login itself is durable: whoever is erased from then on
        is erased with what waits in the lane, however far the move came.
        """
        return self._vault.join_lanes(lanes, now=now) if lanes else frozenset()

    async def take(self, refs: Iterable[SubjectRef]) -> dict[SubjectRef, list[LaneEvent]]:
        """Return the events of these lanes, oldest first; each partition is read once."""
        found: dict[SubjectRef, list[LaneEvent]] = {ref: [] for ref in refs}
        partitions = self._log.partitions(LEDGER_UNATTRIBUTED)
        for partition in sorted({partition_of(ref, partitions) for ref in found}):
            after, count = -1, 0
            while count < LANE_ROWS_MAX:
                rows = await self._log.read(LEDGER_UNATTRIBUTED, partition, after=after, limit=_PAGE)
                if not rows:
                    break
                after, count = rows[-1].offset, count + len(rows)
                for row in rows:
                    ref = SubjectRef(row.key[:REF_BYTES])
                    event = self._event(row) if ref in found else None
                    if event is not None:
                        found[ref].append(event)
        return found

    def _event(self, row: Row) -> LaneEvent | None:
        """Return what a lane record says, or None when nobody can read it any more."""
        payload = self._codec.payload(row)
        if payload is None or payload.joint is None:
            return None
        (record,) = self._codec.decode((row,))
        if not isinstance(record.body, Fact):
            return None
        note = msgspec.json.decode(payload.joint, type=_Note)
        return LaneEvent(
            fact=record.body,
            source=(header(row.headers, "ce_source") or b"").decode("ascii"),
            source_id=payload.id,
            role=note.role,
            event=bytes.fromhex(note.event),
            content=bytes.fromhex(note.content),
            occurred_at=record.occurred_at,
            received_at=record.received_at,
        )

    def bind(self, sessions: Mapping[str, Identity], *, now: datetime) -> None:
        """Make later events of sessions their persons', by an identity of each; one transaction.

        It comes last in a move: a session that is bound has been moved. One that was bound
        meanwhile is left alone, for binding it again would join two persons.
        """
        links = {anonymous: self.link(anonymous) for anonymous in sessions}
        rows = self._vault.find(tuple(links.values()))
        new = [
            (sessions[anonymous], link)
            for (anonymous, link), row in zip(links.items(), rows, strict=True)
            if row is None
        ]
        if not new:
            return
        try:
            self._vault.mint(new, now=now, not_before=BEGINNING)
        except InvariantViolation:  # somebody among them was erased meanwhile
            for group in new:
                with suppress(InvariantViolation):
                    self._vault.mint((group,), now=now, not_before=BEGINNING)

    def close(self, ref: SubjectRef, *, now: datetime) -> None:
        """Shred the key of a lane; an event that comes later gets a new one."""
        self._vault.shred(ref, now=now)

    async def sweep(self, *, now: datetime) -> int:
        """Close every lane with a record older than thirteen days; return how many."""
        before_ms = int((now - LANE_AGE).timestamp() * 1000)
        old: dict[bytes, SubjectRef] = {}
        for partition in range(self._log.partitions(LEDGER_UNATTRIBUTED)):
            after = -1
            while rows := await self._log.read(LEDGER_UNATTRIBUTED, partition, after=after, limit=_PAGE):
                for row in rows:
                    if row.appended_ms < before_ms and row.value is not None:
                        old[row.value[_KID]] = SubjectRef(row.key[:REF_BYTES])
                after = rows[-1].offset
                if rows[-1].appended_ms >= before_ms:
                    break
        opened = self._vault.open_keys(tuple(old)) if old else {}
        refs = sorted({old[kid] for kid, key in opened.items() if isinstance(key, DataKey)})
        for ref in refs:
            self.close(ref, now=now)
        return len(refs)


def is_session(anonymous: str | None) -> bool:
    """Return whether an anonymous id names one session; a cookie or client id never links."""
    return anonymous is not None and anonymous.startswith("session:")
