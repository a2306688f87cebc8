# ruff: noqa: E501 - a table reads by its rows
"""CloudEvents in every mode: the published cases, the official SDK as the oracle, and what is refused."""

import base64
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from cloudevents.core.bindings import http as sdk_http
from cloudevents.core.bindings import kafka as sdk_kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SdkEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from privacy_ledger.adapters.formats.arrays import ITEMS_MAX
from privacy_ledger.adapters.formats.cloudevents import (
    ATTRIBUTES_MAX,
    CLASSIFICATIONS,
    VALUE_CHARS_MAX,
    CloudEvent,
    read_http,
    read_kafka,
    read_structured,
)
from privacy_ledger.adapters.formats.json_lines import LINE_BYTES_MAX
from privacy_ledger.domain.refusals import Refusal

NAUGHTY: Final[list[str]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "naughty-strings" / "blns.json").read_bytes()
)
FEATURES: Final = Path(__file__).parents[1] / "fixtures" / "cloudevents"
STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
PAN: Final = "4111111111111111"
AT: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
WHOLE: Final[dict[str, Any]] = {
    "specversion": "1.0", "id": "e-1", "source": "/lms", "type": "com.example.seen",
    "time": "2026-03-01T12:00:00Z", "data": {"seen": 1},
}  # fmt: skip
SEEN: Final = CloudEvent(id="e-1", source="/lms", type="com.example.seen", time=AT, data=b'{"seen":1}')


def structured(**changes: object) -> bytes:
    """Return a structured event with some members changed; one that is `...` is left out."""
    return json.dumps({key: value for key, value in (WHOLE | changes).items() if value is not ...}).encode()


def binary(**changes: str) -> list[tuple[str, str]]:
    """Return the headers of a binary HTTP request."""
    named = {"specversion": "1.0", "id": "e-1", "source": "/lms", "type": "com.example.seen"} | changes
    return [("Content-Type", "application/json"), *((f"ce-{name}", value) for name, value in named.items())]


def messages(**changes: bytes) -> list[tuple[str, bytes]]:
    """Return the headers of a binary Kafka message."""
    named = {"specversion": b"1.0", "id": b"e-1", "source": b"/lms", "type": b"com.example.seen"} | changes
    return [("content-type", b"application/json"), *((f"ce_{name}", value) for name, value in named.items())]


# The published cases ---------------------------------------------------------------------


class Case:
    """One scenario of a feature file: what is sent, and the attributes and data that it is."""

    def __init__(self, text: str) -> None:
        """Read the parts of one scenario whose placeholders are filled in."""
        sent, _, wanted = text.partition("When parsed")
        block, body = (
            re.findall(r'"""\n(.*?)"""', sent, re.DOTALL)[0],
            re.findall(r'"""\n(.*?)"""', wanted, re.DOTALL)[0],
        )
        self.sent = "\n".join(line.strip() for line in block.splitlines())
        self.headers = dict(re.findall(r"\|\s*(\S+)\s*\|\s*(.+?)\s*\|", sent.partition("Kafka headers:")[2]))
        self.headers.pop("key", None)
        self.attributes = dict(re.findall(r"\|\s*(\S+)\s*\|\s*(.+?)\s*\|", wanted))
        self.attributes.pop("key")
        self.data = json.loads(body)

    def read(self) -> CloudEvent | Refusal:
        """Return what the codec makes of it."""
        if self.headers:
            return read_kafka(
                [(name, value.encode()) for name, value in self.headers.items()], self.sent.encode()
            )
        head, _, body = self.sent.partition("\n\n")
        named = [line.partition(": ") for line in head.splitlines()[1:]]
        (event,) = read_http([(name, value) for name, _, value in named], body.encode())
        return event


def cases() -> Iterator[Case]:
    """Yield each scenario of both files, once for each of its examples."""
    for file in sorted(FEATURES.glob("*.feature")):
        for text in re.split(r"Scenario(?: Outline)?:", file.read_text(encoding="utf-8"))[1:]:
            body, _, examples = text.partition("Examples:")
            rows = [row.strip(" |") for row in examples.splitlines() if "|" in row][1:]
            for row in rows or [""]:
                yield Case(body.replace("<contentType>", row))


