"""The command group and its first commands."""

from datetime import datetime
from importlib.metadata import version as installed

import click

from privacy_ledger.adapters.local.home import set_trial_clock
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.cli import (
    api,
    bridge,
    collect,
    correction,
    deadletters,
    deletion,
    formats,
    holding,
    insight,
    keys,
    operate,
    projections,
    proof,
    replaying,
    retaining,
    rights,
    story,
    studies,
)
from privacy_ledger.interfaces.cli.shell import Discreet, Exit, Shell, command

__all__ = ["init", "main", "version"]


@click.group(cls=Discreet, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--home", metavar="DIR", help="The home (default: PRIVACY_LEDGER_HOME or ./ledger-home).")
@click.option("--kafka", metavar="HOST:PORT", help="A Kafka cluster instead of a home.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the views after appending.")
@click.option(
    "--log-level", default="ERROR", show_default=True,
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="Logs on standard error.",
)  # fmt: skip
@click.pass_context
def main(
    context: click.Context, *, home: str | None, kafka: str | None, as_json: bool, no_wait: bool,
    log_level: str,
) -> None:  # fmt: skip
    """Keep the promises of a privacy policy: an event-sourced ledger with stream processors.

    Start with `privacy-ledger demo` or `privacy-ledger tour`.
    """
    context.obj = Shell(home=home, kafka=kafka, as_json=as_json, no_wait=no_wait, log_level=log_level.upper())


@main.command()
@command
async def version(shell: Shell) -> None:
    """Print the version."""
    number = installed("privacy-ledger")
    shell.result({"version": number}, number)


@main.command()
@click.option("--trial-clock", metavar="ISO", help="Run this home on a given time (old logs, tests).")
@command
async def init(shell: Shell, trial_clock: str | None) -> int:
    """Make a home, or prepare a cluster (topics, registry, first tick)."""
    at = None if trial_clock is None else _instant(trial_clock)
    if shell.settings.cluster is not None:
        if at is not None:
            raise click.UsageError("--trial-clock is for homes; a cluster runs on real time.")
        await operate.apply_topics(shell)
    async with shell.open(trial=at) as runtime:
        home = runtime.home
        if home is not None and at is not None and not home.is_new:
            set_trial_clock(home, at)
    async with shell.open() as runtime:
        shell.announce(runtime)
        await runtime.registrar.tick()
        await shell.settle(runtime)
        where = shell.settings.home if runtime.home is not None else "the cluster"
        shell.result(
            {"ready": str(where), "partitions": runtime.partitions},
            f"Ready: {where} ({runtime.partitions} partitions). Next: privacy-ledger ingest FILE "
            "--format openedx",
        )
    return Exit.DONE


def _instant(text: str) -> datetime:
    """Return an ISO time with its offset."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise BadInput(
            Refusal.TIME_INVALID,
            "--trial-clock takes an ISO time with its offset, such as 2020-03-01T12:00:00+00:00.",
        )
    return instant


for module in (
    api, bridge, collect, formats, rights, correction, deletion, holding, retaining, proof, insight, keys,
    operate, projections, replaying, deadletters, studies, story,
):  # fmt: skip
    module.register(main)
