"""What a run of erasures says: waits, bars, whether each is met, and the text. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from tests.bench.measure import percentile
from tests.bench.tasks import Checked, Erased, Fed, Gone, Order, Seen

__all__ = ["Bar", "Found", "Report", "Result", "Setup", "Wait", "broken", "found_of", "judge", "text", "wait"]

CLEAN_P99_S: Final = 60.0
UNREADABLE_P50_S: Final = 0.5
UNREADABLE_P99_S: Final = 5.0
RATE_LEAST: Final = 0.95
"""Below this share of the rate that was asked for, the load was not what the run is named after."""
_NS: Final = 1_000_000_000


class Setup(Struct, frozen=True, kw_only=True):
    """What was asked for, and where it ran; `bound_s` is what the topic settings say."""

    commit: str
    broker: str
    machine: Mapping[str, str]
    erasures: int
    per_second: float
    in_hand: int
    is_fresh: bool
    rate: int
    partitions: int
    learners: int
    records: int
    scale_ms: int
    bound_s: float


class Wait(Struct, frozen=True, kw_only=True):
    """Seconds from one moment to another, over all people for whom both are known.

    `missing`: for how many the end was not seen. `error_p99`, `error_max`: so much later than it
    happened it may have been seen.
    """

    name: str
    known: int
    missing: int
    p50: float | None
    p99: float | None
    highest: float | None
    error_p99: float = 0.0
    error_max: float = 0.0


class Bar(Struct, frozen=True, kw_only=True):
    """A bar on a wait: at most so many seconds for this share of all."""

    wait: str
    of: str
    at_most: float


class Result(Struct, frozen=True, kw_only=True):
    """A bar, and what was measured; a wait whose end was not seen for somebody meets none."""

    bar: Bar
    value: float | None
    is_met: bool


class Found(Struct, frozen=True, kw_only=True):
    """What the processes said. No `gone`: nobody could look into the broker's files.

    `events`, `cpu_s`: other people's events, and CPU by role, in the `seconds` of the erasures alone.
    """

    orders: Sequence[Order]
    erased: Sequence[Erased]
    unreadable: Sequence[Seen]
    clean: Sequence[Seen]
    gone: Sequence[Gone] | None
    fed: Fed
    checked: Checked
    seconds: float
    events: int
    cpu_s: Mapping[str, float]


class Report(Struct, frozen=True, kw_only=True):
    """One run."""

    setup: Setup
    complete: int
    incomplete: int
    not_begun: int
    """Asked for, and no eraser was free until the time was over; they are incomplete as well."""
    begun_again: int
    errors: Mapping[str, int]
    open_steps: Mapping[str, int]
    erasures_per_s: float
    events_per_s: float
    records_per_s: float
    cpus_used: Mapping[str, float]
    """CPU-seconds a second by role, the broker left out: who looks on costs something, too."""
    waits: Sequence[Wait]
    results: Sequence[Result]
    checked: Checked
    sampled: int | None
    """People whose records were looked for in the broker's files; None: nobody could look there."""
    records_left: int
    broken: Sequence[str]


# Waits ------------------------------------------------------------------------------------------

ASKED_UNREADABLE: Final = "asked for → unreadable"
ASKED_CLEAN: Final = "asked for → derived stores clean"
REQUESTED_UNREADABLE: Final = "requested → unreadable"
REQUESTED_CLEAN: Final = "requested → derived stores clean"
FIRST_GONE: Final = "last tombstone → first record's bytes gone"
LAST_GONE: Final = "last tombstone → last record's bytes gone"


def wait(name: str, pairs: Sequence[tuple[int | None, int | None]], errors_ns: Sequence[int] = ()) -> Wait:
    """Return the wait over pairs of moments; a pair with an unknown one is missing."""
    known = sorted((end - begin) / _NS for begin, end in pairs if begin is not None and end is not None)
    errors = sorted(error / _NS for error in errors_ns)
    return Wait(
        name=name, known=len(known), missing=len(pairs) - len(known),
        p50=percentile(known, 0.5) if known else None, p99=percentile(known, 0.99) if known else None,
        highest=known[-1] if known else None,
        error_p99=percentile(errors, 0.99) if errors else 0.0, error_max=errors[-1] if errors else 0.0,
    )  # fmt: skip


