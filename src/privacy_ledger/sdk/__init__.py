"""The producers' client: typed events go to the privacy ledger, at least once, and are kept once.

    async with Ledger(HttpTransport(url, key=key), source="our-lms") as ledger:
        await ledger.emit(Event.of("openedx:user_id:42", VideoPaused(video="v1", occurred_at=now)))

It needs msgspec and the standard library, and holds no key of anybody: events are sealed by the service.
The types of facts are those of `privacy_ledger.domain.events`. `privacy_ledger.sdk.spool` keeps unsent events
on disk (extra `spool`); `privacy_ledger.sdk.outbox` sends them from a table of the application's database.
"""

from privacy_ledger.sdk.client import CLOSE_S, Ledger, SyncLedger
from privacy_ledger.sdk.errors import BufferFull, EventInvalid, LedgerClosed, SpoolUnusable, TransportInvalid
from privacy_ledger.sdk.events import Event
from privacy_ledger.sdk.http import HttpTransport
from privacy_ledger.sdk.recording import recorded
from privacy_ledger.sdk.terms import Flushed, Limits, Refused
from privacy_ledger.sdk.transport import BatchRefused, ItemResult, Transport, TryAgain

__all__ = [
    "CLOSE_S",
    "BatchRefused",
    "BufferFull",
    "Event",
    "EventInvalid",
    "Flushed",
    "HttpTransport",
    "ItemResult",
    "Ledger",
    "LedgerClosed",
    "Limits",
    "Refused",
    "SpoolUnusable",
    "SyncLedger",
    "Transport",
    "TransportInvalid",
    "TryAgain",
    "recorded",
]
