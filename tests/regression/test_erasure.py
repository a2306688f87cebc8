"""What went wrong elsewhere when keys were destroyed or away, told again to this system."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger.app._own import OwnRecords
from privacy_ledger.app.ingest import Source
from privacy_ledger.bootstrap import rules_in_force
from privacy_ledger.domain.errors import KeyUnavailable
from privacy_ledger.domain.events import ConsentWithdrawn, ObjectionRaised, ProfileFieldSet, event_type
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS, TOPICS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.ports.keys import DataKey
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.streams import progress
from privacy_ledger.streams.held import HELD
from privacy_ledger.streams.record import Erased
from privacy_ledger.streams.states import PERMISSIONS
from privacy_ledger.testing.scanner import Scanner
from tests.unit.home import NOW, Said, TestHome, home, line, played, registered, unwaiting, viewed
from tests.unit.home import parse as parse_line

PURPOSE: Final = "improve.analyse"
EMAIL: Final = "canary-5d1f90c2@example.com"
VIDEO: Final = "canary-video-77a0b3e1"
ADA: Final = "openedx:user_id:7"
FRESH_S: Final = 1.1
"""After so long a process asks the keystore before it uses a key."""
KEPT: Final = tuple(topic.name for topic in TOPICS if topic.name != LEDGER_EVENTS)
SOURCE: Final = Source(name="test", parse=parse_line, default_consents=(PURPOSE,))


def lines_of(who: str) -> list[bytes]:
    """Return lines of every category that a person may have."""
    profile: dict[str, str | int] = {"type": event_type(ProfileFieldSet), "field": "language", "value": "en"}
    return [
        registered(who, event=f"r{who}", email=EMAIL),
        line(Said(id=f"f{who}", people=((who,),), facts=(profile,), browser="Firefox")),
        *(played(who, event=f"p{who}{n}", video=f"{VIDEO}-{n}") for n in range(3)),
        *(viewed(who, event=f"v{who}{n}") for n in range(3)),
    ]


async def take_unfolded(it: TestHome, lines: list[bytes]) -> None:
    """Take lines, and let nobody fold them yet."""
    await (await unwaiting(it.runtime)).run(enumerate(lines, start=1), SOURCE)


def of_person(rows: list[Row], ref: SubjectRef) -> list[Row]:
    """Return the sealed records of a person."""
    return [row for row in rows if row.key[:16] == ref and (row.value or b"")[:1] == b"\x01"]


def groups_of(it: TestHome, rows: list[Row]) -> list[str]:
    """Return the groups of the keys that seal these records, sorted."""
    found = it.runtime.vault.open_keys([bytes(row.value or b"")[1:33] for row in rows])
    return sorted({key.group for key in found.values() if isinstance(key, DataKey)})


# Erased fields -----------------------------------------------------------------------------------


async def test_records_whose_keys_are_gone_are_erased_to_every_step_and_stop_none(tmp_path: Path) -> None:
    """A destroyed key is a type of its own, not a null: group after group, in every pass, for one of two."""
    async with home(tmp_path) as it:
        await take_unfolded(it, [*lines_of("7"), *lines_of("8")])
        ref, other = it.ref("7"), it.ref("8")
        rows = of_person(await it.rows(), ref)
        groups = groups_of(it, rows)
        erased: list[int] = []
        for number, group in enumerate(groups, start=1):
            it.runtime.vault.shred(ref, now=NOW, group=group)
            await take_unfolded(it, [played("8", event=f"beside-{number}")])
            await it.runtime.passes.settle()
            bodies = [record.body for record in it.runtime.codec.decode(rows)]
            erased.append(sum(isinstance(body, Erased) for body in bodies))
        files = await it.export("7")
        mine = await it.runtime.views.get(HELD, ref)
        others = await it.runtime.views.get(HELD, other)
        theirs = await it.runtime.views.get(progress.TABLE, other)
        letters = await it.rows(DLQ)
        rebuilt = await verify(it.runtime)  # every step once more, from the beginning, with nothing of theirs
    assert len(groups) > 3
    assert erased == sorted(set(erased))
    assert erased[-1] == len(rows)
    assert b'"erased": ' + str(len(rows)).encode() in files["manifest.json"]
    assert EMAIL.encode() not in b"".join(files.values())
    assert theirs is not None
    assert (letters, mine, others) == ([], None, None)
    assert {row.table for row in rebuilt.tables} >= {"progress", "subject_view", "permissions"}


# Times ---------------------------------------------------------------------------------------------


async def test_an_erasure_takes_what_says_that_it_comes_from_the_future(tmp_path: Path) -> None:
    """It is cut off by key and place in the log, not by time: also what claims to be of the year 9999."""
    far = datetime(9999, 1, 1, tzinfo=UTC)
    soon = NOW + timedelta(minutes=4)
    async with home(tmp_path) as it:
        r = it.runtime
        await it.take(lines_of("7"), consents=(PURPOSE,))
        ref = it.ref("7")
        own = OwnRecords(
            log=r.log, vault=r.vault, codec=r.codec, clock=r.clock, ids=r.ids,
            rules=await rules_in_force(r),
        )  # fmt: skip
        facts = [
            ConsentWithdrawn(occurred_at=far, purpose=PURPOSE),
            ObjectionRaised(occurred_at=far, purpose="improve.research"),
        ]
        await r.log.append(LEDGER_EVENTS, [own.sealed(ref, fact) for fact in facts])
        await it.take([played("7", event="soon", at=soon)])
        forged = dated(of_person(await it.rows(), ref)[0], far, r.ids.token())
        await r.log.append(LEDGER_EVENTS, [forged])
        await r.passes.settle()
        before = await left_of(it, ref)
        (done,) = await it.erasure().erase((ref,))
        after = await left_of(it, ref)
        permissions = await r.views.get(PERMISSIONS, ref)
        later = await it.take([played("7", event="later", at=soon)])
    assert min(before) >= len(facts) + 2
    assert done.is_completed
    assert after == (0, 0)
    assert permissions is not None
    assert permissions.is_ended
    assert later.reasons == {"subject_erased": 1}


async def left_of(it: TestHome, ref: SubjectRef) -> tuple[int, int]:
    """Return how many records of a person have no tombstone after them, and of how many the key is there."""
    last = {row.key: row.value for row in await it.rows() if row.key[:16] == ref}
    rows = of_person(await it.rows(), ref)
    kids = [bytes(row.value or b"")[1:33] for row in rows]
    opened = it.runtime.vault.open_keys(kids)
    live = sum((last[key] or b"")[:1] == b"\x01" for key in last)
    return live, sum(isinstance(opened.get(kid), DataKey) for kid in kids)


def dated(row: Row, at: datetime, record_id: bytes) -> NewRecord:
    """Return a copy of a record that claims another time: nobody can read it, and it parks its person."""
    time = at.isoformat().encode()
    headers = tuple((name, time if name == "ce_time" else value) for name, value in row.headers)
    return NewRecord(row.partition, row.key[:16] + record_id, row.value, headers)


# Plain text -----------------------------------------------------------------------------------------


def without_keks(folder: Path) -> None:
    """Lose the key-encryption keys."""
    for path in (folder / "keys").glob("*.kek"):
        path.rename(folder / f"aside-{path.name}")


def without_keystore(folder: Path) -> None:
    """Lose the keystore's file."""
    (folder / "home" / "keystore.db").rename(folder / "aside.db")


