"""Rows and the work beside them in turn: the loops around a cycle that all runners share."""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import Final

from privacy_ledger.engine.batch import Batch
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.ports.hints import Redrive
from privacy_ledger.ports.log import Row
from privacy_ledger.ports.runtime import Clock

__all__ = ["Commit", "fold_in_turn", "fold_rows", "go_on", "redrive"]

Commit = Callable[[Batch], Awaitable[bool]]
"""Makes a batch durable and settles it; False when the partition is no longer ours."""
_OFFSET: Final = attrgetter("offset")


async def fold_in_turn(cycle: PartitionCycle, rows: Sequence[Row], *, clock: Clock, commit: Commit) -> bool:
    """Fold rows in order, then go on with the work beside; return whether the partition is still ours."""
    return await fold_rows(cycle, rows, clock=clock, commit=commit) and await go_on(
        cycle, clock=clock, commit=commit
    )


async def fold_rows(cycle: PartitionCycle, rows: Sequence[Row], *, clock: Clock, commit: Commit) -> bool:
    """Fold rows in order; return whether the partition is still ours.

    A window that is sealed in these rows waits until its processor has been brought up; nothing
    else of the pass waits for a join.
    """
    while rows:
        head = rows[: cycle.roll.stretch(rows)]
        while cycle.roll.is_awaited_by(head):
            if not await commit(await cycle.bring_up(now=clock.now())):
                return False
        batch = await cycle.run(head, now=clock.now())
        if batch.records and not await commit(batch):
            return False
        # Where steps failed on many, it ended before the last row.
        rows = rows[bisect_right(rows, batch.position.offset, key=_OFFSET) :]
    return True


async def go_on(cycle: PartitionCycle, *, clock: Clock, commit: Commit) -> bool:
    """Move joins on by one slice, and the work in hand for subjects by another.

    Return whether the partition is still ours.
    """
    if cycle.roll.seats.is_moving and not await commit(await cycle.bring_up(now=clock.now())):
        return False
    batch = await cycle.serve(now=clock.now())
    return batch is None or await commit(batch)


async def redrive(cycle: PartitionCycle, hint: Redrive, *, clock: Clock, commit: Commit) -> bool:
    """Take the subject up again that is parked where a hint says; return whether the partition is ours."""
    batch = await cycle.redrive(hint.offset, now=clock.now())
    return batch is None or await commit(batch)
