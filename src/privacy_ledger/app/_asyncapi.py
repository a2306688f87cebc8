"""The AsyncAPI document of the topics, and the few lines of YAML that it needs."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_REGISTRY, LEDGER_UNATTRIBUTED, Topic

__all__ = ["asyncapi", "yaml"]

ASYNCAPI: Final = "3.0.0"
KAFKA_BINDING: Final = "0.5.0"
JSON_SCHEMA_FORMAT: Final = "application/schema+json;version=draft-2020-12"
API_VERSION: Final = "1.0.0"
"""The version of the described interface; each event's own version is in its type."""

_DESCRIPTION: Final = (
    "The topics of the privacy ledger. A collection event travels sealed: its record's value is "
    "ciphertext under a key of its data subject, and the payload described here is what the key opens. "
    "Control events are not sealed. Topics without messages are private to the roles named there."
)
_KEYS: Final = {
    LEDGER_EVENTS: "Subject reference (sixteen zero bytes for control records), then record id: 32 bytes.",
    LEDGER_UNATTRIBUTED: "Random bytes.",
    LEDGER_REGISTRY: "The registry's key.",
}
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./()-]*(?: [A-Za-z0-9_./()-]+)*")
_WORDS_OF_YAML: Final = frozenset({"false", "n", "no", "null", "off", "on", "true", "y", "yes"})

Json = dict[str, Any]
"""A JSON object in the making."""


def asyncapi(topics: Sequence[Topic], schemas: Mapping[str, Json]) -> bytes:
    """Return the document for these topics; `schemas` are the event schemas by path.

    Every reference is to this document or to a file beside it: nothing is fetched.
    """
    messages = {_name(path): _message(path, schema) for path, schema in schemas.items()}
    messages["registry"] = {
        "name": "registry",
        "title": "Registry",
        "summary": "One complete registry document.",
        "contentType": "application/json",
        "payload": _payload("registry.json"),
    }
    document: Json = {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "privacy-ledger",
            "version": API_VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic, tuple(schemas)) for topic in topics},
        "operations": {name: operation for topic in topics for name, operation in _operations(topic)},
        "components": {"messages": messages},
    }
    return ("\n".join(yaml(document)) + "\n").encode()


def yaml(value: Json, indent: int = 0) -> Iterator[str]:
    """Yield the lines of a JSON object as block YAML; lists of scalars stay on one line."""
    pad = "  " * indent
    for key, member in value.items():
        name = _scalar(key)
        if isinstance(member, dict) and member:
            yield f"{pad}{name}:"
            yield from yaml(member, indent + 1)
        elif isinstance(member, list | tuple):
            yield f"{pad}{name}: [{', '.join(_scalar(item) for item in member)}]"
        else:
            yield f"{pad}{name}: {_scalar(member)}"


def _scalar(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML:
        return value
    return json.dumps(value)


def _channel(topic: Topic, paths: Sequence[str]) -> Json:
    names = _carried(topic.name, paths)
    messages = {name: {"$ref": f"#/components/messages/{name}"} for name in names}
    partitions = {} if topic.partitions is None else {"partitions": topic.partitions}
    return {
        "address": topic.name,
        "description": f"Holds: {topic.holds}.",
        **({"messages": messages} if messages else {}),
        "bindings": {
            "kafka": {
                "topic": topic.name,
                **partitions,
                "topicConfiguration": _configuration(topic),
                "bindingVersion": KAFKA_BINDING,
            }
        },
        "x-key": _KEYS.get(topic.name, "Private to the roles named here."),
    }


def _configuration(topic: Topic) -> Json:
    config = topic.config()
    periods: Json = {
        name: int(config[name]) for name in ("retention.ms", "delete.retention.ms") if name in config
    }
    return {"cleanup.policy": [topic.policy], **periods}


def _carried(topic: str, paths: Sequence[str]) -> tuple[str, ...]:
    match topic:
        case "ledger.events.v1":
            return tuple(_name(path) for path in paths)
        case "ledger.unattributed.v1":
            return tuple(_name(path) for path in paths if path.startswith("events/"))
        case "ledger.registry.v1":
            return ("registry",)
        case _:
            return ()


def _operations(topic: Topic) -> Iterator[tuple[str, Json]]:
    for action, verb, roles in (("send", "writes", topic.writers), ("receive", "reads", topic.readers)):
        for role in roles:
            yield (
                f"{role}-{verb}-{topic.name}",
                {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{topic.name}"},
                    "summary": f"The role {role} {verb} {topic.holds}.",
                },
            )


def _message(path: str, schema: Json) -> Json:
    marks = {name: mark for name, mark in schema.items() if name.startswith("x-")}
    return {
        "name": _name(path),
        "title": schema["title"],
        "summary": schema["description"],
        "contentType": "application/json",
        "payload": _payload(path),
        **marks,
    }


def _payload(path: str) -> Json:
    return {"schemaFormat": JSON_SCHEMA_FORMAT, "schema": {"$ref": f"./{path}"}}


def _name(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")
