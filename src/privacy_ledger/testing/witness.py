"""A witness of the ledger: keeps what each record said while it could still be read.

Expectations are computed from what was said; an erasure leaves nothing to compute them from.
"""

from collections.abc import Mapping

from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.log import EventLog
from privacy_ledger.streams.record import Record, Removed
from privacy_ledger.testing.oracle import Expected, Oracle

__all__ = ["Witness"]

_PAGE = 5000


class Witness:
    """Reads the ledger as it grows; `records` by partition, oldest first."""

    def __init__(self) -> None:
        """Start before the first record."""
        self._after: dict[int, int] = {}
        self.records: dict[int, list[Record]] = {}

    def copy(self) -> "Witness":
        """Return a witness that goes on apart from here."""
        other = Witness()
        other._after = dict(self._after)
        other.records = {partition: list(records) for partition, records in self.records.items()}
        return other

    async def look(self, log: EventLog, codec: Codec) -> None:
        """Read every partition to its end."""
        for partition in range(log.partitions(LEDGER_EVENTS)):
            held = self.records.setdefault(partition, [])
            after = self._after.get(partition, -1)
            while rows := await log.read(LEDGER_EVENTS, partition, after=after, limit=_PAGE):
                held += codec.decode(rows)
                after = self._after[partition] = rows[-1].offset

    def expect(self, rules: Rules, books: Mapping[str, Rules]) -> dict[int, Expected]:
        """Return what the oracle expects of each partition."""
        return {
            partition: Oracle(rules, books).expect(
                [record for record in records if not isinstance(record.body, Removed)]
            )
            for partition, records in self.records.items()
        }
