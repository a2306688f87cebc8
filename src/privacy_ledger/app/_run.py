"""One run of an ingest, batch by batch: what it has met, appended and counted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final

from msgspec import Struct

from privacy_ledger.app import _requests
from privacy_ledger.app._joins import Joiner
from privacy_ledger.app._lane import Lane, LaneEvent, LaneFact, is_session
from privacy_ledger.app._members import Member, Members
from privacy_ledger.app._people import Claim, Entry, People
from privacy_ledger.app._ports import Ports
from privacy_ledger.app._sealer import Item, Sealer
from privacy_ledger.app._terms import digest_of, setting_key, setting_names, tag_of
from privacy_ledger.app._verdicts import LineReport, Outcome, Redactor, Summary, is_malformed
from privacy_ledger.domain.events import DeviceObserved, ErasureRequested, Fact, RegionDerived, event_type
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS, LEDGER_UNATTRIBUTED, REQUESTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.formats import Format, Parsed
from privacy_ledger.ports.keys import Identity, IdentityStatus
from privacy_ledger.ports.log import NewRecord

__all__ = ["Run"]

SESSIONS_MAX: Final = 100_000
_REQUEST_BYTES: Final = 16


class _Move(Struct, gc=False):
    """A lane on its way to its person: the session's anonymous id, and one identity of the person."""

    anonymous: str
    member: Member
    identity: Identity

    def __repr__(self) -> str:
        """Return nothing of anybody."""
        return "_Move()"


