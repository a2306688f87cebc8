"""The test broker is a real one: it keeps records, transactions and its word across a kill."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from privacy_ledger.testing.broker import (
    Broker,
    BrokerProcess,
    BrokerStartFailed,
    BrokerUnavailable,
    running_broker,
    running_process,
)

LIMIT_S: Final = 60
REQUEST_TIMEOUT_MS: Final = 10_000
METADATA_MAX_AGE_MS: Final = 3_000
ROOT: Final = Path(__file__).parents[2]


async def test_a_record_is_read_back_as_it_was_written(kafka: Broker) -> None:
    """What is produced is consumed, byte for byte."""
    topic = await _new_topic(kafka.bootstrap)
    await _write(kafka.bootstrap, topic=topic, values=[b"played", b"paused"])

    values = await _read(kafka.bootstrap, topic=topic, count=2)

    assert values == [b"played", b"paused"]


async def test_only_committed_transactions_are_read(kafka: Broker) -> None:
    """An aborted transaction is never seen by a committed reader."""
    topic = await _new_topic(kafka.bootstrap)
    producer = _producer(kafka.bootstrap, transactional_id=f"writer-{uuid4().hex}")
    async with asyncio.timeout(LIMIT_S), producer:
        for value, is_kept in [(b"first", True), (b"withdrawn", False), (b"last", True)]:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, value, key=b"k", partition=0)
            await (producer.commit_transaction() if is_kept else producer.abort_transaction())

    values = await _read(kafka.bootstrap, topic=topic, count=2)

    assert values == [b"first", b"last"]


async def test_acknowledged_records_outlive_a_kill(broker_process: BrokerProcess) -> None:
    """After kill -9 and a restart every acknowledged record is there."""
    topic = await _new_topic(broker_process.bootstrap)
    written = [b"%d" % number for number in range(200)]
    await _write(broker_process.bootstrap, topic=topic, values=written)
    before = (broker_process.bootstrap, broker_process.pid)

    broker_process.kill()
    await asyncio.to_thread(broker_process.start)

    assert await _read(broker_process.bootstrap, topic=topic, count=200) == written
    assert broker_process.bootstrap == before[0]
    assert broker_process.pid != before[1]


async def test_a_paused_broker_answers_after_it_is_resumed(broker_process: BrokerProcess) -> None:
    """A stopped broker goes on where it was."""
    topic = await _new_topic(broker_process.bootstrap)
    producer = _producer(broker_process.bootstrap)
    async with asyncio.timeout(LIMIT_S), producer:
        await producer.send_and_wait(topic, b"before", key=b"k", partition=0)
        broker_process.pause()
        waiting = asyncio.ensure_future(producer.send_and_wait(topic, b"after", key=b"k", partition=0))
        done, _ = await asyncio.wait([waiting], timeout=1)
        broker_process.resume()
        await waiting

    assert not done
    assert await _read(broker_process.bootstrap, topic=topic, count=2) == [b"before", b"after"]


@pytest.mark.usefixtures("broker_process")
def test_a_broker_that_cannot_start_says_why() -> None:
    """The error carries the tail of the broker's log."""
    with (
        pytest.raises(BrokerStartFailed, match="nonsense"),
        running_process(overrides={"process.roles": "nonsense"}),
    ):
        pytest.fail("the broker started")


def test_a_machine_without_a_broker_is_told_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The reason names what is not there."""
    for name, value in _bare_machine(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PRIVACY_LEDGER_KAFKA", raising=False)

    with pytest.raises(BrokerUnavailable, match=r"no Docker engine: .*(Java|mvn)"), running_broker():
        pytest.fail("a broker started")


@pytest.mark.parametrize(("required", "count"), [("0", "1 skipped"), ("1", "1 error")])
def test_a_missing_broker_is_reported_and_the_count_stays_last(
    tmp_path: Path, required: str, count: str
) -> None:
    """Asked for and missing is a failure; the count stays the last line."""
    lines = _closing_lines(tmp_path, required=required)

    assert lines[-2].startswith("KAFKA: NOT RUN: no Docker engine: ")
    assert count in lines[-1]


def _closing_lines(tmp_path: Path, *, required: str) -> Sequence[str]:
    test = f"{Path(__file__).relative_to(ROOT)}::{test_a_record_is_read_back_as_it_was_written.__name__}"
    environment = {**os.environ, **_bare_machine(tmp_path), "PRIVACY_LEDGER_REQUIRE_KAFKA": required}
    environment.pop("PRIVACY_LEDGER_KAFKA", None)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return run.stdout.strip().splitlines()


def _bare_machine(tmp_path: Path) -> dict[str, str]:
    """Return an environment with no Docker engine, no Maven, no Java and an empty cache."""
    nothing = str(tmp_path)
    return {
        "PATH": nothing,
        "JAVA_HOME": nothing,
        "XDG_CACHE_HOME": nothing,
        "DOCKER_HOST": f"unix://{nothing}/none",
    }


async def _new_topic(bootstrap: str) -> str:
    topic = f"test-{uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        await admin.start()
        answer = await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    assert [error_code for _, error_code, *_ in answer.topic_errors] == [0]
    return topic


def _producer(bootstrap: str, *, transactional_id: str | None = None) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        transactional_id=transactional_id,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        retry_backoff_ms=10,
    )


async def _write(bootstrap: str, *, topic: str, values: Sequence[bytes]) -> None:
    async with asyncio.timeout(LIMIT_S), _producer(bootstrap) as producer:
        sent = [await producer.send(topic, value, key=b"k", partition=0) for value in values]
        await asyncio.gather(*sent)


async def _read(bootstrap: str, *, topic: str, count: int) -> list[bytes]:
    """Return at least the first `count` committed values of the topic's only partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    consumer.assign([TopicPartition(topic, 0)])
    values: list[bytes] = []
    async with asyncio.timeout(LIMIT_S), consumer:
        while len(values) < count:
            batches = await consumer.getmany(timeout_ms=500)
            values += [record.value for batch in batches.values() for record in batch]
    return values
