"""The stores that lie in topics: the ledger, what passes keep, the lane, the dead letters."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from privacy_ledger.app._evidence import PersonRows, Remains, remains_of, waiting_of
from privacy_ledger.app.retention import Kept, Retention
from privacy_ledger.app.stores import Found
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS, LEDGER_UNATTRIBUTED
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.ports.codec import HEARTBEAT_KEY, StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.passes import Latest, Passes, Views
from privacy_ledger.ports.runtime import Clock
from privacy_ledger.ports.tables import committed
from privacy_ledger.streams.sparing import HOLDS
from privacy_ledger.streams.states import (
    GENERATIONS,
    INDEX,
    MEMBERS,
    META,
    PERMISSIONS,
    SHREDS,
    TIMERS,
    WINDOWS,
    WORK,
    IndexRow,
    Table,
)

__all__ = [
    "DeadLetterStore",
    "KeyStore",
    "LaneStore",
    "LedgerStore",
    "PassStore",
    "TopicIndex",
    "VersionStore",
]

POLL_S: Final = 0.1
_PAGE: Final = 2000
_BY_NOBODY: Final = frozenset({
    GENERATIONS.name, HOLDS.name, META.name, SHREDS.name, WINDOWS.name, WORK.name,
})  # fmt: skip
"""Tables that hold work to do, bare counts, ends of holds, and what is said of all: no index of a person."""

_REF_AT_END: Final = frozenset({TIMERS.name, MEMBERS.name})
"""Tables whose keys end with the reference; all others begin with it."""


class LedgerStore:
    """The ledger's own records: sealed, and freed by tombstones that only the core pass writes."""

    name = "ledger"
    topics = (LEDGER_EVENTS,)
    files = ("home/ledger.db*",)

    def __init__(
        self, rows: PersonRows, vault: KeyVault, passes: Passes, *, retention: Retention, wait_s: float
    ) -> None:
        """Take readings of the log, the ports, who knows what the law keeps, and how long a purge waits."""
        self._rows = rows
        self._vault = vault
        self._passes = passes
        self._retention = retention
        self._wait_s = wait_s

    async def count(self, ref: SubjectRef) -> int:
        """Return how many records of a reference have no tombstone."""
        return (await remains_of(self._rows, self._vault, ref)).live

    async def purge(self, ref: SubjectRef) -> None:
        """Wait, within bounds, until every record has a later tombstone."""
        deadline = time.monotonic() + self._wait_s
        while (await self._others(ref, await self._retention.of(ref))).live and time.monotonic() <= deadline:
            await asyncio.sleep(POLL_S)
            await self._passes.settle(timeout_s=self._wait_s)

    async def verify(self, ref: SubjectRef) -> Found:
        """Return the records without a tombstone, that open, or whose key nobody knows."""
        kept = await self._retention.of(ref)
        remains = await self._others(ref, kept)
        left = max(remains.live, remains.readable, remains.unknown)
        return retained(kept, left=left, kept_here=len(kept.records))

    async def _others(self, ref: SubjectRef, kept: Kept) -> Remains:
        """Return what remains beside what the law keeps."""
        return await remains_of(self._rows, self._vault, ref, but=kept.records)


class KeyStore:
    """Keys and identities, the keys that wrap them, and backups.

    What is destroyed here opens from no copy once the epoch of the day is gone: the saga says so
    with `ErasureFinal`.
    """

    name = "keystore"
    topics = ()
    files = ("home/keystore.db*", "keys/*", "key-backups/*")

    def __init__(self, vault: KeyVault, clock: Clock, retention: Retention) -> None:
        """Take the keystore, and who knows what the law keeps."""
        self._vault = vault
        self._clock = clock
        self._retention = retention

    async def count(self, ref: SubjectRef) -> int:
        """Return how many keys of a reference are in use."""
        return self._vault.standing_of(ref).live

    async def purge(self, ref: SubjectRef) -> None:
        """End the reference and destroy its keys but those that the law needs; idempotent."""
        now = self._clock.now()
        spare = await self._retention.groups(ref, is_sure=True)
        self._vault.end(ref, now=now, spare=spare)
        if not set(self._vault.live_groups(ref)) <= set(spare):
            self._vault.shred(ref, now=now, spare=spare)

    async def verify(self, ref: SubjectRef) -> Found:
        """Return keys in use, identities that were not erased until now, and an end that is missing."""
        identities = self._vault.erase_identities(ref, now=self._clock.now())
        kept = await self._retention.of(ref)
        spared = await self._retention.groups(ref, is_sure=True)
        others = set(self._vault.live_groups(ref)) - set(spared)
        left = len(others) + identities + (not self._vault.is_ended(ref))
        return retained(kept, left=left, kept_here=await self.count(ref))