def _waits(found: Found, *, not_begun: int) -> Iterator[Wait]:
    never: list[tuple[int | None, int | None]] = [(None, None)] * not_begun
    asked = {order.person: order.due_ns for order in found.orders}
    erased = {one.person: one for one in found.erased}
    requested = {person: one.requested_ns for person, one in erased.items()}
    for seen, from_asked, from_requested in (
        (found.unreadable, ASKED_UNREADABLE, REQUESTED_UNREADABLE),
        (found.clean, ASKED_CLEAN, REQUESTED_CLEAN),
    ):
        ends = {one.person: one.at_ns for one in seen}
        errors = [one.at_ns - one.before_ns for one in seen]
        yield wait(from_requested, [(requested.get(who), ends.get(who)) for who in asked], errors)
        yield wait(from_asked, [*((asked[who], ends.get(who)) for who in asked), *never], errors)
    # The receipt's time is before the stores are counted; this one is when the request was written.
    durable = {person: one.steps.get("requested") for person, one in erased.items()}
    ends = {one.person: one.at_ns for one in found.unreadable}
    errors = [one.at_ns - one.before_ns for one in found.unreadable]
    yield wait("request written → unreadable", [(durable.get(who), ends.get(who)) for who in asked], errors)
    if found.gone is not None:
        for name, mine in (
            (FIRST_GONE, [g.first for g in found.gone]),
            (LAST_GONE, [g.last for g in found.gone]),
        ):
            pairs = [
                (one.tombstoned_ns, None if seen is None else seen.at_ns)
                for one, seen in zip(found.gone, mine, strict=True)
            ]
            yield wait(name, pairs, [seen.at_ns - seen.before_ns for seen in mine if seen is not None])
    yield wait(
        "asked for → taken up by an eraser",
        [*((asked[w], erased[w].begun_ns if w in erased else None) for w in asked), *never],
    )
    steps = dict.fromkeys(step for one in found.erased for step in one.steps)
    for step in steps:
        yield wait(
            f"requested → step {step}",
            [(one.requested_ns, one.steps.get(step)) for one in found.erased],
        )


# Verdict ----------------------------------------------------------------------------------------


def _bars(bound_s: float) -> tuple[Bar, ...]:
    return (
        *(
            bar
            for name in (REQUESTED_UNREADABLE, ASKED_UNREADABLE)
            for bar in (
                Bar(wait=name, of="p50", at_most=UNREADABLE_P50_S),
                Bar(wait=name, of="p99", at_most=UNREADABLE_P99_S),
            )
        ),
        Bar(wait=REQUESTED_CLEAN, of="p99", at_most=CLEAN_P99_S),
        Bar(wait=ASKED_CLEAN, of="p99", at_most=CLEAN_P99_S),
        Bar(wait=LAST_GONE, of="highest", at_most=bound_s),
    )


def judge(bar: Bar, waits: Sequence[Wait]) -> Result | None:
    """Return what was measured for a bar, or None where its wait was not measured."""
    mine = next((one for one in waits if one.name == bar.wait), None)
    if mine is None:
        return None
    value = {"p50": mine.p50, "p99": mine.p99, "highest": mine.highest}[bar.of]
    is_met = value is not None and not mine.missing and value <= bar.at_most
    return Result(bar=bar, value=value, is_met=is_met)


def found_of(found: Found, setup: Setup) -> Report:
    """Return the report of a run."""
    waits = list(_waits(found, not_begun=setup.erasures - len(found.orders)))
    complete = sum(one.is_completed for one in found.erased)
    left = sum(one.left for one in found.gone or ())
    return Report(
        setup=setup, complete=complete, incomplete=setup.erasures - complete,
        not_begun=setup.erasures - len(found.orders),
        begun_again=sum(one.tries > 1 for one in found.erased),
        errors=_counted(error for one in found.erased for error in one.errors),
        open_steps=_counted(step for one in found.erased for step in one.open_steps),
        erasures_per_s=complete / found.seconds if found.seconds else 0.0,
        events_per_s=found.events / found.seconds if found.seconds else 0.0,
        records_per_s=found.fed.records / found.fed.seconds if found.fed.seconds else 0.0,
        cpus_used={role: used / found.seconds for role, used in found.cpu_s.items() if found.seconds},
        waits=waits,
        results=[result for bar in _bars(setup.bound_s) if (result := judge(bar, waits)) is not None],
        checked=found.checked, sampled=None if found.gone is None else len(found.gone),
        records_left=left, broken=list(_broken(setup.erasures - complete, found.checked, left)),
    )  # fmt: skip


