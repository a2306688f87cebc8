"""Legal holds and duties at the command line: what stays, why, until when, and how it goes at last."""

import json
from typing import Final

import pytest

from tests.cli.cli import (
    PURPOSE,
    RECENT,
    Cli,
    Document,
    Result,
    enrolled,
    played,
    registered,
    subject,
    viewed,
)

ONE: Final = subject(1)
EMAIL: Final = "ada.lovelace@example.com"
CLAIMS: Final = ("--category", "patterns", "--ground", "legal_claims")


def paid(who: int, *, number: int, **more: object) -> bytes:
    """Return a payment in the ledger's own format."""
    event = {
        "type": "payment.confirmed.v1", "occurred_at": RECENT.isoformat(),
        "reference": f"pay_example{number}",
        "amount_minor": 4900, "currency": "EUR", "brand": "visa", "last_four": "4242", "country": "AT",
        **more,
    }  # fmt: skip
    return json.dumps({"id": f"evt-{number}", "subject": subject(who), "event": event}).encode()


def _pay(cli: Cli, *lines: bytes) -> Result:
    words = ("ingest", "-", "--format", "ledger", "--source", "payments")
    return cli.run(*words, stdin=b"\n".join(lines) + b"\n")


@pytest.fixture
def customer(used: Cli) -> Cli:
    """Return a home in which person 1 learned, paid, and is held for a claim."""
    lines = [registered(1, name="ada", email=EMAIL), enrolled(1), *(played(1, number=n) for n in range(2)),
             viewed(1)]  # fmt: skip
    used.ingest(lines, "--default-consent", PURPOSE)
    assert _pay(used, paid(1, number=1)).code == 0
    return used


def _reference(cli: Cli) -> Document:
    (reference,) = cli.run("subject", "show", ONE).document["references"]
    found: Document = reference
    return found


def test_a_payment_is_taken_once_and_never_with_more_than_its_schema_says(used: Cli) -> None:
    """A card number in any field, another event, and a field too many are refused."""
    used.ingest([enrolled(1)])
    first, again = _pay(used, paid(1, number=1)), _pay(used, paid(1, number=1))
    wrong = [
        paid(1, number=2, reference="pay_4111111111111111"),
        paid(1, number=3, last_four="4111111111111111"),
        paid(1, number=4, card="4111 1111 1111 1111"),
        paid(1, number=5, type="audit.revealed.v1"),
        paid(1, number=6, occurred_at="2026-01-01T00:00:00"),
        b'{"id": "x", "subject": "somebody", "event": {"type": "payment.confirmed.v1"}}',
    ]
    refused = _pay(used, *wrong)
    assert (first.document["accepted"], again.document["duplicates"]) == (1, 1)
    assert (refused.code, refused.document["accepted"]) == (4, 0)
    assert refused.document["reasons"] == {
        "card_number": 3, "unknown_event": 1, "time_naive": 1, "time_missing": 1,
    }  # fmt: skip
    assert "4111" not in refused.out + refused.err


def test_an_erasure_rests_on_hold_and_duty_and_goes_on_by_itself(customer: Cli) -> None:
    """The plan says what stays; lifted, the hold lets the rest go; the duty's records stay."""
    placed = customer.run("hold", "place", ONE, *CLAIMS, "--until", "2999-01-01T00:00:00Z")
    listed = customer.run("hold", "list", ONE)
    plan = customer.run("erase", ONE, "--plan")
    plain = customer.run("erase", ONE, "--plan", as_json=False)
    erased = customer.run("erase", ONE, "--yes", "-o", "receipts")
    status = customer.run("erase", ONE, "--status")
    shown = _reference(customer)
    late = _pay(customer, paid(1, number=2))
    refused = customer.ingest([played(1, number=9)])
    lifted = customer.run("hold", "lift", ONE, placed.document["hold"])
    after = customer.run("erase", ONE, "--status", as_json=False)
    again = customer.run("hold", "lift", ONE, placed.document["hold"])
    (file, *_) = sorted((customer.folder / "receipts").glob("receipt-*.json"))
    verified = customer.run("receipt", "verify", file)
    kept = {item["category"]: item["ground"] for item in plan.document["retained"]}
    assert (placed.code, [hold["category"] for hold in listed.document["holds"]]) == (0, ["patterns"])
    assert kept == {
        "billing": "legal_obligation", "evidence": "legal_claims", "patterns": "legal_claims",
    }  # fmt: skip
    assert all(word in plain.out for word in ("Of these the law keeps", "1 billing", "until 2999-01-01"))
    assert (erased.code, erased.document["completed"], erased.document["open"]) == (0, False, [])
    (one,) = status.document["erasures"]
    assert (status.code, one["state"], len(one["retained"])) == (0, "retained", 3)
    assert (shown["erasure"], shown["counts"], shown["account"]) == ("retained", {}, {})
    assert {item["category"] for item in shown["retained"]} == set(kept)
    assert (late.code, refused.document["reasons"]) == (0, {"subject_erased": 1})
    assert lifted.code == 0
    assert "retained" in after.out
    assert "2 billing" in after.out
    assert "patterns" not in after.out
    assert (again.code, again.document["reason"]) == (4, "hold_unknown")
    assert verified.code == 0


def test_a_hold_stays_out_of_the_way_of_everything_else(customer: Cli) -> None:
    """Nothing changes in the views by it, and lifted nothing is left of it."""
    before = _reference(customer)
    placed = customer.run("hold", "place", ONE, *CLAIMS)
    held = _reference(customer)
    customer.run("hold", "lift", ONE, placed.document["hold"])
    after = _reference(customer)
    listed = customer.run("hold", "list", ONE, as_json=False)
    assert {**held, "holds": []} == before == after
    assert "There is no hold." in listed.out
