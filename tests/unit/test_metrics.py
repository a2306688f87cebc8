"""What the meters see of a real home, and that nothing of a person can get into a metric."""

import base64
import inspect
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Final, get_args, get_origin, get_type_hints

import pytest
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from privacy_ledger import bootstrap
from privacy_ledger.adapters.keystore import StoredKeyVault
from privacy_ledger.adapters.observe.metrics import METRICS, Kind, Metric
from privacy_ledger.adapters.observe.prometheus import PrometheusMeters
from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.engine import handover
from privacy_ledger.engine.batch import Batch, Work
from privacy_ledger.engine.meter import PartitionMeter
from privacy_ledger.engine.progress import RestoreProgress
from privacy_ledger.engine.progress import Restoring as Restored
from privacy_ledger.engine.rebuild import MemoryStore
from privacy_ledger.ports.keeping import ReleaseCount, ReleaseOutcome
from privacy_ledger.ports.log import Headers, Row, received_at
from privacy_ledger.ports.observe import (
    LABELS,
    Assigned,
    Compaction,
    Cycle,
    CycleOutcome,
    Erasures,
    Followed,
    KeyCacheFigures,
    Lag,
    Outstanding,
    Restoring,
    Revoked,
    Seen,
    Standing,
    Stands,
)
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.streams.progress import Progress, ProgressPart
from privacy_ledger.streams.record import Record
from tests.unit.home import home, played, settings

NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROJECTIONS: Final = {"core": ("progress", "subject_view"), "analytics": ("course_views",)}
RELEASED: Final = ReleaseCount(
    role="worker", purpose="analytics", category="usage", outcome=ReleaseOutcome.RELEASED, keys=7
)
PEOPLE: Final = ("4711001", "4711002", "grace.hopper-4711")
Labels = Mapping[str, str]


