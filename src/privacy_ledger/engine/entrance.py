"""Entering a partition: fence, restore, make sure of everything, and only then fold on.

What is wrong with the local store alone is mended on the way: it is a cache. What is wrong with the
changelogs is mended from the ledger. What is wrong with the ledger stops the partition.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from msgspec import structs

from privacy_ledger.domain.errors import ChangelogLost, InvariantViolation, LedgerError, StoreUnfit
from privacy_ledger.engine.anew import build_anew
from privacy_ledger.engine.batch import Batch
from privacy_ledger.engine.cycle import POSITION_KEY, PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.handover import check_not_rewound, marks_of, restore, stored_marks
from privacy_ledger.engine.means import Means
from privacy_ledger.engine.meter import PartitionMeter
from privacy_ledger.engine.progress import RestoreProgress, RestoreStalled
from privacy_ledger.engine.soundness import (
    CHRONICLE_KEY,
    Chronicle,
    Place,
    check_ledger,
    check_life,
    check_whole,
    chronicle_of,
    examine,
    look_back,
    own_stamp,
    time_stamp,
)
from privacy_ledger.engine.stores import Stores
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.ports.runtime import Clock, Ids, StateStore
from privacy_ledger.ports.transport import OutOfRange

__all__ = ["Entrance"]

MENDINGS_MAX: Final = 3

OpenCycle = Callable[[int, StateStore], PartitionCycle]


class Entrance:
    """How the partitions of one pass are entered, written, and kept such that they can be entered again."""

    def __init__(
        self,
        declaration: PassDeclaration,
        means: Means,
        *,
        clock: Clock,
        ids: Ids,
        stores: Stores,
        meter: Callable[[int], PartitionMeter],
        confirm: Callable[[], Awaitable[None]],
    ) -> None:
        """Take the collaborators of an engine."""
        self._meter = meter
        self._declaration = declaration
        self._log = means.log
        self._aftermath = means.aftermath
        self._mover = means.mover
        self._states = means.states
        self._confirm = confirm
        self._clock = clock
        self._ids = ids
        self._stores = stores
        self._reached: dict[int, dict[str, int]] = {}

    async def enter(
        self,
        partition: int,
        open_cycle: OpenCycle,
        *,
        progress: RestoreProgress,
        report: Callable[[int, LedgerError], None],
    ) -> tuple[PartitionCycle, int]:
        """Return a cycle over the whole state, which this build may fold on, and the records restored.

        `report` is told of everything that is mended on the way.

        Raises:
            BuildRefused: this build must not run the pass.
            LedgerRewound, LedgerTruncated: the ledger is not the one that was folded.
        """
        mended = 0
        self._reached[partition] = {}
        while True:
            try:
                return await self._try(partition, open_cycle, progress)
            except (StoreUnfit, ChangelogLost) as fault:
                mended += 1
                if mended > MENDINGS_MAX:
                    raise
                report(partition, fault)
                await self._stores.remove(partition)
                if isinstance(fault, ChangelogLost):
                    await self._build_anew(partition, open_cycle)

    async def _try(
        self, partition: int, open_cycle: OpenCycle, progress: RestoreProgress
    ) -> tuple[PartitionCycle, int]:
        store, records = await self._restored(partition, progress)
        cycle = open_cycle(partition, store)
        cycle.check_roll()
        claims = await self._mover.claims(partition, cycle)
        if claims:
            store, more = await self._restored(partition, progress)
            cycle, records = open_cycle(partition, store), records + more
        place = self._stores.place(partition)
        taken = (one.table for one in self._declaration.processors if one.name in claims)
        await check_whole(self._log, store, place, awaited=frozenset(map(self._states.topic, taken)))
        await check_ledger(self._log, place, cycle.position)
        await check_not_rewound(self._log, place.source, partition, cycle.position)
        if chronicle_of(store) is None or not cycle.position.life:
            await self._begin(cycle, store, place)
        store.write([own_stamp(place, cycle.position.life)])
        batch = cycle.enrol(now=self._clock.now(), claims=claims)
        if batch is not None:
            await self.write(cycle, partition, batch)
        await self._finish_predecessor(cycle, partition)
        return cycle, records

    async def _restored(self, partition: int, progress: RestoreProgress) -> tuple[StateStore, int]:
        """Fence the predecessor and restore the store; an attempt that stands still is given up.

        Raises:
            RestoreStalled: nothing was read for too long.
            StoreUnfit: the store is not one that can be brought up to date.
        """
        place = self._stores.place(partition)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(progress.stall_s) as limit:
                progress.on_move = lambda: limit.reschedule(loop.time() + progress.stall_s)
                await self._log.open_writer(place.writer)
                await self._confirm()
                store = self._stores.open(partition)
                now = self._clock.now()
                if (unfit := examine(store, place, now=now)) is not None:
                    raise unfit
                await look_back(self._log, store, place)
                records = await restore(
                    self._log, store, partition, changelogs=place.changelogs, progress=progress
                )
        except OutOfRange as error:
            raise StoreUnfit("ahead", f"{error} The store is wiped and restored.") from None
        except TimeoutError:
            raise RestoreStalled("The changelogs cannot be read. Look at the brokers.") from None
        finally:
            progress.on_move = None
        check_life(store, place)
        store.write([time_stamp(now)])
        return store, records

    async def _begin(self, cycle: PartitionCycle, store: StateStore, place: Place) -> None:
        """Give a state that has none a life of its own, and begin its chronicle."""
        position = cycle.position
        if not position.life:
            position = structs.replace(position, life=self._ids.token())
        starts = {topic: await self._log.first(topic, place.partition) for topic in place.changelogs}
        chronicle = Chronicle(life=position.life, starts=starts, reached={})
        encoded = msgspec.msgpack.encode(position)
        writes = [NewRecord(place.partition, POSITION_KEY, encoded), chronicle.record(place.partition)]
        ends = await self._log.append_atomically(
            [(place.own, record) for record in writes], writer=place.writer
        )
        store.write(
            [
                *((record.key, record.value) for record in writes),
                *marks_of(ends, place.partition, (place.own,)),
            ]
        )
        cycle.position = position

    async def _build_anew(self, partition: int, open_cycle: OpenCycle) -> None:
        store = self._stores.open(partition)
        await build_anew(
            self._log, self._declaration, self._stores.place(partition), open_cycle(partition, store), store,
            states=self._states, clock=self._clock, life=self._ids.token(),
        )  # fmt: skip
        await self._stores.remove(partition)

    async def _finish_predecessor(self, cycle: PartitionCycle, partition: int) -> None:
        """Repeat outstanding tombstones and shreds, and take parked subjects up again."""
        await self._aftermath.carry_out(cycle.outstanding(), cycle)
        parked = cycle.parked()
        batch = await cycle.retake(parked, now=self._clock.now()) if parked else None
        if batch is not None:
            await self.write(cycle, partition, batch)

    # While it is owned ---------------------------------------------------------------------------

    async def write(self, cycle: PartitionCycle, partition: int, batch: Batch) -> None:
        """Commit a batch; the store follows, with how far the changelogs now are applied.

        Raises:
            Fenced: another owner took over; nothing was written.
            ChangelogLost: a changelog ended below what was acknowledged.
        """
        place = self._stores.place(partition)
        ends = await self._meter(partition).commit(self._log, batch)
        await self._notice(place, ends)
        cycle.settle(batch, marks_of(ends, partition, place.changelogs))
        await self._aftermath.carry_out(batch.work, cycle)

    async def note(self, cycle: PartitionCycle, partition: int) -> None:
        """Say in the changelogs how far they reach, and in the store that it is whole now.

        A heartbeat in each, in one transaction, shows that this process still is the owner.

        Raises:
            Fenced: another owner took over; nothing was noted.
            ChangelogLost: a changelog ends below what was acknowledged.
            LedgerRewound, LedgerTruncated: the ledger is not the one that is folded.
        """
        place, store = self._stores.place(partition), self._stores.open(partition)
        await check_ledger(self._log, place, cycle.position)
        await check_not_rewound(self._log, place.source, partition, cycle.position)
        record = self._chronicle(place).record(partition)
        beat = NewRecord(partition, HEARTBEAT_KEY, b"\0")
        beats = [(topic, beat) for topic in sorted(place.changelogs)]
        ends = await self._log.append_atomically([*beats, (place.own, record)], writer=place.writer)
        await self._notice(place, ends)
        marks = marks_of(ends, partition, place.changelogs)
        store.write([*marks, (CHRONICLE_KEY, record.value), time_stamp(self._clock.now())])

    async def _notice(self, place: Place, ends: Mapping[tuple[str, int], int]) -> None:
        """Take where a transaction ended; notice a changelog that took a record below an earlier one."""
        reached = self._reached[place.partition]
        for (topic, partition), end in ends.items():
            last = reached.get(topic, -1)
            if partition == place.partition and topic in place.changelogs and end <= last:
                # Said in the state topic, so that whoever enters next knows it, too.
                record = self._chronicle(place).record(partition)
                await self._log.append_atomically([(place.own, record)], writer=place.writer)
                message = f"took a record at {end}, and {last} was acknowledged."
                raise ChangelogLost("shortened", topic=topic, partition=partition, message=message)
        reached.update({topic: end for (topic, _), end in ends.items() if topic in place.changelogs})

    def _chronicle(self, place: Place) -> Chronicle:
        """Return the chronicle as of now."""
        store = self._stores.open(place.partition)
        known = chronicle_of(store)
        if known is None:
            raise InvariantViolation(f"The partition {place.writer} is written before it was entered.")
        return structs.replace(known, reached=stored_marks(store, place.changelogs))
