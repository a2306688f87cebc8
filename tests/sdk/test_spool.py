"""The spool: what was emitted outlives its process, cannot be read by others, and goes when it is sent."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from msgspec import structs

from privacy_ledger.sdk import BufferFull, Flushed, HttpTransport, SpoolUnusable, SyncLedger
from privacy_ledger.sdk.spool import Spool
from tests.sdk.service import CANARY, KEY, QUICK, Service, granted, paused, problem, registered, results

SECRET: Final = bytes(range(32))
NOWHERE: Final = "http://127.0.0.1:1"
_PRODUCER: Final = """
import sys, time
from pathlib import Path
from privacy_ledger.sdk import HttpTransport, SyncLedger
from privacy_ledger.sdk.spool import Spool
from tests.sdk.service import QUICK, granted
ledger = SyncLedger(
    HttpTransport("http://127.0.0.1:1", key="plk_x"), source="our-lms", limits=QUICK,
    spool=Spool(Path(sys.argv[1]), key=bytes(range(32))),
).open()
for number in range(100000):
    ledger.emit(granted(number))
    print(number, flush=True)
"""


def unreachable(folder: Path, *, key: bytes = SECRET, bytes_max: int = 1 << 26) -> SyncLedger:
    """Return an open ledger whose service is not there."""
    spool = Spool(folder, key=key, bytes_max=bytes_max)
    limits = structs.replace(QUICK, when_full="raise")
    return SyncLedger(
        HttpTransport(NOWHERE, key=KEY), source="our-lms", limits=limits, spool=spool
    ).open()  # fmt: skip


def reachable(service: Service, folder: Path, *, key: bytes = SECRET, source: str = "our-lms") -> SyncLedger:
    """Return an open ledger over the same folder."""
    spool = Spool(folder, key=key)
    return SyncLedger(service.transport(), source=source, limits=QUICK, spool=spool).open()


def filled(ledger: SyncLedger) -> int:
    """Return how many consents were taken before one was not."""
    for number in range(1000):
        try:
            ledger.emit(granted(number))
        except BufferFull:
            return number
    raise AssertionError


def test_what_one_process_could_not_send_the_next_one_sends(service: Service, tmp_path: Path) -> None:
    """In order, with the same ids, before its own; then nothing is left on disk."""
    first = unreachable(tmp_path)
    for number in range(3):
        first.emit(granted(number))
    said = first.close(timeout_s=0.1)
    second = reachable(service, tmp_path)
    second.emit(granted(3))
    flushed = second.close()

    assert (said, flushed) == (Flushed(spooled=3), Flushed(sent=4))
    assert service.ids == [f"granted-{number}" for number in range(4)]
    assert list(tmp_path.iterdir()) == []


def test_what_kill_9_ended_is_sent_by_the_next_process(service: Service, tmp_path: Path) -> None:
    """Every event whose `emit` returned; a torn last one was never emitted."""
    producer = subprocess.Popen(
        [sys.executable, "-c", _PRODUCER, str(tmp_path)],
        stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert producer.stdout is not None
    for _ in range(500):
        producer.stdout.readline()
    producer.send_signal(signal.SIGKILL)
    rest, _ = producer.communicate()
    whole = rest[: rest.rfind(b"\n") + 1].split()
    emitted = 500 + len(whole)
    flushed = reachable(service, tmp_path).close()

    assert flushed.spooled == flushed.pending == 0
    assert emitted <= flushed.sent <= emitted + 1
    assert service.ids == [f"granted-{number}" for number in range(flushed.sent)]
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_an_event_can_be_read_on_disk(tmp_path: Path) -> None:
    """Neither a value nor a subject nor a type, and only the owner may open the files."""
    ledger = unreachable(tmp_path)
    ledger.emit(registered())
    found = [path.read_bytes() for path in tmp_path.iterdir()]
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    ledger.close(timeout_s=0)

    assert len(found) == 1
    assert not any(word in found[0] for word in (CANARY.encode(), b"openedx", b"account.registered"))
    assert modes == {0o600}


@pytest.mark.parametrize("case", ["key", "source", "damage"])
def test_what_cannot_be_read_stays_and_is_counted(service: Service, tmp_path: Path, case: str) -> None:
    """Under another key, of another producer, or damaged; it is never thrown away."""
    first = unreachable(tmp_path)
    first.emit(granted(0))
    first.close(timeout_s=0)
    (path,) = tmp_path.iterdir()
    if case == "damage":
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    key = bytes(32) if case == "key" else SECRET
    ledger = reachable(service, tmp_path, key=key, source="other" if case == "source" else "our-lms")
    ledger.flush()
    flushed = ledger.close()

    assert flushed == Flushed(spooled=1)
    assert service.ids == []
    assert path.exists()


def test_a_torn_frame_at_the_end_of_a_file_is_no_event(service: Service, tmp_path: Path) -> None:
    """Its `emit` never returned."""
    first = unreachable(tmp_path)
    for number in range(2):
        first.emit(granted(number))
    first.close(timeout_s=0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])

    assert reachable(service, tmp_path).close() == Flushed(sent=1)
    assert service.ids == ["granted-0"]


def test_the_spool_has_a_bound(tmp_path: Path) -> None:
    """Beyond it usage is dropped and all else is told."""
    ledger = unreachable(tmp_path, bytes_max=2000)
    taken = filled(ledger)
    ledger.emit(paused())
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    flushed = ledger.close(timeout_s=0)

    assert size <= 2000
    assert flushed == Flushed(spooled=taken, dropped=1)
    assert taken > 1


def test_what_a_living_process_holds_is_left_to_it(service: Service, tmp_path: Path) -> None:
    """Two ledgers over one folder send each their own."""
    first = unreachable(tmp_path)
    first.emit(granted(0))
    second = reachable(service, tmp_path)
    second.emit(granted(1))

    assert second.close() == Flushed(sent=1)
    assert first.close(timeout_s=0) == Flushed(spooled=1)
    assert service.ids == ["granted-1"]


def test_what_is_refused_leaves_the_disk_too(service: Service, tmp_path: Path) -> None:
    """It would be refused again."""
    service.script.extend([problem(503, "busy"), results("consent_missing")])
    ledger = reachable(service, tmp_path)
    ledger.emit(granted())

    assert ledger.close() == Flushed(refused=1)
    assert list(tmp_path.iterdir()) == []


def test_a_key_or_a_folder_that_cannot_be_used_is_said_at_once(tmp_path: Path) -> None:
    """Without the key."""
    (tmp_path / "file").touch()
    with pytest.raises(SpoolUnusable) as caught:
        Spool(tmp_path, key=CANARY.encode())
    with pytest.raises(SpoolUnusable):
        Spool(tmp_path / "file" / "folder", key=SECRET)

    assert CANARY not in str(caught.value)
