"""Dead letters: subjects who wait behind a record that cannot be folded, and lines that were refused.

A parked subject is redriven, which appends nothing, or its record is discarded, which the ledger
remembers: a rebuild must see it. A line left nothing but where, why and how large: it can only be
sent again, or discarded, and a discard leaves a leaf in the audit log.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.app._own import last_offsets
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.domain.errors import BadInput, NotCaughtUp
from privacy_ledger.domain.events import RecordDiscarded
from privacy_ledger.domain.merkle import leaf_hash
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import CONTROL_HINTS, DLQ, LEDGER_EVENTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.codec import Codec, StateCodec
from privacy_ledger.ports.hints import Redrive, record_of
from privacy_ledger.ports.log import EventLog, NewRecord, header
from privacy_ledger.ports.passes import Latest, Passes
from privacy_ledger.ports.runtime import Clock, Ids
from privacy_ledger.ports.tables import committed
from privacy_ledger.streams.held import HELD, WAITING, Busy, Parked

__all__ = ["DeadLetters", "Discarded", "Entry", "Letter", "Outcome", "chosen"]

READ: Final = 1000
WAIT_S: Final = 30.0
POLL_S: Final = 0.2
_HEADERS: Final = ("ce_type", "ce_source", "category", "received")


class Entry(Struct, frozen=True, kw_only=True):
    """A subject who is parked in a pass: behind which record, why, and how much waits behind it.

    `ref` is random and says nothing of the person; `tries` counts the redrives in vain.
    """

    pass_name: str
    partition: int
    offset: int
    reason: str
    tries: int
    waiting: int
    ref: str
    record: str

    @property
    def name(self) -> str:
        """Return what commands call it."""
        return f"{self.pass_name}/{self.partition}/{self.offset}"


class Letter(Struct, frozen=True, kw_only=True):
    """A line that ingest refused: nothing of the line is in it."""

    partition: int
    offset: int
    source: str
    line: int
    reason: str
    size: int

    @property
    def name(self) -> str:
        """Return what commands call it."""
        return f"line/{self.partition}/{self.offset}"


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of an entry: `gone`, or `parked` again, and then at which record and why."""

    entry: Entry
    state: str
    offset: int | None = None
    reason: str | None = None


class Discarded(Struct, frozen=True, kw_only=True, tag="dead_letters.discarded.v1"):
    """That lines were discarded: the document whose hash is a leaf of the audit log."""

    at: str
    lines: tuple[str, ...]


class _Raw(Struct, frozen=True, kw_only=True):
    """A record of the dead letters' topic, as far as it is a line's, or says which were discarded."""

    source: str = ""
    line: int = 0
    reason: str = ""
    size: int = -1
    discards: tuple[int, ...] = ()


