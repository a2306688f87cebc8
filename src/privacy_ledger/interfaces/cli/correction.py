"""`rectify`: a wrong value is corrected, and readable nowhere any more."""

import sys
from pathlib import Path
from typing import Final

import click

from privacy_ledger.app.rectification import ACCOUNT_MEMBERS, Correction, Rectification
from privacy_ledger.bootstrap import Runtime, rectification_of, subjects_of
from privacy_ledger.domain.errors import BadInput, HomeUnusable
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.interfaces.cli.operate import compact
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command

__all__ = ["rectify", "register"]

FOLLOWED_MAX: Final = 3
"""So often is stated again what was collected under the same key meanwhile."""
_ID_BYTES: Final = 16


def register(group: click.Group) -> None:
    """Add the command."""
    group.add_command(rectify)


@click.command()
@click.argument("subject")
@click.argument("what")
@click.option("--record", metavar="ID", help="Only in this record, as the export names it.")
@click.option(
    "--value-file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Read the right value from this file, or from standard input (-).",
)  # fmt: skip
@click.option("--clear", is_flag=True, help="There is no right value: the wrong one goes.")
@click.option("--plan", "is_plan", is_flag=True, help="Show what would be stated again; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
async def rectify(
    shell: Shell,
    subject: str,
    what: str,
    record: str | None,
    value_file: Path | None,
    clear: bool,  # noqa: FBT001 - click passes options by name
    is_plan: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
) -> int:
    """Correct WHAT of SUBJECT (GDPR Art. 16): account.email, profile.city, or coursework.score --record ID.

    The value is asked for, or read from a file; it is no argument, so no list of processes and no
    history of a shell has it. Every record that holds the wrong value is stated again without it,
    and its key is destroyed.
    """
    if clear and value_file is not None:
        raise click.UsageError("Give --value-file or --clear.")
    category, member, record_id = _target(what, record)
    if is_plan or clear:
        value = None
    elif value_file is not None:
        value = _read(value_file)
    elif shell.is_interactive:
        value = click.prompt("The right value", err=True)
    else:
        raise click.UsageError(
            "Give the right value with --value-file FILE (- is standard input) or --clear."
        )
    correction = Correction(category=category, member=member, value=value, record=record_id)
    async with shell.open() as runtime:
        shell.announce(runtime)
        refs = (await subjects_of(runtime)).active(subject).refs
        await shell.settle(runtime)
        use_case = await rectification_of(runtime)
        plan = await use_case.plan(refs, correction)
        text = f"To be corrected: {plan.affected} records; stated again: {plan.restated}."
        if is_plan or not (yes or (shell.is_interactive and click.confirm(text, err=True))):
            shell.result({"affected": plan.affected, "restated": plan.restated}, text)
            shell.talk.print("Next: the same command with --yes. The wrong value cannot be brought back.")
            return Exit.PLAN_PENDING
        return await _correct(shell, runtime, use_case, refs, correction)


async def _correct(
    shell: Shell,
    runtime: Runtime,
    use_case: Rectification,
    refs: tuple[SubjectRef, ...],
    correction: Correction,
) -> int:
    """Correct, wait for the passes, and say what they made of it."""
    done = await use_case.rectify(refs, correction)
    if shell.no_wait:
        shell.result({"restated": done.restated, "in_force": False}, "Recorded; nobody waited for it.")
        return Exit.DONE
    await shell.settle(runtime, done.offsets)
    for _ in range(FOLLOWED_MAX):
        if not use_case.open_keys(done):
            break
        done = await use_case.follow(refs, correction, done)
        await shell.settle(runtime, done.offsets)
    left, lost = len(use_case.open_keys(done)), await use_case.lost(done)
    document = {
        "restated": done.restated, "keys": len(done.kids), "readable": left, "lost": lost,
        "in_force": not left and not lost,
    }  # fmt: skip
    if left or lost:
        shell.result(
            document,
            "Recorded, and NOT in force yet: somebody else changed the same meanwhile, or what is newer of "
            "this person waits behind a record that could not be folded (`privacy-ledger dlq list`). Run "
            "the same command again.",
        )
        return Exit.PARTLY_DONE
    await compact(runtime)
    shell.result(
        document,
        f"Corrected: {done.restated} records stated again, {len(done.kids)} keys of wrong values destroyed.",
    )
    return Exit.DONE


def _target(what: str, record: str | None) -> tuple[Category, str, bytes | None]:
    """Return category, member and record that are meant."""
    category, _, member = what.partition(".")
    if category not in set(Category) or not member:
        raise click.UsageError(
            "WHAT is account.NAME, profile.FIELD, or CATEGORY.MEMBER with --record ID. "
            f"Categories: {', '.join(sorted(Category))}."
        )
    found = Category(category)
    if record is not None:
        try:
            record_id = bytes.fromhex(record)
        except ValueError:
            record_id = b""
        if len(record_id) != _ID_BYTES:
            raise BadInput(Refusal.ID_INVALID, "A record's id is 32 hex digits. `export` names each record.")
        return found, member, record_id
    if found is Category.ACCOUNT and member not in ACCOUNT_MEMBERS:
        raise click.UsageError(f"Of an account can be corrected: {', '.join(ACCOUNT_MEMBERS)}.")
    if found not in {Category.ACCOUNT, Category.PROFILE}:
        raise click.UsageError("What was observed is corrected record by record: give --record ID.")
    return found, member, None


def _read(file: Path) -> str:
    """Return the value in a file, without the end of its last line."""
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return content.decode().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError):
        raise HomeUnusable("The value cannot be read: give a file of UTF-8 text.") from None
