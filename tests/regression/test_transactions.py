"""A transactional producer is never used again after an outcome that nobody knows.

Each error is raised where the real client would raise it, once after the broker has committed and
once before it was asked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError, RequestTimedOutError
from aiokafka.producer.sender import EndTxnHandler

from privacy_ledger.adapters.kafka import ClusterSettings, KafkaLog, settings
from privacy_ledger.domain.errors import LogUnavailable
from privacy_ledger.domain.topics import state_topic, view_topic
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.testing.broker import Broker, BrokerProcess
from privacy_ledger.testing.contracts.event_log import (
    eventually_reads,
    payload,
    values,
)
from tests.regression.topics import own_log

STATE, VIEW = state_topic("core"), view_topic("permissions")
WRITER = "core.0"
INDEFINITE = (
    KafkaConnectionError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    ConnectionResetError,
    TimeoutError,
)


@pytest_asyncio.fixture
async def log(kafka: Broker) -> AsyncIterator[KafkaLog]:
    """Yield a log on topics of the test's own, with one committed transaction."""
    async with own_log(ClusterSettings(bootstrap=kafka.bootstrap)) as opened:
        await opened.append_atomically(both(b"before"), writer=WRITER)
        yield opened


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[AIOKafkaProducer]:
    """Return the producers that began a transaction, in order."""
    began: list[AIOKafkaProducer] = []
    begin = AIOKafkaProducer.begin_transaction

    async def noted(producer: AIOKafkaProducer) -> None:
        began.append(producer)
        await begin(producer)

    monkeypatch.setattr(AIOKafkaProducer, "begin_transaction", noted)
    return began


def both(value: bytes) -> list[tuple[str, NewRecord]]:
    """Return one record for a state and one for a view."""
    return [(topic, payload(value, key=value)) for topic in (STATE, VIEW)]


async def all_or_nothing(log: KafkaLog, *, least: int) -> list[bytes | None]:
    """Return the values of both topics, which are the same, once there are so many."""
    state = values(await eventually_reads(log, STATE, least))
    view = values(await eventually_reads(log, VIEW, len(state)))
    assert state == view
    return state


@pytest.mark.parametrize("error", INDEFINITE)
@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "not committed"])
async def test_a_producer_is_discarded_after_a_commit_of_unknown_outcome(
    log: KafkaLog,
    used: list[AIOKafkaProducer],
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
    is_committed: bool,  # noqa: FBT001 - a case of the test
) -> None:
    """The writer says so until it is opened again, and then it is another producer."""
    commit = AIOKafkaProducer.commit_transaction

    async def lost(producer: AIOKafkaProducer) -> None:
        if is_committed:
            await commit(producer)
        raise error()

    with monkeypatch.context() as patched:
        patched.setattr(AIOKafkaProducer, "commit_transaction", lost)
        with pytest.raises(LogUnavailable):
            await log.append_atomically(both(b"unknown"), writer=WRITER)
    with pytest.raises(LogUnavailable, match="Open it again"):
        await log.append_atomically(both(b"refused"), writer=WRITER)
    await log.open_writer(WRITER)
    await log.append_atomically(both(b"after"), writer=WRITER)

    first, second = used
    assert first is not second
    expected = [b"before", b"unknown", b"after"] if is_committed else [b"before", b"after"]
    assert await all_or_nothing(log, least=len(expected)) == expected


@pytest.mark.parametrize("error", INDEFINITE)
async def test_a_producer_is_discarded_after_a_record_of_unknown_outcome(
    log: KafkaLog,
    used: list[AIOKafkaProducer],
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
) -> None:
    """One of two topics does not answer: neither has the records, now or later."""
    send = AIOKafkaProducer.send_batch

    async def lost(producer: AIOKafkaProducer, batch: object, topic: str, *, partition: int) -> object:
        if topic.endswith(VIEW):
            raise error()
        return await send(producer, batch, topic, partition=partition)

    with monkeypatch.context() as patched:
        patched.setattr(AIOKafkaProducer, "send_batch", lost)
        with pytest.raises(LogUnavailable):
            await log.append_atomically(both(b"unknown"), writer=WRITER)
    with pytest.raises(LogUnavailable, match="Open it again"):
        await log.append_atomically(both(b"refused"), writer=WRITER)
    await log.open_writer(WRITER)
    await log.append_atomically(both(b"after"), writer=WRITER)

    first, second = used
    assert first is not second
    assert await all_or_nothing(log, least=2) == [b"before", b"after"]


async def test_a_producer_is_discarded_after_a_cancelled_commit(
    log: KafkaLog, used: list[AIOKafkaProducer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stops in the middle leaves nothing that a later transaction could finish."""
    asked = asyncio.Event()

    async def never(_producer: AIOKafkaProducer) -> None:
        asked.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(AIOKafkaProducer, "commit_transaction", never)
        append = asyncio.create_task(log.append_atomically(both(b"unknown"), writer=WRITER))
        await asked.wait()
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
    with pytest.raises(LogUnavailable, match="Open it again"):
        await log.append_atomically(both(b"refused"), writer=WRITER)
    await log.open_writer(WRITER)
    await log.append_atomically(both(b"after"), writer=WRITER)

    first, second = used
    assert first is not second
    assert await all_or_nothing(log, least=2) == [b"before", b"after"]


async def test_a_producer_is_discarded_after_a_commit_that_was_asked_for_twice(
    broker_process: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused broker lets aiokafka ask again with the same epoch; that epoch is not used any more."""
    monkeypatch.setattr(settings, "REQUEST_TIMEOUT_MS", 1500)
    asked, timed_out = list[EndTxnHandler](), asyncio.Event()
    commit, create, fail = (
        AIOKafkaProducer.commit_transaction,
        EndTxnHandler.create_request,
        EndTxnHandler.handle_error,
    )

    def noted(handler: EndTxnHandler) -> object:
        asked.append(handler)
        return create(handler)

    def failed(handler: EndTxnHandler) -> object:
        timed_out.set()
        return fail(handler)

    async def paused(producer: AIOKafkaProducer) -> None:
        await asyncio.to_thread(broker_process.pause)
        ending = asyncio.create_task(commit(producer))
        try:
            async with asyncio.timeout(60):
                await timed_out.wait()
        finally:
            await asyncio.to_thread(broker_process.resume)
        await ending

    async with own_log(ClusterSettings(bootstrap=broker_process.bootstrap)) as log:
        first = await log.open_writer(WRITER)
        with monkeypatch.context() as patched:
            patched.setattr(EndTxnHandler, "create_request", noted)
            patched.setattr(EndTxnHandler, "handle_error", failed)
            patched.setattr(AIOKafkaProducer, "commit_transaction", paused)
            await log.append_atomically(both(b"late"), writer=WRITER)
        with pytest.raises(LogUnavailable, match="answered late"):
            await log.append_atomically(both(b"refused"), writer=WRITER)
        second = await log.open_writer(WRITER)
        await log.append_atomically(both(b"after"), writer=WRITER)

        assert len(asked) >= 2
        assert second > first
        assert await all_or_nothing(log, least=2) == [b"late", b"after"]