CASES: Final = list(cases())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.attributes["datacontenttype"])
def test_a_published_case_has_the_attributes_and_data_it_says(case: Case) -> None:
    """All of `features/` of the conformance project; none of them names a `ce` version but 1.0."""
    event = case.read()

    assert isinstance(event, CloudEvent)
    found = {name: value for name, value in structs.asdict(event).items() if isinstance(value, str)}
    assert event.time is not None
    found |= {"specversion": "1.0", "time": event.time.strftime("%Y-%m-%dT%H:%M:%SZ")}
    assert (found, json.loads(event.data)) == (case.attributes, case.data)


def test_there_are_as_many_cases_as_published() -> None:
    """Three for Kafka, four for HTTP."""
    assert len(CASES) == 7


# The official SDK as the oracle ----------------------------------------------------------

WORDS: Final = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cn"), exclude_characters="\ufffe\uffff"),
    min_size=1,
    max_size=40,
)
NAMES: Final = st.from_regex(r"ext[a-z0-9]{1,10}", fullmatch=True)
JSON_DATA: Final = st.dictionaries(
    WORDS, st.integers(0, 9) | WORDS | st.lists(WORDS, max_size=3), min_size=1, max_size=4
)


@st.composite
def sdk_events(draw: st.DrawFn) -> SdkEvent:
    """Return an event as the SDK makes it."""
    attributes = {
        "id": draw(WORDS), "source": draw(st.sampled_from(("/lms", "https://lms.example.com/a?b=c", "urn:lms:1"))),
        "type": draw(WORDS), "specversion": "1.0", "time": AT, "datacontenttype": "application/json",
        **draw(st.dictionaries(NAMES, WORDS, max_size=3)),
    }  # fmt: skip
    if draw(st.booleans()):
        attributes["subject"] = draw(WORDS)
    return SdkEvent(attributes=attributes, data=draw(JSON_DATA))


def same(event: CloudEvent | Refusal, sdk: Any) -> bool:  # noqa: ANN401 - of the SDK's own classes
    """Return whether an event says what the SDK's does."""
    assert isinstance(event, CloudEvent), event
    own: dict[str, object] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": event.time,
    }
    own |= {"datacontenttype": event.datacontenttype, **event.extensions}
    own |= {} if event.subject is None else {"subject": event.subject}
    return (own, json.loads(event.data)) == (sdk.get_attributes(), sdk.get_data())


@settings(deadline=None, max_examples=150)
@given(sdk_events())
def test_what_the_sdk_writes_is_read_as_it_was_meant(sdk: SdkEvent) -> None:
    """Over HTTP and Kafka, binary, structured and in a batch, whatever the text."""
    as_headers, whole = sdk_http.to_binary(sdk, JSONFormat()), sdk_http.to_structured(sdk, JSONFormat())
    on_kafka, kafka_whole = sdk_kafka.to_binary(sdk, JSONFormat()), sdk_kafka.to_structured(sdk, JSONFormat())
    batch = b"[" + whole.body + b"," + whole.body + b"]"
    found = [
        *read_http(as_headers.headers.items(), as_headers.body),
        *read_http(whole.headers.items(), whole.body),
        *read_http([("content-type", BATCH)], batch),
        read_kafka(on_kafka.headers.items(), on_kafka.value),
        read_kafka(kafka_whole.headers.items(), kafka_whole.value),
    ]

    assert [same(one, sdk) for one in found] == [True] * 6


