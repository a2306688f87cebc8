"""Process of `poe bench-erasures` that looks into the broker's files: when sealed records are gone.

A record is there as long as its last bytes stand in any file of the partition, those that the
cleaner is about to delete or to swap in included.
"""

import asyncio
import mmap
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import REF_BYTES
from tests.bench.child import Talk
from tests.bench.erasing import Held, people_in
from tests.bench.tasks import ErasureBytes, Gone, More, Seen

__all__ = ["Segments", "watch"]

POLL_S: Final = 0.25
ATTEMPTS: Final = 20
_PAGE: Final = 5000
_NS_PER_MS: Final = 1_000_000
_Version = tuple[str, int, int, int]


class Segments:
    """The files of one partition; what was found in one that has not changed is not looked for again."""

    def __init__(self, folder: Path) -> None:
        """Take the partition's folder."""
        self._folder = folder
        self._found: dict[_Version, set[bytes]] = {}
        self._looked: dict[_Version, set[bytes]] = {}

    def present(self, tokens: Iterable[bytes]) -> set[bytes] | None:
        """Return which of the tokens stand in a file; None: files came and went while it was looked."""
        wanted = set(tokens)
        before = self._listed()
        found: set[bytes] = set()
        for version in before:
            missing = wanted - self._looked.get(version, set())
            if missing:
                there = self._in_file(version, missing)
                if there is None:
                    return None
                self._looked.setdefault(version, set()).update(missing)
                self._found.setdefault(version, set()).update(there)
            found |= self._found.get(version, set()) & wanted
        after = self._listed()
        # A file that only grew since held what it held; one that came may have what another lost.
        if {version[:2] for version in after} != {version[:2] for version in before}:
            return None
        self._found = {version: self._found[version] for version in before if version in self._found}
        self._looked = {version: self._looked[version] for version in before if version in self._looked}
        return found

    def _listed(self) -> list[_Version]:
        versions = []
        for path in sorted(self._folder.glob("*.log*")):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            versions.append((path.name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return versions

    def _in_file(self, version: _Version, tokens: set[bytes]) -> set[bytes] | None:
        try:
            with (self._folder / version[0]).open("rb") as file:
                if not version[2]:
                    return set()
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    return {token for token in tokens if content.find(token) >= 0}
        except (FileNotFoundError, ValueError):  # it went, or it was emptied
            return None


class _Tombstones:
    """When the broker appended the last tombstone of each person of the sample, read as they come."""

    def __init__(self, log: KafkaLog, owner: Mapping[bytes, int], partitions: Iterable[int]) -> None:
        self._log = log
        self._owner = owner
        self._after = dict.fromkeys(partitions, -1)
        self.at_ms: dict[int, int] = {}

    async def start(self) -> None:
        """Begin at the end."""
        for partition in self._after:
            self._after[partition] = await self._log.end(LEDGER_EVENTS, partition) - 1

    async def look(self) -> None:
        """Read what came since."""
        for partition in self._after:
            while rows := await self._log.read(
                LEDGER_EVENTS, partition, after=self._after[partition], limit=_PAGE
            ):
                self._after[partition] = rows[-1].offset
                for row in rows:
                    person = self._owner.get(row.key[:REF_BYTES])
                    if row.value is None and person is not None:
                        self.at_ms[person] = max(self.at_ms.get(person, 0), row.appended_ms)


async def watch(task: ErasureBytes, talk: Talk) -> list[Gone]:
    """Look for every record of the sample until all are gone; say per person when they went.

    Raises:
        RuntimeError: a record is not in the files before anybody is erased, so that nothing would be shown.
    """
    people = people_in(task.file)
    sample = {person: people[person] for person in task.sample}
    partitions = {record.partition for one in sample.values() for record in one.records}
    segments = {
        number: Segments(Path(task.segments) / f"{task.prefix}{LEDGER_EVENTS}-{number}")
        for number in partitions
    }
    pending = {record.token for one in sample.values() for record in one.records}
    if await _present(segments, sample, pending) != pending:
        raise RuntimeError("a record is not in the broker's files before anybody is erased")
    log = KafkaLog(ClusterSettings(bootstrap=task.bootstrap), partitions=task.partitions, prefix=task.prefix)
    await log.start()
    try:
        tombstones = _Tombstones(
            log, {ref: person for person, one in sample.items() for ref in one.refs}, partitions
        )
        await tombstones.start()
        talk.say(0)
        gone = await _look(task, talk, segments, sample, tombstones)
    finally:
        await log.close()
    ahead = time.time_ns() - time.monotonic_ns()
    return [
        _gone(person, one, gone, tombstoned_ms=tombstones.at_ms.get(person), ahead_ns=ahead)
        for person, one in sample.items()
    ]


async def _look(
    task: ErasureBytes,
    talk: Talk,
    segments: Mapping[int, Segments],
    sample: Mapping[int, Held],
    tombstones: _Tombstones,
) -> dict[bytes, tuple[int, int]]:
    """Return between which two looks each record went."""
    pending = {record.token for one in sample.values() for record in one.records}
    gone: dict[bytes, tuple[int, int]] = {}
    ended = asyncio.create_task(talk.hear(More))
    before, until = time.monotonic_ns(), 0.0
    while pending:
        if ended.done():
            until = until or time.monotonic() + task.patience_s
            if time.monotonic() > until:
                break
        await tombstones.look()
        begun = time.monotonic_ns()
        there = await _present(segments, sample, pending)
        if there is not None:
            at = time.monotonic_ns()
            gone.update(dict.fromkeys(pending - there, (before, at)))
            pending, before = pending & there, begun
        await asyncio.sleep(POLL_S)
    await ended
    return gone


async def _present(
    segments: Mapping[int, Segments], sample: Mapping[int, Held], pending: set[bytes]
) -> set[bytes] | None:
    """Return which records are there, or None where the files did not hold still."""
    wanted: defaultdict[int, set[bytes]] = defaultdict(set)
    for one in sample.values():
        for record in one.records:
            if record.token in pending:
                wanted[record.partition].add(record.token)
    found: set[bytes] = set()
    for partition, tokens in wanted.items():
        for _ in range(ATTEMPTS):
            there = segments[partition].present(tokens)
            if there is not None:
                found |= there
                break
            await asyncio.sleep(0.01)
        else:
            return None
    return found


def _gone(
    person: int,
    one: Held,
    gone: Mapping[bytes, tuple[int, int]],
    *,
    tombstoned_ms: int | None,
    ahead_ns: int,
) -> Gone:
    mine = sorted((gone[record.token] for record in one.records if record.token in gone), key=lambda g: g[1])
    seen = [Seen(person=person, before_ns=before, at_ns=at) for before, at in mine]
    left = len(one.records) - len(mine)
    return Gone(
        person=person, records=len(one.records),
        tombstoned_ns=None if tombstoned_ms is None else tombstoned_ms * _NS_PER_MS - ahead_ns,
        first=seen[0] if seen else None, last=seen[-1] if seen and not left else None, left=left,
    )  # fmt: skip
