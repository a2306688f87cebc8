"""Nobody who was erased comes back without an authenticated return, whatever is taken in afterwards."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from msgspec import structs

from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.keystore import KeystorePlace, PostgresAddress
from privacy_ledger.adapters.local.home import open_home, set_trial_clock
from privacy_ledger.app import ingest
from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.app.ingest import Source
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_UNATTRIBUTED
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.formats import Parsed
from privacy_ledger.ports.keys import Identity, IdentityStatus
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.testing.postgres import PostgresProcess
from tests.unit.home import NOW, RECENT, TestHome, home, parse, played, registered

ADA: Final = "openedx:user_id:7"
EMAIL: Final = "ada@example.com"
DAY: Final = timedelta(days=1)
BEGUN: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
OWN: Final = 4
"""Lines of the erased person in a file, of which somebody else has as many."""


def file_of(at: datetime) -> list[bytes]:
    """Return a file about two people, of which one is erased later."""
    return [
        registered("7", "ada", event="r7", email=EMAIL, at=at),
        registered("8", "grace", event="r8", email="grace@example.com", at=at),
        *(played(name, event=f"p{name}{n}", at=at) for n in range(OWN - 2) for name in ("7", "8")),
        played("ada", event="by-name", at=at),
        played("grace", event="by-another-name", at=at),
    ]


def move(folder: Path, at: datetime) -> None:
    """Move the trial clock of a home that is not open."""
    set_trial_clock(open_home(folder / "home", ids=SystemIds()), at)


async def assert_gone(it: TestHome, ref: SubjectRef, *, records: int) -> None:
    """Assert that the person is as an erasure left them: no new reference, no record, no view."""
    r = it.runtime
    remains = await remains_of(PersonRows(r.log), r.vault, ref)
    assert (remains.live, remains.readable, remains.unknown) == (0, 0, 0)
    assert remains.records == records
    assert await r.views.get(progress.TABLE, ref) is None
    assert await r.views.get(subject_view.TABLE, ref) is None
    rows = r.vault.find((Identity("openedx:user_id", "7"), Identity("openedx:username", "ada")))
    assert [row and (row.ref, row.status) for row in rows] == [(ref, IdentityStatus.ERASED)] * 2
    assert r.vault.is_ended(ref)
    assert r.vault.standing_of(ref).live == 0


async def erased(it: TestHome) -> tuple[SubjectRef, int]:
    """Erase the person; return their reference, and how many records of theirs the log has."""
    ref = it.ref("7")
    (done,) = await it.erasure().erase(it.subjects.find(ADA).refs)
    assert done.is_completed
    return ref, (await remains_of(PersonRows(it.runtime.log), it.runtime.vault, ref)).records


# Old files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_import", [False, True], ids=["as usual", "as an import"])
@pytest.mark.parametrize("days", [1, 89, 101])
async def test_an_old_file_that_is_run_again_brings_nobody_back(
    tmp_path: Path, days: int, *, is_import: bool
) -> None:
    """Early or late after the erasure, declared an import or not; the other person's lines are copies."""
    lines = file_of(BEGUN - DAY)
    async with home(tmp_path, trial=BEGUN) as it:
        assert (await it.take(lines)).accepted == 2 * OWN
        ref, records = await erased(it)
    move(tmp_path, BEGUN + days * DAY)
    async with home(tmp_path) as it:
        again = await it.take(lines, is_import=is_import)
        await assert_gone(it, ref, records=records)
        others = len(await it.runtime.views.live(it.ref("8")))
    assert (again.accepted, again.unattributed, again.duplicates) == (0, 0, OWN)
    assert again.reasons == {Refusal.SUBJECT_ERASED: OWN}
    assert others == OWN


