"""A platform's own topic, read by a group that shares its partitions."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from privacy_ledger.ports.log import Row

__all__ = ["RawTopic"]


class RawTopic(Protocol):
    """Messages that come in; what is taken is committed, and is not read again by anybody of the group."""

    lost: int
    """How many offsets were removed from the topic before anybody of the group had read them."""

    async def poll(self, *, timeout_s: float, limit: int) -> Mapping[int, Sequence[Row]]:
        """Return at most `limit` messages by partition, in order; after a change of the group, as committed.

        Raises:
            LogUnavailable: the cluster cannot be reached.
        """
        ...

    async def commit(self, taken: Mapping[int, int]) -> bool:
        """Note the newest offset that was taken of each partition; False: they are somebody else's by now.

        Raises:
            LogUnavailable: the cluster cannot be reached.
        """
        ...

    async def behind(self) -> int | None:
        """Return how many offsets of its partitions were not given yet; None while it has none.

        Raises:
            LogUnavailable: the cluster cannot be reached.
        """
        ...
