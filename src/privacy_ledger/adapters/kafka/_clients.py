"""aiokafka behind a narrow, typed edge: opening, closing, and what its errors mean."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, ProducerClosed, ProducerFenced
from aiokafka.producer.message_accumulator import BatchBuilder

from privacy_ledger.adapters.kafka._consumer import RowConsumer
from privacy_ledger.adapters.kafka.safety import safe_consumer, safe_producer
from privacy_ledger.adapters.kafka.settings import (
    ClusterSettings,
    client_options,
    producer_options,
    reader_options,
)
from privacy_ledger.domain.errors import Fenced, InvariantViolation, LogUnavailable
from privacy_ledger.ports.log import NewRecord

__all__ = [
    "check_size",
    "deliver",
    "discard",
    "open_admin",
    "open_producer",
    "open_reader",
    "translated_errors",
    "unavailable",
]

START_TIMEOUT_S: Final = 20.0
"""A first transactional id waits while the cluster makes its internal topics."""
GIVEN_UP_S: Final = 2.0
"""A start that nobody waits for any more may end its exchange: aiokafka 0.14 forgets, and so never
closes, a connection whose first exchange is cancelled."""
STOP_TIMEOUT_S: Final = 10.0
DELIVERY_TIMEOUT_S: Final = 30.0
"""aiokafka retries an idempotent batch for ever; after this long its fate is unknown."""
RECORD_BYTES: Final = 1_000_000
_NO_HEADERS: Final[list[tuple[str, bytes]]] = []


@contextmanager
def translated_errors(cluster: ClusterSettings) -> Iterator[None]:
    """Re-raise what aiokafka and the network raise as the ledger's own errors."""
    try:
        yield
    except ProducerFenced as error:
        raise Fenced("A newer owner of this writer exists. Stop, or open it again.") from error
    except (KafkaError, OSError, AssertionError) as error:  # aiokafka asserts the states of its own clients
        raise unavailable(cluster, type(error).__name__) from error


def unavailable(cluster: ClusterSettings, reason: str) -> LogUnavailable:
    """Return the error for a cluster that did not do what was asked."""
    return LogUnavailable(
        f"Kafka at {cluster.bootstrap} could not be used ({reason}). "
        "Check the address, the brokers and this client's rights, and try again."
    )


@asynccontextmanager
async def open_admin(cluster: ClusterSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Yield a started admin client and close it afterwards."""
    with translated_errors(cluster):
        admin = AIOKafkaAdminClient(**client_options(cluster))
        try:
            await _start(admin.start())
            yield admin
        finally:
            await admin.close()


async def open_producer(cluster: ClusterSettings, *, transactional_id: str | None = None) -> AIOKafkaProducer:
    """Return a started producer; a transactional one has fenced its predecessors."""
    producer = AIOKafkaProducer(**safe_producer(producer_options(cluster, transactional_id=transactional_id)))
    try:
        await _start(producer.start())
    except BaseException:
        await producer.stop()  # its sender may run already: closing the connections is not enough
        raise
    return producer


async def open_reader(cluster: ClusterSettings) -> RowConsumer:
    """Return a started consumer without a group, and so far without a partition."""
    consumer = RowConsumer(**safe_consumer(reader_options(cluster)))
    try:
        await _start(consumer.start())
    except BaseException:
        await consumer.stop()
        raise
    return consumer


async def _start(start: Coroutine[None, None, None]) -> None:
    """Let a client start, in bounded time; whatever is raised, it does nothing more and may be stopped."""
    starting = asyncio.ensure_future(start)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting], timeout=GIVEN_UP_S)
        raise
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)


async def deliver(
    producer: AIOKafkaProducer, topic: str, partition: int, records: Sequence[NewRecord]
) -> list[int]:
    """Send records of one partition in order, one batch in flight, and return their offsets."""
    offsets: list[int] = []
    batch = producer.create_batch()
    for record in records:
        if not _put(batch, record):
            offsets += await _send(producer, batch, topic, partition)
            batch = producer.create_batch()
            _put(batch, record)
    if batch.record_count():
        offsets += await _send(producer, batch, topic, partition)
    return offsets


async def discard(producer: AIOKafkaProducer) -> None:
    """Close a producer whose batches may not be delivered any more; nothing is raised."""
    # Its sender would go on retrying behind our back, and stop() would wait for it; no public call
    # of aiokafka gives batches up, or looks at the exceptions of the futures that it keeps.
    accumulator = producer._message_accumulator  # noqa: SLF001
    accumulator.fail_all(ProducerClosed())
    waiters = [batch._drain_waiter for queue in accumulator._batches.values() for batch in queue]  # noqa: SLF001
    waiters += [batch._drain_waiter for batch in accumulator._pending_batches]  # noqa: SLF001
    with suppress(KafkaError, OSError, AssertionError):
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await producer.stop()
    with suppress(KafkaError, OSError, AssertionError):
        async with asyncio.timeout(GIVEN_UP_S):
            await producer.client.close()  # where it did not stop in time, its connections are open still
    waiters.append(producer._txn_manager._transaction_waiter)  # noqa: SLF001
    for waiter in waiters:
        if waiter is not None and waiter.done() and not waiter.cancelled():
            waiter.exception()


async def _send(producer: AIOKafkaProducer, batch: BatchBuilder, topic: str, partition: int) -> range:
    count = batch.record_count()
    future = await producer.send_batch(batch, topic, partition=partition)
    done, _ = await asyncio.wait([future], timeout=DELIVERY_TIMEOUT_S)
    if not done:
        raise TimeoutError
    first = int(future.result().offset)
    return range(first, first + count)


def _put(batch: BatchBuilder, record: NewRecord) -> bool:
    """Add a record to a batch; False when the batch is full."""
    headers = list(record.headers) if record.headers else _NO_HEADERS
    return batch.append(timestamp=None, key=record.key, value=record.value, headers=headers) is not None


def check_size(record: NewRecord) -> None:
    """Raise for a record that no broker with default settings takes.

    Raises:
        InvariantViolation: it is larger than the bound.
    """
    size = len(record.key) + len(record.value or b"")
    if record.headers:  # what passes write has none, and there is much of it
        size += sum(len(name) + len(value) for name, value in record.headers)
    if size > RECORD_BYTES:
        raise InvariantViolation(
            f"A record of {size} bytes is above the bound of {RECORD_BYTES}. "
            "Cut it into rows with keys of their own."
        )
