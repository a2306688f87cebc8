"""The canary run on a cluster: a real broker that compacts quickly, a real PostgreSQL, real workers."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from privacy_ledger.adapters.keystore.address import place_of
from privacy_ledger.testing.broker import BrokerProcess
from privacy_ledger.testing.canary import Canary, flock, lines_of, lines_of_nobody, spoiled_lines
from privacy_ledger.testing.canary_keys import KeyRow, envelopes_in
from privacy_ledger.testing.canary_run import CanaryReport, Hunt
from privacy_ledger.testing.canary_search import frozen
from privacy_ledger.testing.postgres import PostgresProcess
from tests.canary.asked import Asked
from tests.integration.cluster import Cluster, Process

__all__ = ["CanaryCluster", "run"]

PURPOSE: Final = "improve.analyse"
PARTITIONS: Final = 2
SCALE_MS: Final = 2000
SHARE: Final = 10
SOME: Final = 2
START_S: Final = 90.0
GONE_S: Final = 90.0
HINT_S: Final = 1.1
COMMAND_S: Final = 300.0
_ROWS: Final = (
    "SELECT encode(k.kid, 'hex'), encode(k.ref, 'hex'), k.grp, encode(m.wrapped, 'hex') "
    "FROM privacy_ledger_keystore.keys k LEFT JOIN privacy_ledger_keystore.material m ON m.id = k.id"
)
_REFUSED: Final = 4
_PARTLY: Final = 5


class CanaryCluster:
    """Topics, workers and a keystore of one run, and all that was ever written or said there."""

    def __init__(
        self, broker: BrokerProcess, postgres: PostgresProcess, folder: Path, people: Sequence[Canary]
    ) -> None:
        """Take a broker of its own, a server of its own or not, an empty folder, and the people."""
        self.folder, self.people = folder, people
        self.broker, self.postgres = broker, postgres
        for name in (
            "said",
            "masked",
            "disclosed",
            "exports",
            "receipts",
            "reports",
            "input",
            "copies",
            "temporary",
        ):
            (folder / name).mkdir()
        (folder / "cluster").mkdir()
        self.cluster = Cluster(broker.bootstrap, folder / "cluster", partitions=PARTITIONS)
        self.database = f"canaries_{self.cluster.prefix.strip('.')}"
        postgres.sql(f"CREATE DATABASE {self.database}")
        url = postgres.url(self.database)
        self.cluster.settings = structs.replace(self.cluster.settings, keystore=place_of(url))
        self.cluster.env |= {
            "PRIVACY_LEDGER_KEYSTORE": url, "PYTHONASYNCIODEBUG": "1", "PYTHONFAULTHANDLER": "1",
            "TMPDIR": str(folder / "temporary"), "PYTHONPATH": os.pathsep.join(sys.path),
        }  # fmt: skip
        self.keys = folder / "cluster" / "keys"
        self.worker: Process | None = None
        self._ran = self._workers = 0
        self._at = datetime.now(UTC) - timedelta(days=1)

    # Places ---------------------------------------------------------------------------------

    @property
    def places(self) -> dict[str, list[Path]]:
        """Everything at rest, apart from copies that somebody made and what was handed to people."""
        cluster = self.folder / "cluster"
        return {
            "broker": [self.broker.data_dir],
            "database and its write-ahead log": self._database_paths(),
            "database's log": [self.postgres.folder / "server.log"],
            "stores of workers": [cluster / "state"],
            "key folder and shred journal": [self.keys],
            "key backups and data": [cluster / "data"],
            "receipts": [self.folder / "receipts"],
            "reports": [self.folder / "reports"],
            "output and logs": [self.folder / "said"],
            "temporary files": [self.folder / "temporary"],
        }

    def _database_paths(self) -> list[Path]:
        """Return all that the server has, but for the databases of others."""
        number = self.postgres.sql(f"SELECT oid FROM pg_database WHERE datname = '{self.database}'")  # noqa: S608 - ours
        base = self.postgres.data / "base"
        beside = [path for path in sorted(self.postgres.data.iterdir()) if path != base]
        return [base / number, *base.glob("pgsql_tmp*"), *beside]

    @contextmanager
    def frozen(self) -> Iterator[dict[str, list[Path]]]:
        """Yield all places as they are now: broker and stores remove files all the time."""
        with tempfile.TemporaryDirectory(prefix="frozen-", dir=self.folder) as folder:
            yield frozen(self.places, Path(folder))

    @contextmanager
    def everywhere(self) -> Iterator[list[Path]]:
        """Yield all paths of all places, as they are now, and of the copies."""
        with self.frozen() as places:
            yield [*(path for paths in places.values() for path in paths), self.folder / "copies"]

    def count(self, kids: Collection[bytes]) -> int:
        """Return how many envelopes of these keys broker and stores hold now."""
        with self.frozen() as places:
            return len(envelopes_in([*places["broker"], *places["stores of workers"]], kids))

    def rows(self) -> list[KeyRow]:
        """Return the keys of the keystore, as its database tells them."""
        found = []
        for line in self.postgres.sql(_ROWS, database=self.database).splitlines():
            kid, ref, group, wrapped = line.split("|")
            form = bytes.fromhex(wrapped) if wrapped else None
            found.append(KeyRow(bytes.fromhex(kid), bytes.fromhex(ref), group, form))
        return found

    # Commands -------------------------------------------------------------------------------

    def run(self, *words: str | Path, expect: int | None = 0, to: str = "said") -> dict[str, Any]:
        """Run a command at the most talkative level, keep what it says, and return its document."""
        done = subprocess.run(
            [sys.executable, "-m", "privacy_ledger", "--json", "--log-level", "DEBUG", *map(str, words)],
            env=self.cluster.env, capture_output=True, check=False, stdin=subprocess.DEVNULL,
            timeout=COMMAND_S,
        )  # fmt: skip
        self._ran += 1
        (self.folder / to / f"{self._ran:03}.out").write_bytes(done.stdout)
        (self.folder / "said" / f"{self._ran:03}.err").write_bytes(done.stderr)
        if expect is not None and done.returncode != expect:
            raise AssertionError(f"Command {self._ran} ended with {done.returncode}, not {expect}.")
        document: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return document

    def ingest(self, name: str, lines: Sequence[bytes], *, expect: int) -> None:
        """Ingest lines from a file that the producer keeps."""
        file = self.folder / "input" / f"{name}.log"
        file.write_bytes(b"\n".join(lines) + b"\n")
        report = self.folder / "reports" / f"{name}.ndjson"
        words = ("ingest", file, "--format", "openedx", "--report", report, "--default-consent", PURPOSE)
        self.run(*words, expect=expect)

    def start_worker(self) -> None:
        """Start a worker at the most talkative level, with health pages, that answers when it is asked."""
        self._workers += 1
        log = self.folder / "said" / f"worker-{self._workers}.log"
        asking = self.folder / "temporary" / "ask"
        self.worker = Process(
            ["-m", "tests.canary.answering", "--log-level", "DEBUG", "worker", "run"], log,
            env={**self.cluster.env, "PRIVACY_LEDGER_HEALTH": ":0", "CANARY_ASKING": str(asking)},
        )  # fmt: skip
        self.worker.wait_running(PARTITIONS, timeout_s=START_S)

    def kill_worker(self) -> None:
        """End the worker as the system does when memory is short."""
        if self.worker is not None:
            self.worker.end()

    def ask_worker(self, kids: Collection[bytes]) -> tuple[int, int]:
        """Ask the running worker for keys by their ids; return how many, and how many it gave."""
        asking = self.folder / "temporary" / "ask"
        part, answer = asking.with_suffix(".new"), asking.with_suffix(".answer")
        part.write_text(json.dumps(sorted(kid.hex() for kid in kids)))
        part.rename(asking)
        deadline = time.monotonic() + START_S
        while not answer.exists():
            if time.monotonic() > deadline:
                raise AssertionError("the worker does not answer")
            time.sleep(0.05)
        told = json.loads(answer.read_bytes())
        answer.unlink()
        return told["asked"], told["given"]

    # The drive ------------------------------------------------------------------------------

    def live(self) -> None:
        """Take everybody in, use rights, fail, kill a worker, and leave copies of all files."""
        whole = [line for person in self.people for line in lines_of(person, at=self._at)]
        nobody = [line for person in self.people[:SOME] for line in lines_of_nobody(person, at=self._at)]
        spoiled = [line for person in self.people[:SOME] for line in spoiled_lines(person, at=self._at)]
        self.ingest("first", [*nobody, *whole[: len(whole) // 2]], expect=0)
        self.kill_worker()
        self.start_worker()
        self.ingest("second", [*whole[len(whole) // 2 :], *spoiled, *whole[:50]], expect=_PARTLY)
        first = self.people[0]
        shown = ("subject", "show", first.subject)
        self.run(*shown, "--reveal", "--reason", first.tokens["reason"], to="disclosed")
        self.run(*shown, to="masked")
        self.run("export", first.subject, "-o", self.folder / "exports" / "first")
        self.run("restrict", first.subject, "--ground", "accuracy")
        for words in (("doctor",), ("dlq", "list")):
            self.run(*words, expect=None)
        self._fetch_pages()
        self.run("keys", "backup")
        self._copy()

    def _fetch_pages(self) -> None:
        said = self.folder / "said"
        text = (said / f"worker-{self._workers}.log").read_text(errors="replace")
        address = "http://" + text.partition("http://")[2].partition("/")[0]
        for page in ("metrics", "livez"):
            with urllib.request.urlopen(f"{address}/{page}", timeout=START_S) as answer:  # noqa: S310 - our own
                (said / f"page-{page}").write_bytes(answer.read())

    def _copy(self) -> None:
        copies = self.folder / "copies"
        running = ("broker", "stores of workers", "key backups and data")
        with self.frozen() as places:
            for number, name in enumerate(running):
                for path in places[name]:
                    shutil.copytree(path, copies / str(number), ignore=shutil.ignore_patterns("*index"))
        shutil.copytree(self.postgres.data / "pg_wal", copies / "pg_wal")

    def erase(self, people: Sequence[Canary]) -> None:
        """Erase people, with a receipt each; what was handed to them is theirs from then on."""
        for number, person in enumerate(people):
            self.run("erase", person.subject, "--yes", "-o", self.folder / "receipts" / str(number))
        for handed in ("exports", "disclosed", "masked"):
            shutil.rmtree(self.folder / handed)
            (self.folder / handed).mkdir()

    def insist(self, people: Sequence[Canary]) -> None:
        """Try to get the erased back."""
        self.run("export", people[0].subject, "-o", self.folder / "reports" / "export", expect=_REFUSED)
        lines = [line for person in people for line in lines_of(person, at=self._at)]
        self.ingest("again", lines, expect=_REFUSED)

    async def wait_gone(self, kids: Collection[bytes]) -> int:
        """Tick until the broker and the stores hold no envelope of these keys; return how many are left."""
        deadline = time.monotonic() + GONE_S
        left = self.count(kids)
        async with self.cluster.runtime() as runtime:
            while left and time.monotonic() < deadline:
                for _ in range(3):
                    await runtime.registrar.tick(force=True)
                    await asyncio.sleep(1.0)
                left = self.count(kids)
        return left

    def close(self) -> None:
        """End the worker, and drop the database."""
        self.kill_worker()
        self.postgres.sql(f"DROP DATABASE {self.database} WITH (FORCE)")


@asynccontextmanager
async def run(
    broker: BrokerProcess, postgres: PostgresProcess, folder: Path, *, people: int, seed: int
) -> AsyncIterator[tuple[CanaryReport, Hunt, CanaryCluster, int]]:
    """Run canaries through a cluster; yield what was found, and the envelopes that the broker still has.

    The cluster is there until the context ends, and then its worker is ended.
    """
    everybody = flock(people, seed=seed)
    erased = everybody[: max(2, people // SHARE)]
    it = CanaryCluster(broker, postgres, folder, everybody)
    hunt = Hunt(everybody, erased, seed=seed)
    try:
        left = await _hunted(it, hunt, erased)
        yield hunt.report, hunt, it, left
    finally:
        it.close()


async def _hunted(it: CanaryCluster, hunt: Hunt, erased: Sequence[Canary]) -> int:
    folder = it.folder
    await it.cluster.create(scale_ms=SCALE_MS)
    it.start_worker()
    async with it.cluster.runtime() as runtime:
        await runtime.registrar.tick()
        await runtime.passes.settle(timeout_s=START_S)
    it.live()
    handed_out = {"exports": [folder / "exports"], "disclosed": [folder / "disclosed"]}
    with it.frozen() as places:
        hunt.before(
            places, handed_out=handed_out, masked=[folder / "masked"], copies=[folder / "copies"],
            rows=it.rows(), keys=it.keys,
        )  # fmt: skip
    with Asked(it.cluster.env, hunt, log=folder / "said" / "asked.err") as asked:
        asked.read()
        _, given = it.ask_worker(hunt.kids)
        hunt.asked_live(asked=0, released=given, is_before=True)
        it.erase(erased)
        await asyncio.sleep(HINT_S)
        asked.ask()
        answered, given = it.ask_worker(hunt.kids)
        hunt.asked_live(asked=answered, released=given)
        with it.frozen() as places:
            hunt.after(places)
        with it.everywhere() as paths:
            hunt.read_with_what_is_in_use(paths, keystore=[], rows=it.rows(), keys=it.keys)
        it.insist(erased)
        left = await it.wait_gone(hunt.kids)
        it.run("keys", "roll", "--final-now", "--yes")
        asked.ask()
    with it.frozen() as places:
        hunt.after(places)
    with it.everywhere() as paths:
        hunt.read_with_all(paths, rows=it.rows(), keys=it.keys)
    return left
