"""What is done for one person: consents, restriction, minor status, return, and a look at it all.

A person is the set of references that were found to be theirs; every command acts on each.
"""

import unicodedata
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from privacy_ledger.app._own import OwnRecords
from privacy_ledger.app._scopes import Scope, ScopeKind
from privacy_ledger.app._show import Shown, shown
from privacy_ledger.app._terms import INDEX_GROUP, field_name
from privacy_ledger.domain.errors import BadInput, RefusedByPolicy
from privacy_ledger.domain.events import (
    ConsentGranted,
    ConsentWithdrawn,
    ControlFact,
    Fact,
    HoldLifted,
    HoldPlaced,
    MinorStatusDeclared,
    ObjectionRaised,
    RestrictionLifted,
    RestrictionStarted,
    RevealRecorded,
    SubjectRegistered,
    SubjectReopened,
)
from privacy_ledger.domain.events.control import HoldGround
from privacy_ledger.domain.holds import Hold
from privacy_ledger.domain.identifiers import person_of, xapi_name
from privacy_ledger.domain.keyed_hash import KeyedHash
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import ALWAYS, Rules
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.keys import Identity, IdentityStatus, KeyVault, KeyWant
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.passes import Views
from privacy_ledger.ports.runtime import Clock, Ids
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.states import PERMISSIONS

__all__ = ["Ground", "Person", "Subjects", "identity_of"]

Ground = Literal["accuracy", "unlawful", "claims", "objection"]
Offsets = dict[int, int]
_PARTS: Final = 3


class Person(Struct, frozen=True, kw_only=True):
    """Who a SUBJECT is: their identity, its status, and every reference of theirs, elder first."""

    identity: Identity
    status: IdentityStatus
    refs: tuple[SubjectRef, ...]
    erasure: bytes | None = None

    def __repr__(self) -> str:
        """Return the status and a count."""
        return f"Person({self.status}, {len(self.refs)} references)"


