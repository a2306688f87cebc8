"""Joins: a processor that is new to a pass is brought up beside the pass's own work.

Slice by slice, in the order of references, each subject's live records are folded again through
the one step, as work in hand (`backlog`): a subject that takes more than a slice is served like
any other, and its newer records wait behind it. Subjects that were reached are folded live from
then on, the others are passed over, so the result is that of a pass that had the processor from
the start. Each slice is one transaction: a crash repeats it or goes on behind it.
"""

from itertools import islice
from typing import Final, TypeVar

from msgspec import Struct, structs

from privacy_ledger.domain.values import NOBODY, REF_BYTES, SubjectRef
from privacy_ledger.streams.backlog import Backlog
from privacy_ledger.streams.held import HELD, Busy
from privacy_ledger.streams.protocol import Processor, Serving
from privacy_ledger.streams.removal import leave_windows
from privacy_ledger.streams.roster import ROSTER, Seats, Standing
from privacy_ledger.streams.states import INDEX, MEMBERS, Table, Workspace

__all__ = ["SLICE", "Bound", "next_slice"]

T = TypeVar("T")
_REFS_END: Final = 1 << (8 * REF_BYTES)


class Bound(Struct, frozen=True, kw_only=True):
    """How much one slice does: subjects that are reached, and records that are read again.

    `rows`: of a processor that leaves, deleted at a time.
    """

    subjects: int = 200
    records: int = 2000
    rows: int = 2000


SLICE: Final = Bound()


def next_slice(
    work: Workspace,
    seats: Seats,
    backlog: Backlog,
    *,
    position: int,
    bound: Bound = SLICE,
    ends_at: SubjectRef = NOBODY,
) -> Serving[None]:
    """Move one join or leaving on by a slice; `work` holds no changes yet.

    `position`: the pass's own. The slice ends after the subject `ends_at`, if it comes so far.
    """
    for key, standing in work.scan(ROSTER, b""):
        if standing.state == "leaves":
            _leave(work, key, standing, rows_max=bound.rows)
            return
    for processor in seats.processors:
        if processor.name in seats.cursors:
            yield from _bring_up(work, processor, backlog, position=position, bound=bound, ends_at=ends_at)
            return


def _bring_up(
    work: Workspace,
    processor: Processor[object],
    backlog: Backlog,
    *,
    position: int,
    bound: Bound,
    ends_at: SubjectRef,
) -> Serving[None]:
    """Reach the next subjects: what is in hand for one is finished first, then it is folded again.

    The cursor moves past a parked subject before anything of it is served: what waited behind its
    record is then folded with the new processor. So the slice ends there.
    """
    key = processor.name.encode()
    standing = work.get(ROSTER, key)
    start = b"" if standing is None or standing.cursor is None else standing.cursor
    left, reached = bound.records, 0
    ref = _subject(work, processor, start)
    while ref is not None and left > 0 and reached < bound.subjects:
        left = yield from backlog.serve(work, ref, left)
        held = work.get(HELD, ref)
        if isinstance(held, Busy):
            break
        _clear(work, processor, ref)
        backlog.join(work, ref, processor.name, position=position)
        if held is None:
            left = yield from backlog.serve(work, ref, left)
        reached += 1
        is_last = held is not None or ref == ends_at
        ref = _subject(work, processor, _successor(ref))
        if is_last:
            break
    if standing is not None:
        work.put(ROSTER, key, structs.replace(standing, cursor=ref))


def _subject(work: Workspace, processor: Processor[object], start: bytes) -> SubjectRef | None:
    """Return the first subject from `start` on that has live records or a row of the processor."""
    found = (next(work.keys(INDEX, start), None), next(work.keys(processor.table, start), None))
    return min((SubjectRef(key[:REF_BYTES]) for key in found if key is not None), default=None)


def _successor(ref: SubjectRef) -> bytes:
    """Return the reference after one; after the last there is none."""
    number = int.from_bytes(ref, "big") + 1
    return number.to_bytes(REF_BYTES, "big") if number < _REFS_END else ref + b"\xff" * REF_BYTES


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
