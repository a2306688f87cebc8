# ruff: noqa: E501 - a table reads by its rows
"""The screen: no card number passes in any disguise and place, and no usual event is refused."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats import xapi
from privacy_ledger.adapters.formats.card_numbers import (
    Naming,
    is_card_number,
    naming_of,
    passes_luhn,
)
from privacy_ledger.adapters.formats.json_lines import decode_canonical
from privacy_ledger.adapters.formats.screen import NESTED_MAX, screen
from privacy_ledger.adapters.formats.unwrap import LAYERS_MAX
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.cli.formats import FormatName, format_named
from privacy_ledger.testing.generator import generate
from tests.unit.screening import (
    DISGUISES,
    ISSUERS,
    PLACES,
    SPLIT_PLACES,
    SPLITS,
    check_digit,
    innocent,
    numbers,
)

SEED: Final = 1
NOW: Final = datetime(2026, 3, 1, tzinfo=UTC)
FORMATS: Final = [
    name
    for name in re.findall(r"[A-Za-z.\-]+", FormatName().get_metavar(click.Argument(["name"])))
    if name.islower()
]
"""Every format that has a name."""
PAN: Final = "4111111111111111"
AMEX: Final = "378282246310005"
SAMPLED_EACH: Final = 20
SAMPLED_INNOCENT: Final = 1_500
FULL_NUMBERS: Final = 5_000
FULL_INNOCENT: Final = 1_000_000
FALSE_PER_MILLION_MAX: Final = 100
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(("card", "cvc", "password")), inner)
    ),
    max_leaves=10,
)
TEXTS = st.text(
    st.sampled_from('0123456789 -.%&#;=+\\u{}[]":,/xaMTEx\u0660\uff11\u200b\u00a0')
    | st.characters(codec="utf-8"),
    max_size=60,
)


def lines_with(seed: int, count: int) -> Iterator[tuple[tuple[str, str, str], bytes]]:
    """Yield ((disguise, place, issuer and number), line) for every number in every disguise and place."""
    for number, (issuer, digits) in enumerate(numbers(seed, count)):
        named = f"{issuer} {digits}"
        for disguise, write in DISGUISES.items():
            for place, build in PLACES.items():
                event = build(write(digits))
                yield (disguise, place, named), json.dumps(event, ensure_ascii=number % 2 == 0).encode()
        for disguise, split in SPLITS.items():
            for place, build_split in SPLIT_PLACES.items():
                yield (disguise, place, named), json.dumps(build_split(split(digits))).encode()


def passed(
    lines: Iterator[tuple[tuple[str, str, str], bytes]],
) -> tuple[int, Counter[tuple[str, str]], list[str]]:
    """Return how many lines there were, and those that were not refused: by disguise and place, and a few."""
    count = 0
    missed: Counter[tuple[str, str]] = Counter()
    some: list[str] = []
    for (disguise, place, named), line in lines:
        count += 1
        if decode_canonical(line) is not Refusal.CARD_NUMBER:
            missed[disguise, place] += 1
            some = [*some, f"{disguise}, {place}: {named}"][:20]
    return count, missed, some


def refused(lines: Iterator[bytes]) -> list[bytes]:
    """Return the lines that are refused."""
    return [line for line in lines if isinstance(decode_canonical(line), Refusal)]


# Numbers ---------------------------------------------------------------------------------


def test_no_card_number_passes_in_any_disguise_or_place() -> None:
    """A sample of each issuer and length; `poe screen` runs the whole product."""
    count, missed, some = passed(lines_with(SEED, SAMPLED_EACH))
    assert (count > 5_000, missed) == (True, Counter()), some


@pytest.mark.parametrize("issuer", ISSUERS)
def test_every_number_of_an_issuer_is_one_and_none_of_its_neighbours(issuer: str) -> None:
    """A number with another check digit is none."""
    own = [digits for name, digits in numbers(SEED, 2_000) if name == issuer]
    assert [digits for digits in own if not is_card_number(digits)] == []
    assert [d for d in own if is_card_number(d[:-1] + str((int(d[-1]) + 1) % 10))] == []


@pytest.mark.parametrize(
    "digits", ["", "4", "0" * 16, "1" * 16, "9111111111111111", "41111111111", "4" * 20, "2026030112000000"]
)
def test_what_no_issuer_gives_out_is_no_card_number(digits: str) -> None:
    """By its beginning or its length, whatever its check digit."""
    assert not is_card_number(digits)


@given(st.text("0123456789", min_size=1, max_size=30))
def test_exactly_one_last_digit_passes(body: str) -> None:
    """The check digit of ISO/IEC 7812."""
    assert sum(passes_luhn(body + last) for last in "0123456789") == 1


@pytest.mark.parametrize("value", [int(PAN), float(PAN), -int(PAN), [4111, 1111, 1111, 1111], f"+{PAN}"])
def test_a_number_is_found_whatever_its_type(value: object) -> None:
    """JSON's numbers, too, and a row of them."""
    assert screen({"value": value}) is Refusal.CARD_NUMBER


