"""From a body to the events in it: one, an array of them, or lines; each will have an outcome of its own."""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.formats.json_lines import LINE_BYTES_MAX
from privacy_ledger.domain.events import event_type
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.http.problems import Kind, Problem
from privacy_ledger.ports.formats import Format, Parsed

__all__ = [
    "BATCH_TYPE",
    "ITEMS_MAX",
    "JSON_TYPES",
    "LINE_TYPES",
    "Item",
    "Lines",
    "Reader",
    "media_type",
    "scoped",
    "split",
]

ITEMS_MAX: Final = 1000
JSON_TYPES: Final = frozenset({"application/json", "application/cloudevents+json"})
LINE_TYPES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
BATCH_TYPE: Final = "application/cloudevents-batch+json"
_BOM: Final = b"\xef\xbb\xbf"
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder(msgspec.Raw).decode

Lines = Iterable[tuple[int, bytes | Refusal]]
Item = tuple[int, bytes | Refusal]
"""The place of an item in its request, from 0, and an event of it: an item may hold several."""


class Reader(Struct, frozen=True):
    """A format as requests name it: its parser, and what cuts a line into its events.

    `is_text`: an event may be text that is no JSON. `of_headers` makes a line of header fields and a body.
    """

    name: str
    parse: Format
    events: Callable[[Lines], Lines]
    is_text: bool = False
    of_headers: Callable[[Iterable[tuple[str, str]], bytes], bytes | Refusal] | None = None


def media_type(content_type: str) -> str:
    """Return the media type without its parameters, in lower case (RFC 9110, 8.3.1)."""
    return content_type.partition(";")[0].strip(" \t").lower()


def split(body: bytes, media: str, reader: Reader) -> list[Item]:
    """Return the events of a body, in order; a line that cannot be read is a refusal in its place.

    Raises:
        Problem: the body is not what its media type says, or holds more than `ITEMS_MAX` items or events.
    """
    body = body.removeprefix(_BOM)
    if media in LINE_TYPES:
        lines = [line for line in (one.strip() for one in body.splitlines()) if line]
    elif reader.is_text and media == "text/plain":
        lines = [body.strip()]
    else:
        lines = _of_json(body.strip(), is_batch=media == BATCH_TYPE)
    if len(lines) > ITEMS_MAX:
        raise Problem(Kind.TOO_MANY_ITEMS)
    items: list[Item] = []
    for place, one in reader.events(_bounded(lines)):
        items.append((place, one if type(one) is Refusal or one.strip() else Refusal.NOT_JSON))
        if len(items) > ITEMS_MAX:
            raise Problem(Kind.TOO_MANY_ITEMS)
    return items


def _bounded(lines: Iterable[bytes]) -> Iterable[tuple[int, bytes | Refusal]]:
    for place, line in enumerate(lines):
        yield place, line if len(line) <= LINE_BYTES_MAX else Refusal.LINE_TOO_LONG


def _of_json(body: bytes, *, is_batch: bool) -> list[bytes]:
    """Return the items of an array, or the one document that the body is; nothing is decoded any further."""
    is_array = body[:1] == b"["
    try:
        body.decode()
        if is_array:
            return [bytes(one).strip() for one in _decode_array(body)]
        _decode_any(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Problem(Kind.BODY_INVALID) from None
    if is_batch or body[:1] != b"{":
        raise Problem(Kind.SHAPE)
    return [body]


def scoped(parse: Format, types: frozenset[str]) -> Format:
    """Return a parser that refuses what makes facts of any other type; without types, all are allowed."""
    if not types:
        return parse

    def within(line: bytes, /) -> Parsed | Refusal:
        found = parse(line)
        if type(found) is Refusal:
            return found
        facts = [fact for person in found.people for fact in person.facts] + list(found.unattributed)
        return found if all(event_type(fact) in types for fact in facts) else Refusal.OUT_OF_SCOPE

    return within
