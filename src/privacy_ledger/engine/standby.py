"""The standby: a worker follows the changelogs of partitions that others own, so as to be ready.

It reads what is committed, without a group, into the same kind of store that it folds over. When a
partition becomes its own, its take-over reads the last records only.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.errors import LedgerError, StoreFull, StoreUnfit
from privacy_ledger.engine.handover import applied, stored_marks
from privacy_ledger.engine.stores import Stores
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.log import Row
from privacy_ledger.ports.transport import OutOfRange, Place, Tail

__all__ = ["Following", "Standby"]

ROWS_PER_POLL: Final = 1000
"""One batch of a store: what folds in this process waits while it is written."""
ROWS_PER_S: Final = 50_000
POLL_S: Final = 0.5
LOOK_S: Final = 1.0
RETRY_S: Final = 5.0
COMPACT_S: Final = 3600.0
WHOLE_S: Final = 60.0
"""So often a store that holds all there is says when that was."""

log_line = get_logger()


class Following(Struct, frozen=True, kw_only=True):
    """A partition that is followed: records applied by this process, and offsets left, if known."""

    records: int
    left: int | None


class _Followed:
    """One followed partition."""

    def __init__(self) -> None:
        self.records = 0
        self.left: int | None = None
        self.is_ready = False
        self.has_residue = False
        self.compacted_at = time.monotonic()
        self.whole_at = 0.0


class Standby:
    """Follows partitions for one pass; `follow` says which, `run` does it."""

    def __init__(
        self, tail: Tail, stores: Stores, *, pass_name: str, changelogs: Mapping[str, bytes]
    ) -> None:
        """Follow nothing yet."""
        self._tail = tail
        self._stores = stores
        self._pass_name = pass_name
        self._changelogs = dict(changelogs)
        self._wanted: frozenset[int] = frozenset()
        self._followed: dict[int, _Followed] = {}
        self._is_changed = False
        self._stopping = asyncio.Event()
        self._looked_at = 0.0

    def follow(self, partitions: Collection[int]) -> None:
        """Follow these partitions and no others; from now on the others' stores are not touched."""
        self._wanted = frozenset(partitions)
        for partition in self._followed.keys() - self._wanted:
            del self._followed[partition]
        self._is_changed = True

    def stop(self) -> None:
        """End `run` after the batch in hand."""
        self._stopping.set()

    @property
    def following(self) -> dict[int, Following]:
        """How far each followed partition is."""
        return {
            partition: Following(records=one.records, left=one.left)
            for partition, one in sorted(self._followed.items())
        }

    async def run(self) -> None:
        """Follow until `stop`."""
        try:
            while not self._stopping.is_set():
                try:
                    await self._step()
                except OutOfRange as error:
                    await self._start_over({partition for _, partition in error.places}, reason=str(error))
                except Exception as error:  # noqa: BLE001 - the task's outermost frame: it must not end unseen
                    reason = str(error) if isinstance(error, LedgerError) else type(error).__name__
                    log_line.warning("standby failed", pass_name=self._pass_name, reason=reason)
                    self._is_changed = True
                    await self._pause(RETRY_S)
        finally:
            await self._tail.close()

    async def _step(self) -> None:
        """Read once, at no more than the rate."""
        if self._is_changed:
            self._is_changed = False
            await self._begin()
        started = time.monotonic()
        fetched = await self._tail.poll(timeout_s=POLL_S, limit=ROWS_PER_POLL)
        count = 0
        for (topic, partition), rows in fetched.items():
            try:
                count += self._apply(topic, partition, rows)
            except StoreUnfit as unfit:
                await self._start_over((partition,), reason=str(unfit))
            except StoreFull:
                self._stores.close_one(partition)
                raise
        await self._look()
        rest = count / ROWS_PER_S - (time.monotonic() - started)
        if rest > 0:
            await self._pause(rest)

    async def _begin(self) -> None:
        """Open the stores of what is new, and read every followed place from its mark on."""
        places: dict[Place, int] = {}
        for partition in sorted(self._wanted):
            async with self._stores.lock(partition):
                # A cycle of an earlier ownership has ended: from here on only this task writes.
                if partition not in self._wanted:
                    continue
                marks = stored_marks(self._stores.open(partition), self._changelogs)
                self._followed.setdefault(partition, _Followed())
            places |= {(topic, partition): mark + 1 for topic, mark in marks.items()}
        await self._tail.follow(places)

    def _apply(self, topic: str, partition: int, rows: Sequence[Row]) -> int:
        """Store rows of a place that is still followed; there is no await between look and write."""
        one = self._followed.get(partition)
        if one is None or not rows:
            return 0
        self._stores.open(partition).write(applied(topic, self._changelogs[topic], rows))
        one.records += len(rows)
        one.has_residue = one.has_residue or any(row.value is None for row in rows)
        return len(rows)

    async def _look(self) -> None:
        """Now and then: see how far it is, and rewrite files in which deleted values lie."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        for partition, one in list(self._followed.items()):
            left = [await self._tail.behind((topic, partition)) for topic in self._changelogs]
            one.left = None if None in left else sum(offsets or 0 for offsets in left)
            if one.left == 0 and not one.is_ready:
                one.is_ready = True
                log_line.info(
                    "standby ready", pass_name=self._pass_name, partition=partition, records=one.records
                )
            if one.left == 0 and now - one.whole_at > WHOLE_S and partition in self._followed:
                one.whole_at = now
                if (unfit := self._stores.note_whole(partition)) is not None:
                    await self._start_over((partition,), reason=str(unfit))
                    continue
            if one.has_residue and now - one.compacted_at > COMPACT_S:
                async with self._stores.lock(partition):
                    if partition in self._followed:
                        await asyncio.to_thread(self._stores.open(partition).compact)
                        one.has_residue, one.compacted_at = False, now

    async def _start_over(self, partitions: Collection[int], *, reason: str) -> None:
        """Remove stores that their changelogs cannot bring up to date, and begin from the beginning."""
        for partition in partitions:
            async with self._stores.lock(partition):
                if self._followed.pop(partition, None) is not None:
                    log_line.warning(
                        "standby begins anew", pass_name=self._pass_name, partition=partition, reason=reason
                    )
                    await self._stores.remove(partition)
        self._is_changed = True

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until `stop`."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
