"""Ingest on the real embedded log and keystore, with made-up people."""

import hashlib
import json
from datetime import timedelta
from itertools import permutations
from pathlib import Path

import pytest

from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.app.ingest import BATCH_BYTES_MAX, LineReport, Source
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.events import ConsentGranted, ConsentWithdrawn, event_type
from privacy_ledger.domain.key_release import COLLECT
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import DLQ, LEDGER_EVENTS, LEDGER_UNATTRIBUTED
from privacy_ledger.ports.keys import Identity, Shredded
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import (
    COURSE,
    NOW,
    RECENT,
    Said,
    TestHome,
    home,
    line,
    parse,
    played,
    registered,
    viewed,
)

LONG_AGO = NOW - timedelta(days=100)
PURPOSE = "improve.analyse"
PLAYED: dict[str, str | int] = {"type": "video.played.v1", "course": COURSE, "video": "v1"}


async def plays(it: TestHome, name: str) -> int:
    """Return how often a person's projection says they played the video."""
    state = await it.runtime.views.get(progress.TABLE, it.ref(name))
    return 0 if state is None else progress.merge(state)[COURSE].videos["v1"].plays


async def test_a_new_person_is_registered_and_projected(tmp_path: Path) -> None:
    """The registration stands before the first record."""
    async with home(tmp_path) as it:
        summary = await it.take([played("7", "ada", event="e1")])
        assert (summary.read, summary.accepted, summary.records) == (1, 1, 1)
        assert await it.types("ada") == ["subject.registered.v1", "video.played.v1"]
        assert it.ref("7") == it.ref("ada")
        assert await plays(it, "7") == 1


async def test_the_same_file_again_is_all_duplicates(tmp_path: Path) -> None:
    """Also in another run, and for lines without a producer's id."""
    lines = [played("7", "ada", event=f"e{n}") for n in range(20)]
    lines.append(line(Said(people=(("7",),), facts=(PLAYED,))))
    async with home(tmp_path) as it:
        first = await it.take(lines)
        again = await it.take(lines)
        assert (first.accepted, again.accepted, again.duplicates) == (21, 0, 21)
        assert await plays(it, "7") == 21


async def test_copies_within_a_batch_are_told(tmp_path: Path) -> None:
    """The same id with other content is refused and counted by its reason."""
    same = played("7", event="e1")
    async with home(tmp_path) as it:
        summary = await it.take([same, same, played("7", event="e1", video="v2")])
    assert (summary.accepted, summary.duplicates, summary.refused) == (1, 1, 1)
    assert summary.reasons == {"id_reused": 1}


async def test_the_parts_of_a_summary_add_up(tmp_path: Path) -> None:
    """Whatever the lines are; a blank line is not read."""
    lines = [
        b"", b"   ", b"{", b"\xff\xfe", played("7", event="e1"), viewed("7", event="e2"),
        played(event="e3"), played("8", event="e4", at=LONG_AGO),
        played("9", event="e5", at=NOW + timedelta(days=2)),
    ]  # fmt: skip
    reports: list[LineReport] = []
    async with home(tmp_path) as it:
        s = await it.take(lines, reports=reports)
        letters = await it.rows(DLQ)
    assert s.read == 7
    assert s.accepted + s.duplicates + s.refused + s.unattributed + s.malformed == s.read
    assert s.reasons == {"not_json": 2, "consent_missing": 1, "too_old_to_register": 1, "time_future": 1}
    assert [(r.line, str(r.outcome)) for r in reports] == [
        (3, "malformed"), (4, "malformed"), (5, "accepted"), (6, "refused"),
        (7, "unattributed"), (8, "refused"), (9, "refused"),
    ]  # fmt: skip
    assert len(letters) == 5


async def test_nobody_is_minted_for_an_event_that_would_be_refused(tmp_path: Path) -> None:
    """A refused line leaves no identity behind."""
    async with home(tmp_path) as it:
        await it.take([viewed("7", event="e1"), played("8", event="e2", at=LONG_AGO)])
        found = it.runtime.vault.find([Identity("openedx:user_id", "7"), Identity("openedx:user_id", "8")])
    assert found == (None, None)


async def test_an_import_lifts_the_sixty_day_rule_only(tmp_path: Path) -> None:
    """Retention still refuses."""
    ancient = NOW - timedelta(days=800)
    async with home(tmp_path) as it:
        s = await it.take(
            [played("7", event="e1", at=LONG_AGO), played("8", event="e2", at=ancient)], is_import=True
        )
    assert (s.accepted, s.reasons) == (1, {"past_retention": 1})


