"""`requests.v1`: how far rights requests came; the subject's partition alone decides.

It holds random ids, counts and times. A saga is known by its request and its reference.
"""

from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct

from privacy_ledger.domain.topics import REQUESTS
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.ports.log import EventLog, NewRecord

__all__ = ["Progress", "Saga", "read_sagas", "record"]

_PAGE: Final = 2000

Cause = Literal["request", "retention", "restore", "link"]


class Progress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of one saga that is done, or its opening or end. Ids in hex."""

    request: str
    ref: str
    step: str
    at: datetime
    cause: Cause = "request"
    counts: dict[str, int] = {}
    kids: tuple[str, ...] = ()
    identities: int = 0
    receipt: str | None = None
    leaf: str | None = None
    open_steps: tuple[str, ...] = ()


class Saga(Struct, kw_only=True):
    """An erasure of one reference as its progress records tell it; `done` in order."""

    request: str
    ref: SubjectRef
    opened_at: datetime
    cause: Cause
    counts: dict[str, int]
    done: dict[str, datetime]
    kids: tuple[str, ...] = ()
    identities: int = 0
    receipt: bytes | None = None
    leaf: str | None = None
    open_steps: tuple[str, ...] = ()

    @property
    def is_completed(self) -> bool:
        """Whether every store was verified."""
        return "completed" in self.done


def record(progress: Progress, *, partitions: int) -> NewRecord:
    """Return a progress record; its key is the request id."""
    key = bytes.fromhex(progress.request)
    return NewRecord(partition_of(key, partitions), key, msgspec.json.encode(progress))


async def read_sagas(log: EventLog) -> dict[tuple[str, SubjectRef], Saga]:
    """Return every erasure by request and reference, oldest first within a partition."""
    found: dict[tuple[str, SubjectRef], Saga] = {}
    decode = msgspec.json.Decoder(Progress).decode
    for partition in range(log.partitions(REQUESTS)):
        after = -1
        while rows := await log.read(REQUESTS, partition, after=after, limit=_PAGE):
            for row in rows:
                if row.value is not None:
                    _apply(found, decode(row.value))
            after = rows[-1].offset
    return found


def _apply(found: dict[tuple[str, SubjectRef], Saga], progress: Progress) -> None:
    """Fold one progress record; the first opening counts."""
    ref = SubjectRef(bytes.fromhex(progress.ref))
    name = (progress.request, ref)
    saga = found.get(name)
    if saga is None:
        saga = found[name] = Saga(
            request=progress.request, ref=ref, opened_at=progress.at, cause=progress.cause,
            counts=progress.counts, done={},
        )  # fmt: skip
    saga.done.setdefault(progress.step, progress.at)
    saga.kids = tuple(dict.fromkeys((*saga.kids, *progress.kids)))
    saga.identities += progress.identities
    saga.open_steps = progress.open_steps
    if progress.receipt is not None:
        saga.receipt = progress.receipt.encode()
    if progress.leaf is not None:
        saga.leaf = progress.leaf
