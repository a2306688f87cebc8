# ruff: noqa: E501 - a table reads by its rows
"""Lines of CloudEvents: which format reads their data, and what tells an event from its copies."""

import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.cloudevents import CloudEvent
from privacy_ledger.adapters.formats.cloudevents_lines import TABLE, Route, Routed
from privacy_ledger.domain.events import CourseEnrolled, Fact
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.cli.formats import FormatName, format_named
from privacy_ledger.ports.formats import Format, Parsed
from privacy_ledger.ports.keys import Identity

NOW: Final = datetime(2026, 3, 2, tzinfo=UTC)
AT: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
COURSE: Final = "course-v1:ExampleX+CS101+T1"
LOGGED: Final[dict[str, Any]] = {
    "event_type": "edx.course.enrollment.activated", "event_source": "server", "time": "2026-03-01T12:00:00Z",
    "event_id": "inner-1", "context": {"user_id": 7, "course_id": COURSE}, "event": {"user_id": 7, "mode": "audit"},
}  # fmt: skip
UNTIMED: Final[dict[str, Any]] = {
    "actor": {"account": {"homePage": "https://lms.example.com", "name": "ada"}},
    "verb": {"id": "http://adlnet.gov/expapi/verbs/registered"},
    "object": {
        "id": f"https://lms.example.com/course/{COURSE}",
        "definition": {"type": "http://adlnet.gov/expapi/activities/course"},
    },
}


def event(data: object = LOGGED, **changes: object) -> bytes:
    """Return a structured event."""
    return json.dumps(
        {
            "specversion": "1.0", "id": "e-1", "source": "https://lms.example.com",
            "type": "privacy-ledger.openedx.log", "time": "2026-03-01T12:00:00Z", "data": data, **changes,
        }
    ).encode()  # fmt: skip


def parser(**data_formats: str) -> Format:
    """Return the format, with further rows."""
    rows = {prefix.replace("_", "."): name for prefix, name in data_formats.items()}
    return format_named("cloudevents", data_formats=rows).parser(
        now=lambda: NOW, takes_untimed=True, takes_unknown=True
    )


def people_of(found: Parsed | Refusal) -> list[tuple[Identity, Fact]]:
    """Return who is in an event, each with the one fact."""
    assert isinstance(found, Parsed), found
    return [(person.identities[0], person.facts[0]) for person in found.people]


def test_the_format_of_the_data_says_who_did_what() -> None:
    """And the envelope which event it is: its source and id, not an id within its data."""
    found = parser()(event())
    wanted = CourseEnrolled(occurred_at=AT, course=COURSE, mode="audit")
    assert people_of(found) == [(Identity("openedx:user_id", "7"), wanted)]
    assert isinstance(found, Parsed)
    assert found.source_event_id == "https://lms.example.com e-1"


def test_a_statement_without_a_time_happened_when_the_event_did() -> None:
    """The envelope's time stands still when it is sent again; without one, nothing tells when."""
    taken = parser()(event(UNTIMED, type="privacy-ledger.xapi.statement"))
    refused = parser()(event(UNTIMED, type="privacy-ledger.xapi.statement", time=None))
    assert people_of(taken)[0][1] == CourseEnrolled(occurred_at=AT, course=COURSE)
    assert refused is Refusal.TIME_MISSING


def test_what_is_added_on_the_way_makes_no_other_event() -> None:
    """A trace of an intermediary differs between copies; type and data do not."""
    plain, traced = parser()(event()), parser()(event(traceparent="00-0af7-01", subject="course"))
    changed = parser()(event({**LOGGED, "event": {"user_id": 7, "mode": "verified"}}))
    assert isinstance(plain, Parsed)
    assert isinstance(traced, Parsed)
    assert isinstance(changed, Parsed)
    assert plain == traced
    assert plain.source_event_id == changed.source_event_id
    assert plain.digest_input != changed.digest_input


