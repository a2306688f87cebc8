"""`poe bench-erasures`: how long an erasure takes under load, seen by others than who carries it out.

On a real broker one worker runs every pass, a producer brings other people's events at a steady
rate, and people are erased evenly over the time, each by the saga of the command `erase`, at most so
many at once. Other processes hold the keys open, ask the projections, and read the broker's files.
A bar that is missed is said. Exit code 1: an erasure is not complete, or something can still be read.
"""

import argparse
import asyncio
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.domain.topics import LEDGER_EVENTS, TOPICS
from privacy_ledger.testing.broker import Broker, BrokerUnavailable, running_broker
from tests.bench import kafka, product
from tests.bench.erasure_report import Found, Setup, broken, found_of, text
from tests.bench.measure import cpu_s_of
from tests.bench.processes import Child, ChildFailed, do
from tests.bench.tasks import (
    Checked,
    Erased,
    ErasureBytes,
    ErasureCheck,
    ErasureFeed,
    ErasureKeys,
    ErasurePrepare,
    ErasureRun,
    ErasureViews,
    Fed,
    Gone,
    OnCluster,
    Order,
    Seen,
)

__all__ = ["Chosen", "bound_s", "main", "run", "sample_of"]

K = TypeVar("K", bound=OnCluster)
N = TypeVar("N", int, float)
PASSES: Final = 2
TICK_S: Final = 0.005
WARM_UP_S: Final = 5.0
"""The feed runs so long before the first erasure: its people are registered, and caches are warm."""
BOUNDS_WAITED: Final = 4
"""After the last erasure bytes are looked for during so many times the bound."""
TOLD_PARTS: Final = 10
_NS: Final = 1_000_000_000


class Chosen(Struct, frozen=True, kw_only=True):
    """What is measured."""

    erasures: int
    per_second: float
    in_hand: int
    rate: int
    partitions: int
    learners: int
    sample: int
    scale_ms: int
    minutes: float
    is_fresh: bool


def bound_s(scale_ms: int) -> float:
    """Return after how many seconds the ledger's settings promise that bytes of the erased are gone.

    A tombstone's segment is rolled after `segment.ms`, compacted when it was dirty for
    `max.compaction.lag.ms`, and the old file is deleted after `file.delete.delay.ms`.
    """
    (ledger,) = (topic for topic in TOPICS if topic.name == LEDGER_EVENTS)
    config = ledger.config(scale_ms=scale_ms)
    parts = ("segment.ms", "max.compaction.lag.ms", "file.delete.delay.ms")
    return sum(int(config[part]) for part in parts) / 1000


