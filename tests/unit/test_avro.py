# ruff: noqa: E501 - a table reads by its rows
"""Avro records by schemas from outside: what is read, what is refused, and that its cost is bounded."""

import time
from io import BytesIO
from typing import Any, Final

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats import avro
from privacy_ledger.adapters.formats.avro import (
    SCHEMA_BYTES_MAX,
    SCHEMA_DEPTH_MAX,
    SCHEMA_PARTS_MAX,
    VALUE_BYTES_MAX,
    record_of,
    require_avro,
)
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.cli.formats import format_named
from tests.unit.bus import RECORDS, framed, schema_of

Members = dict[str, Any]

HEAD: Final = b"\0\0\0\0\7"
USER: Final = {
    "type": "record",
    "name": "User",
    "namespace": "a.b",
    "fields": [{"name": "id", "type": "long"}],
}


def record(*types: object, name: str = "Event") -> Members:
    """Return a schema with fields of these types."""
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": f"f{n}", "type": one} for n, one in enumerate(types)],
    }


@pytest.mark.parametrize("type_", sorted(RECORDS))
def test_every_schema_of_the_platform_is_read(type_: str) -> None:
    """As its own library reads it."""
    schema = schema_of(type_)
    assert record_of(framed(RECORDS[type_], schema), schema) == RECORDS[type_]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (record("string", "long", "boolean", "double", "int", "float"), {"f0": "é", "f1": -5, "f2": True, "f3": 0.5, "f4": 3, "f5": 0.25}),
        (record(["null", "string"], ["null", "string"]), {"f0": None, "f1": "x"}),
        (record({"type": "array", "items": "string"}, {"type": "map", "values": ["null", "long"]}), {"f0": ["a", "b"], "f1": {"k": None, "l": 1}}),
        (record({"type": "enum", "name": "E", "symbols": ["A", "B"]}), {"f0": "B"}),
        (record(USER, ["null", "User"], "a.b.User"), {"f0": {"id": 1}, "f1": {"id": 2}, "f2": {"id": 3}}),
        (record({"type": "long", "logicalType": "timestamp-millis"}), {"f0": 5}),
    ],
)  # fmt: skip
def test_a_type_is_read_as_json_has_it(schema: Members, value: Members) -> None:
    """Marks for other readers, such as logical types, change nothing."""
    stream = BytesIO()
    plain = record(USER, ["null", "a.b.User"], "a.b.User") if "User" in str(schema) else schema
    fastavro.schemaless_writer(stream, fastavro.parse_schema(plain), value)
    assert record_of(HEAD + stream.getvalue(), schema) == value


DEEP: Any = "string"
for level in range(SCHEMA_DEPTH_MAX):
    DEEP = record(DEEP, name=f"R{level}")
DOUBLED: Any = record("boolean", name="D0")
for level in range(1, 15):
    DOUBLED = record(DOUBLED, f"D{level - 1}", name=f"D{level}")
CHAIN: Any = "boolean"
for level in range(8):
    CHAIN = record(CHAIN, name=f"C{level}")