class Run:
    """The state of one run."""

    def __init__(  # noqa: PLR0913 - what a source may do is said in full
        self,
        ports: Ports,
        *,
        source: str,
        parse: Format,
        may_mint: bool,
        registers_addresses: bool,
        is_import: bool,
        default_consents: tuple[str, ...],
        with_reports: bool,
        members: Members | None = None,
    ) -> None:
        """Take the ports and what the source may do; `with_reports`: somebody asks about each line.

        `members`: the subjects of several runs that take turns; each then knows what the others appended.
        """
        self.summary = Summary(reasons={}, offsets={})
        self._ports = ports
        self._source = source
        self._parse = parse
        self._with_reports = with_reports
        self._members = Members(ports) if members is None else members
        self._lane = Lane(ports, self._members, source=source)
        self._sealer = Sealer(ports, self._members, default_consents=default_consents, source=source)
        self._people = People(
            self._members, self._lane, ports.book,
            may_mint=may_mint, registers_addresses=registers_addresses, is_import=is_import,
            default_consents=default_consents,
        )  # fmt: skip
        self._joiner = Joiner(ports, self._members)
        self._redactor = Redactor(ports, source=source)
        self._last_ticks: list[datetime] = []
        self._sessions: dict[str, SubjectRef | None] = {}
        self._no_lane: set[str] = set()

    async def start(self) -> None:
        """Close lanes that are too old, and read the time that retention counts on."""
        now = self._ports.clock.now()
        await self._lane.sweep(now=now)
        for partition in range(self._ports.log.partitions(LEDGER_EVENTS)):
            meta = await self._ports.views.meta(partition)
            self._last_ticks.append(meta.last_tick or now)

    async def batch(self, lines: Sequence[tuple[int, bytes | Refusal]]) -> list[LineReport]:
        """Ingest some lines and return their reports, if asked for; all that is counted is durable."""
        now = self._ports.clock.now()
        entries = [self._entry(number, line) for number, line in lines if not _is_blank(line)]
        await self._people.resolve(entries, now=now)
        fences = await self._fences(now=now)
        for refs in self._people.joined:
            fences += await self._joiner.records(refs)
        items: list[Item] = []
        facts: list[LaneFact] = []
        for place, entry in enumerate(entries):
            if entry.is_unattributed:
                facts += self._lane_facts(entry, place, now=now)
            elif entry.reason is None:
                items += self._items(entry, place, now=now)
        records = await self._sealer.records(items, last_ticks=self._last_ticks, now=now)
        lane_records, refused = self._lane.records(facts, now=now)
        for place, reason in refused.items():
            entries[place].reason = reason
        moves = self._joined(entries, items, facts, now=now)
        await self._append([*fences, *records])
        if lane_records:
            await self._ports.log.append(LEDGER_UNATTRIBUTED, lane_records)
        self._members.appended(item.member for item in items)
        self.summary.records += sum(item.refusal is None for item in items)
        reports = await self._conclude(entries, items, {fact.line for fact in facts} - refused.keys())
        await self._move(moves, now=now)
        await self._members.shrink()
        return reports

    # Reading ------------------------------------------------------------------------------

    def _entry(self, number: int, line: bytes | Refusal) -> Entry:
        """Return a line with what it says, or why it cannot be used."""
        if type(line) is Refusal:
            return Entry(number, b"", None, line)
        parsed = self._parse(line)
        if type(parsed) is Refusal:
            return Entry(number, line, None, parsed)
        return Entry(number, line, parsed, None)

    def _items(self, entry: Entry, place: int, *, now: datetime) -> list[Item]:
        """Return the facts of one line for each of its people, device and place after the first."""
        parsed = entry.parsed
        if parsed is None:
            return []
        event, content = _hashes(entry.line, parsed)
        joint = self._ports.ids.token().hex() if len(entry.claims) > 1 else None
        items: list[Item] = []
        for person, claim in enumerate(entry.claims):
            member = claim.member
            if member is None:
                continue
            for number, fact in enumerate(claim.facts):
                item = self._item(member, fact, person, number, event, content)
                if item is None:
                    claim.refusal = Refusal.UNKNOWN_EVENT
                    continue
                item.line, item.received_at = place, now
                item.source_id, item.joint = parsed.source_event_id, joint
                items.append(item)
            if person == 0 and items:
                for setting in (parsed.device, self._place(parsed)):
                    items += () if setting is None else self._setting(setting, items[0], now=now)
        return items

    def _item(
        self, member: Member, fact: Fact, person: int, number: int, event: bytes, content: bytes
    ) -> Item | None:
        """Return one fact on its way, or None when the rules do not know it."""
        terms = self._ports.book.of(fact)
        if terms is None:
            return None
        role = f"{person}.{number}.{terms.type}"
        key = member.index_key
        occurred_at: datetime = fact.occurred_at  # type: ignore[attr-defined] # every collection fact
        return Item(
            line=-1, member=member, fact=fact, terms=terms,
            tag=tag_of(key, source=self._source, event=event, role=role),
            digest=digest_of(key, content=content, role=role),
            source=self._source, occurred_at=occurred_at, received_at=occurred_at,
        )  # fmt: skip

    def _setting(
        self, fact: DeviceObserved | RegionDerived, parent: Item, *, now: datetime
    ) -> Iterator[Item]:
        """Yield a device or a place, once per subject, month and what is kept of it; only beside its fact."""
        member, terms = parent.member, self._ports.book.of(fact)
        if terms is None:
            return
        key = setting_key(fact)
        names = member.setting_names.get(key)
        if names is None:
            names = setting_names(member.index_key, source=self._source, setting=key)
            member.setting_names[key] = names
        tag, digest = names
        if tag not in member.settings:
            yield Item(
                line=parent.line, member=member, fact=fact, terms=terms, tag=tag, digest=digest,
                source=self._source, occurred_at=fact.occurred_at, received_at=now, parent=parent,
            )  # fmt: skip

    def _place(self, parsed: Parsed) -> RegionDerived | None:
        """Return where a line's address is; the address goes no further than here."""
        atlas, address = self._ports.atlas, parsed.address
        place = None if atlas is None or address is None else atlas.place(address)
        if place is None:
            return None
        return RegionDerived(occurred_at=parsed.occurred_at, country=place.country, region=place.region)

    def _lane_facts(self, entry: Entry, place: int, *, now: datetime) -> list[LaneFact]:
        """Return the facts of a line of nobody known that may wait for their person.

        What has no session is never moved to one. So its id and hashes, which only a move needs, are not
        kept: some partners' ids hold the message's.
        """
        parsed = entry.parsed
        if parsed is None:
            return []
        source_id, event, content = None, b"", b""
        if is_session(parsed.anonymous):
            source_id, (event, content) = parsed.source_event_id, _hashes(entry.line, parsed)
        found = []
        for number, fact in enumerate(parsed.unattributed):
            refusal = self._lane.admit(fact, occurred_at=parsed.occurred_at, now=now)
            if refusal is not None:
                entry.reason = refusal
                continue
            found.append(
                LaneFact(
                    line=place, anonymous=parsed.anonymous, fact=fact, source_id=source_id,
                    role=f"0.{number}.{event_type(fact)}", event=event, content=content,
                )
            )  # fmt: skip
        return found

    # Writing ------------------------------------------------------------------------------

    async def _append(self, records: Sequence[NewRecord]) -> None:
        """Append to the ledger and keep the last offset of each partition."""
        if not records:
            return
        offsets = await self._ports.log.append(LEDGER_EVENTS, records)
        for record, offset in zip(records, offsets, strict=True):
            self.summary.offsets[record.partition] = offset

    async def _fences(self, *, now: datetime) -> list[NewRecord]:
        """Return the erasure requests of those whom a line joined to an erased person."""
        records: list[NewRecord] = []
        openings: list[NewRecord] = []
        partitions = self._ports.log.partitions(REQUESTS)
        for ref, erasure in self._people.to_erase:
            request = (erasure if len(erasure) == _REQUEST_BYTES else self._ports.ids.token()).hex()
            opening = _requests.Progress(request=request, ref=ref.hex(), step="opened", at=now, cause="link")
            openings.append(_requests.record(opening, partitions=partitions))
            fact = ErasureRequested(request=request, occurred_at=now)
            token = self._ports.ids.token()
            records.append(self._ports.codec.control_fact(ref, token, fact, received_at=now))
            self.summary.linked_to_erased = (*self.summary.linked_to_erased, ref)
        if openings:
            await self._ports.log.append(REQUESTS, openings)
        return records

    # Concluding ---------------------------------------------------------------------------

    async def _conclude(
        self, entries: Sequence[Entry], items: Iterable[Item], waiting: set[int]
    ) -> list[LineReport]:
        """Count what became of each line, and write the dead letters."""
        of_line: dict[int, list[Item]] = {}
        for item in items:
            if item.parent is None:
                of_line.setdefault(item.line, []).append(item)
            elif item.refusal in (None, Refusal.DUPLICATE):
                item.member.settings.add(item.tag)
        reports: list[LineReport] = []
        letters: list[NewRecord] = []
        for place, entry in enumerate(entries):
            outcome, reason = _verdict(entry, of_line.get(place, ()), is_waiting=place in waiting)
            self.summary.count(outcome, reason)
            if reason is not None:
                letters.append(self._redactor.letter(entry.number, entry.line, reason))
            if self._with_reports:
                reports.append(_report(entry, outcome, reason))
        if letters:
            await self._ports.log.append(DLQ, letters)
        return reports

    # Linking ------------------------------------------------------------------------------

    def _joined(
        self, entries: Sequence[Entry], items: Sequence[Item], facts: Sequence[LaneFact], *, now: datetime
    ) -> dict[SubjectRef, _Move]:
        """Join the lanes of the sessions that this batch has shown to be somebody's; return what may move.

        A session in which two persons acted links no more. One that is bound has been moved.
        """
        self._no_lane -= {fact.anonymous for fact in facts if fact.anonymous is not None}
        owners = self._owners(entries, items)
        lanes = {anonymous: self._lane.session(anonymous) for anonymous in owners}
        links = {anonymous: self._lane.link(anonymous) for anonymous in owners}
        rows = self._members.find((*lanes.values(), *links.values()))
        moves: dict[SubjectRef, _Move] = {}
        for anonymous, (member, identity) in owners.items():
            row = rows[lanes[anonymous]]
            if row is None or row.status is IdentityStatus.ERASED or rows[links[anonymous]] is not None:
                self._no_lane.add(anonymous)
            else:
                moves[row.ref] = _Move(anonymous, member, identity)
        joined = self._lane.join({lane: move.member.ref for lane, move in moves.items()}, now=now)
        self._no_lane.update(move.anonymous for lane, move in moves.items() if lane not in joined)
        return {lane: move for lane, move in moves.items() if lane in joined}

    async def _move(self, moves: Mapping[SubjectRef, _Move], *, now: datetime) -> None:
        """Move what waits in lanes to their persons.

        The move is idempotent by its tags; then the lane's key is shredded, and at last the session
        is bound to its person.
        """
        if not moves:
            return
        moved = [
            item
            for lane, events in (await self._lane.take(moves)).items()
            for event in events
            if (item := self._moved(event, moves[lane].member)) is not None
        ]
        await self._append(await self._sealer.records(moved, last_ticks=self._last_ticks, now=now))
        self.summary.linked += sum(item.refusal is None for item in moved)
        for lane in moves:
            self._lane.close(lane, now=now)
        self._lane.bind({move.anonymous: move.identity for move in moves.values()}, now=now)

    def _owners(self, entries: Sequence[Entry], items: Sequence[Item]) -> dict[str, tuple[Member, Identity]]:
        """Return the acting person of each session that may have a lane, by anonymous id."""
        taken = {item.line for item in items if item.refusal in (None, Refusal.DUPLICATE)}
        if len(self._sessions) > SESSIONS_MAX:
            self._sessions.clear()
            self._no_lane.clear()
        owners: dict[str, tuple[Member, Identity]] = {}
        for place, entry in enumerate(entries):
            parsed = entry.parsed
            if place not in taken or parsed is None or not parsed.people:
                continue
            anonymous, member = parsed.anonymous, entry.claims[0].member
            if anonymous is None or member is None or not is_session(anonymous):
                continue
            if self._sessions.setdefault(anonymous, member.ref) != member.ref:
                self._sessions[anonymous] = None
                owners.pop(anonymous, None)
            elif anonymous not in self._no_lane:
                owners[anonymous] = (member, entry.claims[0].identities[0])
        return owners

    def _moved(self, event: LaneEvent, member: Member) -> Item | None:
        """Return a lane event as its person's, with its original source, id and times."""
        terms = self._ports.book.of(event.fact)
        if terms is None:
            return None
        key = member.index_key
        return Item(
            line=-1, member=member, fact=event.fact, terms=terms,
            tag=tag_of(key, source=event.source, event=event.event, role=event.role),
            digest=digest_of(key, content=event.content, role=event.role),
            source=event.source, occurred_at=event.occurred_at, received_at=event.received_at,
            source_id=event.source_id,
        )  # fmt: skip