def sample_of(erasures: int, wanted: int) -> tuple[int, ...]:
    """Return numbers of people, evenly over all."""
    wanted = min(wanted, erasures)
    return tuple(number * erasures // wanted for number in range(wanted))


# The run ----------------------------------------------------------------------------------------


class _Run:
    """One run on a broker, in a folder; tasks are made here so that all name the same place."""

    def __init__(self, chosen: Chosen, folder: Path, broker: Broker) -> None:
        self.chosen = chosen
        self._segments = None if broker.data_dir is None else broker.data_dir / "data"
        self._file = str(folder / "people")
        self._folder = str(folder)
        self._bootstrap = broker.bootstrap
        self._prefix = f"erasures{os.getpid()}.{time.time_ns():x}."

    async def create(self) -> None:
        """Create the topics: the ledger with periods of seconds, all others as they are declared."""
        cluster = ClusterSettings(bootstrap=self._bootstrap)
        for topics, scale in (
            ([topic for topic in TOPICS if topic.name == LEDGER_EVENTS], self.chosen.scale_ms),
            ([topic for topic in TOPICS if topic.name != LEDGER_EVENTS], None),
        ):
            await kafka.create(
                cluster, topics, prefix=self._prefix, partitions=self.chosen.partitions, scale_ms=scale
            )

    def task(self, kind: type[K], **more: object) -> K:
        """Return a task of this run."""
        place = {
            "folder": self._folder, "bootstrap": self._bootstrap, "prefix": self._prefix,
            "partitions": self.chosen.partitions,
        }  # fmt: skip
        return msgspec.convert({**place, **more}, kind)

    def go(self) -> tuple[int, Found]:
        """Fill, feed, erase, look and check; return how many records the people held, and what was seen.

        Raises:
            ChildFailed: the worker or another process ended.
        """
        asyncio.run(self.create())
        chosen, file = self.chosen, self._file
        records = do(self.task(ErasurePrepare, people=chosen.erasures, file=file), int)
        _tell(f"{records:,} records of {chosen.erasures:,} people written; the worker starts.")
        with ExitStack() as stack:
            worker = product.Worker(self.task(ErasureKeys, file=file))
            stack.callback(worker.end)
            asyncio.run(worker.running(chosen.partitions * PASSES))
            feed = stack.enter_context(
                Child(self.task(ErasureFeed, learners=chosen.learners, rate=chosen.rate))
            )
            keys = stack.enter_context(Child(self.task(ErasureKeys, file=file)))
            views = stack.enter_context(Child(self.task(ErasureViews, file=file)))
            segments = self._segments_child(stack)
            erasers = [
                stack.enter_context(Child(self.task(ErasureRun, file=file, is_fresh=chosen.is_fresh)))
                for _ in range(chosen.in_hand)
            ]
            lookers = [keys, views, *([] if segments is None else [segments])]
            for child in (feed, *lookers, *erasers):
                child.hear(int)
            _tell("Every process is ready.")
            time.sleep(WARM_UP_S)
            roles = {
                "worker": [worker.pid], "feed": [feed.pid], "erasers": [one.pid for one in erasers],
                "who hold the keys": [keys.pid], "who ask the projections": [views.pid],
                "who read the files": [] if segments is None else [segments.pid],
            }  # fmt: skip
            cpu_s, events, begun = _cpu_s(roles), max(feed.heard(int), default=0), time.monotonic()
            orders, erased = self._erase(worker, erasers, [keys, views])
            seconds, events = time.monotonic() - begun, max(feed.heard(int), default=events) - events
            cpu_s = {role: used - cpu_s[role] for role, used in _cpu_s(roles).items()}
            for child in lookers:
                child.close()
            gone = None if segments is None else segments.end(list[Gone])
            if gone is not None:
                gone = [one for one in gone if one.person < len(orders)]
            unreadable, clean = keys.end(list[Seen]), views.end(list[Seen])
            fed = feed.end(Fed)
            worker.check()
            checked = do(self.task(ErasureCheck, file=file, people=len(orders)), Checked)
        return records, Found(
            orders=orders, erased=erased, unreadable=unreadable, clean=clean, gone=gone, fed=fed,
            checked=checked, seconds=seconds, events=events, cpu_s=cpu_s,
        )  # fmt: skip

    def _segments_child(self, stack: ExitStack) -> Child | None:
        """Start who looks into the broker's files, where they are on this machine and that is wanted."""
        chosen = self.chosen
        if self._segments is None or not chosen.sample:
            return None
        task = self.task(
            ErasureBytes, file=self._file, segments=str(self._segments),
            sample=sample_of(chosen.erasures, chosen.sample),
            patience_s=bound_s(chosen.scale_ms) * BOUNDS_WAITED,
        )  # fmt: skip
        return stack.enter_context(Child(task))

    def _erase(
        self, worker: product.Worker, erasers: Sequence[Child], lookers: Sequence[Child]
    ) -> tuple[list[Order], list[Erased]]:
        """Hand out each erasure when it is due, or as soon after as an eraser is free; return all.

        What could not be begun in time is not begun.
        """
        total, gap_ns = self.chosen.erasures, round(_NS / self.chosen.per_second)
        orders: list[Order] = []
        erased: list[Erased] = []
        free, busy = list(erasers), list[Child]()
        begun, told = time.monotonic_ns(), 0
        until = begun + round(self.chosen.minutes * 60 * _NS)
        while busy or (len(orders) < total and time.monotonic_ns() < until):
            worker.check()
            for eraser in list(busy):
                if done := eraser.heard(Erased):
                    erased += done
                    busy.remove(eraser)
                    free.append(eraser)
            while (
                free and len(orders) < total and begun + len(orders) * gap_ns <= time.monotonic_ns() < until
            ):
                order = Order(person=len(orders), due_ns=begun + len(orders) * gap_ns)
                orders.append(order)
                eraser = free.pop(0)
                for child in (*lookers, eraser):
                    child.tell(order)
                busy.append(eraser)
            if len(erased) * TOLD_PARTS // total > told:
                told = len(erased) * TOLD_PARTS // total
                _tell(f"{len(erased):,} of {total:,} sagas have ended.")
            time.sleep(TICK_S)
        return orders, erased


def run(chosen: Chosen, folder: Path, broker: Broker) -> tuple[Setup, Found]:
    """Measure once on a broker, in an empty folder.

    Raises:
        ChildFailed: a process ended, so that nothing was measured.
    """
    load, commit = os.getloadavg()[0], _commit()
    records, found = _Run(chosen, folder, broker).go()
    setup = Setup(
        commit=commit, broker=broker.kind, erasures=chosen.erasures, per_second=chosen.per_second,
        in_hand=chosen.in_hand, is_fresh=chosen.is_fresh, rate=chosen.rate,
        partitions=chosen.partitions, learners=chosen.learners,
        records=records, scale_ms=chosen.scale_ms, bound_s=bound_s(chosen.scale_ms),
        machine={
            "python": platform.python_version(), "machine": platform.machine(),
            "cpus": str(os.cpu_count()), "load": f"{load:.1f}",
        },
    )  # fmt: skip
    return setup, found


def _cpu_s(roles: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the CPU-seconds of the processes of each role so far."""
    return {role: sum(map(cpu_s_of, processes)) for role, processes in roles.items()}


def _tell(text_: str) -> None:
    print(text_, file=sys.stderr, flush=True)


def _commit() -> str:
    """Return the commit of the tree that was measured, and whether it was changed since."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    name = git("rev-parse", "--short=10", "HEAD") or "unknown"
    return name + (" with changes" if git("status", "--porcelain") else "")


# The command ------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Measure, print the report and write it where asked; return 1 when somebody is not erased."""
    asked = _parser().parse_args(arguments)
    chosen = Chosen(
        erasures=asked.erasures, per_second=asked.per_second, in_hand=asked.in_hand, rate=asked.rate,
        partitions=asked.partitions, learners=asked.learners, sample=asked.sample, scale_ms=asked.scale_ms,
        minutes=asked.minutes, is_fresh=asked.fresh,
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="privacy-ledger-erasures-"))
    try:
        with running_broker() as broker:
            setup, found = run(chosen, folder, broker)
    except BrokerUnavailable as error:
        print(f"KAFKA: NOT RUN ({error})")
        return 0
    except ChildFailed as error:
        print(f"NOT MEASURED: {error}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = found_of(found, setup)
    document = msgspec.json.format(msgspec.json.encode(report), indent=2)
    print(document.decode() if asked.json else text(report))
    if asked.out is not None:
        asked.out.write_bytes(document)
        _tell(f"Written: {asked.out}")
    return 1 if broken(report) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="poe bench-erasures", description=__doc__)
    parser.add_argument("--erasures", type=_positive(int), default=2000, help="people who are erased")
    parser.add_argument(
        "--per-second", type=_positive(float), default=10.0, help="erasures asked for a second"
    )
    parser.add_argument("--in-hand", type=_positive(int), default=4, help="sagas at once, each in a process")
    parser.add_argument("--rate", type=_positive(int), default=500, help="other people's events a second")
    parser.add_argument("--partitions", type=_positive(int), default=4)
    parser.add_argument("--learners", type=_positive(int), default=5_000, help="other people")
    parser.add_argument("--sample", type=int, default=50, help="people whose bytes are looked for; 0: none")
    parser.add_argument(
        "--scale-ms", type=_positive(int), default=5000, help="segment and compaction lag of the ledger"
    )
    parser.add_argument(
        "--minutes",
        type=_positive(float),
        default=120.0,
        help="none is begun after so long, which fails the run",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="erasers read projections anew each time, as commands do"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead")
    parser.add_argument("--out", type=Path, help="write the report as JSON here")
    return parser


def _positive(kind: Callable[[str], N]) -> Callable[[str], N]:
    """Return a parser of numbers above zero."""

    def parse(given: str) -> N:
        number = kind(given)
        if number <= 0:
            raise argparse.ArgumentTypeError("give a number above zero")
        return number

    return parse


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
