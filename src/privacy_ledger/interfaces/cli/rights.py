"""Commands for the rights of a person: consent, access, restriction, erasure, export."""

from datetime import datetime

import click
import msgspec

from privacy_ledger.app.subjects import Ground
from privacy_ledger.bootstrap import subjects_of
from privacy_ledger.domain.errors import BadInput, RefusedByPolicy
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command

__all__ = [
    "consent",
    "consent_grant",
    "consent_show",
    "consent_withdraw",
    "register",
    "restrict",
    "subject",
    "subject_return",
    "subject_show",
    "time_of",
    "unrestrict",
]

GROUNDS = ("accuracy", "unlawful", "claims", "objection")


def register(group: click.Group) -> None:
    """Add the commands."""
    for one in (consent, subject, restrict, unrestrict):
        group.add_command(one)


@click.group()
def consent() -> None:
    """Consents of a person (GDPR Art. 7)."""


@consent.command("grant")
@click.argument("subject")
@click.argument("purpose")
@command
async def consent_grant(shell: Shell, subject: str, purpose: str) -> None:
    """Record that SUBJECT consents to PURPOSE from now on."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        offsets = await (await subjects_of(runtime)).grant(subject, purpose)
        await shell.settle(runtime, offsets)
        shell.result({"granted": purpose}, f"Consent to {purpose} is in force.")


@consent.command("withdraw")
@click.argument("subject")
@click.argument("purpose")
@command
async def consent_withdraw(shell: Shell, subject: str, purpose: str) -> int:
    """Record that SUBJECT withdraws consent to PURPOSE; what only it allowed goes."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        subjects = await subjects_of(runtime)
        offsets = await subjects.withdraw(subject, purpose)
        await shell.settle(runtime, offsets)
        if not shell.no_wait and any(purpose in one.grants for one in await subjects.permissions(subject)):
            return _waits(shell)
        shell.result({"withdrawn": purpose}, f"Consent to {purpose} is withdrawn.")
        return Exit.DONE


@consent.command("show")
@click.argument("subject")
@click.argument("purpose", required=False)
@command
async def consent_show(shell: Shell, subject: str, purpose: str | None) -> int:
    """Show the consents of SUBJECT that are in force."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        shown = await (await subjects_of(runtime)).show(subject)
        consents: dict[str, datetime] = {}
        for reference in shown.references:
            consents.update(reference.consents)
        if purpose is not None:
            consents = {p: since for p, since in consents.items() if p == purpose}
        text = "\n".join(f"{p} since {since.isoformat()}" for p, since in consents.items())
        shell.result({"consents": consents, "status": shown.status}, text or "No consent is in force.")
        return Exit.DONE


@click.group()
def subject() -> None:
    """Look at one person, or let an erased one return."""


@subject.command("show")
@click.argument("subject")
@click.option("--reveal", is_flag=True, help="Show values in clear; recorded, and needs --reason.")
@click.option("--reason", metavar="TEXT", help="Why the values are looked at.")
@command
async def subject_show(shell: Shell, subject: str, reveal: bool, reason: str | None) -> int:  # noqa: FBT001
    """Show the projections of SUBJECT, masked unless --reveal --reason TEXT."""
    if reveal and not reason:
        raise BadInput(Refusal.SCHEMA_MISMATCH, "A reveal needs a reason. Give `--reason TEXT`.")
    async with shell.open() as runtime:
        shell.announce(runtime)
        subjects = await subjects_of(runtime)
        try:
            if reveal and reason:
                offsets = await subjects.reveal(subject, reason=reason)
                await shell.settle(runtime, offsets)
            shown = await subjects.show(subject, is_masked=not reveal)
        except RefusedByPolicy as error:
            if error.refusal is not Refusal.SUBJECT_UNKNOWN:
                raise
            shell.result({"status": "unknown"}, str(error))
            return Exit.FAILED
        shell.result(msgspec.to_builtins(shown))
        return Exit.DONE


@subject.command("return")
@click.argument("subject")
@command
async def subject_return(shell: Shell, subject: str) -> None:
    """Reopen an erased SUBJECT after you authenticated the person; a new reference begins."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        offsets = await (await subjects_of(runtime)).return_(subject)
        await shell.settle(runtime, offsets)
        shell.result({"reopened": True}, "Reopened under a new reference. What was erased stays so.")


@click.command()
@click.argument("subject")
@click.option("--ground", type=click.Choice(GROUNDS), required=True, help="GDPR Art. 18(1).")
@command
async def restrict(shell: Shell, subject: str, ground: str) -> int:
    """Restrict the processing of SUBJECT: records are kept, and used for nothing."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        subjects = await subjects_of(runtime)
        offsets = await subjects.restrict(subject, ground=msgspec.convert(ground, Ground))
        await shell.settle(runtime, offsets)
        if not shell.no_wait and not all(one.is_restricted for one in await subjects.permissions(subject)):
            return _waits(shell)
        shell.result({"restricted": True, "ground": ground}, f"Restricted ({ground}).")
        return Exit.DONE


@click.command()
@click.argument("subject")
@click.option("--notified-at", metavar="TIME", help="When the person was told (GDPR Art. 18(3)).")
@command
async def unrestrict(shell: Shell, subject: str, notified_at: str | None) -> None:
    """Lift the restriction of SUBJECT; held records are folded in as if there had been none."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        told = None if notified_at is None else time_of(notified_at)
        offsets = await (await subjects_of(runtime)).lift(subject, notified_at=told)
        await shell.settle(runtime, offsets)
        shell.result({"restricted": False}, "The restriction is lifted.")


def _waits(shell: Shell) -> Exit:
    """Say that what was recorded has no effect yet: everything of a parked person waits, in order."""
    shell.result(
        {"recorded": True, "in_force": False},
        "Recorded, and NOT in force yet: a record of this person could not be folded, and what is newer "
        "waits behind it. `privacy-ledger dlq list` says why; then `dlq redrive` or `dlq discard`.",
    )
    return Exit.PARTLY_DONE


def time_of(text: str) -> datetime:
    """Return the instant that somebody wrote, with its zone."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise BadInput(Refusal.TIME_INVALID, "Give an ISO time with its zone, such as 2026-03-02T09:00:00Z.")
    return instant
