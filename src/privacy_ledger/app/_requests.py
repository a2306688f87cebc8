"""`requests.v1`: how far rights requests came; the subject's partition alone decides.

It holds random ids, counts and times. A saga is known by its request and its reference.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec
from msgspec import Struct

from privacy_ledger.app._directory import Directory
from privacy_ledger.app.retention import KeptItem
from privacy_ledger.domain.events import ControlFact
from privacy_ledger.domain.topics import LEDGER_EVENTS, REQUESTS
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.log import EventLog, NewRecord, Row
from privacy_ledger.ports.runtime import Clock, Ids

__all__ = [
    "ALARM_AFTER",
    "RETRY_FIRST",
    "RETRY_MAX",
    "Asked",
    "Progress",
    "Saga",
    "SagaNotes",
    "SagaReader",
    "read_sagas",
    "record",
]

RETRY_FIRST: Final = timedelta(minutes=5)
"""An erasure that nobody went on with for so long is taken up again: longer than any step waits."""
RETRY_MAX: Final = timedelta(hours=1)
ALARM_AFTER: Final = timedelta(hours=24)
"""An erasure that is open for longer is an alarm."""
_PAGE: Final = 2000

Cause = Literal["request", "retention", "restore", "link"]


class Asked(Struct, frozen=True):
    """Where the request for an erasure of less than a person stands in the ledger, and up to when it goes."""

    offset: int
    until: datetime


class Progress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of one saga that is done, or its opening or end. Ids in hex.

    `held`: what each store held at the opening; null: it could not be looked at. `receipt`: without
    its salt, which is made from the key `salt`. `replaces`: the leaf of the receipt whose salt was
    lost, for which this one is made anew, or that said what the law kept. `epoch`: the newest one of
    the keystore at the shred. `kept`: what the receipt itemises as kept by law; `spared`: the key groups
    that the shred left for it. `scope`: what is erased, where it is less than the person; `groups`: of
    each of its key groups the first generation that is spared.
    """

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
    replaces: str | None = None
    open_steps: tuple[str, ...] = ()
    held: dict[str, int | None] | None = None
    salt: str | None = None
    epoch: int | None = None
    scope: str | None = None
    groups: dict[str, int] = {}
    kept: tuple[KeptItem, ...] = ()
    spared: tuple[str, ...] | None = None
    asked: Asked | None = None


class Saga(Struct, kw_only=True):
    """An erasure of one reference as its progress records tell it; `done` in order.

    `tries`: how often it was left incomplete; `last_at`: when something was last written of it.
    `held` None: nobody looked into the stores before the request. `said`: partition and offset of
    the newest fact about it that was appended here; None: there is none, or its place is not known.
    `rests`: all is erased but what the law keeps (`kept`, of which the receipt tells). `handed`: the
    leaves of the receipts that the person has.
    """

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
    held: dict[str, int | None] | None = None
    salt: str | None = None
    epoch: int | None = None
    tries: int = 0
    last_at: datetime | None = None
    said: tuple[int, int] | None = None
    scope: str | None = None
    groups: dict[str, int] = {}
    kept: tuple[KeptItem, ...] = ()
    spared: tuple[str, ...] = ()
    rests: bool = False
    handed: tuple[str | None, ...] = ()
    asked: Asked | None = None

    @property
    def is_counted(self) -> bool:
        """Whether records were counted before the request: an ingest requests, and counts nothing."""
        return self.cause != "link"

    @property
    def is_completed(self) -> bool:
        """Whether every store was verified."""
        return "completed" in self.done

    @property
    def is_handed_over(self) -> bool:
        """Whether the person has the receipt, and its salt was destroyed here."""
        return self.leaf in self.handed

    @property
    def has_bytes(self) -> bool:
        """Whether nobody has seen yet that the ledger holds no sealed record of an erased person."""
        return "gone" not in self.done and self.scope is None

    @property
    def is_final(self) -> bool:
        """Whether no copy of the person's keys opens any more."""
        return "final" in self.done

    @property
    def due_at(self) -> datetime:
        """When somebody else may go on with it: each time in vain doubles the pause, up to an hour."""
        pause = min(RETRY_FIRST * (1 << min(self.tries, 8)), RETRY_MAX)
        return (self.last_at or self.opened_at) + pause

    def is_overdue(self, now: datetime) -> bool:
        """Return whether it is open for so long that somebody must look; what rests is not."""
        is_open = not self.is_completed and not self.rests
        return is_open and now - self.done.get("released", self.opened_at) > ALARM_AFTER


