"""A light topology in real worker processes: the engine as it is, over small plain events.

Every event counts once for its subject and there is no de-duplication, so that a record that is
lost or folded twice is seen in the view. `python -m tests.integration.light JSON` is a worker.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar
from uuid import uuid4

import msgspec
import psutil
from msgspec import Struct

from privacy_ledger.adapters.clock import SystemClock
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.kafka import _clients
from privacy_ledger.adapters.kafka import settings as kafka_settings
from privacy_ledger.adapters.kafka import source as kafka_source
from privacy_ledger.adapters.kafka import topics as kafka_topics
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.adapters.kafka.source import GroupMember, GroupSource
from privacy_ledger.adapters.kafka.tail import KafkaTail
from privacy_ledger.adapters.rocks_store import RocksFolder
from privacy_ledger.adapters.worker_slot import take_slot
from privacy_ledger.domain.topics import CONTROL_HINTS, DLQ, Topic, state_topic, view_topic
from privacy_ledger.domain.values import partition_of
from privacy_ledger.engine.assignment import divide
from privacy_ledger.engine.kafka import KafkaEngine
from privacy_ledger.logging import configure
from privacy_ledger.ports.codec import HEARTBEAT_KEY
from privacy_ledger.ports.log import NewRecord
from tests.bench import plain
from tests.bench.events import PlainState
from tests.bench.source import SOURCE
from tests.integration.cluster import Process, until

__all__ = [
    "CLIENT_DEFAULTS",
    "TOPICS",
    "LightCluster",
    "LightTask",
    "LightWiring",
    "LightWorker",
    "Verdict",
    "engine_of",
    "open_log",
]

CLIENT_DEFAULTS = {
    "_METADATA_MAX_AGE_MS": 300_000, "REQUEST_TIMEOUT_MS": 40_000, "_RETRY_BACKOFF_MS": 100,
    "_HEARTBEAT_INTERVAL_MS": 3000, "_FETCH_WAIT_MS": 500, "_BATCH_BYTES": 16_384,
    "_TRANSACTION_TIMEOUT_MS": 60_000,
}  # fmt: skip
"""What aiokafka does where nothing is set, in place of our measured settings; its session is 10 s."""
_VIEW_TOPIC = view_topic("bench")


def _topic(name: str, policy: Literal["compact", "delete"]) -> Topic:
    return Topic(name=name, partitions=None, policy=policy, holds="a test", writers=(), readers=())


TOPICS = (
    _topic(SOURCE, "delete"), _topic(_VIEW_TOPIC, "compact"),
    _topic(state_topic(plain.PASS), "compact"), _topic(DLQ, "delete"),
    _topic(CONTROL_HINTS, "delete"),
)  # fmt: skip
_KINDS = ("opened", "played", "answered", "closed")
_START = datetime(2026, 3, 1, tzinfo=UTC)


class LightTask(Struct, frozen=True, kw_only=True):
    """What one worker process is told."""

    bootstrap: str
    prefix: str
    folder: str
    partitions: int
    session_ms: int = 6000
    standbys: int = 1
    leaves_at_stop: bool = True
    has_client_defaults: bool = False
    freezer: str = ""


class Verdict(Struct, frozen=True, kw_only=True):
    """What the view says, beside what was sent."""

    events: int
    lost: int
    doubled: int

    @property
    def is_exact(self) -> bool:
        """Whether every event counts once."""
        return self.lost == self.doubled == 0


class LightWiring(plain.PlainWiring):
    """The plain wiring over several partitions, as a named worker."""

    def __init__(self, task: LightTask, log: KafkaLog) -> None:
        """Take a state folder of its own."""
        folder = Path(task.folder)
        cluster = ClusterSettings(bootstrap=task.bootstrap)
        slot = take_slot(folder / "state", ids=SystemIds())
        keys = folder / f"keys-{uuid4().hex[:8]}"
        keys.mkdir(parents=True)
        super().__init__(keys, log, cluster, source_prefix=task.prefix, prefix=task.prefix, is_exact=False)
        self.path = slot.path
        self.folder = RocksFolder(slot.path)
        self._task = task
        self._identity = slot.identity

    def source(self) -> GroupSource:
        """Return an unjoined member of the group."""
        task = self._task
        member = GroupMember(
            group=f"{task.prefix}light", session_ms=task.session_ms, identity=self._identity,
            writer=f"{task.prefix}light.{self._identity}", leaves_at_stop=task.leaves_at_stop,
        )  # fmt: skip
        return GroupSource(
            self._cluster, member, topic=task.prefix + SOURCE, partitions=task.partitions,
            plan=partial(divide, standbys=task.standbys),
        )  # fmt: skip

    def tail(self) -> KafkaTail:
        """Return a reader of the changelogs."""
        return KafkaTail(self._cluster, prefix=self._task.prefix, places=2 * self._task.partitions)


class FreezingLog(KafkaLog):
    """A log at which its process freezes itself, where a file asks for it: before a transaction begins."""

    freezer = Path()

    async def append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> dict[tuple[str, int], int]:
        """Append, perhaps much later, as one whose machine slept meanwhile."""
        if self.freezer.exists():
            self.freezer.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return await super().append_atomically(writes, writer=writer)


class LightWorker(Process):
    """A worker of the light topology."""

    def __init__(self, task: LightTask, log: Path) -> None:
        """Start it."""
        self._freezer = log.with_suffix(".freeze")
        task = msgspec.structs.replace(task, freezer=str(self._freezer))
        super().__init__(["-m", "tests.integration.light", msgspec.json.encode(task).decode()], log)

    async def freeze_in_transaction(self) -> None:
        """Return when it is frozen with a batch folded and its transaction not begun; data must flow."""
        process = psutil.Process(self.process.pid)
        self._freezer.touch()
        await until(lambda: process.status() == psutil.STATUS_STOPPED)


L = TypeVar("L", bound=KafkaLog)


async def open_log(task: LightTask, kind: type[L]) -> L:
    """Return an open log on the run's topics."""
    log = kind(
        ClusterSettings(bootstrap=task.bootstrap), partitions=task.partitions, topics=TOPICS,
        prefix=task.prefix,
    )  # fmt: skip
    await log.start()
    return log


