"""Commands about the anonymised analytics: only noisy figures ever leave them."""

from datetime import date, datetime

import click
import msgspec

from privacy_ledger.app.release import PublicRow
from privacy_ledger.bootstrap import release_of
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.cli.shell import Shell, command

__all__ = [
    "analytics",
    "analytics_list",
    "analytics_seal",
    "analytics_show",
    "catalogue",
    "catalogue_add",
    "register",
    "rows_text",
]

PRODUCT = "course_views_daily"


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(analytics)
    group.add_command(catalogue)


@click.group()
def analytics() -> None:
    """Anonymised figures, each with its error bar."""


@analytics.command("list")
@command
async def analytics_list(shell: Shell) -> None:
    """List the products with their budgets."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        products = await (await release_of(runtime)).list_products()
        text = "\n".join(
            f"{p.product:<20} {p.title}; {p.releases} released, last {p.last_window or '-'}; "
            f"budget spent {p.spent} of {p.horizon_rho} rho in {p.horizon_days} days"
            for p in products
        )
        shell.result({"products": msgspec.to_builtins(products)}, text)


@analytics.command("show")
@click.argument("name", default=PRODUCT)
@command
async def analytics_show(shell: Shell, name: str) -> None:
    """Show a product's public rows: noisy value, 95 % interval, release."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        report = await (await release_of(runtime)).show(name)
        shell.result(msgspec.to_builtins(report), rows_text(report.rows) or "No window was released yet.")


@analytics.command("seal")
@click.argument("name", default=PRODUCT)
@click.option("--until", required=True, metavar="TIME", help="ISO time; windows that end by then are sealed.")
@click.option("--since", metavar="DAY", help="First day (default: after the last sealed one).")
@click.option("--early", "is_early", is_flag=True, help="Seal windows that may still get late events.")
@command
async def analytics_seal(
    shell: Shell,
    name: str,
    until: str,
    since: str | None,
    is_early: bool,  # noqa: FBT001 - click
) -> None:
    """Seal windows and release them once: the noise is drawn now, and never again."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        release = await release_of(runtime)
        report = await release.seal(
            name, until=_time(until), since=None if since is None else _day(since), is_early=is_early
        )
        shown = await release.show(name)
        windows = {commit.window for commit in report.released}
        rows = tuple(row for row in shown.rows if row.window in windows)
        text = (
            f"Released {len(report.released)} windows, {len(report.already_released)} had been; "
            f"budget spent {shown.summary.spent} of {shown.summary.horizon_rho} rho.\n" + rows_text(rows)
        )
        shell.result(msgspec.to_builtins(report), text.rstrip())


@click.group()
def catalogue() -> None:
    """The public catalogue: what may be counted is decided before anybody is counted."""


@catalogue.command("add")
@click.argument("courses", nargs=-1, required=True, metavar="COURSE…")
@command
async def catalogue_add(shell: Shell, courses: tuple[str, ...]) -> None:
    """Add courses to the public catalogue."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        added = await runtime.registrar.add_courses(courses)
        shell.result(
            {"added": list(added), "catalogue": list(await runtime.registrar.catalogue())},
            f"Added {len(added)} courses.",
        )


def rows_text(rows: tuple[PublicRow, ...]) -> str:
    """Return public rows as a table for people."""
    return "\n".join(
        f"{row.window}  {row.course:<44} {row.value:>7}  95 % [{row.ci_low}, {row.ci_high}]  "
        f"sigma {row.sigma}  {row.flag}  {row.release_id[:12]}"
        for row in rows
    )


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            Refusal.TIME_INVALID, "Give an ISO time with its zone, such as 2026-03-02T00:00:00Z."
        ) from None


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInput(Refusal.TIME_INVALID, "Give a day such as 2026-03-01.") from None