@pytest.mark.parametrize(
    "digits", ["5555555555554444", "4444444444444448", "6759000000000000005", "6011000990139424", PAN, AMEX]
)
def test_numbers_whose_base64_has_capitals_only_are_found(digits: str) -> None:
    """Published test numbers have few different digits, and look like ids in capitals then."""
    found = {disguise: screen({"value": write(digits)}) for disguise, write in DISGUISES.items()}
    assert found == dict.fromkeys(DISGUISES, Refusal.CARD_NUMBER)


def test_digits_apart_are_one_number_in_one_place_only() -> None:
    """Answers to two questions stand side by side, too."""
    row = {f"d{at:02d}": digit for at, digit in enumerate(PAN)}
    assert screen({"event": {**row, "label": "x"}}) is Refusal.CARD_NUMBER
    assert screen({"event": {"first": list(PAN[:8]), "second": list(PAN[8:])}}) is None
    assert (
        screen({"event": {"first": [PAN[:4], PAN[4:8]], "second": [PAN[8:12], PAN[12:]]}})
        is Refusal.CARD_NUMBER
    )


# Names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "naming"),
    [
        ("cardNumber", Naming.CARD), ("card_number", Naming.CARD), ("PAN", Naming.CARD), ("ccnum", Naming.CARD),
        ("number", Naming.NUMBER), ("card", Naming.NUMBER), ("order_id", Naming.THING), ("orderNumber", Naming.THING),
        ("phone", Naming.PHONE), ("phoneNumber", Naming.PHONE), ("body", Naming.PLAIN), ("card_created_ms", Naming.PLAIN),
        ("company", Naming.PLAIN), ("", Naming.PLAIN),
    ],
)  # fmt: skip
def test_a_name_says_what_a_number_is(name: str, naming: Naming) -> None:
    """By its words, however they are written."""
    assert naming_of(name) is naming


def test_a_field_named_as_a_cards_is_stricter() -> None:
    """There neither issuer nor check digit excuses a number."""
    assert screen({"card_number": "9999888877776666"}) is Refusal.CARD_NUMBER
    assert screen({"card_number": "4111-11111111-1112"}) is Refusal.CARD_NUMBER
    assert screen({"body": "9999888877776666"}) is None
    assert screen({"page": f"/pay?cardNumber={PAN[:-1]}2"}) is Refusal.CARD_NUMBER


def test_an_id_of_an_order_is_no_card_number_unless_a_card_stands_beside_it() -> None:
    """One in forty random numbers of sixteen digits looks like a card's."""
    assert screen({"order_id": PAN}) is None
    assert screen({"order_id": int(PAN)}) is None
    assert screen({"page": f"/orders?order_id={PAN}&next=1"}) is None
    assert screen({"order_id": PAN, "card": {"brand": "visa"}}) is Refusal.CARD_NUMBER
    assert screen({"order_id": f"paid with {PAN}"}) is Refusal.CARD_NUMBER


def test_a_telephone_number_is_no_card_number() -> None:
    """By its field's name, or by the plus before it."""
    number = "491512345678" + check_digit("491512345678")
    assert is_card_number(number)
    assert screen({"phone": number}) is None
    assert screen({"body": f"call +{number} now"}) is None
    assert screen({"body": f"call {number} now"}) is Refusal.CARD_NUMBER


