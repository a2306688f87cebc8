"""A home in a temporary folder with a clock of its own, and made-up lines in a made-up format."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest
from msgspec import Struct, structs

from privacy_ledger import bootstrap
from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.adapters.keystore import KeystorePlace
from privacy_ledger.adapters.signer import SEED_NAME, Ed25519Signer
from privacy_ledger.app._evidence import PersonRows
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.app.erasure import Erasure
from privacy_ledger.app.export import Export
from privacy_ledger.app.ingest import Ingest, LineReport, Source, Summary
from privacy_ledger.app.stores import DerivedStore, Found
from privacy_ledger.app.subjects import Subjects
from privacy_ledger.domain.events import (
    COLLECTION_EVENTS,
    AccountRegistered,
    DeviceObserved,
    Fact,
    PaymentConfirmed,
    UsagePageViewed,
    VideoPlayed,
    event_type,
)
from privacy_ledger.domain.key_release import COLLECT
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import AUDIT_LEAVES, LEDGER_EVENTS, LEDGER_UNATTRIBUTED
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity
from privacy_ledger.ports.log import EventLog, NewRecord, Row, header
from privacy_ledger.ports.observe import SILENT, Meters
from privacy_ledger.ports.runtime import Ids, Wrap
from privacy_ledger.settings import Settings, from_environment
from privacy_ledger.streams import progress
from privacy_ledger.streams.progress import Progress, ProgressPart
from privacy_ledger.streams.record import Record

NOW: Final = datetime.now(UTC).replace(microsecond=0)
RECENT: Final = NOW - timedelta(days=1)
LEAF_KEY_BYTES: Final = 8
COURSE: Final = "course-v1:Example+One+2026"
_TYPES: Final = {event_type(kind): kind for kind in COLLECTION_EVENTS}


class Said(Struct, kw_only=True, omit_defaults=True):
    """One made-up line: people as (user id, username), and what is said of each of them."""

    id: str | None = None
    people: tuple[tuple[str, ...], ...] = ()
    facts: tuple[dict[str, str | int], ...] = ()
    at: datetime = RECENT
    session: str | None = None
    browser: str | None = None


def line(said: Said) -> bytes:
    """Return the bytes of a made-up line."""
    return msgspec.json.encode(said)


def parse(raw: bytes) -> Parsed | Refusal:
    """Parse a made-up line; what is no JSON is refused."""
    try:
        said = msgspec.json.decode(raw, type=Said)
    except (msgspec.DecodeError, UnicodeError):
        return Refusal.NOT_JSON
    people = tuple(
        PersonFacts(identities=tuple(_identity(name) for name in names), facts=_facts(said))
        for names in said.people
    )
    device = DeviceObserved(occurred_at=said.at, browser=said.browser) if said.browser else None
    return Parsed(
        people=people,
        unattributed=() if people else _facts(said),
        device=device if people else None,
        occurred_at=said.at,
        source_event_id=said.id,
        anonymous=None if said.session is None else f"session:{said.session}",
        digest_input=raw,
    )


def _identity(name: str) -> Identity:
    return Identity("openedx:user_id" if name.isdecimal() else "openedx:username", name)


def _facts(said: Said) -> tuple[Fact, ...]:
    built = []
    for fields in said.facts:
        kind = _TYPES[str(fields["type"])]
        built.append(kind(occurred_at=said.at, **{k: v for k, v in fields.items() if k != "type"}))
    return tuple(built)


def played(*names: str, event: str, at: datetime = RECENT, video: str = "v1", **more: str) -> bytes:
    """Return a line that says that somebody played a video."""
    fact: dict[str, str | int] = {"type": event_type(VideoPlayed), "course": COURSE, "video": video}
    people = (names,) if names else ()
    return line(Said(id=event, people=people, facts=(fact,), at=at, **more))


def viewed(*names: str, event: str, at: datetime = RECENT) -> bytes:
    """Return a line that says that somebody viewed a page: it needs consent."""
    fact: dict[str, str | int] = {"type": event_type(UsagePageViewed), "course": COURSE}
    return line(Said(id=event, people=(names,), facts=(fact,), at=at))


def registered(*names: str, event: str, email: str, at: datetime = RECENT) -> bytes:
    """Return a line that says that somebody registered."""
    fact: dict[str, str | int] = {"type": event_type(AccountRegistered), "email": email, "name": names[-1]}
    return line(Said(id=event, people=(names,), facts=(fact,), at=at))


def paid(*names: str, event: str, at: datetime = RECENT) -> bytes:
    """Return a line that says that somebody paid."""
    fact: dict[str, str | int] = {
        "type": event_type(PaymentConfirmed), "reference": "pay_example", "amount_minor": 4900,
        "currency": "EUR",
    }  # fmt: skip
    return line(Said(id=event, people=(names,), facts=(fact,), at=at))


def unreadable(rows: Iterable[Row], ref: SubjectRef, ids: Ids) -> NewRecord:
    """Return one more record of a person, under a key that no keystore holds: it parks them."""
    row = next(row for row in rows if row.key[:16] == ref and header(row.headers, "kid"))
    value = row.value or b""
    return NewRecord(row.partition, ref + ids.token(), value[:1] + ids.token(32) + value[33:], row.headers)


def break_progress(videos: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the step of `progress` for some videos, as long as they are in the set."""
    right = Progress.step

    def step(self: Progress, part: ProgressPart | None, record: Record) -> ProgressPart:
        if getattr(record.body, "video", None) in videos:
            raise ZeroDivisionError
        return right(self, part, record)

    monkeypatch.setattr(Progress, "step", step)


