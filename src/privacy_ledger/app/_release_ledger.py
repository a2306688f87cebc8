"""The release ledger as records: its events as bytes, its reader, and the rows it publishes."""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import chain
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.domain.budget import (
    BudgetEvent,
    BudgetReserved,
    BudgetState,
    CellsReleased,
    ReleaseCommitted,
    ReleaseRefused,
    SealDecided,
    fold,
)
from privacy_ledger.domain.errors import InvariantViolation, NotCaughtUp
from privacy_ledger.domain.topics import ANALYTICS_RELEASES, product_topic
from privacy_ledger.ports.log import EventLog, NewRecord

__all__ = ["CHUNK_BYTES_MAX", "WRITER", "PublicRow", "ReleaseLedger", "chunked", "public_row"]

CHUNK_BYTES_MAX: Final = 512 * 1024
WRITER: Final = "release"
"""The one fenced writer of the release ledger."""
_PARTITION: Final = 0
_POLL_S: Final = 0.05
_READ_RECORDS: Final = 200

_AnyEvent = SealDecided | BudgetReserved | CellsReleased | ReleaseCommitted | ReleaseRefused
_DECODER: Final = msgspec.json.Decoder(_AnyEvent)
_ENCODE: Final = msgspec.json.Encoder(order="sorted").encode
_ENCODE_PUBLIC: Final = msgspec.json.Encoder(decimal_format="number").encode


class PublicRow(Struct, frozen=True, kw_only=True):
    """One cell of a release, as published: the noisy value and everything needed to read it.

    `value` may be negative and is unbiased: sum it as it is. `value_nonneg` is for display. The
    95 % interval covers noise only. `epsilon` is an upper bound at `delta`, for this window alone.
    """

    product: str
    window: str
    course: str
    value: int
    ci_low: int
    ci_high: int
    value_nonneg: int
    flag: str
    sigma: Decimal
    rho: Decimal
    epsilon: Decimal
    delta: Decimal
    mechanism: str
    release_id: str
    is_early: bool


_DECODE_PUBLIC: Final = msgspec.json.Decoder(PublicRow)


