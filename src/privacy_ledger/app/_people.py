"""Identify: who the people of a batch of lines are, and who among them may be minted."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from privacy_ledger.app._lane import Lane, is_session
from privacy_ledger.app._members import BEGINNING, MINT_AGE, Member, Members, merged
from privacy_ledger.app._terms import TermsBook
from privacy_ledger.domain.admission import admit
from privacy_ledger.domain.events import Fact
from privacy_ledger.domain.identifiers import ADDRESSES
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.formats import Parsed
from privacy_ledger.ports.keys import Identity, IdentityRow, IdentityStatus

__all__ = ["Claim", "Entry", "People"]

Rows = Mapping[Identity, IdentityRow | None]


class Claim(Struct, gc=False):
    """One person of one line: the facts, and then the subject or why there is none.

    `known`: those of the identities that the keystore had a row for, with it.
    """

    identities: tuple[Identity, ...]
    facts: tuple[Fact, ...]
    known: tuple[tuple[Identity, IdentityRow], ...]
    member: Member | None = None
    refusal: Refusal | None = None
    ref: SubjectRef | None = None

    def __repr__(self) -> str:
        """Return counts only."""
        return f"Claim({len(self.identities)} identities, {len(self.facts)} facts)"


class Entry(Struct, gc=False):
    """One line of a batch. `reason`: why the line as a whole is not taken."""

    number: int
    line: bytes
    parsed: Parsed | None
    reason: Refusal | None
    claims: tuple[Claim, ...] = ()
    is_unattributed: bool = False

    def __repr__(self) -> str:
        """Return the line number only."""
        return f"Entry(line {self.number})"


class People:
    """Resolves the claims of a batch; one look-up and one mint for all of it."""

    def __init__(
        self,
        members: Members,
        lane: Lane,
        book: TermsBook,
        *,
        may_mint: bool,
        registers_addresses: bool,
        is_import: bool,
        default_consents: Sequence[str],
    ) -> None:
        """Take the run's subjects; `may_mint`: the source is authoritative.

        `registers_addresses`: also of who is known by an address alone.
        """
        self._members = members
        self._lane = lane
        self._book = book
        self._may_mint = may_mint
        self._registers_addresses = registers_addresses
        self._is_import = is_import
        self._defaults = tuple(default_consents)
        self._fenced: set[SubjectRef] = set()
        self.to_erase: list[tuple[SubjectRef, bytes]] = []
        self.joined: list[tuple[SubjectRef, ...]] = []

    async def resolve(self, entries: Sequence[Entry], *, now: datetime) -> None:
        """Give every claim its subject or its refusal; lines of nobody known become unattributed.

        `to_erase` then holds the references, each with the erasure id, that a line joined to an
        erased person; `joined` the sets of references that a line found to be one person's.
        """
        self.to_erase, self.joined = [], []
        rows = self._members.find(self._identities(entries))
        for entry in entries:
            self._attribute(entry, rows)
            self._refuse_erased(entry)
        claims = [
            (claim, entry.parsed)
            for entry in entries
            if entry.reason is None and entry.parsed is not None
            for claim in entry.claims
        ]
        bound = BEGINNING if self._is_import else now - MINT_AGE
        minted = self._mint(claims, rows, now=now, bound=bound)
        loaded: dict[SubjectRef, Member] = {}
        for claim, _ in claims:
            if claim.ref is None or claim.refusal is not None:
                continue
            if claim.ref not in loaded:
                not_before = min((row.not_before for _, row in claim.known), default=bound)
                is_new = not claim.known and claim.ref in minted
                loaded[claim.ref] = await self._members.load(
                    claim.ref, not_before=not_before, is_new=is_new, now=now
                )
            claim.member = loaded[claim.ref]
        self._members.index_keys(list(loaded.values()), now=now)

    def _identities(self, entries: Sequence[Entry]) -> Iterable[Identity]:
        """Yield every identity that the batch asks for; a session stands for its person, or for its lane."""
        for entry in entries:
            parsed = entry.parsed
            if parsed is None:
                continue
            if not parsed.people and parsed.anonymous is not None and is_session(parsed.anonymous):
                yield self._lane.link(parsed.anonymous)
                yield self._lane.session(parsed.anonymous)
            for person in parsed.people:
                yield from person.identities

    def _attribute(self, entry: Entry, rows: Rows) -> None:
        """Set the claims of a line: its people, or the person whose session it is, or nobody.

        A session whose lane was erased was an erased person's, though nothing was bound to it yet.
        """
        parsed = entry.parsed
        if parsed is None or entry.reason is not None:
            return
        if parsed.people:
            claims = tuple([_claim(person.identities, person.facts, rows) for person in parsed.people])
            if parsed.may_register or any(claim.known for claim in claims):
                entry.claims = claims
            elif parsed.unattributed:
                entry.is_unattributed = True
            else:
                entry.reason = Refusal.SUBJECT_UNKNOWN
            return
        if parsed.anonymous is not None and is_session(parsed.anonymous):
            link = self._lane.link(parsed.anonymous)
            if rows.get(link) is not None:
                entry.claims = (_claim((link,), parsed.unattributed, rows),)
                return
            lane = rows.get(self._lane.session(parsed.anonymous))
            if lane is not None and lane.status is IdentityStatus.ERASED:
                entry.reason = Refusal.SUBJECT_ERASED
                return
        entry.is_unattributed = True

    def _refuse_erased(self, entry: Entry) -> None:
        """Refuse a line that names an erased person, and note who was found to be that person."""
        for claim in entry.claims:
            known = claim.known
            erased = [row for _, row in known if row.status is IdentityStatus.ERASED]
            if self._fenced and any(row.ref in self._fenced for _, row in known):
                entry.reason = Refusal.SUBJECT_ERASED
            if not erased:
                continue
            if entry.reason is None and self._is_kept(claim, entry):
                claim.ref = erased[0].ref
                continue
            entry.reason = Refusal.SUBJECT_ERASED
            for identity, row in known:
                if row.status is IdentityStatus.ERASED or not self._may_mint:
                    continue
                for ref in self._members.joined(identity):
                    if ref not in self._fenced:
                        self._fenced.add(ref)
                        self._members.fence(ref)
                        self.to_erase.append((ref, erased[0].erasure or b""))

    def _is_kept(self, claim: Claim, entry: Entry) -> bool:
        """Return whether a line says of one erased person alone what a law keeps all the same."""
        names = {row.ref for _, row in claim.known}
        is_one = len(entry.claims) == len(names) == 1 and len(claim.known) == len(claim.identities)
        rules = self._book.rules
        return is_one and all(rules.duty(fact.category) is not None for fact in claim.facts)

    def _mint(
        self,
        claims: Sequence[tuple[Claim, Parsed]],
        rows: Rows,
        *,
        now: datetime,
        bound: datetime,
    ) -> frozenset[SubjectRef]:
        """Set every claim's reference or refusal; return the references that are new."""
        wanting: list[Claim] = []
        for claim, parsed in claims:
            if claim.ref is not None:  # erased, and kept by law
                continue
            known = claim.known
            refs = {self._members.elder(row, identity) for identity, row in known}
            if len(known) == len(claim.identities) and len(refs) == 1:
                (claim.ref,) = refs
                continue
            refusal = self._may_be_minted(claim, parsed, now=now, bound=bound)
            if refusal is None:
                wanting.append(claim)
            elif known:
                claim.ref = self._members.elder(known[0][1], known[0][0])
            else:
                claim.refusal = refusal
        groups, places = merged([claim.identities for claim in wanting])
        refs_of_groups = self._members.mint(groups, now=now, not_before=bound)
        taken = {row.ref for row in rows.values() if row is not None}
        for claim, place in zip(wanting, places, strict=True):
            claim.ref = refs_of_groups[place]
            if claim.ref is None:
                claim.refusal = Refusal.SUBJECT_ERASED
        self._members.forget_elder(
            row.ref for group in groups for i in group if (row := rows.get(i)) is not None
        )
        for group in groups:
            if len({row.ref for i in group if (row := rows.get(i)) is not None}) > 1:
                self.joined.append(self._members.joined(group[0]))
        owner = {i: ref for group, ref in zip(groups, refs_of_groups, strict=True) for i in group}
        if owner:
            _adopt(claims, owner)
        return frozenset(ref for ref in refs_of_groups if ref is not None and ref not in taken)

    def _may_be_minted(
        self, claim: Claim, parsed: Parsed, *, now: datetime, bound: datetime
    ) -> Refusal | None:
        """Return why a claim may not mint or bind a reference; nobody is stored for nothing.

        An address alone mints none: it may be that of somebody who was erased by another id.
        """
        is_address = all(identity.namespace in ADDRESSES for identity in claim.identities)
        if not self._may_mint or (is_address and not self._registers_addresses):
            return Refusal.SUBJECT_UNKNOWN
        if not self._is_import and parsed.occurred_at < now - MINT_AGE:
            return Refusal.TOO_OLD_TO_REGISTER
        fresh = Permissions(
            is_registered=True, not_before=bound, grants=dict.fromkeys(self._defaults, BEGINNING)
        )
        refusal = Refusal.UNKNOWN_EVENT
        for fact in claim.facts:
            terms = self._book.of(fact)
            if terms is None:
                continue
            candidate = terms.candidate(getattr(fact, "occurred_at", parsed.occurred_at), now)
            decision = admit(fresh, candidate, self._book.rules, last_tick=now, is_known_copy=None)
            if not isinstance(decision, Refusal):
                return None
            refusal = decision
        return refusal


def _claim(identities: tuple[Identity, ...], facts: tuple[Fact, ...], rows: Rows) -> Claim:
    known = tuple([(i, row) for i in identities if (row := rows.get(i)) is not None])
    return Claim(identities, facts, known)


def _adopt(claims: Sequence[tuple[Claim, Parsed]], owner: Mapping[Identity, SubjectRef | None]) -> None:
    """Give every claim the reference that another line of the batch minted for, or joined to, it."""
    for claim, _ in claims:
        if claim.refusal is Refusal.SUBJECT_ERASED:
            continue
        for identity in claim.identities:
            ref = owner.get(identity)
            if ref is not None:
                claim.ref, claim.refusal = ref, None
                break
