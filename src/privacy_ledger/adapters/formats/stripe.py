"""Stripe's webhooks: that a payment was made, and nothing of who paid.

An event holds its object in `data.object`; the object alone is taken, too. A payment is confirmed by its
charge and again by its payment intent: both have one reference, and the second is a copy. A charge that
is authorised and captured later counts when the processor says that it succeeded.

Of an object reference, amount, currency, brand, last four digits and country are read (policy P5, P21),
and from its metadata `ledger_subject`, by which the platform named the person. Who is not named there
is nobody known. Pure, and total. Source: Stripe, API reference, Charge, PaymentIntent and Event.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from privacy_ledger.adapters.formats.email_reports import NAMED_SUBJECT
from privacy_ledger.adapters.formats.json_lines import decode_canonical, decode_object
from privacy_ledger.adapters.formats.subjects import subject_identity
from privacy_ledger.adapters.formats.times import epoch_time
from privacy_ledger.domain.events import PaymentConfirmed, event_type
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import EPOCH
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

__all__ = ["parse"]

Members = Mapping[str, Any]

_TAKEN: Final = {"charge.succeeded": "charge", "payment_intent.succeeded": "payment_intent"}
"""Events that confirm a payment, and what each holds."""
_PAYMENT_ID: Final = re.compile(r"(?:ch|pi|py)_[A-Za-z0-9]{4,64}")
_OWN_SECRET: Final = "client_secret"  # noqa: S105 - the name of a member
_encode = msgspec.json.Encoder().encode
_BRAND: Final = re.compile(r"[a-z]{2,16}")
_LAST_FOUR: Final = re.compile(r"[0-9]{4}")
_CURRENCY: Final = re.compile(r"[A-Za-z]{3}")
_COUNTRY: Final = re.compile(r"[A-Z]{2}")


def parse(line: bytes) -> Parsed | Refusal:
    """Return the payment that one event confirms, or the first refusal that applies; never raises."""
    root = decode_object(line)
    if type(root) is Refusal:
        return root
    decoded = decode_canonical(_encode(_without_secrets(root)))
    if type(decoded) is Refusal:
        return decoded
    found = _confirming(decoded[0])
    if type(found) is Refusal:
        return found
    said_at = epoch_time(found.get("created"))
    payment = _payment(found, at=EPOCH if type(said_at) is Refusal else said_at)
    if payment is None:
        return Refusal.SCHEMA_MISMATCH
    if type(said_at) is Refusal:
        return said_at
    identity = _identity(found)
    if type(identity) is Refusal:
        return identity
    return Parsed(
        people=() if identity is None else (PersonFacts(identities=(identity,), facts=(payment,)),),
        unattributed=() if identity is not None else (payment,),
        device=None,
        occurred_at=said_at,
        source_event_id=payment.reference,
        anonymous=None,
        digest_input=f"{payment.reference} {payment.amount_minor} {payment.currency}".encode(),
    )


def _without_secrets(value: object) -> object:
    """Return a value without the processor's own secrets: each intent holds one, and none is ever kept.

    Everything else is screened. Its depth is bounded, for it was decoded.
    """
    if isinstance(value, dict):
        return {name: _without_secrets(held) for name, held in value.items() if name != _OWN_SECRET}
    return [_without_secrets(held) for held in value] if isinstance(value, list) else value


def _confirming(root: Members) -> Members | Refusal:
    """Return the charge or payment intent that says that a payment was made, or why there is none."""
    kind = root.get("object")
    if kind == "event":
        held = root.get("data")
        found = held.get("object") if isinstance(held, dict) else None
        name = root.get("type")
        if not isinstance(found, dict) or not isinstance(name, str):
            return Refusal.SCHEMA_MISMATCH
        if _TAKEN.get(name) != found.get("object"):
            return Refusal.UNKNOWN_EVENT
        root = found
    elif not isinstance(kind, str):
        return Refusal.SCHEMA_MISMATCH
    match root.get("object"):
        case "charge":
            is_paid = root.get("status") == "succeeded" and root.get("paid") is True
        case "payment_intent":
            is_paid = root.get("status") == "succeeded"
        case _:
            is_paid = False
    return root if is_paid else Refusal.UNKNOWN_EVENT


def _payment(found: Members, *, at: datetime) -> PaymentConfirmed | None:
    """Return the payment, or None where a member that must be there is not what it should be."""
    is_charge = found.get("object") == "charge"
    reference = found.get("payment_intent") if is_charge else None
    if isinstance(reference, dict):  # the processor's interface puts the object in its id's place on request
        reference = reference.get("id")
    if not isinstance(reference, str):
        reference = found.get("id")
    if not isinstance(reference, str) or _PAYMENT_ID.fullmatch(reference) is None:
        return None
    is_partly = is_charge and found.get("captured") is True
    amount = found.get("amount_captured" if is_partly else "amount" if is_charge else "amount_received")
    currency = _fitting(found.get("currency"), _CURRENCY)
    members = {
        "type": event_type(PaymentConfirmed),
        "occurred_at": at,
        "reference": reference,
        "amount_minor": amount,
        "currency": None if currency is None else currency.upper(),
        **(_card(found) if is_charge else {}),
    }
    try:
        return msgspec.convert(members, PaymentConfirmed)
    except msgspec.ValidationError:
        return None


def _card(charge: Members) -> dict[str, str | None]:
    """Return what may be kept of the card; a value of another form is left out."""
    details = charge.get("payment_method_details")
    card = details.get("card") if isinstance(details, dict) else None
    if not isinstance(card, dict):
        return {}
    return {
        "brand": _fitting(card.get("brand"), _BRAND),
        "last_four": _fitting(card.get("last4"), _LAST_FOUR),
        "country": _fitting(card.get("country"), _COUNTRY),
    }


def _fitting(value: object, form: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and form.fullmatch(value) is not None else None


def _identity(found: Members) -> Identity | Refusal | None:
    """Return whom the platform named in the object's metadata; None: nobody."""
    own = found.get("metadata")
    subject = own.get(NAMED_SUBJECT) if isinstance(own, dict) else None
    if subject is None or subject == "":
        return None
    return subject_identity(subject) if isinstance(subject, str) else Refusal.ID_INVALID