# What is read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, {}),
        ({"subject": None, "time": None}, {"time": None}),
        ({"datacontenttype": "application/vnd.example+json"}, {"datacontenttype": "application/vnd.example+json"}),
        ({"datacontenttype": "text/plain", "data": "hi"}, {"datacontenttype": "text/plain", "data": b"hi"}),
        ({"data": ..., "data_base64": base64.b64encode(b"\0\1").decode()}, {"data": b"\0\1"}),
        ({"data": False}, {"data": b"false"}),
        ({"data": ""}, {"data": b'""'}),
        ({"dataschema": "urn:example:1"}, {"dataschema": "urn:example:1"}),
        ({"extint": -5, "extbool": True, "exttext": "a"}, {"extensions": {"extint": -5, "extbool": True, "exttext": "a"}}),
    ],
)  # fmt: skip
def test_a_structured_event_is_what_it_says(changes: dict[str, object], wanted: dict[str, object]) -> None:
    """A member that is null is not set; text of another type and bytes are data as they are."""
    assert read_structured(structured(**changes)) == structs.replace(SEEN, **wanted)


@pytest.mark.parametrize("label", sorted(CLASSIFICATIONS))
def test_a_known_classification_is_kept_with_the_event(label: str) -> None:
    """As an attribute like any other."""
    event = read_structured(structured(dataclassification=label))
    assert isinstance(event, CloudEvent)
    assert event.extensions == {"dataclassification": label}


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("plain", "plain"),
        ("%61%2fb", "a/b"),
        ('"a b"', "a b"),
        (r'"a \"quoted\" \\ b"', r'a "quoted" \ b'),
        ('"100%25"', "100%"),
        ("%2541", "%41"),
        ("Euro%20%e2%82%ac", "Euro €"),
    ],
)
def test_a_header_is_decoded_once(sent: str, text: str) -> None:
    """Quotes first, then one round of percent signs (HTTP binding, 3.1.3.2)."""
    (event,) = read_http(binary(subject=sent), b"1")
    assert isinstance(event, CloudEvent)
    assert event.subject == text


@pytest.mark.parametrize("sent", ["%C0%A0", "%", "100%", "%zz", "%e2%82", "é", "a\tb", "%00", "%0A"])
def test_a_header_that_has_no_one_reading_is_refused(sent: str) -> None:
    """Overlong or broken UTF-8, a lone percent sign, control characters."""
    assert read_http(binary(subject=sent), b"1") == [Refusal.SCHEMA_MISMATCH]


def test_a_hostile_header_costs_little() -> None:
    """Quotes that never end, and more headers than an event may have."""
    started = time.process_time()
    quotes = read_http(binary(subject='"' + 'a\\"' * 200_000), b"1")
    many = read_http([*binary(), *((f"ce-ext{number}", "x") for number in range(100_000))], b"1")
    assert quotes == many == [Refusal.SCHEMA_MISMATCH]
    assert time.process_time() - started < 5


def test_a_kafka_header_is_text_as_it_is() -> None:
    """Kafka's binding has no percent signs; and a second name of the content type must agree."""
    event = read_kafka(
        [*messages(subject="50 % é".encode()), ("ce_datacontenttype", b"application/json")], b"1"
    )
    other = read_kafka([*messages(), ("ce_datacontenttype", b"application/avro")], b"1")
    assert isinstance(event, CloudEvent)
    assert event.subject == "50 % é"
    assert other is Refusal.SCHEMA_MISMATCH


def test_a_batch_has_an_outcome_for_each_event() -> None:
    """One bad event stops none beside it; an empty batch has none."""
    body = b"[" + structured() + b"," + structured(type=...) + b"," + structured(id=PAN) + b",7]"
    empty = read_http([("Content-Type", BATCH)], b"[]")
    assert read_http([("Content-Type", BATCH)], body) == [
        SEEN, Refusal.SCHEMA_MISMATCH, Refusal.CARD_NUMBER, Refusal.NOT_AN_OBJECT,
    ]  # fmt: skip
    assert empty == []


# What is refused -------------------------------------------------------------------------

