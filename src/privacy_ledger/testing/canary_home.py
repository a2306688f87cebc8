"""Drives canaries through a home by its commands alone, on every path that a line or a right can take."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from privacy_ledger.testing.canary import Canary, huge_line, lines_of, lines_of_nobody, spoiled_lines

__all__ = ["CRASHING", "CanaryHome", "Command", "Said", "run_alone"]

PURPOSE: Final = "improve.analyse"
START_S: Final = 60.0
COMMAND_S: Final = 300.0
SOME: Final = 3
"""People on the paths that are the same for everybody."""
FAILED: Final = 1
USAGE: Final = 2
PLANNED: Final = 3
REFUSED: Final = 4
Said = tuple[int, bytes, bytes]
"""Exit code, standard output, standard error."""
Command = Callable[[Sequence[str], Mapping[str, str], Path], Said]
"""Runs the program with words, in an environment and a folder, to its end."""

CRASHING: Final = """
import sys
from privacy_ledger.adapters.local.log import LocalLog

append = LocalLog.append

async def crash(self, topic, records):
    if topic == "ledger.events.v1" and len(records) > 3:
        raise RuntimeError("the append broke")
    return await append(self, topic, records)

LocalLog.append = LocalLog.append_atomically = crash
from privacy_ledger.interfaces.cli import main
main()
"""
"""The program with an append that fails in a way that nobody expects: it ends with a traceback."""


def run_alone(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Said:
    """Run the program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "privacy_ledger", *words], env=dict(environment), cwd=folder,
        capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=COMMAND_S,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


