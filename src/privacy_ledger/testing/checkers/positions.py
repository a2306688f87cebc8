"""The position of a pass never falls, and what is read back is what was committed last."""

import msgspec

from privacy_ledger.domain.topics import LEDGER_EVENTS, state_topic
from privacy_ledger.engine.cycle import POSITION_KEY
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.testing.checkers.evidence import Evidence

__all__ = ["positions"]


async def positions(evidence: Evidence) -> list[str]:
    """Return where a position fell, stands short of the ledger's end, or is not the last one written."""
    found: list[str] = []
    ledger = evidence.ledger
    for name in ledger.declared:
        last: dict[int, PassPosition] = {}
        for write in evidence.writes:
            record = write.record
            if (write.topic, record.key) != (state_topic(name), POSITION_KEY) or record.value is None:
                continue
            position = msgspec.msgpack.decode(record.value, type=PassPosition)
            before = last.get(record.partition, PassPosition())
            if (position.offset, position.tick_offset) < (before.offset, before.tick_offset):
                found.append(
                    f"{name} partition {record.partition} fell from {before.offset} to {position.offset}"
                )
            last[record.partition] = position
        for partition in range(ledger.partitions):
            now = await ledger.views.position(name, partition)
            if now != last.get(partition, PassPosition()):
                found.append(f"{name} partition {partition} is not where it was committed")
            if await ledger.log.read(LEDGER_EVENTS, partition, after=now.offset, limit=1):
                found.append(f"{name} partition {partition} is not at the end")
    return found
