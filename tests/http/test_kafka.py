"""The service on a real broker: it is killed, sends are repeated, workers are away and come back."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from privacy_ledger.bootstrap import Runtime
from privacy_ledger.ports.keys import Identity
from privacy_ledger.testing.broker import Broker
from tests.cli.cli import Cli, enrolled
from tests.http.stage import array, outcomes, problem
from tests.http.test_process import key_of, served
from tests.integration.cluster import Cluster

pytestmark = [pytest.mark.kafka]

PEOPLE: Final = 20
EACH: Final = 5


@pytest.fixture
async def cluster(kafka: Broker, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Yield topics of the test's own, with one worker."""
    found = Cluster(kafka.bootstrap, tmp_path / "cluster", partitions=2)
    found.folder.mkdir()
    await found.create()
    found.worker()
    try:
        yield found
    finally:
        await found.remove()


def post(client: httpx.Client, who: int) -> httpx.Response:
    """Return the answer to all events of one person."""
    body = array([enrolled(who, number=number) for number in range(EACH)])
    return client.post("/v1/events/openedx", content=body)


async def kept(runtime: Runtime, who: int) -> int:
    """Return how many events of a person the processors took."""
    (row,) = runtime.vault.find((Identity("openedx:user_id", str(who)),))
    assert row is not None
    return len(await runtime.views.live(row.ref))


async def test_what_was_accepted_is_folded_once_whatever_is_killed_or_away(
    cluster: Cluster, cli: Cli
) -> None:
    """The second service knows nothing of the first, and the processors drop what came twice."""
    cli.more.update({key: value for key, value in cluster.env.items() if key.startswith("PRIVACY_LEDGER_")})
    code, _ = await cluster.command("init")
    headers = key_of(cli, "openedx")

    def work() -> tuple[list[httpx.Response], list[httpx.Response], httpx.Response, httpx.Response]:
        with (
            served(cli) as service,
            httpx.Client(base_url=service.events, headers=headers, timeout=60) as client,
        ):
            first = [post(client, who) for who in range(1, PEOPLE + 1)]
        with (
            served(cli) as service,
            httpx.Client(base_url=service.events, headers=headers, timeout=60) as client,
        ):
            again = [post(client, who) for who in range(1, PEOPLE + 1)]
            cluster.workers[0].terminate()
            post(client, PEOPLE + 1)  # nobody folds it, so that the next begins behind it
            time.sleep(1.5)
            alone = post(client, PEOPLE + 2)
            cluster.worker().wait_running(1)
            back = post(client, PEOPLE + 2)
        return first, again, alone, back

    first, again, alone, back = await asyncio.to_thread(work)
    async with cluster.runtime() as runtime:
        await runtime.passes.settle()
        counts = [await kept(runtime, who) for who in range(1, PEOPLE + 1)]

    assert code == 0
    assert [outcomes(answer) for answer in first] == [["accepted"] * EACH] * PEOPLE
    assert {outcome for answer in again for outcome in outcomes(answer)} <= {"accepted", "duplicate"}
    assert (problem(alone), "retry-after" in alone.headers) == ((503, "unavailable"), True)
    assert outcomes(back) == ["accepted"] * EACH
    assert counts == [EACH] * PEOPLE
