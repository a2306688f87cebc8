"""A worker's health pages over real sockets: three paths, GET only, bounded, and honest."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest

from privacy_ledger.adapters.observe.board import Board, PartitionStatus
from privacy_ledger.adapters.observe.health import (
    CONNECTIONS_MAX,
    HEAD_BYTES_MAX,
    REQUEST_S,
    HealthAddress,
    HealthPages,
    ask_readiness,
    serving,
)
from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.ports.observe import Assigned, Restoring, Revoked, Standing, Stands
from privacy_ledger.settings import from_environment

LIMIT_S: Final = 30.0
METRICS: Final = b"a_metric 1.0\n"


@asynccontextmanager
async def served(board: Board) -> AsyncIterator[HealthAddress]:
    """Yield where a server answers for the pass `core` of a board."""
    pages = HealthPages(
        readiness=lambda: board.readiness(("core",)), metrics=lambda: METRICS, metrics_type="text/plain"
    )
    async with asyncio.timeout(LIMIT_S), serving(HealthAddress("127.0.0.1", 0), pages) as address:
        yield address


async def gone(writer: asyncio.StreamWriter) -> None:
    """Close a connection."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def said(address: HealthAddress, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer to a request."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request)
    answer = await reader.read()
    await gone(writer)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split(" ")[1]), dict(line.split(": ", 1) for line in lines), body


