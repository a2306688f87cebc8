"""Starts a real PostgreSQL server for tests, from the programs that the machine has.

The server listens on loopback only, on a free port, with a data folder of its own, and is stopped by
its process id. PostgreSQL refuses to run as root: then it runs as the system user that its package
made. This module reads the environment itself: it serves test runs, which have no settings.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from privacy_ledger.testing.broker import free_ports

__all__ = ["PostgresProcess", "PostgresUnavailable", "postgres_programs", "running_postgres", "server_folder"]

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.05
USERS: Final = ("postgres", "nobody")
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
_DEBIAN: Final = Path("/usr/lib/postgresql")


class PostgresUnavailable(Exception):
    """There is no PostgreSQL on this machine; the message says what was looked for."""


def postgres_programs() -> Path:
    """Return the folder of `initdb` and `postgres`, the newest where there are several.

    Raises:
        PostgresUnavailable: there is none.
    """
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    if _DEBIAN.is_dir():
        folders += sorted(_DEBIAN.glob("*/bin"), key=lambda path: _number(path.parent.name), reverse=True)
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_basebackup")):
            return folder
    raise PostgresUnavailable("neither PATH nor /usr/lib/postgresql has initdb and postgres")


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else 0


class PostgresProcess:
    """One server on a data folder that outlives a kill; every call blocks until it is done."""

    def __init__(self, programs: Path, folder: Path, *, settings: Sequence[str] = ()) -> None:
        """Take a folder of the server's own and settings as `name=value`; start nothing."""
        self.folder = folder
        self.port = free_ports()[0]
        self.password = secrets.token_urlsafe(16)
        self._programs = programs
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database."""
        return f"postgresql://ledger:{self.password}@127.0.0.1:{self.port}/{database}"

    def initialise(self) -> None:
        """Make a new data folder."""
        secret = self.folder / "password"
        secret.write_text(self.password)
        _give(self.folder)
        self.run(
            "initdb", "--pgdata", str(self.data), "--username", "ledger", "--pwfile", str(secret),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C",
        )  # fmt: skip

    def copy_of(self, primary: "PostgresProcess", *, name: str) -> None:
        """Make the data folder a standby's of a running primary, under this name."""
        _give(self.folder)
        self.password = primary.password
        source = f"{primary.url()}?application_name={name}"
        self.run(
            "pg_basebackup", "--pgdata", str(self.data), "--dbname", source, "--write-recovery-conf",
            "--checkpoint", "fast",
        )  # fmt: skip

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = self.folder / "server.log"
        words = [
            str(self._programs / "postgres"), "-D", str(self.data),
            *_options("listen_addresses=127.0.0.1", f"port={self.port}"),
            *_options(f"unix_socket_directories={self.folder}", "max_connections=40", *self._settings),
        ]  # fmt: skip
        with log.open("ab") as out:
            self._process = subprocess.Popen(_as_user(words), stdout=out, stderr=out, cwd=self.folder)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        words = (str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port))
        return subprocess.run(words, check=False).returncode == 0

    def run(self, program: str, *words: str) -> None:
        """Run one of its programs to its end."""
        done = subprocess.run(
            _as_user([str(self._programs / program), *words]),
            cwd=self.folder, capture_output=True, check=False, text=True,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"{program} failed: {done.stderr[-4000:]}")

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run a statement by the server's own client and return what it prints, without a header."""
        words = (str(self._programs / "psql"), "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1")
        done = subprocess.run(
            [*words, "-d", self.url(database), "-c", statement], capture_output=True, check=False, text=True
        )
        if done.returncode:
            raise AssertionError(f"psql failed: {done.stderr[-4000:]}")
        return done.stdout.strip()

    def promote(self) -> None:
        """Make a standby the primary, and wait until it is."""
        self.run("pg_ctl", "promote", "-D", str(self.data), "-w")

    def stop(self) -> None:
        """Stop the server as its operator does, without waiting for its clients."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server and its children at once, as a crash does: nothing is flushed."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running_postgres(*, settings: Sequence[str] = ()) -> Iterator[PostgresProcess]:
    """Yield a new running server; its folder goes at the end.

    Raises:
        PostgresUnavailable: there is none to start.
    """
    programs = postgres_programs()
    with server_folder() as folder:
        server = PostgresProcess(programs, folder, settings=settings)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def server_folder() -> Iterator[Path]:
    """Yield a folder that a server may own, in memory where the system has such a place."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="privacy-ledger-postgres-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("-c", setting)]


def _user() -> pwd.struct_passwd | None:
    """Return who runs the server, or None where this user may."""
    if os.getuid() != 0:
        return None
    for name in USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresUnavailable("PostgreSQL does not run as root, and there is no other user for it")


def _give(folder: Path) -> None:
    user = _user()
    if user is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)


def _as_user(words: Sequence[str]) -> list[str]:
    """Return the command as another user's, in the same process: its id is the server's."""
    user = _user()
    if user is None:
        return list(words)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *words]
