"""A processor that joins a pass late, leaves it, comes back or moves: as if it had always been there."""

import os
from collections.abc import Mapping
from random import Random
from typing import Any, Final

import pytest
from msgspec import structs

from privacy_ledger.domain.errors import InvariantViolation, ProcessorChanged, ProcessorMoved
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.streams import joins, roster
from privacy_ledger.streams.backlog import Backlog
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.held import HELD, Busy
from privacy_ledger.streams.joins import Bound
from privacy_ledger.streams.progress import Progress
from privacy_ledger.streams.protocol import Processor
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.roster import MOVED, ROSTER, Claim, Moved
from privacy_ledger.streams.states import MEMBERS, WINDOWS, Table, Workspace
from privacy_ledger.streams.subject_view import SubjectView
from privacy_ledger.testing import memory
from privacy_ledger.testing.memory import MemoryPass, Pace
from tests.simulation.logs import ANALYTICS, BOOKS, CORE, INITIAL, Simulation, dump, pace_of

JOINS: Final = int(os.environ.get("PRIVACY_LEDGER_LAWS", "20000")) // 10
FIRST: Final = int(os.environ.get("PRIVACY_LEDGER_LAWS_FIRST", "0"))
MUTANT_LOGS: Final = 1000
SOUND: Final = (CORE[0], structs.replace(CORE[1], step=Progress()))
"""No step fails: what a build without the processor accepted, another one would have parked."""
ALL: Final[tuple[Processor[Any], ...]] = (*SOUND, *ANALYTICS)

Log = Mapping[int, Record]
Processors = tuple[Processor[Any], ...]


def _pass(processors: Processors, log: Log, *, after: MemoryPass | None = None, **more: Any) -> MemoryPass:  # noqa: ANN401 - of `MemoryPass`
    return MemoryPass(processors, log, initial=INITIAL, books=BOOKS, after=after, **more)


class Restless(MemoryPass):
    """A pass whose build changes while it runs: processors come late, go, and come back.

    Slices of any size fall between its records, and it dies between them: what was not committed
    is gone, and the next owner goes on from what was. Work in hand for a subject takes many of them.
    """

    def __init__(self, log: Log, random: Random) -> None:
        """Start with some of the processors."""
        self._draws = random
        self._its_log = log
        self._its_pace = random.choice((Pace(), pace_of(random)))
        self._chosen = tuple(p for p in ALL if random.random() < 0.4)
        self._public_tables = frozenset(p.table.name for p in ALL if random.random() < 0.5)
        self._dropped: set[str] = set()
        self.always = _pass(ALL, log, writes_tombstones=False)
        self._start(None)

    def _start(self, after: MemoryPass | None) -> None:
        super().__init__(
            self._chosen, self._its_log, initial=INITIAL, books=BOOKS, after=after,
            public=self._public_tables, pace=self._its_pace,
        )  # fmt: skip

    def run(self, records: Any) -> None:  # noqa: ANN401 - as `MemoryPass.run`
        """Fold records; between them anything may happen."""
        for record in records:
            draw = self._draws.random()
            if draw < 0.05:
                self._dropped.update(p.name for p in self._chosen)
                self._chosen = tuple(p for p in ALL if self._draws.random() < 0.6)
                self._start(self)
            elif draw < 0.1:
                self._start(self)  # killed and started again
            elif draw < 0.4:
                self._slice()
            super().run((record,))
            self.always.run((record,))
            if draw < 0.5:
                self._look()

    def _slice(self) -> None:
        if self.is_joining:
            most = self._draws.choice((1, 1, 2, 50))
            self.bring_up(Bound(subjects=most, records=most, rows=most))

    def _look(self) -> None:
        """Check every row against a pass that had everybody from the start: it is that, or not yet there."""
        for processor in ALL:
            standing = self.load(ROSTER, processor.name.encode())
            mine, right = _rows(self, processor.table), _rows(self.always, processor.table)
            is_public = processor.table.name in self._public_tables
            if standing is None or standing.state == "left":
                assert is_public or not mine, f"rows of {processor.name} stayed behind"
            elif standing.state == "folds":
                end = standing.cursor
                reached = {key: row for key, row in mine.items() if end is None or key < end}
                expected = {key: row for key, row in right.items() if end is None or key < end}
                busy = {key for key, held in self.scan(HELD, b"") if isinstance(held, Busy)}
                wrong = {key for key in reached | expected if reached.get(key) != expected.get(key)}
                assert wrong <= busy, f"{processor.name} is not exact where it folds"
                may_lie = is_public or processor.name in self._dropped  # rows of an earlier life
                assert may_lie or len(reached) == len(mine), f"{processor.name} folds too early"

    def end(self) -> MemoryPass:
        """Declare everything, bring it up, and return it."""
        self._chosen = ALL
        self._start(self)
        while self.is_joining:
            self._slice()
        self.drain()
        return self


