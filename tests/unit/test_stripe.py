"""Stripe's webhooks: a payment, once, of whom the platform named, and nothing else of anybody."""

import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.stripe import parse
from privacy_ledger.domain.events import PaymentConfirmed
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

Members = dict[str, Any]

AT: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
PAN: Final = "4111111111111111"
CARD: Final[Members] = {
    "brand": "visa", "last4": "4242", "country": "AT", "fingerprint": "Xt5EWLLDS7FJjR1c", "exp_month": 8,
    "exp_year": 2030, "checks": {"cvc_check": "pass"},
}  # fmt: skip
CHARGE: Final[Members] = {
    "id": "ch_3Example", "object": "charge", "amount": 4900, "amount_captured": 4900, "captured": True,
    "billing_details": {"name": "Ada Example", "email": "ada@example.com", "phone": None,
                        "address": {"line1": "Example Street 1", "postal_code": "6020", "country": "AT"}},
    "created": int(AT.timestamp()), "currency": "eur", "customer": "cus_Example", "paid": True,
    "description": "One course for Ada", "payment_intent": "pi_3Example", "status": "succeeded",
    "metadata": {"ledger_subject": "openedx:user_id:42", "note": "for Ada"},
    "payment_method_details": {"type": "card", "card": CARD}, "receipt_email": "ada@example.com",
}  # fmt: skip
INTENT: Final[Members] = {
    "id": "pi_3Example", "object": "payment_intent", "amount": 4900, "amount_received": 4900,
    "client_secret": "pi_3Example_secret_abc", "created": int(AT.timestamp()), "currency": "eur",
    "metadata": {"ledger_subject": "openedx:user_id:42"}, "status": "succeeded",
}  # fmt: skip
AUTHORISED: Final[Members] = {"payment_intent": None, "captured": False, "amount_captured": 0}
BARE: Final = PaymentConfirmed(occurred_at=AT, reference="pi_3Example", amount_minor=4900, currency="EUR")
PAID: Final = PaymentConfirmed(
    occurred_at=AT, reference="pi_3Example", amount_minor=4900, currency="EUR", brand="visa",
    last_four="4242", country="AT",
)  # fmt: skip


def event(kind: str, held: object) -> bytes:
    """Return an event of a webhook."""
    said = {"id": "evt_1", "object": "event", "type": kind, "created": 1, "data": {"object": held}}
    return json.dumps(said).encode()


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        (event("charge.succeeded", CHARGE), PAID),
        (json.dumps(CHARGE).encode(), PAID),
        (event("payment_intent.succeeded", INTENT), BARE),
        (event("charge.succeeded", {**CHARGE, "payment_intent": INTENT}), PAID),
        (
            event("charge.succeeded", {**CHARGE, **AUTHORISED}),
            PaymentConfirmed(
                occurred_at=AT, reference="ch_3Example", amount_minor=4900, currency="EUR", brand="visa",
                last_four="4242", country="AT",
            ),
        ),
        (event("charge.succeeded", {**CHARGE, "payment_method_details": {"type": "sepa_debit"}}), BARE),
        (
            event("charge.succeeded", {**CHARGE, "payment_method_details": {
                "card": {"brand": "eftpos_au", "last4": "12", "country": "Austria"}}}),
            BARE,
        ),
    ],
)  # fmt: skip
def test_a_confirmation_is_one_payment_of_whom_the_platform_named(
    line: bytes, fact: PaymentConfirmed
) -> None:
    """Reference, amount, currency, brand, last four digits and country: no name, address, or fingerprint."""
    parsed = parse(line)

    assert isinstance(parsed, Parsed)
    assert parsed.people == (PersonFacts(identities=(Identity("openedx:user_id", "42"),), facts=(fact,)),)
    assert (parsed.unattributed, parsed.device, parsed.occurred_at) == ((), None, AT)


def test_a_payment_is_named_by_its_reference_whoever_confirms_it() -> None:
    """So that its charge and its intent are copies of each other, in either order."""
    found = [parse(event("charge.succeeded", CHARGE)), parse(event("payment_intent.succeeded", INTENT))]
    names = {(one.source_event_id, one.digest_input) for one in found if isinstance(one, Parsed)}
    assert names == {("pi_3Example", b"pi_3Example 4900 EUR")}


