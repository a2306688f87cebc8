"""From candidate facts to sealed records: admit in order, take keys in batch, seal."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final

from msgspec import Struct, structs

from privacy_ledger.app._members import BEGINNING, Member, Members, note_withdrawal
from privacy_ledger.app._ports import Pair, Ports
from privacy_ledger.app._terms import Terms, digest_of, field_name, field_of, tag_of
from privacy_ledger.domain.admission import admit
from privacy_ledger.domain.errors import SchemaMismatch
from privacy_ledger.domain.events import (
    ConsentGranted,
    ConsentWithdrawn,
    ControlFact,
    Fact,
    FieldErasureRequested,
    ProfileFieldCleared,
)
from privacy_ledger.domain.permissions import Permissions, apply_control, apply_fact
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, KeyWant
from privacy_ledger.ports.log import NewRecord

__all__ = ["Item", "Sealer"]

COPIES_MAX: Final = 200_000
_ID_BYTES: Final = 16


class Item(Struct, gc=False):
    """One fact on its way; `refusal` tells why it was not appended.

    `parent`: the item without which this one is not collected; such an item and one without a
    line never change the outcome of a line. `erasure`: goes before its record.
    """

    line: int
    member: Member
    fact: Fact
    terms: Terms
    tag: bytes
    digest: bytes
    source: str
    occurred_at: datetime
    received_at: datetime
    source_id: str | None = None
    joint: str | None = None
    parent: "Item | None" = None
    refusal: Refusal | None = None
    erasure: FieldErasureRequested | None = None

    def __repr__(self) -> str:
        """Return the type only: an item holds a person's facts and ids."""
        return f"Item({self.terms.type})"

    @property
    def pair(self) -> Pair:
        """The reference and tag as a record's headers say them."""
        return self.member.ref, self.tag.hex().encode()


