"""`keys`: epochs of the key-encryption keys, backups of the keystore, and what a restore needs."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click
import msgspec

from privacy_ledger.app.key_care import CarePlan, Rolled, overdue
from privacy_ledger.bootstrap import (
    audit_of,
    care_of,
    erasure_care_of,
    erasure_of,
    expiry_of,
    restorer_for,
)
from privacy_ledger.interfaces.cli.retaining import expired_text
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command
from privacy_ledger.ports.keeping import BackupState, KeystoreStanding, OwnBackup

__all__ = [
    "keys",
    "keys_backup",
    "keys_reconcile",
    "keys_releases",
    "keys_restore",
    "keys_roll",
    "keys_rotate",
    "keys_status",
    "register",
]


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(keys)


@click.group()
def keys() -> None:
    """Care for the keystore: epochs of its key-encryption keys, backups, restores."""


@keys.command("status")
@command
async def keys_status(shell: Shell) -> int:
    """Show epochs, what they wrap, the keystore's own backups, and whether a rotation is due."""
    async with shell.open(prepare=False) as runtime:
        shell.announce(runtime)
        care = care_of(runtime.keystore, runtime.clock)
        standing, plan, backups, now = care.standing(), care.plan(), care.backups(), runtime.clock.now()
        due = await expiry_of(runtime).look()
    late = overdue(standing, now)
    shell.result(
        {
            "standing": standing,
            "due": plan,
            "overdue": late,
            "backups": backups,
            "retention": {"due": due.due, "kept": due.kept},
        },
        "\n".join((*_lines(standing, late, backups, now), expired_text(due))),
    )
    if plan.is_empty:
        return Exit.DONE
    shell.talk.print("Next: privacy-ledger keys rotate")
    return Exit.PLAN_PENDING


def _lines(
    standing: KeystoreStanding, late: tuple[int, ...], backups: Sequence[OwnBackup], now: datetime
) -> list[str]:
    lines = [
        f"epoch {epoch.number:>4}  {_age(epoch.created_at, now)}  {epoch.live:>12,} in use"
        f"  {epoch.shredded:>12,} destroyed{'  overdue' if epoch.number in late else ''}"
        for epoch in standing.epochs
    ]
    lines += [_backup_line(own, now) for own in backups]
    if any(own.state is BackupState.UNREADABLE for own in backups):
        lines.append(
            "What is unreadable cannot be looked into, and is left alone. Let this user read it: the next "
            "rotation removes it where no key opens it."
        )
    if standing.backup is None:
        lines.append("no verified backup that the present keys open")
    lines.append(f"shred journal: {standing.journal_entries:,} entries, all of them applied")
    return lines


def _backup_line(own: OwnBackup, now: datetime) -> str:
    note = own.note
    epochs = str(note.oldest_epoch)
    if note.newest_epoch not in (None, note.oldest_epoch):
        epochs += f" to {note.newest_epoch}"
    return (
        f"backup {note.name}  {_age(note.made_at, now)}  {note.keys:>12,} keys  epoch {epochs}  {own.state}"
    )


def _age(at: datetime | None, now: datetime) -> str:
    return "its key is missing" if at is None else f"{(now - at).total_seconds() / 86_400:5.1f} days"


@keys.command("rotate")
@click.option("--plan", "is_plan", is_flag=True, help="Show what is due; change nothing.")
@command
async def keys_rotate(shell: Shell, is_plan: bool) -> int:  # noqa: FBT001 - click passes options by name
    """Roll the epoch where a day has passed, and destroy epochs that would grow older than seven days.

    Run it once a day. Interrupted, it goes on where it was.
    """
    async with shell.open(prepare=False) as runtime:
        shell.announce(runtime)
        care = care_of(runtime.keystore, runtime.clock)
        if is_plan:
            plan = care.plan()
            shell.result(plan, _plan_text(plan))
            return Exit.DONE if plan.is_empty else Exit.PLAN_PENDING
        rolled = care.rotate(on_step=_Progress(shell))
        final = await erasure_care_of(runtime).finalise()
        await expiry_of(runtime).run()
    if rolled is None:
        shell.result(
            {"due": False, "final": final}, "Nothing is due: the newest epoch is younger than a day."
        )
    else:
        return _tell(shell, rolled, final)
    return Exit.DONE


