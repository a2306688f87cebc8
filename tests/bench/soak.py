"""`poe soak-memory`: a real worker under a backlog, its memory sampled until it is flat or is not.

A producer keeps the backlog where it is: the worker never catches up, and its rate is what it can
do beside the producer. With `--rate` events come at that rate instead, and the backlog may shrink.
"""

import argparse
import asyncio
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from msgspec import Struct

from privacy_ledger.adapters.kafka import topics as kafka_topics
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.app.ingest import LINES_PER_BATCH
from privacy_ledger.bootstrap import open_runtime
from privacy_ledger.domain.topics import LEDGER_EVENTS, TOPICS
from privacy_ledger.testing.broker import BrokerUnavailable, running_broker
from tests.bench import kafka, product
from tests.bench.child import Talk
from tests.bench.processes import Child, ChildFailed
from tests.bench.tasks import More, Soak

__all__ = ["Report", "Sample", "Verdict", "feed", "main", "run", "series", "verdict"]

FLAT_WITHIN: Final = 0.10
WARM_UP_PART: Final = 6
"""The first sixth of the time is warm-up: caches fill."""
SAMPLE_S: Final = 2.0
CONTROL_S: Final = 0.5
ASKED_MAX: Final = 20_000
"""At most so many lines are asked for at once."""
LINES_PRINTED: Final = 30
PASSES: Final = ("core", "analytics")
DISK_LEFT_MIN: Final = 5_000_000_000


class Sample(Struct, frozen=True, kw_only=True):
    """The worker at one moment; `behind` is the larger lag of its passes, in records."""

    at_s: float
    resident_mb: float
    behind: int
    written: int


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether memory stayed within a tenth of its median after warm-up."""

    is_flat: bool
    low_mb: float
    median_mb: float
    high_mb: float
    behind_min: int
    folded: int
    says: str


def verdict(samples: Sequence[Sample], *, warm_up_s: float) -> Verdict:
    """Judge the samples after warm-up.

    Raises:
        ValueError: there are none.
    """
    judged = [sample for sample in samples if sample.at_s >= warm_up_s]
    if not judged:
        raise ValueError("no sample was taken after warm-up; let it run longer")
    sizes = [sample.resident_mb for sample in judged]
    low, middle, high = min(sizes), median(sizes), max(sizes)
    first, last = judged[0], judged[-1]
    folded = (last.written - last.behind) - (first.written - first.behind)
    is_flat = folded > 0 and low >= middle * (1 - FLAT_WITHIN) and high <= middle * (1 + FLAT_WITHIN)
    says = (
        f"{'FLAT' if is_flat else 'NOT FLAT'}: {low:.0f} to {high:.0f} MB around {middle:.0f} MB "
        f"({low / middle - 1:+.1%} to {high / middle - 1:+.1%}) over {last.at_s - first.at_s:.0f} s after "
        f"{warm_up_s:.0f} s of warm-up; {folded:,} records folded, never fewer than "
        f"{min(sample.behind for sample in judged):,} behind."
    )
    return Verdict(
        is_flat=is_flat, low_mb=low, median_mb=middle, high_mb=high,
        behind_min=min(sample.behind for sample in judged), folded=folded, says=says,
    )  # fmt: skip


def series(samples: Sequence[Sample], *, every_s: float) -> str:
    """Return the samples as text, a line each period: memory from lowest to highest, lag and rate."""
    lines = [f"{'second':>8}{'MB low':>9}{'median':>9}{'high':>9}{'behind':>12}{'folded/s':>10}"]
    before = samples[0]
    for _, group in itertools.groupby(samples, key=lambda sample: sample.at_s // every_s):
        part = list(group)
        sizes = [sample.resident_mb for sample in part]
        last = part[-1]
        folded = (last.written - last.behind) - (before.written - before.behind)
        rate = folded / (last.at_s - before.at_s) if last.at_s > before.at_s else 0.0
        lines.append(
            f"{last.at_s:>8.0f}{min(sizes):>9.0f}{median(sizes):>9.0f}{max(sizes):>9.0f}"
            f"{last.behind:>12,}{rate:>10,.0f}"
        )
        before = last
    return "\n".join(lines)


# The producer's process -------------------------------------------------------------------------


async def feed(task: Soak, talk: Talk) -> int:
    """Ingest lines on Kafka, as many as each `More` says; say how many were read so far."""
    settings = product.settings(task)
    async with open_runtime(settings) as runtime:
        ingest = await product.ingest(runtime)
        lines = enumerate(_lines(task.learners, talk), start=1)
        summary = await ingest.run(lines, product.SOURCE, on_progress=talk.say)
        return summary.read


def _lines(learners: int, talk: Talk) -> Iterator[bytes]:
    """Yield made-up lines as they are asked for; waiting for that holds up this process only."""
    made = product.lines(learners)
    while (more := talk.hear_waiting(More)) is not None:
        yield from itertools.islice(made, more.events)


# The run ----------------------------------------------------------------------------------------


class _Producer:
    """The producer's process, and how many lines it was asked for and has read."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.asked = 0
        self._read = 0

    def ask(self, lines: int) -> None:
        """Ask for some more lines, in whole batches."""
        lines = min(lines, ASKED_MAX) // LINES_PER_BATCH * LINES_PER_BATCH
        if lines > 0:
            self._child.tell(More(events=lines))
            self.asked += lines

    @property
    def outstanding(self) -> int:
        """The lines asked for that it has not read."""
        for read in self._child.heard(int):
            self._read = read
        return self.asked - self._read