def _state(whole: MemoryPass) -> dict[tuple[str, bytes], object]:
    """Return what must be the same: permissions, index, projections, windows and their members."""
    return whole.snapshot() | {
        key: value for key, value in whole.committed().items() if key[0] in {WINDOWS.name, MEMBERS.name}
    }


def _join_differs(seed: int) -> str | None:
    """Return what a restless pass ends with otherwise than one that had everybody from the start."""
    random = Random(seed ^ 0x10117)
    simulation = Simulation(seed, lambda log: Restless(log, random))
    assert isinstance(simulation.live, Restless)
    return _difference(simulation, simulation.live.always, simulation.live.end())


def _move_differs(seed: int) -> str | None:
    """Return what a pass ends with otherwise, that took all processors over from another one."""
    whole = Simulation(seed, lambda log: _pass(ALL, log))
    random, records = Random(seed ^ 0x30BE), whole.records
    log = {record.offset: record for record in records}
    stood = random.randrange(len(records))
    came = random.randrange(stood + 1)
    old = _pass(ALL, log, writes_tombstones=False)
    old.run(records[: stood + 1])
    new = _pass(ALL[: random.randrange(3)], log, writes_tombstones=False)
    new.run(records[: came + 1])
    held = {processor.name for processor in _enrolled(new)}
    new = _pass(ALL, log, after=new, writes_tombstones=False)
    claims = {p.name: Claim(position=stood, generation=3, identity=None) for p in ALL if p.name not in held}
    new.enrol(claims)
    taken: tuple[Table[Any], ...] = tuple(p.table for p in ALL if p.name in claims)
    for table in taken:
        new.adopt(table, old)
    for record in records[came + 1 :]:
        if new.is_joining and random.random() < 0.5:
            new.bring_up(Bound(subjects=1, records=1, rows=1))
        new.run((record,))
        for table in taken if record.offset < stood else ():
            assert _rows(new, table) == _rows(old, table), f"seed {seed}: {table.name} went back in time"
    while new.is_joining:
        new.bring_up(Bound(subjects=1, records=1, rows=1))
    new.drain()
    always = _pass(ALL, log, writes_tombstones=False)
    always.run(records)
    return _difference(whole, always, new)


def _rows(one: MemoryPass, table: Table[Any]) -> dict[bytes, object]:
    return {key: row for (name, key), row in one.committed().items() if name == table.name}


def _enrolled(one: MemoryPass) -> Processors:
    """Return the processors that a pass has in its roster."""
    return tuple(p for p in ALL if one.load(ROSTER, p.name.encode()) is not None)


def _difference(simulation: Simulation, one: MemoryPass, other: MemoryPass) -> str | None:
    right, found = _state(one), _state(other)
    if right == found:
        return None
    lines = [
        f"{table} of {key.hex()}:\n  always {right.get((table, key))}\n  late   {found.get((table, key))}"
        for table, key in sorted(right.keys() | found.keys())
        if right.get((table, key)) != found.get((table, key))
    ]
    return "\n".join((dump(simulation.records), "", *lines))


CHECKS: Final = {"joins": _join_differs, "moves": _move_differs}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(CHECKS))
def test_a_late_processor_ends_as_if_it_had_always_been_there(name: str) -> None:
    """In 2,000 random logs, with slices, deaths and changes of the build between the records."""
    for seed in range(FIRST, FIRST + max(1, JOINS)):
        found = CHECKS[name](seed)
        assert found is None, f"{_AGAIN.format(seed=seed, name=name)}\n{found}"


_AGAIN: Final = (
    "PRIVACY_LEDGER_LAWS=5 PRIVACY_LEDGER_LAWS_FIRST={seed} "
    "uv run --group dev pytest tests/simulation/test_joins.py -k [{name}]"
)


# Mutants -----------------------------------------------------------------------------------------


def _fold_unreached(patch: pytest.MonkeyPatch) -> None:
    right = PassFold.project

    def project(self: PassFold, *args: Any, only: str = "") -> None:  # noqa: ANN401 - as `project`
        seats = self._seats
        self._seats = structs.replace(seats, cursors={})
        right(self, *args, only=only)
        self._seats = seats

    patch.setattr(PassFold, "project", project)


def _keep_old_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(joins, "_clear", lambda *_: None)


def _pass_over_the_busy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(joins, "Busy", type("Nobody", (), {}))
    patch.setattr(
        Backlog, "join",
        lambda self, work, ref, name, *, position: (
            None if isinstance(work.get(HELD, ref), Busy)
            else _RIGHT_JOIN(self, work, ref, name, position=position)
        ),
    )  # fmt: skip