class SagaNotes:
    """Writes what a saga has to say: facts into the subject's partition, progress beside it."""

    def __init__(self, log: EventLog, codec: Codec, *, clock: Clock, ids: Ids) -> None:
        """Take the ports."""
        self._log = log
        self._codec = codec
        self._clock = clock
        self._ids = ids

    async def fact(self, saga: Saga, fact: ControlFact) -> None:
        """Append a fact about the subject, and let the saga know where it lies; durable on return."""
        row = self._codec.control_fact(saga.ref, self._ids.token(), fact, received_at=self._clock.now())
        (offset,) = await self._log.append(LEDGER_EVENTS, (row,))
        saga.said = (row.partition, offset) if offset >= 0 else None

    async def note(self, saga: Saga, step: str, **more: object) -> None:
        """Append that a step is done, with what it found, and let the saga know; durable on return.

        `more`: further fields of `Progress`.
        """
        now = self._clock.now()
        members = {"request": saga.request, "ref": saga.ref.hex(), "step": step, "at": now, **more}
        progress = msgspec.convert(members, Progress)
        await self._log.append(REQUESTS, (record(progress, partitions=self._log.partitions(REQUESTS)),))
        saga.done.setdefault(step, now)
        _note_rest(saga, progress)


def record(progress: Progress, *, partitions: int) -> NewRecord:
    """Return a progress record; its key is the request id."""
    key = bytes.fromhex(progress.request)
    return NewRecord(partition_of(key, partitions), key, msgspec.json.encode(progress))


async def read_sagas(log: EventLog) -> dict[tuple[str, SubjectRef], Saga]:
    """Return every erasure by request and reference, oldest first within a partition."""
    found: dict[tuple[str, SubjectRef], Saga] = {}
    for partition in range(log.partitions(REQUESTS)):
        after = -1
        while rows := await log.read(REQUESTS, partition, after=after, limit=_PAGE):
            _fold(found, rows)
            after = rows[-1].offset
    return found


class SagaReader:
    """Erasures of some references, by one reading of all requests that goes on from where it ended."""

    def __init__(self, log: EventLog) -> None:
        """Start with nothing read."""
        self._partitions = range(log.partitions(REQUESTS))
        self._directory = Directory(log, REQUESTS, _ref_of)

    async def of(self, *refs: SubjectRef) -> dict[tuple[str, SubjectRef], Saga]:
        """Return what `read_sagas` returns of these references."""
        found: dict[tuple[str, SubjectRef], Saga] = {}
        for partition in self._partitions:
            _fold(found, await self._directory.rows(partition, frozenset(refs)))
        return found


class _Whose(Struct, frozen=True):
    ref: str


_decode_progress: Final = msgspec.json.Decoder(Progress).decode
_decode_whose: Final = msgspec.json.Decoder(_Whose).decode


def _ref_of(row: Row) -> bytes:
    return b"" if row.value is None else bytes.fromhex(_decode_whose(row.value).ref)


def _fold(found: dict[tuple[str, SubjectRef], Saga], rows: Iterable[Row]) -> None:
    for row in rows:
        if row.value is not None:
            _apply(found, _decode_progress(row.value))


def _apply(found: dict[tuple[str, SubjectRef], Saga], progress: Progress) -> None:
    """Fold one progress record; the first opening counts, and the first receipt.

    Of those that replace a receipt the first counts as well.
    """
    ref = SubjectRef(bytes.fromhex(progress.ref))
    name = (progress.request, ref)
    saga = found.get(name)
    if saga is None:
        saga = found[name] = Saga(
            request=progress.request, ref=ref, opened_at=progress.at, cause=progress.cause,
            counts=progress.counts, done={}, scope=progress.scope,
        )  # fmt: skip
    saga.done.setdefault(progress.step, progress.at)
    _note_rest(saga, progress)
    saga.kids = tuple(dict.fromkeys((*saga.kids, *progress.kids)))
    saga.identities += progress.identities
    saga.open_steps = progress.open_steps
    saga.tries += progress.step == "incomplete"
    saga.last_at = progress.at if saga.last_at is None else max(saga.last_at, progress.at)
    saga.groups = progress.groups or saga.groups
    saga.asked = saga.asked or progress.asked
    saga.held = saga.held if progress.held is None else progress.held
    saga.epoch = max((e for e in (saga.epoch, progress.epoch) if e is not None), default=None)
    is_first = saga.receipt is None
    if progress.receipt is not None and (is_first or progress.replaces == (saga.leaf or "")):
        saga.receipt, saga.salt = progress.receipt.encode(), progress.salt
        saga.leaf, saga.kept = progress.leaf, progress.kept


def _note_rest(saga: Saga, progress: Progress) -> None:
    """Fold what a progress record says of what the law keeps, and of whom has a receipt."""
    if progress.spared is not None:
        saga.spared = progress.spared
    match progress.step:
        case "retained":
            saga.rests = True
        case "incomplete":
            saga.rests = False
        case "released":
            saga.rests, saga.done["released"] = False, progress.at
        case "handed" if not saga.is_handed_over:
            saga.handed = (*saga.handed, saga.leaf)
        case _:
            pass
