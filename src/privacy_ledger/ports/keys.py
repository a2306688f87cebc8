"""Keys and identities: the keystore is the only place that links a person to a reference."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from privacy_ledger.domain.values import Category, SubjectRef

__all__ = [
    "AgedKeys",
    "DataKey",
    "Identity",
    "IdentityRow",
    "IdentityStatus",
    "KeyGeneration",
    "KeyStanding",
    "KeyVault",
    "KeyWant",
    "LaneKey",
    "ShredReport",
    "Shredded",
    "Withheld",
]


class DataKey(Struct, frozen=True, gc=False):
    """A data-encryption key in clear; `kid` commits to its bytes. Never logged."""

    ref: SubjectRef
    group: str
    generation: int
    kid: bytes
    secret: bytes

    def __repr__(self) -> str:
        """Return the name of the key and never its bytes."""
        return f"DataKey({self.group}, generation {self.generation})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Return what rich may print: msgspec's own answer would hold the secret."""
        return [("group", self.group), ("generation", self.generation)]


class Shredded(Struct, frozen=True, gc=False):
    """A key that was destroyed: its records are erased (never confused with an unknown key)."""

    ref: SubjectRef
    group: str
    generation: int


class Withheld(Struct, frozen=True, gc=False):
    """A key that is there, and is not released to this role for this purpose: nothing opens here."""

    ref: SubjectRef
    group: str
    generation: int
    role: str
    purpose: str


class KeyWant(Struct, frozen=True, gc=False):
    """A key wanted for sealing: the current generation when `generation` is None."""

    ref: SubjectRef
    group: str
    generation: int | None = None


class Identity(Struct, frozen=True, gc=False):
    """A platform's own id of a person, canonical, in an exact namespace; never logged.

    Namespaces: `openedx:user_id` (decimal string), `openedx:username` (NFC text),
    `xapi:mbox_sha1sum` (hex), `xapi:account` (home page, space, name), `xapi:openid` (URI),
    `caliper:person` (IRI).
    """

    namespace: str
    value: str

    def __repr__(self) -> str:
        """Return the namespace only."""
        return f"Identity({self.namespace})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Return what rich may print: msgspec's own answer would hold the value."""
        return [("namespace", self.namespace)]


class IdentityStatus(StrEnum):
    """Whether an identity is in use, or erased (then it is the suppression list)."""

    ACTIVE = "active"
    ERASED = "erased"


class IdentityRow(Struct, frozen=True, gc=False):
    """What the keystore knows of an identity; `not_before` refuses earlier events."""

    ref: SubjectRef
    status: IdentityStatus
    not_before: datetime
    erasure: bytes | None = None


class ShredReport(Struct, frozen=True, kw_only=True):
    """What a shred destroyed: key ids in hex and the number of keys by group."""

    kids: tuple[str, ...]
    by_group: dict[str, int]


class KeyStanding(Struct, frozen=True, kw_only=True):
    """How many keys of a reference are in use, and how many were destroyed.

    `epoch`: the newest one of the keystore. No copy that exists now holds a key of the reference
    under a younger one; its rows say less, for a keystore from a backup has older rows than the
    copies that were made since.
    """

    live: int
    destroyed: int
    epoch: int


class KeyGeneration(Struct, frozen=True, kw_only=True, gc=False):
    """A key that seals records, without its bytes; `row` is its place in this keystore.

    `is_expired`: retention destroyed it, for all that it sealed was due.
    """

    row: int
    ref: SubjectRef
    kid: bytes
    group: str
    generation: int
    created_at: datetime
    destroyed_at: datetime | None = None
    is_expired: bool = False

    @property
    def category(self) -> Category:
        """The category of what it seals."""
        return Category(self.group.partition("+")[0])


class AgedKeys(Struct, frozen=True, kw_only=True):
    """Keys of a certain age from one look, in the order of their rows; `after`: where the next begins.

    None: there is no more.
    """

    keys: tuple[KeyGeneration, ...]
    after: int | None


