"""Versions of a projection: which there are, which of them speaks, and in whose pass each is folded.

The version that a processor declares is folded by its declared pass. Every later one is a pass of
its own, into topics of its own. The registry's topic holds these facts; none is about a person.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from msgspec import Struct, structs

__all__ = [
    "Version",
    "VersionBegun",
    "VersionChosen",
    "VersionDropped",
    "VersionDropping",
    "VersionFact",
    "VersionKey",
    "pass_of",
    "speaking",
    "versions_of",
]

VersionKey = tuple[str, int]
"""A projection's name, and a version's number."""


class VersionFact(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A fact about one version of a projection."""

    projection: str
    version: int
    at: datetime


class VersionBegun(VersionFact, frozen=True, kw_only=True, tag="version.begun"):
    """The version is built and kept up to date from here on; a later one changes its rate only.

    `rate` bounds the records a second, over all partitions, as long as the version does not speak.
    """

    build: str
    rate: int | None = None


class VersionChosen(VersionFact, frozen=True, kw_only=True, tag="version.chosen"):
    """The version was switched to; every partition holds where, in the same transaction."""


class VersionDropping(VersionFact, frozen=True, kw_only=True, tag="version.dropping"):
    """Nobody folds the version any more; its topics and keys are being removed."""


class VersionDropped(VersionFact, frozen=True, kw_only=True, tag="version.dropped"):
    """Nothing is left of the version; its number is not used again."""


class Version(Struct, frozen=True, kw_only=True):
    """A version as the facts leave it; a declared one has a row only once a fact named it."""

    projection: str
    version: int
    status: Literal["kept", "dropping", "dropped"] = "kept"
    speaks: bool = False
    begun_at: datetime | None = None
    build: str | None = None
    rate: int | None = None


def versions_of(facts: Iterable[VersionFact]) -> dict[VersionKey, Version]:
    """Return every version that these facts name, in the order of the facts."""
    found: dict[VersionKey, Version] = {}
    for fact in facts:
        key = (fact.projection, fact.version)
        known = found.get(key) or Version(projection=fact.projection, version=fact.version)
        match fact:
            case VersionBegun() if known.status == "kept":
                begun_at = known.begun_at or fact.at
                known = structs.replace(known, begun_at=begun_at, build=fact.build, rate=fact.rate)
            case VersionChosen():
                for other, version in found.items():
                    if other[0] == fact.projection:
                        found[other] = structs.replace(version, speaks=False)
                known = structs.replace(known, speaks=True)
            case VersionDropping() if known.status == "kept":
                known = structs.replace(known, status="dropping")
            case VersionDropped():
                known = structs.replace(known, status="dropped")
            case _:
                pass
        found[key] = known
    return found


def speaking(versions: Mapping[VersionKey, Version], projection: str, *, declared: int) -> int:
    """Return the version of a projection that readers are sent to."""
    for (name, number), version in versions.items():
        if name == projection and version.speaks:
            return number
    return declared


def pass_of(projection: str, version: int) -> str:
    """Return the name of the pass that folds a later version."""
    return f"{projection}-v{version}"
