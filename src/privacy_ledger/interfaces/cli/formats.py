"""`formats`: what lines may be, and formats that an operator declares in a file."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

import click
from msgspec import Struct, structs

from privacy_ledger.adapters import registry
from privacy_ledger.adapters.formats import (
    avro,
    caliper,
    cmcd,
    ledger,
    openedx,
    openedx_bus,
    postmark,
    sendgrid,
    signals,
    stripe,
    xapi,
)
from privacy_ledger.adapters.formats.cloudevents import CloudEvent
from privacy_ledger.adapters.formats.cloudevents_lines import TABLE, Read, Route, Routed
from privacy_ledger.adapters.formats.json_lines import read_lines
from privacy_ledger.adapters.formats.mapped import Mapped
from privacy_ledger.adapters.formats.mapping import EVENTS, MAPPING_BYTES_MAX, SOURCE_NAME, members_of, read
from privacy_ledger.domain.events import Fact, event_type
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import EPOCH
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command
from privacy_ledger.ports.formats import Format, Parsed, TimedFormat

__all__ = [
    "ADDRESSED",
    "ARRAYS",
    "CALIPER",
    "CLOUDEVENTS",
    "CMCD",
    "NAMES",
    "OPENEDX_BUS",
    "UNTIMED",
    "XAPI",
    "FormatName",
    "NamedFormat",
    "format_named",
    "formats",
    "formats_check",
    "formats_list",
    "formats_new",
    "formats_types",
    "mapped_in",
    "register",
]

CALIPER: Final = "caliper"
"""The format whose lines may be envelopes of events."""
CLOUDEVENTS: Final = "cloudevents"
"""The format whose events hold data of another one."""
CMCD: Final = "cmcd"
"""The format whose lines may be no JSON."""
OPENEDX_BUS: Final = "openedx-bus"
"""The format that needs an extra."""
XAPI: Final = "xapi"
"""The format with options of its own; a line may hold several events, or a record store's answer."""
_ABOUT: Final = {
    CALIPER: "Caliper 1.1 and 1.2: an event, an array of them, or an envelope",
    "canvas": "Canvas Live Events",
    CLOUDEVENTS: "CloudEvents 1.0 in JSON, one or a batch, with data of one of these formats",
    CMCD: "reports of players (CMCD 1 and 2): text, query, headers or JSON",
    "ledger": "events in the ledger's own terms, such as a payment processor's confirmation",
    "openedx": "the Open edX tracking log, both shapes",
    OPENEDX_BUS: "the Open edX event bus: Avro records with their headers",
    "postmark": "Postmark's webhooks: an event, or an array of them",
    "sendgrid": "SendGrid's event webhook: an event, or an array of them",
    "signals": "privacy signals and cookie choices: Sec-GPC, GPP strings, banners",
    "stripe": "Stripe's webhooks: a payment that was confirmed",
    XAPI: "xAPI 1.0.3 and 2.0: a statement, an array of them, or a record store's answer",
}
NAMES: Final = tuple(sorted(_ABOUT))
"""The formats that need no mapping."""
_PARSERS: Final[dict[str, Format]] = {
    CALIPER: caliper.parse, "ledger": ledger.parse, "openedx": openedx.parse,
    OPENEDX_BUS: openedx_bus.parse, "sendgrid": sendgrid.parse, "signals": signals.parse,
    "stripe": stripe.parse,
}  # fmt: skip
"""Formats whose events have a time, by name."""
_TIMED: Final[dict[str, TimedFormat]] = {CMCD: cmcd.parse, "postmark": postmark.parse}
"""Formats some of whose events have no time of their own, by name."""
UNTIMED: Final = frozenset({XAPI, *_TIMED})
ADDRESSED: Final = frozenset({CALIPER, CLOUDEVENTS, XAPI})
"""Formats that may register a person by an address alone, where the operator says so."""
ARRAYS: Final = frozenset({CLOUDEVENTS, "postmark", "sendgrid", "signals", "stripe"})
"""Formats of which a line may hold several events, as an array."""
_MAPPINGS: Final = frozenset({"canvas"})
"""Formats that are mappings of the package's own."""
_SHIPPED: Final = "privacy_ledger.adapters.formats"
_SUFFIX: Final = ".toml"
_TEMPLATE: Final = "mapping.toml"


