"""Tokens in every member of what partners, browsers and players send: none is written or said in clear."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from privacy_ledger.adapters.formats.json_lines import LINE_BYTES_MAX
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import PURPOSE, RECENT, Cli, adds_up, parts_of, subject

Members = dict[str, Any]
Plant = Callable[[], str]

SECONDS: Final = int(RECENT.timestamp())
ISO: Final = RECENT.isoformat()
SESSION: Final = "session-of-the-canary"


def of_sendgrid(token: Plant, who: str | None) -> Iterator[Members]:
    """Yield events with a token in every member that a provider fills."""
    for number, name in enumerate(("delivered", "bounce", "open", "click", "unsubscribe", "account_change")):
        yield {
            "event": name, "timestamp": SECONDS, "sg_event_id": token(), "sg_message_id": token(),
            "email": f"{token()}@example.com", "ip": token(), "useragent": f"Mozilla/5.0 {token()}",
            "url": f"https://{token()}.example.com/users/{token()}/x?{token()}={token()}#{token()}",
            "reason": token(), "response": token(), "category": [token()], "smtp-id": f"<{token()}@x>",
            "unique_args": {token(): token()}, "asm_group_id": number, "ledger_subject": who or "",
        }  # fmt: skip


def of_postmark(token: Plant, who: str | None) -> Iterator[Members]:
    """Yield one event of each type."""
    for kind in ("Delivery", "Bounce", "SpamComplaint", "Open", "Click", "SubscriptionChange", "Inbound"):
        yield {
            "RecordType": kind, "MessageID": token(), "Recipient": f"{token()}@example.com", "Tag": token(),
            "Type": "HardBounce", "Description": token(), "Details": token(), "Subject": token(),
            "Content": token(), "From": f"{token()}@example.com", "UserAgent": f"Mozilla/5.0 {token()}",
            "OriginalLink": f"https://{token()}.example.com/verify/{token()}?{token()}={token()}",
            "Geo": {"City": token(), "Coords": token(), "IP": token(), "Zip": token(), "Region": token()},
            "Client": {"Name": token()}, "OS": {"Name": token()}, "SuppressSending": True,
            "Metadata": {"ledger_subject": who or "", token(): token()},
            "ReceivedAt": ISO, "DeliveredAt": ISO, "BouncedAt": ISO, "ChangedAt": ISO,
        }  # fmt: skip


def of_stripe(token: Plant, who: str | None) -> Iterator[Members]:
    """Yield a charge that was paid, and one that was not."""
    for number, status in enumerate(("succeeded", "failed")):
        yield {
            "id": f"ch_{token()}{number}", "object": "charge", "amount": 4900, "paid": True,
            "captured": False, "currency": "eur", "created": SECONDS, "status": status,
            "description": token(),
            "metadata": {"ledger_subject": who or "", token(): token()}, "customer": token(),
            "receipt_email": f"{token()}@example.com", "receipt_url": f"https://example.com/{token()}",
            "billing_details": {"name": token(), "address": {"line1": token(), "postal_code": token()}},
            "payment_method_details": {"card": {"brand": "visa", "fingerprint": token(), "last4": "4242"}},
            "shipping": {token(): token()},
        }  # fmt: skip


def of_signals(token: Plant, who: str | None) -> Iterator[Members]:
    """Yield a choice with names of cookies, and malformed ones."""
    choice = {"source": "banner", "performance": True, "notice": token()}
    base = {"occurred_at": ISO, "subject": who, "session": None if who else f"{SESSION}-{token()}"}
    yield {**base, "id": token(), "choice": {**choice, "cookies": [token(), f"_ga_{token()}"]}}
    yield {**base, "id": token(), "gpc": [token(), "1"], "gpp": f"DBABTA~{token()}"}
    yield {**base, "id": token(), "gpp": token()}
    yield {**base, "id": token(), token(): token()}


def of_cmcd(token: Plant, _: str | None) -> Iterator[Members]:
    """Yield reports in each carrier."""
    custom = f'com.example-user="{token()}"'
    said = f'bs,cid="{token()}",sid="{SESSION}-{token()}",nor="{token()}",ts={SECONDS}000,{custom}'
    yield {"cmcd": said}
    yield {"cmcd": f"https://{token()}.example.com/{token()}?{token()}={token()}&CMCD={said}"}
    yield {"headers": {"CMCD-Status": "bs", "Cookie": token(), token(): token()}, "occurred_at": ISO}
    yield {"bs": True, "ts": SECONDS * 1000, "cdn": token(), "cs": token(), "url": token(), "h": token()}
    yield {"cmcd": f"br={token()}"}
    yield {"cmcd": f"v=9,bs,{custom}"}


PATHS: Final = {"accepted", "malformed", "refused", "unattributed"}
FORMATS: Final = {
    "cmcd": of_cmcd, "postmark": of_postmark, "sendgrid": of_sendgrid, "signals": of_signals,
    "stripe": of_stripe,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_no_member_of_an_event_is_written_or_said_in_clear(name: str, used: Cli) -> None:
    """Of somebody known, of one whom nobody knows, of nobody; taken, refused, malformed and too long."""
    tokens: dict[str, bytes] = {}

    def token() -> str:
        """Return a token that no other member has."""
        found = f"Quill{len(tokens):04d}zq{name}"
        tokens[found] = found.encode()
        return found

    lines = [
        json.dumps(members).encode()
        for who in (subject(1), subject(777), None)
        for members in FORMATS[name](token, who)
    ]
    lines += [lines[0][:-1], json.dumps({token(): token() * (LINE_BYTES_MAX // 8)}).encode()]
    report = used.folder / "report.ndjson"
    words = ("ingest", "-", "--format", name, "--default-consent", PURPOSE, "--report", report)
    done = used.run(*words, stdin=b"\n".join(lines))

    assert adds_up(done.document)
    assert done.document["read"] == len(lines)
    assert set(parts_of(done.document)) == PATHS - ({"accepted"} if name == "cmcd" else set())
    (used.folder / "said").write_text(done.out + done.err)
    assert Scanner(tokens).scan([used.folder]) == []