def samples(meters: PrometheusMeters) -> dict[str, list[tuple[Labels, float]]]:
    """Return the labels and values of every series, by name."""
    found: dict[str, list[tuple[Labels, float]]] = {}
    for family in text_string_to_metric_families(meters.expose().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(meters: PrometheusMeters, name: str, **labels: str) -> float:
    """Return the sum of the series of a metric that have these labels."""
    series = samples(meters).get(f"privacy_ledger_{name}", [])
    return sum(value for found, value in series if labels.items() <= found.items())


class Eyes:
    """Meters that keep what they saw."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.seen: list[Seen] = []

    def note(self, seen: Seen) -> None:
        """Keep it."""
        self.seen.append(seen)


# The declaration ------------------------------------------------------------------------------


def test_every_label_is_an_allowed_one() -> None:
    """The list is short, and none of its names can name a person."""
    assert {label for metric in METRICS for label in metric.labels} <= LABELS
    assert not LABELS & {"subject", "subject_ref", "ref", "key", "id", "request_id", "record", "user", "name"}


def test_every_metric_is_declared_once_and_described() -> None:
    """A name, a sentence, labels without repetition."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert [metric.name for metric in METRICS if len(metric.says) < 20] == []
    assert [metric.name for metric in METRICS if len(set(metric.labels)) != len(metric.labels)] == []


@pytest.mark.parametrize(
    ("name", "kind", "labels", "buckets"),
    [
        ("privacy_ledger_of_a_person", "gauge", ("pass", "subject_ref"), ()),
        ("privacy_ledger_of_a_key", "gauge", ("key",), ()),
        ("ledger_lag", "gauge", (), ()),
        ("privacy_ledger_Lag", "gauge", (), ()),
        ("privacy_ledger_records", "counter", (), ()),
        ("privacy_ledger_records_total", "gauge", (), ()),
        ("privacy_ledger_took_seconds", "histogram", (), ()),
        ("privacy_ledger_lag", "gauge", (), (1.0,)),
    ],
)
def test_a_declaration_that_breaks_a_rule_is_refused(
    name: str, kind: Kind, labels: tuple[str, ...], buckets: tuple[float, ...]
) -> None:
    """At construction, so that no worker starts with it."""
    with pytest.raises(InvariantViolation, match="metric"):
        Metric(name=name, kind=kind, says="x", labels=labels, buckets=buckets)


def test_what_is_declared_is_what_is_exposed() -> None:
    """No metric of ours is exposed beside the declaration, and none is missing."""
    meters = PrometheusMeters(PROJECTIONS)
    meters.ask_keys(lambda: KeyCacheFigures(opened=1, sealing=2, asked=9, missed=4), lambda: (RELEASED,))
    exposed = {line.split()[2] for line in meters.expose().decode().splitlines() if line.startswith("# HELP")}
    ours = {name for name in exposed if name.startswith("privacy_ledger_")}
    assert ours == {metric.name for metric in METRICS}
    assert "process_resident_memory_bytes" in exposed


def test_nothing_seen_has_room_for_bytes_or_free_text() -> None:
    """Figures, times, and a few names: of passes, states, outcomes and reasons."""
    texts = {"pass_name", "outcome", "joining", "topic"}
    for kind in get_args(Seen):
        for name, hint in get_type_hints(kind).items():
            types = set(_leaves(hint))
            assert bytes not in types, (kind, name)
            assert str not in types or name in texts | {"decided"}, (kind, name)
            assert all(one in {str, int, float, datetime, NoneType} or _is_enum(one) for one in types)


def _leaves(hint: object) -> Iterator[type]:
    if get_origin(hint) in {UnionType, tuple, Mapping} or get_args(hint):
        for argument in get_args(hint):
            if argument is not Ellipsis:
                yield from _leaves(argument)
    elif inspect.isclass(hint):
        yield hint


def _is_enum(one: type) -> bool:
    return one in {Standing, CycleOutcome}


# A real home ----------------------------------------------------------------------------------


async def test_a_home_tells_what_it_folded_refused_and_parked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each figure is the one that the home's own log and states have."""
    meters = PrometheusMeters(PROJECTIONS)
    right = Progress.step

    def broken(self: Progress, part: ProgressPart | None, record: Record) -> ProgressPart:
        if record.ref == victim:
            raise ZeroDivisionError
        return right(self, part, record)

    async with home(tmp_path, is_exact=False, meters=meters) as it:
        assert it.runtime.embedded is not None
        assert await it.runtime.embedded.hold()
        await it.take([played("4711001", event="e1"), played("4711002", event="e2")])
        for _ in range(2):
            await it.take([played("4711001", event="e1")])
        victim = it.ref("4711002")
        monkeypatch.setattr(Progress, "step", broken)
        await it.take([played("4711002", event="e3")])
        rows = len(await it.rows())
        ends = [await it.runtime.log.end(LEDGER_EVENTS, p) for p in range(it.runtime.partitions)]
        assert total(meters, "records_folded_total", **{"pass": "core"}) == rows
        assert total(meters, "records_folded_total", **{"pass": "analytics"}) == rows
        assert total(meters, "tombstones_decided_total", reason="duplicate") == 2
        assert total(meters, "subjects_parked", **{"pass": "core"}) == 1
        assert total(meters, "records_unreadable_total", **{"pass": "core"}) == 1
        assert total(meters, "lag_records") == 0
        assert total(meters, "position", **{"pass": "core"}) == sum(end - 1 for end in ends)
        cycles = total(meters, "cycles_total", outcome="committed")
        assert cycles == total(meters, "commit_seconds_count")
        assert total(meters, "cycles_total") == cycles
        ticks = samples(meters)["privacy_ledger_tick_timestamp_seconds"]
        now = it.runtime.clock.now().timestamp()
        assert all(0 <= now - at < 600 for _, at in ticks)


async def test_no_series_holds_anything_of_a_person(tmp_path: Path) -> None:
    """Neither references nor ids nor names, in any spelling, after everything that can happen to them."""
    meters = PrometheusMeters(PROJECTIONS)
    async with home(tmp_path, is_exact=False, meters=meters) as it:
        await it.take([played(name, event=f"event-of-{name}") for name in PEOPLE])
        await it.take([played(PEOPLE[0], event=f"event-of-{PEOPLE[0]}")])
        refs = [it.ref(name) for name in PEOPLE]
        await it.runtime.passes.settle(await it.subjects.restrict("openedx:user_id:4711002", ground="claims"))
        outcomes = await it.erasure().erase((refs[0],))
        assert all(outcome.is_completed for outcome in outcomes)
        assert total(meters, "tombstones_decided_total", reason="erased") > 0
        said = meters.expose()
        keys = [row.key for row in await it.rows()]
    words = [spelling for ref in refs for spelling in _spellings(ref)]
    words += [spelling for key in keys for spelling in _spellings(key[16:])]
    words += [name.encode() for name in PEOPLE]
    assert [word for word in words if word in said] == []


def _spellings(token: bytes) -> tuple[bytes, ...]:
    return (
        token, token.hex().encode(), token.hex().upper().encode(), base64.b64encode(token)[:20],
        str(token).encode(), str(int.from_bytes(token, "big")).encode(),
    )  # fmt: skip


async def test_what_was_assigned_and_released_is_seen_in_order(tmp_path: Path) -> None:
    """Assigned before it runs, running before it folds, and revoked with the lock."""
    eyes = Eyes()
    async with home(tmp_path, meters=eyes) as it:
        await it.take([played("7", event="e1")])
        assert it.runtime.embedded is not None
        it.runtime.embedded.release()
        seen_of_core = [seen for seen in eyes.seen if getattr(seen, "pass_name", "") == "core"]
        # Cycles without records belong to the taking over.
        kinds = [type(seen) for seen in seen_of_core if not isinstance(seen, Cycle) or seen.records]
        running = [seen for seen in eyes.seen if isinstance(seen, Stands)]
    assert kinds[0] is Assigned
    assert kinds[-1] is Revoked
    assert kinds.index(Stands) < kinds.index(Cycle)
    assert {(seen.standing, seen.outcome) for seen in running} == {(Standing.RUNNING, "")}


# Lag ------------------------------------------------------------------------------------------


def _seconds(eyes: Eyes) -> list[float | None]:
    return [seen.seconds for seen in eyes.seen if isinstance(seen, Lag)]


def test_seconds_behind_count_from_the_last_moment_without_a_backlog() -> None:
    """A quiet night before a stall is no lag."""
    eyes = Eyes()
    meter = PartitionMeter(eyes, pass_name="core", partition=0)
    meter.lag(7, 0, now=NOON)
    meter.lag(7, 3, now=NOON + timedelta(seconds=90))
    meter.lag(7, 900, now=NOON + timedelta(seconds=120))
    assert _seconds(eyes) == [0.0, 90.0, 120.0]


async def test_seconds_behind_count_from_the_last_folded_record(tmp_path: Path) -> None:
    """In a backlog, what is not folded was received after what is; before that, nothing is known."""
    eyes = Eyes()
    meter = PartitionMeter(eyes, pass_name="core", partition=0)
    batch = Batch(
        writes=(), store=(), changes=(), sealed=(), work=Work(tombstones=(), shreds=()),
        position=PassPosition(), records=1, parked=0, reasons=(), is_tick=False, received_at=NOON, fold_s=0.0,
    )  # fmt: skip
    async with home(tmp_path) as it:
        meter.lag(-1, 5, now=NOON + timedelta(seconds=50))
        await meter.commit(it.runtime.log, batch)
    meter.lag(0, 4, now=NOON + timedelta(seconds=60))
    assert _seconds(eyes) == [None, 60.0]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((("received", b"2026-03-01T12:00:00.000000+00:00"),), NOON),
        ((("received", b"2026-03-01T13:00:00+01:00"),), NOON),
        ((("received", b"2026-03-01T12:00:00"),), None),
        ((("received", b"yesterday"),), None),
        ((("received", b"\xff"),), None),
        ((), None),
    ],
)
def test_only_a_whole_time_is_taken_for_when_a_record_was_received(
    headers: Headers, expected: datetime | None
) -> None:
    """A foreign record must not stop a fold for a figure."""
    assert received_at(Row(0, 0, b"key", b"value", headers, 0)) == expected


