"""Rows and joins in turn: the one loop around a cycle that both runners share."""

from collections.abc import Awaitable, Callable, Sequence

from privacy_ledger.engine.batch import Batch
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.ports.log import Row
from privacy_ledger.ports.runtime import Clock

__all__ = ["fold_in_turn"]

Commit = Callable[[Batch], Awaitable[bool]]
"""Makes a batch durable and settles it; False when the partition is no longer ours."""


async def fold_in_turn(cycle: PartitionCycle, rows: Sequence[Row], *, clock: Clock, commit: Commit) -> bool:
    """Fold rows in order, then move joins on by one slice; return whether the partition is still ours.

    A window that is sealed in these rows waits until its processor has been brought up; nothing
    else of the pass waits for a join.
    """
    while rows:
        count = cycle.roll.stretch(rows)
        head, rows = rows[:count], rows[count:]
        while cycle.roll.is_awaited_by(head):
            if not await commit(await cycle.bring_up(now=clock.now())):
                return False
        batch = await cycle.run(head, now=clock.now())
        if batch.records and not await commit(batch):
            return False
    if cycle.roll.seats.is_moving:
        return await commit(await cycle.bring_up(now=clock.now()))
    return True
