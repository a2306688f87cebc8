"""Joins: a processor that is new to a pass is brought up beside the pass's own work.

Slice by slice, in the order of references, each subject's live records are folded again through
the one step, as a refold does (`PassFold.refold`). Subjects that were reached are folded live
from then on, the others are passed over, so the result is that of a pass that had the processor
from the start. Each slice is one transaction: a crash repeats it or goes on behind it.
"""

from collections.abc import Iterator
from heapq import merge
from itertools import groupby, islice
from typing import Final, TypeVar

from msgspec import Struct, structs

from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.values import REF_BYTES, SubjectRef
from privacy_ledger.streams.protocol import Processor, Reread
from privacy_ledger.streams.removal import leave_windows
from privacy_ledger.streams.roster import ROSTER, Seats, Standing
from privacy_ledger.streams.states import INDEX, MEMBERS, PERMISSIONS, Table, Workspace

__all__ = ["SLICE", "Bound", "live_offsets", "next_slice"]

T = TypeVar("T")


class Bound(Struct, frozen=True, kw_only=True):
    """How much one slice does: a subject is always folded whole, and the slice ends after it.

    `rows`: of a processor that leaves, deleted at a time.
    """

    subjects: int = 200
    records: int = 2000
    rows: int = 2000


SLICE: Final = Bound()


def live_offsets(work: Workspace, ref: SubjectRef, permissions: Permissions) -> tuple[int, ...]:
    """Return where the records lie that count for a subject's projections, ascending.

    Under restriction only what came before it is folded: the rest is held.
    """
    until = permissions.restricted_since
    return tuple(
        sorted(row.offset for _, row in work.scan(INDEX, ref) if until is None or row.offset < until)
    )


def next_slice(work: Workspace, seats: Seats, *, partition: int, bound: Bound = SLICE) -> list[Reread]:
    """Move one join or leaving on by a slice; return what must be read again in this cycle.

    `work` holds no changes yet.
    """
    for key, standing in work.scan(ROSTER, b""):
        if standing.state == "leaves":
            _leave(work, key, standing, rows_max=bound.rows)
            return []
    for processor in seats.processors:
        if processor.name in seats.cursors:
            return _bring_up(work, processor, partition=partition, bound=bound)
    return []


def _bring_up(work: Workspace, processor: Processor[object], *, partition: int, bound: Bound) -> list[Reread]:
    """Empty the next subjects' rows and ask for their live records; the cursor moves past them."""
    key = processor.name.encode()
    standing = work.get(ROSTER, key)
    start = b"" if standing is None or standing.cursor is None else standing.cursor
    demands: list[Reread] = []
    records = 0
    cursor: bytes | None = None
    for number, ref in enumerate(_subjects(work, processor, start)):
        if records >= bound.records or number >= bound.subjects:
            cursor = ref
            break
        _clear(work, processor, ref)
        offsets = live_offsets(work, ref, work.get(PERMISSIONS, ref) or Permissions())
        if offsets:
            records += len(offsets)
            demands.append(
                Reread(
                    ref=ref, partition=partition, offsets=offsets, is_refold=True, only=processor.name
                )
            )  # fmt: skip
    if standing is not None:
        work.put(ROSTER, key, structs.replace(standing, cursor=cursor))
    return demands


def _subjects(work: Workspace, processor: Processor[object], start: bytes) -> Iterator[SubjectRef]:
    """Yield the subjects that have live records or a row of the processor, in order, each once."""
    found = merge(_refs(work, INDEX, start), _refs(work, processor.table, start))
    return (ref for ref, _ in groupby(found))


def _refs(work: Workspace, table: Table[T], start: bytes) -> Iterator[SubjectRef]:
    return (SubjectRef(key[:REF_BYTES]) for key in work.keys(table, start))


def _clear(work: Workspace, processor: Processor[object], ref: SubjectRef) -> None:
    """Forget a row that somebody else left: a predecessor, or an earlier life of the processor."""
    state = work.get(processor.table, ref)
    if state is None:
        return
    for part in state.parts.values():
        leave_windows(work, ref, part)
    work.delete(processor.table, ref)


def _leave(work: Workspace, key: bytes, standing: Standing, *, rows_max: int) -> None:
    """Delete some private rows of a processor that is no longer declared; at the end it has left."""
    table = Table[object](standing.identity.code, standing.identity.table, object, "plain")
    if standing.identity.is_windowed and (members := list(islice(work.keys(MEMBERS, b""), rows_max))):
        for member in members:
            work.delete(MEMBERS, member)
        return
    rows = list(islice(work.keys(table, b""), rows_max))
    for row in rows:
        work.put(table, row, None)
    if len(rows) < rows_max:
        work.put(ROSTER, key, structs.replace(standing, state="left"))
