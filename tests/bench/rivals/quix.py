"""A rival: a quixstreams dataframe with state, exactly-once, and an output.

The state is kept as bytes, so that its JSON codec costs nothing, and the subject is the message's
key, so that nothing is partitioned again. It commits as often as our engine does.
"""

import logging
from typing import Final

from quixstreams import Application, State, message_context
from quixstreams.models import Deserializer, SerializationContext

from privacy_ledger.engine import collector
from tests.bench.events import REF_BYTES, decode_event, decode_state, encode_state, step
from tests.bench.measure import Figure, Meter
from tests.bench.tasks import FoldQuixstreams

__all__ = ["fold"]

COMMIT_S: Final = 0.1
_KEY: Final = b"s"


class _SubjectOnly(Deserializer):  # type: ignore[misc] # not typed here
    """The subject's reference from a record's key."""

    def __call__(self, value: bytes, ctx: SerializationContext) -> bytes:  # noqa: ARG002 - its signature
        return value[:REF_BYTES]


def fold(task: FoldQuixstreams) -> Figure:
    """Fold the source into the state; measured from the first event to the end of the run."""
    logging.getLogger("quixstreams").setLevel(logging.WARNING)
    app = Application(
        broker_address=task.bootstrap,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=COMMIT_S,
        state_dir=task.folder,
        loglevel=None,
    )
    topic = app.topic(task.source, key_deserializer=_SubjectOnly(), value_deserializer="bytes")
    meter = Meter()

    def count(value: bytes, state: State) -> bytes:
        meter.start()
        stored = state.get_bytes(_KEY)
        before = None if stored is None else decode_state(stored)
        after = encode_state(step(before, decode_event(value), message_context().offset))
        state.set_bytes(_KEY, after)
        return after

    folded = app.dataframe(topic).apply(count, stateful=True)
    if task.output is not None:
        folded.to_topic(app.topic(task.output, key_serializer="bytes", value_serializer="bytes"))
    collector.calm()  # as our worker does
    app.run(count=task.events, collect=False)
    return meter.figure(task.events)
