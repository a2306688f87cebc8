"""`analytics`: stage A of the daily course views; the step is `privacy_ledger.streams.analytics`."""

from typing import Final

from privacy_ledger.domain import topics
from privacy_ledger.streams import analytics
from privacy_ledger.streams.protocol import Processor

__all__ = ["PROCESSOR"]

PROCESSOR: Final = Processor(
    name="course_views",
    runs_in="analytics",
    source=topics.LEDGER_EVENTS,
    table=analytics.TABLE,
    step=analytics.CourseViews(),
)