class CanaryHome:
    """A home in a folder, with its keys, its backups and all that its commands ever wrote or said."""

    def __init__(self, folder: Path, people: Sequence[Canary], *, now: datetime, command: Command) -> None:
        """Take an empty folder, the people, and what runs a command."""
        self.folder, self.people, self._command = folder, people, command
        self._at = now - timedelta(days=1)
        self.home, self.keys = folder / "home", folder / "keys"
        self._ran = 0
        for name in (
            "said",
            "masked",
            "disclosed",
            "exports",
            "receipts",
            "reports",
            "temporary",
            "input",
            "copies",
        ):
            (folder / name).mkdir(parents=True)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command, with the debugging help that Python has."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PRIVACY_LEDGER_")}
        return {
            **kept, "PRIVACY_LEDGER_HOME": str(self.home), "PRIVACY_LEDGER_KEYS": str(self.keys),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "TMPDIR": str(self.folder / "temporary"), "PYTHONASYNCIODEBUG": "1", "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200",
        }  # fmt: skip

    @property
    def places(self) -> dict[str, list[Path]]:
        """Everything at rest, apart from copies that somebody made and what was handed to people."""
        states = [
            path for path in self.home.iterdir() if not path.name.startswith(("ledger.db", "keystore.db"))
        ] if self.home.exists() else []  # fmt: skip
        return {
            "log": sorted(self.home.glob("ledger.db*")),
            "keystore": sorted(self.home.glob("keystore.db*")),
            "rest of the home": sorted(states),
            "key folder and shred journal": [self.keys],
            "key backups and data": [self.folder / "data"],
            "receipts": [self.folder / "receipts"],
            "reports": [self.folder / "reports"],
            "output and logs": [self.folder / "said"],
            "temporary files": [self.folder / "temporary"],
        }

    @property
    def everywhere(self) -> list[Path]:
        """All paths of all places, and of the copies."""
        return [*(path for paths in self.places.values() for path in paths), *self.copies]

    @property
    def masked(self) -> list[Path]:
        """What an operator is shown of a person without a reason."""
        return [self.folder / "masked"]

    @property
    def handed_out(self) -> dict[str, list[Path]]:
        """What a person, or who may look at them, was given: the only plain text that there may be."""
        return {"exports": [self.folder / "exports"], "disclosed": [self.folder / "disclosed"]}

    @property
    def copies(self) -> list[Path]:
        """Copies of log, keystore and their logs from before the erasure."""
        return [self.folder / "copies"]

    # Commands -------------------------------------------------------------------------------

    def run(
        self,
        *words: str | Path,
        expect: int | None = 0,
        to: Literal["said", "masked", "disclosed"] = "said",
        as_json: bool = True,
    ) -> None:
        """Run a command at the most talkative level, and keep what it says.

        `to`: who gets its standard output.

        Raises:
            AssertionError: its exit code is another one, so that the path was not taken.
        """
        flags = ["--home", str(self.home), "--log-level", "DEBUG", *(["--json"] if as_json else [])]
        code, out, err = self._command([*flags, *map(str, words)], self.environment, self.folder)
        self._ran += 1
        (self.folder / to / f"{self._ran:03}.out").write_bytes(out)
        (self.folder / "said" / f"{self._ran:03}.err").write_bytes(err)
        if expect is not None and code != expect:
            raise AssertionError(f"Command {self._ran} of the drive ended with {code}, not {expect}.")

    def ingest(self, name: str, lines: Sequence[bytes], *, expect: int | None = 0) -> None:
        """Ingest lines from a file that the producer keeps."""
        file = self.folder / "input" / f"{name}.log"
        file.write_bytes(b"\n".join(lines) + b"\n")
        report = self.folder / "reports" / f"{name}.ndjson"
        self.run(
            "ingest", file, "--format", "openedx", "--report", report, "--default-consent", PURPOSE,
            expect=expect,
        )  # fmt: skip

    # The drive ------------------------------------------------------------------------------

    def live(self) -> None:
        """Take everybody in, use every right, and fail in every way."""
        whole = [line for person in self.people for line in lines_of(person, at=self._at)]
        anonymous = [line for person in self.people[:SOME] for line in lines_of_nobody(person, at=self._at)]
        spoiled = [line for person in self.people[:SOME] for line in spoiled_lines(person, at=self._at)]
        self.run("init")
        self.ingest("anonymous", anonymous)
        self.ingest("whole", [*whole, huge_line(self.people[0], at=self._at)])
        self.ingest("again", whole[:200])
        self.ingest("spoiled", spoiled, expect=REFUSED)
        self._crash()
        self._kill()
        self._use_rights(self.people[:3])
        self._mistype(self.people[0])
        self._watch()

    def settle_down(self) -> None:
        """Look at everything as an operator does, back the keystore up, and copy all files."""
        self.look()
        self.look(as_json=False)
        self.run("keys", "backup")
        target = self.folder / "copies" / "yesterday"
        shutil.copytree(self.home, target / "home")
        shutil.copytree(self.folder / "data", target / "data")

    def look(self, *, as_json: bool = True) -> None:
        """Ask every command that shows something of all."""
        for words in (
            ("doctor",), ("replay", "verify"), ("projections", "lag"), ("dlq", "list"), ("analytics", "list"),
            ("analytics", "show"), ("audit", "checkpoint"), ("keys", "status"),
            ("keys", "releases", "--close"),
        ):  # fmt: skip
            self.run(*words, expect=None, as_json=as_json)

    def _use_rights(self, people: Sequence[Canary]) -> None:
        for number, person in enumerate(people):
            self.run("consent", "grant", person.subject, PURPOSE)
            self.run("consent", "show", person.subject)
            reason = person.tokens["reason"]
            self.run("subject", "show", person.subject, "--reveal", "--reason", reason, to="disclosed")
            self.run("subject", "show", person.subject, as_json=False, to="masked")
            self.run("export", person.subject, "-o", self.folder / "exports" / str(number))
            self.run("restrict", person.subject, "--ground", "accuracy")
        self.run("unrestrict", people[0].subject, "--notified-at", self._at.isoformat())
        self.run("consent", "withdraw", people[1].subject, PURPOSE)

    def _mistype(self, person: Canary) -> None:
        """Type a person's values where a command wants something else."""
        note = person.tokens["note"]
        self.run("restrict", person.subject, "--ground", note, expect=USAGE)
        self.run("subject", "show", f"openedx:username:{note}", expect=FAILED)
        self.run("subject", "show", f"openedx:username:{person.tokens['username']}", to="masked")
        self.run("export", person.email, "-o", self.folder / "exports" / "none", expect=None)
        self.run(note, person.email, expect=USAGE)
        self.run("consent", "grant", person.subject, note, expect=None)

    def _crash(self) -> None:
        """End an ingest by an error that nobody expected: it prints a traceback."""
        file = self._late_lines("crash", batch=1)
        words = ["--home", str(self.home), "--log-level", "DEBUG", "ingest", str(file), "--format", "openedx"]
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", CRASHING, *words], env=self.environment, cwd=self.folder,
            capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=COMMAND_S,
        )  # fmt: skip
        (self.folder / "said" / "crash.err").write_bytes(done.stdout + done.stderr)
        if b"Traceback" not in done.stderr:
            raise AssertionError(f"The ingest that was to crash ended with {done.returncode}.")

    def _kill(self) -> None:
        """End an ingest as the system does when memory is short, as soon as it has begun."""
        file = self._late_lines("killed", batch=2)
        report = self.folder / "reports" / "killed.ndjson"
        words = [
            "--home",
            str(self.home),
            "ingest",
            str(file),
            "--format",
            "openedx",
            "--report",
            str(report),
        ]
        with (self.folder / "said" / "killed.err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "privacy_ledger", *words], env=self.environment, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=err, stderr=err,
            )  # fmt: skip
            deadline = time.monotonic() + START_S
            while process.poll() is None and not report.exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            process.kill()
            process.wait()

    def _late_lines(self, name: str, *, batch: int) -> Path:
        file = self.folder / "input" / f"{name}.log"
        at = self._at + timedelta(hours=batch)
        late = [line for person in self.people[:SOME] for line in lines_of(person, at=at, batch=batch)]
        file.write_bytes(b"\n".join(late) + b"\n")
        return file

    def _watch(self) -> None:
        """Let a worker fold with its health pages open, ask for all of them, and kill it."""
        said = self.folder / "said"
        with (said / "worker.err").open("wb") as err:
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "privacy_ledger", "--home", str(self.home), "--log-level", "DEBUG",
                    "worker", "run",
                ],
                env={**self.environment, "PRIVACY_LEDGER_HEALTH": ":0"}, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=err, stderr=err,
            )  # fmt: skip
            try:
                address = self._address(said / "worker.err", process)
                for page in ("metrics", "livez"):
                    with urllib.request.urlopen(f"{address}{page}", timeout=START_S) as answer:  # noqa: S310 - our own
                        (said / f"page-{page}").write_bytes(answer.read())
            finally:
                process.kill()
                process.wait()

    @staticmethod
    def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            text = log.read_text(errors="replace")
            if "http://" in text and "Running all" in text:
                return "http://" + text.partition("http://")[2].partition("/")[0] + "/"
            time.sleep(0.05)
        raise AssertionError(f"The worker did not start:\n{log.read_text(errors='replace')[-2000:]}")

    # Afterwards -----------------------------------------------------------------------------

    def erase(self, people: Sequence[Canary]) -> None:
        """Erase people, with a receipt each; what was handed to them is theirs from then on."""
        for number, person in enumerate(people):
            as_json = number % 2 == 0
            if number < SOME:
                self.run("erase", person.subject, "--plan", expect=PLANNED, as_json=as_json)
            receipts = self.folder / "receipts" / str(number)
            self.run("erase", person.subject, "--yes", "-o", receipts, as_json=as_json)
            if number < SOME:
                self.run("erase", person.subject, "--status", as_json=as_json)
        for handed in ("exports", "disclosed", "masked"):
            shutil.rmtree(self.folder / handed)
            (self.folder / handed).mkdir()

    def insist(self, people: Sequence[Canary]) -> None:
        """Try to get the erased back: look, export, and send all of their lines again."""
        for number, person in enumerate(people[:3]):
            shown = ("subject", "show", person.subject, "--reveal", "--reason", "again")
            self.run(*shown, expect=REFUSED)
            folder = self.folder / "reports" / f"export-{number}"
            self.run("export", person.subject, "-o", folder, expect=REFUSED)
        lines = [line for person in people for line in lines_of(person, at=self._at)]
        self.ingest("return", lines, expect=REFUSED)
        self.look()

    def restored(self, folder: Path, *, command: Command) -> "CanaryHome":
        """Return yesterday's home and keystore, put back beside the present keys and the journal."""
        other = CanaryHome(folder, self.people, now=self._at + timedelta(days=1), command=command)
        yesterday = self.folder / "copies" / "yesterday"
        shutil.copytree(yesterday / "home", other.home)
        shutil.copytree(yesterday / "data", folder / "data")
        shutil.copytree(self.keys, other.keys)
        for name in ("keystore.db", "keystore.db-wal", "keystore.db-shm"):
            (other.home / name).unlink(missing_ok=True)
        (backup,) = sorted((folder / "data").rglob("*key-backups/*/*"))
        other.run("keys", "restore", backup, "--yes")
        other.run("keys", "reconcile")
        return other

    def finish(self) -> None:
        """Destroy the keys under which any copy lies."""
        self.run("keys", "roll", "--final-now", "--yes")
        self.run("keys", "backup")
