"""A Faust application that counts events per key in a table; tests run it as a process.

`python -m faust -A tests.characterisation.counting worker`. It writes down how far it is: what a
test must know of a process that it is going to kill.
"""

import os
from pathlib import Path
from typing import Final

import faust
import msgspec
from faust.types import TP

from tests.characterisation.stage import host_app

__all__ = ["app", "count", "counts", "report"]

KEY: Final = b"key"
_PROGRESS = Path(os.environ["COUNTING_PROGRESS"])

app = host_app(
    os.environ["COUNTING_APP"],
    os.environ["COUNTING_BROKER"],
    _PROGRESS.parent,
    store="rocksdb://",
    store_check_exists=False,
)
counts = app.Table("counts", key_type=bytes, value_type=int, default=int, partitions=1)
_handled = [0]


@app.agent(app.topic(os.environ["COUNTING_TOPIC"], key_type=bytes, value_type=bytes))
async def count(stream: faust.StreamT[bytes]) -> None:
    """Count every event under its key."""
    async for event in stream.events():
        counts[event.key] += 1
        _handled[0] += 1


@app.timer(interval=0.2)  # type: ignore[untyped-decorator] # Faust declares no types for it
async def report() -> None:
    """Replace the file: events handled, events counted, and the changelog offset the store has reached."""
    changelog = TP(counts.changelog_topic.get_topic_name(), 0)
    progress = (_handled[0], counts[KEY], counts.persisted_offset(changelog))
    draft = _PROGRESS.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(progress))
    draft.replace(_PROGRESS)
