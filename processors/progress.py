"""`progress`: the declaration; the step is `privacy_ledger.streams.progress`."""

from typing import Final

from privacy_ledger.domain import topics
from privacy_ledger.streams import progress
from privacy_ledger.streams.protocol import Processor

__all__ = ["PROCESSOR"]

PROCESSOR: Final = Processor(
    name="progress",
    runs_in="core",
    source=topics.LEDGER_EVENTS,
    table=progress.TABLE,
    step=progress.Progress(),
)
