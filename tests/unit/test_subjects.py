"""Consents, restriction, return and show, on the real log, keystore and passes."""

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from privacy_ledger.app._own import last_offsets
from privacy_ledger.app.ingest import Source
from privacy_ledger.app.subjects import Subjects, identity_of
from privacy_ledger.domain.errors import BadInput, RefusedByPolicy
from privacy_ledger.domain.events import RestrictionStarted, UsagePageViewed, event_type
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.ports.keys import Identity
from privacy_ledger.ports.log import NewRecord, header
from privacy_ledger.streams.record import Erased
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import COURSE, NOW, TestHome, home, parse, played, registered, unwaiting, viewed

ADA = "openedx:username:ada"
EMAIL = "ada@example.com"
ADA_SHA1SUM = hashlib.sha1(b"mailto:ada@example.com", usedforsecurity=False).hexdigest()
ANALYSE = "improve.analyse"
VIEWED = event_type(UsagePageViewed).encode()
RESTRICTED = event_type(RestrictionStarted).encode()


async def settled(it: TestHome, offsets: dict[int, int]) -> None:
    """Wait for what a command appended."""
    assert offsets
    await it.runtime.passes.settle(offsets)


@pytest.mark.parametrize(
    ("subject", "identity"),
    [
        ("openedx:user_id:042", Identity("openedx:user_id", "42")),
        ("openedx:username:a:b", Identity("openedx:username", "a:b")),
        ("openedx:username:e\u0301", Identity("openedx:username", "\u00e9")),
        ("xapi:mbox:ada@EXAMPLE.com", Identity("xapi:mbox_sha1sum", ADA_SHA1SUM)),
        ("xapi:mbox:mailto:ada@example.com", Identity("xapi:mbox_sha1sum", ADA_SHA1SUM)),
        (f"xapi:mbox_sha1sum:{ADA_SHA1SUM.upper()}", Identity("xapi:mbox_sha1sum", ADA_SHA1SUM)),
        ("xapi:openid:HTTPS://Example.com/", Identity("xapi:openid", "https://example.com")),
        ("xapi:account:https://L.example.com/ a b", Identity("xapi:account", "https://l.example.com a b")),
    ],
)
def test_a_subject_is_canonical(subject: str, identity: Identity) -> None:
    """As the formats make it."""
    assert identity_of(subject) == identity


@pytest.mark.parametrize(
    "subject",
    [
        "", "ada", "openedx:ada", "openedx:user_id:x", "openedx:username:", "xapi:mbox:ada",
        "xapi:mbox_sha1sum:ada", "xapi:openid:ada", "xapi:account:https://lms.example.com",
        "xapi:account:ada ada", "xapi:name:Ada", "xapi:mbox:\ud800@example.com",
    ],
)  # fmt: skip
def test_what_is_no_subject_is_bad_input(subject: str) -> None:
    """And the message does not repeat it."""
    with pytest.raises(BadInput) as raised:
        identity_of(subject)
    assert raised.value.refusal is Refusal.ID_INVALID


async def test_what_a_command_appended_is_told_by_its_last_offset(tmp_path: Path) -> None:
    """A command waits for the views up to there: below it, it would say done too early."""
    async with home(tmp_path) as it:
        await it.take([played("7", "ada", event="e1")])
        offsets = await it.subjects.restrict(ADA, ground="accuracy")
        (last,) = [row for row in await it.rows() if header(row.headers, "ce_type") == RESTRICTED]
    assert offsets == {last.partition: last.offset}
    records = [NewRecord(partition, b"k", None) for partition in (0, 1, 0)]
    assert last_offsets(records, (4, 7, 5)) == {0: 5, 1: 7}


async def test_a_grant_counts_for_later_events_only(tmp_path: Path) -> None:
    """And a withdrawal ends it."""
    async with home(tmp_path) as it:
        await it.take([played("7", "ada", event="e1")])
        await settled(it, await it.subjects.grant(ADA, "improve.analyse"))
        later = it.runtime.clock.now() + timedelta(seconds=1)
        s = await it.take([viewed("7", event="e2"), viewed("7", event="e3", at=later)])
        assert (s.accepted, s.reasons) == (1, {"consent_missing": 1})
        await settled(it, await it.subjects.withdraw(ADA, "improve.analyse"))
        s = await it.take([viewed("7", event="e4", at=later)])
        assert s.reasons == {"consent_missing": 1}


@pytest.mark.parametrize("purpose", ["sale", "course.deliver", "nonsense"])
async def test_a_grant_of_no_consent_purpose_is_refused(tmp_path: Path, purpose: str) -> None:
    """Forbidden, resting on a contract, or unknown."""
    async with home(tmp_path) as it:
        await it.take([played("7", "ada", event="e1")])
        with pytest.raises(RefusedByPolicy) as raised:
            await it.subjects.grant(ADA, purpose)
    assert raised.value.refusal is Refusal.UNKNOWN_PURPOSE


