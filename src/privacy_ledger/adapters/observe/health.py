"""A worker's answers to health checks and scrapers: GET of three paths, and nothing else.

It runs in the worker's own event loop: whoever gets an answer knows that the loop turns. Requests
are bounded in size, time and number, nothing of them is echoed or logged, and no answer can hold
a value of a person: there are states, error names and figures only.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.observe.board import Readiness
from privacy_ledger.domain.errors import HomeUnusable

__all__ = ["LOOPBACK", "HealthAddress", "HealthPages", "ask_readiness", "serving"]

LOOPBACK: Final = "127.0.0.1"
HEAD_BYTES_MAX: Final = 4096
REQUEST_S: Final = 3.0
CONNECTIONS_MAX: Final = 16
ASK_S: Final = 2.0
ANSWER_BYTES_MAX: Final = 1 << 20
_PIECE: Final = 1 << 16
_JSON: Final = "application/json"
_END: Final = b"\r\n\r\n"
_BODY_HEADERS: Final = (b"\r\ncontent-length:", b"\r\ntransfer-encoding:")


class HealthAddress(Struct, frozen=True):
    """Where a worker answers; port 0 takes a free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name that is none of `localhost` counts as open."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        """Return it as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HealthPages(Struct, frozen=True, kw_only=True):
    """What the pages say, asked for at each request; `metrics` has a content type of its own."""

    readiness: Callable[[], Readiness]
    metrics: Callable[[], bytes]
    metrics_type: str


class _Answer(Struct, frozen=True, kw_only=True):
    status: HTTPStatus
    body: bytes = b"{}"
    kind: str = _JSON


@asynccontextmanager
async def serving(address: HealthAddress, pages: HealthPages) -> AsyncIterator[HealthAddress]:
    """Answer at `address` while the context lasts; yields where, with the port that was taken.

    Raises:
        HomeUnusable: the address cannot be bound.
    """
    server = _Server(pages)
    try:
        listener = await asyncio.start_server(server.serve, address.host, address.port, limit=HEAD_BYTES_MAX)
    except OSError as error:
        raise HomeUnusable(
            f"Health checks cannot be answered at {address} ({error.strerror or type(error).__name__}). "
            "Give PRIVACY_LEDGER_HEALTH another address, or unset it."
        ) from None
    try:
        yield HealthAddress(address.host, listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        server.close()


class _Server:
    """Serves connections, a bounded number at once, each for one request."""

    def __init__(self, pages: HealthPages) -> None:
        self._pages = pages
        self._open: set[asyncio.StreamWriter] = set()

    def close(self) -> None:
        """End the connections that are open."""
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close; beyond the bound, close only."""
        if len(self._open) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(REQUEST_S):
                    writer.write(_encoded(await self._answer(reader)))
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()  # whoever does not read must not hold on to what was said
            self._open.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader) -> _Answer:
        try:
            head = await reader.readuntil(_END)
        except asyncio.LimitOverrunError:
            return _Answer(status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except asyncio.IncompleteReadError:
            return _Answer(status=HTTPStatus.BAD_REQUEST)
        return self._page(head)

    def _page(self, head: bytes) -> _Answer:
        """Return the answer to the head of a request."""
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or _has_body(head):  # noqa: PLR2004 - method, path, version
            return _Answer(status=HTTPStatus.BAD_REQUEST)
        method, target, _ = words
        path = target.partition(b"?")[0]
        if path not in {b"/livez", b"/readyz", b"/metrics"}:
            return _Answer(status=HTTPStatus.NOT_FOUND)
        if method != b"GET":
            return _Answer(status=HTTPStatus.METHOD_NOT_ALLOWED)
        if path == b"/metrics":
            return _Answer(status=HTTPStatus.OK, body=self._pages.metrics(), kind=self._pages.metrics_type)
        if path == b"/livez":
            return _Answer(status=HTTPStatus.OK, body=b'{"alive":true}')
        readiness = self._pages.readiness()
        status = HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _Answer(status=status, body=msgspec.json.encode(readiness))


def _has_body(head: bytes) -> bool:
    lower = head.lower()
    return any(name in lower for name in _BODY_HEADERS)


def _encoded(answer: _Answer) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.kind}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET")
    return "\r\n".join(lines).encode("ascii") + _END + answer.body


async def ask_readiness(address: HealthAddress) -> Readiness | None:
    """Return what the worker at `address` says of itself, or None where none answers in time."""
    try:
        async with asyncio.timeout(ASK_S):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")
                answer = b""
                while len(answer) < ANSWER_BYTES_MAX and (more := await reader.read(_PIECE)):
                    answer += more
            finally:
                writer.transport.abort()
        return msgspec.json.decode(answer.partition(_END)[2], type=Readiness)
    except (OSError, TimeoutError, msgspec.DecodeError):
        return None