@pytest.mark.parametrize("metadata", [{}, None, {"ledger_subject": ""}, "x", {"note": "openedx:user_id:42"}])
def test_a_payer_who_was_not_named_is_nobody_known(metadata: object) -> None:
    """An address that somebody typed while paying says nothing."""
    parsed = parse(event("charge.succeeded", {**CHARGE, "metadata": metadata}))
    assert isinstance(parsed, Parsed)
    assert (parsed.people, parsed.unattributed) == ((), (PAID,))


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"[]", Refusal.NOT_AN_OBJECT),
        (b"{}", Refusal.SCHEMA_MISMATCH),
        (event("charge.succeeded", None), Refusal.SCHEMA_MISMATCH),
        (b'{"object":"event","type":"charge.succeeded"}', Refusal.SCHEMA_MISMATCH),
        (event("charge.refunded", CHARGE), Refusal.UNKNOWN_EVENT),
        (event("charge.succeeded", INTENT), Refusal.UNKNOWN_EVENT),
        (event("charge.succeeded", {**CHARGE, "paid": False}), Refusal.UNKNOWN_EVENT),
        (event("payment_intent.succeeded", {**INTENT, "status": "processing"}), Refusal.UNKNOWN_EVENT),
        (json.dumps({**CHARGE, "object": "invoice"}).encode(), Refusal.UNKNOWN_EVENT),
        (event("charge.succeeded", {**CHARGE, "amount_captured": -1}), Refusal.SCHEMA_MISMATCH),
        (event("charge.succeeded", {**CHARGE, "amount_captured": "4900"}), Refusal.SCHEMA_MISMATCH),
        (event("charge.succeeded", {**CHARGE, "currency": None}), Refusal.SCHEMA_MISMATCH),
        (event("charge.succeeded", {**CHARGE, "currency": "eur\n"}), Refusal.SCHEMA_MISMATCH),
        (event("charge.succeeded", {**CHARGE, "currency": "\u017feu"}), Refusal.SCHEMA_MISMATCH),
        (event("charge.succeeded", {**CHARGE, "payment_intent": "x"}), Refusal.SCHEMA_MISMATCH),
        (event("charge.succeeded", {**CHARGE, "created": None}), Refusal.TIME_MISSING),
        (event("charge.succeeded", {**CHARGE, "created": "today"}), Refusal.TIME_INVALID),
        (event("charge.succeeded", {**CHARGE, "metadata": {"ledger_subject": "ada"}}), Refusal.ID_INVALID),
        (event("charge.succeeded", {**CHARGE, "metadata": {"ledger_subject": 42}}), Refusal.ID_INVALID),
        *[
            (event("charge.succeeded", {**CHARGE, "metadata": {"ledger_subject": name}}), Refusal.ID_INVALID)
            for name in (
                "openedx:email:ada@example.com",
                "lms:account:ada@example.com",
                "lms:account:ada\uff20example.com",
            )
        ],
        (event("charge.succeeded", {**CHARGE, "description": PAN}), Refusal.CARD_NUMBER),
        (event("charge.succeeded", {**CHARGE, "metadata": {"cvc": "123"}}), Refusal.CARD_NUMBER),
        (event("charge.succeeded", {**CHARGE, "metadata": {"password": "hunter2"}}), Refusal.SECRET),
        (event("charge.succeeded", {**CHARGE, "payment_intent": f"pi_{PAN}"}), Refusal.CARD_NUMBER),
    ],
)
def test_what_confirms_no_payment_has_its_reason(line: bytes, refusal: Refusal) -> None:
    """And a card's number stops the whole event."""
    assert parse(line) is refusal


@given(
    st.dictionaries(
        st.sampled_from(sorted(CHARGE)),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text()
        | st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
        max_size=4,
    ),
    st.sampled_from((CHARGE, INTENT)),
)  # fmt: skip
def test_any_object_has_an_answer(changed: Members, base: Members) -> None:
    """Whatever stands in it."""
    assert isinstance(parse(event(f"{base['object']}.succeeded", {**base, **changed})), Parsed | Refusal)