@pytest.mark.parametrize("lose", [without_keks, without_keystore])
async def test_where_keys_fail_nothing_is_written_in_clear(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    """Neither records, states nor dead letters: what cannot be sealed is not written at all."""
    scanner = Scanner({"email": EMAIL.encode(), "video": VIDEO.encode()})
    async with home(tmp_path) as it:
        await it.take(lines_of("7"))
        async with home(tmp_path) as other:
            await take_unfolded(other, lines_of("8"))
        before = await it.rows(), [await it.rows(topic) for topic in KEPT]
        lose(tmp_path)
        await asyncio.sleep(FRESH_S)
        for lines in (lines_of("7"), lines_of("9"), [played("7", event="new", video=f"{VIDEO}-new")]):
            with pytest.raises(KeyUnavailable):
                await take_unfolded(it, lines)
        with pytest.raises(KeyUnavailable):
            await it.runtime.passes.settle()
        with pytest.raises(KeyUnavailable):
            await it.subjects.grant(ADA, PURPOSE)
        after = await it.rows(), [await it.rows(topic) for topic in KEPT]
        leaks = scanner.scan([tmp_path / "home"])
        (tmp_path / "home" / "planted").write_bytes(b"x" + EMAIL.encode() + b"y" + VIDEO.encode())
        planted = scanner.scan([tmp_path / "home"])
    assert before == after
    assert leaks == []
    assert {hit.name for hit in planted} == {"email", "video"}