async def ended(reader: asyncio.StreamReader) -> bool:
    """Return, once the other side is gone, whether it had said nothing."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def answered_at_last(address: HealthAddress) -> bool:
    """Return whether a page is answered before time is up."""
    while True:
        with suppress(ConnectionError, IndexError):  # sent away without a word
            return (await page(address, "/livez"))[0] == 200
        await asyncio.sleep(0.01)


async def page(address: HealthAddress, path: str, method: str = "GET") -> tuple[int, Any]:
    """Return the status and the JSON of a page."""
    status, _, body = await said(address, f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return status, json.loads(body)


# Pages ----------------------------------------------------------------------------------------


async def test_a_page_is_complete_and_closed() -> None:
    """Length and type are right, nothing is kept in a cache, and the connection ends."""
    async with served(Board()) as address:
        status, headers, body = await said(address, b"GET /metrics?x=1 HTTP/1.1\r\n\r\n")
    assert (status, body, headers["Content-Type"]) == (200, METRICS, "text/plain")
    assert headers["Content-Length"] == str(len(METRICS))
    assert (headers["Cache-Control"], headers["Connection"]) == ("no-store", "close")


async def test_a_worker_is_alive_before_it_is_ready() -> None:
    """An answer proves that its loop turns."""
    async with served(Board()) as address:
        assert await page(address, "/livez") == (200, {"alive": True})
        assert (await page(address, "/readyz"))[0] == 503


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/table", "/router", "/livez/x", "//metrics", "/%6detrics"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_there_is_no_other_page(path: str, method: str) -> None:
    """And the answer repeats nothing of the request."""
    async with served(Board()) as address:
        assert await page(address, path, method) == (404, {})


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get"])
async def test_a_page_can_only_be_got(method: str) -> None:
    """Any other method is answered with the one that is allowed."""
    async with served(Board()) as address:
        status, headers, _ = await said(address, f"{method} /metrics HTTP/1.1\r\n\r\n".encode())
    assert (status, headers["Allow"]) == (405, "GET")


# Readiness ------------------------------------------------------------------------------------


async def test_a_worker_is_ready_when_every_assigned_partition_folds() -> None:
    """Until then each says where it stands, and why."""
    board = Board()
    async with served(board) as address:
        assert await page(address, "/readyz") == (503, {"ready": False, "passes": {"core": None}})
        board.note(Assigned(pass_name="core", partitions=(0, 10, 2)))
        board.note(Stands(pass_name="core", partition=0, standing=Standing.RUNNING))
        board.note(Restoring(pass_name="core", partition=2, records=5000, rate=100.0, eta_s=7.54))
        board.note(Stands(pass_name="core", partition=10, standing=Standing.STOPPED, outcome="LedgerRewound"))
        status, document = await page(address, "/readyz")
        assert (status, document["ready"]) == (503, False)
        assert document["passes"]["core"] == {
            "0": {"state": "running"},
            "2": {"state": "acquiring", "restored": 5000, "eta_s": 7.5},
            "10": {"state": "stopped", "outcome": "LedgerRewound"},
        }
        for partition in (2, 10):
            board.note(Stands(pass_name="core", partition=partition, standing=Standing.RUNNING))
        assert (await page(address, "/readyz"))[0] == 200


async def test_a_rebalance_makes_unready_until_the_next_assignment() -> None:
    """Nothing that an earlier assignment says counts meanwhile; without partitions a worker stands by."""
    board = Board()
    board.note(Assigned(pass_name="core", partitions=(0,)))
    board.note(Stands(pass_name="core", partition=0, standing=Standing.RUNNING))
    ready = [board.readiness(("core",)).ready]
    board.note(Revoked(pass_name="core"))
    board.note(Stands(pass_name="core", partition=0, standing=Standing.RUNNING))
    ready.append(board.readiness(("core",)).ready)
    board.note(Assigned(pass_name="core", partitions=()))
    board.note(Stands(pass_name="core", partition=0, standing=Standing.STOPPED, outcome="Fenced"))
    ready.append(board.readiness(("core",)).ready)
    assert ready == [True, False, True]


async def test_a_partition_that_waits_keeps_its_reason_while_its_restore_stands() -> None:
    """How far it came is said beside the error, and both go when it folds."""
    board = Board()
    board.note(Assigned(pass_name="core", partitions=(0,)))
    board.note(Stands(pass_name="core", partition=0, standing=Standing.WAITING, outcome="LogUnavailable"))
    board.note(Restoring(pass_name="core", partition=0, records=70, rate=9.0, eta_s=4.0))
    waiting = board.readiness(("core",)).passes["core"]
    board.note(Stands(pass_name="core", partition=0, standing=Standing.RUNNING))
    assert waiting == {
        "0": PartitionStatus(state="waiting", outcome="LogUnavailable", restored=70, eta_s=4.0)
    }
    assert board.readiness(("core",)).passes["core"] == {"0": PartitionStatus(state="running")}


async def test_a_worker_can_be_asked_from_the_command_line() -> None:
    """What it says arrives whole; where nobody answers there is nothing, and no error."""
    board = Board()
    board.note(Assigned(pass_name="core", partitions=tuple(range(300))))
    async with served(board) as address:
        assert await ask_readiness(address) == board.readiness(("core",))
    assert await ask_readiness(address) is None


# Bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"GET /livez HTTP/2\r\n\r\n",
        b"GET /livez x HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_plain_request_is_refused(request_: bytes) -> None:
    """Neither a body nor another protocol is read."""
    async with served(Board()) as address:
        assert (await said(address, request_))[0] == 400


async def test_a_request_that_is_too_long_is_refused() -> None:
    """Nothing beyond the bound is kept."""
    async with served(Board()) as address:
        request = b"GET /livez HTTP/1.1\r\nX: " + b"x" * 2 * HEAD_BYTES_MAX
        assert (await said(address, request))[0] == 431


async def test_a_request_that_never_ends_is_cut_off() -> None:
    """After seconds, and others are answered meanwhile."""
    async with served(Board()) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        assert (await page(address, "/livez"))[0] == 200
        async with asyncio.timeout(REQUEST_S * 5):
            assert await ended(reader)
        await gone(writer)


async def test_only_so_many_are_served_at_once() -> None:
    """One more is sent away at once, and the bound frees itself."""
    async with served(Board()) as address:
        idle = [await asyncio.open_connection(address.host, address.port) for _ in range(CONNECTIONS_MAX)]
        reader, one_more = await asyncio.open_connection(address.host, address.port)
        assert await ended(reader)
        await gone(one_more)
        for _, writer in idle:
            await gone(writer)
        assert await answered_at_last(address)


async def test_closing_ends_what_is_open() -> None:
    """No connection keeps a worker from ending."""
    async with served(Board()) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        assert (await page(address, "/livez"))[0] == 200
    async with asyncio.timeout(REQUEST_S / 2):
        assert await ended(reader)
    await gone(writer)


async def test_an_address_in_use_is_named_with_the_way_out() -> None:
    """A sentence, not a traceback."""
    async with served(Board()) as address:
        pages = HealthPages(readiness=lambda: Board().readiness(()), metrics=bytes, metrics_type="x")
        with pytest.raises(HomeUnusable, match="PRIVACY_LEDGER_HEALTH"):
            async with serving(address, pages):
                pass


# The setting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "host", "port", "reach"),
    [
        (":9464", "127.0.0.1", 9464, "this machine"),
        ("localhost:1", "localhost", 1, "this machine"),
        ("127.0.0.5:0", "127.0.0.5", 0, "this machine"),
        ("[::1]:9464", "::1", 9464, "this machine"),
        ("0.0.0.0:9464", "0.0.0.0", 9464, "others"),  # noqa: S104 - the case that is told
        ("[::]:9464", "::", 9464, "others"),
        ("worker.example.com:9464", "worker.example.com", 9464, "others"),
    ],
)
def test_an_address_is_on_this_machine_unless_it_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, value: str, host: str, port: int, reach: str
) -> None:
    """A port alone is on loopback."""
    monkeypatch.setenv("PRIVACY_LEDGER_HEALTH", value)
    address = from_environment().health
    assert address == HealthAddress(host, port)
    assert address.is_loopback is (reach == "this machine")


@pytest.mark.parametrize("value", ["9464x", "localhost", "localhost:", ":65536", ":-1"])
def test_an_address_without_a_port_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The command says which variable."""
    monkeypatch.setenv("PRIVACY_LEDGER_HEALTH", value)
    with pytest.raises(ValueError, match=r".*"):
        from_environment()


def test_nothing_of_it_is_loaded_unless_it_was_asked_for() -> None:
    """Neither metrics nor traces cost a command or a worker anything that did not ask."""
    code = (
        "import sys; import privacy_ledger.interfaces.cli, processors.app; "
        "print([m for m in sys.modules if m.split('.')[0] in ('prometheus_client', 'opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
