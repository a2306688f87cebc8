"""The real command in a process of its own, made-up lines for it, and a look into its home."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from privacy_ledger.bootstrap import Runtime, open_runtime
from privacy_ledger.domain.topics import LEDGER_EVENTS, TOPICS
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.ports.keys import Identity
from privacy_ledger.ports.log import Row
from privacy_ledger.settings import Settings, from_environment
from tests.cli.forks import Forks

COMMAND_TIMEOUT_S: Final = 120
NOW: Final = datetime.now(UTC).replace(microsecond=0)
RECENT: Final = NOW - timedelta(days=1)
COURSE: Final = "course-v1:Example+One+2026"
PURPOSE: Final = "improve.analyse"
PARTS: Final = ("accepted", "duplicates", "refused", "unattributed", "malformed")
TRACEBACK: Final = "Traceback"
SEALED: Final = 1
SEALED_FROM: Final = 33
"""A sealed value starts with its version and the id of its key."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a command did: its exit code, and all that it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Document:
        """The one JSON document on standard output, alone on one line."""
        (line,) = self.out.splitlines()
        found: Document = json.loads(line)
        return found

    def says(self, *words: str) -> bool:
        """Return whether standard error holds all of these words and no traceback."""
        return TRACEBACK not in self.err and all(word in self.err for word in words)


