"""What one partition of one pass lets others see: noted per cycle or rarer, never per record."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from privacy_ledger.domain.errors import Fenced
from privacy_ledger.engine.batch import Batch
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.ports.log import PassLog
from privacy_ledger.ports.observe import (
    SILENT,
    Cycle,
    CycleOutcome,
    Lag,
    Meters,
    Outstanding,
    Standing,
    Stands,
)
from privacy_ledger.streams.held import HELD
from privacy_ledger.streams.states import META, SHREDS, WORK

__all__ = ["COUNTED_MAX", "PartitionMeter"]

COUNTED_MAX: Final = 10_000
"""What is outstanding is counted up to here: whether there is any matters, and whether it grows."""


class PartitionMeter:
    """Notes what happens to one partition of one pass, and knows since when it is behind."""

    def __init__(self, meters: Meters, *, pass_name: str, partition: int) -> None:
        """Take who looks, and the place."""
        self._meters = meters
        self._pass = pass_name
        self._partition = partition
        self._level_at: datetime | None = None

    async def commit(self, log: PassLog, batch: Batch) -> Mapping[tuple[str, int], int]:
        """Append a batch in the transaction of its pass and partition, and note how that ended.

        Return where it ends, as `append_atomically` does.

        Raises:
            LedgerError: as the log's own `append_atomically`.
        """
        started = time.perf_counter()
        outcome = CycleOutcome.FAILED
        try:
            ends = await log.append_atomically(batch.writes, writer=f"{self._pass}.{self._partition}")
            outcome = CycleOutcome.COMMITTED
            self._level_at = _later(self._level_at, batch.received_at)
        except Fenced:
            outcome = CycleOutcome.FENCED
            raise
        else:
            return ends
        finally:
            self._meters.note(
                Cycle(
                    pass_name=self._pass, partition=self._partition, outcome=outcome,
                    records=batch.records, unreadable=batch.parked, writes=len(batch.writes),
                    decided=batch.work.causes, foreign=len(batch.work.foreign), fold_s=batch.fold_s,
                    commit_s=time.perf_counter() - started,
                )
            )  # fmt: skip

    def stands(self, standing: Standing, error: BaseException | None = None) -> None:
        """Note where the partition stands now, and the class of the error that led there."""
        outcome = "" if error is None else type(error).__name__
        self._meters.note(
            Stands(pass_name=self._pass, partition=self._partition, standing=standing, outcome=outcome)
        )

    def lag(self, position: int, behind: int, *, now: datetime) -> None:
        """Note how far the pass came, and that `behind` offsets are not passed.

        What is not folded came after the last record that was, and after the last moment at which
        nothing was left: the later of the two bounds its age.
        """
        if behind <= 0:
            self._level_at = _later(self._level_at, now)
        seconds = 0.0 if behind <= 0 else _since(self._level_at, now)
        self._meters.note(
            Lag(
                pass_name=self._pass, partition=self._partition, position=position,
                records=max(0, behind), seconds=seconds,
            )
        )  # fmt: skip

    def outstanding(self, cycle: PartitionCycle) -> None:
        """Count and note what was decided and is not done; for every few seconds."""
        if self._meters is SILENT:
            return
        meta = cycle.load(META, b"")
        self._meters.note(
            Outstanding(
                pass_name=self._pass, partition=self._partition,
                parked=max(0, cycle.count(HELD, limit=COUNTED_MAX + cycle.busy) - cycle.busy),
                busy=cycle.busy,
                tombstones=cycle.count(WORK, limit=COUNTED_MAX),
                shreds=cycle.count(SHREDS, limit=COUNTED_MAX),
                last_tick=None if meta is None else meta.last_tick,
                joining=tuple(sorted(cycle.roll.seats.cursors)),
            )
        )  # fmt: skip


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _since(at: datetime | None, now: datetime) -> float | None:
    return None if at is None else max(0.0, (now - at).total_seconds())
