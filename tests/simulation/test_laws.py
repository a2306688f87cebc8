import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import chain, count
from multiprocessing import get_context
from random import Random
from typing import Any, Final

import pytest
from msgspec import structs

from privacy_ledger.domain.events import ConsentGranted
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, SubjectRef, month_of
from privacy_ledger.streams import fold, progress, subject_view
from privacy_ledger.streams.fold import PassFold
from privacy_ledger.streams.record import Record, Removed
from privacy_ledger.streams.removal import Removal
from privacy_ledger.streams.states import INDEX, PARKED, PERMISSIONS, IndexRow, Parts, Workspace
from privacy_ledger.testing.memory import MemoryPass
from privacy_ledger.testing.oracle import Expected, Oracle, Subject
from tests.simulation.logs import (
    ANALYTICS,
    BOOKS,
    CORE,
    INITIAL,
    Simulation,
    draw,
    dump,
    rebuild,
    run_pass,
)

LOGS: Final = int(os.environ.get("PRIVACY_LEDGER_LAWS", "20000"))
FIRST: Final = int(os.environ.get("PRIVACY_LEDGER_LAWS_FIRST", "0"))
ORACLE_SHARE: Final = 5
APART_SHARE: Final = 8
MUTANT_LOGS: Final = 600
CHUNK: Final = 500
ORACLE: Final = Oracle(INITIAL, BOOKS)

Check = Callable[[int, Sequence[Record] | None], "tuple[Simulation, str] | None"]


# The laws ---------------------------------------------------------------------------------------


def check_rebuild(seed: int, drawn: Sequence[Record] | None = None) -> tuple[Simulation, str] | None:
    """Return what a late, slow rebuild has otherwise than the live pass; None: nothing (L3)."""
    if seed % APART_SHARE == 0:
        return _check_apart(seed, drawn)
    simulation = Simulation(seed, drawn=drawn)
    return _differing(simulation, simulation.live, rebuild(simulation, Random(seed ^ 0xC0FFEE)))


def check_oracle(seed: int, drawn: Sequence[Record] | None = None) -> tuple[Simulation, str] | None:
    """Return what the live pass has otherwise than the oracle; None: nothing."""
    simulation = Simulation(seed, drawn=drawn)
    expected = ORACLE.expect(simulation.records)
    found = chain(
        *(_subject_differs(simulation, ref, subject) for ref, subject in expected.subjects.items()),
        _windows_differ(simulation, expected),
    )
    text = "\n".join(found)
    return (simulation, text) if text else None


def _check_apart(seed: int, drawn: Sequence[Record] | None) -> tuple[Simulation, str] | None:
    """Check the core and analytics passes as they are deployed: two passes, one writes tombstones."""
    core = partial(run_pass, processors=CORE)
    analytics = partial(run_pass, processors=ANALYTICS, writes_tombstones=False)
    simulation = Simulation(seed, core, drawn=drawn)
    beside = analytics({record.offset: record for record in simulation.records})
    beside.run(simulation.records)
    return _differing(
        simulation, simulation.live, rebuild(simulation, Random(seed ^ 0xC0FFEE), core)
    ) or _differing(simulation, beside, rebuild(simulation, Random(seed ^ 0xFACADE), analytics))


def _differing(simulation: Simulation, live: MemoryPass, again: MemoryPass) -> tuple[Simulation, str] | None:
    one, other = live.snapshot(), again.snapshot()
    if one == other:
        return None
    text = "\n".join(
        f"{table} of {key[:3].hex()}:\n  live    {one.get((table, key))}\n  rebuilt {other.get((table, key))}"
        for table, key in sorted(one.keys() | other.keys())
        if one.get((table, key)) != other.get((table, key))
    )
    return simulation, text


def _subject_differs(simulation: Simulation, ref: SubjectRef, expected: Subject) -> Iterator[str]:
    live = simulation.live
    permissions = live.load(PERMISSIONS, ref) or Permissions()
    mine = [decision for decision in simulation.decisions if decision.key.startswith(ref)]
    found: dict[str, object] = {
        "is_registered": permissions.is_registered,
        "is_ended": permissions.is_ended,
        "is_restricted": permissions.is_restricted,
        "is_parked": live.load(PARKED, ref) is not None,
        "is_minor_unapproved": permissions.is_minor and not permissions.is_approved,
        "grants": permissions.grants,
        "objected": frozenset(permissions.objections),
        "live": {row.record_id: row.purposes for _, row in live.scan(INDEX, ref)},
        "removed": {decision.key[16:]: (str(decision.cause), decision.request) for decision in mine},
        "subject_view": subject_view.merge(live.view(subject_view.TABLE, ref) or Parts({})),
        "progress": progress.merge(live.view(progress.TABLE, ref) or Parts({})),
    }
    for name, value in found.items():
        right = getattr(expected, name)
        if value != right:
            yield f"{name} of {ref[:3].hex()}:\n  fold   {value}\n  oracle {right}"