# What goes, and what does not look right ------------------------------------------------------


def test_series_of_a_partition_go_with_it() -> None:
    """The next owner may be another worker: a figure that stays would be a wrong one."""
    meters = PrometheusMeters(PROJECTIONS)
    meters.note(Assigned(pass_name="core", partitions=(3,)))
    meters.note(Stands(pass_name="core", partition=3, standing=Standing.RUNNING))
    meters.note(Lag(pass_name="core", partition=3, position=5, records=9, seconds=2.5))
    meters.note(Outstanding(pass_name="core", partition=3, parked=1, tombstones=2, shreds=3, last_tick=NOON))
    assert total(meters, "lag_seconds", projection="progress", partition="3") == 2.5
    before = {name for name, series in samples(meters).items() if any(s[0].get("partition") for s in series)}
    meters.note(Revoked(pass_name="core"))
    after = {name for name, series in samples(meters).items() if any(s[0].get("partition") for s in series)}
    assert (len(before), after) == (10, set())
    assert total(meters, "partitions_assigned") == 0


def test_a_restore_shows_its_progress_until_it_has_ended() -> None:
    """Records, pace and time left."""
    meters = PrometheusMeters(PROJECTIONS)
    meters.note(Assigned(pass_name="core", partitions=(0, 1)))
    meters.note(Restoring(pass_name="core", partition=1, records=40_000, rate=8000.0, eta_s=12.5))
    names = ("restore_records", "restore_records_per_second", "restore_eta_seconds")
    assert [total(meters, name, partition="1") for name in names] == [40_000, 8000, 12.5]
    meters.note(Stands(pass_name="core", partition=1, standing=Standing.RUNNING))
    assert [f"privacy_ledger_{name}" in samples(meters) for name in names] == [False] * 3


