"""Stage A of the anonymised analytics: bounded contributions per subject and window.

A subject contributes to a window at most `cells_max` cells, each at most `clip` (user-level
bounding; Amin et al. 2019). Which cells: the bottom ones by a keyed hash of (window, subject,
cell), which is uniform, order-free and the same on every replay. Everything is an integer.
"""

import hashlib
import hmac
from datetime import UTC
from typing import Final

from msgspec import Struct, structs

from privacy_ledger.domain.events import UsagePageViewed, WindowSealed, event_type
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import ANALYTICS_PARTIALS
from privacy_ledger.domain.values import REF_BYTES, SubjectRef
from privacy_ledger.streams.held import HELD
from privacy_ledger.streams.protocol import Emit, Processor
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import (
    MEMBERS,
    PERMISSIONS,
    WINDOWS,
    Parts,
    Table,
    Window,
    Workspace,
)

__all__ = [
    "CELLS_STATE_MAX",
    "TABLE",
    "CourseViews",
    "WindowPart",
    "bounded",
    "note_members",
    "seal_window",
    "window_key",
]

CELLS_STATE_MAX: Final = 64
PRODUCT: Final = "course_views_daily"


class WindowPart(Struct):
    """The cells that one subject touched, by window; at most 64 cells a window."""

    windows: dict[str, tuple[str, ...]] = {}


def window_key(product: str, window: str) -> bytes:
    """Return the key of a window of a product."""
    return f"{product}/{window}".encode()


TABLE: Final = Table(b"3", "course_views", Parts[WindowPart], "view")


class CourseViews:
    """Daily course views: which courses a subject viewed on a day (UTC).

    The state keeps the bottom 64 cells by a hash keyed with the random reference; the seal keeps
    the bottom `cells_max` of the catalogue's cells by a hash keyed with the sampling secret.
    """

    purpose: Final = "improve.analyse"
    types: Final = frozenset({event_type(UsagePageViewed)})

    def windows(self, record: Record) -> tuple[str, ...]:
        """Return the record's day, when it names a course."""
        body = record.body
        if not isinstance(body, UsagePageViewed) or body.course is None:
            return ()
        return (f"{PRODUCT}/{record.occurred_at.astimezone(UTC):%Y-%m-%d}",)

    def step(self, part: WindowPart | None, record: Record) -> WindowPart:
        """Return the part with the record's course in its window, bounded to 64 cells."""
        part = part or WindowPart()
        body = record.body
        if not isinstance(body, UsagePageViewed) or body.course is None:
            return part
        (window,) = self.windows(record)
        cells = part.windows.get(window, ())
        if body.course in cells:
            return part
        kept = bounded((*cells, body.course), CELLS_STATE_MAX, window=window, ref=record.ref, key=record.ref)
        return WindowPart(windows=dict(sorted({**part.windows, window: kept}.items())))


def bounded(
    cells: tuple[str, ...], cells_max: int, *, window: str, ref: bytes, key: bytes
) -> tuple[str, ...]:
    """Return the bottom `cells_max` cells by keyed hash, sorted by name."""
    if len(cells) <= cells_max:
        return tuple(sorted(cells))

    def rank(cell: str) -> bytes:
        return hmac.digest(key, b"\0".join((window.encode(), ref, cell.encode())), hashlib.sha256)

    return tuple(sorted(sorted(cells, key=rank)[:cells_max]))


def note_members(work: Workspace, ref: SubjectRef, windows: tuple[str, ...]) -> bool:
    """Mark the subject as a member of its windows; False when there is none, or one is sealed.

    A record for a sealed window counts nowhere in it: a release is never corrected (D13).
    """
    if not windows:
        return False
    for window in windows:
        state = work.get(WINDOWS, window.encode())
        if state is not None and state.is_sealed:
            return False
    for window in windows:
        key = window.encode() + ref
        if work.get(MEMBERS, key) is None:
            work.put(MEMBERS, key, value=True)
    return True


def seal_window(
    work: Workspace,
    processor: Processor[object],
    sealed: WindowSealed,
    *,
    partition: int,
    rules: Rules,
    key: bytes,
) -> list[Emit]:
    """Sum the window over its subjects, once, and forget its per-subject states.

    Who counts is decided at this offset: consent in force, not restricted, not parked, minors
    approved. A second seal of a window has no effect.
    """
    name = window_key(sealed.product, sealed.window)
    known = work.get(WINDOWS, name)
    policy = rules.product(sealed.product)
    if policy is None or (known is not None and known.is_sealed):
        return []
    work.put(WINDOWS, name, Window(is_sealed=True, release=sealed.release))
    needs_consent = policy.purpose in rules.consent_purposes
    sums = dict.fromkeys(sealed.keyset, 0)
    subjects = 0
    for member, _ in work.scan(MEMBERS, name):
        ref = SubjectRef(member[-REF_BYTES:])
        cells = _take_window(work, processor, ref, name.decode())
        work.delete(MEMBERS, member)
        permissions = work.get(PERMISSIONS, ref) or Permissions()
        if work.get(HELD, ref) is not None:
            continue
        if not permissions.may_use(policy.purpose, needs_consent=needs_consent):
            continue
        chosen = bounded(
            tuple(cell for cell in cells if cell in sums),
            policy.cells_max, window=name.decode(), ref=ref, key=key,
        )  # fmt: skip
        for cell in chosen:
            sums[cell] += min(1, policy.clip)
        subjects += bool(chosen)
    return [
        Emit(
            topic=ANALYTICS_PARTIALS, partition=partition,
            key=bytes.fromhex(sealed.release) + partition.to_bytes(4, "big"),
            release=sealed.release, cells=sums, subjects=subjects,
        )
    ]  # fmt: skip


def _take_window(
    work: Workspace, processor: Processor[object], ref: SubjectRef, window: str
) -> tuple[str, ...]:
    """Remove one window from a subject's state and return its cells over all parts."""
    state = work.get(processor.table, ref)
    if state is None:
        return ()
    cells: set[str] = set()
    kept: dict[str, object] = {}
    for name, part in state.parts.items():
        if not isinstance(part, WindowPart):
            continue
        cells.update(part.windows.get(window, ()))
        rest = {key: value for key, value in part.windows.items() if key != window}
        if rest:
            kept[name] = structs.replace(part, windows=rest)
    if kept:
        work.put(processor.table, ref, Parts(kept))
    else:
        work.delete(processor.table, ref)
    return tuple(sorted(cells))
