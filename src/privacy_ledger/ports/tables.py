"""What a pass has committed to one of its tables, as its topics say."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from privacy_ledger.ports.codec import HEARTBEAT_KEY, StateCodec
from privacy_ledger.streams.states import Table

__all__ = ["Scan", "committed"]

T = TypeVar("T")


class Scan(Protocol):
    """Live (key, value) pairs of a compacted topic."""

    async def scan(self, topic: str, partition: int, prefix: bytes) -> Sequence[tuple[bytes, bytes]]:
        """Return the pairs under a prefix, in key order."""
        ...


async def committed(
    latest: Scan, states: StateCodec, table: Table[T], partition: int, *, under: bytes = b""
) -> list[tuple[bytes, T]]:
    """Return the readable (key, value) pairs of a table in one partition, in key order.

    `under`: those whose keys begin so. What cannot be read, because its keys are destroyed, is absent.
    """
    prefix = states.changelog_key(table, b"")
    raw = await latest.scan(states.topic(table), partition, prefix + under)
    items = [(key[len(prefix) :], value) for key, value in raw if key != HEARTBEAT_KEY]
    opened = states.open_many(table, items)
    return [(key, value) for (key, _), value in zip(items, opened, strict=True) if value is not None]
