"""The product as the long lanes run it: its settings in a folder, its ingest, and its worker."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Final

from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.adapters.formats import openedx
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.app.ingest import Ingest, Source
from privacy_ledger.bootstrap import Runtime, rules_in_force
from privacy_ledger.domain.key_release import COLLECT
from privacy_ledger.domain.topics import LEDGER_UNATTRIBUTED
from privacy_ledger.settings import Settings
from privacy_ledger.testing.generator import generate
from tests.bench.measure import resident_mb
from tests.bench.processes import ChildFailed
from tests.bench.tasks import OnCluster

__all__ = ["SOURCE", "Worker", "ingest", "lines", "settings"]

START_TIMEOUT_S: Final = 180.0
SOURCE: Final = Source(name="openedx", parse=openedx.parse, default_consents=("improve.analyse",))
LINES_PER_SEED: Final = 100_000
DAYS: Final = 25


def settings(task: OnCluster) -> Settings:
    """Return the settings under which every process of a run works."""
    folder = Path(task.folder)
    return Settings(
        home=folder / "home", keys=folder / "keys", keystore=folder / "keystore.db",
        state=folder / "state", cluster=ClusterSettings(bootstrap=task.bootstrap), topic_prefix=task.prefix,
        partitions=task.partitions, data_home=folder / "data",
    )  # fmt: skip


async def ingest(runtime: Runtime) -> Ingest:
    """Return an ingest that does not wait for the passes, however far they are behind."""
    vault = runtime.released_to(COLLECT)
    lane = LedgerCodec(vault, partitions=runtime.partitions, stream=LEDGER_UNATTRIBUTED)
    return Ingest(
        log=runtime.log, vault=vault, codec=runtime.codec, lane_codec=lane,
        views=runtime.views, clock=runtime.clock, ids=runtime.ids, rules=await rules_in_force(runtime),
    )  # fmt: skip


def lines(learners: int) -> Iterator[bytes]:
    """Yield made-up lines of the last days without end."""
    for seed in count(1):
        end = datetime.now(UTC) - timedelta(hours=2)
        yield from generate(
            seed=seed, learners=learners, courses=4, events=LINES_PER_SEED,
            start=end - timedelta(days=DAYS), end=end,
        )  # fmt: skip


class Worker:
    """`privacy-ledger worker run` as a process, every pass in it."""

    def __init__(self, task: OnCluster) -> None:
        """Start it; what it says goes to a file in the folder."""
        folder = Path(task.folder)
        self._log = folder / "worker.log"
        env = {
            **os.environ,
            "PRIVACY_LEDGER_CLUSTER": task.bootstrap,
            "PRIVACY_LEDGER_KEYS": str(folder / "keys"),
            "PRIVACY_LEDGER_KEYSTORE": str(folder / "keystore.db"),
            "PRIVACY_LEDGER_STATE": str(folder / "state"),
            "PRIVACY_LEDGER_TOPIC_PREFIX": task.prefix,
            "PRIVACY_LEDGER_PARTITIONS": str(task.partitions),
            "XDG_DATA_HOME": str(folder / "data"),
        }
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "privacy_ledger", "--log-level", "INFO", "worker", "run"],
                env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    async def running(self, partitions: int) -> None:
        """Return when so many partitions were taken over.

        Raises:
            ChildFailed: it ended, or did not in time.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._log.read_bytes().count(b"partition running") < partitions:
            self.check()
            if time.monotonic() > deadline:
                raise ChildFailed(f"the worker did not take over in {START_TIMEOUT_S:.0f} s")
            await asyncio.sleep(0.2)

    def check(self) -> None:
        """Raise if it has ended.

        Raises:
            ChildFailed: it has.
        """
        if self._process.poll() is not None:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise ChildFailed(f"the worker ended with code {self._process.returncode}:\n{tail}")

    def resident_mb(self) -> float:
        """Return its memory now."""
        return resident_mb(self._process.pid, "VmRSS")

    def end(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
