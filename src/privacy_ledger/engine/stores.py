"""The stores that a worker holds: each is opened once, used by one at a time, and removed when useless."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from privacy_ledger.domain.errors import StoreUnfit
from privacy_ledger.engine.soundness import Place, check_life, examine, own_stamp, prepare, time_stamp
from privacy_ledger.ports.runtime import Clock, StateStore, StoreFolder

__all__ = ["Stores"]


class Stores:
    """Stores by partition.

    Owned, followed or in doubt: a store is the same thing in each role, a prefix of what its
    changelogs say, with marks that tell how far. So a role changes without a copy; who writes is
    whoever has the partition's lock.
    """

    def __init__(
        self,
        folder: StoreFolder,
        *,
        place: Callable[[int], Place],
        clock: Clock,
        report: Callable[[int, StoreUnfit], None],
    ) -> None:
        """Open nothing yet; `report` is told of each store that is wiped because it is of no use."""
        self._folder = folder
        self.place = place
        self._clock = clock
        self._report = report
        self._open: dict[int, StateStore] = {}
        # A lock outlives its assignment: a cycle of an earlier one may still be in its commit.
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def lock(self, partition: int) -> asyncio.Lock:
        """Return the lock of whoever writes a partition's store."""
        return self._locks[partition]

    def open(self, partition: int) -> StateStore:
        """Return a partition's store; the caller has its lock.

        One that cannot be opened, or must not be used, is removed and begun anew.

        Raises:
            StoreFull: the device has no space for one.
        """
        store = self._open.get(partition)
        if store is None:
            try:
                store = self._open_sound(partition)
            except StoreUnfit as unfit:
                self._report(partition, unfit)
                self._folder.remove(partition)
                store = self._open_sound(partition)
            self._open[partition] = store
        return store

    def _open_sound(self, partition: int) -> StateStore:
        store = self._folder.open(partition)
        is_sound = False
        try:
            unfit = prepare(store, self.place(partition), now=self._clock.now())
            is_sound = unfit is None
        finally:
            if not is_sound:  # nobody else knows of it: left open, it would stay locked
                store.close()
        if unfit is not None:
            raise unfit
        return store

    def note_whole(self, partition: int) -> StoreUnfit | None:
        """Say in a followed store that it holds all there is; return why it must not be used instead."""
        store, place, now = self.open(partition), self.place(partition), self._clock.now()
        unfit = examine(store, place, now=now)
        if unfit is None:
            try:
                life = check_life(store, place)
            except StoreUnfit as another:
                return another
            store.write([time_stamp(now), own_stamp(place, life)])
        return unfit

    def condemn(self, partition: int) -> None:
        """Remove a store that turned out to be of no use; the next use begins an empty one."""
        self.close_one(partition)
        self._folder.remove(partition)

    def close_one(self, partition: int) -> None:
        """Close a store, so that the next use opens it again: one that met a full device stays stuck."""
        store = self._open.pop(partition, None)
        if store is not None:
            store.close()

    def kept(self) -> tuple[int, ...]:
        """Return the partitions of which this worker has a store, open or not."""
        return tuple(self._folder.kept())

    async def remove(self, partition: int) -> None:
        """Close a store and remove its bytes; the caller has its lock."""
        store = self._open.pop(partition, None)
        if store is not None:
            store.close()
        await asyncio.to_thread(self._folder.remove, partition)

    async def sweep(self, is_needed: Callable[[int], bool]) -> None:
        """Remove the stores that are not needed: nobody would erase what lies there."""
        for partition in self.kept():
            if not is_needed(partition):
                async with self._locks[partition]:
                    if not is_needed(partition):  # it may have come back meanwhile
                        await self.remove(partition)

    def close(self) -> None:
        """Close every store; idempotent."""
        while self._open:
            self._open.popitem()[1].close()
