"""A keystore as a whole: many keys made once, and a final roll of their epoch in each round."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import structs

from privacy_ledger.adapters import envelope
from privacy_ledger.adapters.clock import SystemClock
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.keystore import FileKeks, PostgresAddress, StoredKeyVault, open_keystore
from privacy_ledger.app.key_care import KeyCare
from privacy_ledger.domain.key_release import RIGHTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, KeyWant, Shredded
from privacy_ledger.testing.postgres import PostgresUnavailable, running_postgres
from tests.bench.bars import Kind
from tests.bench.measure import Figure, Meter
from tests.bench.processes import do
from tests.bench.run import Bench
from tests.bench.tasks import KeyFill, KeyRoll, KeySeal

__all__ = ["Keystores", "fill", "roll", "seal"]

NOW: Final = datetime(2026, 3, 1, tzinfo=UTC)
BATCH: Final = 10_000
SAMPLE: Final = 1_000
SHREDDED: Final = 100
SEALED_PEOPLE: Final = 1_000
"""Whose keys are in memory while records are sealed."""
SEALED_BATCH: Final = 500
RECORD: Final = bytes(range(250)) * 2
HEADERS: Final = tuple(
    (name, b"a usual value of it")
    for name in (
        "ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type", "category",
        "purposes", "basis", "notice", "jurisdiction", "received", "schema", "kid", "gen", "tag", "digest",
    )
)  # fmt: skip
"""As many as a record has; all of them are bound."""


class Keystores:
    """A keystore in a file, copied for each round, and one in PostgreSQL."""

    def __init__(self, bench: Bench) -> None:
        """Make the keys once."""
        self._bench = bench
        self._original = bench.fresh("keystore")
        do(KeyFill(folder=str(self._original), keys=bench.size.keystore_rows), Figure)

    def round(self, number: int) -> None:
        """Roll the epoch of every key, and destroy the old one; and seal under keys in memory."""
        bench = self._bench
        sealing = KeySeal(folder=str(bench.fresh(f"sealing-{number}")), records=bench.size.sealed_records)
        bench.measure(Kind.SEAL, lambda: do(sealing, Figure))
        folder = bench.folder / f"keystore-{number}"
        shutil.copytree(self._original, folder)
        task = KeyRoll(folder=str(folder), keys=bench.size.keystore_rows)
        bench.measure(Kind.KEY_ROLL, lambda: do(task, Figure))
        shutil.rmtree(folder)
        in_postgres = structs.replace(
            task, folder=str(bench.fresh(f"pg-{number}")), keys=bench.size.keystore_pg_rows, in_postgres=True
        )
        bench.measure(Kind.KEY_ROLL_PG, lambda: do(in_postgres, Figure))


def fill(task: KeyFill) -> Figure:
    """Make keys in a file, one for each of so many people."""
    with closing(_in_file(Path(task.folder))) as vault:
        meter = Meter()
        _make(vault, task.keys)
        return meter.figure(task.keys)


def roll(task: KeyRoll) -> Figure:
    """Destroy a few keys and roll; every key in use still opens, and no destroyed one does."""
    folder = Path(task.folder)
    with _opened(task) as vault:
        if task.in_postgres:
            _make(vault, task.keys)
        gone = [_ref(number) for number in range(SHREDDED)]
        for ref in gone:
            vault.shred(ref, now=NOW)
        step = max(1, task.keys // SAMPLE)
        sample = vault.sealing_keys([_want(n) for n in range(SHREDDED, task.keys, step)], now=NOW)
        meter, begin, rewrapped_at = Meter(), time.perf_counter(), 0.0

        def note(what: str, _count: int) -> None:
            nonlocal rewrapped_at
            if what == "rewrapped":
                rewrapped_at = time.perf_counter()

        rolled = KeyCare(vault.keeper, clock=SystemClock(), backups=folder / "backups").roll(
            is_final=True, on_step=note
        )
        figure = meter.figure(
            rolled.rewrapped,
            rewrapped_per_s=rolled.rewrapped / (rewrapped_at - begin),
            roll_s=time.perf_counter() - begin,
        )
        is_exact = rolled.destroyed == (1,) and _still_open(vault, sample)
    return structs.replace(
        figure, is_exact=is_exact, note=f"{len(sample):,} keys that were asked for open as before."
    )


def seal(task: KeySeal) -> Figure:
    """Seal records of 500 bytes: the key of each asked for, headers and key bound; what opens is the same."""
    with closing(_in_file(Path(task.folder))) as vault:
        wants = [_want(number) for number in range(SEALED_PEOPLE)]
        vault.sealing_keys(wants, now=NOW)
        batches = [wants[at : at + SEALED_BATCH] for at in range(0, SEALED_PEOPLE, SEALED_BATCH)]
        _sealed(vault, batches[0])
        meter, sealed = Meter(), []
        for number in range(task.records // SEALED_BATCH):
            sealed = _sealed(vault, batches[number % len(batches)])
        figure = meter.figure(task.records // SEALED_BATCH * SEALED_BATCH)
        is_exact = all(envelope.open_sealed(key, value, bound) == RECORD for key, value, bound in sealed)
    return structs.replace(figure, is_exact=is_exact, more={"seal_us": 1e6 / figure.rate})


def _sealed(vault: StoredKeyVault, wants: Sequence[KeyWant]) -> list[tuple[DataKey, bytes, bytes]]:
    found = []
    for key in vault.sealing_keys(wants, now=NOW):
        bound = envelope.aad("ledger.events", key.ref + key.ref, HEADERS)
        found.append((key, envelope.seal(key, RECORD, bound), bound))
    return found


def _still_open(vault: StoredKeyVault, sample: tuple[DataKey, ...]) -> bool:
    """Return whether keys open as before, asked of the store and not of this process's memory."""
    vault._cache.drop()  # noqa: SLF001 - a new process would ask the store as well
    found = vault.open_keys([key.kid for key in sample])
    standing = vault.keeper.standing()
    return (
        [found.get(key.kid) for key in sample] == list(sample)
        and not any(isinstance(key, Shredded) for key in found.values())
        and [epoch.number for epoch in standing.epochs] == [2]
    )


@contextmanager
def _opened(task: KeyRoll) -> Iterator[StoredKeyVault]:
    folder = Path(task.folder)
    if not task.in_postgres:
        with closing(_in_file(folder)) as vault:
            yield vault
        return
    try:
        with running_postgres() as server:
            address = PostgresAddress(server.url())
            with closing(open_keystore(address, FileKeks(folder / "keys"), ids=SystemIds())) as vault:
                yield vault.released_to(RIGHTS)
    except PostgresUnavailable as missing:
        raise SystemExit(f"POSTGRESQL: NOT RUN: {missing}") from missing


def _in_file(folder: Path) -> StoredKeyVault:
    return open_keystore(folder / "keystore.db", FileKeks(folder / "keys"), ids=SystemIds()).released_to(
        RIGHTS
    )


def _make(vault: StoredKeyVault, count: int) -> None:
    for first in range(0, count, BATCH):
        vault.sealing_keys([_want(n) for n in range(first, min(count, first + BATCH))], now=NOW)


def _ref(number: int) -> SubjectRef:
    return SubjectRef(number.to_bytes(16, "big"))


def _want(number: int) -> KeyWant:
    return KeyWant(_ref(number), "usage")