REQUIRED: Final = ("specversion", "id", "source", "type")
OPTIONAL: Final = ("subject", "dataschema", "datacontenttype")
ONE_BY_ONE: Final[dict[str, tuple[object, ...]]] = {
    **dict.fromkeys(REQUIRED, (..., "", 7, None)),
    **dict.fromkeys(OPTIONAL, ("", 7)),
    **dict.fromkeys(("Upper", "with_underscore", "with-dash", "ümlaut", "a" * 65, ""), ("x",)),
    "ext": (1.5, 1 << 31, -(1 << 31) - 1, {}, [], ["a"], {"a": 1}),
}
MORE: Final[dict[str, tuple[object, ...]]] = {
    "specversion": ("0.3", "1", "1.1", "2.0"),
    "id": ("a\nb", "\x7f", "\ufdd0", "\ufffe", "\U0001ffff", "x" * (VALUE_CHARS_MAX + 1)),
    "source": ("with space", "<lms>", "lms%", "lms%zz"),
    "dataschema": ("/relative", "no scheme", "a b:c"),
    "datacontenttype": ("json", "application/", "application/json;", "a/b; c=d e"),
}
NO_BASE64: Final[tuple[object, ...]] = ("no base64!", "AAE", 7, "AAE=\n")
MISMATCHES: Final[list[dict[str, object]]] = [
    *[{name: value} for table in (ONE_BY_ONE, MORE) for name, values in table.items() for value in values],
    {"datacontenttype": "text/plain", "data": {"a": 1}},
    {"data_base64": "AAE="},
    *[{"data": None, "data_base64": value} for value in NO_BASE64],
    dict.fromkeys([f"ext{number}" for number in range(ATTRIBUTES_MAX)], "x"),
]


@pytest.mark.parametrize(
    "changes", MISMATCHES, ids=lambda changes: ascii(dict(list(changes.items())[:2]))[:60]
)
def test_what_is_no_event_is_refused(changes: dict[str, object]) -> None:
    """Attributes, their names and their types are those of version 1.0."""
    assert read_structured(structured(**changes)) is Refusal.SCHEMA_MISMATCH


@pytest.mark.parametrize(
    ("found", "refusal"),
    [
        (read_structured(structured(data=...)), Refusal.NULL_VALUE),
        (read_structured(structured(data=None)), Refusal.NULL_VALUE),
        (read_structured(structured(data=..., data_base64="")), Refusal.NULL_VALUE),
        (read_structured(structured(datacontenttype="text/plain", data="")), Refusal.NULL_VALUE),
        (read_kafka(messages(), None), Refusal.NULL_VALUE),
        (read_kafka(messages(), b""), Refusal.NULL_VALUE),
        (read_kafka([("content-type", STRUCTURED.encode())], None), Refusal.NULL_VALUE),
        (read_http(binary(), b"")[0], Refusal.NULL_VALUE),
        (read_structured(structured(dataclassification="secretish")), Refusal.UNKNOWN_CLASSIFICATION),
        (read_structured(structured(dataclassification="Public")), Refusal.UNKNOWN_CLASSIFICATION),
        (read_structured(structured(dataclassification=1)), Refusal.UNKNOWN_CLASSIFICATION),
        (read_http(binary(dataclassification="?"), b"1")[0], Refusal.UNKNOWN_CLASSIFICATION),
        (read_structured(structured(time="2026-03-01T12:00:00")), Refusal.TIME_NAIVE),
        (read_structured(structured(time="yesterday")), Refusal.TIME_INVALID),
        (read_structured(structured(id=PAN)), Refusal.CARD_NUMBER),
        (read_structured(structured(data={"x": PAN})), Refusal.CARD_NUMBER),
        (read_http(binary(subject=PAN), b"1")[0], Refusal.CARD_NUMBER),
        (read_http(binary(password="hunter2"), b"1")[0], Refusal.SECRET),
        (read_kafka(messages(subject=PAN.encode()), b"1"), Refusal.CARD_NUMBER),
        (read_kafka(messages(subject=b"\xff"), b"1"), Refusal.NOT_UTF8),
        (read_kafka(messages(), b"1" * (LINE_BYTES_MAX + 1)), Refusal.LINE_TOO_LONG),
        (read_http([*binary(), ("CE-ID", "e-2")], b"1")[0], Refusal.SCHEMA_MISMATCH),
        (read_http([("content-type", STRUCTURED), ("Content-Type", "application/json")], structured())[0], Refusal.SCHEMA_MISMATCH),
        (read_kafka([("content-type", b"application/json"), ("content-type", STRUCTURED.encode())], structured()), Refusal.SCHEMA_MISMATCH),
        (read_http([("content-type", "application/cloudevents+avro")], b"1")[0], Refusal.SCHEMA_MISMATCH),
        (read_http([("content-type", "application/cloudevents-batch+avro")], b"[]")[0], Refusal.SCHEMA_MISMATCH),
        (read_http([("content-type", BATCH)], structured())[0], Refusal.SCHEMA_MISMATCH),
        (read_http([("content-type", BATCH)], b"[" + b"0," * ITEMS_MAX + b"0]")[0], Refusal.LINE_TOO_LONG),
        (read_http([("content-type", BATCH)], b"[")[0], Refusal.NOT_JSON),
        (read_http([("content-type", STRUCTURED)], b"[]")[0], Refusal.NOT_AN_OBJECT),
        (read_http([], b"1")[0], Refusal.SCHEMA_MISMATCH),
        (read_structured(b'{"id":"a","id":"b"}'), Refusal.DUPLICATE_KEY),
    ],
)  # fmt: skip
def test_a_refusal_says_its_reason(found: CloudEvent | Refusal, refusal: Refusal) -> None:
    """An event without data would be a tombstone; an unknown classification is no permission."""
    assert found is refusal