UNFIT: Final[dict[str, Any]] = {
    "no record": {"type": "string"},
    "no type": {"name": "Event", "fields": []},
    "no fields": {"type": "record", "name": "Event", "fields": []},
    "no name": {"type": "record", "fields": [{"name": "a", "type": "string"}]},
    "a name that is none": record("string", name="a b"),
    "a primitive's name": record("string", name="string"),
    "a field twice": {"type": "record", "name": "Event", "fields": [{"name": "a", "type": "string"}] * 2},
    "a field's name that is none": {
        "type": "record",
        "name": "Event",
        "fields": [{"name": "a b", "type": "string"}],
    },
    "bytes": record("bytes"),
    "fixed": record({"type": "fixed", "name": "F", "size": 4}),
    "null alone": record("null"),
    "an array of nulls": record({"type": "array", "items": "null"}),
    "an array of chains": record({"type": "array", "items": CHAIN}),
    "a map of chains": record({"type": "map", "values": CHAIN}),
    "a union in a union": record(["null", ["string"]]),
    "an empty union": record([]),
    "two of one type": record(["string", "string"]),
    "an enum without symbols": record({"type": "enum", "name": "E", "symbols": []}),
    "a symbol twice": record({"type": "enum", "name": "E", "symbols": ["A", "A"]}),
    "a type that is not there": record("Other"),
    "one that holds itself": {
        "type": "record",
        "name": "Event",
        "fields": [{"name": "a", "type": ["null", "Event"]}],
    },
    "a name twice": record(record("string", name="A"), record("string", name="A")),
    "too deep": record(DEEP),
    "too many parts": record(*["string"] * SCHEMA_PARTS_MAX),
    "doubled": DOUBLED,
    "too long": record("string") | {"doc": "x" * SCHEMA_BYTES_MAX},
    "a list": ["record"],
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_schema_that_could_cost_more_than_its_bytes_is_refused(case: str) -> None:
    """As one that is none: before a byte of the value is read."""
    schema = UNFIT[case]
    found = record_of(HEAD + b"\2" * 200, schema if isinstance(schema, dict) else {"type": schema})
    assert found is Refusal.SCHEMA_MISMATCH


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        (b"", Refusal.SCHEMA_MISMATCH),
        (b"\0\0\0\0", Refusal.SCHEMA_MISMATCH),
        (b"\1\0\0\0\7\2a", Refusal.SCHEMA_MISMATCH),
        (HEAD, Refusal.SCHEMA_MISMATCH),
        (HEAD + b"\2a\2a", Refusal.SCHEMA_MISMATCH),
        (HEAD + b"\4a", Refusal.SCHEMA_MISMATCH),
        (HEAD + b"\1", Refusal.SCHEMA_MISMATCH),
        (HEAD + b"\2\xff", Refusal.SCHEMA_MISMATCH),
        (HEAD + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7fa", Refusal.SCHEMA_MISMATCH),
        (HEAD + b"\xff" * 30, Refusal.SCHEMA_MISMATCH),
        (HEAD + b"x" * VALUE_BYTES_MAX, Refusal.LINE_TOO_LONG),
    ],
)
def test_bytes_that_are_no_record_are_refused(value: bytes, refusal: Refusal) -> None:
    """Cut, too long, more than one, of no framing."""
    assert record_of(value, record("string")) is refusal


def test_the_dearest_record_costs_little() -> None:
    """An array of what is smallest, as long as a value may be."""
    schema = record({"type": "array", "items": {"type": "array", "items": "boolean"}})
    started = time.process_time()
    found = record_of(HEAD + b"\x80\x80\x10" + b"\0" * (VALUE_BYTES_MAX - 8), schema)
    assert isinstance(found, dict | Refusal)
    assert time.process_time() - started < 2


def test_without_the_extra_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no value is read; data of CloudEvents, which is JSON, needs none."""
    monkeypatch.setattr(avro, "fastavro", None)
    with pytest.raises(BadInput, match=r'python -m pip install "privacy-ledger\[avro\]"'):
        format_named("openedx-bus")
    assert record_of(HEAD + b"\2a", record("string")) is Refusal.SCHEMA_MISMATCH
    assert format_named("cloudevents").name == "cloudevents"


def test_with_the_extra_nothing_is_said() -> None:
    """The format is there."""
    require_avro()
    assert format_named("openedx-bus").name == "openedx-bus"


# Anything --------------------------------------------------------------------------------

KINDS: Final = st.sampled_from(
    ("string", "long", "null", "boolean", "bytes", "Event", "R", "record", "enum", "array", "map")
)
TYPES: Final = st.recursive(
    KINDS | st.none() | st.integers(0, 3),
    lambda inner: st.lists(inner, max_size=3) | st.fixed_dictionaries(
        {"type": st.sampled_from(("record", "enum", "array", "map", "fixed", "string"))},
        optional={
            "name": KINDS, "items": inner, "values": inner, "size": st.integers(0, 9), "symbols": st.lists(KINDS, max_size=2),
            "fields": st.lists(st.fixed_dictionaries({"name": KINDS, "type": inner}), max_size=3),
        },
    ),
    max_leaves=10,
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.lists(TYPES, min_size=1, max_size=3), st.binary(max_size=60))
def test_any_schema_and_any_bytes_have_an_outcome(types: list[object], value: bytes) -> None:
    """A record, or a refusal."""
    assert isinstance(record_of(HEAD + value, record(*types)), dict | Refusal)
