"""`retention`: what is due of a person and how it is gone, and the last step that destroys keys."""

from pathlib import Path

import click
import msgspec

from privacy_ledger.app.expiry_care import Expired
from privacy_ledger.app.retention import ground_text
from privacy_ledger.app.retention_status import RetentionStatus, item_text
from privacy_ledger.bootstrap import expiry_of, statements_of, subjects_of
from privacy_ledger.interfaces.cli.deletion import write_files
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command

__all__ = [
    "expired_text",
    "register",
    "retention",
    "retention_receipt",
    "retention_run",
    "retention_status",
]


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(retention)


@click.group()
def retention() -> None:
    """Retention: what is due, how it is gone, and what keeps it (GDPR Art. 5(1)(e))."""


@retention.command("status")
@click.argument("subject")
@command
async def retention_status(shell: Shell, subject: str) -> None:
    """Show what is due of SUBJECT, and whether a key was destroyed for it or its bytes went alone."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        await shell.settle(runtime)
        refs = (await subjects_of(runtime)).find(subject).refs
        found = await (await statements_of(runtime)).status(refs)
    shell.result(found, _status_text(found))


@retention.command("receipt")
@click.argument("subject")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A folder.")
@command
async def retention_receipt(shell: Shell, subject: str, output: Path) -> None:
    """Write what is due of SUBJECT as a receipt, one for each reference; its hash goes into the audit log.

    The same state gives the same receipt. `receipt verify FILE` checks it.
    """
    async with shell.open() as runtime:
        shell.announce(runtime)
        await shell.settle(runtime)
        refs = (await subjects_of(runtime)).active(subject).refs
        statements = await statements_of(runtime)
        made = [await statements.receipt(ref) for ref in refs]
    files = {
        f"retention-{one.leaf[:16]}.json": msgspec.json.encode(
            {"receipt": msgspec.Raw(one.receipt), "proof": one.proof}
        )
        for one in made
    }
    write_files(output, files)
    lines = [f"Wrote {output / name}" for name in files]
    shell.result({"leaves": [one.leaf for one in made], "files": sorted(files)}, "\n".join(lines))


@retention.command("run")
@click.option("--plan", "is_plan", is_flag=True, help="Show what is due; change nothing.")
@command
async def retention_run(shell: Shell, is_plan: bool) -> int:  # noqa: FBT001 - click passes options by name
    """Destroy the keys of which all that they sealed is due, and that nothing keeps.

    A worker does so every hour. Interrupted, the same command goes on.
    """
    async with shell.open() as runtime:
        shell.announce(runtime)
        await shell.settle(runtime)
        care = expiry_of(runtime)
        found = await (care.look() if is_plan else care.run())
    shell.result(found, expired_text(found, is_done=not is_plan))
    return Exit.PLAN_PENDING if is_plan and found.keys else Exit.DONE


def expired_text(found: Expired, *, is_done: bool = False) -> str:
    """Return as a line how many keys retention destroyed, or would, and what keeps others."""
    kept = ", ".join(f"{count:,} {why}" for why, count in found.kept.items()) or "none"
    if is_done:
        return f"retention: {found.keys:,} keys destroyed; due and kept for now: {kept}"
    return f"retention: {found.due:,} keys due and not destroyed yet; of them kept for now: {kept}"


def _status_text(found: RetentionStatus) -> str:
    lines = [item_text(item) for item in found.due] or ["Nothing is due."]
    lines += [f"held: {ground_text(item)}" for item in found.held]
    if found.as_of is not None:
        lines.append(f"As of the tick of {found.as_of:%Y-%m-%d %H:%M}Z. {found.ground}")
    return "\n".join(lines)
