"""The daily roll of a keystore's epoch, done by whoever runs its passes, beside that work.

Nothing is remembered between processes: what is due is read from the keystore, so a roll that a crash
cut short is finished by the next look, whoever has it, and two at once make one epoch.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Final

from privacy_ledger.app.key_care import KeyCare, Rolled
from privacy_ledger.ports.runtime import Clock

__all__ = ["LOOK_EVERY", "RETRY_AFTER", "DailyKeys"]

LOOK_EVERY: Final = timedelta(hours=1)
"""Each look reads every key's row once."""
RETRY_AFTER: Final = timedelta(minutes=5)


class _Ending(Exception):
    """The process is to end: what is left of the roll is the next one's."""


class DailyKeys:
    """Rolls the epoch when it is a day old, and closes the report of released keys with it."""

    def __init__(
        self,
        open_care: Callable[[], AbstractContextManager[KeyCare]],
        *,
        account: Callable[[], Awaitable[object]],
        clock: Clock,
    ) -> None:
        """Take how a keystore is opened for a roll, what is to be done after one, and the clock.

        `open_care` is called in a thread, for a connection that nobody else uses.
        """
        self._open_care = open_care
        self._account = account
        self._clock = clock
        self._looked_at: datetime | None = None
        self._wait = LOOK_EVERY
        self._owes_account = False
        self._must_end = threading.Event()

    async def tend(self) -> Rolled | None:
        """Do what is due, looking once an hour; return what was done, or None.

        Idempotent, and safe beside others who do the same. The event loop goes on meanwhile.

        Raises:
            LedgerError: keystore or log could not be used; it is tried again after five minutes.
        """
        now = self._clock.now()
        if self._looked_at is not None and timedelta(0) <= now - self._looked_at < self._wait:
            return None
        self._looked_at, self._wait = now, RETRY_AFTER
        try:
            rolled = await asyncio.to_thread(self._rotate)
        except _Ending:
            return None
        if (rolled is not None and rolled.has_effect) or self._owes_account:
            self._owes_account = True
            await self._account()
            self._owes_account = False
        self._wait = LOOK_EVERY
        return rolled

    def end(self) -> None:
        """Let a roll that is under way end at its next step; it is finished by whoever looks next."""
        self._must_end.set()

    def _rotate(self) -> Rolled | None:
        with self._open_care() as care:
            return care.rotate(on_step=self._on_step)

    def _on_step(self, _step: str, _count: int) -> None:
        if self._must_end.is_set():
            raise _Ending