class _Lag:
    """How many records the ledger was given, and how many the passes have not folded."""

    def __init__(self, admin: AIOKafkaAdminClient, log: KafkaLog, task: Soak) -> None:
        self._admin = admin
        self._log = log
        self._groups = [f"{task.prefix}privacy-ledger.{name}" for name in PASSES]

    async def written(self) -> int:
        """Return how many records lie in the ledger, near enough."""
        partitions = range(self._log.partitions(LEDGER_EVENTS))
        return sum([await self._log.end(LEDGER_EVENTS, number) for number in partitions])

    async def now(self) -> tuple[int, int]:
        """Return (written, behind); workers commit offsets as a lag figure every few seconds."""
        written = await self.written()
        folded = []
        for group in self._groups:
            offsets = await self._admin.list_consumer_group_offsets(group)
            folded.append(sum(max(0, committed.offset) for committed in offsets.values()))
        return written, written - min(folded)


async def run(task: Soak, *, minutes: float, backlog: int, rate: int) -> list[Sample]:
    """Write the backlog, start a worker, and sample it until the time is over.

    Raises:
        ChildFailed: the worker or the producer ended, or the disk is nearly full.
    """
    cluster = ClusterSettings(bootstrap=task.bootstrap)
    await kafka.create(cluster, TOPICS, prefix=task.prefix, partitions=task.partitions)
    async with AsyncExitStack() as stack:
        producer = _Producer(stack.enter_context(Child(task)))
        admin = await stack.enter_async_context(kafka_topics.open_admin(cluster))
        log = KafkaLog(cluster, partitions=task.partitions, prefix=task.prefix)
        stack.push_async_callback(log.close)
        await log.start()
        lag = _Lag(admin, log, task)
        while (written := await lag.written()) < backlog or producer.outstanding:
            producer.ask(backlog - written - producer.outstanding)
            await asyncio.sleep(CONTROL_S)
        print(f"{written:,} records written; the worker starts.", file=sys.stderr, flush=True)
        worker = product.Worker(task)
        stack.callback(worker.end)
        await worker.running(task.partitions * len(PASSES))
        samples: list[Sample] = []
        started, asked = time.monotonic(), producer.asked
        while (at_s := time.monotonic() - started) < minutes * 60:
            worker.check()
            _check_disk(Path(task.folder))
            written, behind = await lag.now()
            if not samples or at_s - samples[-1].at_s >= SAMPLE_S:
                size = worker.resident_mb()
                samples.append(Sample(at_s=at_s, resident_mb=size, behind=behind, written=written))
            due = round(rate * at_s) - (producer.asked - asked)
            producer.ask(due if rate else backlog - behind - producer.outstanding)
            await asyncio.sleep(CONTROL_S)
        return samples


def _check_disk(folder: Path) -> None:
    left = shutil.disk_usage(folder).free
    if left < DISK_LEFT_MIN:
        raise ChildFailed(f"{left:,} bytes are left on the disk of {folder}. Free space, or give a --rate.")


class Report(Struct, frozen=True, kw_only=True):
    """One soak; `samples` are those of the whole run."""

    minutes: float
    backlog: int
    rate: int
    partitions: int
    learners: int
    broker: str
    verdict: Verdict
    samples: Sequence[Sample]


def main(arguments: Sequence[str]) -> int:
    """Soak, print the series and the verdict, write the report; return 1 when memory was not flat."""
    parser = argparse.ArgumentParser(prog="poe soak-memory", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--backlog", type=int, default=1_000_000, help="records that the worker is behind")
    parser.add_argument("--rate", type=int, default=0, help="lines a second; 0: as the worker folds")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--learners", type=int, default=50_000)
    parser.add_argument("--out", type=Path, default=Path("soak-memory.json"), help="where the report goes")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="privacy-ledger-soak-"))
    try:
        with running_broker() as broker:
            prefix = f"soak{os.getpid()}.{time.time_ns():x}."
            task = Soak(
                folder=str(folder), bootstrap=broker.bootstrap, prefix=prefix,
                partitions=chosen.partitions, learners=chosen.learners,
            )  # fmt: skip
            samples = asyncio.run(run(task, minutes=chosen.minutes, backlog=chosen.backlog, rate=chosen.rate))
            kind = broker.kind
    except BrokerUnavailable as error:
        print(f"KAFKA: NOT RUN ({error})")
        return 0
    except ChildFailed as error:
        print(f"NOT FLAT: {error}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = verdict(samples, warm_up_s=chosen.minutes * 60 / WARM_UP_PART)
    print(series(samples, every_s=max(SAMPLE_S, chosen.minutes * 60 / LINES_PRINTED)))
    print(found.says)
    report = Report(
        minutes=chosen.minutes, backlog=chosen.backlog, rate=chosen.rate, partitions=chosen.partitions,
        learners=chosen.learners, broker=kind, verdict=found, samples=samples,
    )  # fmt: skip
    chosen.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    print(f"Written: {chosen.out}")
    return 0 if found.is_flat else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
