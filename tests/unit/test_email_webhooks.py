"""What e-mail providers report: which fact each event is, what is kept of it, and for whom."""

import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger.adapters.formats import postmark, sendgrid
from privacy_ledger.adapters.formats.arrays import ITEMS_MAX, items
from privacy_ledger.domain.events import (
    ConsentWithdrawn,
    DeviceObserved,
    EmailClicked,
    EmailDeliveryReported,
    EmailOpened,
    EmailSuppressionChanged,
    Fact,
)
from privacy_ledger.domain.identifiers import mbox_sha1sum_of
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed
from privacy_ledger.ports.keys import Identity

Members = dict[str, Any]

AT: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
SECONDS: Final = int(AT.timestamp())
ADDRESS: Final = "ada@example.com"
ADA: Final = Identity("xapi:mbox_sha1sum", mbox_sha1sum_of(ADDRESS) or "")
FIREFOX: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
WITHDRAWN: Final = ConsentWithdrawn(occurred_at=AT, purpose="comm.promote")
PERSONAL: Final = (
    ADDRESS, "203.0.113.7", "Innsbruck", "6020", "47.2682,11.3923", "Gecko/20100101", "member-77", "private",
)  # fmt: skip
"""What every event here carries somewhere, and no fact may hold."""


def of_sendgrid(event: str, /, **more: object) -> Members:
    """Return one event of SendGrid's."""
    return {
        "email": ADDRESS, "timestamp": SECONDS, "event": event, "sg_event_id": "c2ctZXZlbnQ=",
        "sg_message_id": "m-1.filter", "smtp-id": "<m-1@example.com>", "ip": "203.0.113.7",
        "useragent": FIREFOX, "category": ["member-77"], "note": "private", **more,
    }  # fmt: skip


def of_postmark(kind: str, /, **more: object) -> Members:
    """Return one event of Postmark's."""
    return {
        "RecordType": kind, "MessageID": "m-1", "Recipient": ADDRESS, "Tag": "member-77",
        "Subject": "private", "Metadata": {"note": "private"}, "UserAgent": FIREFOX,
        "Geo": {"CountryISOCode": "AT", "City": "Innsbruck", "Zip": "6020", "Coords": "47.2682,11.3923",
                "IP": "203.0.113.7"},
        "ReceivedAt": "2026-03-02T10:00:00.0000000+01:00", "DeliveredAt": "2026-03-02T09:00:00.0000000Z",
        "BouncedAt": "2026-03-02T09:00:00Z", "ChangedAt": "2026-03-02T09:00:00Z", **more,
    }  # fmt: skip


def delivery(outcome: Any, **more: Any) -> Fact:  # noqa: ANN401 - words of the event's own
    """Return the fact about one message."""
    return EmailDeliveryReported(occurred_at=AT, message=more.pop("message", "m-1"), outcome=outcome, **more)


def suppression(reason: Any, *, is_suppressed: bool = True) -> Fact:  # noqa: ANN401 - as above
    """Return the fact about a suppression."""
    return EmailSuppressionChanged(occurred_at=AT, is_suppressed=is_suppressed, reason=reason)