class LaneKey(Struct, frozen=True, gc=False):
    """A key of a lane, by id: whether it was destroyed."""

    lane: SubjectRef
    kid: bytes
    is_destroyed: bool


class KeyVault(Protocol):
    """The keystore, as one role sees it for one purpose; synchronous, durable on return.

    Safe for several processes at once. A key of a group that is not released to the caller comes as
    `Withheld` where it would be opened, and is refused by `KeyWithheld` where it would seal.

    Every method raises `KeyUnavailable` when the store or the key-encryption key cannot be
    reached, which is never confused with `Shredded`.
    """

    # Identities -----------------------------------------------------------------
    def find(self, identities: Sequence[Identity]) -> tuple[IdentityRow | None, ...]:
        """Return the row of each identity, in order, None where unknown."""
        ...

    def mint(
        self, groups: Sequence[tuple[Identity, ...]], *, now: datetime, not_before: datetime
    ) -> tuple[SubjectRef, ...]:
        """Return a new reference for each group of identities of one person, bound to all of it.

        An identity that became known meanwhile wins: its group gets that reference. Raises
        `InvariantViolation` when a group holds an erased identity.
        """
        ...

    def bind(self, ref: SubjectRef, identities: Sequence[Identity], *, now: datetime) -> None:
        """Bind further unknown identities to a reference; known ones are left as they are."""
        ...

    def refs_of(self, identity: Identity) -> tuple[SubjectRef, ...]:
        """Return every reference joined with this identity's, elder first; empty when unknown."""
        ...

    def reopen(self, identity: Identity, *, now: datetime) -> SubjectRef:
        """Return a new reference for an erased person's authenticated return.

        Every identity of the same erasure id becomes active under it, `not_before` = `now`.
        Raises `RefusedByPolicy(NOT_ERASED)` when the identity is not erased.
        """
        ...

    def erase_identities(self, ref: SubjectRef, *, now: datetime) -> int:
        """Turn every identity of a reference `erased`, under one erasure id; return how many."""
        ...

    # Lanes ------------------------------------------------------------------------
    def join_lanes(self, lanes: Mapping[SubjectRef, SubjectRef], *, now: datetime) -> frozenset[SubjectRef]:
        """Join the lanes of sessions to persons, {lane: person's reference}; return those that are theirs.

        A lane that is joined to another person, unknown or ended stays as it is, and is not
        returned. Nor is one whose person was ended: it is ended with its keys. Idempotent.
        """
        ...

    def lanes_of(self, ref: SubjectRef) -> tuple[SubjectRef, ...]:
        """Return the lanes that are joined to a reference, elder first; they are none of `refs_of`."""
        ...

    def lane_keys(self, ref: SubjectRef) -> tuple[LaneKey, ...]:
        """Return every key that the lanes of a reference ever had, elder first, in one query.

        Where all are destroyed, nothing that lies in those lanes opens.
        """
        ...

    def end_lanes(self, ref: SubjectRef, *, now: datetime) -> ShredReport:
        """End the lanes of a reference for ever, turn their sessions `erased`, destroy their keys.

        Call it after `end`: nothing is joined to an ended reference. Idempotent; the report tells
        what this call destroyed.
        """
        ...

    # Data keys ------------------------------------------------------------------
    def sealing_keys(self, wants: Sequence[KeyWant], *, now: datetime) -> tuple[DataKey, ...]:
        """Return a key per want, in order, created durably where missing.

        With `generation` None: the current generation, younger than 30 days and below 2**24
        records. With a number: exactly that generation. Raises `RefusedByPolicy(SUBJECT_ERASED)`
        for an ended reference, `InvariantViolation` for a shredded generation, and
        `KeyWithheld` for a group that is not released to the caller.
        """
        ...

    def fresh_keys(self, wants: Sequence[tuple[SubjectRef, str]], *, now: datetime) -> tuple[DataKey, ...]:
        """Return a new generation of its own for each (reference, group): record grain.

        Raises what `sealing_keys` raises.
        """
        ...

    def retire(
        self, ref: SubjectRef, *, purpose: str = "", category: Category | None = None
    ) -> dict[str, int]:
        """Let keys seal nothing more; what they sealed stays readable. Idempotent.

        Those that seal for a purpose, or all of a category. The next record takes a new generation:
        here at once, in another process as after a shred. So a withdrawal can destroy the keys of
        before it, whatever was sealed since. Return the first generation of each of these groups
        that is not retired.
        """
        ...

    def unused_generation(self, group: str) -> int:
        """Return the first generation that no key of this group has, over all references.

        A look through the whole group: for the moment at which a pass begins to use it.
        """
        ...

    def open_keys(self, kids: Sequence[bytes]) -> dict[bytes, DataKey | Shredded | Withheld]:
        """Return the keys of these ids; an id that was never held here is absent.

        The commitment is checked at unwrap: a wrong key raises `InvariantViolation`.
        """
        ...

    def shred(
        self,
        ref: SubjectRef,
        *,
        now: datetime,
        group: str | None = None,
        generation: int | None = None,
        below: int | None = None,
        spare: Collection[str] = (),
    ) -> ShredReport:
        """Destroy keys: all of a reference, of a group, of one generation, or those below one.

        Keys of the groups in `spare` stay. Rows stay with nulled material. Idempotent. Material is gone
        from the file and its write-ahead log when this returns.
        """
        ...

    def standing_of(self, ref: SubjectRef) -> KeyStanding:
        """Return how many keys of a reference there are and were, and the keystore's newest epoch."""
        ...

    def shred_group(self, group: str, *, now: datetime) -> int:
        """Destroy every key of a group, whoever's it is; return how many. Idempotent.

        It goes in slices: interrupted, what is left stays readable until it is called again.
        """
        ...

    # Retention --------------------------------------------------------------------
    def aged_keys(self, before: Mapping[Category, datetime], *, after: int) -> AgedKeys:
        """Return live keys that seal records of these categories and were created before an instant.

        A look reads a bounded number of rows, beginning `after` 0. Keys of views, states and lanes are
        never among them.
        """
        ...

    def keys_of(self, ref: SubjectRef) -> tuple[KeyGeneration, ...]:
        """Return every key of a reference that ever sealed records, by group and generation."""
        ...

    def shred_expired(self, keys: Sequence[KeyGeneration], *, now: datetime) -> tuple[KeyGeneration, ...]:
        """Destroy keys whose records are all past their retention; return those that were live.

        Durable as `shred`, in slices, and idempotent. Journal and keystore say that it was retention. A
        row that holds another key by now stays. Raises `InvariantViolation` for a key of anything but
        records, and destroys nothing.
        """
        ...

    # Ends ---------------------------------------------------------------------------
    def end(self, ref: SubjectRef, *, now: datetime, spare: Collection[str] = ()) -> None:
        """End a reference for ever: no key is created for it again, but of the groups in `spare`.

        Idempotent. A later call spares no group that an earlier one did not: what ended stays so. A
        restore destroys every key of an ended reference but those of its spared groups.
        """
        ...

    def live_groups(self, ref: SubjectRef) -> tuple[str, ...]:
        """Return the groups in which a reference has a key in use, in order."""
        ...

    def is_ended(self, ref: SubjectRef) -> bool:
        """Return whether the reference was ended."""
        ...

    def ended_refs(self) -> tuple[SubjectRef, ...]:
        """Return the ended references that this keystore knows by name; reads every reference.

        For the moment after a restore: the log may not know yet whom the keystore ended.
        """
        ...

    # Ledger-wide secrets ----------------------------------------------------------
    def secret(self, name: str) -> bytes:
        """Return a ledger-wide 32-byte secret by name, created once.

        Names in use: `control-mac`, `sampling`, `row-key`, `refusals`, `audit-signing`.
        """
        ...

    def close(self) -> None:
        """Close the store; idempotent."""
        ...
