"""Random logs of one partition: subjects, skewed clocks, removals, compactions and slow rebuilds.

Everything follows from one seed. `draw` makes records in log order, `Simulation` runs the core
pass over them and appends the tombstones that it decided, some time later and in decision order,
and `compact` takes away what a cleaner may take.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from random import Random
from typing import Any, Final, TypeVar

from msgspec import Struct, structs

from privacy_ledger.domain import events as e
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import NOBODY, Grain, RecordId, SubjectRef
from privacy_ledger.streams.analytics import TABLE as COURSE_VIEWS_TABLE
from privacy_ledger.streams.analytics import CourseViews
from privacy_ledger.streams.progress import TABLE as PROGRESS_TABLE
from privacy_ledger.streams.progress import Progress, ProgressPart
from privacy_ledger.streams.protocol import Processor, Step
from privacy_ledger.streams.record import Record, Removed, Undecodable
from privacy_ledger.streams.states import ENDLESS, Parts, Table
from privacy_ledger.streams.subject_view import TABLE as SUBJECT_VIEW_TABLE
from privacy_ledger.streams.subject_view import SubjectView
from privacy_ledger.testing.memory import MemoryPass, Pace, StepBroken
from tests.simulation.drawing import BOOKS, BROKEN_COURSE, ERASED, INITIAL, OURS, PARTITION, draw

__all__ = [
    "ANALYTICS",
    "BOOKS",
    "BROKEN_COURSE",
    "CORE",
    "INITIAL",
    "Decision",
    "Factory",
    "Simulation",
    "breaks",
    "compact",
    "draw",
    "dump",
    "pace_of",
    "rebuild",
    "run_pass",
]

P = TypeVar("P")
Factory = Callable[[Mapping[int, Record]], MemoryPass]


# Passes ---------------------------------------------------------------------------------------


def pace_of(random: Random) -> Pace:
    """Return how much a pass does at once: often nothing within a cycle, and tiny slices."""
    return Pace(
        budget=random.choice((0, 0, 1, 2, 5, ENDLESS)),
        slice=random.choice((1, 2, 3, 8)),
        seed=random.getrandbits(32),
    )


def _processor(name: str, table: Table[Parts[P]], step: Step[P]) -> Processor[P]:
    return Processor(name=name, runs_in="core", source=LEDGER_EVENTS, table=table, step=step)


def breaks(record: Record) -> bool:
    """Return whether the step of `progress` fails on a record: a bug that only some courses meet."""
    return record.type in Progress.types and getattr(record.body, "course", None) == BROKEN_COURSE


class BreakingProgress(Progress):
    """`progress` with a bug in it."""

    def step(self, part: ProgressPart | None, record: Record) -> ProgressPart:
        """Fail on some records; do right on others."""
        if breaks(record):
            raise StepBroken
        return super().step(part, record)


CORE: Final = (
    _processor("subject_view", SUBJECT_VIEW_TABLE, SubjectView()),
    _processor("progress", PROGRESS_TABLE, BreakingProgress()),
)
ANALYTICS: Final = (_processor("course_views", COURSE_VIEWS_TABLE, CourseViews()),)


def run_pass(
    log: Mapping[int, Record],
    *,
    processors: tuple[Processor[Any], ...] = (*CORE, *ANALYTICS),
    initial: Rules = INITIAL,
    writes_tombstones: bool = True,
    pace: Pace | None = None,
) -> MemoryPass:
    """Return a pass at offset 0 that reads again from `log`; by default one pass does everything."""
    return MemoryPass(
        processors, log, initial=initial, books=BOOKS, writes_tombstones=writes_tombstones, pace=pace
    )


# Running -----------------------------------------------------------------------------------------


class Decision(Struct, frozen=True):
    """A removal that the core decided: of which key, why, for whom, and before which offset it was known."""

    key: bytes
    cause: str
    request: str
    offset: int


class Simulation:
    """A log as the ledger would hold it, and the live core pass that has read all of it.

    `records` is the whole log; `decisions` are the removals in decision order.
    """

    def __init__(
        self,
        seed: int,
        factory: Factory = run_pass,
        *,
        drawn: Sequence[Record] | None = None,
        is_orderly: bool = True,
    ) -> None:
        """Draw the log of `seed`, unless `drawn` is given, and run the live pass beside its growth.

        Without `is_orderly`, tombstones leave in any order: a ledger that breaks its promise.
        """
        drawn = draw(Random(seed)) if drawn is None else drawn
        random = Random(~seed)
        self.records: list[Record] = []
        self.decisions: list[Decision] = []
        self._written = 0
        self._places: dict[int, int] = {}
        self._is_orderly = is_orderly
        self._log: dict[int, Record] = {}
        self.live = factory(self._log)
        patience = random.choice((0.05, 0.2, 0.5))
        for record in drawn:
            self._append(self._placed(record))
            if random.random() < patience:
                self._write_tombstones(random)
        for _ in range(random.randrange(3)):
            self._write_tombstones(random)
        self.live.drain()
        self._note_decisions()

    def _placed(self, record: Record) -> Record:
        """Return a drawn record with the place that its original has in the log, if it is there."""
        self._places[record.offset] = len(self.records)
        if record.instead is None:
            return record
        return structs.replace(record, instead=self._places.get(record.instead))

    def _append(self, record: Record) -> None:
        record = structs.replace(record, offset=len(self.records))
        self.records.append(record)
        self._log[record.offset] = record
        self.live.run((record,))

    def _note_decisions(self) -> None:
        known = {decision.key for decision in self.decisions}
        for key, tombstone in self.live.tombstones():
            if key not in known:
                self.decisions.append(Decision(key, tombstone.cause, tombstone.request, len(self.records)))

    def _write_tombstones(self, random: Random) -> None:
        """Append some of the tombstones that are due, in decision order; at times let the cleaner run."""
        self._note_decisions()
        if not self._is_orderly:
            late = self.decisions[self._written :]
            self.decisions[self._written :] = random.sample(late, len(late))
        due = self.decisions[self._written :]
        for decision in due[: random.randrange(len(due) + 1)]:
            self._written += 1
            now = self.records[-1].received_at
            ref, record_id = SubjectRef(decision.key[:16]), RecordId(decision.key[16:])
            self._append(
                Record(
                    partition=PARTITION, offset=0, ref=ref, record_id=record_id, type="", body=OURS,
                    occurred_at=now, received_at=now,
                )
            )  # fmt: skip
        if random.random() < 0.3:
            cleaned = compact(self._log, random.randrange(len(self.records) + 1), random)
            self._log.clear()
            self._log.update(cleaned)


def compact(log: Mapping[int, Record], end: int, random: Random) -> dict[int, Record]:
    """Return the log after the cleaner ran over the offsets below `end`.

    A record with a later tombstone there is gone. Tombstones there stay, or vanish up to a point.
    """
    last = {
        r.ref + r.record_id: r.offset for r in log.values() if r.offset < end and isinstance(r.body, Removed)
    }
    forget = random.choice((0, end, random.randrange(end + 1)))
    return {
        offset: record
        for offset, record in log.items()
        if offset >= end
        or (
            offset >= last.get(record.ref + record.record_id, 0)
            and not (isinstance(record.body, Removed) and offset < forget)
        )
    }


def rebuild(simulation: Simulation, random: Random, factory: Factory = run_pass) -> MemoryPass:
    """Return a second pass that read the same log late, slowly, and beside cleaner and eraser.

    It starts when the log has some length, reads a stretch, the log grows and is cleaned, and so
    on up to the end.
    """
    total = len(simulation.records)
    stops = sorted(random.randrange(total + 1) for _ in range(random.choice((0, 1, 1, 2, 3))))
    log: dict[int, Record] = {}
    copy = factory(log)
    position, length, erased, cleaned = 0, 0, 0, 0
    present = list(simulation.records)
    gone: set[int] = set()
    for stop in (*stops, total):
        length = random.randrange(max(stop, length), total + 1)
        known = sum(decision.offset <= length for decision in simulation.decisions)
        erased = max(erased, random.choice((0, known, random.randrange(known + 1))))
        cleaned = max(cleaned, random.choice((0, length, random.randrange(length + 1))))
        _shred(present, simulation, erased)
        kept = compact({r.offset: r for r in present[:length] if r.offset not in gone}, cleaned, random)
        gone.update(offset for offset in range(cleaned) if offset not in kept)
        log.clear()
        log.update(kept)
        copy.run([log[offset] for offset in range(position, stop) if offset in log])
        position = stop
    copy.drain()
    return copy


def _shred(present: list[Record], simulation: Simulation, count: int) -> None:
    """Turn the bodies of the first `count` removed records into `Erased`, where their key is gone."""
    reach = {decision.key: decision.cause for decision in simulation.decisions[:count]}
    for position, record in enumerate(present):
        cause = reach.get(record.ref + record.record_id)
        if cause is None or not isinstance(record.body, e.Fact | Undecodable):
            continue
        rule = None if record.category is None else INITIAL.category(record.category)
        is_fine = rule is not None and rule.grain is Grain.RECORD
        is_named = is_fine and isinstance(record.body, e.Fact)
        if is_named or cause in (Refusal.ERASED, Refusal.SUBJECT_ERASED):
            present[position] = structs.replace(record, body=ERASED)


# Showing -----------------------------------------------------------------------------------------


def dump(records: list[Record]) -> str:
    """Return a log as one line a record, for a failing test; people here are made up."""
    names: dict[bytes, str] = {bytes(NOBODY): "*"}
    lines = []
    for record in records:
        who = names.setdefault(bytes(record.ref), f"S{len(names)}")
        fields = getattr(record.body, "__struct_fields__", ())
        said = " ".join(
            f"{name}={_short(getattr(record.body, name))}"
            for name in fields
            if name not in ("policy", "request")
        )
        request = getattr(record.body, "request", "")
        lines.append(
            f"{record.offset:3} {who} {record.record_id.hex()[:6]} {type(record.body).__name__}"
            f" type={record.type} at={record.occurred_at:%m-%d %H:%M%z} tag={record.tag.hex()[:6]}"
            f"/{record.digest.hex()[:6]} {','.join(record.purposes)} {said} {request[:6]}"
            f"{'' if record.instead is None else f' instead={record.instead}'}"
            f"{'' if not record.field else f' field={record.field.hex()[:6]}'}".rstrip()
        )
    return "\n".join(lines)


def _short(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M%z}"
    text = str(value)
    return text if len(text) <= 40 else text[:6]
