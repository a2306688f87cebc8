"""Commands for operators: topics, workers, replay, doctor."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from privacy_ledger.adapters.kafka import topics as kafka_topics
from privacy_ledger.adapters.kafka.compaction import examine
from privacy_ledger.app.daily_keys import DailyKeys
from privacy_ledger.app.key_care import overdue
from privacy_ledger.bootstrap import (
    Runtime,
    atlas_of,
    audit_of,
    care_of,
    changelogs_of,
    declared_passes,
    declared_topics,
    erasure_care_of,
    expiry_of,
    rebuild_of,
    replay_of,
    worker_host,
)
from privacy_ledger.domain.errors import (
    HomeUnusable,
    KekMissing,
    KeyUnavailable,
    LedgerError,
    LogUnavailable,
)
from privacy_ledger.domain.topics import PARTITIONS_DEFAULT
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.embedded import EmbeddedPasses
from privacy_ledger.engine.inspection import inspect, joining
from privacy_ledger.engine.rebuild import TableDigest, live_digests
from privacy_ledger.engine.soundness import Place
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command, service
from privacy_ledger.logging import get_logger

__all__ = [
    "Report",
    "TableReport",
    "apply_topics",
    "compact",
    "doctor",
    "fold_home",
    "place_of",
    "register",
    "replay",
    "replay_verify",
    "topics",
    "topics_apply",
    "topics_plan",
    "verify",
    "worker",
    "worker_run",
]

IDLE_POLL_S = 0.2
KEYS_CHECK_S = 30.0
KEYS_RETRY_S = 1.0
TEND_S = 60.0
"""How often a home's worker looks for erasures that are to be taken up again."""
FINAL_S = 3600.0
"""How often it looks which of them became final."""
DUE_FOR = timedelta(days=1)
"""So long the hourly care has to destroy keys that are due."""
log_line = get_logger()


def register(group: click.Group) -> None:
    """Add the operators' commands."""
    for one in (topics, worker, replay, doctor):
        group.add_command(one)


@click.group()
def topics() -> None:
    """Topics from their one declaration."""


@topics.command("plan")
@command
async def topics_plan(shell: Shell) -> int:
    """Show what differs from the declaration; changes nothing."""
    changes = await _plan(shell)
    shell.result(
        {"changes": [msgspec.to_builtins(change) for change in changes]},
        "\n".join(change.text for change in changes) or "Topics are as declared.",
    )
    if changes:
        shell.talk.print("Next: privacy-ledger --kafka HOST:PORT topics apply")
        return Exit.PLAN_PENDING
    return Exit.DONE


@topics.command("apply")
@command
async def topics_apply(shell: Shell) -> None:
    """Create and correct topics, each with its full configuration, and read it back."""
    changes = await apply_topics(shell)
    shell.result({"applied": changes}, f"Topics are as declared ({changes} changed).")


async def _plan(shell: Shell) -> tuple[kafka_topics.TopicChange, ...]:
    cluster = shell.settings.cluster
    if cluster is None:
        raise HomeUnusable("A home makes its topics by itself. For a cluster give --kafka HOST:PORT.")
    async with kafka_topics.open_admin(cluster) as admin:
        return await kafka_topics.plan(
            admin, await declared_topics(shell.settings, cluster),
            partitions=shell.settings.partitions or PARTITIONS_DEFAULT,
            prefix=shell.settings.topic_prefix,
        )  # fmt: skip


async def apply_topics(shell: Shell) -> int:
    """Bring the cluster's topics to the declaration; return how many changed."""
    changes = await _plan(shell)
    cluster = shell.settings.cluster
    if cluster is not None and changes:
        async with kafka_topics.open_admin(cluster) as admin:
            await kafka_topics.apply(
                admin, await declared_topics(shell.settings, cluster),
                partitions=shell.settings.partitions or PARTITIONS_DEFAULT,
                prefix=shell.settings.topic_prefix,
            )  # fmt: skip
    return len(changes)


@click.group()
def worker() -> None:
    """Run the passes."""