class Away:
    """A store that cannot be reached until it is told."""

    name = "search"
    topics: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __init__(self) -> None:
        """Be away."""
        self.is_away = True

    async def count(self, ref: SubjectRef) -> int:
        """Return nothing."""
        del ref
        return 0

    async def purge(self, ref: SubjectRef) -> None:
        """Do nothing."""
        del ref

    async def verify(self, ref: SubjectRef) -> Found:
        """Return what there is."""
        del ref
        return Found(left=0, hindrance="unreachable" if self.is_away else None)


class TestHome:
    """A wired home, and what tests ask of it."""

    __test__ = False

    def __init__(self, runtime: bootstrap.Runtime, ingest: Ingest, rules: Rules) -> None:
        """Take the wiring."""
        self.runtime = r = runtime
        self.ingest = ingest
        self.subjects = Subjects(
            log=r.log, vault=r.vault, codec=r.codec, views=r.views, clock=r.clock, ids=r.ids, rules=rules
        )  # fmt: skip

    def erasure(self, *beside: DerivedStore, wait_s: float = 5.0) -> Erasure:
        """Return the erasure use case, with further stores."""
        return bootstrap.erasure_of(self.runtime, wait_s=wait_s, beside=beside)

    def audit(self, *, log: EventLog | None = None) -> AuditLog:
        """Return the audit log; the log may be replaced by one that fails."""
        signer = Ed25519Signer(self.runtime.vault.secret(SEED_NAME))
        return AuditLog(log or self.runtime.log, signer)

    async def export(self, name: str) -> dict[str, bytes]:
        """Return the files of a person's export."""
        r = self.runtime
        return await Export(rows=PersonRows(r.log), codec=r.codec, clock=r.clock).export((self.ref(name),))

    async def take(
        self,
        lines: Iterable[bytes],
        *,
        is_import: bool = False,
        is_authoritative: bool = True,
        consents: tuple[str, ...] = (),
        reports: list[LineReport] | None = None,
    ) -> Summary:
        """Ingest lines and let the passes settle."""
        source = Source(
            name="test", parse=parse, is_import=is_import,
            is_authoritative=is_authoritative, default_consents=consents,
        )  # fmt: skip
        on_line = None if reports is None else reports.append
        summary = await self.ingest.run(enumerate(lines, start=1), source, on_line=on_line)
        await self.runtime.passes.settle()
        return summary

    def ref(self, name: str) -> SubjectRef:
        """Return the reference of a user id or username."""
        (row,) = self.runtime.vault.find((_identity(name),))
        assert row is not None
        return row.ref

    async def leaves(self) -> list[bytes | None]:
        """Return the leaf hashes of the audit log, in order; checkpoints are left out."""
        return [row.value for row in await self.rows(AUDIT_LEAVES) if len(row.key) == LEAF_KEY_BYTES]

    async def rows(self, topic: str = LEDGER_EVENTS) -> list[Row]:
        """Return every record of a topic."""
        found: list[Row] = []
        for partition in range(self.runtime.log.partitions(topic)):
            after = -1
            while page := await self.runtime.log.read(topic, partition, after=after):
                found += page
                after = page[-1].offset
        return found

    async def types(self, name: str) -> list[str]:
        """Return the event types in a person's partition that are theirs, oldest first."""
        ref = self.ref(name)
        partition = partition_of(ref, self.runtime.partitions)
        rows = [r for r in await self.rows() if r.partition == partition and r.key[:16] == ref]
        return [dict(row.headers)["ce_type"].decode() for row in rows if row.value is not None]