def _counted(names: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def broken(report: Report) -> bool:
    """Return whether the run fails: somebody is not erased. A bar that is missed is only said."""
    return bool(report.broken)


def _broken(incomplete: int, checked: Checked, left: int) -> Iterator[str]:
    if incomplete:
        yield f"{incomplete:,} erasures are not complete"
    if checked.with_live_keys:
        yield f"{checked.with_live_keys:,} people have keys that were not destroyed"
    if checked.readable:
        yield f"{checked.readable:,} people have records that open"
    if checked.unknown:
        yield f"{checked.unknown:,} people have records whose key this keystore does not know as destroyed"
    if checked.answering:
        yield f"{checked.answering:,} people are still in a projection or an index"
    if left:
        yield f"{left:,} sealed records of the sample are still in the broker's files"


# Text -------------------------------------------------------------------------------------------


def text(report: Report) -> str:
    """Return the report for a reader."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    setup = report.setup
    yield (
        f"Commit {setup.commit}. Broker: {setup.broker}. {setup.machine.get('cpus')} CPUs, load "
        f"{setup.machine.get('load')}. Python {setup.machine.get('python')}. {setup.partitions} partitions."
    )
    yield (
        f"Erasures: {report.complete:,} complete, {report.incomplete:,} incomplete, of {setup.erasures:,} "
        f"people with {setup.records:,} sealed records; asked for at {setup.per_second:g}/s, at most "
        f"{setup.in_hand} in hand, done at {report.erasures_per_s:.1f}/s; {report.begun_again:,} begun again."
    )
    if report.not_begun:
        yield f"NOT BEGUN: {report.not_begun:,} erasures, for no eraser was free in time."
    if setup.is_fresh:
        yield "Erasers read projections anew for each person, as commands do."
    low = "" if report.events_per_s >= setup.rate * RATE_LEAST else " NOT THE RATE THAT WAS ASKED FOR."
    yield (
        f"Beside them {report.events_per_s:,.0f} events/s of {setup.rate:,} asked for, "
        f"{report.records_per_s:,.0f} sealed records/s.{low}"
    )
    shares = ", ".join(f"{role} {used:.2f}" for role, used in report.cpus_used.items())
    yield f"CPU-seconds a second, the broker left out: {shares}."
    if report.complete:
        each = report.cpus_used.get("erasers", 0.0) / report.erasures_per_s
        yield f"A saga took {each:.2f} CPU-seconds of its eraser."
    yield from (f"Errors of tries: {name}: {count:,}" for name, count in report.errors.items())
    yield from (f"Left open: {name}: {count:,}" for name, count in report.open_steps.items())
    yield ""
    yield f"{'seconds':<48}{'people':>8}{'p50':>9}{'p99':>9}{'max':>9}{'error p99':>11}{'error max':>11}"
    for one in report.waits:
        lost = f"  {one.missing:,} NOT SEEN" if one.missing else ""
        yield (
            f"{one.name:<48}{one.known:>8,}{_s(one.p50):>9}{_s(one.p99):>9}{_s(one.highest):>9}"
            f"{_s(one.error_p99):>11}{_s(one.error_max):>11}{lost}"
        )
    yield ""
    for result in report.results:
        bar = result.bar
        name = f"{bar.wait}, {'max' if bar.of == 'highest' else bar.of}"
        bound = f"≤ {bar.at_most:g}"
        yield f"{name:<60}{_s(result.value):>9}{bound:>9}  {'met' if result.is_met else 'NOT MET'}"
    yield ""
    if report.sampled is None:
        yield "Bytes: NOT RUN (the broker's files are not on this machine, or nobody was to be looked for)."
    else:
        yield (
            f"Bytes: looked for in the broker's files for {report.sampled:,} people; with segments and "
            f"compaction lag of {setup.scale_ms / 1000:g} s the ledger's settings say {setup.bound_s:g} s."
        )
    yield "An error is how much later than it happened a change may have been seen; it is not taken off."
    yield from ["NOT ERASED:", *report.broken] if report.broken else ["Everybody is erased."]


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
