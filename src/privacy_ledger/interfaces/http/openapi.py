"""The service's description (OpenAPI 3.1), and a page of it that loads nothing from anywhere."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from typing import Any, Final

import msgspec

from privacy_ledger.app.ingest import Outcome
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.http import problems
from privacy_ledger.interfaces.http.batches import BATCH_TYPE, ITEMS_MAX
from privacy_ledger.interfaces.http.bodies import BODY_BYTES_MAX
from privacy_ledger.interfaces.http.problems import Kind

__all__ = ["document", "encoded", "page"]

Members = dict[str, Any]
_EVENTS: Final = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503)
_WEBHOOKS: Final = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503)
_ABOUT: Final = (
    "Events become sealed records, one for each person they are about, or a reason code. An answer says what "
    "became of each event, in the order of the request; `accepted` is durable. Sending again is safe."
)
_STYLE: Final = (
    "body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
    "code{background:#eee;padding:0 .2em}td,th{text-align:left;padding:.1em 1em .1em 0;vertical-align:top}"
)


def document(*, formats: Sequence[str], partners: Sequence[str]) -> Members:
    """Return the description of the paths, for these formats and these partners' webhooks."""
    named = {"name": "format", "required": True, "schema": {"type": "string", "enum": sorted(formats)}}
    repeated = {
        "name": "Idempotency-Key", "in": "header", "required": False,
        "description": "The same key and request get the same answer, for an hour.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    }  # fmt: skip
    by_type = _operation(
        "Events of the format that the content type tells", "events_by_type", _EVENTS,
        parameters=[{**named, "in": "query", "required": False}, repeated],
        media=("application/cloudevents+json", BATCH_TYPE, "application/json", "application/x-ndjson"),
    )  # fmt: skip
    by_name = _operation(
        "Events of a format", "events_by_name", _EVENTS, parameters=[{**named, "in": "path"}, repeated],
        media=("application/json", "application/x-ndjson"),
    )  # fmt: skip
    paths: Members = {"/v1/events": {"post": by_type}, "/v1/events/{format}": {"post": by_name}}
    for partner in sorted(partners):
        hook = _operation(f"Webhooks of {partner}, signed by it", f"webhook_{partner}", _WEBHOOKS)
        paths[f"/v1/webhooks/{partner}"] = {"post": {**hook, "security": []}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Privacy ledger", "version": version("privacy-ledger"), "description": _ABOUT},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Answer": _answer(), "Problem": _problem()},
        },
    }


def encoded(described: Members) -> bytes:
    """Return the description as JSON."""
    return msgspec.json.encode(described)


def page(described: Members) -> str:
    """Return the description as one page for people: no script, no image, no font, no link elsewhere."""
    title = f"{escape(described['info']['title'])} {escape(described['info']['version'])}"
    intro = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(_ABOUT)}</p><p>As OpenAPI: <code>/openapi.json</code>. A request has at "
        f"most {ITEMS_MAX:,} events and {BODY_BYTES_MAX >> 20} MiB, inflated; <code>Content-Encoding: gzip"
        "</code> is taken. Send the API key as <code>Authorization: Bearer KEY</code>.</p>"
    )
    parts = [intro]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(_section(method, path, operation))
    rows = "".join(
        f"<tr><td>{kind.status}<td><code>{kind.code}</code><td>{escape(kind.sentence)}" for kind in Kind
    )
    parts.append(f"<h2>Problems</h2><table><tr><th>Status<th>Type ends in<th>Says{rows}</table></html>")
    return "".join(parts)


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    media = ", ".join(f"<code>{escape(name)}</code>" for name in operation["requestBody"]["content"])
    statuses = ", ".join(operation["responses"])
    names = [name for one in operation["parameters"] for name in one["schema"].get("enum", ())]
    listed = f"<p>Formats: {', '.join(map(escape, names))}." if names else ""
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.{listed}"
        f"<p>Content types: {media}.<p>Answers: {statuses}."
    )


def _operation(
    summary: str,
    name: str,
    statuses: Sequence[int],
    *,
    parameters: Sequence[Members] = (),
    media: Sequence[str] = ("application/json",),
) -> Members:
    responses: Members = {
        "200": {
            "description": "What became of each event.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}},
        }
    }
    for status in statuses:
        sentences = [kind.sentence for kind in Kind if kind.status == status]
        responses[str(status)] = {
            "description": " Or: ".join(sentences),
            "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return {
        "summary": summary, "operationId": name, "parameters": list(parameters),
        "requestBody": {"required": True, "content": {one: {"schema": {}} for one in media}},
        "responses": responses,
    }  # fmt: skip


def _answer() -> Members:
    outcomes = [str(one) for one in Outcome if one is not Outcome.MALFORMED]
    result: Members = {
        "type": "object", "required": ["item", "outcome"], "additionalProperties": False,
        "properties": {
            "item": {"type": "integer", "minimum": 0, "description": "The place in the request, from 0."},
            "outcome": {"enum": outcomes},
            "reason": {"enum": [str(one) for one in Refusal], "description": "Why it was refused."},
        },
    }  # fmt: skip
    return {
        "type": "object", "required": ["results", "counts"], "additionalProperties": False,
        "properties": {
            "results": {"type": "array", "items": result, "maxItems": ITEMS_MAX},
            "counts": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
        },
    }  # fmt: skip


def _problem() -> Members:
    text = {"type": "string"}
    return {
        "type": "object", "required": ["type", "title", "status"], "additionalProperties": False,
        "properties": {"type": text, "title": text, "status": {"type": "integer"}, "reason": text},
    }  # fmt: skip