@pytest.mark.parametrize("days", [1, 89, 101])
async def test_a_registration_that_looks_fresh_brings_nobody_back(tmp_path: Path, days: int) -> None:
    """New event ids and new times, alone, together with a new id, or under the old name only."""
    async with home(tmp_path, trial=BEGUN) as it:
        await it.take(file_of(BEGUN - DAY))
        ref, records = await erased(it)
    move(tmp_path, BEGUN + days * DAY)
    at = BEGUN + days * DAY
    fresh = [
        registered("7", "ada", event="new-1", email=EMAIL, at=at),
        registered("7", event="new-2", email=EMAIL, at=at),
        registered("99", "ada", event="new-3", email=EMAIL, at=at),
        registered("7", "ada-again", event="new-4", email=EMAIL, at=at),
        played("ada", event="new-5", at=at),
    ]
    async with home(tmp_path) as it:
        again = await it.take(fresh)
        await assert_gone(it, ref, records=records)
        aliases = (Identity("openedx:user_id", "99"), Identity("openedx:username", "ada-again"))
        known = it.runtime.vault.find(aliases)
    assert (again.accepted, again.unattributed) == (0, 0)
    assert again.reasons == {Refusal.SUBJECT_ERASED: len(fresh)}
    assert known == (None, None)


async def test_one_who_was_erased_comes_back_as_somebody_new_by_an_authenticated_return(
    tmp_path: Path,
) -> None:
    """A new reference, that knows nothing of before; the old file stays refused, now by its times."""
    lines = file_of(BEGUN - DAY)
    async with home(tmp_path, trial=BEGUN) as it:
        await it.take(lines)
        ref, _ = await erased(it)
    move(tmp_path, BEGUN + 30 * DAY)
    async with home(tmp_path) as it:
        await it.runtime.passes.settle(await it.subjects.return_(ADA))
        again = await it.take([*lines, played("7", event="new", at=BEGUN + 30 * DAY + timedelta(minutes=1))])
        new = it.ref("7")
        live = await it.runtime.views.live(new)
        remains = await remains_of(PersonRows(it.runtime.log), it.runtime.vault, ref)
    assert new != ref
    assert (again.accepted, again.reasons) == (1, {Refusal.BEFORE_SUBJECT: OWN})
    assert len(live) == 1
    assert (remains.live, remains.readable) == (0, 0)


# Other sources ---------------------------------------------------------------------------------


def said_by_mail(raw: bytes) -> Parsed | Refusal:
    """Parse a line of a mail service, which knows people by an address."""
    parsed = parse(raw)
    if isinstance(parsed, Refusal):
        return parsed
    people = [
        structs.replace(one, identities=tuple(Identity("mail:address", i.value) for i in one.identities))
        for one in parsed.people
    ]
    return structs.replace(parsed, people=tuple(people))


@pytest.mark.parametrize("days", [1, 89, 101])
async def test_a_late_word_of_a_mail_service_brings_nobody_back(tmp_path: Path, days: int) -> None:
    """It knows the erased by name, or by an address that was theirs, or by one that nobody had bound.

    A service is no authority on who there is: what it says of nobody known is refused, not kept.
    """
    at = BEGUN + days * DAY
    mails = Source(name="mails", parse=said_by_mail, is_authoritative=False)
    async with home(tmp_path, trial=BEGUN) as it:
        await it.take(file_of(BEGUN - DAY))
        address = Identity("mail:address", EMAIL)
        it.runtime.vault.bind(it.ref("7"), (address,), now=BEGUN)
        ref, records = await erased(it)
    move(tmp_path, at)
    late = [played(name, event=f"{name}-bounced", at=at) for name in (EMAIL, "another@example.com")]
    async with home(tmp_path) as it:
        by_address = await it.ingest.run(enumerate(late, start=1), mails)
        by_name = await it.take([played("ada", event="delivered", at=at)], is_authoritative=False)
        await it.runtime.passes.settle()
        await assert_gone(it, ref, records=records)
        (mine, unbound) = it.runtime.vault.find((address, Identity("mail:address", "another@example.com")))
        waiting = await it.rows(LEDGER_UNATTRIBUTED)
    assert by_address.accepted == by_name.accepted == 0
    assert by_address.reasons == {Refusal.SUBJECT_ERASED: 1, Refusal.SUBJECT_UNKNOWN: 1}
    assert by_name.reasons == {Refusal.SUBJECT_ERASED: 1}
    assert mine is not None
    assert (mine.ref, mine.status, unbound) == (ref, IdentityStatus.ERASED, None)
    assert waiting == []


