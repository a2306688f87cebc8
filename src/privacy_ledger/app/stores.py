"""Every store that may hold something of a person: how it is purged, and what it says when asked.

A store is purged by its owner alone; the eraser waits for it and then looks for itself. What it
answers is one of five outcomes, of which only the first two count as done. A place that no store
here answers for must be one that holds no value of a person, with the reason.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final, Literal, Protocol

from msgspec import Struct

from privacy_ledger.app._receipt import StoreOutcome
from privacy_ledger.domain.errors import KeyUnavailable, LogUnavailable, NotCaughtUp
from privacy_ledger.domain.topics import (
    ANALYTICS_PARTIALS,
    ANALYTICS_RELEASES,
    AUDIT_LEAVES,
    CONTROL_HINTS,
    LEDGER_REGISTRY,
    REQUESTS,
    TOPICS,
)
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.streams.states import IndexRow

__all__ = [
    "DONE",
    "FILES_OF_NOBODY",
    "TOPICS_OF_NOBODY",
    "UNREACHABLE",
    "DerivedStore",
    "Found",
    "PassIndex",
    "StoreRegistry",
]

DONE: Final = frozenset({"erased", "nothing held"})
"""The outcomes that count as done."""
UNREACHABLE: Final = (NotCaughtUp, KeyUnavailable, LogUnavailable)
"""What a store raises that cannot be reached now."""

TOPICS_OF_NOBODY: Final[Mapping[str, str]] = {
    LEDGER_REGISTRY: "facts about no person",
    REQUESTS: "random ids, counts and times of requests; the salt of a receipt is a key of the keystore",
    ANALYTICS_PARTIALS: "sums over all people, sealed under the key of their window",
    ANALYTICS_RELEASES: "budget and releases, with noise",
    AUDIT_LEAVES: "hashes and signed checkpoints",
    CONTROL_HINTS: "names of passes and places in the log",
} | {topic.name: "anonymised figures" for topic in TOPICS if topic.readers == ("analyst", "operator")}
"""Topics that hold no value of a person, and why."""

FILES_OF_NOBODY: Final[Mapping[str, str]] = {
    "home/home.json": "the description of the home",
    "home/.home-*": "a description that is being written",
    "home/worker.lock": "empty: a lock",
    "state/host/*": "what the host writes about itself",
}
"""Files that hold no value of a person, by pattern, and why."""


class Found(Struct, frozen=True, kw_only=True):
    """What a look into a store found of a person: so many things, and what keeps them there.

    `hindrance`: why they stay; None: nothing does, and what is left will go when its owner comes
    to it. Retained things have a ground, and an end where one is known.
    """

    left: int
    hindrance: Literal["retained", "unreachable", "unsupported"] | None = None
    ground: str = ""
    until: datetime | None = None


class DerivedStore(Protocol):
    """One store; every call may be repeated.

    Each may raise `NotCaughtUp`, `KeyUnavailable` or `LogUnavailable`: the store is unreachable now.
    """

    @property
    def name(self) -> str:
        """What receipts call it; at most 40 characters, and nothing about anybody."""
        ...

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of the declaration for which it answers."""
        ...

    @property
    def files(self) -> tuple[str, ...]:
        """The files for which it answers, as patterns below `home`, `keys`, `key-backups` and `state`."""
        ...

    async def count(self, ref: SubjectRef) -> int:
        """Return how many things of a reference it holds now."""
        ...

    async def purge(self, ref: SubjectRef) -> None:
        """Have the store's owner remove what it holds of a reference, and wait for it within bounds."""
        ...

    async def verify(self, ref: SubjectRef) -> Found:
        """Return what is left, by a look of its own."""
        ...


class PassIndex(Protocol):
    """What one pass knows of a person's live records: it drops a row when it lets go of the record."""

    @property
    def name(self) -> str:
        """What receipts call it."""
        ...

    async def rows(self, ref: SubjectRef) -> Sequence[IndexRow]:
        """Return the rows of a reference.

        Raises:
            KeyUnavailable, LogUnavailable: the index cannot be read now.
        """
        ...


class StoreRegistry:
    """All stores there are now: asked for anew each time, for versions of projections come and go."""

    def __init__(
        self,
        stores: Callable[[], Awaitable[Sequence[DerivedStore]]],
        *,
        indexes: Callable[[], Awaitable[Sequence[PassIndex]]],
    ) -> None:
        """Take how the stores, and the indexes of the passes, are found."""
        self._stores = stores
        self.indexes = indexes

    async def count(self, ref: SubjectRef) -> dict[str, int | None]:
        """Return what each store holds of a reference before anything is destroyed; empty ones are left out.

        None: the store cannot be reached now, and nobody will know what it held.
        """
        stores = await self._stores()
        # Side by side: the person waits for the request, which is written when all have answered.
        found = await asyncio.gather(*(_count(store, ref) for store in stores), return_exceptions=True)
        counts: dict[str, int | None] = {}
        for store, count in zip(stores, found, strict=True):
            if isinstance(count, BaseException):
                raise count
            if count != 0:
                counts[store.name] = count
        return counts

    async def purge(self, ref: SubjectRef) -> None:
        """Purge every store that can be reached; the others are told by `verify`."""
        for store in await self._stores():
            try:
                await store.purge(ref)
            except UNREACHABLE:
                continue

    async def verify(
        self, ref: SubjectRef, *, held: Mapping[str, int | None] | None
    ) -> tuple[StoreOutcome, ...]:
        """Return the outcome of each store; `held` is what it held before, None: nobody looked.

        What is left without a hindrance is unreachable as well: its owner has not come to it.
        """
        return tuple(
            [
                await _outcome(store, ref, None if held is None else held.get(store.name, 0))
                for store in await self._stores()
            ]
        )

    async def of_topic(self, topic: str) -> tuple[str, ...]:
        """Return the names of the stores that answer for a topic."""
        return tuple(store.name for store in await self._stores() if topic in store.topics)

    async def of_file(self, path: str) -> tuple[str, ...]:
        """Return the names of the stores that answer for a file, such as `home/ledger.db-wal`."""
        return tuple(
            store.name
            for store in await self._stores()
            if any(fnmatchcase(path, pattern) for pattern in store.files)
        )


async def _count(store: DerivedStore, ref: SubjectRef) -> int | None:
    try:
        return await store.count(ref)
    except UNREACHABLE:
        return None


async def _outcome(store: DerivedStore, ref: SubjectRef, held: int | None) -> StoreOutcome:
    try:
        found = await store.verify(ref)
    except UNREACHABLE:
        found = Found(left=0, hindrance="unreachable")
    if found.hindrance is not None:
        return StoreOutcome(
            store=store.name, outcome=found.hindrance, count=found.left, ground=found.ground,
            until=found.until,
        )  # fmt: skip
    if found.left:
        return StoreOutcome(store=store.name, outcome="unreachable", count=found.left)
    return StoreOutcome(store=store.name, outcome="nothing held" if held == 0 else "erased", count=held)
