"""The one loop that ingests what all requests bring, many requests at once, behind a bounded queue.

A request waits until its events are durable. When the queue is full the next one is told so at once:
nothing grows, and nothing is promised that is not kept.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from privacy_ledger.app.ingest import LineReport, OpenIngest, Source
from privacy_ledger.domain.errors import LedgerError
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.http.problems import Kind, Problem
from privacy_ledger.logging import get_logger

__all__ = ["QUEUE_ITEMS_MAX", "Intake"]

QUEUE_ITEMS_MAX: Final = 20_000
TURN_ITEMS: Final = 1000
"""So many events are ingested at once, unless one request alone has more."""
FRESH_S: Final = 1.0
"""After so long the loop looks anew at what others decided about people."""
REST_S: Final = 0.2
ANSWER_S: Final = 60.0
_RETRY: Final = {"Retry-After": "2"}
log_line = get_logger()


class _Work(Struct, eq=False):
    """The events of one request, on their way; never logged."""

    source: Source
    lines: Sequence[bytes | Refusal]
    answer: asyncio.Future[list[LineReport]]

    def __repr__(self) -> str:
        """Return the count only."""
        return f"_Work({len(self.lines)} events)"


class Intake:
    """The queue and its loop; `run` serves until `close`, and then all that is queued."""

    def __init__(
        self,
        begin: Callable[[], Awaitable[OpenIngest]],
        *,
        rest: Callable[[], Awaitable[None]],
        items_max: int = QUEUE_ITEMS_MAX,
        answer_s: float = ANSWER_S,
    ) -> None:
        """Take what begins an ingest, and what to do when nothing is queued.

        The latter is done once after work, and again until it succeeds.
        """
        self._begin = begin
        self._rest = rest
        self._items_max = items_max
        self._answer_s = answer_s
        self._queue: deque[_Work] = deque()
        self._items = 0
        self._wake = asyncio.Event()
        self._is_closed = False
        self._open: OpenIngest | None = None
        self._opened_at = 0.0
        self.is_well = True

    @property
    def queued(self) -> int:
        """How many events wait."""
        return self._items

    def admit(self, count: int = 1) -> None:
        """Return when so many events may come now.

        Raises:
            Problem: the queue has no place for them, or takes no more.
        """
        if self._is_closed or self._items + count > self._items_max:
            raise Problem(Kind.BUSY, headers=_RETRY)

    async def ingest(self, source: Source, lines: Sequence[bytes | Refusal]) -> list[LineReport]:
        """Return what became of each line, in order; what is accepted is durable.

        Raises:
            Problem: the queue is full, or the ledger cannot be written. To send again is safe.
        """
        if not lines:
            return []
        self.admit(len(lines))
        work = _Work(source, lines, asyncio.get_running_loop().create_future())
        self._queue.append(work)
        self._items += len(lines)
        self._wake.set()
        try:
            async with asyncio.timeout(self._answer_s):
                return await work.answer
        except TimeoutError:
            raise Problem(Kind.UNAVAILABLE, headers=_RETRY) from None

    def close(self) -> None:
        """Take no more; `run` returns once all that is queued is answered."""
        self._is_closed = True
        self._wake.set()

    async def run(self) -> None:
        """Ingest what is queued, in order, and answer it."""
        is_dirty = False
        while self._queue or not self._is_closed:
            if self._queue:
                is_dirty = True
                for group in self._turn():
                    await self._take(group)
                continue
            self._wake.clear()
            pause_s = REST_S if is_dirty else None if self.is_well else FRESH_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)
            if not self._queue and (is_dirty or not self.is_well):
                await self._settle()
                is_dirty = False
        if is_dirty:
            await self._settle()

    async def _settle(self) -> None:
        """Do what comes after work; that it can be done shows that the ledger can be reached."""
        try:
            await self._rest()
        except LedgerError as error:
            self._failed(error)
        else:
            self.is_well = True

    def _turn(self) -> list[list[_Work]]:
        """Return the next requests, those of one source together, in order."""
        groups: dict[Source, list[_Work]] = {}
        count = 0
        while self._queue and (not count or count + len(self._queue[0].lines) <= TURN_ITEMS):
            work = self._queue.popleft()
            self._items -= len(work.lines)
            if work.answer.done():  # whoever asked is gone; nothing was promised
                continue
            count += len(work.lines)
            groups.setdefault(work.source, []).append(work)
        return list(groups.values())

    async def _take(self, group: Sequence[_Work]) -> None:
        """Ingest the requests of one source together; where one is at fault, each alone."""
        try:
            reports = await self._reports(group[0].source, [line for work in group for line in work.lines])
        except LedgerError as error:
            self._failed(error)
            _refuse(group, Kind.UNAVAILABLE)
            return
        except Exception as error:  # noqa: BLE001 - the outermost frame of the service's work
            self._failed(error)
            if len(group) == 1:
                _refuse(group, Kind.INTERNAL)
                return
            for work in group:
                await self._take([work])
            return
        self.is_well = True
        start = 0
        for work in group:
            end = start + len(work.lines)
            if not work.answer.done():
                work.answer.set_result(reports[start:end])
            start = end

    async def _reports(self, source: Source, lines: Sequence[bytes | Refusal]) -> list[LineReport]:
        now = time.monotonic()
        if self._open is None or now - self._opened_at > FRESH_S:
            self._open = None
            self._open, self._opened_at = await self._begin(), time.monotonic()
        return await self._open.take(source, lines)

    def _failed(self, error: Exception) -> None:
        """What was cached may say more than is durable: look anew."""
        self._open = None
        self.is_well = False
        log_line.warning("ledger not reached", reason=type(error).__name__)


def _refuse(group: Sequence[_Work], kind: Kind) -> None:
    for work in group:
        if not work.answer.done():
            work.answer.set_exception(Problem(kind, headers=_RETRY if kind.status == 503 else {}))  # noqa: PLR2004 - as HTTP says
