"""What a pass says beyond its own states: partials, pointers to what it parked, tombstones.

A cycle asks its outlet for these records. A replay is given `Silence`, which has none to give:
it holds no codec that could make one.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from privacy_ledger.domain.topics import DLQ
from privacy_ledger.ports.codec import Codec, PartialCodec
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.ports.runtime import Ids
from privacy_ledger.streams.protocol import Emit
from privacy_ledger.streams.states import Tombstone

__all__ = ["LiveOutlet", "Outlet", "Silence"]


class Outlet(Protocol):
    """Makes the records of a cycle that lie outside of the pass's own changelogs."""

    def outputs(
        self, emits: Sequence[Emit], reasons: Mapping[int, str], *, partition: int, now: datetime
    ) -> list[tuple[str, NewRecord]]:
        """Return what goes out in the cycle's own transaction.

        `reasons`: why a record of the partition cannot be read, or why a subject now waits behind
        it, by offset.
        """
        ...

    def tombstones(self, decided: Sequence[Tombstone]) -> tuple[NewRecord, ...]:
        """Return the tombstones for the ledger, in the order given."""
        ...


class Silence:
    """The outlet of a replay: nothing goes out, whatever a step or a fold asks for."""

    def outputs(
        self,
        emits: Sequence[Emit],  # noqa: ARG002 - muted
        reasons: Mapping[int, str],  # noqa: ARG002 - muted
        *,
        partition: int,  # noqa: ARG002 - muted
        now: datetime,  # noqa: ARG002 - muted
    ) -> list[tuple[str, NewRecord]]:
        """Return nothing."""
        return []

    def tombstones(self, decided: Sequence[Tombstone]) -> tuple[NewRecord, ...]:  # noqa: ARG002 - muted
        """Return nothing."""
        return ()


class LiveOutlet:
    """The outlet of a declared pass."""

    def __init__(self, pass_name: str, *, codec: Codec, partials: PartialCodec, ids: Ids) -> None:
        """Take what makes records; `pass_name` stands in the pointers."""
        self._pass = pass_name
        self._codec = codec
        self._partials = partials
        self._ids = ids

    def outputs(
        self, emits: Sequence[Emit], reasons: Mapping[int, str], *, partition: int, now: datetime
    ) -> list[tuple[str, NewRecord]]:
        """Return the sealed partials, and a pointer to each record that was set aside."""
        out = [(emit.topic, self._partials.partial(emit, now=now)) for emit in emits]
        pointers = (self._pointer(partition, offset, reason) for offset, reason in reasons.items())
        return [*out, *((DLQ, pointer) for pointer in pointers)]

    def _pointer(self, partition: int, offset: int, reason: str) -> NewRecord:
        """Return where a record lies that could not be folded, and a reason code."""
        pointer = {"pass": self._pass, "partition": partition, "offset": offset, "reason": reason}
        return NewRecord(partition, self._ids.token(), msgspec.json.encode(pointer))

    def tombstones(self, decided: Sequence[Tombstone]) -> tuple[NewRecord, ...]:
        """Return a tombstone for each decision."""
        return tuple(
            self._codec.tombstone(one.key[:16], one.key[16:], cause=one.cause, request=one.request)
            for one in decided
        )
