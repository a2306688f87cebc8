"""A record that nobody can read stops nobody, and none of its bytes are shown.

It parks its subject in every pass: the partition goes on, a pointer goes to `dlq.v1`, and the
pointer says where and why, never what.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from privacy_ledger import logging
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.ports.log import Headers, NewRecord, Row
from tests.unit.home import home, played

CANARY = b"canary.7c1d@example.com"

Change = Callable[[bytes, Headers], tuple[bytes, Headers]]

POISONS: dict[str, Change] = {
    "plain text": lambda _, headers: (CANARY, headers),
    "no bytes": lambda _, headers: (b"", headers),
    "null in JSON": lambda _, headers: (b"null", headers),
    "another version": lambda sealed, headers: (b"\xff" + sealed[1:] + CANARY, headers),
    "a key that nobody holds": lambda sealed, headers: (sealed[:1] + bytes(32) + sealed[33:], headers),
    "a flipped bit": lambda sealed, headers: (sealed[:-1] + bytes([sealed[-1] ^ 1]), headers),
    "half of it": lambda sealed, headers: (sealed[: len(sealed) // 2], headers),
    "no headers": lambda sealed, _: (sealed + CANARY, ()),
    "a header of its own": lambda sealed, headers: (sealed, (*headers, ("email", CANARY))),
    "a tag that is none": lambda sealed, headers: (sealed, (*headers[:-2], ("tag", CANARY), headers[-1])),
}


def poisoned(row: Row, change: Change) -> NewRecord:
    """Return another record of the same subject that nobody can read."""
    value, headers = change(row.value or b"", row.headers)
    return NewRecord(row.partition, row.key[:16] + b"\x01" * 16, value, headers)


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], bytes]]:
    """Log as a worker does; yields what returns the lines so far."""
    logging.configure(level="DEBUG")
    yield lambda: "".join(capfd.readouterr()).encode()
    structlog.reset_defaults()


def neighbours(refs: dict[str, SubjectRef], partitions: int) -> tuple[str, str]:
    """Return two people who share a partition."""
    by_partition: dict[int, str] = {}
    for name, ref in refs.items():
        other = by_partition.setdefault(partition_of(ref, partitions), name)
        if other != name:
            return other, name
    raise AssertionError("twelve people, four partitions, and no two in one")


@pytest.mark.parametrize("change", POISONS.values(), ids=POISONS)
async def test_an_unreadable_record_parks_its_subject_and_nobody_else(
    tmp_path: Path, said: Callable[[], bytes], change: Change
) -> None:
    """Another person of the same partition goes on; pointer and log hold nothing of the record."""
    async with home(tmp_path) as it:
        people = [str(number) for number in range(12)]
        await it.take([played(name, event=f"e{name}") for name in people])
        victim, neighbour = neighbours({name: it.ref(name) for name in people}, it.runtime.partitions)
        sealed = [row for row in await it.rows() if row.value is not None and row.value[:1] == b"\x01"]
        (row,) = [row for row in sealed if row.key[:16] == it.ref(victim)]
        await it.runtime.log.append(LEDGER_EVENTS, [poisoned(row, change)])

        await it.take([played(victim, event="later"), played(neighbour, event="beside")])

        live = {name: len(await it.runtime.views.live(it.ref(name))) for name in (victim, neighbour)}
        pointers = await it.rows(DLQ)
    shown = [part for row in pointers for part in (row.key, row.value or b"", str(row.headers).encode())]
    shown.append(said())
    assert live == {victim: 1, neighbour: 2}
    assert len(pointers) >= 1
    assert [part for part in shown if CANARY in part or CANARY.hex().encode() in part] == []


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "JSON"])
def test_a_logged_error_shows_no_value_of_its_frames(
    capfd: pytest.CaptureFixture[str],
    as_json: bool,  # noqa: FBT001 - a case of the test
) -> None:
    """The line is there; what the frames of its error held is not, nor what an unknown key says."""
    logging.configure(level="DEBUG", as_json=as_json)

    def fail(value: bytes) -> None:
        held = value.decode()
        raise ValueError(held)

    try:
        fail(CANARY)
    except ValueError:
        logging.get_logger().exception("it failed", reason="ValueError", email=CANARY.decode())
    structlog.reset_defaults()

    line = "".join(capfd.readouterr())
    assert ("it failed" in line, CANARY.decode() in line) == (True, False)