OURS: Final = "m-1.filter"
OF_SENDGRID: Final[list[tuple[Members, tuple[Fact, ...]]]] = [
    (of_sendgrid("processed"), (delivery("processed", message=OURS),)),
    (of_sendgrid("deferred"), (delivery("deferred", message=OURS),)),
    (of_sendgrid("delivered"), (delivery("delivered", message=OURS),)),
    (
        of_sendgrid("bounce", type="bounce", reason="550 no ada@example.com here"),
        (delivery("bounced", message=OURS, reason="bounced", is_permanent=True),),
    ),
    (
        of_sendgrid("bounce", type="blocked"),
        (delivery("bounced", message=OURS, reason="bounced", is_permanent=False),),
    ),
    (
        of_sendgrid("dropped", reason="Bounced Address"),
        (delivery("dropped", message=OURS, reason="bounced"),),
    ),
    (
        of_sendgrid("dropped", reason="Unsubscribed Address"),
        (delivery("dropped", message=OURS, reason="unsubscribed"), suppression("unsubscribed"), WITHDRAWN),
    ),
    (
        of_sendgrid("dropped", reason="Spam Reporting Address"),
        (delivery("dropped", message=OURS, reason="complained"), suppression("complained"), WITHDRAWN),
    ),
    (of_sendgrid("dropped", reason="Invalid"), (delivery("dropped", message=OURS, reason="invalid"),)),
    (of_sendgrid("dropped", reason="private"), (delivery("dropped", message=OURS, reason="other"),)),
    (of_sendgrid("dropped"), (delivery("dropped", message=OURS, reason="other"),)),
    (of_sendgrid("open"), (EmailOpened(occurred_at=AT, message=OURS),)),
    (
        of_sendgrid("open", sg_machine_open=True),
        (EmailOpened(occurred_at=AT, message=OURS, is_automatic=True),),
    ),
    (
        of_sendgrid("click", url="https://lms.example.com/courses/one?token=private&email=ada@example.com"),
        (EmailClicked(occurred_at=AT, message=OURS, target="lms.example.com/courses/one"),),
    ),
    (of_sendgrid("click", url="mailto:ada@example.com"), (EmailClicked(occurred_at=AT, message=OURS),)),
    (of_sendgrid("spamreport"), (suppression("complained"), WITHDRAWN)),
    (of_sendgrid("unsubscribe"), (suppression("unsubscribed"), WITHDRAWN)),
    (of_sendgrid("group_unsubscribe", asm_group_id=7), (suppression("unsubscribed"), WITHDRAWN)),
    (of_sendgrid("group_resubscribe"), (suppression(None, is_suppressed=False),)),
]
OF_POSTMARK: Final[list[tuple[Members, tuple[Fact, ...]]]] = [
    (of_postmark("Delivery"), (delivery("delivered"),)),
    (of_postmark("Bounce", Type="HardBounce"), (delivery("bounced", reason="bounced", is_permanent=True),)),
    (of_postmark("Bounce", Type="SoftBounce"), (delivery("bounced", reason="bounced", is_permanent=False),)),
    (of_postmark("Bounce", Type="Unsubscribe"), (suppression("unsubscribed"), WITHDRAWN)),
    (of_postmark("Bounce", Type="Subscribe"), (suppression(None, is_suppressed=False),)),
    (of_postmark("Bounce", Type="SpamNotification"), (suppression("complained"), WITHDRAWN)),
    (of_postmark("SpamComplaint", Type="SpamComplaint"), (suppression("complained"), WITHDRAWN)),
    (of_postmark("Open"), (EmailOpened(occurred_at=AT, message="m-1"),)),
    (
        of_postmark("Click", OriginalLink="https://lms.example.com/users/ada?x=private"),
        (EmailClicked(occurred_at=AT, message="m-1", target="lms.example.com/users/:id"),),
    ),
    (
        of_postmark("SubscriptionChange", SuppressSending=True, SuppressionReason="ManualSuppression"),
        (suppression("unsubscribed"), WITHDRAWN),
    ),
    (
        of_postmark("SubscriptionChange", SuppressSending=True, SuppressionReason="SpamComplaint"),
        (suppression("complained"), WITHDRAWN),
    ),
    (
        of_postmark("SubscriptionChange", SuppressSending=True, SuppressionReason="HardBounce"),
        (suppression("bounced"),),
    ),
    (of_postmark("SubscriptionChange", SuppressSending=True), (suppression(None),)),
    (
        of_postmark("SubscriptionChange", SuppressSending=True, Origin="Recipient", SuppressionReason="New"),
        (suppression("unsubscribed"), WITHDRAWN),
    ),
    (of_postmark("SubscriptionChange", SuppressSending=False), (suppression(None, is_suppressed=False),)),
]
EVENTS: Final = [
    *[(sendgrid.parse, members, facts) for members, facts in OF_SENDGRID],
    *[(postmark.parse, members, facts) for members, facts in OF_POSTMARK],
]


@pytest.mark.parametrize(("parse", "members", "facts"), EVENTS)
def test_each_event_is_its_facts_of_whom_the_address_stands_for(
    parse: Any,  # noqa: ANN401 - either parser
    members: Members,
    facts: tuple[Fact, ...],
) -> None:
    """At the provider's time; an unsubscription and a complaint end the consent to promotion."""
    parsed = parse(json.dumps(members).encode())

    assert isinstance(parsed, Parsed)
    (person,) = parsed.people
    assert (person.identities, person.facts) == ((ADA,), facts)
    assert (parsed.occurred_at, parsed.may_register, parsed.anonymous) == (AT, False, None)
    is_automatic = isinstance(facts[0], EmailOpened) and facts[0].is_automatic
    is_personal = isinstance(facts[0], EmailClicked | EmailOpened) and not is_automatic
    families = DeviceObserved(occurred_at=AT, browser="Firefox", system="Linux", device_class="desktop")
    assert parsed.device == (families if is_personal else None)