def test_a_standby_and_a_projection_that_joins_are_seen_until_the_next_assignment() -> None:
    """What is left to apply of the one, and that the other does not know everybody yet."""
    meters = PrometheusMeters(PROJECTIONS)
    meters.note(Assigned(pass_name="core", partitions=(0,)))
    meters.note(Followed(pass_name="core", partition=5, left=12))
    meters.note(
        Outstanding(
            pass_name="core", partition=0, parked=0, tombstones=0, shreds=0, last_tick=None,
            joining=("progress",),
        )
    )  # fmt: skip
    joining = {labels["projection"]: value for labels, value in samples(meters)[
        "privacy_ledger_projection_joining"
    ]}  # fmt: skip
    left = total(meters, "standby_left", partition="5")
    meters.note(Assigned(pass_name="core", partitions=(0, 5)))
    assert (joining, left) == ({"progress": 1, "subject_view": 0}, 12)
    assert not {"privacy_ledger_standby_left", "privacy_ledger_projection_joining"} & set(samples(meters))


def test_erasures_are_seen_over_the_whole_ledger() -> None:
    """How many are open, how many for too long, and since when; they are of no partition."""
    meters = PrometheusMeters(PROJECTIONS)
    meters.note(Erasures(still_open=3, overdue=2, oldest_s=90_000.5))
    meters.note(Revoked(pass_name="core"))
    names = ("erasures_open", "erasures_overdue", "erasure_open_seconds")
    found = [samples(meters)[f"privacy_ledger_{name}"] for name in names]
    assert found == [[({}, 3)], [({}, 2)], [({}, 90_000.5)]]


def test_compaction_is_seen_by_topic() -> None:
    """Partitions that are idle or late, and by how much; a later look replaces an earlier one."""
    meters = PrometheusMeters(PROJECTIONS)
    meters.note(Compaction(topic=LEDGER_EVENTS, idle=2, late=0, lag_s=0.0))
    meters.note(Compaction(topic=LEDGER_EVENTS, idle=0, late=1, lag_s=30_000.5))
    names = ("compaction_idle_partitions", "compaction_late_partitions", "compaction_lag_seconds")
    found = [samples(meters)[f"privacy_ledger_{name}"] for name in names]
    where = {"topic": LEDGER_EVENTS}
    assert found == [[(where, 0)], [(where, 1)], [(where, 30_000.5)]]


def test_an_error_is_counted_by_its_name_and_shows_as_the_state() -> None:
    """One state at a time is 1."""
    meters = PrometheusMeters(PROJECTIONS)
    meters.note(Assigned(pass_name="core", partitions=(0,)))
    meters.note(Stands(pass_name="core", partition=0, standing=Standing.STOPPED, outcome="LedgerRewound"))
    states = {labels["state"]: value for labels, value in samples(meters)["privacy_ledger_partition_state"]}
    assert states == {"acquiring": 0, "running": 0, "waiting": 0, "stopped": 1}
    assert total(meters, "partition_outcomes_total", outcome="LedgerRewound") == 1


@pytest.mark.parametrize("value", ["6d1f0c9a7b2e4f50", "ada@example.com", "two words", "a" * 61, ""])
def test_a_reason_that_looks_like_no_reason_is_called_other(value: str) -> None:
    """A mistake elsewhere must not become a leak here."""
    meters = PrometheusMeters(PROJECTIONS)
    meters.note(
        Cycle(
            pass_name="core", partition=0, outcome=CycleOutcome.COMMITTED, records=1, unreadable=0,
            writes=1, decided={value: 1}, fold_s=0.1, commit_s=0.1,
        )
    )  # fmt: skip
    (series,) = samples(meters)["privacy_ledger_tombstones_decided_total"]
    assert series[0]["reason"] == "other"


