"""Serves the application until it is told to stop, on uvicorn: one process, one event loop, no access log."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn
from litestar import Litestar
from msgspec import Struct
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from privacy_ledger.domain.errors import HomeUnusable, UnsafeSettings
from privacy_ledger.interfaces.http.intake import Intake

__all__ = ["STOP_S", "Address", "Tls", "check", "serve"]

STOP_S: Final = 30
"""So long a stop waits for the answers to what was begun, and again until the views have it."""
CONNECTIONS_MAX: Final = 1000
IDLE_S: Final = 10
BACKLOG: Final = 256
HEAD_BYTES_MAX: Final = 1 << 15


class Address(Struct, frozen=True):
    """Where the service answers; port 0 takes a free one."""

    host: str
    port: int
    is_loopback: bool

    @property
    def text(self) -> str:
        """The address as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Tls(Struct, frozen=True):
    """The certificate, with those that lead to a known one, and its private key, as PEM files."""

    certificate: Path
    key: Path


class _Protocol(H11Protocol):
    """A connection that is ended when no request begins on it for long, however slowly it sends one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the base class
        super().connection_made(transport)
        self._watch(None, was_idle=False)

    def _watch(self, before: RequestResponseCycle | None, *, was_idle: bool) -> None:
        """Look again later, or end the connection: nothing was asked since the last look."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        is_idle = cycle is None or cycle.response_complete
        if is_idle and was_idle and cycle is before:
            self.transport.abort()
            return
        self.loop.call_later(IDLE_S, partial(self._watch, cycle, was_idle=is_idle))


class _Server(uvicorn.Server):
    """A server whose stop is decided by the command that runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def check(address: Address, *, tls: Tls | None, is_behind_proxy: bool) -> None:
    """Refuse to let events cross a network in the clear.

    Raises:
        UnsafeSettings: other machines can reach the address, without TLS and without a proxy that has it.
    """
    if tls is None and not address.is_loopback and not is_behind_proxy:
        raise UnsafeSettings(
            client="HTTP service", setting="--tls-certificate", value=None,
            otherwise="keys and events would cross the network in the clear; without TLS only this machine "
            "may connect, unless --behind-proxy says that a proxy terminates it",
        )  # fmt: skip


async def serve(
    app: Litestar,
    intake: Intake,
    address: Address,
    *,
    tls: Tls | None,
    stop: asyncio.Event,
    on_serving: Callable[[Address], None],
) -> None:
    """Serve until `stop`; then take no more, answer what was begun within `STOP_S`, and return.

    Raises:
        HomeUnusable: the address cannot be bound, or the certificate cannot be used.
    """
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logging.getLogger(name).disabled = True  # they tell of requests, and errors with what was sent
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, date_header=True, proxy_headers=False,
        lifespan="off", ws="none", http=_Protocol, limit_concurrency=CONNECTIONS_MAX, backlog=BACKLOG,
        timeout_keep_alive=IDLE_S, timeout_graceful_shutdown=STOP_S,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        ssl_certfile=None if tls is None else str(tls.certificate),
        ssl_keyfile=None if tls is None else str(tls.key),
    )  # fmt: skip
    try:
        config.load()
    except OSError:
        raise HomeUnusable(
            "The certificate or its key cannot be used. Give PEM files that belong together."
        ) from None
    listener = _bound(address)
    server = _Server(config)
    work = asyncio.create_task(intake.run())
    served = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        host, port = listener.getsockname()[:2]
        on_serving(Address(host, port, address.is_loopback))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, served, work}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        server.should_exit = True
        await served
        intake.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(work, STOP_S)
    finally:
        for task in (served, work):
            task.cancel()
        await asyncio.gather(served, work, return_exceptions=True)
        listener.close()


def _bound(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise HomeUnusable(
            f"The service cannot listen there ({error.strerror}). Give --listen another address."
        ) from None
    return listener
