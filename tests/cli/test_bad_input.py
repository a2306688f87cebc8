"""Bad input: every line gets an outcome, nothing is lost, and nothing of it is echoed."""

import gzip
import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger.domain.topics import DLQ
from privacy_ledger.testing.scanner import Scanner
from tests.cli.cli import (
    COURSE,
    NOW,
    PURPOSE,
    RECENT,
    Cli,
    Document,
    Result,
    adds_up,
    encoded,
    enrolled,
    event,
    new_cli,
    parts_of,
    played,
    rows_of,
    subject,
    viewed,
)
from tests.cli.forks import Forks

MARK: Final = "marker-qzx7"
"""Stands in every bad line; nothing that the ledger writes may hold it."""
NAUGHTY: Final = Path(__file__).parents[1] / "fixtures" / "naughty-strings" / "blns.json"
LARGE: Final = 10_000_000
DEEP: Final = 1000
SHORT: Final = 8
"""Bytes below which a naughty string stands in some file by chance."""


def _bad(**members: object) -> bytes:
    """Return an enrolment with some members replaced."""
    return encoded({**json.loads(enrolled(1)), "session": MARK, **members})


BAD: Final[dict[str, tuple[bytes, str]]] = {
    "an unknown event": (encoded(event(f"{MARK}.happened", context={"user_id": 1})), "unknown_event"),
    "a naive time": (_bad(time="2026-01-01T00:00:00"), "time_naive"),
    "a future time": (_bad(time=(NOW + timedelta(days=2)).isoformat()), "time_future"),
    "no time": (_bad(time=""), "time_missing"),
    "a time that is none": (_bad(time=MARK), "time_invalid"),
    "a time before registration": (_bad(time="2011-01-01T00:00:00Z"), "before_subject"),
    "an old stranger": (
        enrolled(4711, at="2011-01-01T00:00:00Z", name=MARK), "too_old_to_register",
    ),
    "bytes that are no text": (b'{"username": "' + MARK.encode() + b'\xff\xfe"}', "not_utf8"),
    "ten megabytes": (b'{"username": "' + MARK.encode() * (LARGE // len(MARK)) + b'"}', "line_too_long"),
    "a thousand levels": (b'{"' + MARK.encode() + b'":' + b"[" * DEEP + b"]" * DEEP + b"}", "too_deep"),
    "a NUL byte": (b'{"username": "' + MARK.encode() + b'\0"}', "nul_byte"),
    "an escaped NUL as a name": (_bad(username=f"{MARK}\0"), "id_invalid"),
    "a key twice": (b'{"username": "' + MARK.encode() + b'", "username": "b"}', "duplicate_key"),
    "a null": (b"null", "null_value"),
    "a list": (f'["{MARK}"]'.encode(), "not_an_object"),
    "no JSON": (f"{MARK} {{".encode(), "not_json"),
    "a lone surrogate": (b'{"username": "' + MARK.encode() + b'\\ud800"}', "not_json"),
    "a member of another type": (
        _bad(event={"user_id": 1, "course_id": COURSE, "mode": [MARK]}), "schema_mismatch",
    ),
    "a line that contradicts itself": (_bad(context={"user_id": 1}, user_id=2), "id_invalid"),
    "an id with other content": (enrolled(1, number="first", mode="honor", name=""), "id_reused"),
    "a card number": (_bad(page=f"https://example.com/{MARK}?card=4111-1111-1111-1111"), "card_number"),
    "a password": (_bad(page=f"https://example.com/login?password={MARK}"), "secret"),
    "no consent": (viewed(1), "consent_missing"),
}  # fmt: skip


@dataclass(frozen=True)
class Mixed:
    """One run over good and bad lines in turn."""

    cli: Cli
    result: Result
    report: dict[int, Document]
    places: dict[str, int]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Mixed:
    """Return a run over every bad line, each between two good ones."""
    cli = new_cli(tmp_path_factory.mktemp("mixed") / "cli", forks)
    lines = [enrolled(1, number="first")]
    places: dict[str, int] = {}
    for number, (name, (line, _)) in enumerate(BAD.items()):
        lines.append(line)
        places[name] = len(lines)
        lines.append(played(1, number=number))
    report = cli.folder / "report.ndjson"
    result = cli.ingest(lines, "--report", report)
    rows = [json.loads(row) for row in report.read_bytes().splitlines()]
    return Mixed(cli, result, {row["line"]: row for row in rows}, places)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_gets_its_reason(mixed: Mixed, name: str) -> None:
    """The first reason that applies, in the documented order."""
    row = mixed.report[mixed.places[name]]
    assert (row["reason"], row["outcome"] in {"refused", "malformed"}) == (BAD[name][1], True)


def test_the_batch_goes_on_after_every_bad_line(mixed: Mixed) -> None:
    """Every good line between them is accepted, and the parts add up."""
    summary = mixed.result.document
    bad = summary["refused"] + summary["malformed"]
    assert (mixed.result.code, summary["accepted"], bad) == (5, len(BAD) + 1, len(BAD))
    assert adds_up(summary)
    assert sum(summary["reasons"].values()) == len(BAD)


def test_a_report_has_one_line_per_input_line_and_counts_only(mixed: Mixed) -> None:
    """No id, no value: the line's number, outcome, reason, type and a count of subjects."""
    assert sorted(mixed.report) == list(range(1, 2 * len(BAD) + 2))
    assert {tuple(sorted(row)) for row in mixed.report.values()} == {
        ("event_type", "line", "outcome", "reason", "subjects")
    }
    assert {type(row["subjects"]) for row in mixed.report.values()} == {int}
    assert mixed.report[1] == {
        "line": 1, "outcome": "accepted", "reason": None, "event_type": "course.enrolled.v1", "subjects": 1,
    }  # fmt: skip


async def test_every_bad_line_leaves_one_dead_letter_without_a_value(mixed: Mixed) -> None:
    """Where, why and how large, and a digest under a key."""
    async with mixed.cli.opened() as runtime:
        letters = [json.loads(row.value) for row in await rows_of(runtime, DLQ) if row.value is not None]
    said = {(letter["line"], letter["reason"]) for letter in letters}
    assert len(letters) == len(BAD)
    assert said == {(mixed.places[name], reason) for name, (_, reason) in BAD.items()}
    assert {tuple(sorted(letter)) for letter in letters} == {("digest", "line", "reason", "size", "source")}


def test_nothing_of_a_bad_line_is_written_or_echoed(mixed: Mixed) -> None:
    """Neither in a file of the home, nor in the report, nor in the command's own words."""
    scanner = Scanner({"mark": MARK.encode()})
    said = mixed.result.out + mixed.result.err
    assert scanner.scan([mixed.cli.home, mixed.cli.keys, mixed.cli.folder / "report.ndjson"]) == []
    assert scanner.find(said.encode()) == []


def test_the_naughty_strings_pass_as_names_and_ids_and_leave_no_trace(cli: Cli) -> None:
    """As username, user id, event id and course; every line has an outcome, and none is echoed."""
    strings: list[str] = json.loads(NAUGHTY.read_bytes())
    assert len(strings) == 515
    cli.run("init")
    every = {str(n): s.encode("utf-8", "surrogatepass") for n, s in enumerate(strings)}
    tokens = {name: token for name, token in every.items() if len(token) >= SHORT}
    usual = {hit.name for hit in Scanner(tokens).scan([cli.home])}
    lines = []
    for number, text in enumerate(strings):
        lines.append(enrolled(10_000 + number, name=text))
        lines.append(_bad(context={"user_id": text}, event_id=f"id-{number:06d}"))
        lines.append(_bad(event_id=text, context={"user_id": 20_000 + number, "session": text}))
        lines.append(_bad(event={"user_id": 1, "course_id": text, "mode": text}))
        lines.append(encoded(event(text, context={"user_id": 1, "course_id": COURSE}, username=text)))
    result = cli.ingest(lines)
    scanner = Scanner({name: token for name, token in tokens.items() if name not in usual})
    assert (result.code, result.document["read"]) == (5, len(lines))
    assert adds_up(result.document)
    assert result.document["accepted"] > len(strings)
    assert scanner.scan([cli.home]) == []
    assert scanner.find((result.out + result.err).encode()) == []


def test_everything_bad_is_refused_and_said_so_loudly(cli: Cli) -> None:
    """Exit 4, and a line that nothing was accepted."""
    result = cli.ingest([b"no JSON", viewed(5)])
    assert (result.code, parts_of(result.document)) == (4, {"refused": 1, "malformed": 1})
    assert result.says("NOTHING WAS ACCEPTED")


def test_an_event_past_its_retention_is_refused_even_by_an_import(cli: Cli) -> None:
    """An import lifts the sixty-day rule and nothing else."""
    old = NOW - timedelta(days=100)
    lines = [enrolled(1, at=old, number=1), enrolled(1, at=NOW - timedelta(days=1200), number=2)]
    without = cli.ingest(lines)
    declared = cli.ingest(lines, "--import")
    assert (without.code, without.document["reasons"]) == (4, {"too_old_to_register": 2})
    assert (declared.code, parts_of(declared.document)) == (5, {"accepted": 1, "refused": 1})
    assert declared.document["reasons"] == {"past_retention": 1}


def test_gzip_and_standard_input_and_a_file_are_read_alike(cli: Cli) -> None:
    """The second and third reading of the same lines find duplicates only."""
    text = b"\n".join(enrolled(who, number=who) for who in range(1, 6)) + b"\n\n"
    plain, packed = cli.folder / "lines.log", cli.folder / "lines.log.gz"
    plain.write_bytes(text)
    packed.write_bytes(gzip.compress(text[:300]) + gzip.compress(text[300:]))
    first = cli.run("ingest", packed, "--format", "openedx")
    again = [
        cli.run("ingest", plain, "--format", "openedx"),
        cli.run("ingest", "-", "--format", "openedx", stdin=packed.read_bytes()),
    ]
    assert (first.code, parts_of(first.document)) == (0, {"accepted": 5})
    assert [(one.code, parts_of(one.document)) for one in again] == [(0, {"duplicates": 5})] * 2


def test_damaged_gzip_ends_with_a_sentence_and_keeps_what_was_taken(cli: Cli) -> None:
    """What came before the damage is durable; a whole copy then adds exactly the rest."""
    lines = [played(1, number=number) for number in range(2000)]
    packed = gzip.compress(b"\n".join(lines))
    torn = cli.run("ingest", "-", "--format", "openedx", stdin=packed[: len(packed) * 3 // 4])
    whole = cli.run("ingest", "-", "--format", "openedx", stdin=packed)
    assert torn.code == 2
    assert torn.says("ends early", "Copy the file again")
    assert (whole.code, adds_up(whole.document)) == (0, True)
    assert whole.document["duplicates"] >= 500


def test_the_same_file_again_accepts_nothing_also_after_an_erasure(cli: Cli) -> None:
    """Re-sent lines are duplicates; those of an erased person are refused, and bring nobody back."""
    lines = [played(who, number=number) for who in (1, 2) for number in range(10)]
    lines.append(enrolled(1, name="ada-example"))
    first, second = cli.ingest(lines), cli.ingest(lines)
    erased = cli.run("erase", subject(1), "--yes")
    third = cli.ingest(lines)
    assert (first.code, parts_of(first.document)) == (0, {"accepted": 21})
    assert (second.code, parts_of(second.document)) == (0, {"duplicates": 21})
    assert erased.code == 0
    assert (third.code, parts_of(third.document)) == (5, {"duplicates": 10, "refused": 11})
    assert third.document["reasons"] == {"subject_erased": 11}


def test_a_default_consent_counts_from_the_first_event_and_shows(cli: Cli) -> None:
    """Without it a page view is refused; a purpose that rests on no consent is a usage error."""
    unknown = cli.ingest([viewed(1)], "--default-consent", "mind.read")
    wrong = cli.ingest([viewed(1)], "--default-consent", "course.deliver")
    missing = cli.ingest([viewed(1)])
    given = cli.ingest([viewed(1), viewed(2)], "--default-consent", PURPOSE)
    shown = cli.run("consent", "show", subject(1))
    assert [(one.code, one.document["reason"]) for one in (unknown, wrong)] == [(2, "unknown_purpose")] * 2
    assert (missing.code, missing.document["reasons"]) == (4, {"consent_missing": 1})
    assert (given.code, parts_of(given.document)) == (0, {"accepted": 2})
    assert list(shown.document["consents"]) == [PURPOSE]


def test_events_of_nobody_wait_until_a_login_moves_them(cli: Cli) -> None:
    """They are counted as unattributed, and linked when the session turns out to be somebody's."""
    session = {"session": "a0b1c2d3e4f5a6b7", "username": ""}
    lines = [
        encoded(
            event(
                "edx.forum.thread.created",
                context={"course_id": COURSE},
                event_id=f"thread-{n}",
                **session,
            )
        )
        for n in range(3)
    ]
    login = event("edx.user.login", at=RECENT + timedelta(minutes=1), context={"user_id": 3}, **session)
    waiting = cli.ingest(lines)
    linked = cli.ingest([encoded(login)])
    shown = cli.run("subject", "show", subject(3))
    assert (waiting.code, parts_of(waiting.document)) == (0, {"unattributed": 3})
    assert (linked.document["accepted"], linked.document["linked"]) == (1, 3)
    assert shown.document["references"][0]["counts"]["course.post_created.v1"] == 3