@pytest.mark.parametrize("unit", [10**3, 10**6, 10**9])
def test_epoch_times_are_no_card_numbers(unit: int) -> None:
    """A check digit alone takes one in ten of them for a card, and whole lines were lost by it elsewhere."""
    start = 1_700_000_000
    times = [(start + n * 7_919) * unit + n for n in range(2_000)]
    assert sum(passes_luhn(str(at)) for at in times) > 50
    events = (
        {"timestamp": at, "event": json.dumps({"at": str(at)}), "page": f"/info?t={at}"} for at in times
    )
    assert [event for event in events if screen(event) is not None] == []


def test_usual_events_are_not_refused() -> None:
    """A sample of orders, times, telephones, courses, ids, links and texts; `poe screen` takes a million."""
    assert refused(innocent(SEED, SAMPLED_INNOCENT)) == []


def test_tracking_logs_are_not_refused() -> None:
    """Also with the oddities of real logs: what is refused there is no event."""
    end = datetime(2026, 3, 1, tzinfo=UTC)
    lines = generate(
        seed=SEED, learners=60, courses=4, events=3_000, start=end - timedelta(days=9), end=end, quirks=True
    )
    found = [decode_canonical(line) for line in lines]
    assert not {Refusal.CARD_NUMBER, Refusal.SECRET, Refusal.TOO_DEEP}.intersection(
        f for f in found if type(f) is Refusal
    )


@pytest.mark.parametrize(
    "value",
    [
        "0.4111111111111111", 0.4111111111111111, "550e8400-e29b-41d4-a716-446655440000", "411111******1111", "4242",
        "12:34:56.423456+00:00", "978-3-16-148410-0", "192.168.100.200", "GA1.2.4111111111.1699999999",
        "a411111111111111" + "b" * 16, "2019 2020 2021 2022", [2019, 2020, 2021, 2022], "1 2 3 4 5 6 7 8 9 10 11 12",
    ],
)  # fmt: skip
def test_numbers_that_look_long_are_let_through(value: object) -> None:
    """Fractions, ids, masked numbers, addresses, and rows."""
    assert screen({"value": value}) is None


# Codes and secrets -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        {"cvc": "123"}, {"cvv": 1234}, {"cvv2": "123"}, {"securityCode": "123"}, {"security_code": " 1 2 3 "},
        {"card": {"brand": "visa"}, "cid": "1234"}, {"event": "a=1&cvc=123"}, {"event": '{"card": {"cvc": "123"}}'},
        {"body": "the cvv is 123"}, {"body": "CVC: 123, thanks"}, {"page": "/pay?card[cvc]=123"}, {"cvc": "\uff11\uff12\uff13"},
        {"body": "Security code number 1234"}, {"form": ["card_cvc=123"]}, {"cvc": ["123"]}, {"page": "/x?cvc%3D123"},
        {"page": "cvc%3D123"},
    ],
)  # fmt: skip
def test_a_verification_code_is_refused(event: object) -> None:
    """Three or four digits beside its name; it must not be kept even for a moment (PCI DSS 3.3.1)."""
    assert screen(event) is Refusal.CARD_NUMBER


@pytest.mark.parametrize(
    "event",
    [
        {"cvc_check": "pass"}, {"cvc": None}, {"cvc": "***"}, {"cid": "1234"}, {"course": "CSC 101"}, {"csc": 101},
        {"body": "security is taught in 2026"}, {"last_four": "4242", "brand": "visa"}, {"cvc": True},
    ],
)  # fmt: skip
def test_what_only_resembles_a_verification_code_is_let_through(event: object) -> None:
    """No digits, no name, or nothing about a card beside it."""
    assert screen(event) is None