class PassStore:
    """What one pass keeps in one of its topics: a published view, or its private states.

    Where a store of the pass lies on a disk, it follows the topic: what goes here goes there.
    """

    def __init__(
        self,
        topic: str,
        tables: Sequence[Table[object]],
        *,
        states: StateCodec,
        latest: Latest,
        passes: Passes,
        partitions: int,
        retention: Retention,
        wait_s: float,
    ) -> None:
        """Take the topic, the pass's tables that lie in it, and the ports."""
        self.name = _name_of(topic)
        self.topics = (topic,)
        self.files = (f"state/{topic.split('.')[1]}/*",) if topic.startswith("state.") else ()
        self._topic = topic
        self._tables = tuple(table for table in tables if table.name not in _BY_NOBODY)
        self._states = states
        self._latest = latest
        self._passes = passes
        self._partitions = partitions
        self._retention = retention
        self._wait_s = wait_s

    async def count(self, ref: SubjectRef) -> int:
        """Return how many keys of the topic name a reference; its fence is none of them."""
        partition = partition_of(ref, self._partitions)
        prefixes = [self._prefix(table, ref) for table in self._tables]
        found = await self._latest.scan_each(self._topic, partition, prefixes)
        return sum(self._held(table, ref, rows) for table, rows in zip(self._tables, found, strict=True))

    def _prefix(self, table: Table[object], ref: SubjectRef) -> bytes:
        under = b"" if table.name in _REF_AT_END else ref
        return self._states.changelog_key(table, under)

    def _held(self, table: Table[object], ref: SubjectRef, rows: Sequence[tuple[bytes, bytes]]) -> int:
        """Return how many of these rows of a table are a reference's."""
        if table.name == PERMISSIONS.name:
            found = self._states.open_many(PERMISSIONS, [(ref, value) for _, value in rows])
            return sum(one is not None and not one.is_ended for one in found)
        if table.name in _REF_AT_END:
            return sum(key.endswith(ref) for key, _ in rows)
        return sum(key != HEARTBEAT_KEY for key, _ in rows)

    async def purge(self, ref: SubjectRef) -> None:
        """Wait until the pass, which alone writes here, has passed the request."""
        if await self.count(ref):
            await self._passes.settle(timeout_s=self._wait_s)

    async def verify(self, ref: SubjectRef) -> Found:
        """Return the keys that are left; a row of the index and a timer's month stay for what is kept."""
        kept, names = await self._retention.of(ref), {table.name for table in self._tables}
        here = len(kept.records) * (INDEX.name in names) + len(kept.months) * (TIMERS.name in names)
        count = await self.count(ref)
        return retained(kept, left=max(0, count - here), kept_here=min(count, here))


class TopicIndex:
    """The index of one pass, as its topic has it."""

    def __init__(self, *, states: StateCodec, latest: Latest, partitions: int) -> None:
        """Take the pass's codec, and who reads its topics."""
        self._topic = states.topic(INDEX)
        self._states = states
        self._latest = latest
        self._partitions = partitions
        self.name = _name_of(self._topic)

    async def rows(self, ref: SubjectRef) -> list[IndexRow]:
        """Return the rows of a reference, in the order of their keys."""
        partition = partition_of(ref, self._partitions)
        return [row for _, row in await committed(self._latest, self._states, INDEX, partition, under=ref)]


def _name_of(topic: str) -> str:
    """Return what receipts call what a pass keeps in a topic."""
    return topic.removesuffix(".v1").replace(".", " ", 1)


def retained(kept: Kept, *, left: int, kept_here: int) -> Found:
    """Return what a store says: what is left beside what is kept first, then what is kept."""
    if left or not kept_here:
        return Found(left=left)
    return Found(left=kept_here, hindrance="retained", ground=kept.ground, until=kept.until)


