"""Who may have which keys: a declared table of role and purpose, and nothing beside it.

A key group is a category of personal data (`usage`, or `usage+marketing.own` where one consent alone
allows it) or one of a few kinds of what is derived from records. A group that is neither is nobody's.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.values import Category

__all__ = [
    "COLLECT",
    "DECLARED",
    "ERASE",
    "NOTHING",
    "OPERATE",
    "READ_VIEWS",
    "RIGHTS",
    "SUMS",
    "UNKNOWN",
    "Caller",
    "Grant",
    "Kind",
    "Releases",
    "Role",
    "class_of",
]


class Role(StrEnum):
    """Who asks for a key."""

    INGEST = "ingest"
    WORKER = "worker"
    PRIVACY = "privacy"
    ERASER = "eraser"
    RELEASE = "release"
    OPERATOR = "operator"
    ANALYST = "analyst"


class Kind(StrEnum):
    """What a key seals that is no record of a category."""

    INDEX = "index"
    """The names by which copies of a record are known again."""
    LANE = "lane"
    """Events whose subject is not known yet."""
    RECEIPT = "receipt"
    """What a receipt's salt is made from, until the person has it."""
    STATE = "state"
    """What a pass keeps for itself."""
    VIEW = "view"
    """What a projection publishes."""
    WINDOW = "window"
    """Partial sums of an analytics window."""


UNKNOWN: Final = "unknown"
"""How a group is counted that is neither a category nor a kind."""
_CATEGORIES: Final = frozenset(map(str, Category))
_NAMED: Final = frozenset({Kind.STATE, Kind.VIEW})
"""Kinds whose groups have a name after a colon; the others are one group each."""


def class_of(group: str) -> Category | Kind | None:
    """Return the category or kind of a key group, or None where it is neither."""
    category, consent, _ = group.partition("+")
    if category in _CATEGORIES and not group.endswith("+"):
        return Category(category)
    if consent:
        return None
    kind, colon, name = group.partition(":")
    try:
        found = Kind(kind)
    except ValueError:
        return None
    return found if (found in _NAMED) is bool(colon and name) else None


class Caller(Struct, frozen=True):
    """A role, and the purpose that it declares; a worker's is the name of its pass."""

    role: Role
    purpose: str


class Grant(Struct, frozen=True, kw_only=True):
    """The groups of which keys are released: whole categories, whole kinds, and groups by name."""

    categories: frozenset[Category] = frozenset()
    kinds: frozenset[Kind] = frozenset()
    groups: frozenset[str] = frozenset()

    def covers(self, group: str) -> bool:
        """Return whether keys of a group are released; one of no known class never is."""
        found = class_of(group)
        if isinstance(found, Category):
            return found in self.categories
        return found is not None and (found in self.kinds or group in self.groups)


NOTHING: Final = Grant()
COLLECT: Final = Caller(Role.INGEST, "collect")
"""To seal what a source brings, and to know a copy of it again."""
RIGHTS: Final = Caller(Role.PRIVACY, "rights.fulfil")
"""To answer for a person to that person (GDPR Art. 15 to 22), and to seal what they decide."""
READ_VIEWS: Final = Caller(Role.PRIVACY, "views.read")
"""To look at what projections publish, permissions first; no record is opened for it."""
ERASE: Final = Caller(Role.ERASER, "erase")
"""To see whether a key is there, which needs no key, and to salt the receipt."""
SUMS: Final = Caller(Role.RELEASE, "analytics.release")
"""To add up partial sums of a window."""
OPERATE: Final = Caller(Role.OPERATOR, "operate")
"""To compare, move and mend what passes keep; no record is opened for it."""
_EVERY: Final = frozenset(Category)

DECLARED: Final[Mapping[Caller, Grant]] = {
    COLLECT: Grant(categories=_EVERY, kinds=frozenset({Kind.INDEX, Kind.LANE})),
    RIGHTS: Grant(categories=_EVERY, kinds=frozenset({Kind.INDEX, Kind.VIEW, Kind.STATE})),
    READ_VIEWS: Grant(kinds=frozenset({Kind.VIEW, Kind.STATE})),
    ERASE: Grant(kinds=frozenset({Kind.RECEIPT})),
    SUMS: Grant(kinds=frozenset({Kind.WINDOW})),
    OPERATE: Grant(kinds=frozenset({Kind.VIEW, Kind.STATE})),
}
"""Every release but those of workers, whose passes add theirs; what is not here is not released."""


class Releases:
    """The table in force in one process: what is declared, and what its passes need."""

    def __init__(self, declared: Mapping[Caller, Grant] = DECLARED) -> None:
        """Take the declared part."""
        self._grants = dict(declared)

    def admit(self, pass_name: str, grant: Grant) -> Caller:
        """Return the caller of a worker's pass, which is released what its declaration needs.

        A later declaration of the pass takes the place of this one for whoever asks after it.
        """
        caller = Caller(Role.WORKER, pass_name)
        self._grants[caller] = grant
        return caller

    def grant(self, caller: Caller) -> Grant:
        """Return what is released to a caller: nothing, unless it is declared."""
        return self._grants.get(caller, NOTHING)
