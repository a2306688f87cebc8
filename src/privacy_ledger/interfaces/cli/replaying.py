"""`replay build`, `diff`, `switch` and their like: a projection's next version, beside live."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import msgspec

from privacy_ledger.app.replay import Diff, Folded, Leaving, Progress, Replay, VersionStatus
from privacy_ledger.bootstrap import Runtime, replay_of
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.cli.operate import compact, replay
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command, progress_bar

__all__ = [
    "register",
    "replay_build",
    "replay_cancel",
    "replay_diff",
    "replay_drop",
    "replay_rollback",
    "replay_status",
    "replay_switch",
]

REFS_SHOWN_MAX = 100


def register(_group: click.Group) -> None:
    """Add the commands to the group `replay`."""
    for one in (
        replay_build, replay_status, replay_diff, replay_switch, replay_rollback, replay_cancel, replay_drop,
    ):  # fmt: skip
        replay.add_command(one)


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


# Build and look -------------------------------------------------------------------------------


@click.command("build")
@click.argument("name")
@click.option(
    "--rate", metavar="RECORDS/S", type=click.IntRange(min=1), help="Fold at most so many a second."
)
@command
async def replay_build(shell: Shell, name: str, rate: int | None) -> None:
    """Build the next version of the projection NAME beside the one that speaks, until it is caught up.

    Interrupted at any point, the same command goes on where it stopped; workers go on without it.
    """
    async with shell.open() as runtime:
        shell.announce(runtime)
        use_case = _of(runtime, name)
        version = await use_case.begin(name, rate=rate)
        with _shown(shell, version) as on_progress:
            done = await use_case.follow(version, on_progress=on_progress)
        document = {
            "projection": name,
            "version": version.version,
            "topics": [topic.name for topic in version.topics],
            **msgspec.to_builtins(done),
            "behind": done.behind,
        }
        shell.result(
            document,
            f"{version.name} is caught up: {done.passed:,} offsets in {done.seconds:.1f} s, and goes on "
            f"beside live. Next: privacy-ledger replay diff {name}",
        )


@contextmanager
def _shown(shell: Shell, version: Folded) -> Iterator[Callable[[Progress], None]]:
    """Yield what draws progress on a terminal, with rate and time left."""
    with progress_bar(shell) as bar:
        task = bar.add_task(version.name, total=None)

        def on_progress(now: Progress) -> None:
            bar.update(
                task, total=now.of, completed=now.passed, description=f"{version.name}  {now.rate:,.0f}/s"
            )

        yield on_progress


@click.command("status")
@click.argument("name", required=False)
@command
async def replay_status(shell: Shell, name: str | None) -> None:
    """Show the versions of each projection, or of NAME: which speaks, how far the others are."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        found = await _of(runtime, name).status(name)
    shell.result(
        {"versions": [msgspec.to_builtins(one) for one in found]}, "\n".join(_line(one) for one in found)
    )


def _line(one: VersionStatus) -> str:
    text = f"{one.projection:<14} v{one.version:<3} {one.state:<9} {one.behind:>10,} behind"
    if one.parked:
        text += f"  {one.parked} parked"
    if one.rate_limit is not None and one.state == "building":
        text += f"  at most {one.rate_limit:,}/s"
    if one.begun_at is not None:
        text += f"  since {one.begun_at} by {one.build}"
    return text


