"""`erase` and `export`: the person's data leaves, or is handed over."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click
import msgspec

from privacy_ledger.app._scopes import ScopeKind
from privacy_ledger.app.erasure import STEPS, ErasureOutcome, ErasurePlan
from privacy_ledger.app.erasure_care import ErasureStatus
from privacy_ledger.app.export import MANIFEST
from privacy_ledger.app.retention import ground_text
from privacy_ledger.bootstrap import (
    Runtime,
    erasure_care_of,
    erasure_of,
    export_of,
    scope_erasure_of,
    subjects_of,
)
from privacy_ledger.domain.errors import HomeUnusable, NotCaughtUp
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.interfaces.cli.operate import compact
from privacy_ledger.interfaces.cli.proof import receipt_files
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command

__all__ = ["erase", "export", "register", "status_text", "write_files"]


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(erase)
    group.add_command(export)


@click.command()
@click.argument("subject", required=False)
@click.option(
    "--only", metavar="SCOPE",
    help="Erase this and nothing else: category:NAME, purpose:NAME or field:NAME (of the profile).",
)  # fmt: skip
@click.option("--plan", "is_plan", is_flag=True, help="Show what would go; change nothing.")
@click.option("--status", "is_status", is_flag=True, help="Show how far it came; change nothing.")
@click.option("--resume", "is_resume", is_flag=True, help="Go on with every erasure that is not complete.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("-o", "--receipt", type=click.Path(path_type=Path), help="Write the receipts here (a folder).")
@command
async def erase(
    shell: Shell,
    subject: str | None,
    only: str | None,
    is_plan: bool,  # noqa: FBT001 - click passes options by name
    is_status: bool,  # noqa: FBT001
    is_resume: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
    receipt: Path | None,
) -> int:
    """Erase SUBJECT for ever: plan, then keys, projections, tombstones, verification, receipt.

    With --only just that goes, as of now; what is collected in it later is kept.
    Interrupted at any point, the same command goes on where it stopped; --resume does so for
    everybody, and says which erasures became final: no copy of a key opens any more.
    """
    if is_resume is (subject is not None) or (is_resume and (is_plan or is_status or receipt)):
        raise click.UsageError("Give a SUBJECT to erase, or --resume alone.")
    if only is not None and (subject is None or is_status):
        raise click.UsageError("Give a SUBJECT with --only.")
    scope = None if only is None else _scope(only)
    if subject is None:
        return await _resume(shell)
    if is_status:
        return await _show_status(shell, subject)
    async with shell.open() as runtime:
        shell.announce(runtime)
        subjects = await subjects_of(runtime)
        person = subjects.find(subject) if scope is None else subjects.active(subject)
        whole, part = erasure_of(runtime), scope_erasure_of(runtime)
        if yes and not is_plan:
            await _settled(shell, runtime)
        else:
            await shell.settle(runtime)
        wanted = [] if scope is None else subjects.scopes(subject, *scope)
        plan = await (whole.plan(person.refs) if scope is None else part.plan_scope(wanted))
        if is_plan or not (yes or _confirmed(shell, subject, plan)):
            shell.result(msgspec.to_builtins(plan), _plan_text(plan))
            shell.talk.print("Next: the same command with --yes. It cannot be undone.")
            return Exit.PLAN_PENDING
        total = len(STEPS) * len(person.refs)
        done: list[str] = []

        def note(_ref: SubjectRef, step: str) -> None:
            done.append(step)
            if shell.talk.is_terminal:
                shell.talk.print(f"[{len(done)}/{total}] {step}", markup=False)

        outcomes = await (
            whole.erase(person.refs, on_step=note)
            if scope is None
            else part.erase_scope(wanted, on_step=note)
        )
        await _settled(shell, runtime)
        # A home has no broker that cleans: what the receipt promises is done here.
        if await compact(runtime):
            await erasure_care_of(runtime).look_for_bytes()
        else:
            shell.talk.print(
                "A reader keeps old pages of the log: the erased bytes, which no key opens, go with "
                "the next compaction. Run the same command again when it has finished."
            )
        if receipt is not None:
            write_files(receipt, await receipt_files(runtime, outcomes))
        return _report(shell, outcomes)


def _scope(only: str) -> tuple[ScopeKind, str]:
    """Return kind and name of what `--only` gives."""
    kind, _, value = only.partition(":")
    kinds: dict[str, ScopeKind] = {"category": "category", "purpose": "purpose", "field": "field"}
    if kind not in kinds or not value:
        raise click.UsageError("--only takes category:NAME, purpose:NAME or field:NAME.")
    return kinds[kind], value


async def _settled(shell: Shell, runtime: Runtime) -> None:
    """Wait for the views as far as they come: keys are destroyed also while nobody folds."""
    with suppress(NotCaughtUp):  # the erasure stays open, and says what it waits for
        await shell.settle(runtime)


async def _resume(shell: Shell) -> int:
    """Go on with every open erasure at once, whatever its pause, and say what became final."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        care = erasure_care_of(runtime)
        outcomes = await care.resume()
        final, seen = await care.finalise(), await care.look()
        await _settled(shell, runtime)
        if await compact(runtime):
            await care.look_for_bytes()
    still_open = sorted({step for one in outcomes for step in one.open_steps})
    done = sum(one.is_completed for one in outcomes)
    rest = sum(one.is_done and not one.is_completed for one in outcomes)
    shell.result(
        {
            "resumed": len(outcomes), "completed": done, "open": still_open, "overdue": seen.overdue,
            "final": final, "retained": rest,
        },
        f"Went on with {len(outcomes)} erasures: {done} are complete now. Final now: {final}."
        + (f" Of {rest} only what the law keeps is left." if rest else "")
        + (f" Still open: {', '.join(still_open)}." if still_open else ""),
    )  # fmt: skip
    return Exit.PARTLY_DONE if still_open else Exit.DONE