class NamedFormat(Struct, frozen=True):
    """A format, and what its source is called where nobody says otherwise.

    One some of whose events have no time has no parser until a run says what becomes of them.
    """

    name: str
    line_parser: Format | None

    def parser(self, *, now: Callable[[], datetime], takes_untimed: bool, takes_unknown: bool) -> Format:
        """Return the parser of a run.

        `takes_untimed`: whether an event without a time is taken as of `now`. Of xAPI, `takes_unknown`:
        whether verbs of no known vocabulary are taken.
        """
        if self.line_parser is not None:
            return self.line_parser
        if (timed := _TIMED.get(self.name)) is not None:
            return lambda line, /: timed(line, received_at=now(), takes_untimed=takes_untimed)
        if not takes_untimed:
            return partial(xapi.parse, received_at=None, takes_unknown=takes_unknown)
        return lambda line, /: xapi.parse(line, received_at=now(), takes_unknown=takes_unknown)


class FormatName(click.ParamType):
    """The name of a format, or a mapping file whose name ends in `.toml`."""

    name = "format"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return what the help says."""
        del param, ctx
        return f"[{'|'.join(sorted(_ABOUT))}|MAPPING{_SUFFIX}]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, where it may be one; `format_named` reads a mapping."""
        text = str(value)
        if text not in _ABOUT and not text.endswith(_SUFFIX):
            self.fail("There is no such format.", param, ctx)
        return text


class _Becomes(Struct, frozen=True):
    """What one line would become: for each person the type and its members, or why it is refused."""

    line: int
    refused: str | None = None
    people: tuple[tuple[str, tuple[str, ...]], ...] = ()
    is_unattributed: bool = False


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(formats)


@click.group()
def formats() -> None:
    """What lines may be; `new` and `check` are for formats that nobody knows but you."""


@formats.command("list")
@command
async def formats_list(shell: Shell) -> None:
    """List the formats that `ingest` reads."""
    lines = [f"{name:<10} {_ABOUT[name]}" for name in sorted(_ABOUT)]
    lines.append(f"{'FILE.toml':<10} a mapping of your own: `privacy-ledger formats new NAME` begins one")
    shell.result(
        {"formats": [{"name": name, "about": _ABOUT[name]} for name in sorted(_ABOUT)]}, "\n".join(lines)
    )


@formats.command("types")
@command
async def formats_types(shell: Shell) -> None:
    """List the events that a mapping may make of a line, with their members; * must be there."""
    purposes = _purposes()
    document, lines = [], []
    for name, kind in sorted(EVENTS.items()):
        needed = {field.encode_name for field in structs.fields(kind) if field.required}
        members = [f"{member}{'*' * (member in needed)}" for member in members_of(kind)]
        document.append({"type": name, "members": members, "purposes": purposes.get(name, ())})
        lines.append(f"{name:<30} {', '.join(members)}")
    shell.result({"types": document}, "\n".join(lines))


@formats.command("new")
@click.argument("name")
@command
async def formats_new(shell: Shell, name: str) -> None:
    """Begin a mapping: write NAME.toml with an example of everything, and leave the rest to you."""
    if SOURCE_NAME.fullmatch(name) is None:
        raise click.UsageError("A format's name is lower-case letters, digits and dashes, such as our-lms.")
    path = Path(f"{name}{_SUFFIX}")
    text = (resources.files(__package__) / _TEMPLATE).read_text(encoding="utf-8").replace("NAME", name)
    _write(path, text)
    shell.result(
        {"written": str(path)},
        f"Written: {path}. Change it until every line of yours becomes what it should:\n"
        f"  privacy-ledger formats check {path} FILE\n"
        f"  privacy-ledger ingest FILE --format {path}",
    )


@formats.command("check")
@click.argument("mapping", type=click.Path(path_type=Path))
@click.argument("file", type=click.File("rb"))
@click.option("--lines", "shown", type=click.IntRange(0), default=20, show_default=True, help="Show so many.")
@command
async def formats_check(shell: Shell, mapping: Path, file: BinaryIO, shown: int) -> int:
    """Say what each line of FILE would become by MAPPING; no value is shown, and nothing is kept."""
    parse = mapped_in(mapping)
    counts: Counter[str] = Counter()
    first: list[_Becomes] = []
    read_count = refused = 0
    for number, line in read_lines(file):
        found = line if isinstance(line, Refusal) else parse(line)
        becomes = _becomes(number, found)
        read_count += 1
        refused += becomes.refused is not None
        counts.update([becomes.refused] if becomes.refused else [name for name, _ in becomes.people])
        if len(first) < shown:
            first.append(becomes)
    shell.result(
        {"read": read_count, "refused": refused, "counts": dict(counts), "lines": first},
        "\n".join([*map(_text, first), *_summary(read_count, refused, counts)]),
    )
    if not refused:
        return Exit.DONE
    return Exit.REFUSED if refused == read_count else Exit.PARTLY_DONE


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.UsageError(f"{path} is there already. Choose another name, or move it away.") from None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written ({error.strerror}).") from None