class ReleaseLedger:
    """The release ledger, read on from where it stands; never read twice, as it only grows."""

    def __init__(self, log: EventLog, *, visible_timeout_s: float) -> None:
        """Start at the beginning of the topic."""
        self._log = log
        self._timeout_s = visible_timeout_s
        self._after = -1
        self._chunks: dict[tuple[str, str], int] = {}
        self._public: dict[str, dict[bytes, bytes]] = {}
        self._public_after: dict[str, int] = {}
        self.state = BudgetState()

    async def own(self) -> BudgetState:
        """Fence every earlier owner, then read to the end: what is decided now stays decided."""
        await self._log.open_writer(WRITER)
        return await self.read_on()

    async def read_on(self) -> BudgetState:
        """Return the state with everything that is committed now.

        Raises:
            InvariantViolation: a record cannot be read. Nothing is released until it can.
        """
        while rows := await self._log.read(
            ANALYTICS_RELEASES, _PARTITION, after=self._after, limit=_READ_RECORDS
        ):
            events: list[BudgetEvent] = []
            for row in rows:
                event = _decode(row.value, offset=row.offset)
                if isinstance(event, CellsReleased):
                    digest = hashlib.sha256(row.value or b"").hexdigest()
                    self._chunks.setdefault((event.release_id, digest), row.offset)
                events.append(event)
            self.state = fold(events, since=self.state)
            self._after = rows[-1].offset
        return self.state

    async def append(self, events: Sequence[BudgetEvent]) -> None:
        """Append events in one transaction of the owner, all or nothing.

        Raises:
            Fenced: another process owns the ledger now; nothing was appended.
        """
        writes = [(ANALYTICS_RELEASES, _record(event)) for event in events]
        await self._log.append_atomically(writes, writer=WRITER)

    async def committed(self, release: str) -> ReleaseCommitted:
        """Return the commit of a release that was appended, read back: the first by offset wins.

        Raises:
            NotCaughtUp: it was appended and cannot be read yet.
        """
        deadline = time.monotonic() + self._timeout_s
        while (found := (await self.read_on()).committed.get(release)) is None:
            await self._wait(deadline)
        return found

    async def decision(self, release: str) -> SealDecided:
        """Return the decision of a release that was appended, read back: the first by offset wins.

        Raises:
            NotCaughtUp: it was appended and cannot be read yet.
        """
        deadline = time.monotonic() + self._timeout_s
        while (found := (await self.read_on()).decided.get(release)) is None:
            await self._wait(deadline)
        return found

    async def cells(self, commit: ReleaseCommitted) -> tuple[tuple[str, int], ...]:
        """Return the noisy cells of a release, from the chunks that its commit names.

        Raises:
            InvariantViolation: a chunk is missing or differs from its digest.
        """
        found: list[tuple[tuple[str, int], ...]] = []
        for digest in commit.chunks:
            offset = self._chunks.get((commit.release_id, digest), -1)
            rows = await self._log.read_at(ANALYTICS_RELEASES, _PARTITION, (offset,)) if offset >= 0 else ()
            value = rows[0].value if rows else None
            event = _decode(value, offset=offset)
            if not isinstance(event, CellsReleased) or hashlib.sha256(value or b"").hexdigest() != digest:
                raise _unreadable(offset)
            found.append(event.cells)
        cells = tuple(chain.from_iterable(found))
        if len(cells) != commit.cells:
            raise InvariantViolation(
                f"Release {commit.release_id} has another number of cells than it was committed with. "
                f"Restore {ANALYTICS_RELEASES} from a backup."
            )
        return cells

    # The public copy --------------------------------------------------------------------------

    async def public(self, product: str) -> dict[bytes, bytes]:
        """Return the newest bytes of each row of a product's public topic."""
        topic = product_topic(product)
        rows = self._public.setdefault(product, {})
        while page := await self._log.read(topic, _PARTITION, after=self._public_after.get(product, -1)):
            rows.update({row.key: row.value for row in page if row.value is not None})
            self._public_after[product] = page[-1].offset
        return rows

    async def public_rows(self, product: str) -> tuple[PublicRow, ...]:
        """Return the rows of a product's public topic, by window and course."""
        rows = await self.public(product)
        return tuple(_DECODE_PUBLIC.decode(value) for _, value in sorted(rows.items()))

    async def publish(self, commit: ReleaseCommitted) -> int:
        """Copy a release to its public topic; return the rows appended, 0 when all are there.

        A pure copy: the same ledger gives the same bytes, however often it is done.
        """
        present = await self.public(commit.product)
        missing = [
            NewRecord(_PARTITION, key, value)
            for key, value in (public_row(commit, *cell) for cell in await self.cells(commit))
            if present.get(key) != value
        ]
        if missing:
            await self._log.append(product_topic(commit.product), missing)
        return len(missing)

    async def _wait(self, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise NotCaughtUp(
                "The release ledger does not show yet what was appended to it. Run the same command again: "
                "nothing is drawn or charged twice."
            )
        await asyncio.sleep(_POLL_S)


def public_row(commit: ReleaseCommitted, course: str, value: int) -> tuple[bytes, bytes]:
    """Return key and bytes of a cell's public row: a function of the ledger alone.

    The flag looks at the noisy value only; a cut on the exact one would have no privacy bound.
    """
    row = PublicRow(
        product=commit.product,
        window=commit.window,
        course=course,
        value=value,
        ci_low=value - commit.half_width,
        ci_high=value + commit.half_width,
        value_nonneg=max(0, value),
        flag="low" if value < commit.flag_below else "ok",
        sigma=Decimal(commit.sigma),
        rho=Decimal(commit.rho),
        epsilon=Decimal(commit.epsilon),
        delta=Decimal(commit.delta),
        mechanism=commit.mechanism,
        release_id=commit.release_id,
        is_early=commit.is_early,
    )
    return f"{commit.window}|{course}".encode(), _ENCODE_PUBLIC(row)


def chunked(
    cells: Iterable[tuple[str, int]], *, release: str, product: str, window: str
) -> Iterator[tuple[CellsReleased, str]]:
    """Yield the chunks of a release with their digests, each record at most 512 KiB."""
    held: list[tuple[str, int]] = []
    envelope = len(_ENCODE(_chunk((), index=10**9, release=release, product=product, window=window)))
    size, index = envelope, 0
    for cell in cells:
        more = len(_ENCODE(cell)) + 1
        if held and size + more > CHUNK_BYTES_MAX:
            yield _digested(_chunk(held, index=index, release=release, product=product, window=window))
            held, size, index = [], envelope, index + 1
        held.append(cell)
        size += more
    if held:
        yield _digested(_chunk(held, index=index, release=release, product=product, window=window))


def _chunk(
    cells: Sequence[tuple[str, int]], *, index: int, release: str, product: str, window: str
) -> CellsReleased:
    return CellsReleased(release_id=release, product=product, window=window, index=index, cells=tuple(cells))


def _digested(chunk: CellsReleased) -> tuple[CellsReleased, str]:
    return chunk, hashlib.sha256(_ENCODE(chunk)).hexdigest()


def _record(event: BudgetEvent) -> NewRecord:
    return NewRecord(_PARTITION, bytes.fromhex(event.release_id), _ENCODE(event))


def _decode(value: bytes | None, *, offset: int) -> _AnyEvent:
    try:
        event: _AnyEvent = _DECODER.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _unreadable(offset) from None
    return event


def _unreadable(offset: int) -> InvariantViolation:
    return InvariantViolation(
        f"{ANALYTICS_RELEASES} offset {offset} is no record of the release ledger. Nothing is released "
        "until the topic is restored from a backup."
    )
