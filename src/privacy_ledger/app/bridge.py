"""The bridge: messages of a platform's own topic become sealed records, as the lines of `ingest` do.

A batch is appended, and then its offsets are committed: whoever goes on after a crash reads some messages
again, and the passes tell each event from its copies by source and id. So every event counts once. A
ledger or a keystore that cannot be reached stops nothing for good: the batch is tried again, and its
offsets stay where they were.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from privacy_ledger.app._verdicts import Summary
from privacy_ledger.app.ingest import LineReport, OpenIngest, Source, batches
from privacy_ledger.domain.errors import KeyUnavailable, LogUnavailable, NotCaughtUp, StoreFull
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.log import Row
from privacy_ledger.ports.raw import RawTopic

__all__ = ["BATCH", "Bridge", "Lines", "Message"]

T = TypeVar("T")
BATCH: Final = 500
POLL_S: Final = 0.5
FRESH_S: Final = 2.0
"""After so long it looks anew at what others decided about people."""
RETRY_FIRST_S: Final = 0.5
RETRY_MAX_S: Final = 30.0
_FOR_NOW: Final = (KeyUnavailable, LogUnavailable, NotCaughtUp, StoreFull)
log_line = get_logger()

Lines = Iterable[tuple[int, bytes | Refusal]]
Message = Callable[[Row], bytes | Refusal]
"""Makes a line of a message: of its headers and its value, never of its key."""


class Bridge:
    """Reads a topic into a ledger; one instance runs once."""

    def __init__(
        self,
        raw: RawTopic,
        source: Source,
        *,
        begin: Callable[[], Awaitable[OpenIngest]],
        message: Message,
        events: Callable[[Lines], Lines],
        on_progress: Callable[[Summary], None] | None = None,
    ) -> None:
        """Take the topic, the source that its events have, what begins an ingest, and the format's two parts.

        `message` makes a line of a message, `events` cuts a line into events.
        """
        self._raw = raw
        self._source = source
        self._begin = begin
        self._message = message
        self._events = events
        self._on_progress = on_progress
        self._open: OpenIngest | None = None
        self._opened_at = 0.0
        self.summary = Summary()

    async def run(self, stop: asyncio.Event, *, until_end: bool = False) -> Summary:
        """Read until `stop`, or `until_end` of the partitions that it has; return what became of all.

        What is counted is durable, and committed where the partition was not taken away meanwhile.

        Raises:
            LedgerError: something that does not pass by itself, such as a keystore that was replaced.
        """
        while not stop.is_set():
            rows = await self._kept_up(lambda: self._raw.poll(timeout_s=POLL_S, limit=BATCH), stop)
            if rows:
                await self._take(rows, stop)
            elif until_end and rows is not None and await self._kept_up(self._raw.behind, stop) == 0:
                break
        return self.summary

    async def _take(self, rows: Mapping[int, Sequence[Row]], stop: asyncio.Event) -> None:
        """Make messages durable and commit them, or leave all of them where they are."""
        messages = [row for _, some in sorted(rows.items()) for row in some]
        lines = list(self._events((row.offset, self._line(row)) for row in messages))
        for batch in batches(lines):
            reports = await self._kept_up(partial(self._ingest, batch), stop)
            if reports is None:
                return
            for report in reports:
                self.summary.count(report.outcome, None if report.reason is None else Refusal(report.reason))
        taken = {partition: some[-1].offset for partition, some in rows.items()}
        if await self._kept_up(partial(self._raw.commit, taken), stop) is False:
            log_line.info("partitions were given to another member", count=len(taken))
        if self._on_progress is not None:
            self._on_progress(self.summary)

    def _line(self, row: Row) -> bytes | Refusal:
        """Return a message as a line; one without a value says nothing."""
        if row.value is None:
            return Refusal.NULL_VALUE
        line = self._message(row)
        return line if type(line) is Refusal or line.strip() else Refusal.NOT_JSON

    async def _ingest(self, batch: Sequence[tuple[int, bytes | Refusal]]) -> Sequence[LineReport]:
        now = time.monotonic()
        if self._open is None or now - self._opened_at > FRESH_S:
            self._open = None
            self._open, self._opened_at = await self._begin(), time.monotonic()
        return await self._open.take(
            self._source, [line for _, line in batch], numbers=[at for at, _ in batch]
        )

    async def _kept_up(self, attempt: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T | None:
        """Return what an attempt returns, tried again while what it needs is away; None when told to stop."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                return await attempt()
            except _FOR_NOW as error:
                self._open = None  # what it knew may be more than is durable
                log_line.warning("not reached, and tried again", reason=type(error).__name__)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)
            if stop.is_set():
                return None
            pause_s = min(2 * pause_s, RETRY_MAX_S)
