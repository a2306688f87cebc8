"""A server that forks: each process sends what it emitted itself, once."""

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger.sdk import Flushed, SyncLedger
from privacy_ledger.sdk.spool import Spool
from tests.sdk.service import QUICK, Request, Service, accepted, granted

CHILDREN: Final = 4
EACH: Final = 50
pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


def forked(work: Callable[[], None]) -> int:
    """Return the id of a child that does this and ends as a worker of a server does."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended_well(*children: int) -> bool:
    """Return whether all of these children did their work."""
    return all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)


@pytest.mark.parametrize("is_spooled", [False, True])
@pytest.mark.parametrize("is_busy", [False, True])
def test_a_prefork_server_sends_each_event_once(
    service: Service, tmp_path: Path, is_spooled: bool, is_busy: bool  # noqa: FBT001 - cases
) -> None:  # fmt: skip
    """The parent holds events when it forks, in its buffer or on their way; no child sends them again."""
    gate, asked = threading.Event(), threading.Event()

    def held(request: Request) -> tuple[int, dict[str, str], bytes]:
        asked.set()
        gate.wait(20)
        status, _, body = accepted(request)
        return status, {}, body

    if is_busy:
        service.script.append(held)
    spool = Spool(tmp_path, key=bytes(32)) if is_spooled else None
    ledger = SyncLedger(service.transport(), source="our-lms", limits=QUICK, spool=spool).open()
    for number in range(EACH):
        ledger.emit(granted(number))
    if is_busy:
        assert asked.wait(5)

    def work(child: int) -> None:
        for number in range(EACH):
            ledger.emit(granted(1000 * child + number))
        if ledger.close() != Flushed(sent=EACH):
            raise AssertionError

    children = [forked(lambda child=child: work(child)) for child in range(1, CHILDREN + 1)]  # type: ignore[misc] # a default binds the loop's value
    gate.set()
    all_well = ended_well(*children)
    flushed = ledger.close()

    assert all_well
    assert flushed == Flushed(sent=EACH)
    expected = {
        f"granted-{1000 * child + number}": 1 for child in range(CHILDREN + 1) for number in range(EACH)
    }
    assert Counter(service.ids) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_connection_of_the_parent_is_not_used_by_a_child(service: Service) -> None:
    """The answers of the two would be mixed up."""
    ledger = SyncLedger(service.transport(), source="our-lms", limits=QUICK).open()
    ledger.emit(granted(0))
    ledger.flush()

    def work() -> None:
        ledger.emit(granted(1))
        if ledger.close() != Flushed(sent=1):
            raise AssertionError

    child = forked(work)
    ledger.emit(granted(2))
    flushed = ledger.close()

    assert ended_well(child)
    assert flushed == Flushed(sent=2)
    assert sorted(service.ids) == ["granted-0", "granted-1", "granted-2"]


def test_a_ledger_that_nobody_closed_is_closed_at_the_end_of_the_process(service: Service) -> None:
    """As at the end of a script."""
    import subprocess  # noqa: PLC0415 - here only
    import sys  # noqa: PLC0415 - here only

    program = (
        "import sys\n"
        "from privacy_ledger.sdk import HttpTransport, SyncLedger\n"
        "from tests.sdk.service import granted\n"
        "url = f'http://127.0.0.1:{sys.argv[1]}'\n"
        "SyncLedger(HttpTransport(url, key='plk_x'), source='our-lms').open().emit(granted())\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(service.port)], check=True, cwd=Path(__file__).parents[2]
    )

    assert service.ids == ["granted-0"]
