"""The canaries themselves: every field carries a token, and search and attack find what is there."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import structs

from privacy_ledger.adapters import envelope
from privacy_ledger.adapters.formats import openedx
from privacy_ledger.domain.events import (
    COLLECTION_EVENTS,
    AccountClosed,
    AccountUpdated,
    ConsentGranted,
    ConsentWithdrawn,
    CookieChoiceRecorded,
    CourseCompleted,
    DeviceObserved,
    EmailClicked,
    EmailDeliveryReported,
    EmailOpened,
    EmailSuppressionChanged,
    Fact,
    LocationDerived,
    ObjectionRaised,
    PaymentConfirmed,
    ProfileFieldCleared,
    ProfileFieldSet,
    RegionDerived,
    RevealRecorded,
    StudyResponseRecorded,
    VideoQoeReported,
)
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey
from privacy_ledger.testing.canary import (
    KEPT,
    Canary,
    flock,
    huge_line,
    lines_of,
    lines_of_nobody,
    spoiled_lines,
    tokens_of,
)
from privacy_ledger.testing.canary_keys import (
    Envelope,
    committed,
    envelopes_in,
    keks_in,
    open_with,
    opened_by_force,
    unwrapped,
    unwrapped_anywhere,
)
from privacy_ledger.testing.canary_run import CanaryReport
from privacy_ledger.testing.canary_search import LEAKS, prove

NOW: Final = datetime.now(UTC)
CLOSED: Final = frozenset({"kind", "speed", "system", "device_class"})
"""Text fields with a vocabulary of their own: no token goes through."""
BY_NO_FORMAT: Final = frozenset(
    {
        AccountClosed, AccountUpdated, ConsentGranted, ConsentWithdrawn, CookieChoiceRecorded,
        CourseCompleted, EmailClicked, EmailDeliveryReported, EmailOpened, EmailSuppressionChanged,
        LocationDerived, ObjectionRaised, PaymentConfirmed, ProfileFieldCleared, ProfileFieldSet,
        RegionDerived, RevealRecorded, StudyResponseRecorded, VideoQoeReported,
    }
)  # fmt: skip
"""What people, operators and partners say, what no tracking log says, and what a law keeps."""


def _facts(person: Canary) -> list[Fact]:
    found: list[Fact] = []
    for line in (*lines_of(person, at=NOW), *lines_of_nobody(person, at=NOW), huge_line(person, at=NOW)):
        parsed = openedx.parse(line)
        assert not isinstance(parsed, Refusal)
        found += [fact for one in parsed.people for fact in one.facts]
        found += parsed.unattributed
        if parsed.device is not None:
            found.append(parsed.device)
    return found


def _texts(fact: Fact) -> dict[str, str]:
    values = structs.asdict(fact)
    words = [word for pair in values.pop("answers", ()) for word in pair]
    answers = {f"answer {number}": word for number, word in enumerate(words)}
    return answers | {
        name: value for name, value in values.items() if isinstance(value, str) and name not in CLOSED
    }


def test_every_text_of_every_event_that_a_format_takes_carries_a_token() -> None:
    """All kinds of events but those that no format makes; and each token is in some of them."""
    (person,) = flock(1, seed=1)
    facts = _facts(person)
    bare = [
        (type(fact).__name__, name)
        for fact in facts
        for name, text in _texts(fact).items()
        if not any(token in text for token in person.tokens.values())
    ]
    assert bare == []
    assert {type(fact) for fact in facts} | BY_NO_FORMAT == set(COLLECTION_EVENTS)
    assert {type(fact) for fact in facts} & BY_NO_FORMAT == set()
    said = " ".join(text for fact in facts for text in _texts(fact).values())
    # A username is an identity and a reason is an operator's: neither is a field of these.
    assert {field for field in KEPT if person.tokens[field] not in said} == {"reason"}
    assert any(isinstance(fact, DeviceObserved) and fact.browser for fact in facts)


def test_every_token_is_somebodys_alone() -> None:
    """Long enough that none is met by chance, and the same for the same seed."""
    found = tokens_of(flock(50, seed=2))
    assert len(set(found.values())) == len(found) == 50 * 28
    assert min(map(len, found.values())) >= 19
    assert tokens_of(flock(50, seed=2)) == found
    assert set(tokens_of(flock(50, seed=3)).values()).isdisjoint(found.values())


def test_spoiled_lines_are_spoiled_in_many_ways() -> None:
    """Most are no line at all, each for a reason of its own, and each carries tokens."""
    (person,) = flock(1, seed=4)
    lines = spoiled_lines(person, at=NOW)
    reasons = {found for found in map(openedx.parse, lines) if isinstance(found, Refusal)}
    assert len(reasons) >= 10
    assert all(any(token.encode() in line for token in person.tokens.values()) for line in lines)


# The search -----------------------------------------------------------------------------------


def test_every_planted_leak_is_found_and_a_blind_spot_is_told(tmp_path: Path) -> None:
    """In the real bytes of each place; a way to leak that the search does not know is missed, and said."""
    (tmp_path / "file").write_bytes(os.urandom(5000))
    places = {"one": [tmp_path], "two": [tmp_path / "file"], "empty": [tmp_path / "none"]}
    seen = prove(places, seed=5)
    blind = prove(places, seed=5, leaks={**LEAKS, "reversed": lambda value: value[::-1]})
    assert (seen.planted, seen.missed, seen.holds) == (3 * len(LEAKS), (), True)
    assert blind.missed == (("one", "reversed"), ("two", "reversed"), ("empty", "reversed"))
    assert not blind.holds


# The attack -----------------------------------------------------------------------------------

SECRET: Final = bytes(range(32))
KEY: Final = DataKey(SubjectRef(bytes(16)), "usage", 0, committed(SECRET), SECRET)
TEXT: Final = b'{"fact":{"type":"made.up.v1","word":"quillfeather"}}'


def test_an_envelope_anywhere_in_a_file_is_found_and_opens_with_its_key_alone(tmp_path: Path) -> None:
    """Sealed by the ledger's own code, opened by the attack's, without headers or length."""
    sealed = envelope.seal(KEY, TEXT, b"bound to something")
    (tmp_path / "segment").write_bytes(os.urandom(777) + sealed + os.urandom(99))
    (found,) = envelopes_in([tmp_path], [KEY.kid]).values()
    other = os.urandom(32)
    opened, closed = open_with([found], [other, SECRET]), open_with([found], [other])
    known = {(found.kid, found.nonce): TEXT[:16]}
    assert (opened.envelopes, opened.keys, closed.texts) == (1, 2, ())
    assert (opened.holding([b"quillfeather"]), opened.holding([b"else"])) == (1, 0)
    assert [opened_by_force([found], [key], known=known) for key in (other, SECRET)] == [0, 1]


def test_an_envelope_under_a_false_name_is_opened_by_force() -> None:
    """What an envelope says of its key is not believed: every key is tried."""
    sealed = envelope.seal(KEY, TEXT, b"")
    found = Envelope(os.urandom(32), sealed[33:45], sealed[45:])
    known = {(found.kid, found.nonce): TEXT[:16]}
    assert open_with([found], [SECRET]).texts == ()
    assert opened_by_force([found], [os.urandom(32), SECRET], known=known) == 1


def test_a_wrapped_key_is_taken_out_of_any_bytes_with_the_key_that_wrapped_it(tmp_path: Path) -> None:
    """At an odd offset, without the place that it is bound to; another key takes out nothing."""
    keks, nonce = (os.urandom(32), os.urandom(32)), os.urandom(12)
    wrapped = nonce + AESGCM(keks[1]).encrypt(nonce, SECRET, b"its place")
    data = os.urandom(501) + wrapped + bytes(300)
    (tmp_path / "epoch-1.kek").write_bytes(keks[0])
    (tmp_path / "journal.ndjson").write_bytes(b"{}")
    assert keks_in([tmp_path]) == keks[:1]
    assert unwrapped_anywhere(data, keks, kids={KEY.kid}) == {KEY.kid: SECRET}
    assert unwrapped([wrapped], keks, kids={KEY.kid}) == {KEY.kid: SECRET}
    assert unwrapped_anywhere(data, keks[:1], kids={KEY.kid}) == {}
    assert unwrapped([wrapped], keks[:1], kids={KEY.kid}) == {}


# The verdict ----------------------------------------------------------------------------------


def test_a_run_passes_only_when_it_could_have_failed() -> None:
    """Nothing found is no pass as long as nothing could have been found."""
    empty = CanaryReport(people=10, erased=1, tokens=280)
    good = structs.replace(
        empty, planted=60, handed_out=5, readable_before=1, envelopes=9, keys=9, others_opened=1, asked=3,
        released_before=3,
    )  # fmt: skip
    worse = [
        structs.replace(good, missed=(("log", "raw"),)), structs.replace(good, planted=49),
        structs.replace(good, hits_before=("log",)), structs.replace(good, hits_after=("log",)),
        structs.replace(good, opened=1), structs.replace(good, opened_final=1),
        structs.replace(good, released=1), structs.replace(good, others_opened=0),
    ]  # fmt: skip
    assert good.faults() == ()
    assert len(empty.faults()) == 6
    assert [len(one.faults()) for one in worse] == [1] * len(worse)
