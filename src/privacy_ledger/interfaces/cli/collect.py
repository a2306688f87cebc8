"""`ingest`: a producer's file becomes sealed records."""

import io
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

import click
import msgspec

from privacy_ledger.adapters.formats import arrays, caliper, cmcd, xapi
from privacy_ledger.adapters.formats.json_lines import decode_json, read_lines
from privacy_ledger.adapters.formats.mapping import SOURCE_NAME
from privacy_ledger.app.ingest import LineReport, Source, Summary
from privacy_ledger.bootstrap import ingest_of
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.engine import collector
from privacy_ledger.interfaces.cli.formats import (
    ADDRESSED,
    ARRAYS,
    CALIPER,
    CLOUDEVENTS,
    CMCD,
    UNTIMED,
    XAPI,
    FormatName,
    format_named,
)
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command, progress_bar

__all__ = ["exit_code", "ingest", "register", "summary_text"]


DOCUMENT_BYTES_MAX: Final = 1 << 20


def register(group: click.Group) -> None:
    """Add the command."""
    group.add_command(ingest)


@click.command()
@click.argument("file", type=click.Path(allow_dash=True, path_type=Path))
@click.option(
    "--format",
    "name",
    type=FormatName(),
    required=True,
    help="What the lines are: a name, or a mapping of your own.",
)
@click.option("--source", metavar="NAME", help="The registered source (default: the format's name).")
@click.option("--import", "is_import", is_flag=True, help="Declare a historical import.")
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="OUT.ndjson",
    help="One JSON line per event, with the number of its line.",
)  # fmt: skip
@click.option(
    "--default-consent", "consents", multiple=True, metavar="PURPOSE",
    help="A consent in force for the whole run, marked assumed.",
)  # fmt: skip
@click.option(
    "--unknown-verbs", "unknown", type=click.Choice(["keep", "refuse"]),
    help="Of xapi: keep a verb of no known vocabulary by its name (the default), or refuse it.",
)  # fmt: skip
@click.option(
    "--register-addresses", "registers_addresses", is_flag=True,
    help="Of xapi and the like: let an address alone register a person, perhaps one erased by another id.",
)  # fmt: skip
@click.option(
    "--data-format", "data_formats", multiple=True, metavar="PREFIX=FORMAT",
    help="Of cloudevents: the format of the data of events whose type begins so.",
)  # fmt: skip
@click.option(
    "--take-untimed", "takes_untimed", is_flag=True,
    help="Take an event without a time as of now; sent again after an erasure, it comes back.",
)  # fmt: skip
@command
async def ingest(  # noqa: PLR0913, PLR0917 - click passes each option
    shell: Shell,
    file: Path,
    name: str,
    source: str | None,
    is_import: bool,  # noqa: FBT001 - click passes options by name
    report: Path | None,
    consents: tuple[str, ...],
    unknown: str | None,
    registers_addresses: bool,  # noqa: FBT001 - click passes options by name
    data_formats: tuple[str, ...],
    takes_untimed: bool,  # noqa: FBT001 - click passes options by name
) -> int:
    """Ingest FILE (or - for standard input, gzip or not) line by line; a bad line stops nothing."""
    _check_options(
        name, of_verbs=unknown is not None, by_address=registers_addresses, of_data=bool(data_formats),
        takes_untimed=takes_untimed,
    )  # fmt: skip
    if source is not None and SOURCE_NAME.fullmatch(source) is None:
        raise click.UsageError(
            "A source's name is lower-case letters, digits, dots and dashes, such as our-lms."
        )
    named = format_named(name, data_formats=_by_prefix(data_formats))
    with ExitStack() as stack:
        stream = _open(file, stack)
        out = None if report is None else stack.enter_context(report.open("wb"))

        def note(line: LineReport) -> None:
            if out is not None:
                out.write(msgspec.json.encode(line) + b"\n")

        async with shell.open() as runtime:
            shell.announce(runtime)
            await runtime.registrar.tick()
            use_case = await ingest_of(runtime)
            collector.calm()
            parse = named.parser(
                now=runtime.clock.now,
                takes_untimed=takes_untimed,
                takes_unknown=unknown != "refuse",
            )
            origin = Source(
                name=source or named.name, parse=parse, is_import=is_import,
                registers_addresses=registers_addresses,
                default_consents=consents,
            )  # fmt: skip
            with progress_bar(shell) as bar:
                task = bar.add_task("ingesting lines", total=None)
                summary = await use_case.run(
                    _events(name, file, stream), origin, on_line=note,
                    on_progress=lambda read: bar.update(task, completed=read),
                )  # fmt: skip
            await shell.settle(runtime, summary.offsets)
    code = exit_code(summary)
    shell.result(_document(summary), summary_text(summary))
    if summary.accepted == 0 and summary.duplicates == 0:
        shell.talk.print("NOTHING WAS ACCEPTED. The reasons above say why; try --report OUT.ndjson.")
    return code