JWT: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
SECRETS: Final[dict[str, object]] = {
    "password": {"password": "hunter2"},
    "password in a list": {"event": json.dumps({"POST": {"password": ["hunter2"]}})},
    "new password": {"newPassword1": "hunter2"},
    "password in a form": {"event": "email=ada%40example.com&password=hunter2"},
    "password in a link": {"page": "https://courses.example.com/login?user=ada&password=hunter2"},
    "password encoded": {"page": "/login?next=%2Fx%3Fpassword%3Dhunter2"},
    "password in an address": {"page": "https://ada:hunter2@courses.example.com/"},
    "password cut off": {"event": '{"user": "ada", "password": "hunter2", "na'},
    "client secret": {"clientSecret": "s3cr3t-value"},
    "api key": {"api_key": "0123456789abcdef"},
    "access token": {"page": "/cb#access_token=0123456789abcdef&x=1"},
    "authorization": {"headers": {"Authorization": "Token 0123456789"}},
    "bearer": {"body": "curl -H 'Authorization: Bearer abcdef0123456789abcdef'"},
    "basic": {"body": "Basic YWRhOmh1bnRlcjI="},
    "JWT": {"value": JWT},
    "JWT in a key": {JWT: 1},
    "private key": {"body": "-----BEGIN RSA PRIVATE KEY-----\nMIIE"},
    "private key of PGP": {"body": "-----BEGIN PGP PRIVATE KEY BLOCK-----"},
    "AWS": {"body": "key AKIA" + "IOSFODNN7EXAMPLE"},
    "Stripe": {"value": "sk_live_" + "0123456789abcdefABCD"},
    "GitHub": {"value": "ghp_" + "0123456789abcdefghijABCDEFGHIJ012345"},
    "Slack": {"value": "xoxb-" + "0123456789-abcdefghij"},
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_refused(name: str) -> None:
    """Wherever programs write them by mistake."""
    assert screen(SECRETS[name]) is Refusal.SECRET


@pytest.mark.parametrize(
    "event",
    [
        {"password": ""}, {"password": None}, {"password": "********"}, {"event": "password=********&a=b"},
        {"has_password": True}, {"password_reset_url": "/reset"}, {"password": "[REDACTED]"}, {"secret": True},
        {"body": "choose a password = something long"}, {"body": "basic understanding of physics"}, {"token": "abc"},
        {"body": "the bearer of certificates"}, {"public": "-----BEGIN PUBLIC KEY-----"}, {"passed": "true"},
        {"client_secret": "pi_1PgafyB7WZ01zgkW_secret_Dm43xiq1k0ywrRRjDoi8"}, {"page": "https://example.com:8000/@ada"},
    ],
)  # fmt: skip
def test_what_only_resembles_a_secret_is_let_through(event: object) -> None:
    """Masked, empty, or a word in a sentence."""
    assert screen(event) is None


# Order, bounds, totality -----------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_screens_before_it_reads(name: str) -> None:
    """So that one which is added later is screened, too: the line is no event of any format."""
    parse = format_named(name).parser(now=lambda: NOW, takes_untimed=True, takes_unknown=True)
    assert parse(json.dumps({"x": PAN}).encode()) is Refusal.CARD_NUMBER
    assert parse(json.dumps({"password": "hunter2"}).encode()) is Refusal.SECRET


def test_the_formats_that_are_screened_are_all_that_there_are() -> None:
    """As the command's help lists them."""
    assert {"caliper", "canvas", "cloudevents", "ledger", "openedx", "openedx-bus", "xapi"} <= set(FORMATS)


def test_each_statement_of_an_array_or_a_stores_answer_is_screened_for_itself() -> None:
    """One that holds a number takes none of its neighbours with it."""
    one, other = ({"x": PAN}, {"x": "y"})
    for line in ([one, other], {"statements": [one, other], "more": ""}):
        found = list(xapi.statements([(1, json.dumps(line).encode())]))
        parsed = [xapi.parse(part, received_at=NOW) for _, part in found if not isinstance(part, Refusal)]
        assert parsed == [Refusal.CARD_NUMBER, Refusal.SCHEMA_MISMATCH]


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (f'{{"a":"{PAN}"'.encode(), Refusal.NOT_JSON),
        (f'["{PAN}"]'.encode(), Refusal.NOT_AN_OBJECT),
        (f'{{"a":"{PAN}","a":1}}'.encode(), Refusal.DUPLICATE_KEY),
        (f'{{"a":"{PAN}","password":"hunter2"}}'.encode(), Refusal.CARD_NUMBER),
        (f'{{"password":"hunter2","z":["{PAN}"]}}'.encode(), Refusal.CARD_NUMBER),
    ],
)
def test_reasons_come_in_their_order(line: bytes, refusal: Refusal) -> None:
    """What is no event first, then cards, then secrets."""
    assert decode_canonical(line) is refusal