@pytest.mark.parametrize(("parse", "members", "facts"), EVENTS)
def test_nothing_finer_than_the_policy_allows_is_kept(
    parse: Any,  # noqa: ANN401 - either parser
    members: Members,
    facts: tuple[Fact, ...],
) -> None:
    """No address, place, agent, tag or text; of nobody known not even the message, and no consent."""
    parsed = parse(json.dumps(members).encode())
    kept = " ".join(map(str, map(_values, (*facts, *parsed.unattributed))))

    assert [text for text in PERSONAL if text in kept] == []
    waiting = " ".join(map(str, map(_values, parsed.unattributed)))
    assert "m-1" not in waiting
    assert len(parsed.unattributed) == 1
    assert not any(isinstance(fact, ConsentWithdrawn) for fact in parsed.unattributed)


@pytest.mark.parametrize(
    ("subject", "identity"),
    [
        ("openedx:user_id:042", Identity("openedx:user_id", "42")),
        ("openedx:username:ada", Identity("openedx:username", "ada")),
        ("lms:user_id:7", Identity("lms:user_id", "7")),
        ("lms:account:ada", Identity("lms:account", "ada")),
    ],
)
def test_the_operators_name_of_the_person_goes_before_the_address(subject: str, identity: Identity) -> None:
    """And joins the two nowhere; of one whom nobody knows nothing waits."""
    for parsed in (
        sendgrid.parse(json.dumps(of_sendgrid("open", ledger_subject=subject)).encode()),
        postmark.parse(json.dumps(of_postmark("Open", Metadata={"ledger_subject": subject})).encode()),
    ):
        assert isinstance(parsed, Parsed)
        assert [person.identities for person in parsed.people] == [(identity,)]
        assert parsed.unattributed == ()


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("", ""),
        ("/", "/"),
        ("/courses/course-v1:Example+One+2026/about", "/courses/course-v1:Example+One+2026/about"),
        ("/Terms_of_Use/FAQ/lesson-12/page2.html", "/Terms_of_Use/FAQ/lesson-12/page2.html"),
        ("/unsubscribe/YWRhQGV4YW1wbGUuY29t", "/unsubscribe/:id"),
        ("/unsubscribe/MFSGCQDFPBQW24DMMUXGG33N", "/unsubscribe/:id"),
        ("/unsubscribe/ada%40example.com", "/unsubscribe/:id"),
        ("/reset/MjM/c4x-7f3a9b2cdeadbe/", "/reset/:id/:id/"),
        ("/magic/hGk3s_Plx-Qz", "/magic/:id"),
        ("/verify/a1b2c3d", "/verify/:id"),
        ("/certificates/ada/one", "/certificates/:id/one"),
    ],
)
def test_a_link_to_one_reader_keeps_no_token_and_no_name(path: str, kept: str) -> None:
    """Links in messages let their reader in, and say who that is in other letters."""
    url = f"https://lms.example.com{path}?t=private#private"
    for parsed in (
        sendgrid.parse(json.dumps(of_sendgrid("click", url=url)).encode()),
        postmark.parse(json.dumps(of_postmark("Click", OriginalLink=url)).encode()),
    ):
        assert isinstance(parsed, Parsed)
        (fact,) = parsed.unattributed
        assert isinstance(fact, EmailClicked)
        assert fact.target == f"lms.example.com{kept}"


@pytest.mark.parametrize("address", [None, "", "nobody", 7, ["ada@example.com"], "a" * 400 + "@example.com"])
def test_without_an_address_an_event_is_of_nobody(address: object) -> None:
    """It still counts."""
    parsed = sendgrid.parse(json.dumps(of_sendgrid("open", email=address)).encode())
    assert isinstance(parsed, Parsed)
    assert (parsed.people, parsed.unattributed) == ((), (EmailOpened(occurred_at=AT),))


@pytest.mark.parametrize(
    ("members", "refusal"),
    [
        ({}, Refusal.SCHEMA_MISMATCH),
        (of_sendgrid("open", event=7), Refusal.SCHEMA_MISMATCH),
        (of_sendgrid("account_status_change"), Refusal.UNKNOWN_EVENT),
        (of_sendgrid("open", timestamp=None), Refusal.TIME_MISSING),
        (of_sendgrid("open", timestamp="2026-03-02"), Refusal.TIME_INVALID),
        (of_sendgrid("open", timestamp=-1), Refusal.TIME_INVALID),
        (of_sendgrid("open", ledger_subject="ada"), Refusal.ID_INVALID),
        (of_sendgrid("open", ledger_subject=42), Refusal.ID_INVALID),
        (of_sendgrid("open", ledger_subject="lms:account:ada@example.com"), Refusal.ID_INVALID),
        (of_sendgrid("open", ledger_subject="xapi:mbox:ada@example.com"), Refusal.ID_INVALID),
        (of_sendgrid("open", ledger_subject="openedx:email:ada@example.com"), Refusal.ID_INVALID),
        (of_sendgrid("open", note="4111 1111 1111 1111"), Refusal.CARD_NUMBER),
        (of_sendgrid("click", url="https://lms.example.com/?password=hunter2"), Refusal.SECRET),
        (of_postmark("Inbound"), Refusal.UNKNOWN_EVENT),
        (of_postmark("Bounce", Type="AutoResponder"), Refusal.UNKNOWN_EVENT),
        (of_postmark("Bounce", Type=None), Refusal.SCHEMA_MISMATCH),
        (of_postmark("SubscriptionChange", SuppressSending="yes"), Refusal.SCHEMA_MISMATCH),
        (of_postmark("Open", ReceivedAt="2026-03-02T10:00:00"), Refusal.TIME_NAIVE),
        (of_postmark("Open", ReceivedAt=None), Refusal.TIME_MISSING),
        (of_postmark("Open", Metadata={"ledger_subject": "ada"}), Refusal.ID_INVALID),
    ],
)
def test_what_is_no_report_has_its_reason(members: Members, refusal: Refusal) -> None:
    """By the same order as in every format."""
    parse = postmark.parse if "RecordType" in members else sendgrid.parse
    assert parse(json.dumps(members).encode()) is refusal