def _pass_over_the_parked(patch: pytest.MonkeyPatch) -> None:
    right = Backlog.retake
    patch.setattr(Backlog, "retake", lambda self, work, ref, **_: right(self, work, ref))


def _fold_into_all(patch: pytest.MonkeyPatch) -> None:
    right = PassFold.project
    patch.setattr(PassFold, "project", lambda self, *args, **_: right(self, *args))


def _come_too_early(patch: pytest.MonkeyPatch) -> None:
    right = roster.seats_of
    for module in (roster, memory):
        patch.setattr(
            module, "seats_of", lambda work, processors, **_: right(work, processors, position=1 << 40)
        )


def _skip_the_last(patch: pytest.MonkeyPatch) -> None:
    right, after = joins._subject, joins._successor  # noqa: SLF001 - the mutant's place

    def subject(work: Workspace, processor: Processor[object], start: bytes) -> SubjectRef | None:
        found = right(work, processor, start)
        return None if found is None or right(work, processor, after(found)) is None else found

    patch.setattr(joins, "_subject", subject)


def _stay_when_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(joins, "_leave", lambda work, key, standing, **_: work.put(
        ROSTER, key, structs.replace(standing, state="left")
    ))  # fmt: skip


_RIGHT_JOIN: Final = Backlog.join
MUTANTS: Final = {
    "folds live what a join has not reached": _fold_unreached,
    "keeps the rows of a predecessor": _keep_old_rows,
    "passes over a subject with work in hand": _pass_over_the_busy,
    "passes over a parked subject": _pass_over_the_parked,
    "folds into those that know it already": _fold_into_all,
    "takes part before the predecessor's position": _come_too_early,
    "forgets a subject": _skip_the_last,
    "leaves its rows behind": _stay_when_gone,
}


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_join_that_is_broken_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule, switched off, is noticed within a thousand logs; a whole one raises no alarm."""
    MUTANTS[name](monkeypatch)
    noticed = next((seed for seed in range(MUTANT_LOGS) if _fails(seed)), None)
    assert noticed is not None, f"{MUTANT_LOGS} logs did not notice: {name}"
    monkeypatch.undo()
    assert not _fails(noticed), f"seed {noticed} fails also without the mutant"


def _fails(seed: int) -> bool:
    try:
        return any(check(seed) is not None for check in CHECKS.values())
    except (AssertionError, InvariantViolation):
        return True


# Refusals ------------------------------------------------------------------------------------------

SUBJECT_VIEW: Final = CORE[0]


@pytest.mark.parametrize(
    ("changed", "how"),
    [
        (structs.replace(SUBJECT_VIEW, table=structs.replace(SUBJECT_VIEW.table, version=2)), "version 2"),
        (structs.replace(SUBJECT_VIEW, step=CORE[1].step), "another step"),
        (structs.replace(SUBJECT_VIEW, table=structs.replace(SUBJECT_VIEW.table, code=b"9")), "another code"),
        (
            structs.replace(SUBJECT_VIEW, table=structs.replace(SUBJECT_VIEW.table, kind=CORE[1].table.kind)),
            "layout",
        ),
    ],
)
def test_a_processor_that_changed_is_refused_by_name(changed: Processor[Any], how: str) -> None:
    """Its rows would mix two projections in one view."""
    before = _pass((SUBJECT_VIEW,), {})
    with pytest.raises(ProcessorChanged, match=f"subject_view .*{how}.*replay build subject_view"):
        _pass((changed,), {}, after=before)


def test_event_types_count_where_both_builds_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A type that a build did not know parked its subject there: to fold it from now on changes nothing."""
    later = roster.KNOWN | {"course.invented.v1"}
    before = _pass((SUBJECT_VIEW,), {})
    monkeypatch.setattr(roster, "KNOWN", later)
    monkeypatch.setattr(SubjectView, "types", SubjectView.types | {"course.invented.v1"})
    after = _pass((SUBJECT_VIEW,), {}, after=before)
    monkeypatch.setattr(SubjectView, "types", SubjectView.types - {"course.enrolled.v1"})
    with pytest.raises(ProcessorChanged, match="other event types"):
        _pass((SUBJECT_VIEW,), {}, after=after)


def test_a_processor_that_moved_away_is_refused_by_name() -> None:
    """By a build that does not know of the move; one that moved it back later is let in."""
    before = _pass(CORE, {})
    before.put(MOVED, b"progress", Moved(to="side", moves=1))
    with pytest.raises(ProcessorMoved, match="progress moved from the pass memory to the pass side"):
        _pass(CORE, {}, after=before)
    back = structs.replace(CORE[1], moved_from=("memory", "side"))
    assert "progress" in {p.name for p in _enrolled(_pass((CORE[0], back), {}, after=before))}
