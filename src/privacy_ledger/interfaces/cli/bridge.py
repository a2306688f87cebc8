"""`bridge`: a platform's own topic becomes sealed records, for as long as it runs."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Final

import click
import msgspec
from msgspec.structs import replace

from privacy_ledger.adapters.formats.cloudevents_http import structured_message
from privacy_ledger.adapters.formats.mapping import SOURCE_NAME
from privacy_ledger.adapters.formats.openedx_messages import BusMessages, schemas_in
from privacy_ledger.adapters.kafka.raw_topic import KafkaRawTopic
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.app.bridge import Bridge, Message
from privacy_ledger.app.ingest import OpenIngest, Source, Summary
from privacy_ledger.bootstrap import Runtime, ingest_of
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.engine import collector
from privacy_ledger.interfaces.cli.api import readers_of
from privacy_ledger.interfaces.cli.collect import summary_text
from privacy_ledger.interfaces.cli.formats import CLOUDEVENTS, OPENEDX_BUS, FormatName, format_named
from privacy_ledger.interfaces.cli.shell import Exit, Shell, service
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.log import Row

__all__ = ["bridge", "register"]

TOLD_S: Final = 10.0
CATCH_UP_S: Final = 30.0
log_line = get_logger()


def register(group: click.Group) -> None:
    """Add the command."""
    group.add_command(bridge)


@click.command()
@click.option("--from-topic", "topic", required=True, metavar="TOPIC", help="The platform's topic.")
@click.option(
    "--format", "name", type=FormatName(), required=True,
    help="What its messages are: a name, or a mapping of your own.",
)  # fmt: skip
@click.option("--source", metavar="NAME", help="The registered source (default: the format's name).")
@click.option(
    "--from-kafka", "address", metavar="HOST:PORT",
    help="Another cluster than the ledger's, reached with the same rights.",
)  # fmt: skip
@click.option(
    "--avro-schemas", "schemas", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Of openedx-bus: the schemas of openedx-events, by the names that they have there.",
)  # fmt: skip
@click.option("--until-end", is_flag=True, help="End at the end of the topic instead of waiting for more.")
@service
async def bridge(
    shell: Shell,
    topic: str,
    name: str,
    source: str | None,
    address: str | None,
    schemas: Path | None,
    until_end: bool,  # noqa: FBT001 - click passes options by name
) -> int:
    """Ingest what comes in TOPIC, once by source and id, until SIGTERM or Ctrl-C.

    Several may share a topic: each has some of its partitions. What is taken is committed for the group
    `bridge.` and the source; a new group begins at the beginning.
    """
    if source is not None and SOURCE_NAME.fullmatch(source) is None:
        raise click.UsageError("A source's name is lower-case letters, digits, dots and dashes.")
    if (schemas is not None) != (name == OPENEDX_BUS):
        raise click.UsageError("`--avro-schemas` is for `--format openedx-bus`, which needs it.")
    cluster = _cluster(shell, address)
    named = format_named(name)
    message = _message(named.name, None if schemas is None else BusMessages(schemas_in(schemas)))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    group = f"{shell.settings.topic_prefix}bridge.{source or named.name}"
    async with shell.open() as runtime, KafkaRawTopic(cluster, topic=topic, group=group) as raw:
        shell.announce(runtime)
        mappings = [Path(name)] if name.endswith(".toml") else ()
        reader = readers_of(mappings, now=runtime.clock.now)[named.name]
        origin = Source(name=source or named.name, parse=reader.parse)
        shell.talk.print(f"Messages of the topic become events of {origin.name}. Ctrl-C stops.", markup=False)
        collector.calm()
        run = Bridge(
            raw, origin, begin=lambda: _begin(runtime), message=message, events=reader.events,
            on_progress=_Told(),
        )  # fmt: skip
        summary = await run.run(stop, until_end=until_end)
        lost = raw.lost
    document = {**_document(summary), "lost": lost}
    shell.result(document, "\n".join((summary_text(summary), *_told_lost(lost))))
    return Exit.PARTLY_DONE if lost else Exit.DONE


async def _begin(runtime: Runtime) -> OpenIngest:
    await runtime.registrar.tick()
    return await (await ingest_of(runtime)).begin(wait_s=CATCH_UP_S)


def _cluster(shell: Shell, address: str | None) -> ClusterSettings:
    """Return the cluster of the topic."""
    cluster = shell.settings.cluster
    if address is not None:
        return ClusterSettings(bootstrap=address) if cluster is None else replace(cluster, bootstrap=address)
    if cluster is None:
        raise click.UsageError("A home is on no cluster: say with `--from-kafka` where the topic is.")
    return cluster


def _message(name: str, bus: BusMessages | None) -> Message:
    """Return what makes a line of a message of this format."""
    if bus is not None:
        return lambda row: bus(_headers(row), row.value or b"")
    if name == CLOUDEVENTS:
        return lambda row: structured_message(_headers(row), row.value)
    return lambda row: row.value or Refusal.NULL_VALUE


def _headers(row: Row) -> list[tuple[str, bytes]]:
    """Return the headers; a foreign one may be without a value."""
    return [(name, value or b"") for name, value in row.headers]


class _Told:
    """Says in the log how far it came, now and then."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def __call__(self, summary: Summary) -> None:
        now = time.monotonic()
        if now - self._at >= TOLD_S:
            self._at = now
            log_line.info("bridged", count=summary.read, records=summary.accepted + summary.duplicates)


def _document(summary: Summary) -> dict[str, object]:
    found: dict[str, object] = msgspec.to_builtins(summary)
    return {
        name: found[name]
        for name in ("read", "accepted", "duplicates", "refused", "unattributed", "malformed", "reasons")
    }


def _told_lost(lost: int) -> list[str]:
    return [f"  {lost:>8,}  offsets were removed from the topic before they were read"] if lost else []
