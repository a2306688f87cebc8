"""`study`: studies and beta features, which people join by consent and leave by withdrawal."""

import click

from privacy_ledger.bootstrap import studies_of
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command

__all__ = ["register", "study", "study_list", "study_open"]


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(study)


@click.group()
def study() -> None:
    """Studies and beta features: each has a consent and keys of its own."""


@study.command("open")
@click.argument("programme")
@click.option("--source", metavar="TEXT", required=True, help="Where it is approved.")
@command
async def study_open(shell: Shell, programme: str, source: str) -> int:
    """Let PROGRAMME (study.NAME or beta.NAME) collect from those who consent to it."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        is_new = await (await studies_of(runtime)).open(programme, source=source)
        await shell.settle(runtime)
    shell.result(
        {"programme": programme, "opened": is_new},
        f"{programme} is open. A person joins by: privacy-ledger consent grant SUBJECT {programme}",
    )
    return Exit.DONE


@study.command("list")
@command
async def study_list(shell: Shell) -> int:
    """List the studies and beta features that are open."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        found = (await studies_of(runtime)).opened()
    shell.result({"programmes": found}, "\n".join(found) or "None is open.")
    return Exit.DONE