async def _show_status(shell: Shell, subject: str) -> int:
    """Show how far the erasures of a person came; exit code 5 while one is not complete."""
    async with shell.open(prepare=False) as runtime:
        shell.announce(runtime)
        refs = (await subjects_of(runtime)).find(subject).refs
        found = await erasure_care_of(runtime).status(refs)
    lines = [status_text(one) for one in found]
    shell.result({"erasures": found}, "\n".join(lines) or "No erasure was requested.")
    is_open = any(one.completed_at is None and one.state != "retained" for one in found)
    return Exit.PARTLY_DONE if is_open else Exit.DONE


def status_text(status: ErasureStatus) -> str:
    """Return how far an erasure came, as a line for people."""
    scope = "" if status.scope == "person" else f"{status.scope}: "
    text = f"{scope}{status.state}, requested {status.requested_at:%Y-%m-%d %H:%M}Z" + _after(status)
    if status.state == "retained":
        kept = "; ".join(map(ground_text, status.retained))
        return f"{text}, leaf {(status.leaf or '')[:16]}; all is erased but what the law keeps: {kept}"
    if status.completed_at is None:
        late = ", for more than 24 hours" if status.is_overdue else ""
        return f"{text}{late}; open: {', '.join(status.open_steps) or 'not begun'}"
    text += f", completed {status.completed_at:%Y-%m-%d %H:%M}Z, leaf {(status.leaf or '')[:16]}"
    if status.final_at is not None:
        text += f", final {status.final_at:%Y-%m-%d %H:%M}Z"
    else:
        text += f", final when epoch {status.epoch} of the keystore is destroyed"
    return text + (", receipt handed over" if status.is_handed_over else "")


def _after(status: ErasureStatus) -> str:
    """Return how long each promise took, counted from the request; what was not seen yet is left out."""
    seen = (
        ("unreadable", status.unreadable_at),
        ("derived stores clean", status.derived_clean_at),
        ("bytes gone from the ledger", status.bytes_gone_at),
    )
    return "".join(
        f", {what} after {(at - status.requested_at).total_seconds():,.1f} s"
        for what, at in seen
        if at is not None
    )


def _confirmed(shell: Shell, subject: str, plan: ErasurePlan) -> bool:
    """Ask a person at a terminal to type the subject; without a terminal the answer is no."""
    if not shell.is_interactive:
        return False
    shell.talk.print(_plan_text(plan), markup=False)
    return bool(click.prompt("Type the subject to erase it", err=True) == subject)


def _plan_text(plan: ErasurePlan) -> str:
    lines = [f"To be erased: {plan.references} references"]
    lines += [f"  {count:>8,}  {category}" for category, count in sorted(plan.records.items())]
    if plan.retained:
        lines += ["Of these the law keeps:", *(f"  {ground_text(item)}" for item in plan.retained)]
    return "\n".join(lines)


def _report(shell: Shell, outcomes: tuple[ErasureOutcome, ...]) -> int:
    """Print the receipts, or what is still open; a receipt holds no personal data."""
    is_done = all(outcome.is_completed for outcome in outcomes)
    rests = not is_done and all(outcome.is_done for outcome in outcomes)
    retained = [item for outcome in outcomes for item in outcome.retained]
    still_open = sorted({step for o in outcomes for step in o.open_steps})
    receipts = [msgspec.Raw(o.receipt) for o in outcomes if o.receipt is not None]
    handed = sum(outcome.is_handed_over for outcome in outcomes)
    document = {"completed": is_done, "receipts": receipts, "open": still_open, "handed_over": handed}
    document["retained"] = retained
    if rests:
        text = "Erased and verified, but what the law keeps: " + "; ".join(map(ground_text, retained))
        text += ". The receipt itemises it. The rest goes by itself, with another receipt."
    elif is_done:
        leaves = ", ".join((o.leaf or "")[:16] for o in outcomes)
        text = f"Erased and verified. Receipt leaf: {leaves}. "
        text += "The receipt goes to the person (-o DIR), then: privacy-ledger receipt handed FILE."
        if handed == len(outcomes):
            text = f"Erased and verified. Receipt leaf: {leaves}. The person has the receipt."
    else:
        text = f"Not complete yet: {', '.join(still_open)}. Run the same command again; a worker does, too."
    shell.result(document, text)
    return Exit.DONE if is_done or rests else Exit.PARTLY_DONE


@click.command()
@click.argument("subject")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
@command
async def export(shell: Shell, subject: str, output: Path) -> None:
    """Export what is held of SUBJECT: JSON per category, and a manifest with SHA-256."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        refs = (await subjects_of(runtime)).active(subject).refs
        await shell.settle(runtime)
        files = await _files(runtime, refs)
        write_files(output, files)
        shell.result(
            {"files": sorted(files), "manifest": msgspec.json.decode(files[MANIFEST])},
            f"Wrote {len(files)} files to {output}.",
        )


async def _files(runtime: Runtime, refs: tuple[SubjectRef, ...]) -> dict[str, bytes]:
    return await export_of(runtime).export(refs)


def write_files(folder: Path, files: Mapping[str, bytes | None]) -> None:
    """Write files that only their owner may read.

    Raises:
        HomeUnusable: the folder holds something already.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()):
        raise HomeUnusable("The output folder is not empty. Choose a new folder with -o.")
    for name, content in files.items():
        if content is None:
            continue
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(content)