@worker.command("run")
@click.argument("passes", nargs=-1)
@service
async def worker_run(shell: Shell, passes: tuple[str, ...]) -> int:
    """Run PASSES (default: all) until SIGTERM or Ctrl-C."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    declared = declared_passes()
    # A home has one worker, which runs all passes whatever was named.
    chosen = passes if passes and shell.settings.cluster is not None else tuple(declared)
    async with shell.open_worker(chosen) as runtime:
        shell.announce(runtime)
        known = await runtime.line_up.current()
        if set(passes) - set(known):
            raise click.UsageError(f"Unknown pass. Known: {', '.join(sorted(known))}.")
        if runtime.embedded is not None:
            await fold_home(runtime, stop, say=shell.talk.print)
        else:
            host = worker_host()
            with redirect_stdout(sys.stderr):  # Faust draws a spinner, and shows the cursor at exit
                await host(runtime, passes, stop, say=shell.talk.print)
    shell.result({"stopped": True}, "Stopped.")
    return Exit.DONE


async def fold_home(runtime: Runtime, stop: asyncio.Event, *, say: Callable[[str], None]) -> None:
    """Hold the home's lock, fold what comes and look after erasures, until told to stop.

    Raises:
        HomeUnusable: another process holds it.
    """
    embedded = runtime.embedded
    if embedded is None or not await embedded.hold():
        raise HomeUnusable("Another process runs the passes of this home. Stop it, or let it do the work.")
    say("Running all passes of this home. Ctrl-C stops.")
    daily = runtime.keystore.daily(lambda: audit_of(runtime), clock=runtime.clock, ids=runtime.ids)
    keys = asyncio.create_task(_roll(daily, say))
    try:
        await _fold(runtime, embedded, stop)
    finally:
        daily.end()
        keys.cancel()
        await asyncio.gather(keys, return_exceptions=True)


async def _roll(daily: DailyKeys, say: Callable[[str], None]) -> None:
    """Roll the keystore's epoch once a day, beside the passes."""
    while True:
        try:
            rolled = await daily.tend()
        except LedgerError as error:
            log_line.warning("epoch not rolled", reason=type(error).__name__)
        else:
            if rolled is not None and rolled.stuck:
                log_line.warning("backups that are over cannot be removed", count=len(rolled.stuck))
            if rolled is not None and rolled.has_effect:
                say(f"Rolled the keystore's epoch: {rolled.epoch}.")
        await asyncio.sleep(KEYS_CHECK_S)


async def _fold(runtime: Runtime, embedded: EmbeddedPasses, stop: asyncio.Event) -> None:
    """Fold what comes; where keys cannot be reached, keep every position and try again.

    Raises:
        KekMissing: of an epoch that is in use, and that was not there when asked for again.
        KeystoreReplaced: the keystore's file was exchanged.
    """
    tended = finalised = time.monotonic()
    missed: KekMissing | None = None
    while not stop.is_set():
        try:
            if await runtime.registrar.tick():
                await compact(runtime)
            if (now := time.monotonic()) - tended > TEND_S:
                tended, is_late = now, now - finalised > FINAL_S
                finalised = now if is_late else finalised
                await _tend(runtime, with_final=is_late)
            is_idle = not await embedded.drain()
        except KeyUnavailable as error:
            is_race = isinstance(error, KekMissing) and missed is None
            if not (error.retriable or is_race):
                raise
            missed = error if isinstance(error, KekMissing) else None
            log_line.warning("keys unavailable", reason=str(error))
            embedded.begin_anew()
            await _pause(stop, KEYS_RETRY_S)
            continue
        missed = None
        if is_idle:
            runtime.keystore.forget_idle()
            await _pause(stop, IDLE_POLL_S)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, or until told to stop."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _tend(runtime: Runtime, *, with_final: bool) -> None:
    """Look after erasures and keys that are due; what cannot be done now is done the next time."""
    care = erasure_care_of(runtime)
    try:
        await care.tend()
        if with_final:
            await care.finalise()
            if await compact(runtime):
                await care.look_for_bytes()
            if destroyed := (await expiry_of(runtime).tend()).keys:
                log_line.info("keys destroyed by retention", count=destroyed)
    except LedgerError as error:
        log_line.warning("erasures not looked after", reason=type(error).__name__)


async def compact(runtime: Runtime) -> bool:
    """Remove from a home's log what was erased, replaced or is past its time, bytes included.

    A cluster's broker does it by itself. Return False when a reader keeps old pages: the records
    are gone, and their bytes go with the next compaction.
    """
    if runtime.local is None:
        return True
    try:
        await runtime.local.compact()
    except LogUnavailable:
        return False
    return True