def test_a_cycle_that_was_not_committed_counts_as_its_end_only() -> None:
    """It had no effect."""
    meters = PrometheusMeters(PROJECTIONS)
    meters.note(
        Cycle(
            pass_name="core", partition=0, outcome=CycleOutcome.FENCED, records=9, unreadable=1,
            writes=9, decided={"erased": 2}, fold_s=0.1, commit_s=0.1,
        )
    )  # fmt: skip
    assert total(meters, "cycles_total", outcome="fenced") == 1
    assert total(meters, "records_folded_total") + total(meters, "tombstones_decided_total") == 0


def test_the_key_cache_is_asked_when_somebody_looks() -> None:
    """Its figures are of that moment."""
    meters = PrometheusMeters(PROJECTIONS)
    asked = [KeyCacheFigures(opened=5, sealing=2, asked=10, missed=4)]
    meters.ask_keys(lambda: asked[-1], tuple)
    first = (total(meters, "key_cache_keys", state="opened"), total(meters, "key_cache_lookups_total"))
    asked.append(KeyCacheFigures(opened=7, sealing=2, asked=30, missed=6))
    hits = total(meters, "key_cache_lookups_total", outcome="hit")
    assert (first, hits) == ((5, 10), 24)


def test_releases_are_told_apart_by_who_asked_and_what_was_answered() -> None:
    """A role that is refused keys stands beside one that gets them."""
    withheld = structs.replace(RELEASED, outcome=ReleaseOutcome.WITHHELD, keys=3)
    meters = PrometheusMeters(PROJECTIONS)
    meters.ask_keys(
        lambda: KeyCacheFigures(opened=0, sealing=0, asked=0, missed=0), lambda: (RELEASED, withheld)
    )
    labels = {"role": "worker", "purpose": "analytics", "category": "usage"}
    counts = [total(meters, "key_releases_total", **labels, outcome=one) for one in ("released", "withheld")]
    assert counts == [RELEASED.keys, 3]


async def test_the_keystore_counts_what_it_was_asked(tmp_path: Path) -> None:
    """The second look at the same records finds every key open."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1"), played("8", event="e2")])
        vault = it.runtime.vault
        assert isinstance(vault, StoredKeyVault)
        rows = [row for row in await it.rows() if (row.value or b"")[:1] == b"\x01"]
        it.runtime.codec.decode(rows)
        before = vault.cache_figures
        it.runtime.codec.decode(rows)
        after = vault.cache_figures
    kids = {row.value[1:33] for row in rows if row.value}
    assert (after.asked - before.asked, after.missed - before.missed) == (len(kids), 0)
    assert after.opened >= 2


# The engine's own sights ----------------------------------------------------------------------


async def test_a_cycle_that_a_newer_owner_fences_is_seen_as_such(tmp_path: Path) -> None:
    """Nothing of it counts; the pass is opened again, and folds the same records then."""
    eyes = Eyes()
    async with home(tmp_path, meters=eyes) as it:
        await it.take([played("7", event="e1")])
        runtime = it.runtime
        assert runtime.embedded is not None
        assert await runtime.embedded.hold()
        await it.subjects.restrict("openedx:user_id:7", ground="claims")
        async with bootstrap.open_runtime(settings(tmp_path), prepare=False) as other:
            for partition in range(runtime.partitions):
                await other.log.open_writer(f"core.{partition}")
        seen = len(eyes.seen)
        await runtime.embedded.drain()
    cycles = [one for one in eyes.seen[seen:] if isinstance(one, Cycle) and one.pass_name == "core"]
    assert [(one.outcome, one.records) for one in cycles if one.records] == [
        (CycleOutcome.FENCED, 1), (CycleOutcome.COMMITTED, 1),
    ]  # fmt: skip


async def test_a_restore_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that only grow, up to those that it returns, and seconds to the end of each changelog."""
    monkeypatch.setattr(handover, "RESTORE_READ", 10)
    progress, told = RestoreProgress("core", 0), list[Restored]()
    progress.on_move = lambda: told.append(progress.now())
    async with home(tmp_path) as it:
        await it.take([played(str(number), event=f"e{number}") for number in range(200)])
        records = await handover.restore(
            it.runtime.log, MemoryStore(), 0, changelogs={"state.core.v1": b""}, progress=progress
        )
    counts = [seen.records for seen in told]
    assert counts == sorted(set(counts))
    assert (counts[-1], len(told) > 2) == (records, True)
    assert (told[0].eta_s or 0) > (told[-1].eta_s or 0) == 0
    assert all(seen.rate > 0 for seen in told)