def _open(file: Path, stack: ExitStack) -> BinaryIO:
    """Return the stream to read; a file that cannot be opened ends the command."""
    if str(file) == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(file.open("rb"))
    except OSError as error:
        raise click.UsageError(f"The file cannot be read ({error.strerror}). Check its name.") from None


def _check_options(
    name: str, *, of_verbs: bool, by_address: bool, of_data: bool, takes_untimed: bool
) -> None:
    """End the command when an option is not for this format."""
    if of_verbs and name != XAPI:
        raise click.UsageError("`--unknown-verbs` is for `--format xapi` alone.")
    if by_address and name not in ADDRESSED:
        raise click.UsageError(f"`--register-addresses` is for the formats {', '.join(sorted(ADDRESSED))}.")
    if of_data and name != CLOUDEVENTS:
        raise click.UsageError("`--data-format` is for `--format cloudevents` alone.")
    if takes_untimed and name not in UNTIMED:
        raise click.UsageError(
            f"Events of this format have a time: `--take-untimed` is for {', '.join(sorted(UNTIMED))}."
        )


def _by_prefix(data_formats: Iterable[str]) -> Mapping[str, str]:
    """Return the formats of data by the prefix of the type."""
    found: dict[str, str] = {}
    for text in data_formats:
        prefix, _, name = text.partition("=")
        if not prefix or not name or name == CLOUDEVENTS or prefix in found:
            raise click.UsageError(
                "`--data-format` takes one PREFIX=FORMAT for a prefix, such as com.example.lms=xapi."
            )
        found[prefix] = FormatName().convert(name, None, None)
    return found


def _events(name: str, file: Path, stream: BinaryIO) -> Iterable[tuple[int, bytes | Refusal]]:
    """Return the events of a stream, each with the number of its line."""
    if name == XAPI:
        return xapi.statements(_numbered(file, stream, documents=(dict, list)))
    if name == CALIPER:
        return caliper.events(_numbered(file, stream, documents=(dict, list)))
    if name == CMCD:
        return cmcd.events(_numbered(file, stream, documents=(dict, list)))
    if name in ARRAYS:
        return arrays.items(_numbered(file, stream, documents=(dict, list)))
    return _numbered(file, stream, documents=(dict,))


def _numbered(
    file: Path, stream: BinaryIO, *, documents: tuple[type, ...]
) -> Iterable[tuple[int, bytes | Refusal]]:
    """Return the numbered lines of a stream; a small file that is one JSON document is one line."""
    if str(file) == "-" or file.stat().st_size > DOCUMENT_BYTES_MAX:
        return read_lines(stream)
    content = stream.read()
    whole = content.strip()
    if b"\n" in whole and isinstance(decode_json(whole), documents):
        return [(1, whole)]
    return read_lines(io.BytesIO(content))


def exit_code(summary: Summary) -> Exit:
    """Return 0 when nothing was refused or malformed, 4 when everything was, else 5."""
    bad = summary.refused + summary.malformed
    if bad == 0:
        return Exit.DONE
    return Exit.REFUSED if bad == summary.read else Exit.PARTLY_DONE


def summary_text(summary: Summary) -> str:
    """Return the summary as lines for people."""
    lines = [
        (
            f"read {summary.read:,} = accepted {summary.accepted:,} + duplicates {summary.duplicates:,}"
            f" + refused {summary.refused:,} + unattributed {summary.unattributed:,}"
            f" + malformed {summary.malformed:,}   ({summary.records:,} sealed records)"
        )
    ]
    lines += [f"  {count:>8,}  {reason}" for reason, count in sorted(summary.reasons.items())]
    if summary.linked:
        lines.append(f"  {summary.linked:>8,}  linked from before a login")
    if summary.location_fault is not None:
        lines.append(f"  No place was derived from an address: {summary.location_fault.replace('_', ' ')}.")
    if "too_old_to_register" in summary.reasons:
        lines.append("  Old events may register people only with --import.")
    return "\n".join(lines)


def _document(summary: Summary) -> dict[str, object]:
    document: dict[str, object] = msgspec.to_builtins(summary)
    document["linked_to_erased"] = len(summary.linked_to_erased)
    document["offsets"] = {str(key): value for key, value in summary.offsets.items()}
    return document
