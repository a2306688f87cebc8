"""Processes of `poe bench-erasures` that act: who fills the ledger, who feeds it, who erases, who checks."""

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.app.erasure import ErasureOutcome
from privacy_ledger.app.ingest import LINES_PER_BATCH
from privacy_ledger.bootstrap import Runtime, erasure_of, open_runtime, subjects_of
from privacy_ledger.domain.errors import LedgerError, NotCaughtUp
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import REF_BYTES, SubjectRef
from privacy_ledger.ports.keys import DataKey, Shredded, Withheld
from privacy_ledger.ports.log import header
from privacy_ledger.testing.generator import course_name
from tests.bench import product
from tests.bench.child import Talk
from tests.bench.tasks import (
    Checked,
    Erased,
    ErasureCheck,
    ErasureFeed,
    ErasurePrepare,
    ErasureRun,
    Fed,
    More,
    Order,
)

__all__ = ["Held", "Record", "check", "erase", "feed", "lines_of", "people_in", "prepare", "subject_of"]

FIRST_USER_ID: Final = 50_000_000
"""Above every user id that the generator draws for the feed."""
TICK_S: Final = 0.1
PAGES: Final = 3
TRIES_MAX: Final = 5
TOKEN_BYTES: Final = 32
_SEALED: Final = 1
_KID: Final = slice(1, 33)
_PAGE: Final = 5000
_NS: Final = 1_000_000_000


class Record(Struct, frozen=True, array_like=True):
    """A sealed record in the ledger; `token`: its last bytes, which are nobody else's."""

    partition: int
    offset: int
    token: bytes


class Held(Struct, frozen=True, kw_only=True):
    """What the ledger holds of one person before anything is erased."""

    subject: str
    refs: tuple[bytes, ...]
    kids: tuple[bytes, ...]
    records: tuple[Record, ...]


def people_in(file: str) -> list[Held]:
    """Return the people of a run, by number."""
    return msgspec.msgpack.decode(Path(file).read_bytes(), type=list[Held])


# Filling ----------------------------------------------------------------------------------------


def subject_of(person: int) -> str:
    """Return the SUBJECT of a made-up person."""
    return f"openedx:user_id:{FIRST_USER_ID + person}"


def lines_of(person: int, *, now: datetime) -> Iterator[bytes]:
    """Yield the tracking logs of a made-up person: registration, enrolment and some pages."""
    user_id, name = FIRST_USER_ID + person, f"erased-{person:06d}"
    course = course_name(person % 4)
    at = now - timedelta(days=2)
    context = {"user_id": user_id, "course_id": course}
    registered = {"user_id": user_id, "username": name, "name": "Made Up", "email": f"{name}@example.com"}
    events = [
        ("edx.user.registered", {"user_id": user_id}, registered),
        ("edx.course.enrollment.activated", context, {**context, "mode": "audit"}),
        *((f"/courses/{course}/info", context, {}) for _ in range(PAGES)),
    ]
    for number, (kind, where, event) in enumerate(events):
        yield msgspec.json.encode(
            {
                "event_type": kind, "event_source": "server", "event_id": f"{name}-{number}",
                "time": (at + timedelta(minutes=number)).isoformat(), "username": name, "context": where,
                "event": event,
            }
        )  # fmt: skip


async def prepare(task: ErasurePrepare) -> int:
    """Ingest the people's lines, write down what the ledger holds of each, and return how many records.

    Raises:
        RuntimeError: somebody holds no record.
    """
    async with open_runtime(product.settings(task)) as runtime:
        ingest = await product.ingest(runtime)
        now = datetime.now(UTC)
        lines = (line for person in range(task.people) for line in lines_of(person, now=now))
        await ingest.run(enumerate(lines, start=1), product.SOURCE)
        held = await _held(runtime, task.people)
    if not all(one.records and one.kids for one in held):
        raise RuntimeError("somebody who is to be erased holds no record")
    _write(task.file, held)
    return sum(len(one.records) for one in held)


def _write(file: str, held: list[Held]) -> None:
    Path(file).write_bytes(msgspec.msgpack.encode(held))


async def _held(runtime: Runtime, people: int) -> list[Held]:
    subjects = await subjects_of(runtime)
    refs = [subjects.find(subject_of(person)).refs for person in range(people)]
    owner = {ref: person for person, mine in enumerate(refs) for ref in mine}
    kids: defaultdict[int, dict[bytes, None]] = defaultdict(dict)
    records: defaultdict[int, list[Record]] = defaultdict(list)
    for partition in range(runtime.partitions):
        after = -1
        while rows := await runtime.log.read(LEDGER_EVENTS, partition, after=after, limit=_PAGE):
            for row in rows:
                person = owner.get(SubjectRef(row.key[:REF_BYTES]))
                is_sealed = row.value is not None and header(row.headers, "kid") is not None
                if person is not None and row.value is not None and is_sealed and row.value[0] == _SEALED:
                    kids[person][row.value[_KID]] = None
                    records[person].append(Record(partition, row.offset, row.value[-TOKEN_BYTES:]))
            after = rows[-1].offset
    return [
        Held(
            subject=subject_of(person), refs=tuple(map(bytes, mine)), kids=tuple(kids[person]),
            records=tuple(records[person]),
        )
        for person, mine in enumerate(refs)
    ]  # fmt: skip


