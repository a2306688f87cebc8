"""Messages of the event bus as lines: by type alone, without their keys."""

import json
from pathlib import Path
from typing import Final

import msgspec
import pytest

from privacy_ledger.adapters.formats.openedx_messages import BusMessages, schemas_in
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.refusals import Refusal

KIND: Final = "org.openedx.learning.thing.v1"
FILE: Final = "org+openedx+learning+thing+v1_schema.avsc"


def test_a_message_is_its_headers_its_value_and_the_schema_of_its_type() -> None:
    """Other headers, such as traces, stay out."""
    messages = BusMessages({KIND: msgspec.Raw(b'{"type":"record"}')})
    headers = [("ce_type", KIND.encode()), ("content-type", b"application/avro"), ("trace", b"\xff")]
    line = messages(headers, b"\0\0\0\0\1abc")
    assert isinstance(line, bytes)
    assert json.loads(line) == {
        "headers": {"ce_type": KIND, "content-type": "application/avro"}, "value": "AAAAAAFhYmM=",
        "schema": {"type": "record"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], Refusal.UNKNOWN_EVENT),
        ([("ce_type", b"another")], Refusal.UNKNOWN_EVENT),
        ([("ce_type", b"\xff")], Refusal.NOT_UTF8),
    ],
)
def test_what_has_no_schema_is_told(headers: list[tuple[str, bytes]], reason: Refusal) -> None:
    """A type nobody knows, none, and one that is no text."""
    assert BusMessages({KIND: msgspec.Raw(b"{}")})(headers, b"x") is reason


def test_a_folder_of_schemas_is_read_by_their_names(tmp_path: Path) -> None:
    """Other files are left alone; one that is no schema, or a folder without any, is an error."""
    with pytest.raises(BadInput, match="no schema"):
        schemas_in(tmp_path)
    (tmp_path / FILE).write_text('{"type": "record"}')
    (tmp_path / "README.md").write_text("no schema")
    assert set(schemas_in(tmp_path)) == {KIND}
    (tmp_path / f"broken{FILE}").write_text("{")
    with pytest.raises(BadInput, match="broken"):
        schemas_in(tmp_path)
