"""A restored store holds what the changelog says last, however deletes and pages fall."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError

from privacy_ledger.adapters.kafka import ClusterSettings, KafkaLog
from privacy_ledger.adapters.rocks_store import RocksStore
from privacy_ledger.domain.errors import LogUnavailable
from privacy_ledger.domain.topics import state_topic
from privacy_ledger.engine import handover
from privacy_ledger.engine.progress import RestoreProgress
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.ports.runtime import StateStore
from privacy_ledger.testing.broker import Broker
from tests.regression.topics import own_log

STATE = state_topic("core")
PREFIX = b"s"
"""Before every key of these tests: a store holds marks of its own beside them."""

Change = tuple[bytes, bytes | None]


@pytest_asyncio.fixture
async def log(kafka: Broker) -> AsyncIterator[KafkaLog]:
    """Yield a log on topics of the test's own."""
    async with own_log(ClusterSettings(bootstrap=kafka.bootstrap)) as opened:
        yield opened


@pytest.fixture(params=[5000, 1], ids=["one page", "a page per record"])
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the changelog in one page, or record by record."""
    monkeypatch.setattr(handover, "RESTORE_READ", request.param)


async def written(log: KafkaLog, changes: Sequence[Change]) -> None:
    """Append changes of states to the changelog, a transaction each."""
    for key, value in changes:
        await log.append_atomically([(STATE, NewRecord(0, PREFIX + key, value))], writer="core.0")


async def restored(log: KafkaLog, store: StateStore) -> dict[bytes, bytes]:
    """Restore a store as a new owner does, and return the states that it holds then."""
    await log.open_writer("core.0")
    progress = RestoreProgress("core", 0)
    await handover.restore(log, store, 0, changelogs={STATE: b""}, progress=progress)
    return {key.removeprefix(PREFIX): value for key, value in store.scan(PREFIX)}


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize(
    ("changes", "states"),
    [
        pytest.param([(b"a", b"1"), (b"a", None), (b"a", b"2")], {b"a": b"2"}, id="assigned again"),
        pytest.param([(b"a", b"1"), (b"a", b"2"), (b"a", None)], {}, id="deleted last"),
        pytest.param([(b"a", None), (b"b", b"1")], {b"b": b"1"}, id="deleted before it was known"),
        pytest.param([(b"a", b"1"), (b"a", None), (b"a", b"")], {b"a": b""}, id="assigned an empty value"),
        pytest.param([(b"a", b"1"), (b"a", None), (b"a", None)], {}, id="deleted twice"),
    ],
)
async def test_a_key_is_restored_as_it_was_left(
    log: KafkaLog, tmp_path: Path, changes: list[Change], states: dict[bytes, bytes]
) -> None:
    """A delete neither outlives a later value nor breaks the restore."""
    await written(log, changes)
    store = RocksStore(tmp_path / "store")

    found = await restored(log, store)

    store.close()
    assert found == states


async def test_a_store_that_goes_on_takes_deletes_and_returns_of_keys(log: KafkaLog, tmp_path: Path) -> None:
    """Restored, closed and opened again behind its changelog, as after a crash of its worker."""
    store = RocksStore(tmp_path / "store")
    await written(log, [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")])
    first = await restored(log, store)
    store.close()
    await written(log, [(b"a", None), (b"b", None), (b"b", b"2")])
    again = RocksStore(tmp_path / "store")

    second = await restored(log, again)

    again.close()
    assert first == {b"a": b"1", b"b": b"1", b"c": b"1"}
    assert second == {b"b": b"2", b"c": b"1"}


async def test_what_a_dead_owner_did_not_commit_counts_for_nothing(
    log: KafkaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records lie in the changelog, a delete among them; the new owner has them aborted."""
    await written(log, [(b"a", b"1")])

    async def dies(_producer: AIOKafkaProducer) -> None:
        raise KafkaConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(AIOKafkaProducer, "commit_transaction", dies)
        with pytest.raises(LogUnavailable):
            await written(log, [(b"a", None)])
    store = RocksStore(tmp_path / "store")

    found = await restored(log, store)

    store.close()
    assert found == {b"a": b"1"}
