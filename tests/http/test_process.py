"""The service as a process of its own, on a real port: kills, stops, TLS, health, and what it writes."""

import asyncio
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from privacy_ledger.interfaces.http.server import IDLE_S
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import NOW, Cli, encoded, enrolled, event, rows_of
from tests.http.stage import array

START_S: Final = 60
BATCH: Final = 40
BATCHES: Final = 60
CANARY: Final = "canary-pq4-marker"
_ADDRESS: Final = re.compile(rb"https?://[0-9.]+:[0-9]+")


@dataclass
class Served:
    """A service: its process, where it answers, and all that it said."""

    process: subprocess.Popen[bytes]
    events: str = ""
    health: str = ""
    said: list[bytes] = field(default_factory=list)


@contextmanager
def served(cli: Cli, *words: str) -> Iterator[Served]:
    """Yield a service on a free port; it is killed at the end, if it still runs."""
    cli.more["PRIVACY_LEDGER_HEALTH"] = "127.0.0.1:0"
    process = cli.start("--log-level", "DEBUG", "api", "run", "--listen", "127.0.0.1:0", *words)
    found = Served(process)
    stderr = process.stderr
    assert stderr is not None
    is_up = threading.Event()

    def listen() -> None:
        for line in stderr:
            found.said.append(line)
            address = _ADDRESS.search(line)
            if address is not None and line.startswith(b"Health"):
                found.health = address[0].decode()
            elif address is not None and line.startswith(b"Events"):
                found.events = address[0].decode()
                is_up.set()

    ear = threading.Thread(target=listen)
    ear.start()
    try:
        assert is_up.wait(START_S), b"".join(found.said)
        yield found
    finally:
        process.kill()
        ear.join()
        process.communicate()


def key_of(cli: Cli, *formats: str) -> dict[str, str]:
    """Return the header fields of a new key."""
    words = [word for name in formats for word in ("--format", name)]
    token = cli.run("api", "keys", "create", "our-lms", *words).document["key"]
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def batch(number: int) -> bytes:
    """Return a batch of events of people of its own."""
    return array([enrolled(1 + number * BATCH + one, number=number) for one in range(BATCH)])


async def sent(client: httpx.AsyncClient, number: int) -> list[str]:
    """Return the outcome of each event of a batch; none, where there was no answer."""
    try:
        answer = await client.post("/v1/events/openedx", content=batch(number))
    except httpx.HTTPError:
        return []
    assert answer.status_code == 200
    return [one["outcome"] for one in answer.json()["results"]]


async def test_a_kill_loses_nothing_that_was_accepted_and_sending_again_doubles_nothing(cli: Cli) -> None:
    """In the middle of many requests; then a stop in the middle of as many, which answers what it began."""
    headers = key_of(cli, "openedx")
    accepted: set[int] = set()
    with served(cli) as first:
        async with httpx.AsyncClient(base_url=first.events, headers=headers, timeout=60) as client:

            async def send(number: int) -> None:
                if await sent(client, number) == ["accepted"] * BATCH:
                    accepted.add(number)
                if len(accepted) == BATCHES // 4:
                    first.process.kill()

            await asyncio.gather(*[send(number) for number in range(BATCHES)])
    killed = set(accepted)
    with served(cli) as second:
        async with httpx.AsyncClient(base_url=second.events, headers=headers, timeout=60) as client:
            again = {number: await sent(client, number) for number in range(BATCHES)}
            more = [asyncio.create_task(sent(client, BATCHES + number)) for number in range(20)]
            await asyncio.wait(more, return_when=asyncio.FIRST_COMPLETED)
            second.process.send_signal(signal.SIGTERM)
            last = [one for one in await asyncio.gather(*more) if one]
        code = second.process.wait(40)
    async with cli.opened() as runtime:
        kinds = [dict(row.headers).get("ce_type") for row in await rows_of(runtime) if row.value is not None]

    assert BATCHES // 4 <= len(killed) < BATCHES
    assert [number for number in killed if again[number] != ["duplicate"] * BATCH] == []
    assert {outcome for number in again for outcome in again[number]} <= {"accepted", "duplicate"}
    assert {len(found) for found in again.values()} == {BATCH}
    assert (code, last) == (0, [["accepted"] * BATCH] * len(last))
    assert len(last) >= 1
    count = sum(kind == b"course.enrolled.v1" for kind in kinds)
    assert (BATCHES + len(last)) * BATCH <= count <= (BATCHES + 20) * BATCH
    assert count % BATCH == 0