def test_an_event_without_a_time_is_of_now_where_the_operator_says_so() -> None:
    """Postmark's bounces may lack it; a wish among them is taken all the same."""
    line = json.dumps(of_postmark("Bounce", Type="Unsubscribe", BouncedAt=None)).encode()
    for takes_untimed in (True, False):
        parsed = postmark.parse(line, received_at=AT, takes_untimed=takes_untimed)
        assert isinstance(parsed, Parsed)
        assert parsed.people[0].facts == (suppression("unsubscribed"), WITHDRAWN)
    bounced = json.dumps(of_postmark("Bounce", Type="HardBounce", BouncedAt=None)).encode()
    assert isinstance(postmark.parse(bounced, received_at=AT), Parsed)
    assert postmark.parse(bounced, received_at=AT, takes_untimed=False) is Refusal.TIME_MISSING


@pytest.mark.parametrize(
    ("parse", "members", "event_id"),
    [
        (sendgrid.parse, of_sendgrid("open"), "c2ctZXZlbnQ="),
        (sendgrid.parse, of_sendgrid("open", sg_event_id=ADDRESS), None),
        (postmark.parse, of_postmark("Bounce", Type="HardBounce", ID=901), "Bounce:901"),
        (postmark.parse, of_postmark("Open", ID=True), None),
        (postmark.parse, of_postmark("Open"), None),
    ],
)
def test_copies_are_told_by_the_providers_id(
    parse: Any,  # noqa: ANN401 - either parser
    members: Members,
    event_id: str | None,
) -> None:
    """Else by the event's bytes."""
    parsed = parse(json.dumps(members).encode())
    assert isinstance(parsed, Parsed)
    assert parsed.source_event_id == event_id


def test_each_item_of_an_array_is_an_event_of_its_line() -> None:
    """What is no array, or an empty one, comes as it is; too many are refused whole."""
    lines: list[tuple[int, bytes | Refusal]] = [
        (1, b'[{"a":1}, 2]'), (2, b"{}"), (3, b"[]"), (4, b"[1"), (5, Refusal.LINE_TOO_LONG),
        (6, b"[" + b",".join([b"0"] * (ITEMS_MAX + 1)) + b"]"), (7, b"[" * 65),
    ]  # fmt: skip
    assert list(items(lines)) == [
        (1, b'{"a":1}'), (1, b"2"), (2, b"{}"), (3, b"[]"), (4, b"[1"), (5, Refusal.LINE_TOO_LONG),
        (6, Refusal.LINE_TOO_LONG), (7, Refusal.TOO_DEEP),
    ]  # fmt: skip


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_have_an_answer(line: bytes) -> None:
    """No parser raises, and neither does the reader of arrays."""
    assert list(items([(1, line)]))
    assert isinstance(sendgrid.parse(line), Parsed | Refusal)
    assert isinstance(postmark.parse(line), Parsed | Refusal)


@given(
    st.sampled_from(OF_SENDGRID), st.sampled_from(OF_POSTMARK), st.data()
)  # fmt: skip
def test_any_members_have_an_answer(
    mine: tuple[Members, tuple[Fact, ...]], theirs: tuple[Members, tuple[Fact, ...]], data: st.DataObject
) -> None:
    """Whatever stands in them."""
    for parse, members in ((sendgrid.parse, mine[0]), (postmark.parse, theirs[0])):
        changed = data.draw(st.dictionaries(st.sampled_from(sorted(members)), VALUES, max_size=4))
        line = json.dumps({**members, **changed}).encode()
        assert isinstance(parse(line), Parsed | Refusal)


def _values(fact: Fact) -> list[object]:
    return [getattr(fact, name) for name in fact.__struct_fields__]
