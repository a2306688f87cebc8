"""What a cycle has in hand: records are taken one by one, and a step that fails on one is survived.

Each record is counted as it is taken, of the batch or read again: it may be folded several times
in one cycle, and fail once.
"""

from collections.abc import Awaitable, Callable, Sequence

from msgspec import structs

from privacy_ledger.domain.errors import LedgerError
from privacy_ledger.domain.values import NOBODY, SubjectRef
from privacy_ledger.engine.batch import Books
from privacy_ledger.ports.codec import Decoder
from privacy_ledger.ports.log import Row
from privacy_ledger.streams.fold import RulesNotLoaded
from privacy_ledger.streams.protocol import Serving
from privacy_ledger.streams.record import Broken, Record
from privacy_ledger.streams.states import Workspace

__all__ = ["Hand", "ReadAt"]

ReadAt = Callable[[Sequence[int]], Awaitable[Sequence[Row]]]


class Hand:
    """Takes the records of one cycle, and remembers on which a step failed."""

    def __init__(self, *, codec: Decoder, books: Books, read_at: ReadAt) -> None:
        """Take how records are read again, and what loads the rule books that they need."""
        self._codec = codec
        self._books = books
        self._read_at = read_at
        self._record: Record | None = None
        self._taken = 0
        self._failed: set[tuple[int, int]] = set()
        self.failing = NOBODY
        """On whose record a step failed at last in this cycle; `NOBODY`: on nobody's."""

    @property
    def failures(self) -> int:
        """On how many records of this cycle a step failed so far."""
        return len(self._failed)

    def take(self, record: Record) -> Record:
        """Take the next record in hand; where a step failed on it before, it is not folded."""
        self._taken += 1
        self._record = record
        if self._failed and (self._taken, record.offset) in self._failed:
            return structs.replace(record, body=Broken())
        return record

    async def drive(self, serving: Serving[None]) -> None:
        """Read again what the fold asks for, until it ends."""
        try:
            offsets = next(serving)
            while True:
                self._record = None
                rows = await self._read_at(offsets) if offsets else ()
                offsets = serving.send(map(self.take, self._codec.decode(rows)))
        except StopIteration:
            return

    async def around_failures(self, fold: Callable[[], Awaitable[Workspace]]) -> Workspace:
        """Return what `fold` does; a record on which a step fails parks its subject.

        Such a record is not folded where it failed, and `fold` starts again from the committed
        states: nothing of its subject moves, and the others never notice.
        """
        self._failed.clear()
        self.failing = NOBODY
        while True:
            self._taken, self._record = 0, None
            try:
                return await fold()
            except RulesNotLoaded as missing:
                await self._books.load(missing.digest)
            except LedgerError:
                raise
            except Exception:  # a step's bug, if a subject's record was in hand
                record = self._record
                if record is None or record.ref == NOBODY or (self._taken, record.offset) in self._failed:
                    raise
                self._failed.add((self._taken, record.offset))
                self.failing = SubjectRef(record.ref)