class Subjects:
    """The use cases about one person; each returns {partition: offset} of what it appended."""

    def __init__(
        self,
        *,
        log: EventLog,
        vault: KeyVault,
        codec: Codec,
        views: Views,
        clock: Clock,
        ids: Ids,
        rules: Rules,
    ) -> None:
        """Take the ports and the rules in force."""
        self._vault = vault
        self._views = views
        self._clock = clock
        self._ids = ids
        self._rules = rules
        self._own = OwnRecords(log=log, vault=vault, codec=codec, clock=clock, ids=ids, rules=rules)

    # Who ------------------------------------------------------------------------------------

    def find(self, subject: str) -> Person:
        """Return who a SUBJECT such as `openedx:user_id:42` is, erased persons included.

        Raises:
            BadInput: no SUBJECT.
            RefusedByPolicy: `subject_unknown`.
        """
        identity = identity_of(subject)
        (row,) = self._vault.find((identity,))
        if row is None:
            raise RefusedByPolicy(
                Refusal.SUBJECT_UNKNOWN,
                "Nothing is known of this subject. Check the id and its namespace "
                "(for example openedx:user_id:42 or openedx:username:ada).",
            )
        # An erasure leaves the references of a person as they were; a return starts a new set.
        refs = self._vault.refs_of(identity) or (row.ref,)
        return Person(identity=identity, status=row.status, refs=refs, erasure=row.erasure)

    def active(self, subject: str) -> Person:
        """Return who a SUBJECT is, erased persons refused."""
        person = self.find(subject)
        if person.status is IdentityStatus.ERASED:
            raise RefusedByPolicy(
                Refusal.SUBJECT_ERASED,
                "This subject was erased. A person who comes back is reopened first: "
                "`privacy-ledger subject return`.",
            )
        return person

    # Consent --------------------------------------------------------------------------------

    async def grant(self, subject: str, purpose: str) -> Offsets:
        """Append the person's consent to a purpose; it counts for later events.

        Raises:
            RefusedByPolicy: unknown or erased subject, or no purpose that rests on consent.
        """
        self._check(purpose, needs_consent=True)
        notice = self._rules.registry.defaults.notice
        return await self._facts(
            self.active(subject), lambda now: ConsentGranted(occurred_at=now, purpose=purpose, notice=notice)
        )

    async def withdraw(self, subject: str, purpose: str) -> Offsets:
        """Append the person's withdrawal of a consent (GDPR Art. 7(3)); always possible."""
        self._check(purpose, needs_consent=True)
        return await self._facts(
            self.active(subject), lambda now: ConsentWithdrawn(occurred_at=now, purpose=purpose)
        )

    async def object_to(self, subject: str, purpose: str) -> Offsets:
        """Append the person's objection to a purpose (GDPR Art. 21)."""
        self._check(purpose, needs_consent=False)
        return await self._facts(
            self.active(subject), lambda now: ObjectionRaised(occurred_at=now, purpose=purpose)
        )

    def _check(self, purpose: str, *, needs_consent: bool) -> None:
        """Refuse a purpose that is unknown or forbidden, or rests on no consent where one is meant."""
        usable = {row.id for row in self._rules.registry.purposes if not row.is_forbidden}
        if needs_consent:
            usable &= self._rules.consent_purposes
        if purpose not in usable:
            raise RefusedByPolicy(
                Refusal.UNKNOWN_PURPOSE,
                f"There is no such purpose here. Those are: {', '.join(sorted(usable))}.",
            )

    # Less than the person -------------------------------------------------------------------

    def scopes(self, subject: str, kind: ScopeKind, value: str) -> list[tuple[SubjectRef, Scope]]:
        """Return a scope of each of the person's references: a field is known there by a keyed name.

        Raises:
            RefusedByPolicy: unknown or erased subject, or nothing that can be erased apart.
        """
        categories = {c for c in Category if c is not Category.EVIDENCE and self._rules.duty(c) is None}
        if kind == "category" and value not in categories:
            raise RefusedByPolicy(
                Refusal.UNKNOWN_EVENT,
                "There is no such category that is erased apart. Those are: "
                f"{', '.join(sorted(categories))}.",
            )
        fixed = {ALWAYS, *(row.duty for row in self._rules.registry.categories if row.duty is not None)}
        if kind == "purpose" and (value in fixed or self._rules.purpose(value) is None):
            usable = sorted(row.id for row in self._rules.registry.purposes if row.id not in fixed)
            raise RefusedByPolicy(
                Refusal.UNKNOWN_PURPOSE,
                f"There is no such purpose that is erased apart. Those are: {', '.join(usable)}.",
            )
        refs = self._live(self.active(subject))
        if kind != "field":
            return [(ref, Scope(kind=kind, value=value)) for ref in refs]
        wants = [KeyWant(ref, INDEX_GROUP, 0) for ref in refs]
        keys = self._vault.sealing_keys(wants, now=self._clock.now())
        names = [field_name(KeyedHash(key.secret), value) for key in keys]
        return [(ref, Scope(kind="field", value=name.hex())) for ref, name in zip(refs, names, strict=True)]

    # Restriction and status -----------------------------------------------------------------

    async def restrict(self, subject: str, *, ground: Ground) -> Offsets:
        """Restrict processing on a ground of GDPR Art. 18(1); records are kept and held."""
        request = self._ids.token().hex()
        return await self._controls(
            self.active(subject),
            lambda now: RestrictionStarted(request=request, occurred_at=now, ground=ground),
        )

    async def lift(self, subject: str, *, notified_at: datetime | None) -> Offsets:
        """Lift the restriction, once the person was told so (GDPR Art. 18(3)).

        Raises:
            RefusedByPolicy: `not_notified`: the person was not told, or would be told in future.
        """
        person = self.active(subject)
        if notified_at is None or notified_at > self._clock.now():
            raise RefusedByPolicy(
                Refusal.NOT_NOTIFIED,
                "The person is told before a restriction is lifted. Tell them, then run it again "
                "with `--notified-at TIME`, a time that has passed.",
            )
        told, request = notified_at, self._ids.token().hex()
        return await self._controls(
            person, lambda now: RestrictionLifted(request=request, occurred_at=now, notified_at=told)
        )

    async def minor(self, subject: str, *, is_minor: bool, is_approved: bool = False) -> Offsets:
        """Declare the person a minor or of age; `is_approved`: a guardian consented."""
        request = self._ids.token().hex()
        return await self._controls(
            self.active(subject),
            lambda now: MinorStatusDeclared(
                request=request, occurred_at=now, is_minor=is_minor, is_approved=is_approved
            ),
        )

    async def return_(self, subject: str) -> Offsets:
        """Reopen an erased person under a new reference; the erased one stays forgotten.

        The caller has authenticated the person. Raises `RefusedByPolicy(NOT_ERASED)` otherwise.
        """
        identity = self.find(subject).identity
        now = self._clock.now()
        ref = self._vault.reopen(identity, now=now)
        registered = SubjectRegistered(request=ref.hex(), occurred_at=now, not_before=now)
        reopened = SubjectReopened(request=self._ids.token().hex(), occurred_at=now)
        return await self._own.append([self._own.control(ref, fact) for fact in (registered, reopened)])

    # Holds ----------------------------------------------------------------------------------

    async def place_hold(
        self, subject: str, *, category: Category, ground: HoldGround, until: datetime | None
    ) -> tuple[str, Offsets]:
        """Hold one category of a person, whoever asks for its removal; return the hold's id as well.

        Of an erased person what the law keeps can be held. One id names it over all references.

        Raises:
            BadInput: `until` has passed.
            RefusedByPolicy: nothing is known of the person, or nothing of them is kept.
        """
        person = self.find(subject)
        now = self._clock.now()
        if until is not None and until <= now:
            raise BadInput(Refusal.TIME_INVALID, "A hold ends in future. Give `--until` a time to come.")
        request = self._ids.token().hex()
        fact = HoldPlaced(
            request=request, occurred_at=now, category=category, ground=ground, until=until
        )  # fmt: skip
        refs = [
            ref
            for ref in person.refs
            if not self._vault.is_ended(ref) or await self._views.live(ref)
        ]  # fmt: skip
        if not refs:
            raise RefusedByPolicy(
                Refusal.SUBJECT_ERASED, "This subject was erased, and nothing of it is kept: hold nothing."
            )
        return request, await self._own.append([self._own.control(ref, fact) for ref in refs])

    async def lift_hold(self, subject: str, hold: str) -> Offsets:
        """Lift a hold; what it put off takes effect, and an erasure that rests on it goes on.

        Raises:
            RefusedByPolicy: `hold_unknown`: there is no such hold in force.
        """
        person = self.find(subject)
        refs = [ref for ref in person.refs if hold in {one.request for one in await self._holds_of(ref)}]
        if not refs:
            raise RefusedByPolicy(
                Refusal.HOLD_UNKNOWN,
                "There is no such hold in force. `privacy-ledger hold list` shows those that are.",
            )
        fact = HoldLifted(request=self._ids.token().hex(), occurred_at=self._clock.now(), hold=hold)
        return await self._own.append([self._own.control(ref, fact) for ref in refs])

    async def holds(self, subject: str) -> tuple[Hold, ...]:
        """Return the holds in force on a person, oldest first, erased persons included."""
        found = [hold for ref in self.find(subject).refs for hold in await self._holds_of(ref)]
        return tuple(sorted({hold.request: hold for hold in found}.values(), key=lambda hold: hold.placed_at))

    async def _holds_of(self, ref: SubjectRef) -> tuple[Hold, ...]:
        permissions = await self._views.get(PERMISSIONS, ref)
        return () if permissions is None else permissions.holds

    # Looking --------------------------------------------------------------------------------

    async def reveal(self, subject: str, *, reason: str) -> Offsets:
        """Record that somebody is about to look at the person's values in clear, and why.

        Append and settle this before `show(is_masked=False)`.
        """
        if not reason.strip():
            raise BadInput(Refusal.SCHEMA_MISMATCH, "A reveal needs a reason. Give `--reason TEXT`.")
        return await self._facts(
            self.active(subject), lambda now: RevealRecorded(occurred_at=now, reason=reason)
        )

    async def show(self, subject: str, *, is_masked: bool = True) -> Shown:
        """Return permissions and projections of every reference of the person."""
        person = self.find(subject)
        states = []
        for ref in person.refs:
            view = await self._views.get(subject_view.TABLE, ref)
            courses = await self._views.get(progress.TABLE, ref)
            permissions = await self._views.get(PERMISSIONS, ref)
            states.append((permissions, view, courses))
        return shown(person.status, states, is_masked=is_masked)

    async def permissions(self, subject: str) -> list[Permissions]:
        """Return what the passes published last of each reference that goes on; none where nothing is."""
        found = []
        for ref in self._live(self.active(subject)):
            permissions = await self._views.get(PERMISSIONS, ref)
            if permissions is not None:
                found.append(permissions)
        return found

    # Appending ------------------------------------------------------------------------------

    async def _facts(self, person: Person, fact: Callable[[datetime], Fact]) -> Offsets:
        now = self._clock.now()
        return await self._own.append([self._own.sealed(ref, fact(now)) for ref in self._live(person)])

    async def _controls(self, person: Person, fact: Callable[[datetime], ControlFact]) -> Offsets:
        now = self._clock.now()
        return await self._own.append([self._own.control(ref, fact(now)) for ref in self._live(person)])

    def _live(self, person: Person) -> Sequence[SubjectRef]:
        """Return the references that were not ended."""
        refs = [ref for ref in person.refs if not self._vault.is_ended(ref)]
        if not refs:
            raise RefusedByPolicy(
                Refusal.SUBJECT_ERASED, "This subject's erasure is under way: nothing is added to it."
            )
        return refs


