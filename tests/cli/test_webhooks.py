"""Webhooks of partners through the command: whom they reach, what they change, and what is left of them."""

import json
from typing import Any, Final

from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_UNATTRIBUTED
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import COURSE, NOW, RECENT, Cli, adds_up, parts_of, rows_of, subject

Members = dict[str, Any]

ADDRESS: Final = "grace-marker-zq9@example.com"
PLACE: Final = "203.0.113.97"
SECONDS: Final = int(RECENT.timestamp())
PROMOTION: Final = "comm.promote"


def reported(event: str, number: int, /, **more: object) -> Members:
    """Return one event of an e-mail provider about person 1."""
    return {
        "email": ADDRESS, "timestamp": SECONDS, "event": event, "sg_event_id": f"event-{number}",
        "ip": PLACE, "ledger_subject": subject(1), **more,
    }  # fmt: skip


def paid(number: int, who: int | None, **more: object) -> Members:
    """Return a charge."""
    metadata = {} if who is None else {"ledger_subject": subject(who)}
    return {
        "id": f"ch_Example{number}", "object": "charge", "amount": 4900, "captured": False, "paid": True,
        "currency": "eur", "created": SECONDS, "status": "succeeded", "metadata": metadata,
        "billing_details": {"email": ADDRESS}, "client_secret": "whsec_grace_marker_secret", **more,
    }  # fmt: skip


def sent(cli: Cli, form: str, *events: Members) -> Members:
    """Ingest events as one array, and return the summary."""
    document = cli.run("ingest", "-", "--format", form, stdin=json.dumps(events).encode()).document
    assert adds_up(document)
    return document


def test_an_unsubscription_ends_the_consent_to_promotion(used: Cli) -> None:
    """And a return to the provider's list grants nothing."""
    used.run("consent", "grant", subject(1), PROMOTION)
    before = used.run("consent", "show", subject(1)).document["consents"]
    done = sent(used, "sendgrid", reported("unsubscribe", 1, timestamp=int(NOW.timestamp())))
    after = used.run("consent", "show", subject(1)).document["consents"]
    back = sent(used, "sendgrid", reported("group_resubscribe", 2))
    then = used.run("consent", "show", subject(1)).document["consents"]

    assert (set(before), set(after), set(then)) == ({PROMOTION}, set(), set())
    assert parts_of(done) == parts_of(back) == {"accepted": 1}


def test_opens_and_clicks_need_a_consent_and_deliveries_do_not(used: Cli) -> None:
    """Whether a message came is part of the service; who reads it is analytics."""
    events = [
        reported("delivered", 1),
        reported("open", 2),
        reported("click", 3, url="https://example.com/x"),
    ]
    first = sent(used, "sendgrid", *events)
    again = sent(used, "sendgrid", *events)
    counts = used.run("subject", "show", subject(1)).document["references"][0]["counts"]

    assert (parts_of(first), first["reasons"]) == ({"accepted": 1, "refused": 2}, {"consent_missing": 2})
    assert parts_of(again)["duplicates"] == 1
    assert counts["email.delivery_reported.v1"] == 1
    assert not {"email.opened.v1", "email.clicked.v1"} & set(counts)


async def test_a_report_never_registers_anybody(used: Cli) -> None:
    """It waits as one of nobody, without address and message; nothing of it is written in clear."""
    stranger = {"ledger_subject": None}
    done = sent(used, "sendgrid", reported("open", 1, **stranger), reported("spamreport", 2, **stranger))
    named = sent(used, "sendgrid", reported("delivered", 3, ledger_subject=subject(777)))

    assert parts_of(done) == {"unattributed": 2}
    assert (parts_of(named), named["reasons"]) == ({"refused": 1}, {"subject_unknown": 1})
    assert used.run("subject", "show", subject(777)).code == 1
    async with used.opened() as runtime:
        assert len(await rows_of(runtime, LEDGER_UNATTRIBUTED)) == 2
        types = {dict(row.headers).get("ce_type") for row in await rows_of(runtime, LEDGER_EVENTS)}
    assert not any(name is not None and name.startswith(b"email.") for name in types)
    scanner = Scanner({"address": ADDRESS.encode(), "place": PLACE.encode(), "event": b"event-2"})
    assert scanner.scan([used.folder]) == []


