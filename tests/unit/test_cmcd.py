"""Reports of players: read as CTA-5004 says, and kept without session, person or device."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.cmcd import events, parse
from privacy_ledger.adapters.formats.cmcd_fields import (
    CHARS_MAX,
    KEYS_MAX,
    LIST_MAX,
    RESERVED,
    Fields,
    decode_headers,
    decode_members,
    decode_query,
    decode_text,
)
from privacy_ledger.domain.events import VideoQoeReported
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed

Members = dict[str, Any]

AT: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
MILLIS: Final = int(AT.timestamp() * 1000)
SESSION: Final = "6e2fb550-c457-11e9-bb97-0800200c9a66"
REPORTS: Final = Path(__file__).parents[1] / "fixtures" / "cmcd" / "reports.json"
DECODERS: Final[dict[str, Callable[[Any], Fields | Refusal]]] = {
    "string": decode_text, "query": decode_query, "url": decode_query, "headers": decode_headers,
}  # fmt: skip


# Fields -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", json.loads(REPORTS.read_text(encoding="utf-8")))
def test_published_reports_have_their_values(case: Members) -> None:
    """In every carrier; those that are not valid have a reason."""
    found = DECODERS[case["carrier"]](case["value"])
    if case.get("valid", True):
        assert isinstance(found, dict)
        assert json.loads(json.dumps(found)) == case["expected"]
    else:
        assert found is Refusal.SCHEMA_MISMATCH


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("  bs  ", {"bs": True}),
        ("bs=?0,su=?1", {"bs": False, "su": True}),
        ("bl=(4500;v 2000;a),br=(5000;v 128;a),v=2", {"bl": (4500, 2000), "br": (5000, 128), "v": 2}),
        ("br=(),v=2", {"br": (), "v": 2}),
        ('nor=("..%2F3.m4v";r="0-99" "4.m4v"),v=2', {"nor": ("../3.m4v", "4.m4v"), "v": 2}),
        ("pr=1.25, sta=p ,\tts=1772442000000", {"pr": 1.25, "sta": "p", "ts": 1772442000000}),
        ('com.example-a="\\"\\\\",com.example-b=-1.5;x=1;y', {"com.example-a": '"\\', "com.example-b": -1.5}),
    ],
)
def test_text_is_a_dictionary_of_structured_fields(text: str, fields: Fields) -> None:
    """Of both versions; what parameters say is dropped."""
    assert decode_text(text) == fields


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("br=1,br=2", Refusal.DUPLICATE_KEY),
        ("br=", Refusal.SCHEMA_MISMATCH),
        ("br", Refusal.SCHEMA_MISMATCH),
        ("br=1.5", Refusal.SCHEMA_MISMATCH),
        ("br=(1 x)", Refusal.SCHEMA_MISMATCH),
        ("br=(1", Refusal.SCHEMA_MISMATCH),
        ("br=(1,2)", Refusal.SCHEMA_MISMATCH),
        ("br=1,", Refusal.SCHEMA_MISMATCH),
        ("br=1 bl=2", Refusal.SCHEMA_MISMATCH),
        ("Br=1", Refusal.SCHEMA_MISMATCH),
        ("br=1234567890123456", Refusal.SCHEMA_MISMATCH),
        ("bs=true", Refusal.SCHEMA_MISMATCH),
        ("sid=session", None),
        ('sid="a', Refusal.SCHEMA_MISMATCH),
        ('sid="é"', Refusal.SCHEMA_MISMATCH),
        ("ot=1", Refusal.SCHEMA_MISMATCH),
        ("cid=:YQ==:", Refusal.SCHEMA_MISMATCH),
        ("v=3", Refusal.UNKNOWN_EVENT),
        ("x" * (CHARS_MAX + 1), Refusal.LINE_TOO_LONG),
        (",".join(f"x-{n}" for n in range(KEYS_MAX + 1)), Refusal.SCHEMA_MISMATCH),
        (f"br=({' '.join(['1'] * (LIST_MAX + 1))})", Refusal.SCHEMA_MISMATCH),
    ],
)
def test_text_that_is_no_report_has_its_reason(text: str, refusal: Refusal | None) -> None:
    """Bounded in length, keys and lists; a token may stand for a text."""
    found = decode_text(text)
    assert found is refusal if refusal is not None else isinstance(found, dict)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=1&CMCD=br%3D1&b=2", {"br": 1}),
        ("https://example.com/a?x#CMCD=br%3D1", Refusal.SCHEMA_MISMATCH),
        ("https://example.com/CMCD=br%3D1", Refusal.SCHEMA_MISMATCH),
        ("cmcd=br%3D1", Refusal.SCHEMA_MISMATCH),
        ("CMCD=br%3D1&CMCD=br%3D1", Refusal.DUPLICATE_KEY),
        ("CMCD=", {}),
        ("CMCD=" + "a" * 4 * CHARS_MAX, Refusal.LINE_TOO_LONG),
    ],
)
def test_a_query_has_one_report(text: str, found: Fields | Refusal) -> None:
    """Neither in a path nor in a fragment."""
    assert decode_query(text) == found


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"cmcd-SESSION": "v=2,pr=2", "Cookie": "a=b"}, {"v": 2, "pr": 2}),
        ({"CMCD-Status": "pr=2,bsd=(100;v)"}, {"pr": 2, "bsd": (100,)}),
        ({"CMCD-Object": "com.example-x=1", "CMCD-Status": "bs"}, {"com.example-x": 1, "bs": True}),
        ({"CMCD-Session": "br=1"}, Refusal.SCHEMA_MISMATCH),
        ({"CMCD-Object": "br=1", "cmcd-object": "br=2"}, Refusal.DUPLICATE_KEY),
        ({"CMCD-Object": 1}, Refusal.SCHEMA_MISMATCH),
        ({"CMCD-Object": "br=1,"}, Refusal.SCHEMA_MISMATCH),
        ({}, {}),
    ],
)
def test_headers_hold_each_key_in_its_field(headers: Members, found: Fields | Refusal) -> None:
    """Names of fields have no case, and other fields are not read."""
    assert decode_headers(headers) == found


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"br": [5000, 128], "bs": True, "No key": 1}, {"br": (5000, 128), "bs": True}),
        ({"br": {"v": 1}}, Refusal.SCHEMA_MISMATCH),
        ({"br": None}, Refusal.SCHEMA_MISMATCH),
        ({"bs": 1}, Refusal.SCHEMA_MISMATCH),
        ({"br": [1] * (LIST_MAX + 1)}, Refusal.SCHEMA_MISMATCH),
        ({f"x-{n}": 1 for n in range(KEYS_MAX + 1)}, Refusal.SCHEMA_MISMATCH),
        ({"x-a": "a" * 2000}, Refusal.SCHEMA_MISMATCH),
    ],
)
def test_members_are_checked_like_text(members: Members, found: Fields | Refusal) -> None:
    """A JSON object is a report, too."""
    assert decode_members(members) == found


# Facts ------------------------------------------------------------------------------------------

TEXT: Final = (
    f'ab=9000,bl=(21649;a 4050;v),br=(3000;v 128;a),bs,bsd=(149;v),cid="lecture-7",cs="signature",'
    f'd=4004,dfa=3,msd=951,mtp=(25449;v),nor=("next.m4v"),ot=v,pt=9,sid="{SESSION}",sn=4,st=v,sta=r,su,tpb=(6000),ts={MILLIS},'
    'v=2,com.example-user="ada"'
)
FACT: Final = VideoQoeReported(
    occurred_at=AT, video="lecture-7", bitrate_kbps=3000, throughput_kbps=25400, buffer_ms=4100,
    starved_ms=100, start_delay_ms=1000, dropped_frames=3, is_starved=True, is_startup=True,
    state="rebuffering", stream="recorded",
)  # fmt: skip


def said(**members: object) -> bytes:
    """Return a line."""
    return json.dumps(members).encode()


@pytest.mark.parametrize(
    "line",
    [
        said(cmcd=TEXT),
        said(cmcd=TEXT, occurred_at="2026-03-02T10:00:00+01:00"),
        said(cmcd=f"CMCD={TEXT}".replace("%", "%25").replace("+", "%2B")),
        next(line for _, line in events([(1, TEXT.encode())]) if isinstance(line, bytes)),
    ],
)
def test_a_report_is_a_playback_of_nobody(line: bytes) -> None:
    """Of the keys only those of the allow-list, the session only as what lies together."""
    parsed = parse(line)

    assert isinstance(parsed, Parsed)
    assert (parsed.people, parsed.unattributed, parsed.occurred_at) == ((), (FACT,), AT)
    assert (parsed.anonymous, parsed.source_event_id, parsed.device) == (f"session:{SESSION}", None, None)
    kept = str([getattr(FACT, name) for name in FACT.__struct_fields__])
    assert [word for word in (SESSION, "signature", "next.m4v", "ada", "6000") if word in kept] == []


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        (said(br=3000, ts=MILLIS), VideoQoeReported(occurred_at=AT, bitrate_kbps=3000)),
        (said(cmcd={"su": True, "ts": MILLIS}), VideoQoeReported(occurred_at=AT, is_startup=True)),
        (
            said(headers={"CMCD-Request": "bl=149"}, occurred_at="2026-03-02T09:00:00Z"),
            VideoQoeReported(occurred_at=AT, buffer_ms=100),
        ),
        (
            said(cmcd=f'cid="ada@example.com",bs,st=ll,sid="abc",ts={MILLIS}'),
            VideoQoeReported(occurred_at=AT, is_starved=True, stream="live"),
        ),
    ],
)
def test_any_carrier_will_do(line: bytes, fact: VideoQoeReported) -> None:
    """A content that is named by an address, and a session that is too short, are left out."""
    parsed = parse(line)
    assert isinstance(parsed, Parsed)
    assert (parsed.unattributed, parsed.anonymous) == ((fact,), None)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("lecture-7", "lecture-7"),
        ("6043125791001", "6043125791001"),
        ("urn:example:lecture:7", "urn:example:lecture:7"),
        ("https://cdn.example.com/lectures/7.m3u8", "cdn.example.com/lectures/7.m3u8"),
        ("https://cdn.example.com/users/ada/7.m3u8", "cdn.example.com/users/:id/7.m3u8"),
        ("https://203.0.113.97/7.m3u8", ":id/7.m3u8"),
        ("203.0.113.97/7.m3u8", None),
        ("203.0.113.97", None),
        ("https://cdn.example.com/7.m3u8?v=ada", None),
        ("ada@example.com", None),
    ],
)
def test_the_name_of_a_content_names_no_viewer(content: str, kept: str | None) -> None:
    """Where players name it by an address, machines and people go."""
    parsed = parse(said(cid=content, bs=True, ts=MILLIS))
    assert isinstance(parsed, Parsed)
    assert parsed.unattributed == (VideoQoeReported(occurred_at=AT, video=kept, is_starved=True),)


def test_a_report_without_a_time_is_of_now_where_the_operator_says_so() -> None:
    """Version 1 has none."""
    assert parse(said(cmcd="bs")) is Refusal.TIME_MISSING
    parsed = parse(said(cmcd="bs"), received_at=AT)
    assert isinstance(parsed, Parsed)
    assert parsed.unattributed == (VideoQoeReported(occurred_at=AT, is_starved=True),)


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (said(), Refusal.UNKNOWN_EVENT),
        (said(x=1), Refusal.UNKNOWN_EVENT),
        (said(cmcd=""), Refusal.UNKNOWN_EVENT),
        (said(cmcd=f'sid="{SESSION}",ts=1'), Refusal.UNKNOWN_EVENT),
        (said(cmcd="bs", headers={}), Refusal.SCHEMA_MISMATCH),
        (said(cmcd="bs", subject="openedx:user_id:42"), Refusal.SCHEMA_MISMATCH),
        (said(occurred_at="2026-03-02T09:00:00Z"), Refusal.SCHEMA_MISMATCH),
        (said(cmcd=7), Refusal.SCHEMA_MISMATCH),
        (said(headers=[]), Refusal.SCHEMA_MISMATCH),
        (said(cmcd="bl=-1,ts=1"), Refusal.SCHEMA_MISMATCH),
        (said(cmcd="v=9,bs"), Refusal.UNKNOWN_EVENT),
        (said(cmcd="bs,ts=-1"), Refusal.TIME_INVALID),
        (said(cmcd="bs", occurred_at="2026-03-02"), Refusal.TIME_NAIVE),
        (said(cmcd='cid="4111111111111111"'), Refusal.CARD_NUMBER),
    ],
)
def test_what_is_no_report_has_its_reason(line: bytes, refusal: Refusal) -> None:
    """By the same order as in every format."""
    assert parse(line) is refusal


def test_lines_of_text_and_of_json_are_reports() -> None:
    """Each with the number of its line; what is no text is refused."""
    lines: list[tuple[int, bytes | Refusal]] = [
        (1, b'[{"br":1},{"br":2}]'), (2, b"bs,su"), (3, b"\xff"), (4, Refusal.LINE_TOO_LONG),
        (5, b'{"br":3}'),
    ]  # fmt: skip
    assert list(events(lines)) == [
        (1, b'{"br":1}'), (1, b'{"br":2}'), (2, b'{"cmcd":"bs,su"}'), (3, Refusal.NOT_UTF8),
        (4, Refusal.LINE_TOO_LONG), (5, b'{"br":3}'),
    ]  # fmt: skip


TEXTS = st.text(max_size=80) | st.text('abr=,;()" ?01.-%\\', max_size=80)


@given(TEXTS, st.dictionaries(st.sampled_from(("CMCD-Object", "CMCD-Status", "cmcd-object")), TEXTS))
def test_any_text_has_an_answer(text: str, headers: dict[str, str]) -> None:
    """No decoder raises."""
    for found in (decode_text(text), decode_query(f"CMCD={text}"), decode_headers(headers)):
        assert isinstance(found, dict | Refusal)


@given(
    st.binary(max_size=120)
    | TEXTS.map(lambda text: said(cmcd=text, ts=1))
    | st.dictionaries(
        st.sampled_from(sorted(RESERVED)), st.booleans() | st.integers() | st.floats() | TEXTS, max_size=6
    ).map(lambda members: json.dumps(members).encode())
)
def test_any_line_has_an_answer(line: bytes) -> None:
    """Nor does the parser, or the reader of lines."""
    assert list(events([(1, line)]))
    assert isinstance(parse(line, received_at=AT), Parsed | Refusal)