def identity_of(subject: str) -> Identity:
    """Return the identity that a SUBJECT names, canonical as the formats make it.

    Raises:
        BadInput: it is not of the form SOURCE:KIND:ID, or no id of that kind.
    """
    parts = subject.split(":", _PARTS - 1)
    if len(parts) < _PARTS or not all(parts):
        raise BadInput(
            Refusal.ID_INVALID,
            "A SUBJECT has the form SOURCE:KIND:ID, such as openedx:user_id:42 or openedx:username:ada.",
        )
    source, kind, value = parts
    if source == "xapi":
        name = xapi_name(kind, value)
        if name is None:
            raise BadInput(
                Refusal.ID_INVALID,
                "An xAPI SUBJECT is xapi:mbox:ADDRESS, xapi:mbox_sha1sum:HEX, xapi:openid:URI or "
                "'xapi:account:HOMEPAGE NAME'.",
            )
        return Identity(f"xapi:{name[0]}", name[1])
    if source == "caliper":
        person = person_of(value) if kind == "person" else None
        if person is None:
            raise BadInput(Refusal.ID_INVALID, "A Caliper SUBJECT is caliper:person:IRI.")
        return Identity(*person)
    if kind == "user_id":
        if not (value.isascii() and value.isdecimal()):
            raise BadInput(Refusal.ID_INVALID, "A user_id is a decimal number, such as openedx:user_id:42.")
        value = str(int(value)) if len(value) < 20 else value  # noqa: PLR2004 - longer ones are nobody's
    else:
        value = unicodedata.normalize("NFC", value)
    return Identity(f"{source}:{kind}", value)
