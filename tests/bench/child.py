"""One measured process: `python -m tests.bench.child JSON` prints what came of it as JSON."""

import asyncio
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.kafka.settings import ClusterSettings
from tests.bench import kafka, plain, sealed
from tests.bench.measure import Figure
from tests.bench.plain import Expected
from tests.bench.sealed import Ledger

__all__ = ["Task"]


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to do, where, and over what; each kind reads the members that it needs."""

    kind: str
    folder: str = ""
    home: str = ""
    bootstrap: str = ""
    prefix: str = ""
    source_prefix: str = ""
    topic: str = ""
    events: int = 0
    subjects: int = 0
    last: int = -1
    expected: Expected | None = None
    ledger: Ledger | None = None


async def run(task: Task) -> Figure | Expected | Ledger | int:
    """Do one task."""
    cluster = ClusterSettings(bootstrap=task.bootstrap)
    folder = Path(task.folder)
    match task.kind:
        case "plain fill":
            return await plain.fill(cluster, prefix=task.prefix, events=task.events, subjects=task.subjects)
        case "noop":
            return await kafka.noop(cluster, task.topic, last=task.last)
        case "core" | "core with de-duplication" if task.expected is not None:
            return await plain.fold(
                cluster, folder, source_prefix=task.source_prefix, prefix=task.prefix,
                expected=task.expected, is_exact=task.kind != "core",
            )  # fmt: skip
        case "ingest":
            return await sealed.ingest(folder, lines=task.events, learners=task.subjects)
        case "prepare":
            return await sealed.prepare(folder)
        case "sealed fill":
            return await sealed.fill(cluster, Path(task.home), prefix=task.prefix)
        case "topology" if task.ledger is not None:
            return await sealed.fold(
                cluster, folder, home=Path(task.home), prefix=task.prefix,
                ledger=task.ledger, last=task.last,
            )  # fmt: skip
        case _:
            raise ValueError(task.kind)


if __name__ == "__main__":
    result = asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Task)))
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