async def test_an_old_event_of_a_known_person_is_refused_as_before_subject(tmp_path: Path) -> None:
    """The reference's `not_before` decides, in this run and in the next."""
    old = played("7", event="e2", at=LONG_AGO)
    async with home(tmp_path) as it:
        first = await it.take([played("7", event="e1"), old])
        second = await it.take([old])
    assert first.reasons == second.reasons == {"before_subject": 1}


async def test_a_source_without_authority_mints_nobody(tmp_path: Path) -> None:
    """It may add to whom others registered."""
    async with home(tmp_path) as it:
        first = await it.take([played("7", event="e1")], is_authoritative=False)
        await it.take([played("7", event="e2")])
        third = await it.take([played("7", event="e3")], is_authoritative=False)
    assert (first.reasons, third.accepted) == ({"subject_unknown": 1}, 1)


async def test_a_default_consent_comes_once_and_before_the_first_event(tmp_path: Path) -> None:
    """It lets earlier events in, and a second run adds none."""
    async with home(tmp_path) as it:
        s = await it.take([viewed("7", event="e1")], consents=("improve.analyse",))
        await it.take([viewed("7", event="e2")], consents=("improve.analyse",))
        assert s.accepted == 1
        assert await it.types("7") == [
            "subject.registered.v1", "consent.granted.v1", "usage.page_viewed.v1", "usage.page_viewed.v1",
        ]  # fmt: skip


@pytest.mark.parametrize("is_granted_before", [True, False])
async def test_a_default_consent_never_overrides_a_withdrawal(
    tmp_path: Path, *, is_granted_before: bool
) -> None:
    """Whether the default had been given before the withdrawal or not."""
    async with home(tmp_path) as it:
        if is_granted_before:
            await it.take([viewed("7", event="e1")], consents=("improve.analyse",))
        else:
            await it.take([played("7", event="e1")])
        await it.subjects.withdraw("openedx:user_id:7", "improve.analyse")
        await it.runtime.passes.settle()
        s = await it.take([viewed("7", event="e2")], consents=("improve.analyse",))
        permissions = await it.runtime.views.get(PERMISSIONS, it.ref("7"))
    assert s.reasons == {"consent_missing": 1}
    assert permissions is not None
    assert permissions.grants == {}


async def test_a_default_consent_for_no_consent_purpose_is_refused(tmp_path: Path) -> None:
    """A forbidden purpose and one that rests on a contract are both refused."""
    async with home(tmp_path) as it:
        for purpose in ("sale", "course.deliver", "nonsense"):
            with pytest.raises(BadInput):
                await it.take([], consents=(purpose,))


async def test_lines_of_one_batch_that_share_an_id_are_one_person(tmp_path: Path) -> None:
    """In whichever order the ids come together."""
    lines = [
        played("7", event="e1"), played("ada", event="e2"), played("7", "ada", event="e3"),
        played("ada", event="e4"),
    ]  # fmt: skip
    async with home(tmp_path) as it:
        await it.take(lines)
        assert it.ref("7") == it.ref("ada")
        assert await plays(it, "7") == 4


async def test_an_event_about_two_people_is_two_records(tmp_path: Path) -> None:
    """Each under the person's own reference."""
    both = line(Said(id="e1", people=(("7",), ("8",)), facts=(PLAYED,)))
    reports: list[LineReport] = []
    async with home(tmp_path) as it:
        s = await it.take([both], reports=reports)
        assert (s.accepted, s.records, reports[0].subjects) == (1, 2, 2)
        assert (await plays(it, "7"), await plays(it, "8")) == (1, 1)
        again = await it.take([both])
    assert (again.accepted, again.duplicates) == (0, 1)


