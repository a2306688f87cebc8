"""A lost disk: the real restore from the changelogs into an empty store, compared with the lost one."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from msgspec import structs

from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.adapters.rocks_store import RocksStore
from privacy_ledger.domain.topics import state_topic
from privacy_ledger.engine import collector
from privacy_ledger.engine.declaration import CORE
from privacy_ledger.engine.handover import restore
from privacy_ledger.engine.progress import RestoreProgress
from privacy_ledger.streams.states import INDEX
from tests.bench import plain as plain_engine
from tests.bench import sealed as sealed_engine
from tests.bench.measure import Figure, Meter
from tests.bench.tasks import Restore, RestoreSealed

__all__ = ["plain", "sealed"]

_OF_THE_STORE: Final = (b"\0chg:", b"\0at", b"\0own")
"""What a store says of itself: how far it is, when it was whole, whose it is. No changelog holds it."""


async def plain(task: Restore) -> Figure:
    """Restore the view, or the view and the tag rows, of a plain pass."""
    log = KafkaLog(
        ClusterSettings(bootstrap=task.bootstrap),
        partitions=1,
        topics=plain_engine.OUTPUTS,
        prefix=task.prefix,
    )
    changelogs = {
        topic: code
        for topic, code in plain_engine.CHANGELOGS.items()
        if topic == plain_engine.VIEW_TOPIC or not task.is_view_only
    }
    prefix = plain_engine.CHANGELOGS[plain_engine.VIEW_TOPIC] if task.is_view_only else b""
    await log.start()
    try:
        return await _restored(
            log, Path(task.folder), Path(task.original) / "state" / "0",
            pass_name=plain_engine.PASS, changelogs=changelogs, prefix=prefix,
        )  # fmt: skip
    finally:
        await log.close()


async def sealed(task: RestoreSealed) -> Figure:
    """Restore the core pass; `live_records` counts the ledger records that its index holds."""
    original = Path(task.original)
    async with sealed_engine.opened(task.bootstrap, original, prefix=task.prefix, targets={}) as (
        runtime,
        log,
    ):
        declaration = runtime.declared[CORE]
        own = state_topic(CORE)
        changelogs = {own: b""}
        for table in declaration.tables:
            if runtime.states.topic(table) != own:
                changelogs[runtime.states.topic(table)] = table.code
        store = original / "state" / CORE / "worker-0" / "0"
        figure = await _restored(
            log, Path(task.folder), store, pass_name=CORE, changelogs=changelogs, prefix=b""
        )
    with closing(RocksStore(Path(task.folder))) as restored:
        live = sum(1 for _ in restored.scan(INDEX.code))
    return structs.replace(figure, more={"live_records": live})


async def _restored(
    log: KafkaLog,
    folder: Path,
    original: Path,
    *,
    pass_name: str,
    changelogs: Mapping[str, bytes],
    prefix: bytes,
) -> Figure:
    with closing(RocksStore(folder)) as store:
        collector.calm()  # as the worker does
        meter = Meter()
        records = await restore(log, store, 0, changelogs=changelogs, progress=RestoreProgress(pass_name, 0))
        figure = meter.figure(records)
        with closing(RocksStore(original)) as lost:
            keys, found = _contents(store, prefix)
            same = (keys, found) == _contents(lost, prefix)
    says = "equal to" if same else "DIFFERENT from"
    return structs.replace(figure, is_exact=same, note=f"{keys:,} keys {says} those of the lost store.")


def _contents(store: RocksStore, prefix: bytes) -> tuple[int, str]:
    """Return how many keys a store holds, and a digest of all of them with their values."""
    found = hashlib.sha256()
    keys = 0
    for key, value in _pairs(store, prefix):
        keys += 1
        found.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
    return keys, found.hexdigest()


def _pairs(store: RocksStore, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    return ((key, value) for key, value in store.scan(prefix) if not key.startswith(_OF_THE_STORE))