def test_an_erased_person_stays_away(used: Cli) -> None:
    """Nothing waits for them either."""
    used.run("erase", subject(1), "--yes", "--receipt", used.folder / "receipts")
    done = sent(used, "sendgrid", reported("delivered", 1))
    assert (parts_of(done), done["reasons"]) == ({"refused": 1}, {"subject_erased": 1})


async def test_a_payment_is_kept_once_of_whom_the_platform_named(used: Cli) -> None:
    """Its intent is a copy; a payer who was not named is of nobody; a card's number stops the event."""
    intent = {**paid(1, 1), "object": "payment_intent", "id": "pi_Example1", "amount_received": 4900}
    charge = paid(1, 1, payment_intent="pi_Example1")
    card = paid(3, 1, description="4111 1111 1111 1111")
    done = sent(used, "stripe", charge, intent, paid(2, None), card, paid(4, 1, status="pending"))

    assert parts_of(done) == {"accepted": 1, "duplicates": 1, "unattributed": 1, "refused": 2}
    assert done["reasons"] == {"card_number": 1, "unknown_event": 1}
    scanner = Scanner({"address": ADDRESS.encode(), "secret": b"whsec_grace", "card": b"4111111111111111"})
    assert scanner.scan([used.folder]) == []


def test_an_address_reaches_whom_xapi_knows_by_it(cli: Cli) -> None:
    """In any spelling of its domain; nobody else's address does."""
    actor = {"mbox": f"mailto:{ADDRESS}"}
    verb, thing = "http://adlnet.gov/expapi/verbs/registered", f"https://lms.example.com/course/{COURSE}"
    statement = {
        "actor": actor, "verb": {"id": verb}, "timestamp": RECENT.isoformat(),
        "object": {"id": thing, "definition": {"type": "http://adlnet.gov/expapi/activities/course"}},
    }  # fmt: skip
    words = ("ingest", "-", "--format", "xapi", "--register-addresses")
    known = cli.run(*words, stdin=json.dumps(statement).encode()).document
    spelled = {"ledger_subject": "", "email": ADDRESS.replace("example.com", "Example.COM")}
    other = {"ledger_subject": "", "email": f"not-{ADDRESS}"}
    done = sent(cli, "sendgrid", reported("delivered", 1, **spelled), reported("delivered", 2, **other))

    assert (parts_of(known), parts_of(done)) == ({"accepted": 1}, {"accepted": 1, "unattributed": 1})


def test_an_event_without_a_time_is_taken_only_when_asked_for(used: Cli) -> None:
    """Postmark's bounces may lack it, and a wish is taken at once; SendGrid's events never do."""
    line = {"RecordType": "Bounce", "Type": "HardBounce", "Metadata": {"ledger_subject": subject(1)}}
    wish = {**line, "Type": "Unsubscribe"}
    words = ("ingest", "-", "--format", "postmark")
    refused = used.run(*words, stdin=json.dumps(line).encode())
    taken = used.run(*words, "--take-untimed", stdin=json.dumps(line).encode())
    wished = used.run(*words, stdin=json.dumps(wish).encode())
    wrong = used.run("ingest", "-", "--format", "sendgrid", "--take-untimed")

    assert (refused.code, refused.document["reasons"]) == (4, {"time_missing": 1})
    assert (taken.code, parts_of(taken.document)) == (0, {"accepted": 1})
    assert (wished.code, parts_of(wished.document)) == (0, {"accepted": 1})
    assert wrong.code == 2
