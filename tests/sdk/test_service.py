"""The client and the real service over a home: what was accepted is kept, once, through kills."""

import asyncio
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from privacy_ledger.domain.events import CertificateIssued, CookieChoiceRecorded, UsagePageViewed
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.sdk import Event, Flushed, HttpTransport, Ledger, Limits, Refused, SyncLedger
from privacy_ledger.testing.broker import free_ports
from tests.cli.cli import Cli, rows_of
from tests.sdk.service import AT, enrolled, event, granted, paused

COUNT: Final = 1000
PEOPLE: Final = 20
KILLS: Final = 3
LIMITS: Final = Limits(batch_events=25, linger_s=0.02, backoff_first_s=0.05, backoff_max_s=0.5)


def key_in(cli: Cli) -> str:
    """Return a new key for the ledger's own events."""
    found = cli.run("api", "keys", "create", "our-lms", "--format", "ledger")
    assert found.code == 0, found.err
    return str(found.document["key"])


@contextmanager
def running(cli: Cli, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Yield the service on a port; it is killed at the end."""
    process = cli.start("api", "run", "--listen", f"127.0.0.1:{port}")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def is_serving(port: int) -> bool:
    """Return whether the service answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


async def served(port: int) -> None:
    """Return once the service answers."""
    for _ in range(600):
        if await asyncio.to_thread(is_serving, port):
            return
        await asyncio.sleep(0.05)
    raise TimeoutError


async def sent(ledger: Ledger, count: int) -> None:
    """Return once so many events were sent."""
    for _ in range(4000):
        if ledger.figures.sent >= count:
            return
        await asyncio.sleep(0.005)
    raise TimeoutError


async def kept(cli: Cli, *types: str) -> int:
    """Return how many records of these types are in the log."""
    async with cli.opened() as runtime:
        found = Counter(dict(row.headers).get("ce_type") for row in await rows_of(runtime, LEDGER_EVENTS))
    return sum(count for name, count in found.items() if (name or b"").decode() in types)


async def test_events_survive_a_service_that_is_killed_and_restarted(cli: Cli) -> None:
    """A thousand events, three kills: none that was accepted is lost, and none is there twice."""
    key, (port, *_) = key_in(cli), free_ports()
    refused: list[Refused] = []
    transport = HttpTransport(f"http://127.0.0.1:{port}", key=key)
    ledger = Ledger(transport, source="our-lms", limits=LIMITS, on_refused=refused.append)
    emitted, flushed = 0, Flushed()
    async with ledger:
        for turn in range(KILLS + 1):
            with running(cli, port):
                await served(port)
                for _ in range(COUNT // (KILLS + 1)):
                    await ledger.emit(enrolled(emitted, who=1 + emitted % PEOPLE))
                    emitted += 1
                if turn < KILLS:
                    await sent(ledger, emitted // 2)
                else:
                    flushed = await ledger.aclose(timeout_s=60)

    assert refused == []
    assert flushed == Flushed(sent=COUNT)
    assert await kept(cli, "course.enrolled.v1") == COUNT


async def test_the_service_says_of_each_event_what_the_policy_says(cli: Cli) -> None:
    """A consent counts for what happens after it; a group has a record each; a copy is one."""
    key, (port, *_) = key_in(cli), free_ports()
    refused: list[Refused] = []
    group = Event(
        subjects=("openedx:user_id:1", "openedx:user_id:2"), id="group-1",
        fact=CertificateIssued(course="course-v1:Example+One+2026", occurred_at=AT),
    )  # fmt: skip
    viewed = event(UsagePageViewed(path="/dashboard", occurred_at=AT), who=2, id_="viewed-1")
    choice = event(
        CookieChoiceRecorded(source="banner", refused=("performance",), occurred_at=AT), id_="choice-1"
    )
    with running(cli, port):
        await served(port)
        transport = HttpTransport(f"http://127.0.0.1:{port}", key=key)
        ledger = SyncLedger(transport, source="our-lms", limits=LIMITS, on_refused=refused.append).open()
        for one in (
            enrolled(1),
            enrolled(2, who=2),
            granted(1),
            paused(1),
            paused(1),
            viewed,
            group,
            choice,
        ):
            ledger.emit(one)
        flushed = await asyncio.to_thread(ledger.close)

    assert [(one.id, one.reason) for one in refused] == [("viewed-1", "consent_missing")]
    assert flushed == Flushed(sent=7, refused=1)
    assert await kept(cli, "certificate.issued.v1") == 2
    assert await kept(cli, "video.paused.v1") == 1
