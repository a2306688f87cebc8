"""Another transport below the same seam: librdkafka reads a topic and nothing is done with it.

What it saves beside aiokafka bounds what an adapter on it could be worth.
"""

from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from privacy_ledger.engine.kafka import ROWS_PER_POLL
from tests.bench.measure import Figure, Meter
from tests.bench.tasks import NoopRdkafka

__all__ = ["noop"]

POLL_S: Final = 0.1


def noop(task: NoopRdkafka) -> Figure:
    """Read partition 0 from its beginning with `consume`, committed records only."""
    consumer = Consumer(
        {
            "bootstrap.servers": task.bootstrap,
            "group.id": f"{task.topic}-noop",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "check.crcs": True,
            "fetch.queue.backoff.ms": 10,  # by default it waits a second when its queue is full
        }
    )
    try:
        consumer.assign([TopicPartition(task.topic, 0, 0)])
        meter = Meter()
        meter.start()
        events, last = 0, -1
        while last < task.target:
            messages = consumer.consume(ROWS_PER_POLL, POLL_S)
            if not messages:
                continue
            if (error := messages[-1].error()) is not None:
                raise KafkaException(error)
            events += len(messages)
            last = messages[-1].offset()
        return meter.figure(events)
    finally:
        consumer.close()