@click.command("diff")
@click.argument("name")
@click.option("--refs", is_flag=True, help="List the random references of those that differ.")
@command
async def replay_diff(shell: Shell, name: str, refs: bool) -> None:  # noqa: FBT001 - click
    """Compare the next version of NAME with the one that speaks: counts and digests, never content."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        found = await _of(runtime, name).diff(name)
    document = _counts(found)
    text = _diff_text(found)
    if refs:
        document["refs"] = list(found.refs[:REFS_SHOWN_MAX])
        text = "\n".join((text, *found.refs[:REFS_SHOWN_MAX]))
        if len(found.refs) > REFS_SHOWN_MAX:
            text += f"\n… and {len(found.refs) - REFS_SHOWN_MAX} more"
    shell.result(document, text)


def _counts(diff: Diff) -> dict[str, object]:
    """Return a diff for `--json`, without references."""
    document: dict[str, object] = msgspec.to_builtins(diff)
    del document["refs"]
    return {**document, "empty": diff.is_empty}


def _diff_text(diff: Diff) -> str:
    now, then = diff.versions
    lines = [
        f"{diff.projection}: version {now} speaks, version {then} is next",
        f"  {diff.keys[0]:>10,}  subjects in version {now}  {diff.digest[0][:16]}",
        f"  {diff.keys[1]:>10,}  subjects in version {then}  {diff.digest[1][:16]}",
    ]
    if diff.is_empty:
        return "\n".join((*lines, "They are equal."))
    counts = (
        (diff.only[0], f"only in version {now}"), (diff.only[1], f"only in version {then}"),
        (diff.different, "different"), (diff.moving, "moving: no moment to compare them"),
    )  # fmt: skip
    return "\n".join((*lines, *(f"  {count:>10,}  {what}" for count, what in counts if count)))


# Switch ---------------------------------------------------------------------------------------


@click.command("switch")
@click.argument("name")
@click.option("--accept-diff", is_flag=True, help="Switch although the versions differ.")
@yes_option
@command
async def replay_switch(
    shell: Shell,
    name: str,
    accept_diff: bool,  # noqa: FBT001 - click passes options by name
    yes: bool,  # noqa: FBT001
) -> int:
    """Let the next version of NAME speak, from one offset on in every partition.

    Refused while it is behind, or if it holds anybody who was erased. The version that speaks now
    is kept up to date for a rollback.
    """
    async with shell.open() as runtime:
        shell.announce(runtime)
        use_case = _of(runtime, name)
        version = await use_case.built(name)
        await use_case.check(version)
        diff = await use_case.diff(name)
        document = {"projection": name, "version": version.version, "diff": _counts(diff)}
        if not diff.is_empty and not accept_diff:
            shell.talk.print(_diff_text(diff), markup=False)
            if yes:
                raise RefusedByPolicy(
                    Refusal.VERSION_DIFFERS,
                    f"{_figures(diff)} Look with `privacy-ledger replay diff {name} --refs`; "
                    "if this is what you want, run it again with --accept-diff.",
                )
        if not (yes or shell.agrees(f"Let {version.name} speak?", _diff_text(diff))):
            shell.result({**document, "switched": False}, _diff_text(diff))
            shell.talk.print(_next(name, diff))
            return Exit.PLAN_PENDING
        await use_case.speak(version)
        shell.result(
            {**document, "switched": True},
            f"{version.name} speaks. Back: privacy-ledger replay rollback {name}",
        )
    return Exit.DONE


def _figures(diff: Diff) -> str:
    return (
        f"The versions differ: {diff.only[0]} only in version {diff.versions[0]}, {diff.only[1]} only in "
        f"version {diff.versions[1]}, {diff.different} different, {diff.moving} moving."
    )


def _next(name: str, diff: Diff) -> str:
    flag = "" if diff.is_empty else " --accept-diff"
    return f"Next: privacy-ledger replay switch {name}{flag} --yes"


@click.command("rollback")
@click.argument("name")
@yes_option
@command
async def replay_rollback(shell: Shell, name: str, yes: bool) -> int:  # noqa: FBT001 - click
    """Let the version before speak again; the one that speaks now is kept up to date."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        use_case = _of(runtime, name)
        version = await use_case.previous(name)
        await use_case.check(version)
        document = {"projection": name, "version": version.version}
        plan = f"{version.name} is up to date and would speak again."
        if not (yes or shell.agrees(f"Let {version.name} speak again?", plan)):
            shell.result({**document, "switched": False}, plan)
            shell.talk.print(f"Next: privacy-ledger replay rollback {name} --yes")
            return Exit.PLAN_PENDING
        await use_case.speak(version)
        shell.result({**document, "switched": True}, f"{version.name} speaks.")
    return Exit.DONE


# Drop -----------------------------------------------------------------------------------------


@click.command("cancel")
@click.argument("name")
@yes_option
@command
async def replay_cancel(shell: Shell, name: str, yes: bool) -> int:  # noqa: FBT001 - click
    """Give the next version of NAME up, built or half built: its topics and keys go."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        use_case = _of(runtime, name)
        version = await use_case.to_cancel(name)
        return await _drop(shell, runtime, use_case, version, again=f"cancel {name}", yes=yes)


@click.command("drop")
@click.argument("name")
@click.option("--version", "number", required=True, type=click.IntRange(min=1), help="Which one.")
@yes_option
@command
async def replay_drop(shell: Shell, name: str, number: int, yes: bool) -> int:  # noqa: FBT001 - click
    """Remove a version of NAME that does not speak: its topics and keys go."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        use_case = _of(runtime, name)
        version = await use_case.to_drop(name, number)
        again = f"drop {name} --version {number}"
        return await _drop(shell, runtime, use_case, version, again=again, yes=yes)


async def _drop(
    shell: Shell, runtime: Runtime, use_case: Replay, version: Folded, *, again: str, yes: bool
) -> int:
    plan = await use_case.leaving(version)
    if not (yes or shell.agrees(f"Remove {version.name}?", _plan_text(plan))):
        shell.result({**msgspec.to_builtins(plan), "removed": False}, _plan_text(plan))
        shell.talk.print(f"Next: privacy-ledger replay {again} --yes. It cannot be undone.")
        return Exit.PLAN_PENDING
    keys = await use_case.drop(version)
    is_clean = await compact(runtime)
    if not is_clean:
        shell.talk.print("A reader keeps old pages of the log: the bytes go with the next compaction.")
    document = {**msgspec.to_builtins(plan), "removed": True, "keys": keys}
    shell.result(document, f"{version.name} is gone: {plan.subjects:,} states, {keys:,} keys destroyed.")
    return Exit.DONE


def _plan_text(plan: Leaving) -> str:
    name = f"{plan.projection}.v{plan.version}"
    lines = [f"To be removed: {name}, states of {plan.subjects:,} subjects, and every key that seals them"]
    return "\n".join((*lines, *(f"  {topic}" for topic in plan.topics)))


# Shared ---------------------------------------------------------------------------------------


def _of(runtime: Runtime, name: str | None) -> Replay:
    """Return the use cases, if the projection is one that can have versions."""
    use_case = replay_of(runtime)
    if name is not None and name not in use_case.projections:
        raise click.UsageError(f"No projection of that name. Known: {', '.join(use_case.projections)}.")
    return use_case
