"""The stores that a worker holds: each is opened once, used by one at a time, and removed when useless."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from privacy_ledger.ports.runtime import StateStore, StoreFolder

__all__ = ["Stores"]


class Stores:
    """Stores by partition.

    Owned, followed or in doubt: a store is the same thing in each role, a prefix of what its
    changelogs say, with marks that tell how far. So a role changes without a copy; who writes is
    whoever has the partition's lock.
    """

    def __init__(self, folder: StoreFolder) -> None:
        """Open nothing yet."""
        self._folder = folder
        self._open: dict[int, StateStore] = {}
        # A lock outlives its assignment: a cycle of an earlier one may still be in its commit.
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def lock(self, partition: int) -> asyncio.Lock:
        """Return the lock of whoever writes a partition's store."""
        return self._locks[partition]

    def open(self, partition: int) -> StateStore:
        """Return a partition's store; the caller has its lock."""
        store = self._open.get(partition)
        if store is None:
            store = self._open[partition] = self._folder.open(partition)
        return store

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
