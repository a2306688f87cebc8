"""The two facades of a producer: `Ledger` for asyncio, `SyncLedger` for everything else."""

import atexit
import re
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from privacy_ledger.sdk import recording
from privacy_ledger.sdk.errors import BufferFull, TransportInvalid
from privacy_ledger.sdk.events import Encoded, Event, encode
from privacy_ledger.sdk.sender import Sender
from privacy_ledger.sdk.terms import Flushed, Limits, Refused, SpoolLike
from privacy_ledger.sdk.transport import Transport

__all__ = ["CLOSE_S", "Ledger", "SyncLedger"]

CLOSE_S: Final = 10.0
"""So long closing and flushing try to send what waits."""
_SOURCE: Final = re.compile(r"[a-z][a-z0-9._-]{0,62}")
_LIMITS: Final = Limits()


class _Base:
    """What both facades are made of."""

    def __init__(
        self,
        transport: Transport,
        *,
        source: str,
        limits: Limits = _LIMITS,
        spool: SpoolLike | None = None,
        on_refused: Callable[[Refused], None] | None = None,
        on_gap: Callable[[int], None] | None = None,
    ) -> None:
        """Take where events go; nothing is opened yet.

        `source` is the name of this producer, for which the operator made its API key. `on_refused` is called
        once for each event that the ledger does not take; `on_gap` with how many usage events were dropped.
        Both are called by the sender's thread: be quick, and neither emit nor close there.

        Raises:
            TransportInvalid: the source has no such name.
        """
        if _SOURCE.fullmatch(source) is None:
            raise TransportInvalid("A source's name is lower-case letters, digits, dots and dashes.")
        self._sender = Sender(
            transport, source=source, limits=limits, spool=spool, on_refused=on_refused, on_gap=on_gap
        )

    @property
    def figures(self) -> Flushed:
        """What became of all events of this process so far."""
        return self._sender.figures

    def _open(self) -> None:
        if not recording.is_on():
            self._sender.open()


class Ledger(_Base):
    """A producer for asyncio: `async with Ledger(transport, source="our-lms") as ledger`."""

    async def __aenter__(self) -> Self:
        """Take events from now on."""
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close within `CLOSE_S`; who needs the figures closes by `aclose`."""
        await self.aclose()

    async def emit(self, event: Event) -> None:
        """Take one event; it is sent soon, at least once, and the ledger keeps it once.

        When there is no room, usage is dropped and counted. All else waits here, as `Limits` say.

        Raises:
            EventInvalid: the ledger would not take it in this form.
            BufferFull: there was no room in time; the event was not taken.
            LedgerClosed: nothing is taken.
        """
        import asyncio  # noqa: PLC0415 - who is here has loaded it; who uses the other facade need not

        encoded = encode(event)
        if recording.take(event) or self._sender.offer(encoded):
            return
        if not self._sender.block_s:
            raise BufferFull(encoded.type)
        try:
            async with asyncio.timeout(self._sender.block_s):
                await self._waited(encoded)
        except TimeoutError:
            raise BufferFull(encoded.type) from None

    async def _waited(self, encoded: Encoded) -> None:
        import asyncio  # noqa: PLC0415 - see `emit`

        loop = asyncio.get_running_loop()
        while True:
            room = asyncio.Event()

            def tell(room: asyncio.Event = room) -> None:
                with suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(room.set)

            if self._sender.offer(encoded, tell):
                return
            try:
                await room.wait()
            finally:
                self._sender.leave(tell)

    async def flush(self, *, timeout_s: float = CLOSE_S) -> Flushed:
        """Send what waits, at most so long, and return what became of all events."""
        import asyncio  # noqa: PLC0415 - see `emit`

        return await asyncio.to_thread(self._sender.flush, timeout_s)

    async def aclose(self, *, timeout_s: float = CLOSE_S) -> Flushed:
        """Take nothing more, send what waits, and return what became of all events.

        It returns within `timeout_s` and a second, whatever the service does.
        """
        import asyncio  # noqa: PLC0415 - see `emit`

        return await asyncio.to_thread(self._sender.close, timeout_s)


class SyncLedger(_Base):
    """A producer for code without asyncio, of any number of threads and of servers that fork.

    Open it before or after the fork: each process sends what it emitted itself. It is closed at the
    end of the process, if it was not before; who ends by `os._exit` closes it first, or loses what waits.
    """

    def open(self) -> Self:
        """Take events from now on."""
        self._open()
        _OPEN.add(self)
        return self

    def __enter__(self) -> Self:
        """Take events from now on."""
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close within `CLOSE_S`."""
        self.close()

    def emit(self, event: Event) -> None:
        """Take one event, as `Ledger.emit` does; waiting for room blocks the calling thread."""
        encoded = encode(event)
        if not recording.take(event):
            self._sender.wait_offer(encoded)

    def flush(self, *, timeout_s: float = CLOSE_S) -> Flushed:
        """Send what waits, at most so long, and return what became of all events."""
        return self._sender.flush(timeout_s)

    def close(self, *, timeout_s: float = CLOSE_S) -> Flushed:
        """Take nothing more, send what waits, and return what became of all events; as `Ledger.aclose`."""
        _OPEN.discard(self)
        return self._sender.close(timeout_s)


_OPEN: Final[set[SyncLedger]] = set()


@atexit.register
def _close_all() -> None:
    for ledger in list(_OPEN):
        ledger.close()
