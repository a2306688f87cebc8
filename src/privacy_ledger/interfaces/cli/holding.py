"""`hold`: one category of a person is kept, whoever asks, until the hold ends (GDPR Art. 17(3))."""

from typing import Final, get_args

import click
import msgspec

from privacy_ledger.app.retention import GROUNDS
from privacy_ledger.bootstrap import subjects_of
from privacy_ledger.domain.events.control import HoldGround
from privacy_ledger.domain.holds import Hold
from privacy_ledger.domain.values import Category
from privacy_ledger.interfaces.cli.rights import time_of
from privacy_ledger.interfaces.cli.shell import Shell, command

__all__ = ["hold", "hold_lift", "hold_list", "hold_place", "register"]

CATEGORIES: Final = tuple(map(str, Category))
GROUND_NAMES: Final[tuple[str, ...]] = get_args(HoldGround)


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(hold)


@click.group()
def hold() -> None:
    """Legal holds on one category of a person (GDPR Art. 17(3))."""


@hold.command("place")
@click.argument("subject")
@click.option("--category", type=click.Choice(CATEGORIES), required=True, help="What is kept.")
@click.option("--ground", type=click.Choice(GROUND_NAMES), required=True, help="GDPR Art. 17(3)(b) or (e).")
@click.option("--until", metavar="TIME", help="When it is over by itself (default: when it is lifted).")
@command
async def hold_place(shell: Shell, subject: str, category: str, ground: str, until: str | None) -> None:
    """Keep one category of SUBJECT: no erasure, withdrawal or retention removes it meanwhile."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        ends_at = None if until is None else time_of(until)
        name, offsets = await (await subjects_of(runtime)).place_hold(
            subject, category=Category(category), ground=msgspec.convert(ground, HoldGround), until=ends_at
        )
        await shell.settle(runtime, offsets)
        shell.result(
            {"hold": name, "category": category, "ground": ground, "until": ends_at},
            f"Held: {category}, for {GROUNDS[msgspec.convert(ground, HoldGround)]}. Hold {name}",
        )


@hold.command("lift")
@click.argument("subject")
@click.argument("hold_id", metavar="HOLD")
@command
async def hold_lift(shell: Shell, subject: str, hold_id: str) -> None:
    """Lift HOLD of SUBJECT: what it put off takes effect, and an erasure that rests on it goes on."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        offsets = await (await subjects_of(runtime)).lift_hold(subject, hold_id)
        await shell.settle(runtime, offsets)
        shell.result({"lifted": hold_id}, "Lifted. What the hold put off takes effect now.")


@hold.command("list")
@click.argument("subject")
@command
async def hold_list(shell: Shell, subject: str) -> None:
    """Show the holds on SUBJECT that are in force, oldest first."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        await shell.settle(runtime)
        found = await (await subjects_of(runtime)).holds(subject)
        shell.result({"holds": found}, "\n".join(map(_line, found)) or "There is no hold.")


def _line(one: Hold) -> str:
    end = "until it is lifted" if one.until is None else f"until {one.until:%Y-%m-%d %H:%M}Z"
    return f"{one.request}  {one.category}, for {GROUNDS[one.ground]}, {end}"