# Feeding ----------------------------------------------------------------------------------------


async def feed(task: ErasureFeed, talk: Talk) -> Fed:
    """Ingest events of other people at the rate until the input ends; say how many were read so far."""
    async with open_runtime(product.settings(task)) as runtime:
        ingest = await product.ingest(runtime)
        talk.say(0)
        begun = time.monotonic()
        summary = await ingest.run(
            enumerate(_paced(task, talk), start=1), product.SOURCE, on_progress=talk.say
        )
        return Fed(events=summary.read, records=summary.records, seconds=time.monotonic() - begun)


def _paced(task: ErasureFeed, talk: Talk) -> Iterator[bytes]:
    """Yield lines when they are due; blank ones fill up a batch, so that none waits for the next tick's.

    The ingest waits for what it appended before it asks again. When that takes longer than a tick,
    all that is due comes at once: the rate that is reached is the one that is reported.
    """
    ended = threading.Event()

    def listen() -> None:
        while talk.hear_waiting(More) is not None:
            continue
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    made = product.lines(task.learners)
    begun, given = time.monotonic(), 0
    while not ended.wait(TICK_S):
        due = int((time.monotonic() - begun) * task.rate) - given
        for _ in range(due):
            yield next(made)
        given += due
        yield from (b"" for _ in range(-due % LINES_PER_BATCH))


# Erasing ----------------------------------------------------------------------------------------


async def erase(task: ErasureRun, talk: Talk) -> int:
    """Erase whoever is ordered, as the command `erase` does; return how many sagas were completed."""
    people = people_in(task.file)
    done = 0
    async with open_runtime(product.settings(task)) as runtime:
        talk.say(0)
        while (order := await talk.hear(Order)) is not None:
            if task.is_fresh:
                runtime.latest.forget()
            erased = await _erase(runtime, people[order.person].subject, order.person)
            done += erased.is_completed
            talk.say(erased)
    return done


async def _erase(runtime: Runtime, subject: str, number: int) -> Erased:
    """Find the person, wait for the views as far as they come, and run the saga until it is complete."""
    begun = time.monotonic_ns()
    ahead = time.time_ns() - begun
    refs = (await subjects_of(runtime)).find(subject).refs
    with contextlib.suppress(NotCaughtUp):
        await runtime.passes.settle()
    steps: dict[str, int] = {}
    errors: list[str] = []
    outcomes: tuple[ErasureOutcome, ...] = ()
    tries = 0

    def note(_ref: SubjectRef, step: str) -> None:
        steps.setdefault(step, time.monotonic_ns())

    while tries < TRIES_MAX and not (outcomes and all(one.is_completed for one in outcomes)):
        tries += 1
        try:
            outcomes = await erasure_of(runtime).erase(refs, on_step=note)
        except LedgerError as error:  # whoever ran the command would run it again
            errors.append(type(error).__name__)
            await asyncio.sleep(TICK_S * tries)
    stated = [msgspec.json.decode(one.receipt, type=_Stated) for one in outcomes if one.receipt is not None]
    requested = min((round(one.requested_at.timestamp() * _NS) - ahead for one in stated), default=begun)
    return Erased(
        person=number, begun_ns=begun, requested_ns=requested, steps=steps, tries=tries,
        is_completed=bool(outcomes) and all(one.is_completed for one in outcomes),
        open_steps=tuple(sorted({step for one in outcomes for step in one.open_steps})),
        errors=tuple(errors),
    )  # fmt: skip


class _Stated(Struct, frozen=True, kw_only=True):
    requested_at: datetime


# Checking ---------------------------------------------------------------------------------------


async def check(task: ErasureCheck) -> Checked:
    """Ask a keystore and views that were opened just now for everybody."""
    with_live_keys = readable = unknown = answering = 0
    async with open_runtime(product.settings(task), prepare=False) as runtime:
        for one in people_in(task.file)[: task.people]:
            refs = [SubjectRef(ref) for ref in one.refs]
            opened = runtime.vault.open_keys(one.kids)
            with_live_keys += any(runtime.vault.standing_of(ref).live for ref in refs)
            readable += any(isinstance(key, DataKey | Withheld) for key in opened.values())
            unknown += sum(isinstance(key, Shredded) for key in opened.values()) < len(one.kids)
            answering += any(
                [await runtime.views.answering(ref) or await runtime.views.live(ref) for ref in refs]
            )
    return Checked(with_live_keys=with_live_keys, readable=readable, unknown=unknown, answering=answering)
