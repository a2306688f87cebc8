"""`api`: the HTTP service, and the keys of those who may send to it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from privacy_ledger.adapters.api_keys import ApiKey, ApiKeyFile, Keyring
from privacy_ledger.adapters.clock import SystemClock
from privacy_ledger.adapters.formats import arrays, caliper, cmcd, xapi
from privacy_ledger.adapters.formats.cloudevents_http import structured
from privacy_ledger.adapters.formats.mapping import EVENTS, SOURCE_NAME
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.observe.health import LOOPBACK, HealthAddress, serving
from privacy_ledger.adapters.webhook_secrets import read_webhooks
from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.engine import collector
from privacy_ledger.interfaces.cli.formats import ARRAYS, CLOUDEVENTS, CMCD, NAMES, OPENEDX_BUS, format_named
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command, service
from privacy_ledger.interfaces.http.batches import Lines, Reader
from privacy_ledger.interfaces.http.intake import Intake
from privacy_ledger.interfaces.http.limits import RATE_DEFAULT
from privacy_ledger.interfaces.http.service import Service

if TYPE_CHECKING:
    from privacy_ledger.interfaces.http.server import Tls

__all__ = [
    "api",
    "api_keys",
    "api_keys_create",
    "api_keys_list",
    "api_keys_revoke",
    "api_run",
    "readers_of",
    "register",
]

PORT_DEFAULT: Final = 8080
_PORTS: Final = 1 << 16


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(api)


@click.group()
def api() -> None:
    """The HTTP service to which platform services post their events."""


@api.command("run")
@click.option(
    "--listen", metavar="HOST:PORT", default=f"{LOOPBACK}:{PORT_DEFAULT}", show_default=True,
    help="Where to answer; port 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--mapping", "mappings", multiple=True, type=click.Path(path_type=Path), metavar="FILE.toml",
    help="Take the format of a mapping of your own, too.",
)  # fmt: skip
@click.option(
    "--rate", type=click.IntRange(1), default=RATE_DEFAULT, show_default=True,
    help="Events a second that each source may send.",
)  # fmt: skip
@click.option(
    "--tls-certificate", type=click.Path(path_type=Path), metavar="FILE", help="The certificate, as PEM."
)
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Its private key, as PEM.")
@click.option("--behind-proxy", is_flag=True, help="A proxy terminates TLS: listen in the clear.")
@service
async def api_run(
    shell: Shell,
    listen: str,
    mappings: tuple[Path, ...],
    rate: int,
    tls_certificate: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,  # noqa: FBT001 - click passes options by name
) -> int:
    """Take events by HTTP until SIGTERM or Ctrl-C; what was begun is then answered.

    In a home it folds what it took, unless a worker does.
    """
    _require()
    from privacy_ledger.interfaces.http import server, wiring  # noqa: PLC0415 - slow to load, and an extra

    at = _address(listen)
    address = server.Address(at.host, at.port, at.is_loopback)
    tls = _tls(tls_certificate, tls_key)
    server.check(address, tls=tls, is_behind_proxy=behind_proxy)
    webhooks = read_webhooks(shell.settings.webhooks)
    keyring = Keyring(shell.settings.api_keys_file)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with shell.open() as runtime:
        shell.announce(runtime)
        wired = wiring.wire(
            runtime, keyring=keyring, readers=readers_of(mappings, now=runtime.clock.now), webhooks=webhooks,
            rate=rate, settle=lambda: shell.settle(runtime),
        )  # fmt: skip
        collector.calm()
        async with _watched(shell, wired.service, wired.intake):
            scheme = "http" if tls is None else "https"
            await server.serve(
                wired.app, wired.intake, address, tls=tls, stop=stop,
                on_serving=lambda taken: shell.talk.print(
                    f"Events are taken at {scheme}://{taken.text}/v1/events.", markup=False
                ),
            )  # fmt: skip
    shell.result({"stopped": True}, "Stopped.")
    return Exit.DONE


@api.group("keys")
def api_keys() -> None:
    """Keys of those who may send; each is shown once, and kept as a hash."""


@api_keys.command("create")
@click.argument("source")
@click.option(
    "--format", "formats", multiple=True, required=True, metavar="NAME",
    help="A format that the key may send: one of `formats list`, or the name of a mapping.",
)  # fmt: skip
@click.option(
    "--type", "types", multiple=True, metavar="TYPE",
    help="A type of events that the key may send, of `formats types` (default: all).",
)  # fmt: skip
@click.option("--no-register", is_flag=True, help="What it sends makes nobody known.")
@command
async def api_keys_create(
    shell: Shell,
    source: str,
    formats: tuple[str, ...],
    types: tuple[str, ...],
    no_register: bool,  # noqa: FBT001 - click passes options by name
) -> None:
    """Make a key for SOURCE, the registered source that its events will have."""
    for name in (source, *formats):
        if SOURCE_NAME.fullmatch(name) is None:
            raise click.UsageError(
                "A source's or format's name is lower-case letters, digits, dots and dashes."
            )
    if set(types) - set(EVENTS):
        raise click.UsageError("There is no such type of events. See `privacy-ledger formats types`.")
    if shell.settings.cluster is None:
        async with shell.open() as runtime:  # a home is made by whoever needs it first
            await shell.settle(runtime)
    key, token = _file(shell).create(
        source,
        formats=tuple(sorted(set(formats))),
        types=tuple(sorted(set(types))),
        registers=not no_register,
    )
    shell.result(
        {**_shown(key), "key": token},
        f"{token}\nThis is the only time that it is shown. Senders give it as `Authorization: Bearer KEY`.",
    )


@api_keys.command("list")
@command
async def api_keys_list(shell: Shell) -> None:
    """List the keys, without what would let anybody in."""
    keys = _file(shell).keys()
    lines = [
        f"{key.id}  {key.source:<16} {', '.join((*key.formats, *key.types))}{_standing(key)}" for key in keys
    ]
    shell.result({"keys": [_shown(key) for key in keys]}, "\n".join(lines) or "There is no API key.")


@api_keys.command("revoke")
@click.argument("identifier", metavar="ID")
@command
async def api_keys_revoke(shell: Shell, identifier: str) -> None:
    """Revoke the key ID, as `list` names it; services refuse it within a second."""
    key = _file(shell).revoke(identifier)
    shell.result(_shown(key), f"Revoked: {key.id}.")


def readers_of(mappings: Iterable[Path], *, now: Callable[[], datetime]) -> dict[str, Reader]:
    """Return the readers of all formats whose extras are installed, and of these mappings, by name.

    Raises:
        BadInput: a mapping says something that cannot be meant.
    """
    found: dict[str, Reader] = {}
    for text in (*NAMES, *map(str, mappings)):
        if text == OPENEDX_BUS and find_spec("fastavro") is None:
            continue
        named = format_named(text)
        if named.name in found:
            raise click.UsageError("A mapping has the name of another format. Give it one of its own.")
        parse = named.parser(now=now, takes_untimed=False, takes_unknown=True)
        found[named.name] = Reader(
            named.name, parse, _cut(text), is_text=text == CMCD,
            of_headers=structured if text == CLOUDEVENTS else None,
        )  # fmt: skip
    return found


def _cut(name: str) -> Callable[[Lines], Lines]:
    """Return what cuts a line of a format into its events."""
    match name:
        case "xapi":
            return xapi.statements
        case "caliper":
            return caliper.events
        case "cmcd":
            return cmcd.events
        case _ if name in ARRAYS:
            return arrays.items
        case _:
            return iter


@asynccontextmanager
async def _watched(shell: Shell, answering: Service, intake: Intake) -> AsyncIterator[None]:
    """Answer health checks and scrapers where settings say so, as a worker does."""
    if shell.settings.health is None:
        yield
        return
    from privacy_ledger.adapters.observe.service_metrics import service_pages  # noqa: PLC0415 - slow to load

    pages = service_pages(
        answering.figures.statuses, answering.figures.outcomes,
        queued=lambda: intake.queued, is_well=lambda: intake.is_well,
    )  # fmt: skip
    async with serving(shell.settings.health, pages) as taken:
        shell.say_where(taken)
        yield


def _require() -> None:
    """End the command where the extra is not installed; nothing of it is loaded."""
    if any(find_spec(name) is None for name in ("litestar", "uvicorn")):
        raise HomeUnusable(
            "The HTTP service needs what the extra `api` brings: `pip install 'privacy-ledger[api]'`, or in "
            "a clone `uv sync --extra api`."
        )


def _address(text: str) -> HealthAddress:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) >= _PORTS:
        raise click.UsageError("`--listen` takes HOST:PORT, such as 127.0.0.1:8080.")
    return HealthAddress(host.strip("[]") or LOOPBACK, int(port))


def _tls(certificate: Path | None, key: Path | None) -> "Tls | None":
    from privacy_ledger.interfaces.http.server import Tls  # noqa: PLC0415 - slow to load, and an extra

    if (certificate is None) != (key is None):
        raise click.UsageError("`--tls-certificate` and `--tls-key` go together.")
    return None if certificate is None or key is None else Tls(certificate, key)


def _file(shell: Shell) -> ApiKeyFile:
    return ApiKeyFile(shell.settings.api_keys_file, ids=SystemIds(), clock=SystemClock())


def _shown(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id, "source": key.source, "formats": key.formats, "types": key.types,
        "registers": key.registers, "created_at": key.created_at, "revoked_at": key.revoked_at,
    }  # fmt: skip


def _standing(key: ApiKey) -> str:
    return "" if key.revoked_at is None else "  revoked"