async def test_an_unknown_subject_is_refused_without_its_name(tmp_path: Path) -> None:
    """By every command."""
    async with home(tmp_path) as it:
        with pytest.raises(RefusedByPolicy) as raised:
            await it.subjects.restrict(ADA, ground="claims")
    assert raised.value.refusal is Refusal.SUBJECT_UNKNOWN
    assert ":ada." not in str(raised.value).replace("openedx:username:ada)", "")


async def test_a_restriction_holds_until_the_person_was_told(tmp_path: Path) -> None:
    """A lift without a time, or with one in future, is refused."""
    async with home(tmp_path) as it:
        await it.take([played("7", "ada", event="e1")])
        await settled(it, await it.subjects.restrict(ADA, ground="accuracy"))
        for told in (None, NOW + timedelta(days=1)):
            with pytest.raises(RefusedByPolicy):
                await it.subjects.lift(ADA, notified_at=told)
        assert (await it.subjects.show(ADA)).references[0].ground == "accuracy"
        await settled(it, await it.subjects.lift(ADA, notified_at=NOW))
        assert not (await it.subjects.show(ADA)).references[0].is_restricted


async def test_an_objection_and_a_minor_status_are_folded(tmp_path: Path) -> None:
    """Both act on the person's permissions."""
    async with home(tmp_path) as it:
        await it.take([played("7", "ada", event="e1")])
        await settled(it, await it.subjects.object_to(ADA, "personalise.recommend"))
        await settled(it, await it.subjects.minor(ADA, is_minor=True))
        permissions = await it.runtime.views.get(PERMISSIONS, it.ref("7"))
    assert permissions is not None
    assert (permissions.objections, permissions.is_minor) == (("personalise.recommend",), True)


async def test_show_is_masked_until_revealed(tmp_path: Path) -> None:
    """A reveal leaves evidence with its reason."""
    async with home(tmp_path) as it:
        await it.take([registered("7", "ada", event="e1", email=EMAIL), played("7", event="e2")])
        masked = (await it.subjects.show(ADA)).references[0]
        with pytest.raises(BadInput):
            await it.subjects.reveal(ADA, reason=" ")
        await settled(it, await it.subjects.reveal(ADA, reason="ticket 12"))
        clear = (await it.subjects.show(ADA, is_masked=False)).references[0]
        types = await it.types("7")
    assert masked.account == {"email": "a…", "name": "a…"}
    assert clear.account == {"email": EMAIL, "name": "ada"}
    assert masked.courses[COURSE].plays == clear.courses[COURSE].plays == 1
    assert "audit.revealed.v1" in types


async def test_only_an_erased_person_returns_and_under_a_new_reference(tmp_path: Path) -> None:
    """The old reference stays ended; earlier events stay refused."""
    async with home(tmp_path) as it:
        await it.take([played("7", "ada", event="e1")])
        use: Subjects = it.subjects
        old = it.ref("7")
        with pytest.raises(RefusedByPolicy):
            await use.return_(ADA)
        await it.erasure().erase(use.find(ADA).refs)
        with pytest.raises(RefusedByPolicy):
            await use.grant(ADA, "improve.analyse")
        await settled(it, await use.return_(ADA))
        assert it.ref("7") != old
        later = it.runtime.clock.now()
        s = await it.take([played("7", event="e1"), played("7", event="e9", at=later)])
        assert (s.accepted, s.reasons) == (1, {"before_subject": 1})
        assert use.find(ADA).refs == (it.ref("7"),)


async def test_what_comes_after_a_new_grant_survives_the_withdrawal_before_it(tmp_path: Path) -> None:
    """Also where nothing was folded in between: a withdrawal destroys the keys of before, no others."""
    async with home(tmp_path) as it:
        await it.take([viewed("7", "ada", event="e1")], consents=(ANALYSE,))
        (before,) = [row for row in await it.rows() if header(row.headers, "ce_type") == VIEWED]
        await it.subjects.withdraw(ADA, ANALYSE)
        await it.subjects.grant(ADA, ANALYSE)
        r = it.runtime
        later = r.clock.now() + timedelta(seconds=1)
        ingest = await unwaiting(r)
        lines = enumerate([viewed("7", event="e2", at=later)], start=1)
        assert (await ingest.run(lines, Source(name="test", parse=parse))).accepted == 1
        await r.passes.settle()
        *_, after = [row for row in await it.rows() if header(row.headers, "ce_type") == VIEWED]
        live = {row.offset for row in await r.views.live(it.ref("7"))}
        gone, record = r.codec.decode([before, after])
        assert (before.offset in live, after.offset in live) == (False, True)
        assert isinstance(gone.body, Erased)
        assert isinstance(record.body, UsagePageViewed)
        assert (await verify(r)).is_equal