def format_named(text: str, *, data_formats: Mapping[str, str] = MappingProxyType({})) -> NamedFormat:
    """Return a format by its name, or that of a mapping file.

    `data_formats`: of CloudEvents, the formats of further types of data, by the prefix of the type.

    Raises:
        BadInput: the mapping says something that cannot be meant, or an extra is not installed.
    """
    if text in _MAPPINGS:
        document = (resources.files(_SHIPPED) / f"{text}{_SUFFIX}").read_bytes()
        return NamedFormat(text, Mapped(read(document)))
    if text == CLOUDEVENTS:
        own = [Route("type", prefix, _reader(name)) for prefix, name in data_formats.items()]
        known = [Route(attribute, prefix, _reader(name)) for attribute, prefix, name in TABLE]
        return NamedFormat(text, Routed([*own, *known]))
    if text == OPENEDX_BUS:
        avro.require_avro()
    if text in _ABOUT:
        return NamedFormat(text, _PARSERS.get(text))
    mapped = mapped_in(Path(text))
    return NamedFormat(mapped.name, mapped)


def _reader(name: str) -> Read:
    """Return what reads the data of a CloudEvent; data without a time are of when the event was.

    A record of the event bus is JSON here.
    """
    if name == OPENEDX_BUS:
        return openedx_bus.read_event
    named = format_named(name)

    def read(event: CloudEvent) -> Parsed | Refusal:
        at = event.time
        parse = named.parser(
            now=lambda: EPOCH if at is None else at, takes_untimed=at is not None, takes_unknown=True
        )
        found = parse(event.data)
        if at is None and type(found) is not Refusal and found.occurred_at == EPOCH:
            return Refusal.TIME_MISSING
        return found

    return read


def mapped_in(path: Path) -> Mapped:
    """Return the parser of a mapping file.

    Raises:
        BadInput: it says something that cannot be meant.
    """
    try:
        with path.open("rb") as file:
            document = file.read(MAPPING_BYTES_MAX + 1)
    except OSError as error:
        raise click.UsageError(f"The mapping cannot be read ({error.strerror}). Check its name.") from None
    return Mapped(read(document))


def _becomes(number: int, found: Parsed | Refusal) -> _Becomes:
    if isinstance(found, Refusal):
        return _Becomes(number, refused=str(found))
    people = [fact for person in found.people for fact in person.facts]
    nobodys = () if people else found.unattributed
    facts = [*people, *nobodys, *([found.device] if found.device is not None else [])]
    return _Becomes(
        number, people=tuple((event_type(fact), _members(fact)) for fact in facts), is_unattributed=not people
    )


def _members(fact: Fact) -> tuple[str, ...]:
    """Return the names of the members that have a value."""
    return tuple(
        field.encode_name
        for field in structs.fields(fact)
        if field.name != "occurred_at" and getattr(fact, field.name) not in {None, ()}
    )


def _text(one: _Becomes) -> str:
    if one.refused is not None:
        return f"line {one.line}: refused, {one.refused}"
    said = "; ".join(f"{name} ({', '.join(members)})" for name, members in one.people)
    return f"line {one.line}: {said}{', of nobody known' * one.is_unattributed}"


def _summary(read_count: int, refused: int, counts: Counter[str]) -> list[str]:
    purposes = _purposes()
    lines = [f"read {read_count:,} = taken {read_count - refused:,} + refused {refused:,}"]
    for name, count in sorted(counts.items()):
        of = f"   for {', '.join(purposes[name])}" if purposes.get(name) else ""
        lines.append(f"  {count:>8,}  {name}{of}")
    return lines


def _purposes() -> dict[str, tuple[str, ...]]:
    """Return the purposes that each type may serve, as the package's registry has them."""
    return {row.type: row.purposes for row in registry.seed().events}