# Second processes ------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def keystore(request: pytest.FixtureRequest) -> Iterator[KeystorePlace | None]:
    """Yield where the keystore is: in the home, or in a database of its own."""
    if request.param == "sqlite":
        yield None
        return
    server: PostgresProcess = request.getfixturevalue("postgres")
    server.sql("CREATE DATABASE nobody_back")
    yield PostgresAddress(server.url("nobody_back"))
    server.sql("DROP DATABASE nobody_back WITH (FORCE)")


def erase_elsewhere(folder: Path, keystore: KeystorePlace | None) -> None:
    """Erase the person by the command, in a process of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PRIVACY_LEDGER_")}
    own = {"PRIVACY_LEDGER_KEYS": str(folder / "keys"), "XDG_DATA_HOME": str(folder / "data")}
    if isinstance(keystore, PostgresAddress):
        own["PRIVACY_LEDGER_KEYSTORE"] = keystore.url
    words = [sys.executable, "-m", "privacy_ledger", "--home", str(folder / "home"), "erase", ADA, "--yes"]
    done = subprocess.run(words, env={**kept, **own}, capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


async def test_an_ingest_whose_memory_is_older_than_an_erasure_brings_nobody_back(
    tmp_path: Path, keystore: KeystorePlace | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process erases between two batches of its run: what follows is refused, under every id."""
    monkeypatch.setattr(ingest, "LINES_PER_BATCH", 2)
    refs: list[SubjectRef] = []
    later = [
        played("7", event="later-1"),
        played("ada", event="later-2"),
        registered("7", "ada", event="later-3", email=EMAIL, at=NOW),
        played("8", event="later-4"),
    ]
    async with home(tmp_path, keystore=keystore) as it:

        def lines() -> Iterator[tuple[int, bytes]]:
            yield from enumerate(file_of(RECENT), start=1)
            refs.append(it.ref("7"))
            erase_elsewhere(tmp_path, keystore)
            yield from enumerate(later, start=2 * OWN + 1)

        summary = await it.ingest.run(lines(), Source(name="test", parse=parse))
        await it.runtime.passes.settle()
        await assert_gone(it, refs[0], records=0)  # the command takes their bytes, too
        others = len(await it.runtime.views.live(it.ref("8")))
    assert (summary.accepted, summary.reasons) == (2 * OWN + 1, {Refusal.SUBJECT_ERASED: 3})
    assert others == OWN + 1


async def test_what_was_sealed_before_an_erasure_and_lands_after_it_brings_nobody_back(
    tmp_path: Path, keystore: KeystorePlace | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: keys were drawn and the batch is sealed when another process erases."""
    async with home(tmp_path, keystore=keystore) as it:
        await it.take(file_of(RECENT))
        ref, log = it.ref("7"), it.runtime.log
        append, erasures = log.append, list[int]()

        async def late(topic: str, records: Sequence[NewRecord]) -> object:
            if topic == LEDGER_EVENTS and not erasures:
                erasures.append(len(records))
                erase_elsewhere(tmp_path, keystore)
            return await append(topic, records)

        with monkeypatch.context() as patch:
            patch.setattr(log, "append", late)
            taken = await it.ingest.run(
                enumerate([played("7", event="late"), played("8", event="beside")], start=1),
                Source(name="test", parse=parse),
            )
        await it.runtime.passes.settle()
        await assert_gone(it, ref, records=1)
        others = len(await it.runtime.views.live(it.ref("8")))
    assert (erasures, taken.accepted, others) == ([2], 2, OWN + 1)
