"""What operators see of workers on a real broker: readiness, figures, lag, and named outcomes."""

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from privacy_ledger.adapters.formats import openedx
from privacy_ledger.app.ingest import Source
from privacy_ledger.bootstrap import Runtime, ingest_of
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.testing.broker import Broker
from privacy_ledger.testing.generator import generate
from tests.integration.cluster import Cluster, Worker

LIMIT_S: Final = 90.0
_ADDRESS: Final = re.compile(rb"http://(127\.0\.0\.1:\d+)/")


@pytest_asyncio.fixture
async def cluster(kafka: Broker, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Yield a cluster of four partitions whose workers answer health checks; nothing of it stays."""
    made = Cluster(kafka.bootstrap, tmp_path)
    made.env["PRIVACY_LEDGER_HEALTH"] = ":0"
    yield made
    await made.remove()


def address_of(worker: Worker) -> str:
    """Return where a worker answers, once it has said so."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and worker.process.poll() is None:
        if found := _ADDRESS.search(worker.log.read_bytes()):
            return found[1].decode()
        time.sleep(0.05)
    raise AssertionError(worker.log.read_text(errors="replace")[-2000:])


def page(worker: Worker, path: str) -> tuple[int, bytes]:
    """Return status and body of a page of a worker."""
    try:
        with urllib.request.urlopen(f"http://{address_of(worker)}{path}", timeout=LIMIT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def ready(worker: Worker) -> dict[str, Any]:
    """Return what a worker says of its readiness, and that its status fits."""
    status, body = page(worker, "/readyz")
    document: dict[str, Any] = json.loads(body)
    assert (status == 200) is document["ready"]
    return document


def total(worker: Worker, name: str, labels: Mapping[str, str]) -> float:
    """Return the sum of the series of a worker's metric that have these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page(worker, "/metrics")[1].decode())
        for sample in family.samples
        if sample.name == f"privacy_ledger_{name}" and labels.items() <= sample.labels.items()
    )


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; fails when time is up."""
    deadline = time.monotonic() + LIMIT_S
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it never held"
        await asyncio.sleep(0.1)


def is_ready(worker: Worker) -> bool:
    """Return whether a worker is ready."""
    return bool(ready(worker)["ready"])


def cli(cluster: Cluster, *words: str, health: str = "") -> tuple[int, dict[str, Any]]:
    """Return exit code and document of a command on the cluster."""
    done = subprocess.run(
        [sys.executable, "-m", "privacy_ledger", "--json", *words],
        env={**cluster.env, "PRIVACY_LEDGER_HEALTH": health}, capture_output=True, check=False,
        timeout=LIMIT_S,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


async def ingest(runtime: Runtime, *, seed: int = 1) -> None:
    """Ingest four hundred made-up events of some people."""
    end = datetime.now(UTC) - timedelta(hours=2)
    lines = generate(seed=seed, learners=30, courses=2, events=400, start=end - timedelta(days=9), end=end)
    source = Source(name="openedx", parse=openedx.parse, default_consents=("improve.analyse",))
    await (await ingest_of(runtime)).run(enumerate(lines, start=1), source)


async def rows_of(runtime: Runtime) -> int:
    """Return how many records the ledger holds."""
    count = 0
    for partition in range(runtime.partitions):
        after = -1
        while rows := await runtime.log.read(LEDGER_EVENTS, partition, after=after, limit=5000):
            count += len(rows)
            after = rows[-1].offset
    return count


@pytest.mark.timeout(400)
async def test_workers_are_ready_when_they_fold_and_count_all_that_they_folded(cluster: Cluster) -> None:
    """Alone, then two that share the partitions, then one again after the other died."""
    await cluster.create()
    first = cluster.worker()
    assert await asyncio.to_thread(address_of, first)
    async with cluster.runtime() as runtime:
        await until(lambda: is_ready(first))
        document = ready(first)
        assert {name: sorted(owned) for name, owned in document["passes"].items()} == {
            "analytics": ["0", "1", "2", "3"],
            "core": ["0", "1", "2", "3"],
        }
        assert first.running() >= 8
        await runtime.registrar.tick()
        await ingest(runtime)
        await runtime.passes.settle(timeout_s=60)
        rows = await rows_of(runtime)
        for name in ("core", "analytics"):
            await until(lambda name=name: total(first, "records_folded_total", {"pass": name}) == rows)  # type: ignore[misc] # bound now
        await until(lambda: total(first, "lag_records", {}) == 0 == total(first, "lag_seconds", {}))
        assert total(first, "cycles_total", {"outcome": "committed"}) > 8
        await until(lambda: total(first, "tick_timestamp_seconds", {"pass": "core"}) > 0)
        code, document = cli(cluster, "projections", "lag", "core", health=address_of(first))
        assert (code, document["behind"]) == (0, 0)
        assert {row["worker"]["state"] for row in document["projections"]} == {"running"}

        second = cluster.worker()
        await until(lambda: total(first, "partitions_assigned", {}) == 4 and is_ready(first))
        await until(lambda: is_ready(second))
        shared = [set(ready(worker)["passes"]["core"]) for worker in (first, second)]
        assert (shared[0] | shared[1], shared[0] & shared[1]) == ({"0", "1", "2", "3"}, set())
        await until(lambda: b"privacy_ledger_standby_left{" in page(first, "/metrics")[1])
        gone = next(iter(shared[1]))
        assert total(first, "partition_state", {"pass": "core", "partition": gone}) == 0
        second.kill()
        await until(lambda: total(first, "partitions_assigned", {}) == 8 and is_ready(first))
        assert first.terminate() < 30


@pytest.mark.timeout(300)
async def test_lag_is_seen_without_a_worker(cluster: Cluster) -> None:
    """In records and seconds, exact where nothing is left although a marker stands at the end."""
    await cluster.create()
    async with cluster.runtime() as runtime:
        for _ in range(5):
            await runtime.registrar.tick(force=True)
        rows = await rows_of(runtime)
        code, behind = await asyncio.to_thread(
            cli, cluster, "projections", "lag", "progress", "--fail-above", "0"
        )
        assert code == 5
        assert sum(row["behind"] for row in behind["projections"]) >= rows
        assert {row["position"] for row in behind["projections"]} == {-1}
        assert 0 < behind["seconds"] < LIMIT_S * 3
        worker = cluster.worker()
        await runtime.registrar.tick(force=True)
        await runtime.passes.settle(timeout_s=60)
        await until(lambda: total(worker, "lag_records", {}) == 0 and is_ready(worker))
        code, level = await asyncio.to_thread(cli, cluster, "projections", "lag", "--fail-above", "0")
        assert (code, level["behind"], level["seconds"]) == (0, 0, 0.0)
        assert all(row["end"] > row["position"] + 1 for row in level["projections"])
        assert (await asyncio.to_thread(cli, cluster, "doctor"))[1] == {"findings": []}


@pytest.mark.timeout(300)
async def test_a_worker_with_a_foreign_keystore_names_why_it_is_not_ready(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Every partition is stopped, by the error that the runbook explains, and the worker is alive."""
    await cluster.create()
    async with cluster.runtime() as runtime:
        await runtime.registrar.tick(force=True)
    cluster.env |= {
        "PRIVACY_LEDGER_KEYSTORE": str(tmp_path / "foreign.db"),
        "PRIVACY_LEDGER_KEYS": str(tmp_path / "foreign-keys"),
    }
    worker = cluster.worker("core")

    def is_stopped() -> bool:
        owned = ready(worker)["passes"]["core"] or {}
        said = {(one["state"], one.get("outcome")) for one in owned.values()}
        return len(owned) == 4 and said == {("stopped", "ControlUnreadable")}

    await until(is_stopped)
    assert page(worker, "/livez")[0] == 200
    assert not is_ready(worker)
    assert total(worker, "partition_outcomes_total", {"outcome": "ControlUnreadable"}) >= 4
    assert total(worker, "partition_state", {"state": "stopped"}) == 4