class Sealer:
    """Decides on items in order and seals those that are admitted."""

    def __init__(
        self, ports: Ports, members: Members, *, default_consents: Sequence[str], source: str
    ) -> None:
        """Take the ports and the run's subjects; without `seen`, copies are known within the run only."""
        self._members = members
        self._book = ports.book
        self._codec = ports.codec
        self._ids = ports.ids
        self._seen = ports.seen
        self._defaults = tuple(dict.fromkeys(default_consents))
        self._source = source
        self._copies: dict[Pair, bytes] = {}

    async def records(
        self, items: Sequence[Item], *, last_ticks: Sequence[datetime], now: datetime
    ) -> list[NewRecord]:
        """Return the records to append, in order; every item learns its refusal, or has none."""
        grants = {member.ref: await self._grants(member, now=now) for member in _distinct(items)}
        copies = self._known_copies(items, grants)
        await self._learn_withdrawals(items)
        admitted: list[Item] = []
        for item in items:
            given = grants.get(item.member.ref, ())
            pair = item.pair
            item.refusal = self._decide(
                item, given, copies.get(pair), last_tick=last_ticks[item.member.partition]
            )
            if item.refusal is not None:
                continue
            if given:
                admitted += self._apply_defaults(item.member, given, copies)
                grants.pop(item.member.ref)
                item.member.is_defaulted = True
            copies[pair] = item.digest.hex().encode()
            if item.terms.decides:
                item.member.permissions = apply_fact(item.member.permissions, item.fact)
            if type(item.fact) is ConsentWithdrawn:
                note_withdrawal(item.member.withdrawn, item.fact, received_at=item.received_at)
            if type(item.fact) is ProfileFieldCleared:
                self._clear(item, item.fact)
            admitted.append(item)
        if self._seen is None:
            self._copies = copies if len(copies) <= COPIES_MAX else {}
        return self._seal(admitted, now=now)

    # Admission ------------------------------------------------------------------------------

    def _decide(
        self, item: Item, given: Sequence[Item], copy: bytes | None, *, last_tick: datetime
    ) -> Refusal | None:
        """Return why an item is refused, under the grants that would come before it, or None.

        `copy`: the digest of a live record with the item's tag.
        """
        if item.parent is not None:
            if item.parent.refusal is not None:
                return item.parent.refusal
            if copy is not None:  # nobody asks for the first reason of such an item
                return Refusal.DUPLICATE
        decision = admit(
            with_grants(item.member.permissions, given),
            item.terms.candidate(
                item.occurred_at, item.received_at, field_of(item.member.index_key, item.fact)
            ),
            self._book.rules,
            last_tick=last_tick,
            is_known_copy=None if copy is None else copy == item.digest.hex().encode(),
        )
        if type(decision) is Refusal:
            return decision
        return Refusal.CONSENT_MISSING if _is_withdrawn_since(item) else None

    async def _learn_withdrawals(self, items: Sequence[Item]) -> None:
        """Let those of whom a consent is told know what they withdrew before this run."""
        for item in items:
            member = item.member
            if type(item.fact) is ConsentGranted and not member.knows_withdrawn:
                known = {} if member.is_new else await self._members.withdrawn(member.ref)
                for purpose, at in known.items():
                    member.withdrawn[purpose] = max(at, member.withdrawn.get(purpose, at))
                member.knows_withdrawn = True

    def _clear(self, item: Item, fact: ProfileFieldCleared) -> None:
        """Let the erasure of a field go before the fact that it was cleared (policy P4).

        A copy of that fact has the same tag, and its request has no further effect.
        """
        erased = FieldErasureRequested(
            request=item.tag.hex(),
            occurred_at=fact.occurred_at,
            field=field_name(item.member.index_key, fact.field).hex(),
        )
        item.erasure = erased
        item.member.permissions = apply_control(item.member.permissions, erased, offset=0)

    async def _grants(self, member: Member, *, now: datetime) -> tuple[Item, ...]:
        """Return the default consents that the subject lacks and never withdrew or objected to."""
        if not self._defaults or member.is_defaulted or member.permissions.is_ended:
            return ()
        known = {*member.permissions.grants, *member.permissions.objections}
        missing = [purpose for purpose in self._defaults if purpose not in known]
        if missing and not member.is_new:
            withdrawn = await self._members.withdrawn(member.ref)
            missing = [purpose for purpose in missing if purpose not in withdrawn]
        made = (self._default(member, purpose, now=now) for purpose in missing)
        found = tuple(item for item in made if item is not None)
        member.is_defaulted = not found
        return found

    def _default(self, member: Member, purpose: str, *, now: datetime) -> Item | None:
        """Return one default consent; its tag is the same in every run, so it comes once only."""
        notice = self._book.rules.registry.defaults.notice
        fact = ConsentGranted(occurred_at=BEGINNING, purpose=purpose, notice=notice, is_assumed=True)
        terms = self._book.of(fact)
        if terms is None:
            return None
        content = sha256(purpose.encode()).digest()
        return Item(
            line=-1, member=member, fact=fact, terms=terms,
            tag=tag_of(member.index_key, source=self._source, event=content, role="default-consent"),
            digest=digest_of(member.index_key, content=content, role="default-consent"),
            source=self._source, occurred_at=BEGINNING, received_at=now,
        )  # fmt: skip

    def _apply_defaults(
        self, member: Member, given: Sequence[Item], copies: dict[Pair, bytes]
    ) -> Sequence[Item]:
        """Return the default consents to append, and count them as given from here on."""
        for item in given:
            member.permissions = apply_fact(member.permissions, item.fact)
            copies[item.pair] = item.digest.hex().encode()
        return given

    def _known_copies(
        self, items: Sequence[Item], grants: dict[SubjectRef, tuple[Item, ...]]
    ) -> dict[Pair, bytes]:
        """Return the digests of live copies; default consents that came before are taken out."""
        if self._seen is None:
            return self._copies
        wanted: dict[int, list[Pair]] = {}
        for item in (*items, *(given for some in grants.values() for given in some)):
            if not item.member.is_new:
                wanted.setdefault(item.member.partition, []).append(item.pair)
        copies: dict[Pair, bytes] = {}
        for partition, pairs in wanted.items():
            copies.update(self._seen(partition, pairs))
        for ref, some in grants.items():
            grants[ref] = tuple(given for given in some if given.pair not in copies)
        return copies

    # Sealing --------------------------------------------------------------------------------

    def _seal(self, items: Sequence[Item], *, now: datetime) -> list[NewRecord]:
        """Return the sealed records, each subject's pending control facts in front."""
        keys = self._keys(items, now=now)
        tokens = self._ids.token(_ID_BYTES * len(items)) if items else b""
        records: list[NewRecord] = []
        for number, (item, key) in enumerate(zip(items, keys, strict=True)):
            if key is None:
                item.refusal = Refusal.SUBJECT_ERASED
                continue
            record_id = tokens[number * _ID_BYTES : (number + 1) * _ID_BYTES]
            origin = self._book.origin(
                item.terms, source=item.source, received_at=item.received_at, tag=item.tag,
                digest=item.digest, field=field_of(item.member.index_key, item.fact),
            )  # fmt: skip
            try:
                record = self._codec.fact(
                    key, record_id, item.fact, origin, source_id=item.source_id, joint=item.joint
                )
            except (SchemaMismatch, UnicodeError):
                item.refusal = Refusal.SCHEMA_MISMATCH
                continue
            if item.member.pending:
                records += self._pending(item.member, now=now)
            if item.erasure is not None:
                records.append(self._control(item.member, item.erasure, now=now))
            records.append(record)
        return records

    def _pending(self, member: Member, *, now: datetime) -> list[NewRecord]:
        """Return the control facts that wait for the subject's next record."""
        records = []
        for fact in member.pending:
            records.append(self._control(member, fact, now=now))
            member.permissions = apply_control(member.permissions, fact, offset=0)
        member.pending = []
        return records

    def _control(self, member: Member, fact: ControlFact, *, now: datetime) -> NewRecord:
        return self._codec.control_fact(member.ref, self._ids.token(), fact, received_at=now)

    def _keys(self, items: Sequence[Item], *, now: datetime) -> list[DataKey | None]:
        """Return a key per item: one of its own where the category is fine, else the current one."""
        own = [(item.member.ref, item.terms.group) for item in items if item.terms.is_fine]
        common = [KeyWant(item.member.ref, item.terms.group) for item in items if not item.terms.is_fine]
        fine = iter(self._members.fresh_keys(own, now=now))
        shared = iter(self._members.keys(common, now=now))
        return [next(fine if item.terms.is_fine else shared) for item in items]


def _is_withdrawn_since(item: Item) -> bool:
    """Return whether a consent comes late, from before the person withdrew it.

    The log's order would put it in force again (GDPR Art. 7(3)).
    """
    fact = item.fact
    if type(fact) is not ConsentGranted:
        return False
    withdrawn_at = item.member.withdrawn.get(fact.purpose)
    return withdrawn_at is not None and fact.occurred_at <= withdrawn_at


def with_grants(permissions: Permissions, given: Sequence[Item]) -> Permissions:
    """Return the permissions as they are after these default consents."""
    if not given:
        return permissions
    grants = dict(permissions.grants)
    for item in given:
        if isinstance(item.fact, ConsentGranted):
            grants.setdefault(item.fact.purpose, item.fact.occurred_at)
    return structs.replace(permissions, grants=grants)


def _distinct(items: Sequence[Item]) -> list[Member]:
    """Return the members of these items once each."""
    return list({item.member.ref: item.member for item in items}.values())
