"""What was sealed before a removal opens under no key that survives it, whoever kept the bytes."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy_ledger.adapters import envelope
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.keystore import FileKeks
from privacy_ledger.adapters.keystore._material import Wrapper, key_place
from privacy_ledger.domain.events import VideoPlayed, event_type
from privacy_ledger.domain.topics import LEDGER_EVENTS, view_topic
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey
from privacy_ledger.ports.log import Headers, header
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import COURSE, Said, TestHome, home, line, played, registered, viewed
from tests.unit.test_erasure_of_one import Exported, exports_of, ledger_of, rows_of

PURPOSE: Final = "improve.analyse"
NONCE_AT, BODY_AT = 33, 45
VERSION: Final = b"\x01"

Place = tuple[str, bytes, Headers]
"""A stream, a key and headers: what sealed bytes are bound to."""
Sealed = Mapping[Place, bytes]


def surviving(folder: Path) -> list[bytes]:
    """Return every data key that the keystore's file still holds, whoever it is released to."""
    wrapper = Wrapper(FileKeks(folder / "keys"), SystemIds())
    statement = (
        "SELECT k.epoch, m.wrapped, k.ref, k.grp, k.generation FROM keys k JOIN material m ON m.id = k.id "
        "WHERE m.wrapped != zeroblob(60)"
    )
    with closing(sqlite3.connect(folder / "home" / "keystore.db")) as connection:
        rows = connection.execute(statement).fetchall()
    return [
        wrapper.unwrap(epoch, wrapped, key_place(ref, group, number))
        for epoch, wrapped, ref, group, number in rows
    ]


def opening(sealed: Sealed, keys: Iterable[bytes]) -> int:
    """Return how many of these values one of the keys opens, at the place where each lay."""
    ciphers = [AESGCM(key) for key in keys]
    return sum(
        any(_opens(cipher, value, envelope.aad(*place)) for cipher in ciphers)
        for place, value in sealed.items()
    )


def _opens(cipher: AESGCM, value: bytes, bound: bytes) -> bool:
    try:
        cipher.decrypt(value[NONCE_AT:BODY_AT], value[BODY_AT:], bound)
    except InvalidTag:
        return False
    return True


async def sealed_of(it: TestHome, ref: SubjectRef) -> dict[Place, bytes]:
    """Return every sealed value of a person, in the ledger, in views and in states."""
    found: dict[Place, bytes] = {
        (LEDGER_EVENTS, row.key, row.headers): row.value
        for row in await it.rows(LEDGER_EVENTS)
        if row.key[:16] == ref and row.value is not None
    }
    kept = await rows_of(it, frozenset((bytes(ref),)))
    found |= {(topic, key, ()): value for (topic, _, key), value in kept.items()}
    return {place: value for place, value in found.items() if value[:1] == VERSION}


async def open_now(it: TestHome, sealed: Iterable[bytes]) -> int:
    """Return how many of these values name a key that the keystore releases to anybody."""
    return sum(
        isinstance(it.runtime.vault.open_keys([value[1:33]]).get(value[1:33]), DataKey) for value in sealed
    )


def both(event: str, *, video: str) -> bytes:
    """Return a line about two people, of which each gets a record."""
    fact: dict[str, str | int] = {"type": event_type(VideoPlayed), "course": COURSE, "video": video}
    return line(Said(id=event, people=(("7",), ("8",)), facts=(fact,)))


# Two people ------------------------------------------------------------------------------------


async def all_of(it: TestHome, ref: SubjectRef) -> tuple[object, object, list[Exported]]:
    """Return everything that is kept of a person, byte for byte, and their export."""
    refs = frozenset((bytes(ref),))
    return await rows_of(it, refs), await ledger_of(it, refs), await exports_of(it, [ref])


@pytest.mark.parametrize(("gone", "other"), [("7", "8"), ("8", "7")], ids=["the first", "the second"])
async def test_of_two_people_of_one_event_one_is_erased_and_the_other_unharmed(
    tmp_path: Path, gone: str, other: str
) -> None:
    """Whoever the line named first: the other's record, views and export stay; nothing of the one opens."""
    async with home(tmp_path) as it:
        await it.take(
            [
                registered("7", "ada", event="r7", email="ada@example.com"),
                registered("8", "grace", event="r8", email="grace@example.com"),
                *(both(f"both-{n}", video=f"v{n}") for n in range(3)),
            ]
        )
        ref, others = it.ref(gone), it.ref(other)
        sealed, theirs = await sealed_of(it, ref), await sealed_of(it, others)
        before = await all_of(it, others)
        could = opening(sealed, surviving(tmp_path)), opening(theirs, surviving(tmp_path))
        (done,) = await it.erasure().erase((ref,))
        await it.runtime.passes.settle()
        after = await all_of(it, others)
        can = opening(sealed, surviving(tmp_path)), opening(theirs, surviving(tmp_path))
        released = await open_now(it, sealed.values())
        joint = len(await it.runtime.views.live(others))
    assert done.is_completed
    assert could == (len(sealed), len(theirs))
    assert can == (0, len(theirs))
    assert released == 0
    assert (before == after, joint) == (True, 4)


# Withdrawals -----------------------------------------------------------------------------------


def is_evidence(place: Place) -> bool:
    """Return whether a value is of permissions: what was granted and withdrawn stays, as evidence."""
    topic, key, _ = place
    return topic == view_topic("permissions") or (topic.startswith("state.") and key[:1] == PERMISSIONS.code)


@pytest.mark.parametrize("is_worker", [False, True], ids=["a command folds", "a worker folds"])
async def test_a_view_from_before_a_withdrawal_opens_under_no_key_afterwards(
    tmp_path: Path, *, is_worker: bool
) -> None:
    """It is sealed anew under the next generation; bytes that somebody kept of the old one are lost."""
    async with home(tmp_path, is_worker=is_worker) as it:
        lines = [
            registered("7", "ada", event="r7", email="ada@example.com"),
            *(viewed("7", event=f"w{n}") for n in range(3)),
            *(played("7", event=f"p{n}", video=f"v{n}") for n in range(3)),
            *(viewed("8", event=f"x{n}") for n in range(3)),
        ]
        await it.take(lines, consents=(PURPOSE,))
        ref, other = it.ref("7"), it.ref("8")
        before, theirs = await sealed_of(it, ref), await sealed_of(it, other)
        could = opening(before, surviving(tmp_path))
        await it.runtime.passes.settle(await it.subjects.withdraw("openedx:user_id:7", PURPOSE))
        after = await sealed_of(it, ref)
        keys = surviving(tmp_path)
        replaced = {
            place: value
            for place, value in before.items()
            if after.get(place) != value and not is_evidence(place)
        }
        withdrawn = {p: value for p, value in before.items() if header(p[2], "purposes") == PURPOSE.encode()}
        kept = {
            place: value
            for place, value in before.items()
            if after.get(place) == value and place not in withdrawn
        }
        replaced_views = {topic for topic, _, _ in replaced if topic.startswith("view.")}
        released = await open_now(it, (*replaced.values(), *withdrawn.values()))
    assert could == len(before)
    assert replaced_views == {view_topic("subject_view"), view_topic("progress")}
    assert len(withdrawn) == 3
    assert opening(replaced | withdrawn, keys) == released == 0
    assert opening(kept, keys) == len(kept) > 0
    assert opening(after, keys) == len(after) - len(withdrawn)
    assert opening(theirs, keys) == len(theirs)
