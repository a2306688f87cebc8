"""Commands for operators: which projections there are, and how far each is."""

import asyncio
import signal
from collections.abc import Sequence

import click
import msgspec
from msgspec import Struct

from privacy_ledger.adapters.observe.board import PartitionStatus, Readiness
from privacy_ledger.adapters.observe.health import ask_readiness
from privacy_ledger.app.lag import lag_of
from privacy_ledger.bootstrap import Runtime, declared_passes
from privacy_ledger.domain.topics import view_topic
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command

__all__ = ["ProjectionLag", "look", "projections", "projections_lag", "projections_list", "register"]

WATCH_S = 2.0


class ProjectionLag(Struct, frozen=True, kw_only=True):
    """A projection in one partition; `worker` is what the worker that can be asked says of it."""

    projection: str
    pass_name: str
    partition: int
    position: int
    end: int
    behind: int
    seconds: float
    worker: PartitionStatus | None = None


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(projections)


@click.group()
def projections() -> None:
    """What the ledger is folded into."""


@projections.command("list")
@command
async def projections_list(shell: Shell) -> None:
    """List the projections with their pass, source and view."""
    rows = [
        {
            "projection": name,
            "pass_name": declaration.name,
            "source": declaration.source,
            "view": table.view and view_topic(table.view, table.version),
        }
        for declaration in declared_passes().values()
        for name, table in declaration.projections.items()
    ]
    text = "\n".join(
        f"{row['projection']:<14} {row['pass_name']:<10} {row['source']}  →  {row['view'] or 'private'}"
        for row in rows
    )
    shell.result({"projections": rows}, text)


@projections.command("lag")
@click.argument("name", required=False)
@click.option("--watch", "is_watched", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.option(
    "--fail-above",
    type=click.IntRange(min=0),
    metavar="N",
    help="End with 5 when more than N records behind.",
)
@command
async def projections_lag(
    shell: Shell,
    name: str | None,
    is_watched: bool,  # noqa: FBT001 - click
    fail_above: int | None,
) -> int:
    """Show how far projections are behind the ledger; NAME is a projection or a pass (default: all)."""
    if is_watched and shell.as_json:
        raise click.UsageError("--watch is for people, and --json is one document. Leave one of them out.")
    chosen = _chosen(name)
    stop = asyncio.Event()
    async with shell.open(prepare=False) as runtime:
        shell.announce(runtime)
        rows = await look(runtime, chosen)
        if is_watched:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        while is_watched and not stop.is_set():
            if shell.is_interactive:
                click.clear()
            shell.say(_text(rows) + "\n")
            try:
                await asyncio.wait_for(stop.wait(), WATCH_S)
            except TimeoutError:
                rows = await look(runtime, chosen)
    behind = max((row.behind for row in rows), default=0)
    if not is_watched:
        shell.result(
            {
                "projections": [msgspec.to_builtins(row) for row in rows],
                "behind": behind,
                "seconds": max((row.seconds for row in rows), default=0.0),
            },
            _text(rows),
        )
    return Exit.PARTLY_DONE if fail_above is not None and behind > fail_above else Exit.DONE


def _chosen(name: str | None) -> dict[str, tuple[PassDeclaration, tuple[str, ...]]]:
    """Return the passes to look at, and which projections of each."""
    found = {
        declaration.name: (
            declaration,
            tuple(one for one in declaration.projections if name in {None, one, declaration.name}),
        )
        for declaration in declared_passes().values()
    }
    chosen = {pass_name: (declaration, names) for pass_name, (declaration, names) in found.items() if names}
    if not chosen:
        known = sorted({*found, *(one for d, _ in found.values() for one in d.projections)})
        raise click.UsageError(f"Unknown name. Known: {', '.join(known)}.")
    return chosen


async def look(
    runtime: Runtime, chosen: dict[str, tuple[PassDeclaration, tuple[str, ...]]]
) -> tuple[ProjectionLag, ...]:
    """Return the lag of the chosen projections, and what a worker says of them where one can be asked."""
    health = runtime.settings.health
    said = None if health is None else await ask_readiness(health)
    rows: list[ProjectionLag] = []
    for pass_name, (declaration, names) in chosen.items():
        lags = await lag_of(
            runtime.log, runtime.views, pass_name=pass_name, source=declaration.source,
            now=runtime.clock.now(),
        )  # fmt: skip
        rows += [
            ProjectionLag(
                projection=name, pass_name=pass_name, partition=lag.partition, position=lag.position,
                end=lag.end, behind=lag.behind, seconds=round(lag.seconds, 1),
                worker=_status(said, pass_name, lag.partition),
            )
            for name in names
            for lag in lags
        ]  # fmt: skip
    return tuple(rows)


def _status(said: Readiness | None, pass_name: str, partition: int) -> PartitionStatus | None:
    """Return what a worker says of a partition; it knows its own only."""
    owned = (said.passes.get(pass_name) if said is not None else None) or {}
    return owned.get(str(partition))


def _text(rows: Sequence[ProjectionLag]) -> str:
    """Return the rows as a table for people; states only where one is known."""
    has_states = any(row.worker for row in rows)
    titles = ("projection", "pass", "part", "position", "end", "behind", "seconds")
    head = "{:<14} {:<10} {:>4} {:>10} {:>10} {:>9} {:>9}".format(*titles)
    lines = [head + ("  state" if has_states else "")]
    lines += [
        f"{row.projection:<14} {row.pass_name:<10} {row.partition:>4} {row.position:>10} {row.end:>10} "
        f"{row.behind:>9} {row.seconds:>9.1f}" + (f"  {_state(row.worker)}" if has_states else "")
        for row in rows
    ]
    return "\n".join(lines)


def _state(status: PartitionStatus | None) -> str:
    """Return a state in words: what a restore has read, or the error that led there."""
    if status is None:
        return "-"
    if status.restored is not None:
        return f"{status.state} ({status.restored:,} restored, {status.eta_s or 0:.0f} s left)"
    return f"{status.state} {status.outcome or ''}".rstrip()
