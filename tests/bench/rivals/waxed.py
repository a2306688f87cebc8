"""A rival: a bytewax dataflow with state and recovery snapshots, and an output.

At-least-once. The state is folded a batch at a time, and each batch gives one record per subject.
"""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from privacy_ledger.engine import collector
from tests.bench.events import REF_BYTES, PlainState, decode_event, decode_state, encode_state, step
from tests.bench.measure import Figure, Meter
from tests.bench.tasks import FoldBytewax

__all__ = ["fold"]

EPOCH_S: Final = 1.0
BATCH: Final = 2000


class _Count(StatefulBatchLogic):  # type: ignore[misc] # not typed here
    """The state of one subject."""

    def __init__(self, stored: bytes | None) -> None:
        self._state: PlainState | None = None if stored is None else decode_state(stored)

    def on_batch(self, values: list[KafkaSourceMessage]) -> tuple[Iterable[bytes], bool]:
        for message in values:
            self._state = step(self._state, decode_event(message.value), message.offset or 0)
        return (encode_state(self._state),), StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        return encode_state(self._state)


def fold(task: FoldBytewax) -> Figure:
    """Fold the source into the output topic; measured from the first event to the end of the run."""
    snapshots = Path(task.folder) / "snapshots"
    snapshots.mkdir()
    init_db_dir(snapshots, 1)
    meter = Meter()

    def by_subject(message: KafkaSourceMessage) -> tuple[str, KafkaSourceMessage]:
        meter.start()
        return message.key[:REF_BYTES].hex(), message

    brokers = [task.bootstrap]
    flow = Dataflow("bench")
    source = op.input("read", flow, KafkaSource(brokers, [task.source], tail=False, batch_size=BATCH))
    keyed = op.map("subject", source, by_subject)
    folded = op.stateful_batch("fold", keyed, _Count)
    out = op.map("record", folded, lambda pair: KafkaSinkMessage(bytes.fromhex(pair[0]), pair[1]))
    op.output("write", out, KafkaSink(brokers, task.output))
    collector.calm()  # as our worker does
    run_main(flow, epoch_interval=timedelta(seconds=EPOCH_S), recovery_config=RecoveryConfig(str(snapshots)))
    return meter.figure(task.events)
