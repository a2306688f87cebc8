"""A rival: a Faust agent with a table in RocksDB, and an output.

At its best safe settings: raw bytes in and out, one decode of five fields, uvloop, no sensors, no
standby. `exactly_once` is left off, for it is not safe; so this one may double after a crash.
"""

import asyncio
from typing import Final

import faust
import uvloop

from privacy_ledger.engine import collector
from tests.bench.events import REF_BYTES, decode_event, decode_state, encode_state, step
from tests.bench.measure import Figure, Meter
from tests.bench.tasks import FoldFaust

__all__ = ["fold"]

FOLD_TIMEOUT_S: Final = 1200.0
TABLE: Final = "state"
_PRODUCER_BATCH_BYTES: Final = 512 * 1024


def fold(task: FoldFaust) -> Figure:
    """Fold the source into the table; measured from the first event to the last acknowledgement."""
    figure: Figure = uvloop.run(_fold(task))
    return figure


async def _fold(task: FoldFaust) -> Figure:
    app = faust.App(
        task.group,
        broker=f"kafka://{task.bootstrap}",
        datadir=task.folder,
        store="rocksdb://",
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        topic_replication_factor=1,
        topic_partitions=1,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        producer_acks=-1,
        producer_linger=0.005,
        producer_max_batch_size=_PRODUCER_BATCH_BYTES,
        broker_commit_interval=1.0,
        broker_max_poll_records=2000,
        stream_buffer_maxsize=4096,
    )
    topic = app.topic(task.source, key_type=bytes, value_type=bytes)
    table = app.Table(TABLE, partitions=1, key_type=bytes, value_type=bytes, options={"driver": "rocksdict"})
    output = None if task.output is None else app.topic(task.output, key_type=bytes, value_type=bytes)
    meter = Meter()
    done = asyncio.Event()

    @app.agent(topic)
    async def count(stream: faust.StreamT[bytes]) -> None:
        app.sensors.remove(app.monitor)  # the worker has added it
        collector.calm()  # as our worker does
        seen = 0
        async for event in stream.events():
            meter.start()
            message = event.message
            ref = message.key[:REF_BYTES]
            stored = table.get(ref)
            state = None if stored is None else decode_state(stored)
            value = encode_state(step(state, decode_event(message.value), message.offset))
            table[ref] = value
            if output is not None:
                _ = await output.send(key=ref, value=value)  # acknowledged by the flush at the end
            seen += 1
            if seen == task.events:
                done.set()

    worker = faust.Worker(
        app, quiet=True, redirect_stdouts=False, loglevel="CRITICAL", loop=asyncio.get_running_loop()
    )
    life = asyncio.create_task(worker.start())
    try:
        async with asyncio.timeout(FOLD_TIMEOUT_S):
            await asyncio.wait({life, asyncio.create_task(done.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if not done.is_set():
                life.result()
                raise RuntimeError("the worker ended before the last event")
            await app.producer.buffer.flush()
            await app.producer.flush()
            figure = meter.figure(task.events)
    finally:
        await asyncio.wait_for(worker.stop(), 30)
    return figure