def test_what_is_sent_is_neither_said_nor_kept_outside_of_seals(cli: Cli) -> None:
    """At the loudest level of the log, with requests that are none, too. A revoked key is out in seconds."""
    headers = key_of(cli, "openedx")
    line = encoded(event("play_video", context={"user_id": 7}, event={"id": CANARY, "currentTime": 1}))
    with served(cli) as service:
        with httpx.Client(base_url=service.events, headers=headers) as client:
            statuses = [
                client.post(f"/v1/events/{name}?q={CANARY}", content=body).status_code
                for name in ("openedx", CANARY)
                for body in (line, line[:-4], array([line, line]), CANARY.encode())
            ]
        port = int(service.events.rpartition(":")[2])
        for raw in (
            f"{CANARY}\r\n\r\n",
            f"GET /{CANARY} HTTP/9\r\n\r\n",
            f"POST / HTTP/1.1\r\n{CANARY}\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port)) as connection, suppress(ConnectionError):
                connection.sendall(raw.encode())
                assert CANARY.encode() not in connection.recv(10_000)
        metrics = httpx.get(f"{service.health}/metrics").text
        ready = [httpx.get(f"{service.health}{path}").status_code for path in ("/livez", "/readyz")]
        (key,) = cli.run("api", "keys", "list").document["keys"]
        cli.run("api", "keys", "revoke", key["id"])
        threading.Event().wait(1.2)
        revoked = httpx.post(f"{service.events}/v1/events/openedx", headers=headers, content=line)
        service.process.terminate()
        code = service.process.wait(40)
    scanner = Scanner({"body": CANARY.encode(), "key": headers["Authorization"][-64:].encode()})

    assert statuses == [200, 400, 200, 400, 404, 404, 404, 404]
    assert (ready, revoked.status_code, code) == ([200, 200], 401, 0)
    assert 'privacy_ledger_http_events_total{outcome="accepted",reason=""} 1.0' in metrics
    assert CANARY not in metrics
    assert CANARY.encode() not in b"".join(service.said)
    # Of a key of 256 random bits its hash is kept, and nothing else (decision 0032).
    hits = {(hit.name, hit.encoding) for hit in scanner.scan([cli.folder])}
    assert hits <= {("key", "sha256, hex")}


def test_the_service_is_reached_by_tls(cli: Cli, tmp_path: Path) -> None:
    """With the certificate that it was given, and without one no other machine is let in."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
        .serial_number(1).not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, SHA256())
    )  # fmt: skip
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    headers = key_of(cli, "openedx")
    trust = ssl.create_default_context(cafile=str(certificate))
    with served(cli, "--tls-certificate", str(certificate), "--tls-key", str(key)) as service:
        address = service.events.replace("127.0.0.1", "localhost")
        answer = httpx.post(
            f"{address}/v1/events/openedx", content=enrolled(1), headers=headers, verify=trust
        )
    open_to_all = cli.run("api", "run", "--listen", "0.0.0.0:0")
    half = cli.run("api", "run", "--tls-key", key)

    assert answer.json()["counts"] == {"accepted": 1}
    assert (open_to_all.code, open_to_all.says("--behind-proxy")) == (1, True)
    assert (half.code, half.says("go together")) == (2, True)


def test_keys_are_made_listed_and_revoked(cli: Cli) -> None:
    """What lets somebody in is shown once; names that are none are refused."""
    made = cli.run("api", "keys", "create", "our-lms", "--format", "xapi", "--type", "video.played.v1")
    listed = cli.run("api", "keys", "list")
    revoked = cli.run("api", "keys", "revoke", made.document["id"])
    wrong = [
        cli.run("api", "keys", "create", "Our LMS", "--format", "xapi"),
        cli.run("api", "keys", "create", "our-lms", "--format", "xapi", "--type", "none"),
        cli.run("api", "keys", "create", "our-lms"),
        cli.run("api", "keys", "revoke", CANARY),
    ]

    assert made.document["key"].startswith(f"plk_{made.document['id']}_")
    assert made.document["key"] not in listed.out
    assert (revoked.code, revoked.document["revoked_at"] is None) == (0, False)
    assert [one.code for one in wrong] == [2, 2, 2, 2]
    assert (cli.home / "api-keys.json").stat().st_mode & 0o777 == 0o600


def test_only_the_service_loads_what_it_needs_and_says_how_to_get_it() -> None:
    """Other commands are as quick as before; without the extra the command names what to install."""
    start = "import sys; from privacy_ledger.interfaces.cli.main import main; "
    look = f"{start}print([name for name in ('litestar', 'uvicorn') if name in sys.modules])"
    hidden = f"{start}sys.modules['uvicorn'] = None; main()"
    loaded = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    missing = subprocess.run(
        [sys.executable, "-c", hidden, "api", "run"], capture_output=True, text=True, check=False
    )

    assert loaded.stdout.strip() == "[]"
    assert (missing.returncode, "privacy-ledger[api]" in missing.stderr) == (1, True)


def test_a_connection_on_which_nothing_is_asked_is_ended(cli: Cli) -> None:
    """Also one that sends a request byte by byte, which would otherwise hold its place for ever."""
    with served(cli) as service:
        port = int(service.events.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=3 * IDLE_S) as connection:
            connection.sendall(b"POST /v1/events HTTP/1.1\r\nHost: a")
            started = time.monotonic()
            with suppress(ConnectionError):
                assert connection.recv(100) == b""
            waited = time.monotonic() - started

    assert waited < 2 * IDLE_S + 5
