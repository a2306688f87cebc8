"""`dlq`: people who wait behind a record that cannot be folded, and lines that were refused."""

from collections import Counter
from collections.abc import Sequence

import click
import msgspec

from privacy_ledger.app.dead_letters import DeadLetters, Entry, Letter, Outcome, chosen
from privacy_ledger.bootstrap import dead_letters_of
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command

__all__ = ["dlq", "dlq_discard", "dlq_list", "dlq_redrive", "dlq_show", "register"]

SHOWN_MAX = 100


def register(group: click.Group) -> None:
    """Add the group."""
    group.add_command(dlq)


@click.group()
def dlq() -> None:
    """Parked people and refused lines: look, take up again, discard."""


names_argument = click.argument("names", metavar="ENTRY…", nargs=-1)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


# Looking ----------------------------------------------------------------------------------------


@dlq.command("list")
@command
async def dlq_list(shell: Shell) -> None:
    """Show who is parked, in which pass, at which record and why; and the lines that were refused.

    No entry holds anything of a person or of a line.
    """
    async with shell.open() as runtime:
        shell.announce(runtime)
        use_case = dead_letters_of(runtime)
        entries, letters = await use_case.parked(), await use_case.letters()
    document = {
        "parked": [_document(one) for one in entries],
        "lines": [
            {"source": source, "reason": reason, "count": count}
            for (source, reason), count in _groups(letters)
        ],
        "entries": [one.name for one in letters[:SHOWN_MAX]],
    }
    lines = [*map(_line, entries)] or ["Nobody is parked."]
    lines += [f"{count:>8,} lines  {source}  {reason}" for (source, reason), count in _groups(letters)]
    if letters:
        lines.append(f"The first: {letters[0].name}")
    shell.result(document, "\n".join(lines))


def _groups(letters: Sequence[Letter]) -> list[tuple[tuple[str, str], int]]:
    return sorted(Counter((one.source, one.reason) for one in letters).items())


def _document(entry: Entry) -> dict[str, object]:
    return {"entry": entry.name, **msgspec.to_builtins(entry)}


def _line(entry: Entry) -> str:
    tries = f", tried again {entry.tries} times" if entry.tries else ""
    return f"{entry.name:<24} {entry.reason:<16} {entry.waiting:>6,} waiting  {entry.ref[:8]}…{tries}"


@dlq.command("show")
@click.argument("name", metavar="ENTRY")
@command
async def dlq_show(shell: Shell, name: str) -> None:
    """Show one entry: for a parked person also what the record's headers say in clear."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        use_case = dead_letters_of(runtime)
        entries, letters = chosen((name,), await use_case.parked(), await use_case.letters())
        if letters:
            shell.result({"entry": letters[0].name, **msgspec.to_builtins(letters[0])})
        for entry in entries:
            shell.result({**_document(entry), "headers": await use_case.about(entry)})


# Redrive ----------------------------------------------------------------------------------------


@dlq.command("redrive")
@names_argument
@click.option("--all", "takes_all", is_flag=True, help="Everybody who is parked.")
@yes_option
@command
async def dlq_redrive(shell: Shell, names: tuple[str, ...], takes_all: bool, yes: bool) -> int:  # noqa: FBT001 - click
    """Take parked people up again: their record and all that waited behind it, in order.

    Mend the cause first: a build that is too old, a defect in a step, keys that were out of reach.
    A refused line is not kept; send it again.
    """
    _check_choice(names, is_all=takes_all)
    async with shell.open() as runtime:
        shell.announce(runtime)
        use_case = dead_letters_of(runtime)
        entries, letters = await use_case.parked(), tuple[Letter, ...]()
        if not takes_all:
            entries, letters = chosen(names, entries, await use_case.letters())
        if letters:
            raise click.UsageError("A refused line is not kept. Send its file again.")
        plan = "\n".join(("To be taken up again:", *map(_line, entries)))
        if entries and not (yes or shell.agrees("Take them up again?", plan)):
            shell.result({"plan": [_document(one) for one in entries], "done": False}, plan)
            shell.talk.print(f"Next: privacy-ledger dlq redrive {_again(names)} --yes", markup=False)
            return Exit.PLAN_PENDING
        return _tell(shell, await use_case.redrive(entries))


def _check_choice(names: tuple[str, ...], *, is_all: bool) -> None:
    if bool(names) == is_all:
        raise click.UsageError("Name entries, or take all of them, not both.")


def _again(names: tuple[str, ...]) -> str:
    return " ".join(names) or "--all"


def _tell(shell: Shell, outcomes: Sequence[Outcome], **more: object) -> int:
    """Say what became of each entry; those that are parked still make it half done."""
    document = [
        {"entry": one.entry.name, "state": one.state, "offset": one.offset, "reason": one.reason}
        for one in outcomes
    ]
    lines = [
        f"{one.entry.name}: goes on" if one.state == "gone"
        else f"{one.entry.name}: parked still, at {one.offset} ({one.reason})"
        for one in outcomes
    ]  # fmt: skip
    shell.result({"outcomes": document, "done": True, **more}, "\n".join(lines) or "Nothing to do.")
    return Exit.PARTLY_DONE if any(one.state == "parked" for one in outcomes) else Exit.DONE


# Discard ----------------------------------------------------------------------------------------


@dlq.command("discard")
@names_argument
@click.option("--lines", "takes_lines", is_flag=True, help="Every refused line.")
@yes_option
@command
async def dlq_discard(shell: Shell, names: tuple[str, ...], takes_lines: bool, yes: bool) -> int:  # noqa: FBT001 - click
    """Discard parked records, so that their people go on without them, or refused lines.

    The ledger keeps that a record was discarded, and the audit log keeps a leaf of discarded lines.
    It cannot be undone. Evidence that can be read stays, whoever discards it.
    """
    _check_choice(names, is_all=takes_lines)
    async with shell.open() as runtime:
        shell.announce(runtime)
        use_case = dead_letters_of(runtime)
        entries, letters = tuple[Entry, ...](), await use_case.letters()
        if not takes_lines:
            entries, letters = chosen(names, await use_case.parked(), letters)
        plan = _discard_plan(entries, letters)
        if (entries or letters) and not (yes or shell.agrees("Discard them?", plan)):
            document = {"plan": [_document(one) for one in entries], "lines": len(letters), "done": False}
            shell.result(document, plan)
            next_ = " ".join(names) or "--lines"
            shell.talk.print(f"Next: privacy-ledger dlq discard {next_} --yes", markup=False)
            return Exit.PLAN_PENDING
        return await _discard(shell, use_case, entries, letters)


def _discard_plan(entries: Sequence[Entry], letters: Sequence[Letter]) -> str:
    lines = [*map(_line, entries)]
    lines += [f"{count:>8,} lines  {source}  {reason}" for (source, reason), count in _groups(letters)]
    return "\n".join(("To be discarded, for good:", *lines))


async def _discard(
    shell: Shell, use_case: DeadLetters, entries: Sequence[Entry], letters: Sequence[Letter]
) -> int:
    outcomes = await use_case.discard(entries)
    if not letters:
        return _tell(shell, outcomes)
    document, leaf, index = await use_case.discard_lines(letters)
    proof = {"document": msgspec.to_builtins(document), "leaf": leaf, "index": index}
    shell.say(f"{len(letters):,} lines are discarded: leaf {index} of the audit log, {leaf[:16]}…")
    return _tell(shell, outcomes, lines=len(letters), proof=proof)