@keys.command("roll")
@click.option("--final-now", is_flag=True, help="Destroy every older epoch, and with it every older backup.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
async def keys_roll(
    shell: Shell,
    final_now: bool,  # noqa: FBT001 - click passes options by name
    yes: bool,  # noqa: FBT001
) -> int:
    """Roll the epoch at once.

    With --final-now no copy of what was destroyed opens any more, wherever it lies; nor does any
    backup of the keystore from before, so a new one is made and verified first.
    """
    async with shell.open(prepare=False) as runtime:
        shell.announce(runtime)
        care = care_of(runtime.keystore, runtime.clock)
        if final_now and not yes and not _agrees(shell):
            standing, backups = care.standing(), care.backups()
            there = [own.note.name for own in backups if own.state in {BackupState.KEPT, BackupState.OVER}]
            lines = [
                "Every present epoch would go, after its keys in use are wrapped anew, and every backup."
            ]
            lines += [f"backup {name} to be removed" for name in there]
            shell.result(
                {"older_epochs": [epoch.number for epoch in standing.epochs], "backups": there},
                "\n".join(lines),
            )
            shell.talk.print("Next: the same command with --yes.")
            return Exit.PLAN_PENDING
        rolled = care.roll(is_final=final_now, on_step=_Progress(shell))
        final = await erasure_care_of(runtime).finalise()
    return _tell(shell, rolled, final)


def _agrees(shell: Shell) -> bool:
    return shell.is_interactive and click.confirm("Give up every older backup of the keystore?", err=True)


@keys.command("backup")
@command
async def keys_backup(shell: Shell) -> None:
    """Write a backup of the keystore, and open every key in it before it counts."""
    async with shell.open(prepare=False) as runtime:
        shell.announce(runtime)
        note = care_of(runtime.keystore, runtime.clock).back_up()
        path = runtime.keystore.places.backups / note.name
    shell.result(
        {"backup": note, "path": str(path)},
        f"Wrote and verified {path}: {note.keys:,} keys. Copy it to another machine, apart from the key "
        "folder.",
    )


@keys.command("restore")
@click.argument("backup", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
async def keys_restore(shell: Shell, backup: Path, yes: bool) -> int:  # noqa: FBT001 - click
    """Put BACKUP in the place of the keystore, lost or not, and destroy again what was since.

    Keys that were made after the backup are lost. Stop workers first.
    """
    if not yes and not (
        shell.is_interactive and click.confirm("Give up every key made since the backup?", err=True)
    ):
        shell.result(
            {"restored": False},
            "The keystore would be replaced, and keys made since the backup would be lost.",
        )
        shell.talk.print("Next: the same command with --yes.")
        return Exit.PLAN_PENDING
    restored = restorer_for(shell.settings).restore(backup)
    shell.result(
        restored,
        f"Restored: {restored.keys:,} keys, and {restored.applied:,} entries of the shred journal applied "
        "again before anybody could read.",
    )
    shell.talk.print("Next: privacy-ledger keys reconcile")
    return Exit.DONE


@keys.command("reconcile")
@command
async def keys_reconcile(shell: Shell) -> int:
    """Erase again in the log whom the keystore ended: after the log was restored from an older copy."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        outcomes = await erasure_of(runtime).reconcile()
        await shell.settle(runtime)
    still_open = sum(not outcome.is_completed for outcome in outcomes)
    shell.result(
        {"erased_again": len(outcomes), "open": still_open},
        f"Erased again in the log: {len(outcomes)} references, {still_open} of them not complete yet.",
    )
    return Exit.PARTLY_DONE if still_open else Exit.DONE


@keys.command("releases")
@click.option("--close", "is_closing", is_flag=True, help="Close the running report, as happens once a day.")
@command
async def keys_releases(shell: Shell, is_closing: bool) -> None:  # noqa: FBT001 - click
    """Show which roles were given or refused keys, for what; each closed report is in the audit log.

    The hash of a report, as --json prints it in `closed`, is a leaf there.
    """
    async with shell.open() as runtime:
        shell.announce(runtime)
        releases = runtime.keystore.releases(audit_of(runtime), clock=runtime.clock)
        if is_closing:
            await releases.account()
        running, closed = releases.running(), await releases.closed()
    lines = [
        f"{one.role:<9} {one.purpose:<18} {one.category:<14} {one.outcome:<9} {one.keys:>12,}"
        for one in running
    ]
    lines += [
        f"report {one.report.number}, closed {one.report.closed_at.isoformat(timespec='seconds')}: leaf "
        f"{one.leaf[:16]}, {'not in the audit log yet' if one.index is None else f'number {one.index} there'}"
        for one in closed
    ]
    shell.result({"running": running, "closed": closed}, "\n".join(lines) or "No key was asked for yet.")


class _Progress:
    """Says each step on standard error, where somebody looks."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def __call__(self, step: str, count: int) -> None:
        if self._shell.talk.is_terminal:
            self._shell.talk.print(f"{step}: {count:,}", markup=False)


def _plan_text(plan: CarePlan) -> str:
    if plan.is_empty:
        return "Nothing is due."
    lines = ["Due: a new epoch"] if plan.new_epoch else []
    if plan.has_roll:
        lines.append(f"{plan.to_rewrap:,} keys to wrap anew, and a backup")
    lines += [f"epoch {number} to be destroyed" for number in plan.to_destroy]
    lines += [f"backup {name} to be removed: no key opens it any more" for name in plan.to_prune]
    return "\n".join(lines)


def _tell(shell: Shell, rolled: Rolled, final: int) -> Exit:
    gone = ", ".join(map(str, rolled.destroyed)) or "none"
    shell.result(
        {**msgspec.to_builtins(rolled), "final": final},
        f"Epoch {rolled.epoch} wraps every key in use ({rolled.rewrapped:,} moved). Destroyed: {gone}. "
        f"Backup: {rolled.backup.name if rolled.backup else 'none'}; older ones removed: "
        f"{len(rolled.pruned)}. Erasures that are final now: {final}."
        + "".join(f"\nbackup {name} is over, and its file cannot be removed" for name in rolled.stuck),
    )
    if not rolled.stuck:
        return Exit.DONE
    shell.talk.print(
        "Next: remove these files from the backup folder, or let this user do so and run: "
        "privacy-ledger keys rotate"
    )
    return Exit.PARTLY_DONE
