"""Privacy signals: read as their specifications say, and recorded so that they only restrict."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger.adapters.formats import gpc
from privacy_ledger.adapters.formats.gpp import CHARS_MAX, Gpp, decode, decode_section
from privacy_ledger.adapters.formats.gpp_sections import LAYOUTS, NAMES
from privacy_ledger.adapters.formats.signals import COOKIES_MAX, parse
from privacy_ledger.domain.events import ConsentGranted, ConsentWithdrawn, CookieChoiceRecorded, Fact
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

Members = dict[str, Any]

AT: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
STRINGS: Final = Path(__file__).parents[1] / "fixtures" / "privacy-signals" / "gpp.json"
ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
ANALYTICS: Final = "improve.analyse"
NOTICE: Final = "platform-privacy-policy.v1"
ALL_OUT: Final = ("sale", "sharing", "targeted_advertising")


# Global Privacy Control -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "is_on"),
    [
        ([], False),
        (["1"], True),
        ([" 1\t"], True),
        (["1", "1"], True),
        (["0", "1"], True),
        (["1", "0"], True),
        (["1, 1"], True),
        (["0,1"], True),
        (["0"], False),
        (["0", "true"], False),
        *[
            ([value], False)
            for value in ("true", "yes", "on", "1.0", "01", "11", '"1"', "1;v=2", "", "\u0661")
        ],
        (["0"] * gpc.VALUES_MAX + ["1"], False),
    ],
)
def test_only_the_one_character_is_the_signal(values: list[str], *, is_on: bool) -> None:
    """Everything else is no signal; one of several fields is enough."""
    assert gpc.is_on(values) is is_on


# The Global Privacy Platform --------------------------------------------------------------------


def written(bits: str) -> str:
    """Return bits as base64url text of six bits a character."""
    bits += "0" * (-len(bits) % 6)
    return "".join(ALPHABET[int(bits[at : at + 6], 2)] for at in range(0, len(bits), 6))


def fibonacci(number: int) -> str:
    """Return the Fibonacci code of a number."""
    weights = [1, 2]
    while weights[-1] <= number:
        weights.append(weights[-1] + weights[-2])
    bits = []
    for weight in reversed(weights[:-1]):
        bits.append("1" if weight <= number else "0")
        number -= weight if weight <= number else 0
    text = "".join(reversed(bits)).rstrip("0")
    return text + "1"


def header(ids: Sequence[int]) -> str:
    """Return the header that names these sections, each for itself."""
    steps = [number - before for number, before in zip(ids, [0, *ids], strict=False)]
    items = "".join("0" + fibonacci(step) for step in steps)
    return written(f"{3:06b}{1:06b}{len(ids):012b}" + items)


def twos(values: Sequence[int]) -> str:
    """Return values of two bits each."""
    return "".join(f"{value:02b}" for value in values)


def national(values: Sequence[int], *, version: int = 1, is_on: bool | None = None) -> str:
    """Return a section of the US from its values, in their order."""
    segment = "" if is_on is None else "." + written(f"{1:02b}{int(is_on)}")
    return written(f"{version:06b}" + twos(values)) + segment


def tcf(purposes: Sequence[int], *, one_treatment: bool = False) -> str:
    """Return the core of an EU string with consent to these purposes."""
    consents = "".join(str(int(number + 1 in purposes)) for number in range(24))
    return written(
        f"{2:06b}{0:036b}{0:036b}{7:012b}{1:012b}{0:06b}{4:06b}{13:06b}{9:012b}{4:06b}10{0:012b}"
        f"{consents}{0:024b}{int(one_treatment)}{0:06b}{19:06b}"
    )


def plain(value: object) -> object:
    """Return a value as JSON would have it."""
    match value:
        case tuple():
            return list(value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return value


@pytest.mark.parametrize(
    "case", json.loads(STRINGS.read_text(encoding="utf-8")), ids=lambda case: case["string"]
)
def test_published_strings_have_their_values(case: Members) -> None:
    """Whole strings and single sections."""
    if case["kind"] == "section":
        fields = decode_section(case["section"], case["string"])
        assert isinstance(fields, dict)
        found: dict[str, dict[str, Any]] = {"": fields}
        expected = {"": case["expected"]}
    else:
        said = decode(case["string"])
        assert isinstance(said, Gpp)
        expected = dict(case["expected"])
        assert list(said.section_ids) == expected.pop("sectionIds")
        assert (set(said.sections), said.unread) == (set(expected), ())
        found = dict(said.sections)
    for name, values in expected.items():
        assert {field: plain(found[name].get(field)) for field in values} == values


@given(st.lists(st.integers(0, 3), min_size=27, max_size=27), st.sampled_from([None, False, True]))
def test_a_section_gives_back_what_was_written(values: list[int], is_on: bool | None) -> None:  # noqa: FBT001 - drawn
    """Field by field, with the segment of the browser's signal or without."""
    fields = decode_section("usnat", national(values, is_on=is_on))
    assert isinstance(fields, dict)
    found = [fields["SharingNotice"], fields["TargetedAdvertisingOptOut"], fields["SensitiveDataProcessing"]]
    assert found == [values[0], values[8], tuple(values[9:21])]
    assert (fields["KnownChildSensitiveDataConsents"], fields["PersonalDataConsents"]) == (
        tuple(values[21:23]), values[23],
    )  # fmt: skip
    assert fields["MspaServiceProviderMode"] == values[26]
    assert (fields["GpcSegmentIncluded"], fields.get("Gpc")) == (is_on is not None, is_on)