@click.group()
def replay() -> None:
    """Rebuild projections and compare them."""


@replay.command("verify")
@click.argument("name", required=False)
@command
async def replay_verify(shell: Shell, name: str | None) -> int:
    """Rebuild from offset 0 beside the live state, with throw-away states, and compare digests."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        await runtime.passes.settle()
        report = await verify(runtime, name)
    lines = [
        f"{row.pass_name:<16} {row.table:<14} {row.keys:>8} keys  "
        f"{'equal' if row.equal else 'DIFFERS'}  {row.digest[:16]}"
        for row in report.tables
    ]
    lines.append(
        f"{report.records} records folded again in {report.seconds:.1f} s: "
        + ("live and rebuild are equal." if report.is_equal else "they differ.")
    )
    shell.result({**msgspec.to_builtins(report), "equal": report.is_equal}, "\n".join(lines))
    return Exit.DONE if report.is_equal else Exit.FAILED


class TableReport(Struct, frozen=True, kw_only=True):
    """One compared table."""

    pass_name: str
    table: str
    keys: int
    keys_rebuilt: int
    digest: str
    equal: bool


class Report(Struct, frozen=True, kw_only=True):
    """What `replay verify` found."""

    tables: tuple[TableReport, ...]
    records: int
    seconds: float

    @property
    def is_equal(self) -> bool:
        """Whether every table is the same, live and rebuilt."""
        return all(table.equal for table in self.tables)


async def verify(runtime: Runtime, name: str | None = None) -> Report:
    """Return a digest per table, live and rebuilt at one position, and whether they are equal."""
    started = time.perf_counter()
    known = await runtime.line_up.current()
    chosen = [
        declaration
        for declaration in known.values()
        if name in {None, declaration.name, *(p.name for p in declaration.processors)}
    ]
    if not chosen:
        raise click.UsageError(f"Unknown name. Known: {', '.join(sorted(known))}.")
    tables: list[TableReport] = []
    records = 0
    for declaration in chosen:
        ahead = await replay_of(runtime).erased_ahead(runtime.state_codec(declaration))
        until, live = await _steady(runtime, declaration, without=ahead)
        rebuild = rebuild_of(runtime, declaration)
        await rebuild.run(until, now=runtime.clock.now())
        records += rebuild.records
        tables += [
            TableReport(
                pass_name=declaration.name, table=one.table, keys=one.keys,
                keys_rebuilt=other.keys, digest=one.digest, equal=one.digest == other.digest,
            )
            for one, other in zip(live, rebuild.digests(without=ahead), strict=True)
        ]  # fmt: skip
    seconds = time.perf_counter() - started
    return Report(tables=tuple(tables), records=records, seconds=round(seconds, 3))


async def _steady(
    runtime: Runtime, declaration: PassDeclaration, *, without: frozenset[bytes]
) -> tuple[dict[int, int], tuple[TableDigest, ...]]:
    """Return positions and digests of one moment: read until no position moved meanwhile."""
    states = runtime.state_codec(declaration)
    for _ in range(20):
        before = await _positions(runtime, declaration.name)
        digests = await live_digests(
            declaration, states, runtime.latest, partitions=runtime.partitions, without=without
        )
        places = [place_of(runtime, declaration, partition) for partition in range(runtime.partitions)]
        late = set[str]().union(*[await joining(runtime.latest, declaration, one, states) for one in places])
        if not late and before == await _positions(runtime, declaration.name):
            return before, digests
        await asyncio.sleep(0.2)
    raise HomeUnusable(
        "The pass does not hold still, or a processor is still being brought up (see `privacy-ledger "
        "doctor`). Stop its producers for a moment, then verify."
    )


async def _positions(runtime: Runtime, pass_name: str) -> dict[int, int]:
    return {
        partition: (await runtime.views.position(pass_name, partition)).offset
        for partition in range(runtime.partitions)
    }


@click.command()
@click.option("--accept-time", is_flag=True, help="Confirm a jump of the clock of more than 40 days.")
@command
async def doctor(shell: Shell, accept_time: bool) -> int:  # noqa: FBT001 - click
    """Name what is wrong, and the command that mends it."""
    findings: list[dict[str, str]] = []
    if accept_time:
        async with shell.open() as runtime:
            await runtime.registrar.tick()
            await runtime.registrar.confirm_time()
            await shell.settle(runtime)
    try:
        if shell.settings.cluster is not None:
            changes = await _plan(shell)
            if changes:
                findings.append(_finding(f"{len(changes)} topics differ", "topics apply"))
        async with shell.open(prepare=False) as runtime:
            shell.announce(runtime)
            findings += await _examine(runtime)
            findings += await _examine_compaction(runtime)
    except LedgerError as error:
        findings.append(_finding(str(error), "doctor"))
    text = "\n".join(f"{f['finding']}  →  privacy-ledger {f['mend']}" for f in findings)
    shell.result({"findings": findings}, text or "All is well.")
    return Exit.FAILED if findings else Exit.DONE


async def _examine(runtime: Runtime) -> list[dict[str, str]]:
    """Return what is wrong with an opened home or cluster."""
    found: list[dict[str, str]] = []
    meta = await runtime.views.meta(0)
    if meta.registry_digest is None:
        found.append(_finding("No rules are in force: everything is refused", "init"))
    if meta.unconfirmed is not None:
        found.append(_finding("A tick more than 40 days ahead waits", "doctor --accept-time"))
    for one in await replay_of(runtime).status():
        if one.state == "dropping":
            again = f"replay drop {one.projection} --version {one.version} --yes"
            found.append(_finding(f"Version {one.version} of {one.projection} is half removed", again))
    passes = await runtime.line_up.current()
    for name in sorted(await runtime.line_up.required()):
        for partition in range(runtime.partitions):
            position = await runtime.views.position(name, partition)
            rows = await runtime.log.read(passes[name].source, partition, after=position.offset, limit=1)
            if rows:
                found.append(_finding(f"Pass {name} is behind in partition {partition}", "worker run"))
                break
    found += await _inspect(runtime)
    if overdue_erasures := (await erasure_care_of(runtime).look()).overdue:
        found.append(
            _finding(f"{overdue_erasures} erasures are open for more than 24 hours", "erase --resume")
        )
    care = care_of(runtime.keystore, runtime.clock)
    if late := overdue(care.standing(), runtime.clock.now()):
        found.append(_finding(f"{len(late)} epochs of the keystore are older than 7 days", "keys rotate"))
    if free := (await expiry_of(runtime).look(since=DUE_FOR)).keys:
        text = f"{free} keys are due by retention for more than a day, and not destroyed yet"
        found.append(_finding(text, "retention run"))
    if (fault := atlas_of(runtime).fault) is not None:
        found.append(_finding(f"No place is derived from an address: {fault.replace('_', ' ')}", "doctor"))
    home = runtime.home
    if home is not None and _is_readable_by_others(home.path):
        found.append(_finding("The home is readable by others (chmod 700)", "doctor"))
    return found


def place_of(runtime: Runtime, declaration: PassDeclaration, partition: int) -> Place:
    """Return one partition of a pass, for those who only look."""
    return Place(
        pass_name=declaration.name, partition=partition, changelogs=changelogs_of(runtime, declaration),
        source=declaration.source,
    )  # fmt: skip


async def _inspect(runtime: Runtime) -> list[dict[str, str]]:
    """Return what the passes' own topics say: what is not whole, refused, or on its way."""
    found: list[dict[str, str]] = []
    for declaration in (await runtime.line_up.current()).values():
        states = runtime.state_codec(declaration)
        for partition in range(runtime.partitions):
            place = place_of(runtime, declaration, partition)
            findings = await inspect(runtime.log, runtime.latest, declaration, place, states)
            found += [_finding(f"{one.name}: {one.text}", one.mend) for one in findings]
    return found


async def _examine_compaction(runtime: Runtime) -> list[dict[str, str]]:
    """Return what a client can see of a cluster's compaction; a home compacts itself."""
    log, now = runtime.kafka, runtime.clock.now()
    if log is None:
        return []
    declared = runtime.declared.values()
    found = await examine(
        log, sources={one.source for one in declared},
        changelogs={topic for one in declared for topic in changelogs_of(runtime, one)}, now=now,
    )  # fmt: skip
    return [_finding(one.text, one.mend) for one in found.findings]


def _is_readable_by_others(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o077)


def _finding(finding: str, mend: str) -> dict[str, str]:
    return {"finding": finding, "mend": mend}
