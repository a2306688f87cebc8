"""The means of a replay: by type and in fact they reach nothing but what is its own."""

import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger._passes import means_of
from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.topics import ANALYTICS_PARTIALS, DLQ, LEDGER_EVENTS, LEDGER_REGISTRY, view_topic
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.batch import Work
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import version_pass
from privacy_ledger.engine.muted import MutedAftermath, MutedLog
from privacy_ledger.engine.outlet import Silence
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.streams.protocol import Emit
from privacy_ledger.streams.states import Shred, Tombstone
from tests.unit.home import TestHome, home, played

ROOT: Final = Path(__file__).parents[2]
NOW: Final = datetime(2026, 3, 1, tzinfo=UTC)
REF: Final = SubjectRef(b"r" * 16)
RECORD: Final = NewRecord(0, b"key", b"value")
MYPY_TIMEOUT_S: Final = 240

SAYS: Final = """
from datetime import datetime
from privacy_ledger.domain.events import ErasureRequested
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.muted import MutedLog, OwnKeys
from privacy_ledger.engine.outlet import Silence
from privacy_ledger.ports.codec import Decoder, StateCodec
from privacy_ledger.ports.log import NewRecord, PassLog


async def reach(
    log: MutedLog, port: PassLog, keys: OwnKeys, decoder: Decoder, states: StateCodec, ref: SubjectRef,
    now: datetime, fact: ErasureRequested, record: NewRecord,
) -> None:
    {line}
"""
REACHES: Final = {
    "append to the ledger": 'await log.append("ledger.events.v1", (record,))',
    "append through the port": 'await port.append("ledger.events.v1", (record,))',
    "take the log inside": "log.inner",
    "shred a person": "keys.shred(ref, now=now)",
    "end a person": "keys.end(ref, now=now)",
    "make a tombstone": 'decoder.tombstone(ref, ref, cause="", request="")',
    "make a control fact": "decoder.control_fact(ref, ref, fact, received_at=now)",
    "make a partial": "states.partial(None, now=now)",
    "send a notice": "Silence().notify(ref)",
}
"""What a handler of a replay might want to do, as it would be written."""
OWN: Final = {
    "read": 'await log.read("ledger.events.v1", 0, after=-1)',
    "write its own": 'await log.append_atomically((("view.progress.v2", record),), writer="progress-v2.0")',
    "shred its own": "keys.shred_below(ref, 1)",
    "decode": "decoder.decode(())",
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what the type checker says of a module per line."""
    folder = tmp_path_factory.mktemp("typed")
    for name, line in (REACHES | OWN).items():
        (folder / f"{name.replace(' ', '_')}.py").write_text(SAYS.format(line=line))
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"),
            "--cache-dir", str(ROOT / ".mypy_cache"), *map(str, sorted(folder.glob("*.py"))),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=MYPY_TIMEOUT_S,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("name", REACHES)
def test_a_replay_that_reaches_outside_does_not_type_check(complaints: str, name: str) -> None:
    """There is no such method on what it is given."""
    found = [line for line in complaints.splitlines() if f"{name.replace(' ', '_')}.py" in line]
    assert [line for line in found if "[attr-defined]" in line] != [], complaints[-2000:]


@pytest.mark.parametrize("name", OWN)
def test_what_a_replay_may_do_type_checks(complaints: str, name: str) -> None:
    """So that the complaints are about the reach, and not about how they are written."""
    assert [line for line in complaints.splitlines() if f"{name.replace(' ', '_')}.py" in line] == []


async def _muted(it: TestHome) -> MutedLog:
    declaration = version_pass(it.runtime.declared["core"], "progress", 2)
    it.runtime.log.declare(*declaration.topics)  # type: ignore[attr-defined] # a home's log declares
    log = means_of(it.runtime.parts, declaration).log
    assert isinstance(log, MutedLog)
    return log


@pytest.mark.parametrize(
    "topic",
    [LEDGER_EVENTS, LEDGER_REGISTRY, ANALYTICS_PARTIALS, DLQ, view_topic("progress"), "state.core.v1"],
)
async def test_a_foreign_topic_is_refused_with_all_that_goes_with_it(tmp_path: Path, topic: str) -> None:
    """Nothing of the transaction is appended."""
    async with home(tmp_path) as it:
        log = await _muted(it)
        own = view_topic("progress", 2)
        with pytest.raises(InvariantViolation, match="its own topics only"):
            await log.append_atomically([(own, RECORD), (topic, RECORD)], writer="progress-v2.0")
        assert [row for row in await it.rows(own) if row.key == RECORD.key] == []
        await log.append_atomically([(own, RECORD)], writer="progress-v2.0")
        assert [row.key for row in await it.rows(own)] == [RECORD.key]


@pytest.mark.parametrize("writer", ["core.0", "registrar", "progress-v3.0", "progress-v2"])
async def test_another_writer_is_neither_used_nor_fenced(tmp_path: Path, writer: str) -> None:
    """Whoever owns it goes on."""
    async with home(tmp_path) as it:
        log = await _muted(it)
        owner = it.runtime.log
        await owner.open_writer(writer)
        reaches: list[Callable[[], Awaitable[object]]] = [
            lambda: log.open_writer(writer),
            lambda: log.append_atomically([(view_topic("progress", 2), RECORD)], writer=writer),
        ]
        for reach in reaches:
            with pytest.raises(InvariantViolation, match="as itself only"):
                await reach()
        await owner.append_atomically([(DLQ, RECORD)], writer=writer)


def test_silence_makes_no_record_of_what_a_step_asks_for() -> None:
    """Neither an output, nor a pointer, nor a tombstone."""
    emit = Emit(topic=ANALYTICS_PARTIALS, partition=0, key=b"k", release="ab" * 16, cells={}, subjects=0)
    silence = Silence()
    assert silence.outputs([emit], {1: "step"}, partition=0, now=NOW) == []
    assert silence.tombstones([Tombstone(0, "erased", "", REF + REF)]) == ()


async def test_a_shred_that_is_not_its_own_is_not_carried_out(tmp_path: Path) -> None:
    """Whatever stands on the list of a version's pass, only its own view's old keys die."""
    asked: list[tuple[SubjectRef, int]] = []
    done: list[Sequence[bytes]] = []

    class Keys:
        def shred_below(self, ref: SubjectRef, generation: int) -> None:
            asked.append((ref, generation))

    class Cycle(PartitionCycle):
        def __init__(self) -> None:
            pass

        def shredded(self, work: Work) -> None:
            done.append([key for key, _ in work.shreds])

    shreds = (
        (REF + b"view", Shred("view", below=3)), (REF + b"account#1", Shred("account", generation=1)),
        (REF + b"usage", Shred("usage+improve.analyse", generation=0)),
    )  # fmt: skip
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        work = Work(tombstones=(RECORD,), shreds=shreds)
        before = await it.rows()
        await MutedAftermath(Keys()).carry_out(work, Cycle())
        assert await it.rows() == before
    assert asked == [(REF, 3)]
    assert done == [[key for key, _ in shreds]]
