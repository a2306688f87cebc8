"""Records at the bound of their size: what is accepted comes back whole, and what is not leaves nothing.

The bound counts key, value and headers, so that every accepted record also fits a broker with
default settings, whatever a batch adds.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from privacy_ledger.adapters.kafka import ClusterSettings, KafkaLog
from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.topics import LEDGER_EVENTS, state_topic
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.testing.broker import Broker
from privacy_ledger.testing.contracts.event_log import eventually_reads, payload, read_all, values
from tests.regression.topics import own_log

STATE = state_topic("core")
BOUND = 1_000_000
KEY, HEADERS = b"k" * 32, (("ce_type", b"profile.updated.v1"),)
AROUND = len(KEY) + sum(len(name) + len(value) for name, value in HEADERS)


@pytest_asyncio.fixture
async def log(kafka: Broker) -> AsyncIterator[KafkaLog]:
    """Yield a log on topics of the test's own."""
    async with own_log(ClusterSettings(bootstrap=kafka.bootstrap)) as opened:
        yield opened


def sized(size: int) -> NewRecord:
    """Return a record of this size, of bytes that no codec shrinks."""
    value = (bytes(range(256)) * (size // 256 + 1))[: size - AROUND]
    return NewRecord(0, KEY, value, HEADERS)


@pytest.mark.parametrize("size", [900_000, BOUND - 1, BOUND])
async def test_a_record_up_to_the_bound_comes_back_whole(log: KafkaLog, size: int) -> None:
    """From the ledger, and from a changelog in a transaction."""
    record = sized(size)
    await log.append(LEDGER_EVENTS, [record])
    await log.append_atomically([(STATE, record)], writer="core.0")

    (event,) = await read_all(log, LEDGER_EVENTS)
    (state,) = await eventually_reads(log, STATE, 1)

    assert (event.value, event.headers, state.value) == (record.value, record.headers, record.value)


@pytest.mark.parametrize("size", [BOUND + 1, 2**20 - 1, 2**20, 2**20 + 1, 10 * 2**20])
async def test_a_record_above_the_bound_leaves_nothing_of_its_batch(log: KafkaLog, size: int) -> None:
    """At once and by name; the writer and the log go on."""
    batch = [payload(b"beside"), sized(size)]
    with pytest.raises(InvariantViolation, match=f"A record of {size} bytes is above the bound of {BOUND}"):
        await log.append(LEDGER_EVENTS, batch)
    with pytest.raises(InvariantViolation, match="Cut it into rows"):
        await log.append_atomically([(STATE, record) for record in batch], writer="core.0")
    await log.append(LEDGER_EVENTS, [payload(b"after")])
    await log.append_atomically([(STATE, payload(b"after"))], writer="core.0")

    assert values(await read_all(log, LEDGER_EVENTS)) == [b"after"]
    assert values(await eventually_reads(log, STATE, 1)) == [b"after"]


async def test_a_hundred_thousand_headers_are_refused_by_their_size(log: KafkaLog) -> None:
    """Headers count like values: they travel and are kept like them."""
    record = NewRecord(0, KEY, b"", tuple((f"h{number:05}", b"12345") for number in range(100_000)))

    with pytest.raises(InvariantViolation, match="is above the bound"):
        await log.append(LEDGER_EVENTS, [record])