@given(st.sets(st.integers(1, 64), max_size=12))
def test_a_header_names_its_sections(ids: set[int]) -> None:
    """Those that are not known here are told by their number, and stop nothing."""
    ordered = sorted(ids)
    sections = {2: tcf([1]), 6: "1---"} | {number: national([0] * 40) for number in range(7, 24)}
    said = decode("~".join([header(ordered), *(sections.get(number, "x") for number in ordered)]))
    assert isinstance(said, Gpp)
    assert said.section_ids == tuple(ordered)
    assert said.unread == tuple(number for number in ordered if number not in sections)


@pytest.mark.parametrize(("name", "version"), LAYOUTS)
def test_every_section_says_its_opt_outs_where_its_layout_has_them(name: str, version: int) -> None:
    """And the browser's signal where it may follow; a section that ends early is malformed."""
    layout = LAYOUTS[name, version]
    values = [1 if field in {"SaleOptOut", "TargetedAdvertisingOptOut"} else 0 for field in layout.first]
    size = len(values) + layout.sensitive + (layout.children or 1) + len(layout.rest)
    values += [0] * (size - len(values))
    fields = decode_section(name, national(values, version=version, is_on=True))
    assert isinstance(fields, dict)
    assert list(fields)[:1] == ["Version"]
    assert {field for field, value in fields.items() if value == 1} - {
        "Version",
        "Gpc",
        "GpcSegmentIncluded",
    } == ({"SaleOptOut", "TargetedAdvertisingOptOut"} & set(layout.first))
    assert fields.get("Gpc") == (True if layout.has_gpc else None)
    assert decode_section(name, national(values, version=version)[: size // 3]) is Refusal.SIGNAL_INVALID


def test_a_header_may_name_a_range() -> None:
    """Of sections in a row."""
    bits = f"{3:06b}{1:06b}{1:012b}" + "1" + fibonacci(6) + fibonacci(1)
    said = decode(f"{written(bits)}~1YNN~{national([0] * 27)}")
    assert isinstance(said, Gpp)
    assert said.section_ids == (6, 7)


@pytest.mark.parametrize(
    "text",
    [
        "", "D", "DBA", "EBAA", "DCAA", "DBAA~1YNN", "DBABTA", "DBABTA~", "DBABTA~2YNN", "DBABTA~1YN",
        "DBABTA~1yNN", "DBABTA~1YNN~1YNN", "DBABLA~B", "DBABLA~BAAAVVVVUQA.", "DBABLA~B+AA", "DBABTA=~1YNN",
        " DBAA", "DBAA\n", "DBABMA~C", "DBABMA~" + "C" + "_" * 30, "DB__", "DB_" + "_" * 40,
        "D" * (CHARS_MAX + 1),
        "DBABTÁ~1YNN",
        "DBABLA~" + national([0] * 27) + ".no base64!", "DBABLA~" + national([0] * 27) + ".A" * 5,
        "DBABMA~" + tcf([1]) + ".", "DBABMA~" + tcf([1]) + ".IAAA.@",
        written(f"{3:06b}{1:06b}{1:012b}" + "0" + fibonacci(65)) + "~x",
        written(f"{3:06b}{1:06b}{1:012b}" + "1" + fibonacci(60) + fibonacci(60)) + "~x",
    ],
)  # fmt: skip
def test_a_malformed_string_says_nothing(text: str) -> None:
    """With a reason, whatever is wrong with it."""
    assert decode(text) is Refusal.SIGNAL_INVALID


def test_a_code_that_does_not_end_is_given_up_at_once() -> None:
    """Its weights would grow with every bit, and the work with their square."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        found = decode("DBAB" + "A" * (CHARS_MAX - 4))
    finally:
        sys.setprofile(None)

    assert found is Refusal.SIGNAL_INVALID
    assert calls < CHARS_MAX // 64


def test_of_two_segments_of_the_browsers_signal_the_stricter_counts() -> None:
    """In either order."""
    off, on = written(f"{1:02b}0"), written(f"{1:02b}1")
    for segments in (f".{off}.{on}", f".{on}.{off}"):
        fields = decode_section("usnat", national([0] * 27) + segments)
        assert isinstance(fields, dict)
        assert fields["Gpc"] is True


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("usnat", "DAAA"),
        ("tcfeuv2", "BAAA"),
        ("usxx", "BAAA"),
        ("uspv1", ""),
        ("usca", "A" * (CHARS_MAX + 1)),
    ],
)
def test_a_section_of_another_layout_says_nothing(name: str, text: str) -> None:
    """Nor one that does not exist; within a string it is told by its number."""
    assert decode_section(name, text) is Refusal.SIGNAL_INVALID
    assert decode(f"{header([7])}~DAAA") == Gpp((7,), {}, (7,))


@given(st.text(max_size=80) | st.text(ALPHABET + "~.", max_size=120))
def test_any_text_has_an_answer(text: str) -> None:
    """It never raises."""
    assert isinstance(decode(text), Gpp | Refusal)
    for name in NAMES.values():
        assert isinstance(decode_section(name, text), dict | Refusal)


# What becomes of a signal -----------------------------------------------------------------------


def said(**more: object) -> bytes:
    """Return a line about somebody."""
    members = {"id": "s-1", "subject": "openedx:user_id:42", "occurred_at": "2026-03-02T09:00:00Z", **more}
    return json.dumps(members).encode()


def record(source: Any, **more: Any) -> Fact:  # noqa: ANN401 - words of the event's own
    """Return the record of a choice."""
    return CookieChoiceRecorded(occurred_at=AT, source=source, **more)


WITHDRAWN: Final = ConsentWithdrawn(occurred_at=AT, purpose=ANALYTICS)
GRANTED: Final = ConsentGranted(occurred_at=AT, purpose=ANALYTICS, notice=NOTICE)
ALLOWED: Final = {"source": "banner", "performance": True, "notice": NOTICE}
OPT_OUT_OF_SALE: Final = [0, 0, 0, 0, 0, 0, 1, *[0] * 20]
OF_TARGETING: Final = [0, 0, 0, 2, 1, *[0] * 12]


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        (said(gpc="1"), (record("gpc", opted_out=ALL_OUT),)),
        (said(gpc=["0", "1"]), (record("gpc", opted_out=ALL_OUT),)),
        (said(gpp=f"{header([6])}~1YYN"), (record("gpp", opted_out=("sale",)),)),
        (said(gpp=f"{header([7])}~{national(OPT_OUT_OF_SALE)}"), (record("gpp", opted_out=("sale",)),)),
        (
            said(gpp=f"{header([9])}~{national(OF_TARGETING)}"),
            (record("gpp", opted_out=("targeted_advertising",)),),
        ),
        (said(gpp=f"{header([7])}~{national([0] * 27, is_on=True)}"), (record("gpp", opted_out=ALL_OUT),)),
        (
            said(gpp=f"{header([6, 9])}~1YYN~{national(OF_TARGETING)}"),
            (record("gpp", opted_out=("sale", "targeted_advertising")),),
        ),
        (
            said(gpp=f"{header([2])}~{tcf([])}"),
            (record("tcf", refused=("functionality", "performance")), WITHDRAWN),
        ),
        (said(gpp=f"{header([2])}~{tcf([1])}"), (record("tcf", refused=("performance",)), WITHDRAWN)),
        (
            said(gpp=f"{header([2])}~{tcf([], one_treatment=True)}"),
            (record("tcf", refused=("performance",)), WITHDRAWN),
        ),
        (
            said(choice={"source": "banner", "performance": False}),
            (record("banner", refused=("performance",), cookies_allowed=0, cookies_blocked=0), WITHDRAWN),
        ),
        (
            said(
                choice={"source": "banner", "performance": True, "functionality": False, "notice": NOTICE,
                        "cookies": ["_ga", "sessionid", "theme", "_fbp", "mine"]},
            ),
            (
                record("banner", allowed=("performance",), refused=("functionality",), cookies_allowed=2,
                       cookies_blocked=3),
                GRANTED,
            ),
        ),
        (
            said(
                choice={"source": "browser", "performance": True, "notice": NOTICE},
                gpc="1", gpp=f"{header([2])}~{tcf([])}",
            ),
            (
                record("browser", allowed=("performance",), cookies_allowed=0, cookies_blocked=0),
                record("gpc", opted_out=ALL_OUT),
                record("tcf", refused=("functionality", "performance")),
                WITHDRAWN,
            ),
        ),
        (said(gpc="1", gpp="malformed"), (record("gpc", opted_out=ALL_OUT),)),
        (
            said(choice={**ALLOWED, "functionality": False}, gpp="malformed"),
            (record("banner", allowed=("performance",), refused=("functionality",), cookies_allowed=0,
                    cookies_blocked=0),),
        ),
        (
            said(choice=ALLOWED, gpc="1", gpp="malformed"),
            (
                record("banner", allowed=("performance",), cookies_allowed=0, cookies_blocked=0),
                record("gpc", opted_out=ALL_OUT),
            ),
        ),
        (
            said(choice=ALLOWED, gpp=f"{header([2])}~{written(f'{3:06b}')}"),
            (record("banner", allowed=("performance",), cookies_allowed=0, cookies_blocked=0),),
        ),
    ],
)  # fmt: skip
def test_a_signal_restricts_and_only_a_choice_under_a_notice_grants(
    line: bytes, facts: tuple[Fact, ...]
) -> None:
    """Each part that says something is a record; a refusal, or what cannot be read, goes before a grant."""
    parsed = parse(line)
    assert isinstance(parsed, Parsed)
    assert parsed.people == (PersonFacts(identities=(Identity("openedx:user_id", "42"),), facts=facts),)
    assert (parsed.may_register, parsed.source_event_id, parsed.anonymous) == (False, "s-1", None)
    assert parsed.unattributed == ()


@pytest.mark.parametrize("values", [[0] * 27, [2] * 27, [3] * 27])
def test_no_string_grants_anything(values: list[int]) -> None:
    """Whatever it allows."""
    assert parse(said(gpp=f"{header([7])}~{national(values)}")) is Refusal.UNKNOWN_EVENT
    assert parse(said(gpp=f"{header([2])}~{tcf(range(1, 25))}")) is Refusal.UNKNOWN_EVENT


def test_the_wish_of_a_session_waits_for_its_person() -> None:
    """Whole; of nobody at all, only that there was one."""
    refused = said(subject=None, choice={"source": "banner", "performance": False}, session="session-0001")
    nobody = said(subject=None, choice={"source": "banner", "performance": False})
    mine, nobodys = parse(refused), parse(nobody)
    assert isinstance(mine, Parsed)
    assert isinstance(nobodys, Parsed)
    assert (mine.people, mine.anonymous) == ((), "session:session-0001")
    assert [type(fact) for fact in mine.unattributed] == [CookieChoiceRecorded, ConsentWithdrawn]
    assert [type(fact) for fact in nobodys.unattributed] == [CookieChoiceRecorded]


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"[]", Refusal.NOT_AN_OBJECT),
        (said(), Refusal.UNKNOWN_EVENT),
        (said(gpc="0"), Refusal.UNKNOWN_EVENT),
        (said(gpc=1), Refusal.SCHEMA_MISMATCH),
        (said(gpc=["1"] * (gpc.VALUES_MAX + 1)), Refusal.SCHEMA_MISMATCH),
        (said(gpp="malformed"), Refusal.SIGNAL_INVALID),
        (said(gpp="malformed", gpc="0"), Refusal.SIGNAL_INVALID),
        (said(gpp="malformed", choice=ALLOWED), Refusal.SIGNAL_INVALID),
        (said(gpp="malformed", choice={"source": "banner"}), Refusal.SIGNAL_INVALID),
        (said(choice={"source": "banner", "cookies": ["_ga"]}), Refusal.UNKNOWN_EVENT),
        (said(choice={**ALLOWED, "notice": "ada@example.com"}), Refusal.SCHEMA_MISMATCH),
        (said(gpc="1", note="x"), Refusal.SCHEMA_MISMATCH),
        (said(choice={"source": "gpc", "performance": True}), Refusal.SCHEMA_MISMATCH),
        (said(choice={"source": "banner", "performance": True}), Refusal.SCHEMA_MISMATCH),
        (said(choice={"source": "banner", "performance": True, "notice": "a b"}), Refusal.SCHEMA_MISMATCH),
        (said(choice={"source": "banner", "cookies": ["a"] * (COOKIES_MAX + 1)}), Refusal.SCHEMA_MISMATCH),
        (said(gpc="1", occurred_at=None), Refusal.TIME_MISSING),
        (said(gpc="1", occurred_at="2026-03-02T09:00:00"), Refusal.TIME_NAIVE),
        (said(gpc="1", subject="ada"), Refusal.ID_INVALID),
        (said(gpc="1", id="a b"), Refusal.ID_INVALID),
        (said(gpc="1", session="short"), Refusal.ID_INVALID),
        (said(gpc="4111 1111 1111 1111"), Refusal.CARD_NUMBER),
    ],
)
def test_what_is_no_signal_has_its_reason(line: bytes, refusal: Refusal) -> None:
    """By the same order as in every format."""
    assert parse(line) is refusal


@given(st.binary(max_size=200) | st.builds(said, gpc=st.none() | st.text(), gpp=st.none() | st.text()))
def test_any_line_has_an_answer(line: bytes) -> None:
    """It never raises."""
    assert isinstance(parse(line), Parsed | Refusal)