def _is_blank(line: bytes | Refusal) -> bool:
    return type(line) is not Refusal and not line.strip()


def _hashes(line: bytes, parsed: Parsed) -> tuple[bytes, bytes]:
    """Return what names the event, its id or else the hash of its line, and the hash of its content."""
    if parsed.source_event_id is None:
        event = sha256(line).digest()
    else:
        event = parsed.source_event_id.encode("utf-8", "surrogatepass")
    return event, sha256(parsed.digest_input).digest()


def _verdict(entry: Entry, items: Sequence[Item], *, is_waiting: bool) -> tuple[Outcome, Refusal | None]:
    """Return what became of a line: the best of what became of its facts."""
    refusals = [item.refusal for item in items]
    if entry.reason is None and None in refusals:
        return Outcome.ACCEPTED, None
    if Refusal.DUPLICATE in refusals:
        return Outcome.DUPLICATE, None
    if is_waiting:
        return Outcome.UNATTRIBUTED, None
    found = (entry.reason, *refusals, *(claim.refusal for claim in entry.claims))
    reason = next((reason for reason in found if reason is not None), Refusal.SCHEMA_MISMATCH)
    return (Outcome.MALFORMED if is_malformed(reason) else Outcome.REFUSED), reason


def _report(entry: Entry, outcome: Outcome, reason: Refusal | None) -> LineReport:
    parsed = entry.parsed
    people: Sequence[Claim] = entry.claims
    facts: Sequence[Fact] = ()
    if parsed is not None:
        facts = parsed.people[0].facts if parsed.people else parsed.unattributed
    return LineReport(
        line=entry.number,
        outcome=outcome,
        reason=None if reason is None else str(reason),
        event_type=event_type(facts[0]) if facts else None,
        subjects=len(people),
    )