def engine_of(wiring: LightWiring, log: KafkaLog) -> KafkaEngine:
    """Return an engine that has not run yet."""
    return KafkaEngine(wiring.declaration, wiring, wiring.means(log), clock=SystemClock(), ids=SystemIds())


class LightCluster:
    """Topics and state folders of one run, and what was sent to it."""

    def __init__(self, bootstrap: str, folder: Path, *, partitions: int = 4, seed: int = 1) -> None:
        """Choose a fresh prefix; nothing is created yet."""
        self.folder = folder
        self.prefix = f"l{uuid4().hex[:10]}."
        self.group = f"{self.prefix}light"
        self.partitions = partitions
        self.cluster = ClusterSettings(bootstrap=bootstrap)
        self.workers: list[LightWorker] = []
        self.sent: Counter[bytes] = Counter()
        self.seen = [-1] * partitions
        self._counts: Counter[bytes] = Counter()
        self._number = 0
        self._rng = random.Random(seed)
        self._log: KafkaLog | None = None

    async def create(self) -> None:
        """Create the topics."""
        async with kafka_topics.open_admin(self.cluster) as admin:
            await kafka_topics.apply(admin, TOPICS, partitions=self.partitions, prefix=self.prefix)

    def task(self, *, folder: str = "", **changes: object) -> LightTask:
        """Return the task of a worker whose state lies in a folder of this name."""
        task = LightTask(
            bootstrap=self.cluster.bootstrap, prefix=self.prefix, partitions=self.partitions,
            folder=str(self.folder / folder),
        )  # fmt: skip
        return msgspec.structs.replace(task, **changes)

    def worker(self, *, folder: str = "", **changes: object) -> LightWorker:
        """Start a worker that the run ends."""
        log = self.folder / f"light-{uuid4().hex[:8]}.log"
        started = LightWorker(self.task(folder=folder, **changes), log)
        self.workers.append(started)
        return started

    def refs(self, count: int) -> list[bytes]:
        """Return so many made-up references."""
        return [self._rng.randbytes(16) for _ in range(count)]

    async def send(self, refs: Sequence[bytes]) -> None:
        """Append one event of each of these subjects, in order per partition."""
        log = await self._opened()
        for start in range(0, len(refs), 5000):
            part = refs[start : start + 5000]
            await log.append(SOURCE, [self._event(ref) for ref in part])
            self.sent.update(part)

    def _event(self, ref: bytes) -> NewRecord:
        self._number += 1
        number = self._number
        event = {
            "id": self._rng.randbytes(16).hex(), "type": self._rng.choice(_KINDS), "course": "CS101",
            "at": (_START + timedelta(seconds=number)).isoformat(), "position_ms": number,
        }  # fmt: skip
        return NewRecord(
            partition_of(ref, self.partitions), ref + self._rng.randbytes(16), msgspec.json.encode(event)
        )

    async def settle(self, *, timeout_s: float = 120.0) -> Verdict:
        """Wait until the view counts as many events as were sent, but not for ever; return how it differs."""
        deadline = time.monotonic() + timeout_s
        # Other processes write the view: it is only seen by reading it.
        while await self.counted() != self.sent and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        await asyncio.sleep(2.0)  # one too many would come now
        counts = await self.counted()
        return Verdict(
            events=self.sent.total(),
            lost=(self.sent - counts).total(),
            doubled=(counts - self.sent).total(),
        )

    async def counted(self) -> Counter[bytes]:
        """Read the committed view on, and return how many events it counts per subject."""
        log = await self._opened()
        for number, offset in enumerate(self.seen):
            after = offset
            while rows := await log.read(_VIEW_TOPIC, number, after=after, limit=5000):
                for row in rows:
                    if row.key != HEARTBEAT_KEY and row.value is not None:
                        self._counts[row.key] = _events(row.value)
                after = self.seen[number] = rows[-1].offset
        return self._counts

    async def close(self) -> None:
        """End every worker and close the log."""
        for worker in self.workers:
            worker.end()
        if self._log is not None:
            await self._log.close()

    async def _opened(self) -> KafkaLog:
        if self._log is None:
            self._log = await open_log(self.task(), KafkaLog)
        return self._log


def _events(value: bytes) -> int:
    """Return what a state of the view counts; its first byte says that no key seals it."""
    return msgspec.msgpack.decode(value[1:], type=PlainState).events


async def _work(task: LightTask) -> None:
    """Fold until SIGTERM."""
    if task.has_client_defaults:
        vars(kafka_settings).update(CLIENT_DEFAULTS)
        for module in (_clients, kafka_source):  # which would refuse them
            vars(module).update(safe_producer=dict, safe_consumer=dict)
    log = await open_log(task, FreezingLog)
    log.freezer = Path(task.freezer)
    engine = engine_of(LightWiring(task, log), log)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, engine.stop)
    try:
        await engine.run()
    finally:
        await log.close()


if __name__ == "__main__":
    configure(level="INFO")
    asyncio.run(_work(msgspec.json.decode(sys.argv[1], type=LightTask)))
