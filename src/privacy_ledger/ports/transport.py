"""The transport seam: how an engine takes rows from a cluster, and which partitions are its own.

Rows come in by `poll`; they leave by the event log's transactions. Nothing here is a position: an
engine tells the transport where to read from, and what it commits is a figure for lag only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from privacy_ledger.domain.errors import LedgerError
from privacy_ledger.ports.log import Row

__all__ = ["Claim", "Member", "OutOfRange", "Place", "Plan", "Share", "Source", "Tail"]

Place = tuple[str, int]
"""A topic, by its name in the declaration, and one of its partitions."""


class OutOfRange(LedgerError):
    """What was asked for lies before the beginning of a log, or behind its end."""

    def __init__(self, places: frozenset[Place]) -> None:
        """Name the places."""
        self.places = places
        named = ", ".join(f"{topic} partition {partition}" for topic, partition in sorted(places))
        super().__init__(f"{named}: the log does not reach from there. Read it from its beginning.")


class Claim(Struct, frozen=True, kw_only=True):
    """What a worker says when it joins: what it owned last, and of what it has a store."""

    round: int = 0
    owned: tuple[int, ...] = ()
    warm: tuple[int, ...] = ()


class Share(Struct, frozen=True, kw_only=True):
    """What a worker is given: partitions to fold, and partitions to follow for their owner."""

    round: int = 0
    owned: tuple[int, ...] = ()
    followed: tuple[int, ...] = ()


Plan = Callable[[Mapping[str, Claim], Sequence[int]], Mapping[str, Share]]
"""Divides partitions among the workers of a group; one of them calls it for all."""


class Member(Protocol):
    """A worker as its transport sees it. Nothing here may be slow, and nothing raises."""

    def warm(self) -> Sequence[int]:
        """Return the partitions of which this worker has a store, up to date or not."""
        ...

    def revoked(self) -> None:
        """Stop folding: the group is divided anew, and everything is taken away first."""
        ...

    def assigned(self, share: Share) -> None:
        """Take a share; its partitions are paused until they are resumed."""
        ...


class Source(Protocol):
    """One topic, read as a member of a group. Every method may raise `LogUnavailable`."""

    async def join(self, member: Member) -> None:
        """Join the group; `member` is told of every share until `leave`."""
        ...

    async def poll(self, *, timeout_s: float, limit: int) -> Mapping[int, Sequence[Row]]:
        """Return at most `limit` rows of the resumed partitions, each in offset order.

        Raises:
            OutOfRange: an offset that a partition was resumed from lies outside the topic.
        """
        ...

    def pause(self, partition: int) -> None:
        """Return no more rows of a partition."""
        ...

    def resume(self, partition: int, *, offset: int) -> None:
        """Return rows of a partition again, from this offset on."""
        ...

    async def behind(self, partition: int) -> int | None:
        """Return how many offsets a partition is behind its stable end as last seen; None before."""
        ...

    async def commit_lag(self, offsets: Mapping[int, int]) -> None:
        """Say how far the partitions came, for those who watch the lag.

        Raises:
            Fenced: a newer worker runs under this one's identity.
        """
        ...

    async def leave(self) -> None:
        """Close; whether the partitions are given up at once is the source's setting. Idempotent."""
        ...


class Tail(Protocol):
    """Any places, read without a group. Every method may raise `LogUnavailable`."""

    async def follow(self, places: Mapping[Place, int]) -> None:
        """Read these places from these offsets on, and no others; 0 is wherever a log begins."""
        ...

    async def poll(self, *, timeout_s: float, limit: int) -> Mapping[Place, Sequence[Row]]:
        """Return at most `limit` rows of the places, each in offset order.

        Raises:
            OutOfRange: an offset that was asked for lies outside its log.
        """
        ...

    async def behind(self, place: Place) -> int | None:
        """Return how many offsets a place is behind its end as last seen; None before it was seen."""
        ...

    async def close(self) -> None:
        """Close; idempotent."""
        ...