def _windows_differ(simulation: Simulation, expected: Expected) -> Iterator[str]:
    emitted = {
        emit.release: {course: cell for course, cell in emit.cells.items() if cell}
        for emit in simulation.live.emits
    }
    for release, counts in expected.windows.items():
        if release not in expected.is_capped and emitted.get(release, {}) != counts:
            yield f"window {release[:6]}:\n  fold   {emitted.get(release)}\n  oracle {counts}"


# Running and showing ------------------------------------------------------------------------------

CHECKS: Final[dict[str, Check]] = {"rebuild": check_rebuild, "oracle": check_oracle}


def failing_seeds(name: str, seeds: range) -> list[int]:
    """Return those of the seeds whose log breaks the law; runs in a process of its own."""
    return [seed for seed in seeds if CHECKS[name](seed, None) is not None]


def report(name: str, seeds: list[int]) -> str:
    """Return the seeds, the command to repeat the first, and its log made small."""
    seed = seeds[0]
    simulation, text = _shrunk(CHECKS[name], seed)
    return "\n".join((
        f"{len(seeds)} of {LOGS} logs break the law of the {name}; seeds: {seeds[:20]}",
        f"PRIVACY_LEDGER_LAWS=1 PRIVACY_LEDGER_LAWS_FIRST={seed} uv run --group dev pytest tests/simulation -k {name}",
        "", dump(simulation.records), "", text,
    ))  # fmt: skip


def _shrunk(check: Check, seed: int) -> tuple[Simulation, str]:
    """Return a failure with few records: drop ever smaller runs of them while it still fails."""
    drawn = draw(Random(seed))
    best = check(seed, drawn)
    assert best is not None, f"seed {seed} fails only sometimes: the fold is not a function of the log"
    size = len(drawn) // 2
    while size:
        at = 0
        while at < len(drawn):
            fewer = drawn[:at] + drawn[at + size :]
            worse = _first_failure(check, seed, fewer)
            if worse is None:
                at += size
            else:
                drawn, best = fewer, worse
        size //= 2
    return best


def _first_failure(check: Check, seed: int, drawn: list[Record]) -> tuple[Simulation, str] | None:
    """Return a failure of these records under any of a few compactions and rebuilds."""
    tries = (check(other, drawn) for other in (seed, *range(seed + 8, seed + 8 * 24, 8)) if drawn)
    return next((failure for failure in tries if failure is not None), None)


