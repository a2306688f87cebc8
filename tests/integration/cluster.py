"""A cluster for one test: topics under a prefix of its own, real worker processes, a runtime."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from privacy_ledger.adapters.kafka import topics as kafka_topics
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.bootstrap import Runtime, open_runtime
from privacy_ledger.domain.topics import TOPICS
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.settings import Settings

__all__ = ["Cluster", "Line", "Process", "Worker", "until"]

_AT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_VALUE = re.compile(r"(\w+)=('[^']*'|\S+)")

PROGRAM: Final = "privacy_ledger"
COMMAND_TIMEOUT_S: Final = 150


async def until(is_so: Callable[[], bool], *, timeout_s: float = 60.0, look_s: float = 0.1) -> None:
    """Wait until something is so that can only be looked at, such as what another process wrote.

    Raises:
        TimeoutError: it is not so for too long.
    """
    async with asyncio.timeout(timeout_s):
        while not is_so():  # noqa: ASYNC110 - see above
            await asyncio.sleep(look_s)


class Process:
    """A worker of the test's own; its log lines go to a file."""

    def __init__(self, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None) -> None:
        """Start it."""
        self.log = log
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command], env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )

    def lines(self, event: str) -> list["Line"]:
        """Return the log lines of one event so far."""
        text = self.log.read_text(errors="replace")
        return [Line(line) for line in text.splitlines() if f"] {event} " in line]

    def running(self) -> int:
        """Return how many times a partition was taken over so far."""
        return len(self.lines("partition running"))

    def wait_running(self, count: int, *, timeout_s: float = 60.0) -> float:
        """Wait until that many partitions were taken over; return the seconds it took."""
        return self.wait_for("partition running", count, timeout_s=timeout_s)

    def wait_for(self, event: str, count: int, *, timeout_s: float = 60.0) -> float:
        """Wait until there are so many lines of an event; return the seconds it took."""
        started = time.monotonic()
        while len(self.lines(event)) < count:
            if self.process.poll() is not None or time.monotonic() - started > timeout_s:
                said = self.log.read_text(errors="replace")[-2000:]
                raise AssertionError(f"{len(self.lines(event))} of {count} {event!r}; the log ends:\n{said}")
            time.sleep(0.05)
        return time.monotonic() - started

    def pause(self) -> None:
        """Freeze it: it keeps its connections and its memory, and does not know how long it slept."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> float:
        """End it by SIGTERM; return the seconds until it was gone."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return time.monotonic() - started

    def end(self) -> None:
        """End it whatever state it is in."""
        if self.process.poll() is None:
            self.kill()


class Line:
    """One log line: when, and its keys."""

    def __init__(self, text: str) -> None:
        """Read it."""
        found = _AT.search(text)  # the host draws signs of its own before it
        assert found is not None
        self.at = datetime.fromisoformat(found[0])
        self._values: dict[str, str] = dict(_VALUE.findall(text))

    def __getitem__(self, key: str) -> str:
        """Return the value of a key."""
        return self._values[key]

    def number(self, key: str) -> int:
        """Return the value of a key as a number."""
        return int(self._values[key])


class Worker(Process):
    """`privacy-ledger worker run` as a process."""

    def __init__(
        self,
        cluster: "Cluster",
        *passes: str,
        settings: Mapping[str, str] | None = None,
        program: str = PROGRAM,
    ) -> None:
        """Start it, with settings of its own besides the cluster's."""
        super().__init__(
            ["-m", program, "--log-level", "INFO", "worker", "run", *passes],
            cluster.folder / f"worker-{uuid4().hex[:8]}.log",
            env={**cluster.env, **(settings or {})},
        )


class Cluster:
    """Topics, keys and state folders of one test on a shared broker."""

    def __init__(self, bootstrap: str, folder: Path, *, partitions: int = 4) -> None:
        """Choose a fresh prefix; nothing is created yet."""
        self.folder = folder
        self.partitions = partitions
        self.prefix = f"t{uuid4().hex[:10]}."
        self.settings = Settings(
            home=folder / "home",
            keys=folder / "keys",
            keystore=folder / "keystore.db",
            state=folder / "state",
            cluster=ClusterSettings(bootstrap=bootstrap),
            topic_prefix=self.prefix,
            partitions=partitions,
            data_home=folder / "data",
        )
        self.env = {
            **os.environ,
            "PRIVACY_LEDGER_CLUSTER": bootstrap,
            "PRIVACY_LEDGER_KEYS": str(folder / "keys"),
            "PRIVACY_LEDGER_KEYSTORE": str(folder / "keystore.db"),
            "PRIVACY_LEDGER_STATE": str(folder / "state"),
            "PRIVACY_LEDGER_TOPIC_PREFIX": self.prefix,
            "PRIVACY_LEDGER_PARTITIONS": str(partitions),
            "XDG_DATA_HOME": str(folder / "data"),
        }
        self.workers: list[Worker] = []

    async def create(self, *, scale_ms: int | None = None) -> None:
        """Create the topics; `scale_ms` makes physical removal a matter of seconds."""
        cluster = self.settings.cluster
        if cluster is None:
            raise AssertionError("a cluster test needs a cluster")
        async with kafka_topics.open_admin(cluster) as admin:
            await kafka_topics.apply(
                admin, TOPICS, partitions=self.partitions, prefix=self.prefix, scale_ms=scale_ms
            )

    def worker(
        self, *passes: str, settings: Mapping[str, str] | None = None, program: str = PROGRAM
    ) -> Worker:
        """Start a worker that the test ends; `program`: the module that is run as the command."""
        started = Worker(self, *passes, settings=settings, program=program)
        self.workers.append(started)
        return started

    async def command(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Run a command of the program; return its exit code and its document."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", PROGRAM, "--json", *words,
            env=self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            out, _ = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        code = process.returncode
        return (1 if code is None else code), json.loads(out)

    @asynccontextmanager
    async def runtime(self, declared: Mapping[str, PassDeclaration] | None = None) -> AsyncIterator[Runtime]:
        """Yield a runtime of this process on the cluster; `declared`: the passes of another build."""
        async with open_runtime(self.settings, declared=declared) as runtime:
            yield runtime

    def end(self) -> None:
        """End every worker."""
        for worker in self.workers:
            worker.end()

    async def remove(self) -> None:
        """End every worker and delete the topics: others read all files of the broker they share."""
        self.end()
        cluster = self.settings.cluster
        if cluster is None:
            raise AssertionError("a cluster test needs a cluster")
        async with kafka_topics.open_admin(cluster) as admin:
            mine = [name for name in await admin.list_topics() if name.startswith(self.prefix)]
            if mine:
                await admin.delete_topics(mine)
