"""A live process of the ledger that has read what people have, and is asked for it after their erasure.

It is a process of its own: a search that opens and closes the files of SQLite in the process that
uses them takes its locks away.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from privacy_ledger.bootstrap import Runtime, open_runtime
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.ports.keys import DataKey
from privacy_ledger.ports.log import Row
from privacy_ledger.settings import from_environment
from privacy_ledger.testing.canary_run import Hunt

__all__ = ["Asked"]

SEALED: Final = b"\x01"


class Asked:
    """The process, seen from the run; it stays open, with warm caches, until the end."""

    def __init__(self, environment: Mapping[str, str], hunt: Hunt, *, log: Path) -> None:
        """Start it; `environment` names the home or the cluster, and `log` takes what it says beside."""
        self._hunt = hunt
        with log.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err,
                env=environment,
            )  # fmt: skip

    def __enter__(self) -> Self:
        """Return it, running."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.communicate(b"")

    def read(self) -> None:
        """Let it read all records of those who will be erased, so that its caches hold their keys."""
        told = {"refs": sorted(ref.hex() for ref in self._hunt.refs), "kids": _hex(self._hunt.kids)}
        _, given = self._say(told)
        self._hunt.asked_live(asked=0, released=given, is_before=True)

    def ask(self) -> None:
        """Ask for every key by its id, and for the text of every record as it was."""
        asked, given = self._say({"kids": _hex(self._hunt.kids)})
        self._hunt.asked_live(asked=asked, released=given)

    def _say(self, told: Mapping[str, object]) -> tuple[int, int]:
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise AssertionError("the process has no pipes")
        to.write(json.dumps(told).encode() + b"\n")
        to.flush()
        answer: dict[str, int] = json.loads(back.readline())
        return answer["asked"], answer["given"]


def _hex(kids: Collection[bytes]) -> list[str]:
    return sorted(kid.hex() for kid in kids)


# In the process -------------------------------------------------------------------------------


async def _serve() -> None:
    rows: list[Row] = []
    async with open_runtime(from_environment(), prepare=False) as runtime:
        while line := await asyncio.to_thread(sys.stdin.readline):
            told = json.loads(line)
            if "refs" in told:
                rows = await _rows_of(runtime, frozenset(map(bytes.fromhex, told["refs"])))
            kids = [bytes.fromhex(kid) for kid in told["kids"]]
            keys = runtime.vault.open_keys(kids).values()
            texts = [runtime.codec.payload(row) for row in rows]
            given = sum(isinstance(key, DataKey) for key in keys) + sum(text is not None for text in texts)
            sys.stdout.write(json.dumps({"asked": len(kids) + len(texts), "given": given}) + "\n")
            sys.stdout.flush()


async def _rows_of(runtime: Runtime, refs: Collection[bytes]) -> list[Row]:
    """Return all sealed records of these references."""
    found: list[Row] = []
    for partition in range(runtime.partitions):
        after = -1
        while rows := await runtime.log.read(LEDGER_EVENTS, partition, after=after, limit=2000):
            found += [row for row in rows if row.key[:16] in refs and (row.value or b"")[:1] == SEALED]
            after = rows[-1].offset
    return found


if __name__ == "__main__":
    asyncio.run(_serve())
