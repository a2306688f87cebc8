"""A keystore that goes away under a worker of a cluster, and comes back."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from privacy_ledger.adapters.keystore import PostgresAddress
from privacy_ledger.bootstrap import Runtime
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.testing.broker import Broker
from privacy_ledger.testing.postgres import PostgresProcess, running_postgres
from tests.integration.damage import Damaged, lines

FRESH_S = 1.1
"""After so long a process asks the keystore before it uses a key."""
MANY = 3


@pytest.fixture
def server(postgres: PostgresProcess) -> Iterator[PostgresProcess]:
    """Yield a server of the test's own, to stop and start; `postgres` says when there can be none."""
    assert postgres.port
    with running_postgres() as running:
        running.sql("CREATE DATABASE keystore")
        yield running


async def sealed_only(cluster: Damaged, runtime: Runtime, chunk: Sequence[bytes]) -> list[NewRecord]:
    """Return the ledger records of lines, sealed, of which the ledger has none yet."""
    sealed: list[NewRecord] = []
    append = runtime.log.append

    async def keep(topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        if topic != LEDGER_EVENTS:
            return await append(topic, records)
        sealed.extend(records)
        return (0,) * len(records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime.log, "append", keep)
        await cluster.take(runtime, chunk)
    return sealed


@pytest.mark.timeout(240)
async def test_a_keystore_that_is_down_keeps_every_offset_until_it_is_back(
    kafka: Broker, server: PostgresProcess, tmp_path: Path
) -> None:
    """The partitions stop and try again, named as waiting; then everything is exact, and nobody set aside."""
    cluster = Damaged(kafka.bootstrap, tmp_path, partitions=2)
    cluster.settings = structs.replace(cluster.settings, keystore=PostgresAddress(server.url("keystore")))
    await cluster.create()
    await cluster.grow(1, events=300)
    async with cluster.core() as (runtime, engine):
        await runtime.passes.settle(timeout_s=60)
        sealed = await sealed_only(cluster, runtime, lines(2, 300))
        before = [await runtime.views.position("core", p) for p in range(cluster.partitions)]
        letters = [await runtime.log.end(DLQ, p) for p in range(runtime.log.partitions(DLQ))]
        server.stop()
        await asyncio.sleep(FRESH_S)
        await runtime.log.append(LEDGER_EVENTS, sealed)
        said = {await cluster.outcome(engine, "key unavailable", p) for p in range(cluster.partitions)}
        await asyncio.sleep(MANY)  # so many attempts
        after = [await runtime.views.position("core", p) for p in range(cluster.partitions)]
        server.start()
        await cluster.exact(runtime)
        assert engine.is_ready
        assert all(engine.outcomes[p].is_over for p in range(cluster.partitions))
        assert letters == [await runtime.log.end(DLQ, p) for p in range(runtime.log.partitions(DLQ))]
    assert len(sealed) > 0
    assert {record.partition for record in sealed} == {0, 1}
    assert [one.offset for one in before] == [one.offset for one in after]
    assert all("cannot be used" in text for text in said)