def _run(name: str, total: int) -> list[int]:
    """Return the failing seeds of `total` logs, run in two processes."""
    if total <= CHUNK:
        return failing_seeds(name, range(FIRST, FIRST + total))
    chunks = [range(at, min(at + CHUNK, FIRST + total)) for at in range(FIRST, FIRST + total, CHUNK)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return [seed for seeds in pool.map(partial(failing_seeds, name), chunks) for seed in seeds]


@pytest.mark.timeout(900)
def test_a_rebuild_of_a_compacted_log_equals_the_live_pass() -> None:
    """L3: permissions, index and projections are a function of the live records, in 20,000 logs."""
    seeds = _run("rebuild", LOGS)
    assert not seeds, report("rebuild", seeds)


@pytest.mark.timeout(900)
def test_the_live_pass_agrees_with_the_oracle() -> None:
    """The folds say what the documents say, in 4,000 logs."""
    seeds = _run("oracle", max(1, LOGS // ORACLE_SHARE))
    assert not seeds, report("oracle", seeds)


# Mutants: each law switched off once --------------------------------------------------------------

Mutant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(law: Mutant) -> Mutant:
    """Take a broken ledger into the list."""
    MUTANTS[law.__name__] = law
    return law


@mutant
def l1_a_consent_arrives_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild reads consents from a topic of their own, after the events."""
    live_runs = MemoryPass.run

    def run(self: MemoryPass, records: Sequence[Record]) -> None:
        late = [record for record in records if isinstance(record.body, ConsentGranted)]
        live_runs(self, [*(record for record in records if record not in late), *late])

    monkeypatch.setattr(MemoryPass, "run", run)


@mutant
def l2_the_fold_reads_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick takes the time at which it is read, which is later each time."""
    hours, right = count(), PassFold._tick

    def tick(self: PassFold, work: Workspace, meta: Any, at: Any) -> None:
        right(self, work, meta, at + timedelta(hours=next(hours)))

    monkeypatch.setattr(PassFold, "_tick", tick)


@mutant
def l2_a_rebuild_starts_with_todays_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other pass has the newest rule book from the start."""
    books, right = iter(count()), MemoryPass.__init__

    def init(self: MemoryPass, *args: Any, initial: Rules, **more: Any) -> None:
        right(self, *args, initial=initial if next(books) % 2 == 0 else BOOKS["b" * 64], **more)

    monkeypatch.setattr(MemoryPass, "__init__", init)


@mutant
def l3_tombstones_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal waits until its tombstone is read back."""
    right = PassFold.apply

    def bury(self: Removal, work: Workspace, ref: SubjectRef, record_id: bytes, **more: Any) -> None:
        self._tombstone(work, ref, record_id, cause=more["cause"], request=more["request"])

    def apply(self: PassFold, work: Workspace, record: Record) -> Any:
        if isinstance(record.body, Removed):
            for key, row in work.scan(INDEX, record.ref):
                if row.record_id == record.record_id:
                    work.delete(INDEX, key)
        return right(self, work, record)

    monkeypatch.setattr(Removal, "bury", bury)
    monkeypatch.setattr(PassFold, "apply", apply)


@mutant
def l3_a_tombstone_takes_its_fact_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tombstone forgets all grants of its subject, as a cache would be invalidated."""
    right = PassFold.apply

    def apply(self: PassFold, work: Workspace, record: Record) -> Any:
        known = work.get(PERMISSIONS, record.ref)
        if isinstance(record.body, Removed) and known is not None:
            work.put(PERMISSIONS, record.ref, structs.replace(known, grants={}))
        return right(self, work, record)

    monkeypatch.setattr(PassFold, "apply", apply)


@mutant
def tombstones_leave_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction then removes a record and leaves a copy that was refused because of it."""
    right = Simulation.__init__

    def init(self: Simulation, *args: Any, **more: Any) -> None:
        right(self, *args, **more | {"is_orderly": False})

    monkeypatch.setattr(Simulation, "__init__", init)


@mutant
def a_tag_alone_makes_a_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another content under a known id counts as the same event."""
    right = fold.admit

    def admit(*args: Any, is_known_copy: bool | None, **more: Any) -> Any:
        return right(*args, is_known_copy=None if is_known_copy is None else True, **more)

    monkeypatch.setattr(fold, "admit", admit)


@mutant
def copies_are_new_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is a duplicate."""
    right = fold.admit

    def admit(*args: Any, is_known_copy: bool | None, **more: Any) -> Any:
        del is_known_copy
        return right(*args, is_known_copy=None, **more)

    monkeypatch.setattr(fold, "admit", admit)


@mutant
def a_refused_record_leaves_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused once is a duplicate for ever, until a rebuild."""
    right = Removal.refuse

    def refuse(self: Removal, work: Workspace, record: Record, **more: Any) -> None:
        right(self, work, record, **more)
        key = record.ref + record.tag
        if work.get(INDEX, key) is None:
            row = IndexRow(
                record.offset, record.record_id, record.digest, record.category or Category.EVIDENCE,
                month_of(record.occurred_at), (), record.generation,
            )  # fmt: skip
            work.put(INDEX, key, row)

    monkeypatch.setattr(Removal, "refuse", refuse)


@mutant
def a_refused_copy_takes_the_tag_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one duplicate was refused, the next one passes."""
    right = Removal.refuse

    def refuse(self: Removal, work: Workspace, record: Record, **more: Any) -> None:
        right(self, work, record, **more)
        work.delete(INDEX, record.ref + record.tag)

    monkeypatch.setattr(Removal, "refuse", refuse)


@mutant
def retention_counts_from_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that came late lives longer than its person was told."""
    right = PassFold._data

    def data(self: PassFold, work: Workspace, record: Record) -> Any:
        return right(self, work, structs.replace(record, occurred_at=record.received_at))

    monkeypatch.setattr(PassFold, "_data", data)


@mutant
def a_withdrawal_purges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use stops, and what was collected stays."""
    monkeypatch.setattr(Removal, "purge_purposes", lambda *_args, **_more: False)


@mutant
def a_restriction_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of a restricted person are folded at once."""
    right = PassFold._refold

    def refold(self: PassFold, work: Workspace, ref: Any, partition: int, permissions: Any) -> Any:
        return right(self, work, ref, partition, structs.replace(permissions, restricted_since=None))

    monkeypatch.setattr(PassFold, "_refold", refold)
    monkeypatch.setattr(Permissions, "is_restricted", property(lambda _: False))


@mutant
def a_request_has_its_effect_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retried *restrict* after a *lift* restricts again."""
    right = fold.apply_control

    def apply_control(state: Permissions, fact: Any, *, offset: int) -> Permissions:
        return right(structs.replace(state, requests=()), fact, offset=offset)

    monkeypatch.setattr(fold, "apply_control", apply_control)


@mutant
def a_poisoned_subject_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A withdrawal that nobody can read is taken for consent."""
    monkeypatch.setattr(PassFold, "_park", lambda *_: [])


@mutant
def an_erased_person_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything goes, but no fence stays."""
    monkeypatch.setattr(Permissions, "is_ended", property(lambda _: False))


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_law_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each law, switched off, is noticed within 600 logs."""
    MUTANTS[name](monkeypatch)
    seeds = range(MUTANT_LOGS)
    noticed = next(
        (seed for seed in seeds for check in CHECKS.values() if check(seed, None) is not None), None
    )
    assert noticed is not None, f"{MUTANT_LOGS} logs did not notice: {name}"


def test_whole_laws_raise_no_alarm() -> None:
    """The logs that catch the broken ledgers find nothing in a whole one."""
    seeds = range(MUTANT_LOGS)
    assert [seed for seed in seeds for check in CHECKS.values() if check(seed, None) is not None] == []