@pytest.mark.parametrize(
    ("type_", "schema", "is_known"),
    [
        ("com.example.lms", None, True),
        ("com.example.lms.seen.v1", None, True),
        ("com.example.lmsx", None, False),
        ("com.example", None, False),
        ("privacy-ledger.openedx", None, True),
        ("privacy-ledger.openedxy", None, False),
        ("org.example.other", "https://schemas.example.com/lms", True),
        ("org.example.other", "https://schemas.example.com/lms/v1.json", True),
        ("org.example.other", "https://schemas.example.com/lmsx", False),
    ],
)
def test_a_prefix_ends_where_a_part_ends(type_: str, schema: str | None, is_known: bool) -> None:  # noqa: FBT001
    """A type of no row is unknown, whatever its data look like."""
    named = format_named("openedx").parser(now=lambda: NOW, takes_untimed=False, takes_unknown=True)
    rows = [
        Route("type", "com.example.lms", lambda one: named(one.data)),
        Route("type", "privacy-ledger.openedx", lambda one: named(one.data)),
        Route("dataschema", "https://schemas.example.com/lms", lambda one: named(one.data)),
    ]
    found = Routed(rows)(event(type=type_, dataschema=schema))
    assert (found is not Refusal.UNKNOWN_EVENT) == is_known


def test_the_longest_prefix_counts_and_a_type_before_a_schema() -> None:
    """So that a row for all of a producer's events leaves room for one of them."""

    def answer(refusal: Refusal) -> Any:  # noqa: ANN401 - a reader that says which it was
        return lambda _: refusal

    rows = [
        Route("dataschema", "urn:example:a:long:schema", answer(Refusal.SECRET)),
        Route("type", "com.example", answer(Refusal.NOT_JSON)),
        Route("type", "com.example.lms", answer(Refusal.TOO_DEEP)),
    ]
    sent = [
        event(type=name, dataschema="urn:example:a:long:schema")
        for name in ("com.example.lms.x", "com.example.y", "z")
    ]
    assert [Routed(rows)(one) for one in sent] == [Refusal.TOO_DEEP, Refusal.NOT_JSON, Refusal.SECRET]


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (event(type="com.example.seen"), Refusal.UNKNOWN_EVENT),
        (event(None), Refusal.NULL_VALUE),
        (event([LOGGED]), Refusal.NOT_AN_OBJECT),
        (event("text"), Refusal.NOT_AN_OBJECT),
        (event(datacontenttype="text/plain", data="text"), Refusal.NOT_JSON),
        (event(dataclassification="unheard-of"), Refusal.UNKNOWN_CLASSIFICATION),
        (event({**LOGGED, "time": None}), Refusal.TIME_MISSING),
        (event(id=""), Refusal.SCHEMA_MISMATCH),
        (b"[]", Refusal.NOT_AN_OBJECT),
    ],
)
def test_a_refusal_says_its_reason(line: bytes, refusal: Refusal) -> None:
    """Of the envelope first, then of the data."""
    assert parser()(line) is refusal


def test_an_operators_row_counts_before_one_of_the_package() -> None:
    """Of equal prefixes the operator's is the first."""
    named = format_named("cloudevents", data_formats={"privacy-ledger.openedx": "xapi"})
    found = named.parser(now=lambda: NOW, takes_untimed=False, takes_unknown=True)(
        event(type="privacy-ledger.openedx")
    )
    assert found is Refusal.SCHEMA_MISMATCH


def test_every_row_of_the_table_names_a_format_that_is_there() -> None:
    """And each attribute and prefix stands once."""
    names = {name for _, _, name in TABLE}
    known = set(FormatName().get_metavar(None).strip("[]").split("|"))  # type: ignore[arg-type] # it is not looked at
    assert names <= known - {"cloudevents"}
    assert len({(attribute, prefix) for attribute, prefix, _ in TABLE}) == len(TABLE)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([f"{prefix}.x" for attribute, prefix, _ in TABLE if attribute == "type"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
        max_leaves=12,
    ),
)
def test_any_data_have_an_outcome(type_: str, data: object) -> None:
    """Of every format that the table names."""
    assert isinstance(parser()(event(data, type=type_)), Parsed | Refusal)


def test_an_event_of_another_mode_is_read_by_the_same_rows() -> None:
    """As a service or a bridge hands it over."""
    routed = format_named("cloudevents").line_parser
    assert isinstance(routed, Routed)
    sent = CloudEvent(
        id="e-1",
        source="https://lms.example.com",
        type="privacy-ledger.openedx",
        data=json.dumps(LOGGED).encode(),
    )
    assert people_of(routed.read(sent)) == people_of(parser()(event()))