def test_an_event_shows_nothing_of_itself() -> None:
    """Its `repr` is the type only."""
    assert repr(SEEN) == "CloudEvent(...)"


@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "dataschema", "extension"])
def test_naughty_strings_are_kept_whole_or_refused(name: str) -> None:
    """In every attribute and every mode; as the name of one they are refused, or stand in no event."""
    for text in NAUGHTY:
        coded = quote(text, safe="", errors="replace")
        found = [
            read_structured(structured(**{name: text})),
            read_http(binary(**{name: coded}), b"1")[0],
            read_kafka(messages(**{name: text.encode()}), b"1"),
        ]
        for one in found:
            if isinstance(one, CloudEvent):
                assert one.extensions.get(name, getattr(one, name, None)) == text
        assert isinstance(read_structured(structured(**{f"{text}-": "x"})), Refusal)


# Any bytes -------------------------------------------------------------------------------

HEADER_NAMES: Final = st.sampled_from(
    (
        "ce-id",
        "ce-source",
        "ce-type",
        "ce-specversion",
        "content-type",
        "ce-time",
        "ce-dataclassification",
        "x",
    )
) | st.text(max_size=8)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(HEADER_NAMES, st.text(max_size=20)), max_size=8), st.binary(max_size=60), st.booleans()
)
def test_any_request_and_any_message_has_an_outcome(
    headers: list[tuple[str, str]],
    body: bytes,
    is_structured: bool,  # noqa: FBT001 - drawn
) -> None:
    """Whatever the headers and the bytes are."""
    more = [("content-type", STRUCTURED)] if is_structured else []
    kafka = [(name.replace("-", "_", 1), value.encode("utf-8", "replace")) for name, value in headers]
    found = [*read_http([*more, *headers], body), read_kafka(kafka, body), read_structured(body)]
    assert all(isinstance(one, CloudEvent | Refusal) for one in found)


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(sorted([*WHOLE, "data_base64", "subject", "dataschema"])) | st.text(max_size=5),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just({}),
        max_size=8,
    )
)
def test_any_members_have_an_outcome(members: dict[str, object]) -> None:
    """Whatever an event's members hold."""
    assert isinstance(read_structured(json.dumps(WHOLE | members).encode()), CloudEvent | Refusal)
