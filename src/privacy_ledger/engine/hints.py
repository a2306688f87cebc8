"""The hints that a pass looks for now and then: a command asks to take a parked subject up again.

Only hints that came since the pass runs count: whoever takes a partition over takes all its parked
subjects up again anyway. So nothing has to be remembered, and a hint that is lost is given again.
"""

import time
from typing import Final

from privacy_ledger.domain.errors import LogUnavailable
from privacy_ledger.domain.topics import CONTROL_HINTS
from privacy_ledger.ports.hints import Redrive, hint_of
from privacy_ledger.ports.log import PassLog

__all__ = ["Hints"]

READ: Final = 1000


class Hints:
    """Reads the hints of one pass, each once."""

    def __init__(self, log: PassLog, pass_name: str, *, every_s: float = 0) -> None:
        """Take the log, and how often at most to look; nothing is read yet."""
        self._log = log
        self._pass = pass_name
        self._every_s = every_s
        self._after: int | None = None
        self._looked_at = float("-inf")

    async def begin(self) -> None:
        """Pass over what was given before now; to be called before the pass takes a partition over."""
        self._after = None
        self._looked_at = float("-inf")
        await self.due()

    async def due(self) -> list[Redrive]:
        """Return the new hints for this pass; none where the log does not answer, or it is too early."""
        now = time.monotonic()
        if now - self._looked_at < self._every_s:
            return []
        self._looked_at = now
        try:
            last = await self._log.end(CONTROL_HINTS, 0) - 1
            if self._after is None or self._after >= last:
                self._after = last
                return []
            rows = await self._log.read(CONTROL_HINTS, 0, after=self._after, limit=READ)
        except LogUnavailable:
            return []
        self._after = rows[-1].offset if rows else last
        found = (hint_of(row) for row in rows)
        return [hint for hint in found if hint is not None and hint.pass_name == self._pass]
