"""The canary run on a home: everything that it writes, what opens of it, and what live processes give."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import structs

from privacy_ledger.bootstrap import open_runtime
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.settings import from_environment
from privacy_ledger.testing.canary import flock
from privacy_ledger.testing.canary_home import CanaryHome, Command
from privacy_ledger.testing.canary_run import CanaryReport, Hunt
from tests.canary.asked import SEALED, Asked

__all__ = ["SHARE", "run"]

SHARE: Final = 10
"""One of so many is erased."""
HINT_S: Final = 1.1
"""After so long a process that uses keys knows of every shred of others."""


def run(folder: Path, *, people: int, seed: int, command: Command) -> tuple[CanaryReport, Hunt, CanaryHome]:
    """Run canaries through a home; return what was found, the hunt, and the home as it was left."""
    everybody = flock(people, seed=seed)
    erased = everybody[: max(1, people // SHARE)]
    (folder / "first").mkdir()
    home = CanaryHome(folder / "first", everybody, now=datetime.now(UTC), command=command)
    hunt = Hunt(everybody, erased, seed=seed)
    home.live()
    asyncio.run(_poison(home))
    home.settle_down()
    hunt.before(
        home.places, handed_out=home.handed_out, masked=home.masked, copies=home.copies, keys=home.keys
    )
    with Asked(home.environment, hunt, log=home.folder / "said" / "asked.err") as asked:
        asked.read()
        home.erase(erased)
        time.sleep(HINT_S)
        asked.ask()
        hunt.after(home.places)
        hunt.read_with_what_is_in_use(home.everywhere, keystore=home.places["keystore"], keys=home.keys)
        _restore(home, hunt, folder / "second", command=command)
        home.insist(erased)
        home.finish()
        asked.ask()
    hunt.after(home.places)
    hunt.read_with_all(home.everywhere, keys=home.keys)
    return hunt.report, hunt, home


async def _poison(home: CanaryHome) -> None:
    """Append a record that was damaged on its way: it opens with no key, and parks its subject."""
    settings = structs.replace(
        from_environment(home=str(home.home)),
        keys=home.keys, keystore=None, key_backups=None, state=None, cluster=None,
        data_home=home.folder / "data",
    )  # fmt: skip
    async with open_runtime(settings) as runtime:
        for partition in range(runtime.partitions):
            for row in await runtime.log.read(LEDGER_EVENTS, partition, after=-1, limit=500):
                if row.value is not None and row.value[:1] == SEALED:
                    damaged = row.value[:-1] + bytes([row.value[-1] ^ 1])
                    key = row.key[:16] + runtime.ids.token()
                    record = NewRecord(partition, key, damaged, row.headers)
                    await runtime.log.append(LEDGER_EVENTS, (record,))
                    return


def _restore(home: CanaryHome, hunt: Hunt, folder: Path, *, command: Command) -> None:
    """Put yesterday's log and keystore back, and look whether the erased are back as well."""
    folder.mkdir()
    other = home.restored(folder, command=command)
    with Asked(other.environment, hunt, log=other.folder / "said" / "asked.err") as asked:
        asked.ask()
    hunt.after(other.places)
    hunt.read_with_what_is_in_use(other.everywhere, keystore=other.places["keystore"], keys=other.keys)