class VersionStore:
    """All versions of projections that are kept, also those that other builds fold."""

    name = "versions of projections"
    topics = ()
    files = ("state/*-v[0-9]*/*",)

    def __init__(self, views: Views, passes: Passes, *, wait_s: float) -> None:
        """Take the views, and who folds them."""
        self._views = views
        self._passes = passes
        self._wait_s = wait_s

    async def count(self, ref: SubjectRef) -> int:
        """Return how many versions hold a state that can be read."""
        return len(await self._views.answering(ref))

    async def purge(self, ref: SubjectRef) -> None:
        """Wait for the passes; a version that is still built is unreadable by its keys alone."""
        if await self.count(ref):
            await self._passes.settle(timeout_s=self._wait_s)

    async def verify(self, ref: SubjectRef) -> Found:
        """Return the versions that still answer."""
        return Found(left=await self.count(ref))


class LaneStore:
    """The lane of events of nobody known: those of the sessions that a login joined to a person.

    What no login joined is nobody's as far as this ledger knows; it goes within fourteen days.
    """

    name = "unattributed events"
    topics = (LEDGER_UNATTRIBUTED,)
    files = ()

    def __init__(self, log: EventLog, vault: KeyVault, clock: Clock) -> None:
        """Take the log and the keystore."""
        self._log = log
        self._vault = vault
        self._clock = clock

    async def count(self, ref: SubjectRef) -> int:
        """Return how many events of a person's sessions lie there and can be read."""
        return (await waiting_of(self._log, self._vault, ref)).readable

    async def purge(self, ref: SubjectRef) -> None:
        """End the person's lanes and destroy their keys; their bytes go when the lane's retention ends."""
        self._vault.end_lanes(ref, now=self._clock.now())

    async def verify(self, ref: SubjectRef) -> Found:
        """Return the events that can be read, and the lanes that could still take one."""
        is_open = [not self._vault.is_ended(lane) for lane in self._vault.lanes_of(ref)]
        return Found(left=await self.count(ref) + sum(is_open))


class _Pointer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"pass_name": "pass"}):
    """All that a dead letter may say: where something lies, why it was refused, how large it was.

    `digest` is keyed; `discards` and `leaf` are those of an operator's discard.
    """

    source: str = ""
    line: int = 0
    reason: str = ""
    size: int = -1
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{0,64}$")] = ""
    pass_name: str = ""
    partition: int = 0
    offset: int = 0
    discards: tuple[int, ...] = ()
    leaf: Annotated[str, Meta(pattern="^[0-9a-f]{0,64}$")] = ""


_decode_pointer: Final = msgspec.json.Decoder(_Pointer).decode


class DeadLetterStore:
    """Refused lines: pointers without content. A record of another form cannot be vouched for."""

    name = "dead letters"
    topics = (DLQ,)
    files = ()

    def __init__(self, log: EventLog) -> None:
        """Take the log; what was looked at once is not looked at again, for nothing there changes."""
        self._log = log
        self._after: dict[int, int] = {}
        self._foreign = 0

    async def count(self, ref: SubjectRef) -> int:
        """Return how many of its records hold something of a reference: a pointer holds nothing."""
        del ref
        return 0

    async def purge(self, ref: SubjectRef) -> None:
        """Change nothing: there is nothing to remove by a reference."""
        del ref

    async def verify(self, ref: SubjectRef) -> Found:
        """Return that nothing is held, or that records of another form lie there, whoever's they are."""
        del ref
        for partition in range(self._log.partitions(DLQ)):
            after = self._after.get(partition, -1)
            while rows := await self._log.read(DLQ, partition, after=after, limit=_PAGE):
                self._foreign += sum(not _is_pointer(row.value) for row in rows)
                after = self._after[partition] = rows[-1].offset
        if self._foreign:
            return Found(left=self._foreign, hindrance="unsupported")
        return Found(left=0)


def _is_pointer(value: bytes | None) -> bool:
    """Return whether a dead letter is a pointer and nothing else."""
    if value is None:
        return True
    try:
        _decode_pointer(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
