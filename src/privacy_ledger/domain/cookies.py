"""Cookies: which class a name belongs to, and whether it may be set or read; unknown means no.

The classes are the policy's (P32 to P34): essential needs no consent (ePrivacy Art. 5(3)), performance
and functionality wait for a choice, marketing is forbidden here, and what nobody classed is blocked (P35).
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, final

from msgspec import Struct

from privacy_ledger.domain.refusals import Refusal

__all__ = [
    "NAME_CHARS_MAX",
    "PATTERN_STARS_MAX",
    "CookieClass",
    "CookieDecision",
    "CookieTable",
    "decide",
]

NAME_CHARS_MAX: Final = 256
PATTERN_STARS_MAX: Final = 2
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
"""A token (RFC 6265, 4.1.1); anything else is no cookie's name."""


@final
class CookieClass(StrEnum):
    """What a cookie is for, the strictest first."""

    MARKETING = "marketing"
    PERFORMANCE = "performance"
    FUNCTIONALITY = "functionality"
    ESSENTIAL = "essential"


class CookieDecision(Struct, frozen=True):
    """What became of one cookie. `kind` None: nobody classed it. `reason`: why it is blocked, or None."""

    kind: CookieClass | None
    reason: Refusal | None

    @property
    def is_allowed(self) -> bool:
        """Whether it may be set and read."""
        return self.reason is None


class CookieTable:
    """Names and patterns by class; a star stands for any characters, also none."""

    def __init__(self, rows: Iterable[tuple[str, CookieClass]]) -> None:
        """Take names and patterns, each with its class.

        Raises:
            ValueError: a pattern is no name, has too many stars or nothing else, or stands twice.
        """
        exact: dict[str, CookieClass] = {}
        patterns: list[tuple[str, re.Pattern[str], CookieClass]] = []
        for name, kind in rows:
            stars = name.count("*")
            is_name = _NAME.fullmatch(name) is not None and name.strip("*") != ""
            if not is_name or stars > PATTERN_STARS_MAX or name in exact:
                raise ValueError("A cookie's pattern is a name with at most two stars, and stands once.")
            exact[name] = kind
            if stars:
                form = re.compile(".*".join(map(re.escape, name.split("*"))))
                patterns.append((name, form, kind))
        order = list(CookieClass)
        patterns.sort(key=lambda row: (-len(row[0].replace("*", "")), order.index(row[2])))
        self._exact = {name: kind for name, kind in exact.items() if "*" not in name}
        self._patterns = tuple(patterns)

    def __len__(self) -> int:
        """Return the number of names and patterns."""
        return len(self._exact) + len(self._patterns)

    def class_of(self, name: str) -> CookieClass | None:
        """Return the class of a name, or None: a whole name first, then the pattern that says most of it.

        Of two that say as much the stricter one counts. Names tell cases apart (RFC 6265, 5.3).
        """
        if len(name) > NAME_CHARS_MAX or _NAME.fullmatch(name) is None:
            return None
        found = self._exact.get(name)
        if found is not None:
            return found
        return next((kind for _, form, kind in self._patterns if form.fullmatch(name)), None)


def decide(name: str, table: CookieTable, *, allowed: frozenset[CookieClass]) -> CookieDecision:
    """Return whether a cookie may be set and read by who allowed these classes.

    Order of reasons: `COOKIE_UNKNOWN`, `COOKIE_FORBIDDEN` for marketing whatever was allowed, and
    `CONSENT_MISSING`. An essential cookie needs no choice.
    """
    kind = table.class_of(name)
    match kind:
        case None:
            reason: Refusal | None = Refusal.COOKIE_UNKNOWN
        case CookieClass.MARKETING:
            reason = Refusal.COOKIE_FORBIDDEN
        case CookieClass.ESSENTIAL:
            reason = None
        case _:
            reason = None if kind in allowed else Refusal.CONSENT_MISSING
    return CookieDecision(kind, reason)
