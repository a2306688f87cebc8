"""Under which terms a fact is collected, and its keyed tag and digest."""

from datetime import datetime
from hashlib import sha256
from typing import Final, cast

from msgspec import Struct

from privacy_ledger.domain.admission import Candidate
from privacy_ledger.domain.events import (
    DeviceObserved,
    Fact,
    ProfileFieldSet,
    RegionDerived,
    StudyResponseRecorded,
    event_type,
)
from privacy_ledger.domain.keyed_hash import KeyedHash
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, Grain, LawfulBasis, month_of
from privacy_ledger.ports.codec import Origin

__all__ = [
    "INDEX_GROUP",
    "OWN_SOURCE",
    "SettingKey",
    "Terms",
    "TermsBook",
    "digest_of",
    "field_name",
    "field_of",
    "setting_key",
    "setting_names",
    "tag_of",
]

INDEX_GROUP: Final = "index"
"""The key group of a subject's tags; generation 0, shredded with the person."""
OWN_SOURCE: Final = "privacy-ledger"
"""The source of facts that commands append."""
_TAG_BYTES: Final = 16
_FIELD_BYTES: Final = 8

SettingKey = tuple[str | int | None, ...]
"""What it is, the calendar month, and what is kept: families of a device, or country and region."""


class Terms(Struct, frozen=True, gc=False):
    """What the rules in force say about one event type."""

    type: str
    category: Category
    purposes: tuple[str, ...]
    basis: LawfulBasis
    group: str
    is_fine: bool
    decides: bool

    def candidate(self, occurred_at: datetime, received_at: datetime, field: bytes = b"") -> Candidate:
        """Return what admission looks at."""
        return Candidate(self.type, self.category, self.purposes, occurred_at, received_at, field)


class TermsBook:
    """Terms by event class, from one book of rules."""

    def __init__(self, rules: Rules) -> None:
        """Take the rules in force."""
        self.rules = rules
        self._known: dict[type[Fact], Terms | None] = {}

    def of(self, fact: Fact) -> Terms | None:
        """Return the terms of a fact, or None when the rules do not know its type."""
        kind = type(fact)
        if kind is StudyResponseRecorded:
            return self._look_up(kind, purposes=(cast("StudyResponseRecorded", fact).programme,))
        try:
            return self._known[kind]
        except KeyError:
            terms = self._known[kind] = self._look_up(kind)
            return terms

    def origin(
        self,
        terms: Terms,
        *,
        source: str,
        received_at: datetime,
        tag: bytes,
        digest: bytes,
        field: bytes = b"",
    ) -> Origin:
        """Return the clear headers of a record under these terms."""
        defaults = self.rules.registry.defaults
        return Origin(
            source=source, purposes=terms.purposes, basis=terms.basis, notice=defaults.notice,
            jurisdiction=defaults.jurisdiction, received_at=received_at, tag=tag, digest=digest,
            field=field,
        )  # fmt: skip

    def _look_up(self, kind: type[Fact], *, purposes: tuple[str, ...] = ()) -> Terms | None:
        """Return the terms of a class; `purposes`: what it was collected for, else all that it may serve."""
        name = event_type(kind)
        rule = self.rules.event(name)
        if rule is None:
            return None
        purposes = purposes or tuple(sorted(rule.purposes))
        category = self.rules.category(kind.category)
        return Terms(
            type=name,
            category=kind.category,
            purposes=purposes,
            basis=self._basis(purposes),
            group=self.rules.key_group(kind.category, purposes),
            is_fine=category is not None and category.grain is Grain.RECORD,
            decides=kind.category in (Category.EVIDENCE, Category.ACCOUNT),
        )

    def _basis(self, purposes: tuple[str, ...]) -> LawfulBasis:
        """Return the basis of the first purpose that needs no consent, else consent."""
        for purpose in purposes:
            row = self.rules.purpose(purpose)
            if row is not None and row.basis is not LawfulBasis.CONSENT:
                return row.basis
        return LawfulBasis.CONSENT


def tag_of(index_key: KeyedHash, *, source: str, event: bytes, role: str) -> bytes:
    """Return the keyed name of one fact of one event: the same for every copy of it.

    `event` is the producer's id, or the hash of the raw line where there is none.
    """
    named = b"\0".join((source.encode(), event, role.encode()))
    return index_key(named)[:_TAG_BYTES]


def digest_of(index_key: KeyedHash, *, content: bytes, role: str) -> bytes:
    """Return the keyed digest of one fact's content; `content` is the hash of the decoded event."""
    return index_key(content + role.encode())[:_TAG_BYTES]


def field_of(index_key: KeyedHash, fact: Fact) -> bytes:
    """Return the keyed name of the profile field that a fact sets; empty for every other fact.

    It stands in a clear header: so every pass finds the records of a field, and nobody reads which.
    """
    if type(fact) is not ProfileFieldSet:
        return b""
    return field_name(index_key, fact.field)


def field_name(index_key: KeyedHash, field: str) -> bytes:
    """Return the keyed name of a profile field of one person."""
    return index_key(b"field\0" + field.encode())[:_FIELD_BYTES]


def setting_key(fact: DeviceObserved | RegionDerived) -> SettingKey:
    """Return what makes a device or a place another one: the calendar month, and what is kept of it."""
    month = month_of(fact.occurred_at)
    if isinstance(fact, RegionDerived):
        return "location", month, fact.country, fact.region
    return "device", month, fact.browser, fact.system, fact.device_class


def setting_names(index_key: KeyedHash, *, source: str, setting: SettingKey) -> tuple[bytes, bytes]:
    """Return tag and digest of a device or a place: one record per subject, month and what is kept."""
    role, *kept = setting
    content = sha256("\0".join(map(str, kept)).encode()).digest()
    tag = tag_of(index_key, source=source, event=content, role=str(role))
    return tag, digest_of(index_key, content=content, role=str(role))
