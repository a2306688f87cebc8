"""The subjects of a running ingest: who a line's people are, and what may be done for them."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from privacy_ledger.app._ports import Ports
from privacy_ledger.app._terms import INDEX_GROUP, SettingKey
from privacy_ledger.domain.errors import InvariantViolation, RefusedByPolicy
from privacy_ledger.domain.events import (
    ConsentWithdrawn,
    ControlFact,
    SubjectRegistered,
)
from privacy_ledger.domain.keyed_hash import KeyedHash
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import Category, SubjectRef, partition_of
from privacy_ledger.ports.keys import DataKey, Identity, IdentityRow, KeyWant
from privacy_ledger.streams.states import PERMISSIONS

__all__ = ["BEGINNING", "MINT_AGE", "Member", "Members", "merged", "note_withdrawal"]

MINT_AGE: Final = timedelta(days=60)
"""An event older than this mints no reference, unless it is a declared historical import."""
BEGINNING: Final = datetime(1, 1, 1, tzinfo=UTC)
MEMBERS_MAX: Final = 100_000
_NO_KEY: Final = KeyedHash(b"\0")
_ENDED: Final = Permissions(is_registered=True, ended_at=0)


class Member(Struct, gc=False):
    """One subject of a run.

    `pending`: control facts that go before the next record. `withdrawn`: when each purpose was last
    withdrawn; all of the log's, too, once `knows_withdrawn`. `setting_names`: tag and digest of each
    device and place that was met; `settings`: the tags of those that are in the log.
    """

    ref: SubjectRef
    partition: int
    permissions: Permissions
    is_new: bool
    pending: list[ControlFact]
    index_key: KeyedHash = _NO_KEY
    is_defaulted: bool = False
    withdrawn: dict[str, datetime] = {}
    knows_withdrawn: bool = False
    setting_names: dict[SettingKey, tuple[bytes, bytes]] = {}
    settings: set[bytes] = set()

    def __repr__(self) -> str:
        """Return the partition only: a member holds a key."""
        return f"Member(partition {self.partition})"


class Members:
    """Loads subjects, mints references, and remembers what the run itself appended."""

    def __init__(self, ports: Ports) -> None:
        """Take the ports and start with no subject."""
        self._vault = ports.vault
        self._views = ports.views
        self._log = ports.log
        self._codec = ports.codec
        self._passes = ports.passes
        self._partitions = ports.log.partitions(LEDGER_EVENTS)
        self._members: dict[SubjectRef, Member] = {}
        self._elder: dict[SubjectRef, SubjectRef] = {}

    def find(self, identities: Iterable[Identity]) -> dict[Identity, IdentityRow | None]:
        """Return the row of each identity, one look-up for all."""
        wanted = tuple(dict.fromkeys(identities))
        return dict(zip(wanted, self._vault.find(wanted), strict=True)) if wanted else {}

    def mint(
        self, groups: Sequence[tuple[Identity, ...]], *, now: datetime, not_before: datetime
    ) -> list[SubjectRef | None]:
        """Return a reference per group; None where an identity of it was erased meanwhile."""
        if not groups:
            return []
        try:
            return list(self._vault.mint(groups, now=now, not_before=not_before))
        except InvariantViolation:
            return [self._mint_one(group, now=now, not_before=not_before) for group in groups]

    def _mint_one(
        self, group: tuple[Identity, ...], *, now: datetime, not_before: datetime
    ) -> SubjectRef | None:
        try:
            return self._vault.mint((group,), now=now, not_before=not_before)[0]
        except InvariantViolation:
            return None

    def elder(self, row: IdentityRow, identity: Identity) -> SubjectRef:
        """Return the oldest reference of a person: new records go there."""
        elder = self._elder.get(row.ref)
        if elder is None:
            elder = self._elder[row.ref] = self._vault.refs_of(identity)[0]
        return elder

    def forget_elder(self, refs: Iterable[SubjectRef]) -> None:
        """Look the oldest reference up again, after a join."""
        for ref in refs:
            self._elder.pop(ref, None)

    async def load(self, ref: SubjectRef, *, not_before: datetime, is_new: bool, now: datetime) -> Member:
        """Return a subject; one that the views do not know as registered is registered first."""
        member = self._members.get(ref)
        if member is not None:
            return member
        permissions: Permissions | None = None
        if not is_new:
            permissions = await self._views.get(PERMISSIONS, ref)
        pending: list[ControlFact] = []
        if permissions is None or not permissions.is_registered:
            permissions = Permissions(is_registered=True, not_before=not_before)
            # The request id is the reference: however often it is written, it has one effect.
            pending.append(SubjectRegistered(request=ref.hex(), occurred_at=now, not_before=not_before))
        partition = partition_of(ref, self._partitions)
        member = Member(ref, partition, permissions, is_new, pending)
        self._members[ref] = member
        return member

    def index_keys(self, members: Sequence[Member], *, now: datetime) -> None:
        """Give each subject the key of its tags; one that was ended meanwhile becomes so."""
        keys = self.keys([KeyWant(member.ref, INDEX_GROUP, 0) for member in members], now=now)
        for member, key in zip(members, keys, strict=True):
            if key is None:
                member.permissions = _ENDED
                member.index_key = _NO_KEY
            else:
                member.index_key = KeyedHash(key.secret)

    def keys(self, wants: Sequence[KeyWant], *, now: datetime) -> list[DataKey | None]:
        """Return a key per want; None where the person was ended, unless the law keeps that group."""
        if not wants:
            return []
        try:
            return list(self._vault.sealing_keys(wants, now=now))
        except RefusedByPolicy:
            live = {ref for ref in {want.ref for want in wants} if not self._vault.is_ended(ref)}
            kept = [want for want in wants if want.ref in live]
            found = iter(self._vault.sealing_keys(kept, now=now))
            return [next(found) if want.ref in live else self._spared(want, now=now) for want in wants]

    def _spared(self, want: KeyWant, *, now: datetime) -> DataKey | None:
        """Return a key of an ended person, where the law keeps its group."""
        try:
            return self._vault.sealing_keys((want,), now=now)[0]
        except RefusedByPolicy:
            return None

    def fresh_keys(self, wants: Sequence[tuple[SubjectRef, str]], *, now: datetime) -> list[DataKey | None]:
        """Return a key of its own per want; None where the person was ended."""
        if not wants:
            return []
        try:
            return list(self._vault.fresh_keys(wants, now=now))
        except RefusedByPolicy:
            live = {ref for ref in {ref for ref, _ in wants} if not self._vault.is_ended(ref)}
            kept = [want for want in wants if want[0] in live]
            found = iter(self._vault.fresh_keys(kept, now=now) if kept else ())
            return [next(found) if ref in live else None for ref, _ in wants]

    async def withdrawn(self, ref: SubjectRef) -> dict[str, datetime]:
        """Return the purposes that the person ever withdrew, each with when last.

        No default grants them again. A clock that ran ahead says no later than when the withdrawal came.
        """
        rows = await self._views.live(ref)
        offsets = [row.offset for row in rows if row.category is Category.EVIDENCE]
        if not offsets:
            return {}
        partition = partition_of(ref, self._partitions)
        found = self._codec.decode(await self._log.read_at(LEDGER_EVENTS, partition, offsets))
        last: dict[str, datetime] = {}
        for record in found:
            if isinstance(record.body, ConsentWithdrawn):
                note_withdrawal(last, record.body, received_at=record.received_at)
        return last

    def fence(self, ref: SubjectRef) -> None:
        """Refuse everything of a subject from here on: its erasure was requested in this run."""
        partition = partition_of(ref, self._partitions)
        self._members[ref] = Member(ref, partition, _ENDED, is_new=False, pending=[])

    def joined(self, identity: Identity) -> tuple[SubjectRef, ...]:
        """Return every reference of a person, elder first."""
        return self._vault.refs_of(identity)

    def appended(self, members: Iterable[Member]) -> None:
        """Note that all of these subjects' pending facts and records are in the log."""
        for member in members:
            member.is_new = False

    async def shrink(self) -> None:
        """Bound the memory of a long run; the views must first have what it appended."""
        if len(self._members) <= MEMBERS_MAX:
            return
        if self._passes is not None:
            await self._passes.settle()
        self._members.clear()
        self._elder.clear()


def note_withdrawal(last: dict[str, datetime], fact: ConsentWithdrawn, *, received_at: datetime) -> None:
    """Keep when a purpose was last withdrawn."""
    at = min(fact.occurred_at, received_at)
    last[fact.purpose] = max(at, last.get(fact.purpose, at))


def merged(groups: Sequence[tuple[Identity, ...]]) -> tuple[list[tuple[Identity, ...]], list[int]]:
    """Return groups that share no identity, and for each given group the place of its own."""
    owner: dict[Identity, int] = {}
    parent = list(range(len(groups)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for place, group in enumerate(groups):
        for identity in group:
            first = root(owner.setdefault(identity, place))
            mine = root(place)
            low, high = min(first, mine), max(first, mine)
            parent[high] = low
    joined: dict[int, dict[Identity, None]] = {}
    for place, group in enumerate(groups):
        joined.setdefault(root(place), {}).update(dict.fromkeys(group))
    order = {place: number for number, place in enumerate(joined)}
    return [tuple(group) for group in joined.values()], [order[root(place)] for place in range(len(groups))]
