"""`subject_view`: the declaration; the step is `privacy_ledger.streams.subject_view`."""

from typing import Final

from privacy_ledger.domain import topics
from privacy_ledger.streams import subject_view
from privacy_ledger.streams.protocol import Processor

__all__ = ["PROCESSOR"]

PROCESSOR: Final = Processor(
    name="subject_view",
    runs_in="core",
    source=topics.LEDGER_EVENTS,
    table=subject_view.TABLE,
    step=subject_view.SubjectView(),
)
