"""Where the rows of each owner lie in one topic: found by reading it once, and then read on."""

import asyncio
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Final

from privacy_ledger.ports.log import EventLog, Row

__all__ = ["Directory"]

OFFSETS_KEPT: Final = 4_000_000
"""Of a topic with more rows (32 MB of offsets) nothing is kept: each question reads it again."""
_PAGE: Final = 2000


class _Part:
    """One partition: the newest offset that was read, and the offsets of each owner, ascending."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.after = -1
        self.places: defaultdict[bytes, array[int]] = defaultdict(lambda: array("Q"))


class Directory:
    """An own reading of a topic, of which a process asks for one owner after the other.

    It knows offsets and owners and no content; every answer is read from the log. A log only grows,
    and compaction takes nothing that a later reading would need. One that ends before what was read
    is another log, and is read from its beginning.
    """

    def __init__(self, log: EventLog, topic: str, owner_of: Callable[[Row], bytes]) -> None:
        """Start with nothing read; `owner_of` says whose a row is, b"" for nobody's."""
        self._log = log
        self._topic = topic
        self._owner_of = owner_of
        self._parts: defaultdict[int, _Part] = defaultdict(_Part)
        self._count = 0

    async def rows(self, partition: int, owners: Collection[bytes], *, after: int = -1) -> list[Row]:
        """Return the rows of these owners above an offset as of now, oldest first."""
        part = self._parts[partition]
        async with part.lock:
            if part.after >= 0 and await self._log.end(self._topic, partition) <= part.after:
                part.after = -1
                part.places.clear()
            known = part.after
            new = await self._read_on(part, partition, owners)
            older = sorted(at for owner in owners for at in part.places.get(owner, ()) if after < at <= known)
            found = await self._log.read_at(self._topic, partition, older) if older else ()
        if self._count > OFFSETS_KEPT:
            self._parts.clear()
            self._count = 0
        return [*found, *(row for row in new if row.offset > after)]

    async def _read_on(self, part: _Part, partition: int, owners: Collection[bytes]) -> list[Row]:
        """Read what came since the last time, note whose it is, and return what is these owners'."""
        new: list[Row] = []
        while page := await self._log.read(self._topic, partition, after=part.after, limit=_PAGE):
            for row in page:
                owner = self._owner_of(row)
                if owner:
                    part.places[owner].append(row.offset)
                    if owner in owners:
                        new.append(row)
            part.after = page[-1].offset
            self._count += len(page)
        return new