class DeadLetters:
    """The use cases of an operator about what could not be folded or taken."""

    def __init__(
        self,
        *,
        log: EventLog,
        latest: Latest,
        codec: Codec,
        passes: Passes,
        states: Callable[[], Awaitable[Mapping[str, StateCodec]]],
        audit: AuditLog,
        clock: Clock,
        ids: Ids,
    ) -> None:
        """Take the ports; `states` returns the state codec of each pass that is run."""
        self._log = log
        self._latest = latest
        self._codec = codec
        self._passes = passes
        self._states = states
        self._audit = audit
        self._clock = clock
        self._ids = ids

    # Looking --------------------------------------------------------------------------------

    async def parked(self) -> tuple[Entry, ...]:
        """Return every parked subject, by pass, partition and offset."""
        found = []
        for name, states in sorted((await self._states()).items()):
            for partition in range(self._log.partitions(LEDGER_EVENTS)):
                for ref, held in await committed(self._latest, states, HELD, partition):
                    if isinstance(held, Parked):
                        found.append(await self._entry(name, states, partition, ref=ref, parked=held))
        return tuple(sorted(found, key=lambda one: (one.pass_name, one.partition, one.offset)))

    async def _entry(
        self, name: str, states: StateCodec, partition: int, *, ref: bytes, parked: Parked
    ) -> Entry:
        waiting = await self._latest.scan(
            states.topic(WAITING), partition, states.changelog_key(WAITING, b"") + ref
        )
        return Entry(
            pass_name=name, partition=partition, offset=parked.offset, reason=parked.reason,
            tries=parked.tries, waiting=len(waiting), ref=ref.hex(), record=parked.record_id.hex(),
        )  # fmt: skip

    async def letters(self) -> tuple[Letter, ...]:
        """Return the lines that were refused and not discarded, oldest first in each partition."""
        found: list[Letter] = []
        for partition in range(self._log.partitions(DLQ)):
            letters: dict[int, Letter] = {}
            after, end = -1, await self._log.end(DLQ, partition)
            while after + 1 < end:
                rows = await self._log.read(DLQ, partition, after=after, limit=READ)
                if not rows:
                    break
                for row in rows:
                    raw = msgspec.json.decode(row.value or b"{}", type=_Raw)
                    for offset in raw.discards:
                        letters.pop(offset, None)
                    if raw.size >= 0:
                        letters[row.offset] = Letter(
                            partition=partition, offset=row.offset, source=raw.source, line=raw.line,
                            reason=raw.reason, size=raw.size,
                        )  # fmt: skip
                after = rows[-1].offset
            found += letters.values()
        return tuple(found)

    async def about(self, entry: Entry) -> dict[str, str]:
        """Return what the headers of a parked record say in clear; nothing where it is gone."""
        rows = await self._log.read_at(LEDGER_EVENTS, entry.partition, (entry.offset,))
        found = {} if not rows else {name: header(rows[0].headers, name) for name in _HEADERS}
        return {name: value.decode("ascii", "replace") for name, value in found.items() if value is not None}

    # Redrive --------------------------------------------------------------------------------

    async def redrive(self, entries: Sequence[Entry]) -> tuple[Outcome, ...]:
        """Ask for these subjects to be taken up again, and return what became of each.

        Raises:
            NotCaughtUp: nobody took some of them up in time; nothing is lost.
        """
        hints = [
            record_of(
                Redrive(pass_name=one.pass_name, partition=one.partition, offset=one.offset),
                self._ids.token(),
            )
            for one in entries
        ]  # fmt: skip
        if hints:
            await self._log.append(CONTROL_HINTS, hints)
        await self._passes.settle()
        return await self._outcomes(entries)

    async def _outcomes(self, entries: Sequence[Entry]) -> tuple[Outcome, ...]:
        """Return what became of entries, once nothing of them is in hand."""
        deadline = time.monotonic() + WAIT_S
        states = await self._states()
        found: dict[str, Outcome] = {}
        while True:
            for entry in entries:
                if entry.name not in found:
                    outcome = await self._outcome(states[entry.pass_name], entry)
                    if outcome is not None:
                        found[entry.name] = outcome
            if len(found) == len(entries):
                return tuple(found[entry.name] for entry in entries)
            if time.monotonic() > deadline:
                raise NotCaughtUp(
                    "Not every subject was taken up again in time. Is a worker of the pass running? "
                    "Look again with `privacy-ledger dlq list`."
                )
            await asyncio.sleep(POLL_S)

    async def _outcome(self, states: StateCodec, entry: Entry) -> Outcome | None:
        ref = bytes.fromhex(entry.ref)
        held = dict(await committed(self._latest, states, HELD, entry.partition, under=ref))
        match held.get(ref):
            case Busy():
                return None
            case Parked() as parked:
                if (parked.offset, parked.tries) == (entry.offset, entry.tries):
                    return None
                return Outcome(entry=entry, state="parked", offset=parked.offset, reason=parked.reason)
            case _:
                return Outcome(entry=entry, state="gone")

    # Discard --------------------------------------------------------------------------------

    async def discard(self, entries: Sequence[Entry]) -> tuple[Outcome, ...]:
        """Discard parked records, which the ledger remembers, and return what became of each subject.

        Evidence that can be read is kept, whoever discards it: what it allowed may live on.
        """
        now = self._clock.now()
        facts = {
            (one.ref, one.record): RecordDiscarded(
                request=self._ids.token().hex(), occurred_at=now, record=one.record
            )
            for one in entries
        }  # fmt: skip
        records = [
            self._codec.control_fact(
                SubjectRef(bytes.fromhex(ref)), self._ids.token(), fact, received_at=now
            )
            for (ref, _), fact in facts.items()
        ]  # fmt: skip
        if records:
            offsets = await self._log.append(LEDGER_EVENTS, records)
            await self._passes.settle(last_offsets(records, offsets))
        states = await self._states()
        found = [(entry, await self._outcome(states[entry.pass_name], entry)) for entry in entries]
        return tuple(
            outcome or Outcome(entry=entry, state="parked", offset=entry.offset, reason=entry.reason)
            for entry, outcome in found
        )

    async def discard_lines(self, letters: Sequence[Letter]) -> tuple[Discarded, str, int]:
        """Discard lines; return the document, its leaf hash in hex, and the leaf's place in the audit log.

        The leaf is appended first: a crash in between leaves a promise that is repeated, and no
        discard that nobody can prove.
        """
        document = Discarded(
            at=self._clock.now().isoformat(timespec="seconds"), lines=tuple(one.name for one in letters)
        )
        leaf = leaf_hash(msgspec.json.encode(document))
        index = await self._audit.append(leaf)
        of_partition: dict[int, list[int]] = {}
        for one in letters:
            of_partition.setdefault(one.partition, []).append(one.offset)
        marks = [
            NewRecord(
                partition, self._ids.token(),
                msgspec.json.encode({"discards": offsets[start : start + READ], "leaf": leaf.hex()}),
            )
            for partition, offsets in sorted(of_partition.items())
            for start in range(0, len(offsets), READ)
        ]  # fmt: skip
        await self._log.append(DLQ, marks)
        return document, leaf.hex(), index


def chosen(names: Iterable[str], entries: Sequence[Entry], letters: Sequence[Letter]) -> tuple[
    tuple[Entry, ...], tuple[Letter, ...]
]:  # fmt: skip
    """Return the entries and the lines of these names, in order.

    Raises:
        BadInput: there is none of a name.
    """
    known: dict[str, Entry | Letter] = {entry.name: entry for entry in entries}
    known.update({letter.name: letter for letter in letters})
    found = [known.get(name) for name in dict.fromkeys(names)]
    if None in found:
        raise BadInput(
            Refusal.ENTRY_UNKNOWN,
            "Nothing waits under one of these names. Look with `privacy-ledger dlq list`.",
        )
    return (
        tuple(one for one in found if isinstance(one, Entry)),
        tuple(one for one in found if isinstance(one, Letter)),
    )
