"""A projection's next version, beside the one that speaks: built, compared, switched to, dropped.

The passes do the folding, whoever runs them; what is decided here stands in the registry's list
and, for a switch, in every partition. Each command may be killed anywhere and run again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from msgspec import Struct

from privacy_ledger.app._diff import Diff, Differ
from privacy_ledger.app._folded import Folded
from privacy_ledger.app.versions import Versions
from privacy_ledger.domain.errors import NotCaughtUp, RefusedByPolicy
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import REF_BYTES
from privacy_ledger.domain.versions import Version, native_of, speaking
from privacy_ledger.ports.codec import HEARTBEAT_KEY, StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog, TopicKeeper
from privacy_ledger.ports.passes import Latest, Runner, Views
from privacy_ledger.ports.runtime import Clock
from privacy_ledger.ports.tables import committed
from privacy_ledger.streams.held import HELD, Parked
from privacy_ledger.streams.roster import ROSTER
from privacy_ledger.streams.states import PERMISSIONS, Table

__all__ = ["Diff", "Folded", "Leaving", "Progress", "Replay", "VersionStatus"]

POLL_S: Final = 0.1
FRESH_S: Final = 5.0
"""A version is caught up when it passed, within this time, a position that the live pass had."""
STUCK_S: Final = 30.0
SHORTLY_S: Final = 10.0
LOOKS: Final = 5

Offsets = dict[int, int]
OnProgress = Callable[["Progress"], None]


class Progress(Struct, frozen=True, kw_only=True):
    """How far a version came, in offsets over all partitions; compaction leaves gaps in them."""

    passed: int
    of: int
    seconds: float
    rate: float
    eta_seconds: float | None

    @property
    def behind(self) -> int:
        """How many offsets are left."""
        return max(0, self.of - self.passed)


class VersionStatus(Struct, frozen=True, kw_only=True):
    """One version: `state` is `speaks`, `ready`, `building`, `dropping` or `foreign`.

    `is_ours`: this build folds it; a foreign one is folded by other builds only. `build` began it.
    """

    projection: str
    version: int
    state: str
    is_ours: bool
    pass_name: str
    passed: int
    behind: int
    parked: int
    rate_limit: int | None
    begun_at: str | None
    build: str | None


class Leaving(Struct, frozen=True, kw_only=True):
    """What goes when a version is dropped: its topics, and the states of so many subjects."""

    projection: str
    version: int
    topics: tuple[str, ...]
    subjects: int


class Replay:
    """The use cases around versions of projections."""

    def __init__(  # noqa: PLR0913 - every collaborator is named once, here
        self,
        *,
        log: EventLog,
        keeper: TopicKeeper,
        vault: KeyVault,
        states: StateCodec,
        views: Views,
        latest: Latest,
        versions: Versions,
        passes: Runner,
        clock: Clock,
        tables: Mapping[str, Table[object]],
        folded: Callable[[str, int, int], Folded],
        runs: Callable[[], Awaitable[Collection[str]]],
    ) -> None:
        """Take the ports, the declared table of each projection, and how a version lies in the log.

        `states` is the codec of the pass that publishes permissions. `folded` takes a projection,
        a version and the native one. `runs`: the projections' versions that this build folds, by
        the names that people read.
        """
        self._log = log
        self._keeper = keeper
        self._vault = vault
        self._states = states
        self._views = views
        self._latest = latest
        self._versions = versions
        self._passes = passes
        self._clock = clock
        self._tables = tables
        self._fold_of = folded
        self._runs = runs

    @property
    def projections(self) -> tuple[str, ...]:
        """The names of the projections that can be rebuilt, sorted."""
        return tuple(sorted(self._tables))

    # Which version --------------------------------------------------------------------------

    async def speaking(self, projection: str) -> Folded:
        """Return the version of a projection that readers are sent to."""
        native = await self._native(projection)
        return await self._folded(
            projection, speaking(await self._versions.read(), projection, native=native)
        )

    async def _native(self, projection: str) -> int:
        """Return the version that the projection's own pass folds: as the list says, or its roster."""
        declared = self._tables[projection].version
        native = native_of(await self._versions.read(), projection, declared=0)
        if native:
            return native
        own = self._fold_of(projection, declared, declared)
        key = own.states.changelog_key(ROSTER, projection.encode())
        row = await self._latest.get(own.states.topic(ROSTER), 0, key)
        (standing,) = own.states.open_many(ROSTER, ((projection.encode(), row),))
        return declared if standing is None else standing.identity.version

    async def _folded(self, projection: str, number: int) -> Folded:
        return self._fold_of(projection, number, await self._native(projection))

    async def candidate(self, projection: str) -> Folded | None:
        """Return the newest version above the one that speaks, or None."""
        now = (await self.speaking(projection)).version
        kept = [number for number in await self._kept(projection) if number > now]
        return await self._folded(projection, max(kept)) if kept else None

    async def previous(self, projection: str) -> Folded:
        """Return the version to go back to: the newest below the one that speaks.

        Raises:
            RefusedByPolicy: `version_unknown`: there is none any more. `version_behind`: this build
                does not fold it.
        """
        now = await self.speaking(projection)
        kept = [number for number in await self._kept(projection) if number < now.version]
        if not kept:
            raise RefusedByPolicy(
                Refusal.VERSION_UNKNOWN,
                f"There is no version below {now.name}: nothing to go back to. "
                "See `privacy-ledger replay status`.",
            )
        found = await self._folded(projection, max(kept))
        if found.name not in await self._runs():
            raise RefusedByPolicy(
                Refusal.VERSION_BEHIND,
                f"{found.name} was folded by another build, and this one does not keep it up to date. "
                "Go back with that build while its workers run, or build the next version.",
            )
        return found

    async def built(self, projection: str) -> Folded:
        """Return the candidate.

        Raises:
            RefusedByPolicy: `version_unknown`: nothing was built.
        """
        found = await self.candidate(projection)
        if found is None:
            raise RefusedByPolicy(
                Refusal.VERSION_UNKNOWN,
                f"No next version of {projection} was built. "
                f"Build one with `privacy-ledger replay build {projection}`.",
            )
        return found

    async def _kept(self, projection: str) -> list[int]:
        """Return the numbers of the versions that exist, ascending."""
        versions = await self._versions.read()
        native = await self._native(projection)
        numbers = {number for name, number in versions if name == projection} | {native}
        return sorted(
            number
            for number in numbers
            if (known := versions.get((projection, number))) is None or known.status == "kept"
        )

    # Building -------------------------------------------------------------------------------

    async def begin(self, projection: str, *, rate: int | None) -> Folded:
        """Begin the next version, or go on with the one that was begun; a new rate holds from now.

        A number that was dropped is never used again: nothing old can answer under it. Where this
        build declares a higher version than there is, it is that one.
        """
        declared, native = self._tables[projection].version, await self._native(projection)
        found = await self.candidate(projection)
        if found is None:
            numbers = [number for name, number in await self._versions.read() if name == projection]
            found = await self._folded(projection, max(declared, max((native, *numbers)) + 1))
        # The topics first: whoever reads the list finds them.
        await self._keeper.provide(*found.topics)
        await self._versions.begin(projection, found.version, declared=declared, native=native, rate=rate)
        return found

    async def follow(
        self, version: Folded, *, on_progress: OnProgress | None = None, within_s: float | None = None
    ) -> Progress:
        """Run the passes here where that is possible, and return when the version is caught up.

        Raises:
            NotCaughtUp: it did not move for thirty seconds, or `within_s` is over.
        """
        started = moved_at = taken_at = time.monotonic()
        goal, first, last = await self._live(version), -1, -1
        while True:
            is_here = await self._passes.advance()
            passed = await self._positions(version.pass_name)
            now, total = time.monotonic(), _sum(passed)
            if total > last:
                last, moved_at = total, now
            first = total if first < 0 else first
            progress = _progress(total, max(_sum(goal), total), now - started, gained=total - first)
            if on_progress is not None:
                on_progress(progress)
            if all(passed[partition] >= offset for partition, offset in goal.items()):
                if is_here or now - taken_at < FRESH_S:
                    return progress
                goal, taken_at = await self._live(version), now
                continue
            if now - moved_at > STUCK_S or (within_s is not None and now - started > within_s):
                raise NotCaughtUp(
                    f"{version.name} has {progress.behind} offsets to go. What is built is kept: start a "
                    "worker with `privacy-ledger worker run`, or run `privacy-ledger replay build "
                    f"{version.projection}` again."
                )
            await asyncio.sleep(POLL_S)

    async def _live(self, version: Folded) -> Offsets:
        """Return how far the projection's own pass came: the live position."""
        own = await self._folded(version.projection, await self._native(version.projection))
        return await self._positions(own.pass_name)

    async def _positions(self, pass_name: str) -> Offsets:
        return {
            partition: (await self._views.position(pass_name, partition)).offset
            for partition in self._partitions()
        }

    def _partitions(self) -> range:
        return range(self._log.partitions(LEDGER_EVENTS))

    async def _shortly(self, version: Folded) -> None:
        """Wait a moment for a version that is built to pass the live position.

        Raises:
            RefusedByPolicy: `version_behind`: it is not built, or nobody runs it.
        """
        try:
            await self.follow(version, within_s=SHORTLY_S)
        except NotCaughtUp as late:
            raise RefusedByPolicy(Refusal.VERSION_BEHIND, str(late)) from None

    # Looking --------------------------------------------------------------------------------

    async def status(self, projection: str | None = None) -> tuple[VersionStatus, ...]:
        """Return every version that exists or is being dropped, by projection and number."""
        versions, runs = await self._versions.read(), await self._runs()
        found = []
        for name in self.projections if projection is None else (projection,):
            native = await self._native(name)
            spoken = speaking(versions, name, native=native)
            for number in sorted({number for other, number in versions if other == name} | {native}):
                known = versions.get((name, number)) or Version(projection=name, version=number)
                if known.status != "dropped":
                    folded = await self._folded(name, number)
                    is_ours = folded.name in runs
                    found.append(
                        await self._status_of(known, folded, is_spoken=number == spoken, is_ours=is_ours)
                    )
        return tuple(found)

    async def _status_of(
        self, known: Version, folded: Folded, *, is_spoken: bool, is_ours: bool
    ) -> VersionStatus:
        state, passed, behind, parked = "dropping", 0, 0, 0
        if known.status == "kept":
            positions, live = await self._positions(folded.pass_name), await self._live(folded)
            behind = sum(max(0, live[partition] - offset) for partition, offset in positions.items())
            passed, parked = _sum(positions), await self._parked(folded)
            state = "speaks" if is_spoken else "building" if behind else "ready"
            if not is_ours and not is_spoken:
                state = "foreign"
        return VersionStatus(
            projection=known.projection, version=known.version, state=state, is_ours=is_ours,
            pass_name=folded.pass_name, passed=passed, behind=behind, parked=parked,
            rate_limit=known.rate, build=known.build,
            begun_at=None if known.begun_at is None else known.begun_at.isoformat(timespec="seconds"),
        )  # fmt: skip

    async def _parked(self, folded: Folded) -> int:
        """Return how many subjects wait behind a record that the version's pass could not read."""
        found = 0
        for partition in self._partitions():
            held = await committed(self._latest, folded.states, HELD, partition)
            found += sum(isinstance(one, Parked) for _, one in held)
        return found

    async def diff(self, projection: str) -> Diff:
        """Return how the candidate differs from the version that speaks, at one position.

        Raises:
            RefusedByPolicy: there is no candidate, or it is not caught up.
        """
        candidate = await self.built(projection)
        await self._shortly(candidate)
        differ = Differ(self._log, latest=self._latest, views=self._views)
        speaks = await self.speaking(projection)
        return await differ.diff(speaks, candidate, is_comparable=speaks.name in await self._runs())

    # Switching ------------------------------------------------------------------------------

    async def check(self, version: Folded) -> None:
        """Return when a version may speak: caught up, and without anybody who was erased.

        Raises:
            RefusedByPolicy: `version_behind`, or `erased_reappears`.
        """
        await self._shortly(version)
        for look in range(LOOKS):
            erased = await self._ended(self._states)
            # Whatever was erased up to here, the version has folded: its rows must be gone.
            await self._shortly(version)
            back = len(await self._rows(version) & erased)
            if not back:
                return
            if look == LOOKS - 1:
                raise RefusedByPolicy(
                    Refusal.ERASED_REAPPEARS,
                    f"{version.name} holds {back} persons who were erased. It must not speak: drop it "
                    f"with `privacy-ledger replay cancel {version.projection}`, and report this.",
                )
            await asyncio.sleep(POLL_S)  # a transaction may become readable a little later

    async def erased_ahead(self, states: StateCodec) -> frozenset[bytes]:
        """Return who was erased beyond where a pass stands: their keys are gone, its fence is to come.

        Until it gets there, what it holds of them cannot be read, and so not be compared.
        """
        return await self._ended(self._states) - await self._ended(states)

    async def _ended(self, states: StateCodec) -> frozenset[bytes]:
        """Return the references whose erasure a pass has folded."""
        found: set[bytes] = set()
        for partition in self._partitions():
            permissions = await committed(self._latest, states, PERMISSIONS, partition)
            found.update(key for key, may in permissions if may.is_ended)
        return frozenset(found)

    async def _rows(self, version: Folded) -> set[bytes]:
        """Return the references that have a row in a version, readable or not."""
        return {
            key[:REF_BYTES]
            for partition in self._partitions()
            for key, _ in await self._latest.scan(version.view, partition, b"")
            if key != HEARTBEAT_KEY
        }

    async def speak(self, version: Folded) -> None:
        """Let a version speak, and return when readers see it. Call `check` before."""
        await self._versions.choose(version.projection, version.version)
        await self._passes.settle()

    # Dropping -------------------------------------------------------------------------------

    async def to_cancel(self, projection: str) -> Folded:
        """Return the version whose removal was begun and not finished, else the candidate.

        Raises:
            RefusedByPolicy: `version_unknown`: there is neither.
        """
        for (name, number), version in (await self._versions.read()).items():
            if name == projection and version.status == "dropping":
                return await self._folded(projection, number)
        return await self.built(projection)

    async def to_drop(self, projection: str, number: int) -> Folded:
        """Return a version that exists or is half dropped.

        Raises:
            RefusedByPolicy: `version_unknown`, or `version_speaks`.
        """
        versions = await self._versions.read()
        known = versions.get((projection, number))
        native = await self._native(projection)
        if (known is None and number != native) or (known is not None and known.status == "dropped"):
            raise RefusedByPolicy(
                Refusal.VERSION_UNKNOWN,
                f"There is no version {number} of {projection}. See `privacy-ledger replay status`.",
            )
        if speaking(versions, projection, native=native) == number:
            raise RefusedByPolicy(
                Refusal.VERSION_SPEAKS,
                f"Version {number} of {projection} is what readers see. Switch to another first: "
                "`privacy-ledger replay switch` or `privacy-ledger replay rollback`.",
            )
        return await self._folded(projection, number)

    async def leaving(self, version: Folded) -> Leaving:
        """Return what would go; nothing changes."""
        known = (await self._versions.read()).get((version.projection, version.version))
        is_dropping = known is not None and known.status != "kept"
        return Leaving(
            projection=version.projection,
            version=version.version,
            topics=tuple(topic.name for topic in version.topics),
            subjects=0 if is_dropping else len(await self._rows(version)),
        )

    async def drop(self, version: Folded) -> int:
        """Remove a version for good: its pass ends, then topics and keys go; return the keys destroyed.

        Killed anywhere, the same call goes on where it stopped.
        """
        name, number = version.projection, version.version
        # Readers have left it in every partition before its rows go.
        await self._passes.settle()
        await self._versions.dropping(name, number, native=await self._native(name))
        # Whoever still folds it is fenced, and asks the list before writing again.
        for partition in self._partitions():
            await self._log.open_writer(f"{version.pass_name}.{partition}")
        await self._keeper.forget(*version.topics)
        destroyed = sum([self._vault.shred_group(group, now=self._clock.now()) for group in version.groups])
        await self._versions.dropped(name, number)
        return destroyed


def _sum(offsets: Offsets) -> int:
    """Return how many offsets lie at or below these positions."""
    return sum(offset + 1 for offset in offsets.values())


def _progress(passed: int, of: int, seconds: float, *, gained: int) -> Progress:
    rate = gained / seconds if seconds > 0 else 0.0
    left = max(0, of - passed)
    eta = 0.0 if not left else left / rate if rate > 0 else None
    return Progress(
        passed=passed, of=of, seconds=round(seconds, 3), rate=round(rate, 1),
        eta_seconds=None if eta is None else round(eta, 1),
    )  # fmt: skip
