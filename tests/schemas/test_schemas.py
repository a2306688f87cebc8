"""`schemas/` says what the code says, is valid, and keeps what was released."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped] # ships no types
import msgspec
import pytest
import yaml

from privacy_ledger.domain.events import COLLECTION_EVENTS, CONTROL_FACTS, CONTROL_RECORDS, event_type
from privacy_ledger.domain.topics import TOPICS
from tests.schemas.examples import example
from tests.schemas.regenerate import RELEASED, SCHEMAS, digest, generated, released

EVENTS: tuple[type[msgspec.Struct], ...] = (*COLLECTION_EVENTS, *CONTROL_FACTS, *CONTROL_RECORDS)
EACH_EVENT = pytest.mark.parametrize("kind", EVENTS, ids=event_type)
FILES = generated()


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the generated schema of an event class."""
    folder = "events" if kind in COLLECTION_EVENTS else "control"
    schema: dict[str, Any] = json.loads(FILES[f"{folder}/{event_type(kind)}.json"])
    return schema


def references(document: object) -> Iterator[str]:
    """Yield every `$ref` in a document."""
    if isinstance(document, dict):
        if isinstance(target := document.get("$ref"), str):
            yield target
        for member in document.values():
            yield from references(member)
    elif isinstance(document, list):
        for item in document:
            yield from references(item)


def resolve(document: Any, pointer: str) -> object:  # noqa: ANN401 - any JSON value
    """Return what a local JSON pointer leads to.

    Raises:
        KeyError: it leads nowhere.
    """
    for part in pointer.removeprefix("#/").split("/"):
        document = document[part.replace("~1", "/").replace("~0", "~")]
    return document


def test_the_schemas_folder_holds_what_the_code_generates() -> None:
    """No file is missing, left over or edited by hand; the remedy is `poe schemas`."""
    found = {
        path.relative_to(SCHEMAS).as_posix(): path.read_bytes()
        for path in SCHEMAS.rglob("*")
        if path.is_file()
    }
    found.pop(RELEASED)

    assert set(found) == set(FILES), "run `poe schemas`"
    assert [path for path in FILES if found[path] != FILES[path]] == [], "run `poe schemas`"


def test_generation_is_deterministic() -> None:
    """Two runs give the same bytes in the same order."""
    assert list(generated().items()) == list(FILES.items())


@pytest.mark.parametrize("path", sorted(released()))
def test_a_released_file_never_changes(path: str) -> None:
    """A frozen event file keeps its bytes for ever; a new meaning is a new version beside it."""
    now = digest(FILES[path]) if path in FILES else "gone"

    assert now == released()[path], f"{path} is released: restore its event, and add the next version"


def test_every_event_file_is_frozen() -> None:
    """An event that is generated is also released; the remedy for a new one is `--release`."""
    expected = {path for path in FILES if "/" in path}

    assert expected == set(released()), "run `python -m tests.schemas.regenerate --release`"


@pytest.mark.parametrize(
    "path", sorted({path for path in FILES if path.endswith(".json")} - {"catalogue.json"})
)
def test_every_schema_is_valid(path: str) -> None:
    """Each schema obeys its own dialect."""
    jsonschema.Draft202012Validator.check_schema(json.loads(FILES[path]))


@EACH_EVENT
@pytest.mark.parametrize("is_full", [True, False], ids=["full", "least"])
def test_an_encoded_event_matches_its_schema(kind: type[msgspec.Struct], *, is_full: bool) -> None:
    """What the encoder writes is what the schema says, and the decoder reads it back."""
    event = example(kind, is_full=is_full)

    encoded = msgspec.json.encode(event)

    jsonschema.Draft202012Validator(schema_of(kind)).validate(json.loads(encoded))
    assert event == msgspec.json.decode(encoded, type=kind)


@EACH_EVENT
def test_an_unknown_member_is_refused_by_schema_and_decoder_alike(kind: type[msgspec.Struct]) -> None:
    """Models are closed: a member that nobody declared cannot carry personal values."""
    document = {**json.loads(msgspec.json.encode(example(kind, is_full=True))), "undeclared": 1}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema_of(kind)).validate(document)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(document), type=kind)


@EACH_EVENT
def test_every_schema_is_described_and_closed(kind: type[msgspec.Struct]) -> None:
    """A reader finds what the event means; the class of a collection event also says its rules."""
    schema = schema_of(kind)

    assert schema["description"].endswith(".")
    assert schema["additionalProperties"] is False
    assert schema["title"] == kind.__name__
    if kind in COLLECTION_EVENTS:
        assert {"x-category", "x-provenance", "x-purposes"} <= set(schema)


def test_the_asyncapi_document_has_every_topic_and_event() -> None:
    """Channels follow from the topics, messages from the events, and nothing else is in it."""
    document = yaml.safe_load(FILES["asyncapi.yaml"])

    assert list(document["channels"]) == [topic.name for topic in TOPICS]
    assert set(document["components"]["messages"]) == {*map(event_type, EVENTS), "registry"}


def test_every_reference_of_the_asyncapi_document_resolves_offline() -> None:
    """A reference leads to this document or to a file beside it."""
    document = yaml.safe_load(FILES["asyncapi.yaml"])
    targets = set(references(document))

    assert targets
    for target in targets:
        if target.startswith("#/"):
            resolve(document, target)
        else:
            assert target.removeprefix("./") in FILES, target


@EACH_EVENT
def test_every_reference_of_a_schema_resolves(kind: type[msgspec.Struct]) -> None:
    """An event's schema needs no other file."""
    schema = schema_of(kind)

    for target in references(schema):
        resolve(schema, target)


def test_the_catalogue_says_the_lawful_basis_and_the_period_of_every_event() -> None:
    """Purpose, basis, category, retention and source are public for each collection event."""
    events = {entry["type"]: entry for entry in json.loads(FILES["catalogue.json"])["events"]}
    paused = events["video.paused.v1"]

    assert set(events) == set(map(event_type, COLLECTION_EVENTS))
    assert paused["purposes"][0] == {
        "id": "course.deliver",
        "basis": "A6-1-b",
        "dpv": "edu:StudentContentDelivery",
    }
    assert (paused["category"], paused["retention_months"]) == ("patterns", 12)
    assert paused["fields"][-1] == {"name": "position_ms", "is_required": False, "label": None}


def test_the_yaml_is_read_back_as_it_was_written() -> None:
    """Words that YAML would turn into something else stay text."""
    document = yaml.safe_load(FILES["asyncapi.yaml"])

    assert document["asyncapi"] == "3.0.0"
    assert document["components"]["messages"]["tick.v1"]["x-scope"] == "every partition"
