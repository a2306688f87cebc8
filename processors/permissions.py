"""`permissions`: what may be done for whom, now. Folded by every pass, published by `core`."""

from typing import Final

from privacy_ledger.domain import topics
from privacy_ledger.streams.protocol import Published
from privacy_ledger.streams.states import PERMISSIONS

__all__ = ["PROCESSOR"]

PROCESSOR: Final = Published(
    name="permissions",
    runs_in="core",
    source=topics.LEDGER_EVENTS,
    table=PERMISSIONS,
)
