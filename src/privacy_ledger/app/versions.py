"""The list of versions in the registry's topic: read as it grows, and changed by decisions.

A decision is taken on what the list says at that moment, under the registrar's writer: whoever
decides beside it is fenced, and decides again on the new list.
"""

from collections.abc import Callable, Sequence
from typing import Final, Union

import msgspec
from msgspec import structs

from privacy_ledger.app.registrar import append_decided
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.events import VersionSwitched
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_REGISTRY
from privacy_ledger.domain.versions import (
    Version,
    VersionBegun,
    VersionChosen,
    VersionDropped,
    VersionDropping,
    VersionFact,
    VersionKey,
    speaking,
    versions_of,
)
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.log import EventLog, NewRecord, PassLog
from privacy_ledger.ports.runtime import Clock, Ids

__all__ = ["VersionList", "Versions"]

_KEY: Final = b"version:"
_PAGE: Final = 1000
_AnyFact = Union[VersionBegun, VersionChosen, VersionDropping, VersionDropped]  # noqa: UP007 - used at run time

Decide = Callable[[dict[VersionKey, Version]], Sequence[VersionFact]]


class VersionList:
    """Reads the facts about versions; each question reads on from where the last one ended."""

    def __init__(self, log: PassLog) -> None:
        """Start with nothing read."""
        self._log = log
        self._after = -1
        self._facts: list[VersionFact] = []

    async def read(self) -> dict[VersionKey, Version]:
        """Return every version that was ever named, as of now."""
        while rows := await self._log.read(LEDGER_REGISTRY, 0, after=self._after, limit=_PAGE):
            self._facts += [
                msgspec.json.decode(row.value, type=_AnyFact)
                for row in rows
                if row.key.startswith(_KEY) and row.value is not None
            ]
            self._after = rows[-1].offset
        return versions_of(self._facts)


class Versions:
    """Begins versions, lets them speak, and drops them: facts only, the passes do the work."""

    def __init__(
        self, log: EventLog, codec: Codec, clock: Clock, ids: Ids, *, listed: VersionList, build: str
    ) -> None:
        """Take the ports; `build` is the program's version, noted beside what it begins."""
        self._log = log
        self._codec = codec
        self._clock = clock
        self._ids = ids
        self._listed = listed
        self._build = build

    async def read(self) -> dict[VersionKey, Version]:
        """Return every version that was ever named, as of now."""
        return await self._listed.read()

    async def begin(
        self, projection: str, version: int, *, declared: int, native: int, rate: int | None
    ) -> None:
        """Begin to build a version, or change its rate; the same again changes nothing.

        `declared` by this build's processor; `native`: what the processor's own pass folds.

        Raises:
            RefusedByPolicy: `version_unknown`: the number was dropped.
        """

        def decide(versions: dict[VersionKey, Version]) -> Sequence[VersionFact]:
            known = versions.get((projection, version))
            if known is not None and known.status != "kept":
                raise _unknown(projection, version)
            if known is not None and known.begun_at is not None and known.rate == rate:
                return ()
            begun = VersionBegun(
                projection=projection, version=version, at=self._clock.now(), build=self._build,
                declared=declared, native=native, rate=rate,
            )  # fmt: skip
            if known is None or known.build is None or known.declared is None:
                return (begun,)
            return (structs.replace(begun, build=known.build, declared=known.declared),)

        await self._decide(decide)

    async def choose(self, projection: str, version: int) -> None:
        """Let a version speak: in every partition from one offset on, and in the list.

        Raises:
            RefusedByPolicy: `version_unknown`: it was dropped meanwhile.
        """

        def decide(versions: dict[VersionKey, Version]) -> Sequence[VersionFact]:
            known = versions.get((projection, version))
            if known is not None and known.status != "kept":
                raise _unknown(projection, version)
            return (VersionChosen(projection=projection, version=version, at=self._clock.now()),)

        await self._decide(decide)

    async def dropping(self, projection: str, version: int, *, native: int) -> None:
        """Begin to drop a version: from here on nobody folds it, and nobody can switch to it.

        Raises:
            RefusedByPolicy: `version_speaks`: readers are sent to it.
        """

        def decide(versions: dict[VersionKey, Version]) -> Sequence[VersionFact]:
            if speaking(versions, projection, native=native) == version:
                raise RefusedByPolicy(
                    Refusal.VERSION_SPEAKS,
                    f"Version {version} of {projection} is what readers see. Switch to another first: "
                    "`privacy-ledger replay switch` or `privacy-ledger replay rollback`.",
                )
            known = versions.get((projection, version))
            if known is not None and known.status != "kept":
                return ()
            return (VersionDropping(projection=projection, version=version, at=self._clock.now()),)

        await self._decide(decide)

    async def dropped(self, projection: str, version: int) -> None:
        """Note that nothing is left of a version."""

        def decide(versions: dict[VersionKey, Version]) -> Sequence[VersionFact]:
            if versions[projection, version].status == "dropped":
                return ()
            return (VersionDropped(projection=projection, version=version, at=self._clock.now()),)

        await self._decide(decide)

    async def _decide(self, decide: Decide) -> None:
        """Append what `decide` answers to the list as it is, in one transaction with its switches."""

        async def writes() -> Sequence[tuple[str, NewRecord]]:
            facts = decide(await self._listed.read())
            switches = [
                write for fact in facts if isinstance(fact, VersionChosen) for write in self._switches(fact)
            ]
            return [*((LEDGER_REGISTRY, _record(fact)) for fact in facts), *switches]

        await append_decided(self._log, writes)

    def _switches(self, fact: VersionChosen) -> list[tuple[str, NewRecord]]:
        """Return the switch for every partition of the ledger."""
        event = VersionSwitched(at=fact.at, projection=fact.projection, version=fact.version)
        return [
            (
                LEDGER_EVENTS,
                self._codec.control_record(self._ids.token(), partition, event, received_at=fact.at),
            )
            for partition in range(self._log.partitions(LEDGER_EVENTS))
        ]


def _record(fact: VersionFact) -> NewRecord:
    return NewRecord(0, _KEY + fact.projection.encode("ascii"), msgspec.json.encode(fact))


def _unknown(projection: str, version: int) -> RefusedByPolicy:
    return RefusedByPolicy(
        Refusal.VERSION_UNKNOWN,
        f"There is no version {version} of {projection} to use. See `privacy-ledger replay status`; "
        "a new one is built with `privacy-ledger replay build`.",
    )
