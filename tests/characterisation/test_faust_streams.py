"""What Faust's streams do with events that are not done; the pass engine uses none of them.

When one of these fails after an upgrade, Faust has changed: read the named source of the new
version, then update decision 0011 and this test. No failure here means a defect of the ledger.
"""

import asyncio
from pathlib import Path

import faust
import pytest
from faust.exceptions import ValueDecodeError

from privacy_ledger.testing.broker import Broker
from tests.characterisation.stage import Outcome, Stage, played, until


def numbers(*, below: int) -> list[bytes]:
    """Return the values 0 up to a bound."""
    return [b"%d" % number for number in range(below)]


async def raise_at_the_last(stage: Stage) -> Outcome:
    """Handle six events; the handler of the last one raises."""
    topic = await stage.create("source")
    await stage.produce(topic, numbers(below=6))
    app, handled, failed = stage.app(), list[str](), asyncio.Event()

    @app.agent(app.topic(topic, key_type=bytes, value_type=bytes))
    async def handle(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            if value == b"5":
                failed.set()
                raise ValueError
            handled.append(value.decode())

    await app.start()
    await until(failed.is_set, what="the last event was tried")
    return {"committed": await stage.commit(app, topic), "handled": handled}


def test_f1_an_exception_in_an_agent_acknowledges_the_event(kafka: Broker, tmp_path: Path) -> None:
    """Faust acknowledges in a `finally`: the event whose handler raised is committed past.

    Not ours: a cycle commits position and states after it succeeded, and parks what cannot be read.
    When it fails: the behaviour changed: read `faust/streams.py` (`_py_aiter`), then update
    decision 0011.
    """
    outcome = played(raise_at_the_last, kafka.bootstrap, tmp_path)

    assert outcome == {"committed": 6, "handled": ["0", "1", "2", "3", "4"]}


async def raise_in_a_batch(stage: Stage) -> Outcome:
    """Take ten events by fives; the handler of the first batch raises."""
    topic = await stage.create("source")
    await stage.produce(topic, numbers(below=10))
    app, handled = stage.app(), list[list[str]]()

    @app.agent(app.topic(topic, key_type=bytes, value_type=bytes))
    async def handle(stream: faust.StreamT[bytes]) -> None:
        async for batch in stream.take(5, within=60.0):
            if b"2" in batch:
                raise ValueError
            handled.append([value.decode() for value in batch])

    await app.start()
    await until(lambda: len(handled) == 1, what="the second batch is handled")
    return {"committed": await stage.commit(app, topic), "handled": handled}


def test_f1_an_exception_after_take_acknowledges_the_whole_batch(kafka: Broker, tmp_path: Path) -> None:
    """`take(n)` acknowledges all of its events when the handler of the batch raises.

    Not ours: a cycle's rows are one transaction, which is written whole or not at all.
    When it fails: the behaviour changed: read `faust/streams.py` (`take`), then update decision 0011.
    """
    outcome = played(raise_in_a_batch, kafka.bootstrap, tmp_path)

    assert outcome == {"committed": 10, "handled": [["5", "6", "7", "8", "9"]]}


async def hold_in_hand(stage: Stage, *held: str) -> Outcome:
    """Handle ten events three at a time, but for those that are held."""
    topic = await stage.create("source")
    app, handled = stage.app(), list[str]()

    @app.agent(app.topic(topic, key_type=bytes, value_type=bytes), concurrency=3)
    async def handle(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            if value.decode() in held:
                await asyncio.Event().wait()
            handled.append(value.decode())

    await app.start()
    if "0" not in held:
        await stage.produce(topic, numbers(below=5))
        await until(lambda: len(handled) == 5, what="the events before the hole are handled")
        await stage.commit(app, topic)
    await stage.produce(topic, numbers(below=10)[len(handled) :])
    await until(lambda: len(handled) == 10 - len(held), what="all but the held are handled")
    return {
        "committed": await stage.commit(app, topic, in_hand=len(held)),
        "handled although held": sorted(set(held) & set(handled)),
    }


@pytest.mark.parametrize(
    ("held", "committed"),
    [
        pytest.param(["0"], 10, id="the first event"),
        pytest.param(["5"], 10, id="one event"),
        pytest.param(["5", "6"], 5, id="two neighbours"),
    ],
)
def test_f2_a_commit_skips_one_event_that_is_still_in_hand(
    kafka: Broker, tmp_path: Path, held: list[str], committed: int
) -> None:
    """A hole of exactly one offset is taken for the next offset and committed past; two are not.

    Not ours: a partition is folded by one cycle at a time, and its position is the last offset
    of a row that it folded; no acknowledgements are counted.
    When it fails: the behaviour changed: read `faust/transport/consumer.py` (`_new_offset`), then
    update decision 0011.
    """
    outcome = played(hold_in_hand, kafka.bootstrap, tmp_path, *held)

    assert outcome == {"committed": committed, "handled although held": []}


async def stop_with_an_event_in_hand(stage: Stage) -> Outcome:
    """Stop an application whose handler has taken event 3 and is not done with it."""
    topic = await stage.create("source")
    await stage.produce(topic, numbers(below=6))
    app, handled, in_hand = stage.app(stream_wait_empty=False), list[str](), asyncio.Event()

    @app.agent(app.topic(topic, key_type=bytes, value_type=bytes))
    async def handle(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            if value == b"3":
                in_hand.set()
                await asyncio.Event().wait()
            handled.append(value.decode())

    await app.start()
    await until(in_hand.is_set, what="an event is in hand")
    await app.stop()
    return {"committed": await stage.committed(topic), "handled": handled}


def test_f7_a_stop_without_wait_empty_loses_the_event_in_hand(kafka: Broker, tmp_path: Path) -> None:
    """`stream_wait_empty=False`: the handler is cancelled, and its event is acknowledged and committed.

    Not ours: stopping ends a cycle before its commit or after it, and nothing is acknowledged
    apart; the host's own setting is `True`, and the check of its settings refuses another.
    When it fails: the behaviour changed: read `faust/transport/consumer.py` (`on_stop`) and
    `faust/streams.py`, then update decision 0011.
    """
    outcome = played(stop_with_an_event_in_hand, kafka.bootstrap, tmp_path)

    assert outcome == {"committed": 4, "handled": ["0", "1", "2"]}


class Profile(faust.Record, serializer="json"):
    """A typed value."""

    country: str


async def send_a_tombstone(stage: Stage) -> Outcome:
    """Handle two typed values with a tombstone between them."""
    topic = await stage.create("source")
    await stage.produce(topic, [b'{"country": "NL"}', None, b'{"country": "PT"}'])
    app, handled, errors = stage.app(), list[str](), list[str]()

    @app.agent(app.topic(topic, key_type=bytes, value_type=Profile, value_serializer="json"))
    async def handle(stream: faust.StreamT[Profile]) -> None:
        try:
            async for value in stream:
                handled.append(value.country)
        except ValueDecodeError:
            errors.append("ValueDecodeError")
            raise

    await app.start()
    await until(lambda: len(handled) == 2, what="both profiles are handled")
    return {"committed": await stage.commit(app, topic), "handled": handled, "errors": errors}


def test_f8_a_tombstone_on_a_typed_topic_raises_in_the_agent(kafka: Broker, tmp_path: Path) -> None:
    """A null value on a `Record` topic kills the agent with `ValueDecodeError`, and is committed past.

    Not ours: rows are raw bytes up to our own codec, in which a tombstone is a value of its own.
    When it fails: the behaviour changed: read `faust/serializers/registry.py` (`loads_value`) and
    `faust/transport/conductor.py`, then update decision 0011.
    """
    outcome = played(send_a_tombstone, kafka.bootstrap, tmp_path)

    assert outcome == {"committed": 3, "handled": ["NL", "PT"], "errors": ["ValueDecodeError"]}


async def test_f9_a_channel_is_emptied_when_the_flow_resumes() -> None:
    """What waits in an `app.channel` when a rebalance ends is dropped without a word.

    Not ours: the engine calls its cycle directly; no channel, no queue lies between.
    When it fails: the behaviour changed: read `faust/channels.py` and `mode/utils/queues.py`
    (`FlowControlEvent.resume`), then update decision 0011.
    """
    app = faust.App("channel-only", broker="kafka://127.0.0.1:1", store="memory://", env={})
    app.flow_control.resume()
    channel: faust.ChannelT[bytes] = app.channel()
    receiver = aiter(channel)
    await (await channel.send(value=b"batch"))
    before = receiver.empty()

    app.flow_control.suspend()
    app.flow_control.resume()

    assert (before, receiver.empty()) == (False, True)
