"""The ledger's own format: a typed fact of one person a line, and a reason for whatever is none."""

import json
from datetime import UTC, datetime
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.json_lines import DEPTH_MAX, LINE_BYTES_MAX
from privacy_ledger.adapters.formats.ledger import parse
from privacy_ledger.domain.events import PaymentConfirmed
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

EVENT: Final = {
    "type": "payment.confirmed.v1",
    "occurred_at": "2026-03-02T10:00:00+01:00",
    "reference": "pay_example",
    "amount_minor": 4900,
    "currency": "EUR",
}
AT: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
PAN: Final = "4111111111111111"


def said(subject: object = "openedx:user_id:42", *, id_: object = "evt-1", **changed: object) -> bytes:
    """Return a line."""
    return json.dumps({"id": id_, "subject": subject, "event": {**EVENT, **changed}}).encode()


def test_a_line_is_one_fact_of_one_person() -> None:
    """Its time in UTC; what the producer calls it is its id."""
    line = said(brand="visa", last_four="4242", country="AT")
    parsed = parse(line)
    fact = PaymentConfirmed(
        occurred_at=AT, reference="pay_example", amount_minor=4900, currency="EUR", brand="visa",
        last_four="4242", country="AT",
    )  # fmt: skip
    assert isinstance(parsed, Parsed)
    assert parsed.people == (PersonFacts(identities=(Identity("openedx:user_id", "42"),), facts=(fact,)),)
    assert (parsed.occurred_at, parsed.source_event_id, parsed.unattributed) == (AT, "evt-1", ())
    assert (parsed.anonymous, parsed.device) == (None, None)


@pytest.mark.parametrize(
    ("subject", "identity"),
    [
        ("openedx:user_id:042", Identity("openedx:user_id", "42")),
        ("openedx:username:ada", Identity("openedx:username", "ada")),
        ("openedx:username:ada:l", Identity("openedx:username", "ada:l")),
    ],
)
def test_a_subject_is_who_the_platform_means(subject: str, identity: Identity) -> None:
    """The same person as in a tracking log."""
    parsed = parse(said(subject))
    assert isinstance(parsed, Parsed)
    assert parsed.people[0].identities == (identity,)


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"", Refusal.NOT_JSON),
        (b"[]", Refusal.NOT_AN_OBJECT),
        (b"null", Refusal.NULL_VALUE),
        (b"{}", Refusal.SCHEMA_MISMATCH),
        (b'{"subject":"openedx:user_id:1","subject":"openedx:user_id:2"}', Refusal.DUPLICATE_KEY),
        (b"[" * (DEPTH_MAX + 1), Refusal.TOO_DEEP),
        (b" " * (LINE_BYTES_MAX + 1), Refusal.LINE_TOO_LONG),
        (said("somebody"), Refusal.ID_INVALID),
        (said("openedx:user_id:ada"), Refusal.ID_INVALID),
        (said("openedx:username:"), Refusal.ID_INVALID),
        (said(42), Refusal.SCHEMA_MISMATCH),
        (said(id_="a b"), Refusal.ID_INVALID),
        (said(id_=7), Refusal.SCHEMA_MISMATCH),
        (said(type="audit.revealed.v1"), Refusal.UNKNOWN_EVENT),
        (said(type=None), Refusal.UNKNOWN_EVENT),
        (said(type=["payment.confirmed.v1"]), Refusal.UNKNOWN_EVENT),
        (said(occurred_at="2026-03-02T10:00:00"), Refusal.TIME_NAIVE),
        (said(occurred_at=1), Refusal.TIME_INVALID),
        (said(occurred_at=None), Refusal.TIME_MISSING),
        (said(reference=f"pay_{PAN}"), Refusal.CARD_NUMBER),
        (said(reference=PAN), Refusal.CARD_NUMBER),
        (said(last_four=PAN), Refusal.CARD_NUMBER),
        (said(reference="pay_4111111111111112"), Refusal.SCHEMA_MISMATCH),
        (said(last_four="42424"), Refusal.SCHEMA_MISMATCH),
        (said(brand=PAN), Refusal.CARD_NUMBER),
        (said(amount_minor=49.5), Refusal.SCHEMA_MISMATCH),
        (said(amount_minor=-1), Refusal.SCHEMA_MISMATCH),
        (said(currency="euro"), Refusal.SCHEMA_MISMATCH),
        (said(country="Austria"), Refusal.SCHEMA_MISMATCH),
        (said(cvc="123"), Refusal.CARD_NUMBER),
    ],
)
def test_what_is_no_fact_is_refused(line: bytes, refusal: Refusal) -> None:
    """By the same bounds as every format, and by the schema of the event."""
    assert parse(line) is refusal


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_have_an_answer(line: bytes) -> None:
    """It never raises."""
    assert isinstance(parse(line), Parsed | Refusal)


@given(st.dictionaries(st.sampled_from((*EVENT, "brand", "x")), st.none() | st.text() | st.integers()))
def test_any_event_has_an_answer(changed: dict[str, object]) -> None:
    """Whatever stands in its fields."""
    assert isinstance(parse(said(**changed)), Parsed | Refusal)


def test_members_are_made_harmless_as_a_mappings_are() -> None:
    """A path loses what names somebody, and its query; a code that is an address is none."""
    page = {"type": "usage.page_viewed.v1", "occurred_at": EVENT["occurred_at"]}
    line = {"subject": "openedx:user_id:42", "event": {**page, "path": "/u/ada@example.com?next=ada"}}
    parsed = parse(json.dumps(line).encode())
    video = {"type": "video.paused.v1", "occurred_at": EVENT["occurred_at"], "video": "ada@example.com"}

    assert isinstance(parsed, Parsed)
    assert b"ada" not in msgspec.json.encode(parsed.people[0].facts)
    assert parse(json.dumps({**line, "event": video}).encode()) is Refusal.SCHEMA_MISMATCH


def test_a_group_is_people_who_differ_each_with_the_fact() -> None:
    """Sixteen at most, each once, and not beside a single one."""
    people = ["openedx:user_id:1", "openedx:user_id:2"]
    parsed = parse(json.dumps({"subjects": people, "event": EVENT}).encode())
    twice = parse(
        json.dumps({"subjects": ["openedx:user_id:1", "openedx:user_id:01"], "event": EVENT}).encode()
    )
    many = [f"openedx:user_id:{number}" for number in range(1, 18)]

    assert isinstance(parsed, Parsed)
    assert [one.identities for one in parsed.people] == [
        (Identity("openedx:user_id", "1"),),
        (Identity("openedx:user_id", "2"),),
    ]
    assert parsed.is_joint
    assert twice is Refusal.ID_INVALID
    wrong: list[dict[str, object]] = [
        {"subjects": many}, {"subjects": []}, {"subject": people[0], "subjects": people},
    ]  # fmt: skip
    for said_of in wrong:
        assert parse(json.dumps({**said_of, "event": EVENT}).encode()) is Refusal.SCHEMA_MISMATCH


def test_a_consent_is_said_and_never_assumed_here() -> None:
    """That it is assumed is only for whoever runs the ledger."""
    grant = {
        "type": "consent.granted.v1", "occurred_at": EVENT["occurred_at"], "purpose": "improve.analyse",
        "notice": "platform-privacy-policy.v1",
    }  # fmt: skip
    about = {"subject": "openedx:user_id:42"}

    assert isinstance(parse(json.dumps({**about, "event": {**grant, "is_assumed": False}}).encode()), Parsed)
    assumed = json.dumps({**about, "event": {**grant, "is_assumed": True}}).encode()
    assert parse(assumed) is Refusal.SCHEMA_MISMATCH
