"""How two versions of a projection differ: per subject, at one position, in figures only.

Both go on while they are compared. A subject is compared once no record of theirs lies between
the positions of the two readings; whoever had one is looked at again. Values are compared by the
hash of their canonical plaintext, so that sealing plays no part, and none of them leaves here.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.app._folded import Folded
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import NOBODY, REF_BYTES, SubjectRef
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.log import PassLog
from privacy_ledger.ports.passes import Latest, Views

__all__ = ["Diff", "Differ"]

ROUNDS: Final = 40
PAUSE_S: Final = 0.25
EASE_S: Final = 0.1
"""On Kafka a transaction becomes readable partition by partition: the states follow the position."""
_PAGE: Final = 5000
_encode = msgspec.msgpack.Encoder(order="deterministic").encode

Hashes = dict[bytes, bytes]


class Diff(Struct, frozen=True, kw_only=True):
    """Two versions of one table: how many subjects each has, and how they differ.

    `moving`: subjects with so many new records that no moment was found to compare them at.
    `digest` is over the canonical plaintext of all compared subjects; equal means equal.
    `refs`: the random references of those that differ, in hex, for who looks into them.
    """

    projection: str
    versions: tuple[int, int]
    keys: tuple[int, int]
    only: tuple[int, int]
    different: int
    moving: int
    digest: tuple[str, str]
    refs: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether every subject is the same in both."""
        return not (any(self.only) or self.different or self.moving)


class Differ:
    """Compares two versions over one log."""

    def __init__(self, log: PassLog, *, latest: Latest, views: Views) -> None:
        """Take what it reads."""
        self._log = log
        self._latest = latest
        self._views = views

    async def diff(self, one: Folded, other: Folded) -> Diff:
        """Return how `other` differs from `one`, over all partitions."""
        pairs: dict[bytes, tuple[bytes | None, bytes | None]] = {}
        moving = 0
        for partition in range(self._log.partitions(LEDGER_EVENTS)):
            compared, left = await self._partition(one, other, partition)
            pairs |= compared
            moving += left
        both = [(a, b) for a, b in pairs.values()]
        differing = sorted(ref for ref, (a, b) in pairs.items() if a != b)
        return Diff(
            projection=one.projection,
            versions=(one.version, other.version),
            keys=(sum(a is not None for a, _ in both), sum(b is not None for _, b in both)),
            only=(
                sum(b is None and a is not None for a, b in both),
                sum(a is None and b is not None for a, b in both),
            ),
            different=sum(None not in {a, b} and a != b for a, b in both),
            moving=moving,
            digest=(
                _digest((ref, a) for ref, (a, _) in pairs.items()),
                _digest((ref, b) for ref, (_, b) in pairs.items()),
            ),
            refs=tuple(ref.hex() for ref in differing),
        )

    async def _partition(
        self, one: Folded, other: Folded, partition: int
    ) -> tuple[dict[bytes, tuple[bytes | None, bytes | None]], int]:
        """Return the hashes of each subject in both, and how many could not be compared."""
        decided: dict[bytes, tuple[bytes | None, bytes | None]] = {}
        suspects: dict[bytes, tuple[bytes | None, bytes | None]] = {}
        wanted: frozenset[bytes] | None = None
        for _ in range(ROUNDS):
            before = await self._positions(one, other, partition)
            await asyncio.sleep(EASE_S)
            first = await self._hashes(one, partition, wanted)
            second = await self._hashes(other, partition, wanted)
            after = await self._positions(one, other, partition)
            touched = await self._touched(partition, after=min(before), until=max(after))
            found = {ref: (first.get(ref), second.get(ref)) for ref in wanted or first.keys() | second.keys()}
            if NOBODY in touched:  # a record for all: everybody is looked at again
                touched = frozenset(found)
            still: dict[bytes, tuple[bytes | None, bytes | None]] = {}
            for ref, pair in found.items():
                if ref not in touched and (pair[0] == pair[1] or suspects.get(ref) == pair):
                    decided[ref] = pair
                else:
                    still[ref] = pair
            if not still:
                return decided, 0
            # What differs is believed when it differs in the same way a moment later.
            suspects = {ref: pair for ref, pair in still.items() if ref not in touched}
            wanted = frozenset(still)
            await asyncio.sleep(PAUSE_S)
        return decided, len(wanted or ())

    async def _positions(self, one: Folded, other: Folded, partition: int) -> tuple[int, int]:
        return (
            (await self._views.position(one.pass_name, partition)).offset,
            (await self._views.position(other.pass_name, partition)).offset,
        )

    async def _hashes(self, folded: Folded, partition: int, wanted: frozenset[bytes] | None) -> Hashes:
        """Return the hash of each readable state, of all subjects or of those wanted."""
        if wanted is None:
            raw = [
                pair
                for pair in await self._latest.scan(folded.view, partition, b"")
                if pair[0] != HEARTBEAT_KEY
            ]
        else:
            raw = [
                (ref, value)
                for ref in wanted
                if (value := await self._latest.get(folded.view, partition, ref)) is not None
            ]
        opened = folded.states.open_many(folded.table, raw)
        return {
            key: hashlib.sha256(_encode(state)).digest()
            for (key, _), state in zip(raw, opened, strict=True)
            if state is not None
        }

    async def _touched(self, partition: int, *, after: int, until: int) -> frozenset[bytes]:
        """Return the references of the records in this stretch of the ledger."""
        found: set[bytes] = set()
        while after < until:
            rows = await self._log.read(LEDGER_EVENTS, partition, after=after, limit=_PAGE)
            if not rows:
                break
            found.update(SubjectRef(row.key[:REF_BYTES]) for row in rows if row.offset <= until)
            after = rows[-1].offset
        return frozenset(found)


def _digest(pairs: Iterable[tuple[bytes, bytes | None]]) -> str:
    """Return a digest over (reference, hash of the state), in the order of the references."""
    whole = hashlib.sha256()
    for ref, state in sorted(pair for pair in pairs if pair[1] is not None):
        whole.update(ref + (state or b""))
    return whole.hexdigest()