async def test_two_references_found_to_be_one_person_are_joined(tmp_path: Path) -> None:
    """New records go to the elder, and a restriction of the one holds for the other."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1")])
        await it.take([played("ada", event="e2")])
        use = it.subjects
        await use.restrict("openedx:username:ada", ground="accuracy")
        await it.runtime.passes.settle()
        await it.take([played("7", "ada", event="e3"), played("ada", event="e4")])
        person = use.find("openedx:username:ada")
        assert person.refs == (it.ref("7"), it.ref("ada"))
        assert await it.types("7") == [
            "subject.registered.v1", "video.played.v1", "restriction.started.v1",
            "video.played.v1", "video.played.v1",
        ]  # fmt: skip


async def test_a_device_is_recorded_once_per_month(tmp_path: Path) -> None:
    """Also over runs, and never without the fact beside which it was seen."""
    lines = [line(Said(id=f"e{n}", people=(("7",),), facts=(PLAYED,), browser="Firefox")) for n in range(5)]
    page: dict[str, str | int] = {"type": "usage.page_viewed.v1", "course": COURSE}
    alone = line(Said(id="x", people=(("7",),), facts=(page,), browser="Chrome"))
    async with home(tmp_path) as it:
        await it.take(lines[:3])
        again = await it.take([*lines[2:], alone])
        state = await it.runtime.views.get(subject_view.TABLE, it.ref("7"))
    assert state is not None
    assert subject_view.merge(state).devices == {"Firefox / ? / other": 1}
    assert (again.accepted, again.duplicates, again.refused) == (2, 1, 1)


async def test_an_erased_person_is_refused_and_a_linked_one_is_fenced(tmp_path: Path) -> None:
    """Only the ids of the same person are linked, never another person of the line."""
    async with home(tmp_path) as it:
        await it.take([played("7", event="e1"), played("ada", event="e2"), played("9", event="e3")])
        vault, now = it.runtime.vault, it.runtime.clock.now()
        vault.erase_identities(it.ref("7"), now=now)
        linking = line(Said(id="e4", people=(("7", "ada"), ("9",)), facts=(PLAYED,)))
        s = await it.take([linking, played("ada", event="e5"), played("9", event="e6")])
        assert s.reasons == {"subject_erased": 2}
        assert s.linked_to_erased == (it.ref("ada"),)
        fenced = await it.runtime.views.get(PERMISSIONS, it.ref("ada"))
        other = await it.runtime.views.get(PERMISSIONS, it.ref("9"))
    assert fenced is not None
    assert fenced.is_ended
    assert other is not None
    assert not other.is_ended


async def test_a_link_moves_the_session_and_shreds_its_lane(tmp_path: Path) -> None:
    """Original ids make the move idempotent; another session stays where it is."""
    mine = [played(event=f"a{n}", session="s-one") for n in range(3)]
    other = played(event="b1", session="s-two")
    login = line(Said(id="l1", people=(("7",),), facts=(PLAYED,), session="s-one"))
    async with home(tmp_path) as it:
        first = await it.take([*mine, other])
        assert (first.unattributed, len(await it.rows(LEDGER_UNATTRIBUTED))) == (4, 4)
        second = await it.take([login])
        assert (second.accepted, second.linked) == (1, 3)
        assert await plays(it, "7") == 4
        kids = [row.value[1:33] for row in await it.rows(LEDGER_UNATTRIBUTED) if row.value]
        opened = it.runtime.vault.open_keys(kids)
        assert sorted(isinstance(opened[kid], Shredded) for kid in kids) == [False, True, True, True]
        later = await it.take([played(event="a9", session="s-one"), mine[0], login])
        assert (later.accepted, later.duplicates, later.unattributed) == (1, 2, 0)
        assert await plays(it, "7") == 5


@pytest.mark.parametrize("is_one_run", [True, False])
@pytest.mark.parametrize("order", list(permutations((0, 1, 2))))
async def test_a_consent_from_before_its_withdrawal_is_not_in_force(
    order: tuple[int, ...], *, is_one_run: bool, tmp_path: Path
) -> None:
    """In whatever order consent, withdrawal and consent again come; a withdrawal counts whenever it comes."""
    given: dict[str, str | int] = {"type": event_type(ConsentGranted), "purpose": PURPOSE, "notice": "n"}
    withdrawn: dict[str, str | int] = {"type": event_type(ConsentWithdrawn), "purpose": PURPOSE}
    said = (given, withdrawn, given)
    lines = [
        line(Said(id=f"c{n}", people=(("7",),), facts=(said[n],), at=RECENT + timedelta(hours=n)))
        for n in order
    ]
    async with home(tmp_path) as it:
        await it.take([played("7", event="a1")])
        for batch in [lines] if is_one_run else [[one] for one in lines]:
            await it.take(batch)
        permissions = await it.runtime.views.get(PERMISSIONS, it.ref("7"))
    assert permissions is not None
    assert (PURPOSE in permissions.grants) == (order.index(2) > order.index(1))


async def test_what_waits_for_nobody_keeps_no_id(tmp_path: Path) -> None:
    """Only a session's events move to a person, and need theirs for it."""
    async with home(tmp_path) as it:
        await it.take([played(event="a1"), played(event="a2", session="s-one")])
        vault = it.runtime.released_to(COLLECT)
        codec = LedgerCodec(vault, partitions=it.runtime.partitions, stream=LEDGER_UNATTRIBUTED)
        payloads = [codec.payload(row) for row in await it.rows(LEDGER_UNATTRIBUTED)]
    kept = {payload.id: json.loads(payload.joint or "") for payload in payloads if payload is not None}
    assert set(kept) == {None, "a2"}
    assert (kept[None]["event"], kept[None]["content"]) == ("", "")
    assert bytes.fromhex(kept["a2"]["event"]) == b"a2"