def settings(folder: Path, *, keystore: KeystorePlace | None = None) -> Settings:
    """Return settings that keep everything in one folder; the keystore may be elsewhere."""
    return structs.replace(
        from_environment(home=str(folder / "home")),
        keys=folder / "keys", keystore=keystore, state=None, cluster=None, data_home=folder / "data",
    )  # fmt: skip


@asynccontextmanager
async def home(
    folder: Path,
    *,
    trial: datetime | None = None,
    is_exact: bool = True,
    is_worker: bool = False,
    wrap: Wrap | None = None,
    declared: Mapping[str, PassDeclaration] | None = None,
    meters: Meters = SILENT,
    keystore: KeystorePlace | None = None,
) -> AsyncIterator[TestHome]:
    """Yield a home with the seed in force; `trial` gives it a time of its own.

    `is_exact` False: ingest cannot look live tags up, as on Kafka. `is_worker`: the passes run here
    as long as it is open. `wrap`: around every port. `declared`: other passes. `meters` see its passes.
    `keystore`: where it is, otherwise in the home.
    """
    said = settings(folder, keystore=keystore)
    async with bootstrap.open_runtime(
        said, trial=trial, wrap=wrap, declared=declared, meters=meters
    ) as runtime:
        if is_worker and runtime.embedded is not None:
            assert await runtime.embedded.hold()
        await runtime.passes.settle()
        rules = await bootstrap.rules_in_force(runtime)
        vault = runtime.released_to(COLLECT)
        lane_codec: Codec = LedgerCodec(vault, partitions=runtime.partitions, stream=LEDGER_UNATTRIBUTED)
        ingest = Ingest(
            log=runtime.log, vault=vault, codec=runtime.codec, lane_codec=lane_codec,
            views=runtime.views, clock=runtime.clock, ids=runtime.ids, rules=rules,
            passes=runtime.passes, seen=runtime.local.live_tags if runtime.local and is_exact else None,
        )  # fmt: skip
        yield TestHome(runtime, ingest, rules)


async def unwaiting(r: bootstrap.Runtime) -> Ingest:
    """Return an ingest of an edge that knows no copies, and that waits for no pass."""
    vault = r.released_to(COLLECT)
    lane = LedgerCodec(vault, partitions=r.partitions, stream=LEDGER_UNATTRIBUTED)
    return Ingest(
        log=r.log, vault=vault, codec=r.codec, lane_codec=lane, views=r.views, clock=r.clock,
        ids=r.ids, rules=await bootstrap.rules_in_force(r),
    )  # fmt: skip


async def videos_of(it: TestHome, name: str) -> list[str]:
    """Return the videos that somebody's progress knows."""
    state = await it.runtime.views.get(progress.TABLE, it.ref(name))
    courses = {} if state is None else progress.merge(state)
    return sorted(video for course in courses.values() for video in course.videos)
