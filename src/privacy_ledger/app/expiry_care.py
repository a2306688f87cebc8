"""Retention's last step: keys are destroyed when all that they sealed is due, and nothing needs them.

Whoever does the daily work calls this: a home's worker, the worker that writes the ticks, `keys rotate`,
`retention run`. What is due is read from keystore and views each time, so a call may be cut short
anywhere, and two at once destroy each key once.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, cast

from msgspec import Struct

from privacy_ledger.domain.expiry import (
    Hindrance,
    LiveRecord,
    Moment,
    Sealed,
    aged_before,
    hindrance,
)
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import REF_BYTES, Category, SubjectRef, partition_of
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.keys import KeyGeneration, KeyVault
from privacy_ledger.ports.passes import Latest, Views
from privacy_ledger.ports.runtime import Clock
from privacy_ledger.ports.tables import committed
from privacy_ledger.streams.held import HELD, TICKS
from privacy_ledger.streams.states import FROZEN, META, PERMISSIONS, IndexRow, Meta, Table

__all__ = ["Expired", "ExpiryCare", "Judged", "RulesNamed", "StatesOf"]

LOOKS_MAX: Final = 50
"""So many looks at the keystore a call of the daily care takes, 20,000 rows each; the next goes on."""
SLICE: Final = 1000
"""So many keys are judged, and destroyed, at once."""

_HOLDING_UP: Final = cast("tuple[Table[object], ...]", (HELD, TICKS, FROZEN))

Judged = tuple[KeyGeneration, Hindrance | None]
"""A key whose age says that it is due, and why it stays; None: it is free to go."""
StatesOf = Callable[[], Awaitable[Mapping[str, StateCodec]]]
RulesNamed = Callable[[str], Awaitable[Rules]]


class Expired(Struct, frozen=True, kw_only=True):
    """How many keys are due and free to go, or were and are destroyed, and how many stay for what reason."""

    keys: int = 0
    kept: dict[str, int] = {}

    @property
    def due(self) -> int:
        """How many are due, whether they stay or not."""
        return self.keys + sum(self.kept.values())


class ExpiryCare:
    """Finds the keys whose records are all due, and destroys those that nothing keeps."""

    def __init__(
        self,
        *,
        vault: KeyVault,
        views: Views,
        latest: Latest,
        states: StatesOf,
        rules: RulesNamed,
        clock: Clock,
        partitions: int,
        cursor: dict[str, int],
    ) -> None:
        """Take the ports; `states`: the codec of each pass that is run, `rules`: a registry by its digest.

        `cursor`: where the daily care goes on; it lasts as long as the process.
        """
        self._vault = vault
        self._views = views
        self._latest = latest
        self._states = states
        self._rules = rules
        self._clock = clock
        self._partitions = partitions
        self._cursor = cursor

    async def tend(self) -> Expired:
        """Destroy what is free to go, as far as one call of the daily care goes; the next goes on there.

        Raises:
            KeyUnavailable: the keystore cannot be used; what was destroyed is, and the next call goes on.
        """
        return await self._destroy(after=self._cursor.get("after", 0), looks=LOOKS_MAX)

    async def run(self) -> Expired:
        """Destroy all that is free to go; raises what `tend` raises."""
        return await self._destroy(after=0, looks=None)

    async def look(self, *, since: timedelta = timedelta(0)) -> Expired:
        """Return what is due, for that long at least, and not destroyed; nothing changes."""
        reasons = Counter[Hindrance | None]()
        async for judged in self._judged(after=0, looks=None, since=since):
            reasons.update(why for _, why in judged)
        return _counted(reasons)

    async def of(self, ref: SubjectRef) -> tuple[Judged, ...]:
        """Return the keys of a reference that are due by their age and not destroyed, judged."""
        moments = await self._moments(partition_of(ref, self._partitions))
        before = _before(moments)
        keys = [
            key
            for key in self._vault.keys_of(ref)
            if key.destroyed_at is None
            and (at := before.get(key.category)) is not None
            and key.created_at < at
        ]
        return tuple(await self._judge(keys, {partition_of(ref, self._partitions): moments}))

    async def _destroy(self, *, after: int, looks: int | None) -> Expired:
        reasons = Counter[Hindrance | None]()
        async for judged in self._judged(after=after, looks=looks):
            free = [key for key, why in judged if why is None]
            if free:  # a hold or a restriction that came meanwhile finds nothing live under them
                self._vault.shred_expired(free, now=self._clock.now())
            reasons.update(why for _, why in judged)
        return _counted(reasons)

    # Judging --------------------------------------------------------------------------------

    async def _judged(
        self, *, after: int, looks: int | None, since: timedelta | None = None
    ) -> AsyncIterator[list[Judged]]:
        """Yield keys that are due by their age, in slices; `since`: as `look`, which moves no cursor."""
        moments = {partition: await self._moments(partition) for partition in range(self._partitions)}
        before = _before(
            [moment for some in moments.values() for moment in some], since=since or timedelta(0)
        )
        place: int | None = after
        while before and place is not None and looks != 0:
            found = self._vault.aged_keys(before, after=place)
            for start in range(0, len(found.keys), SLICE):
                yield await self._judge(found.keys[start : start + SLICE], moments)
            place = found.after
            if since is None:
                self._cursor["after"] = place or 0
            looks = None if looks is None else looks - 1
            await asyncio.sleep(0)

    async def _moments(self, partition: int) -> list[Moment]:
        """Return how far every pass came in a partition, versions that are being built included."""
        found = []
        for states in (await self._states()).values():
            key = states.changelog_key(META, b"")
            sealed = await self._latest.newest(states.topic(META), partition, key)
            meta = states.open_many(META, ((b"", sealed),))[0] or Meta()
            digest = meta.registry_digest
            rules = None if digest is None else await self._rules(digest)
            found.append(Moment(last_tick=meta.last_tick, rules=rules))
        return found

    async def _judge(
        self, keys: Sequence[KeyGeneration], moments: Mapping[int, Sequence[Moment]]
    ) -> list[Judged]:
        """Return what keeps each key, by what the views and all passes say of its person.

        The moments were read before: what is read here is of the same commit, or of a later one.
        """
        of_partition: defaultdict[int, list[KeyGeneration]] = defaultdict(list)
        for key in keys:
            of_partition[partition_of(key.ref, self._partitions)].append(key)
        judged: list[Judged] = []
        for partition, mine in of_partition.items():
            waiting = await self._waiting(partition)
            live = await self._views.live_each(partition, dict.fromkeys(key.ref for key in mine))
            for key in mine:
                permissions = await self._views.get(PERMISSIONS, key.ref)
                why = hindrance(
                    Sealed(
                        category=key.category, generation=key.generation, created_at=key.created_at
                    ),
                    permissions,
                    moments=moments[partition],
                    is_waiting=key.ref in waiting,
                    live=map(_record, live[key.ref]),
                )  # fmt: skip
                judged.append((key, why))
        return judged

    async def _waiting(self, partition: int) -> Collection[SubjectRef]:
        """Return whom some pass holds up, or for whom a tick waits."""
        found: set[SubjectRef] = set()
        for states in (await self._states()).values():
            for table in _HOLDING_UP:
                rows = await committed(self._latest, states, table, partition)
                found.update(SubjectRef(key[:REF_BYTES]) for key, _ in rows)
        return found


def _before(moments: Sequence[Moment], *, since: timedelta = timedelta(0)) -> dict[Category, datetime]:
    """Return, for each category with a due date, before when a key was made that is due to any pass.

    `since`: that was due so long before its last tick.
    """
    found: dict[Category, datetime] = {}
    for moment in moments:
        if (tick := moment.last_tick) is None or moment.rules is None:
            continue
        for category in Category:
            at = aged_before(category, moment.rules, at=tick - since)
            if at is not None:
                found[category] = max(at, found.get(category, at))
    return found


def _record(row: IndexRow) -> LiveRecord:
    return LiveRecord(category=row.category, month=row.month, generation=row.generation)


def _counted(reasons: Counter[Hindrance | None]) -> Expired:
    kept = {str(why): count for why, count in sorted(reasons.items(), key=str) if why is not None}
    return Expired(keys=reasons[None], kept=kept)