async def test_a_link_within_one_batch_moves_what_stands_in_it(tmp_path: Path) -> None:
    """Lines before the login of the same file are counted unattributed and linked."""
    login = line(Said(id="l1", people=(("7",),), facts=(PLAYED,), session="s-one"))
    async with home(tmp_path) as it:
        s = await it.take([played(event="a1", session="s-one"), login])
        assert (s.accepted, s.unattributed, s.linked) == (1, 1, 1)
        assert await plays(it, "7") == 2


async def test_a_session_of_two_people_links_to_nobody(tmp_path: Path) -> None:
    """A shared browser must not give one person's events to another."""
    logins = [line(Said(id=f"l{n}", people=((n,),), facts=(PLAYED,), session="s-one")) for n in ("7", "8")]
    async with home(tmp_path) as it:
        s = await it.take([played(event="a1", session="s-one"), *logins])
    assert (s.accepted, s.unattributed, s.linked) == (2, 1, 0)


async def test_nothing_in_clear_names_a_person(tmp_path: Path) -> None:
    """Keys, headers and dead letters; an e-mail address as a producer's id included."""
    email = "ada.lovelace@example.com"
    lines = [
        registered("7", "adalovelace", event=email, email=email),
        b'{"broken": "ada.lovelace@example.com", ',
        played(event=email, session="adalovelace-session"),
        viewed("7", event=email + ".x"),
    ]
    words = [b"lovelace", hashlib.sha256(email.encode()).hexdigest().encode()]
    async with home(tmp_path) as it:
        await it.take(lines)
        rows = [row for topic in (LEDGER_EVENTS, LEDGER_UNATTRIBUTED, DLQ) for row in await it.rows(topic)]
    written = b"\n".join(
        b"\0".join((row.key, row.value or b"", *(value for _, value in row.headers))) for row in rows
    )
    assert len(rows) > 5
    assert [word for word in words if word in written] == []


async def test_a_line_that_a_reader_refused_is_malformed(tmp_path: Path) -> None:
    """The reader's own reason is kept."""
    async with home(tmp_path) as it:
        s = await it.ingest.run([(1, Refusal.LINE_TOO_LONG)], Source(name="test", parse=parse))
    assert (s.malformed, s.reasons) == (1, {"line_too_long": 1})


async def test_a_batch_is_bounded_by_its_bytes(tmp_path: Path) -> None:
    """Long lines become durable after a few of them; each is counted once, with its own number."""
    long = b" " * (BATCH_BYTES_MAX // 3)
    lines = [played("7", "ada", event=f"event-{n}") + long for n in range(8)]
    progress, reports = list[int](), list[LineReport]()
    async with home(tmp_path) as it:
        summary = await it.ingest.run(
            enumerate(lines, start=1), Source(name="test", parse=parse),
            on_line=reports.append, on_progress=progress.append,
        )  # fmt: skip
    assert (summary.accepted, progress) == (8, [3, 6, 8])
    assert [report.line for report in reports] == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_device_comes_with_the_first_of_its_lines_that_is_taken(tmp_path: Path) -> None:
    """In one batch: the first of its lines is refused, the second taken, the third is no news."""
    said = [
        Said(id=f"event-{n}", people=(("7", "ada"),), facts=(PLAYED,), at=at, browser="Firefox")
        for n, at in enumerate((NOW + timedelta(hours=1), RECENT, RECENT))
    ]
    async with home(tmp_path) as it:
        summary = await it.take(line(one) for one in said)
        assert (summary.accepted, summary.reasons) == (2, {"time_future": 1})
        kinds = await it.types("ada")
        assert kinds.count("device.observed.v1") == 1


async def test_a_fact_that_breaks_its_schema_is_refused_alone(tmp_path: Path) -> None:
    """The other lines of the batch go on."""
    async with home(tmp_path) as it:
        s = await it.take([played("7", event="e1", video="x" * 300), played("7", event="e2")])
        assert (s.accepted, s.malformed, s.reasons) == (1, 1, {"schema_mismatch": 1})
        assert await it.types("7") == ["subject.registered.v1", "video.played.v1"]


async def test_a_home_without_dedup_lookup_knows_copies_of_its_own_run(tmp_path: Path) -> None:
    """As on Kafka, where `duplicate` is advisory and the passes decide."""
    assert RECENT < NOW
    same = played("7", event="e1")
    async with home(tmp_path, is_exact=False) as it:
        s = await it.take([same, same])
        again = await it.take([same])
        assert (s.accepted, s.duplicates, again.accepted) == (1, 1, 1)
        assert await plays(it, "7") == 1
