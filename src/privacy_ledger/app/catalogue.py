"""The published description of every event: JSON Schemas, AsyncAPI document and catalogue.

Pure: events, rules and topics in, documents out. The same input gives the same bytes, so that a
test can compare `schemas/` with what this module says.
"""

from typing import Any, Final

import msgspec

from privacy_ledger.app._asyncapi import asyncapi
from privacy_ledger.domain.events import (
    COLLECTION_EVENTS,
    CONTROL_FACTS,
    CONTROL_RECORDS,
    event_type,
)
from privacy_ledger.domain.events.base import LABEL, Fact
from privacy_ledger.domain.events.control import ControlFact, ControlRecord
from privacy_ledger.domain.rules import EventRule, Registry, Rules, is_family
from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_UNATTRIBUTED, TOPICS
from privacy_ledger.domain.values import LawfulBasis

__all__ = ["DIALECT", "documents", "event_schema"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The JSON Schema dialect of every schema here; a name that nothing needs to fetch."""

_KEY_OF_SUBJECT: Final = "subject reference (16 bytes), record id (16 bytes)"
_KEY_OF_ALL: Final = "sixteen zero bytes, record id (16 bytes)"

_ControlKind = type[ControlFact] | type[ControlRecord]
_CONTROL: Final[tuple[_ControlKind, ...]] = (*CONTROL_FACTS, *CONTROL_RECORDS)

_Json = dict[str, Any]
"""A JSON object in the making; its shape is JSON Schema's or AsyncAPI's."""


def documents(registry: Registry) -> dict[str, bytes]:
    """Return every file of `schemas/` by its path there, in the order of the paths.

    Raises:
        LookupError: an event has no row in `registry`; check its coverage first.
    """
    rules = Rules(registry)
    files = {"catalogue.json": _catalogue(rules), "registry.json": _schema(Registry, "registry")}
    for kind in COLLECTION_EVENTS:
        files[_path(kind)] = event_schema(kind, _rule(rules, kind))
    for control in _CONTROL:
        files[_path(control)] = _control_schema(control)
    encoded = {path: _encode(document) for path, document in files.items()}
    encoded["asyncapi.yaml"] = asyncapi(TOPICS, {path: files[path] for path in sorted(files) if "/" in path})
    return dict(sorted(encoded.items()))


def event_schema(kind: type[Fact], rule: EventRule) -> _Json:
    """Return the closed JSON Schema of one event version, with what the rules say about it."""
    marks = {
        "x-category": str(kind.category),
        "x-provenance": str(kind.provenance),
        "x-purposes": list(rule.purposes),
    }
    return _schema(kind, f"event:{event_type(kind)}", marks)


def _control_schema(kind: _ControlKind) -> _Json:
    scope = "one subject" if issubclass(kind, ControlFact) else "every partition"
    return _schema(kind, f"control:{event_type(kind)}", {"x-scope": scope})


def _schema(kind: type[msgspec.Struct], name: str, marks: _Json | None = None) -> _Json:
    """Return msgspec's schema of a struct with the struct itself at the root."""
    generated = msgspec.json.schema(kind)
    definitions = dict(generated["$defs"])
    root = dict(definitions.pop(kind.__name__))
    head: _Json = {
        "$schema": DIALECT,
        "$id": f"urn:privacy-ledger:{name}",
        "title": root.pop("title"),
        "description": root.pop("description"),
        **(marks or {}),
    }
    tail = {"$defs": dict(sorted(definitions.items()))} if definitions else {}
    return head | root | tail


def _catalogue(rules: Rules) -> _Json:
    registry = rules.registry
    return {
        "events": [_event_entry(rules, kind) for kind in sorted(COLLECTION_EVENTS, key=event_type)],
        "control": [_control_entry(kind) for kind in sorted(_CONTROL, key=event_type)],
        "purposes": msgspec.to_builtins(registry.purposes),
        "categories": msgspec.to_builtins(registry.categories),
        "products": msgspec.to_builtins(registry.products),
        "topics": [
            {"name": topic.name, "policy": topic.policy, "holds": topic.holds,
             "writers": topic.writers, "readers": topic.readers}
            for topic in TOPICS
        ],
    }  # fmt: skip


def _event_entry(rules: Rules, kind: type[Fact]) -> _Json:
    rule = _rule(rules, kind)
    return {
        "type": rule.type,
        "title": kind.__name__,
        "description": _description(kind),
        "schema": _path(kind),
        "topic": LEDGER_EVENTS,
        "topic_without_subject": LEDGER_UNATTRIBUTED,
        "key": _KEY_OF_SUBJECT,
        "category": str(kind.category),
        "provenance": str(kind.provenance),
        "purposes": [_purpose_entry(rules, purpose) for purpose in rule.purposes],
        "retention_months": rules.retention_months(kind.category),
        "key_group": _key_group(rules, kind, rule),
        "fields": _fields(kind),
        "source": rule.source,
        "confidence": rule.confidence,
    }


def _key_group(rules: Rules, kind: type[Fact], rule: EventRule) -> str:
    """Return the group that seals an event; one of a study has the study's own."""
    if any(map(is_family, rule.purposes)):
        return f"{kind.category}+programme"
    return rules.key_group(kind.category, rule.purposes)


def _control_entry(kind: _ControlKind) -> _Json:
    return {
        "type": event_type(kind),
        "title": kind.__name__,
        "description": _description(kind),
        "schema": _path(kind),
        "topic": LEDGER_EVENTS,
        "key": _KEY_OF_SUBJECT if issubclass(kind, ControlFact) else _KEY_OF_ALL,
        "fields": _fields(kind),
    }


def _purpose_entry(rules: Rules, purpose: str) -> _Json:
    if is_family(purpose):  # a study or a beta: one that is opened has a row of its own
        return {"id": purpose, "basis": str(LawfulBasis.CONSENT), "dpv": "edu:ResearchUserStudyManagement"}
    rule = rules.purpose(purpose)
    if rule is None:
        raise LookupError(f"Purpose {purpose} has no row in the registry. Check its coverage first.")
    return {"id": rule.id, "basis": str(rule.basis), "dpv": rule.dpv}


def _fields(kind: type[msgspec.Struct]) -> list[_Json]:
    """Return name, need and export label of each field, in the order of the wire."""
    schema = msgspec.json.schema(kind)["$defs"][kind.__name__]
    return [
        {"name": name, "is_required": name in schema["required"], "label": _label(member)}
        for name, member in schema["properties"].items()
        if name != "type"
    ]


def _label(member: _Json) -> str | None:
    for schema in (member, *member.get("anyOf", ())):
        if LABEL in schema:
            return str(schema[LABEL])
    return None


def _rule(rules: Rules, kind: type[Fact]) -> EventRule:
    rule = rules.event(event_type(kind))
    if rule is None:
        raise LookupError(f"Event {event_type(kind)} has no row in the registry. Check its coverage first.")
    return rule


def _description(kind: type[msgspec.Struct]) -> str:
    return str(msgspec.json.schema(kind)["$defs"][kind.__name__]["description"])


def _path(kind: type[Fact] | _ControlKind) -> str:
    folder = "events" if issubclass(kind, Fact) else "control"
    return f"{folder}/{event_type(kind)}.json"


def _encode(document: _Json) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