def test_the_order_of_the_codes_is_the_documented_one() -> None:
    """After the bytes that decode to no object, and before what a mapping does not take."""
    order = list(Refusal)
    assert order[order.index(Refusal.NULL_VALUE) :][:4] == [
        Refusal.NULL_VALUE, Refusal.CARD_NUMBER, Refusal.SECRET, Refusal.SCHEMA_MISMATCH,
    ]  # fmt: skip


def test_a_key_that_stands_twice_in_text_hides_nothing() -> None:
    """A parser that keeps the last would not see the first."""
    assert screen({"event": f'{{"a": "{PAN}", "a": "1"}}'}) is Refusal.CARD_NUMBER


def test_what_is_wrapped_deeper_than_the_screen_reads_is_refused() -> None:
    """Nothing passes unread: percent signs, and JSON in text."""
    deep = "%"
    for _ in range(LAYERS_MAX + 2):
        deep = deep.replace("%", "%25")
    assert screen({"page": f"/x{deep}34{PAN[1:]}"}) in {Refusal.TOO_DEEP, Refusal.CARD_NUMBER}
    text = f"pay {PAN[:-1]}2 cvc"
    for _ in range(NESTED_MAX + 1):
        text = json.dumps([text])
    assert screen({"event": text}) is Refusal.TOO_DEEP


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), JSON))
def test_any_event_has_an_answer(event: dict[str, object]) -> None:
    """It never raises."""
    assert screen(event) in {None, Refusal.CARD_NUMBER, Refusal.SECRET, Refusal.TOO_DEEP, Refusal.NOT_JSON}


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
def test_any_text_around_a_number_has_an_answer_and_a_space_on_both_sides_hides_none(
    before: str, after: str
) -> None:
    """Where the number stands apart in text, whatever else does."""
    event = {"event": {"body": f"{before} x {PAN} x {after}"}}
    assert screen(event) in {Refusal.CARD_NUMBER, Refusal.TOO_DEEP}


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_the_look_at_the_bytes_lets_nothing_by_that_the_walk_would_find(text: str) -> None:
    """A field that the look always stops at makes the walk read everything."""
    if screen({"value": text}) is None:
        assert screen({"value": text, "card": None}) is None


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112 " * 10_000, "4" * 200_000, "4 " * 100_000, "%25" * 60_000, "&#52;" * 40_000,
        "ab" * 100_000, "cvc " * 50_000, "password=" * 20_000, "eyJ" * 60_000, "a=1&" * 50_000, '"' * 100_000,
        "NDEx" * 50_000, "34" * 100_000, "://a:" * 40_000, "[" * 100_000, "bearer " * 30_000, "\u200b4" * 50_000,
        "a.1.1.1.1." * 20_000, "1,1,1,1,1,1," * 20_000, "Aa" * 100_000, "-----BEGIN " * 20_000,
    ],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_hostile_text_is_read_in_linear_time(text: str) -> None:
    """Twice as much takes no more than some times as long; the bound is far above that of a usual machine."""
    took = []
    for part in (text[: len(text) // 4], text):
        start = time.process_time()
        assert screen({"value": part, "card": None}) in {
            None,
            Refusal.TOO_DEEP,
            Refusal.CARD_NUMBER,
            Refusal.SECRET,
        }
        took.append(time.process_time() - start)
    assert took[1] < 16 * took[0] + 1


# The long lane ---------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_whole_product_of_numbers_disguises_and_places() -> None:
    """Every number, every disguise, every place: none passes."""
    start = time.process_time()
    count, missed, some = passed(lines_with(SEED, FULL_NUMBERS))
    print(f"{count:,} lines with a card number, {missed.total()} passed, {time.process_time() - start:.0f} s")
    assert missed == Counter(), some


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_million_usual_events() -> None:
    """At most one in ten thousand is wrongly refused."""
    start = time.process_time()
    wrong = refused(innocent(SEED, FULL_INNOCENT))
    print(f"{FULL_INNOCENT:,} events, {len(wrong)} wrongly refused, {time.process_time() - start:.0f} s")
    assert len(wrong) <= FALSE_PER_MILLION_MAX, wrong[:3]
