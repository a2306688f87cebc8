"""Card numbers and secrets through a real ingest into a home: no file that it writes holds any of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger.adapters.formats import ledger, openedx
from privacy_ledger.app.ingest import LineReport, Source
from privacy_ledger.domain.topics import DLQ
from privacy_ledger.testing.scanner import Scanner
from tests.unit.home import COURSE, RECENT, TestHome, home
from tests.unit.screening import DISGUISES, PLACES, SPLIT_PLACES, SPLITS

PAN: Final = "5555555555554444"
CODE: Final = "cvc=731"
PASSWORD: Final = "correct-horse-battery"
NUMBERED: Final = 15
"""A digit fewer than the number has: a part that long must not be left either."""


def event(name: str, payload: object, **more: object) -> dict[str, object]:
    """Return a server event about a made-up learner."""
    return {
        "event_type": name, "event_source": "server", "time": RECENT.isoformat(), "username": "ada",
        "context": {"user_id": 42, "course_id": COURSE}, "event": payload, **more,
    }  # fmt: skip


def kept(text: str) -> Iterator[dict[str, object]]:
    """Yield events of which the ledger keeps the field that holds the text."""
    yield event("edx.user.registered", {"user_id": 42, "username": "ada", "name": text})
    yield event("edx.user.registered", {"user_id": 42, "username": text})
    yield event("load_video", {"id": text.replace(" ", "_")})
    yield event("problem_check", {"problem_id": "p1", "answers": {"p1_2_1": text}, "success": "correct"})
    yield event("edx.forum.thread.created", {"title": text, "body": "hello"})
    yield event("edx.forum.thread.created", {"title": "hello", "body": f"my number is {text}, thanks"})
    yield event("edx.certificate.created", {"certificate_id": text.replace(" ", "_")})
    yield event("edx.course.enrollment.activated", {"mode": "audit"}, event_id=text.replace(" ", "-"))
    yield event("edx.ui.lms.link_clicked", {"target_url": f"https://example.com/pay/{text}/done"})
    yield event(f"/courses/{COURSE}/pay/{text}", {})


def paid(reference: str) -> bytes:
    """Return a payment in the ledger's own format."""
    fact = {
        "type": "payment.confirmed.v1", "occurred_at": RECENT.isoformat(), "reference": reference,
        "amount_minor": 4900, "currency": "EUR", "last_four": PAN[-4:],
    }  # fmt: skip
    return json.dumps({"id": "evt-1", "subject": "openedx:user_id:42", "event": fact}).encode()


def with_numbers() -> Iterator[bytes]:
    """Yield lines with the number in every disguise, in every place and in every field that is kept."""
    for write in DISGUISES.values():
        for build in PLACES.values():
            yield json.dumps(build(write(PAN))).encode()
        for kind in kept(write(PAN)):
            yield json.dumps(kind).encode()
    for split in SPLITS.values():
        for build_split in SPLIT_PLACES.values():
            yield json.dumps(build_split(split(PAN))).encode()
    yield json.dumps(event("edx.forum.thread.created", {"title": "pay", "body": f"visa, {CODE}"})).encode()


def with_secrets() -> Iterator[bytes]:
    """Yield lines with a password where it would be kept."""
    yield json.dumps(
        event("edx.forum.thread.created", {"title": f"password={PASSWORD}", "body": "help"})
    ).encode()
    yield json.dumps(
        event("edx.user.registered", {"user_id": 42, "name": "Ada", "password": PASSWORD})
    ).encode()


async def taken(it: TestHome, lines: list[bytes], source: Source) -> list[LineReport]:
    """Ingest lines and return what became of each."""
    reports: list[LineReport] = []
    await it.ingest.run(enumerate(lines, start=1), source, on_line=reports.append)
    await it.runtime.passes.settle()
    return reports


async def test_no_file_holds_a_number_a_code_or_a_password_that_was_sent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are refused by their reasons; a dead letter holds place, reason, size and keyed digest."""
    source = Source(name="openedx", parse=openedx.parse, default_consents=("improve.analyse",))
    numbered, secret = list(with_numbers()), list(with_secrets())
    usual = [json.dumps(kind).encode() for kind in kept("hello there")]
    async with home(tmp_path) as it:
        first = await taken(it, usual, source)
        found = await taken(it, [*numbered, *secret], source)
        payments = Source(name="payments", parse=ledger.parse)
        paying = await taken(it, [paid("pay_example"), paid(f"pay_{PAN}")], payments)
        exported = await it.export("42")
        letters = [json.loads(row.value) for row in await it.rows(DLQ) if row.value is not None]
    assert {str(report.outcome) for report in first} <= {"accepted"}
    assert [report.reason for report in found] == ["card_number"] * len(numbered) + ["secret"] * len(secret)
    assert [report.reason for report in paying] == [None, "card_number"]
    assert {tuple(sorted(letter)) for letter in letters} == {("digest", "line", "reason", "size", "source")}
    tokens = {
        "number": PAN.encode(), "part": PAN[:NUMBERED].encode(), "code": CODE.encode(),
        "password": PASSWORD.encode(),
        **{name: write(PAN).encode() for name, write in DISGUISES.items()},
    }  # fmt: skip
    scanner = Scanner(tokens)
    assert scanner.scan([tmp_path]) == []
    said = capfd.readouterr()
    assert scanner.find((said.out + said.err).encode()) == []
    assert scanner.find(repr(found).encode()) == []
    assert [scanner.find(content) for content in exported.values()] == [[] for _ in exported]
