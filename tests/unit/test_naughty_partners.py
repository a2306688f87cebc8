"""Strings that break software, in every member and key of what partners, browsers and players send."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from privacy_ledger.adapters.formats import cmcd, cookies, postmark, sendgrid, signals, stripe
from privacy_ledger.adapters.formats.cmcd_fields import decode_headers, decode_query, decode_text
from privacy_ledger.adapters.formats.gpc import is_on
from privacy_ledger.adapters.formats.gpp import Gpp, decode
from privacy_ledger.adapters.formats.signatures import verify_postmark, verify_sendgrid, verify_stripe
from privacy_ledger.domain.cookies import CookieClass, decide
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed

Members = dict[str, Any]

AT: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
SECONDS: Final = int(AT.timestamp())
NAUGHTY: Final[list[str]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "naughty-strings" / "blns.json").read_bytes()
)
ISO: Final = "2026-03-02T09:00:00Z"
FORMATS: Final[dict[str, tuple[Callable[[bytes], Parsed | Refusal], Members]]] = {
    "sendgrid": (
        sendgrid.parse,
        {
            "event": "click", "timestamp": SECONDS, "email": "ada@example.com", "url": "https://example.com",
            "sg_event_id": "e-1", "sg_message_id": "m-1", "useragent": "x", "ledger_subject": "a:user_id:1",
        },
    ),
    "postmark": (
        postmark.parse,
        {
            "RecordType": "Click", "ReceivedAt": ISO, "Recipient": "ada@example.com", "MessageID": "m-1",
            "OriginalLink": "https://example.com", "UserAgent": "x", "Metadata": {"ledger_subject": "a:b:c"},
        },
    ),
    "stripe": (
        stripe.parse,
        {
            "object": "charge", "id": "ch_Example", "status": "succeeded", "paid": True, "amount": 1,
            "currency": "eur", "created": SECONDS, "payment_intent": None,
            "metadata": {"ledger_subject": "a:user_id:1"},
            "payment_method_details": {"card": {"brand": "visa"}},
        },
    ),
    "signals": (
        signals.parse,
        {
            "id": "s-1", "subject": "a:user_id:1", "occurred_at": ISO, "gpc": "1", "gpp": "DBABTA~1YYN",
            "session": "session-0001", "choice": {"source": "banner", "performance": False, "notice": "n"},
        },
    ),
    "cmcd": (
        partial(cmcd.parse, received_at=AT),
        {"cid": "lecture", "sid": "session-0001", "br": 1, "sta": "p", "st": "v", "ts": SECONDS * 1000},
    ),
}  # fmt: skip


def spoiled(members: Members, text: str) -> Iterator[bytes]:
    """Yield the event with the text as each member, in each inner object, and as a key."""
    for name, value in members.items():
        yield json.dumps({**members, name: text}).encode()
        if isinstance(value, dict):
            yield json.dumps({**members, name: {**value, next(iter(value)): text, text: text}}).encode()
    yield json.dumps({**members, text: text}).encode()


@pytest.mark.parametrize("name", FORMATS)
def test_each_is_a_fact_that_can_be_kept_or_has_a_reason(name: str) -> None:
    """Whatever it is; a fact is one by its own schema, and nothing is cut."""
    parse, members = FORMATS[name]
    taken = 0
    for text in NAUGHTY:
        for line in spoiled(members, text):
            parsed = parse(line)
            if isinstance(parsed, Refusal):
                continue
            taken += 1
            for fact in (*parsed.unattributed, *(one for person in parsed.people for one in person.facts)):
                assert msgspec.json.decode(msgspec.json.encode(fact), type=type(fact)) == fact
    assert taken > len(NAUGHTY)


@pytest.mark.parametrize("text", NAUGHTY, ids=range(len(NAUGHTY)))
def test_each_says_nothing_where_it_stands_for_a_signal(text: str) -> None:
    """No header, string or cookie of that name is taken for what it is not."""
    assert is_on([text]) == ("1" in [part.strip(" \t") for part in text.split(",")])
    assert isinstance(decode(text), Gpp | Refusal)
    assert not decide(text, cookies.table(), allowed=frozenset(CookieClass)).is_allowed
    for found in (decode_text(text), decode_query(f"CMCD={text}"), decode_headers({"CMCD-Status": text})):
        assert isinstance(found, dict | Refusal)
    headers = {
        "X-Twilio-Email-Event-Webhook-Signature": text, "X-Twilio-Email-Event-Webhook-Timestamp": text,
        "Stripe-Signature": text, "Authorization": text,
    }  # fmt: skip
    assert verify_sendgrid(headers, b"", public_key=text, now=AT) is not None
    assert verify_stripe(headers, b"", secrets=[text], now=AT) is not None
    assert verify_postmark(headers, username=text, password=text) is not None