@dataclass
class Cli:
    """`privacy-ledger --json` on one home, with everything of it in one folder."""

    folder: Path
    home: Path
    forks: Forks
    more: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> Path:
        """The folder of the key-encryption keys: outside of the home."""
        return self.folder / "keys"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the command: nothing of the ledger's from outside."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PRIVACY_LEDGER_")}
        own = {
            "PRIVACY_LEDGER_KEYS": str(self.keys), "XDG_DATA_HOME": str(self.folder / "data"),
            "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200",
        }  # fmt: skip
        return {**kept, **own, **self.more}

    def arguments(self, *words: str | Path, as_json: bool = True) -> list[str]:
        """Return the command line."""
        flags = ["--json"] if as_json else []
        start = [sys.executable, "-m", "privacy_ledger", "--home", str(self.home), *flags]
        return [*start, *map(str, words)]

    def run(
        self, *words: str | Path, stdin: bytes = b"", as_json: bool = True, fuse: int | None = None
    ) -> Result:
        """Run a command to its end, forked from a server that has imported it."""
        code, out, err = self.forks.run(
            self.arguments(*words, as_json=as_json)[3:],
            folder=self.folder, environment=self.environment, stdin=stdin, fuse=fuse,
        )  # fmt: skip
        return Result(code, out.decode(), err.decode())

    def execute(self, arguments: Sequence[str], *, stdin: bytes = b"") -> Result:
        """Run any command line, afresh, in the command's environment."""
        done = subprocess.run(
            arguments, input=stdin, capture_output=True, check=False, cwd=self.folder,
            env=self.environment, timeout=COMMAND_TIMEOUT_S,
        )  # fmt: skip
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        """Start a command and return its process."""
        return subprocess.Popen(
            self.arguments(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, cwd=self.folder, env=self.environment,
        )  # fmt: skip

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Yield a worker that holds the home; it is killed at the end."""
        process = self.start("worker", "run")
        assert process.stderr is not None
        try:
            assert b"Running all passes" in process.stderr.readline()
            yield process
        finally:
            process.kill()
            process.communicate()

    def ingest(self, lines: Iterable[bytes], *words: str | Path) -> Result:
        """Ingest lines through standard input."""
        return self.run("ingest", "-", "--format", "openedx", *words, stdin=b"\n".join(lines) + b"\n")

    def copied(self, folder: Path) -> "Cli":
        """Return the command on a copy of this home and its keys."""
        shutil.copytree(self.folder, folder)
        return Cli(folder, folder / self.home.relative_to(self.folder), self.forks, dict(self.more))

    def settings(self) -> Settings:
        """Return the settings of the same home for the library."""
        return structs.replace(
            from_environment(home=str(self.home)),
            keys=self.keys, keystore=None, state=None, cluster=None, data_home=self.folder / "data",
        )  # fmt: skip

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Runtime]:
        """Yield the same home, opened through the library."""
        async with open_runtime(self.settings()) as runtime:
            yield runtime


def new_cli(folder: Path, forks: Forks) -> Cli:
    """Return the command on a home that does not exist yet."""
    folder.mkdir(exist_ok=True)
    return Cli(folder, folder / "home", forks)


# Lines ----------------------------------------------------------------------------------------


def event(name: str, *, at: datetime | str = RECENT, source: str = "server", **members: object) -> Document:
    """Return an event in the older shape of the platform's log."""
    time = at if isinstance(at, str) else at.isoformat()
    return {"event_type": name, "event_source": source, "time": time, "context": {}, "event": {}, **members}


def encoded(document: Mapping[str, object]) -> bytes:
    """Return the bytes of a line."""
    return json.dumps(document).encode()


def enrolled(
    who: int, *, name: str = "", at: datetime | str = RECENT, number: int | str = "", mode: str = "audit"
) -> bytes:
    """Return a line that says that somebody enrolled: it needs no consent."""
    more = {"event_id": f"event-{who}-{number}"} if number != "" else {}
    context = {"user_id": who, "course_id": COURSE}
    payload = {"user_id": who, "course_id": COURSE, "mode": mode}
    return encoded(
        event("edx.course.enrollment.activated", at=at, username=name, context=context, event=payload, **more)
    )


def played(who: int, *, number: int, at: datetime = RECENT, name: str = "") -> bytes:
    """Return a line that says that somebody played a video: it needs no consent."""
    payload = {"id": f"video_{number}", "currentTime": number}
    context = {"user_id": who, "course_id": COURSE}
    return encoded(
        event(
            "play_video", source="browser", at=at, username=name, context=context,
            event=json.dumps(payload), event_id=f"played-{who}-{number}",
        )
    )  # fmt: skip


def viewed(who: int, *, number: int = 0, at: datetime = RECENT) -> bytes:
    """Return a line that says that somebody viewed a page: it needs a consent."""
    context = {"user_id": who, "course_id": COURSE}
    return encoded(
        event(f"/courses/{COURSE}/info", at=at, context=context, event_id=f"viewed-{who}-{number}")
    )


def registered(who: int, *, name: str, email: str, at: datetime = RECENT) -> bytes:
    """Return a line that says that somebody registered, with an e-mail address as its id."""
    payload = {"user_id": who, "username": name, "name": f"{name} of Example", "email": email}
    context = {"user_id": who}
    return encoded(
        event("edx.user.registered", at=at, username=name, context=context, event=payload, event_id=email)
    )


# Looking into a home --------------------------------------------------------------------------


def adds_up(summary: Mapping[str, Any]) -> bool:
    """Return whether the parts of an ingest's summary add up to what was read."""
    return bool(sum(summary[part] for part in PARTS) == summary["read"])


def parts_of(summary: Mapping[str, Any]) -> dict[str, int]:
    """Return the parts of an ingest's summary that are not zero."""
    return {part: summary[part] for part in PARTS if summary[part]}


async def rows_of(runtime: Runtime, topic: str = LEDGER_EVENTS) -> list[Row]:
    """Return every record of a topic, in order within each partition."""
    found: list[Row] = []
    for partition in range(runtime.log.partitions(topic)):
        after = -1
        while page := await runtime.log.read(topic, partition, after=after):
            found += page
            after = page[-1].offset
    return found


async def all_rows(runtime: Runtime) -> list[Row]:
    """Return every record of every topic."""
    return [row for topic in TOPICS for row in await rows_of(runtime, topic.name)]


def ref_of(runtime: Runtime, who: int) -> SubjectRef:
    """Return the newest reference of a user id."""
    (row,) = runtime.vault.find((Identity("openedx:user_id", str(who)),))
    assert row is not None
    return row.ref


async def rows_about(runtime: Runtime, ref: SubjectRef) -> list[Row]:
    """Return every ledger record of one reference, tombstones included, oldest first."""
    partition = partition_of(ref, runtime.partitions)
    return [row for row in await rows_of(runtime) if row.partition == partition and row.key[:16] == ref]


def is_sealed(row: Row) -> bool:
    """Return whether a record's value is sealed under a key."""
    return row.value is not None and row.value[:1] == bytes((SEALED,))


def subject(who: int) -> str:
    """Return the SUBJECT of a user id."""
    return f"openedx:user_id:{who}"
