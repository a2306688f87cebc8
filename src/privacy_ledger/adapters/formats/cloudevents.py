"""CloudEvents 1.0: the events of HTTP requests, Kafka messages and JSON text, in every mode.

Rules: CloudEvents 1.0.2, its JSON event format, its HTTP and Kafka protocol bindings, and its extension
of data classification. Pure and total. An event without data is refused: on a compacted topic
it would be a tombstone. So is one whose classification nobody here knows. A record's key is never read.
"""

import binascii
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, cast
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.formats.arrays import array_items
from privacy_ledger.adapters.formats.json_lines import LINE_BYTES_MAX, decode_json, decode_object
from privacy_ledger.adapters.formats.screen import screen
from privacy_ledger.adapters.formats.times import parse_time
from privacy_ledger.domain.refusals import Refusal

__all__ = [
    "ATTRIBUTES_MAX",
    "CLASSIFICATIONS",
    "VALUE_CHARS_MAX",
    "CloudEvent",
    "read_http",
    "read_kafka",
    "read_structured",
]

ATTRIBUTES_MAX: Final = 64
VALUE_CHARS_MAX: Final = 2048
CLASSIFICATIONS: Final = frozenset(("public", "internal", "confidential", "restricted"))
"""The labels that the extension of data classification gives."""
_NAME: Final = re.compile(r"[a-z0-9]{1,64}")
_NONCHARACTERS: Final = "".join(
    f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)
)
_STRING: Final = re.compile(rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]+")
_URI_REFERENCE: Final = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:.+")
_TOKEN: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~\-]+"  # noqa: S105 - a word of RFC 9110
_MEDIA_TYPE: Final = re.compile(rf'{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|"[^"\\]*"))*')
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_LONE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_INTEGER_MIN: Final = -(1 << 31)
_INTEGER_MAX: Final = (1 << 31) - 1
_REQUIRED: Final = ("id", "source", "type")
_CORE: Final = frozenset((*_REQUIRED, "specversion", "datacontenttype", "dataschema", "subject", "time"))
_STRUCTURED: Final = "application/cloudevents"
_encode = msgspec.json.Encoder(order="sorted").encode


class CloudEvent(Struct, frozen=True, kw_only=True, gc=False):
    """One event: its attributes, and its data as bytes, which are never empty."""

    id: str
    source: str
    type: str
    data: bytes
    datacontenttype: str | None = None
    dataschema: str | None = None
    subject: str | None = None
    time: datetime | None = None
    extensions: dict[str, str | int | bool] = {}

    def __repr__(self) -> str:
        """Return the type only: an event is about people."""
        return "CloudEvent(...)"


def read_http(headers: Iterable[tuple[str, str]], body: bytes) -> list[CloudEvent | Refusal]:
    """Return the events of an HTTP request, each with its own outcome; never raises.

    The content type tells the mode: structured and binary hold one event, a batch any number. A request
    that cannot be read at all, or has two content types, is one refusal.
    """
    given = [(name.lower(), value.strip(" \t")) for name, value in headers]
    types = {value for name, value in given if name == "content-type"}
    if len(types) > 1:
        return [Refusal.SCHEMA_MISMATCH]
    media = next(map(_media, types), "")
    if media.startswith(f"{_STRUCTURED}-batch"):
        return _batch(body) if media == f"{_STRUCTURED}-batch+json" else [Refusal.SCHEMA_MISMATCH]
    if media.startswith(_STRUCTURED):
        return [read_structured(body) if media == f"{_STRUCTURED}+json" else Refusal.SCHEMA_MISMATCH]
    attributes = [
        ("datacontenttype", value) if name == "content-type" else (name[3:], _unescaped(value))
        for name, value in given
        if name == "content-type" or name.startswith("ce-")
    ]
    return [_binary(attributes, body)]


def read_kafka(headers: Iterable[tuple[str, bytes]], value: bytes | None) -> CloudEvent | Refusal:
    """Return the event of a Kafka message, or the first refusal that applies; never raises.

    The content type, of which there is one, tells whether it is structured. A `ce_datacontenttype`, which
    Open edX sends beside it, must say the same.
    """
    attributes: list[tuple[str, str | None]] = []
    types: set[str] = set()
    for name, raw in headers:
        is_type = name.lower() == "content-type"
        if not is_type and not name.startswith("ce_"):
            continue
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return Refusal.NOT_UTF8
        attributes.append(("datacontenttype" if is_type else name[3:], text))
        if is_type:
            types.add(text)
    if len(types) > 1:
        return Refusal.SCHEMA_MISMATCH
    media = next(map(_media, types), "")
    if not media.startswith(_STRUCTURED):
        return _binary(attributes, value)
    if not value:
        return Refusal.NULL_VALUE
    return read_structured(value) if media == f"{_STRUCTURED}+json" else Refusal.SCHEMA_MISMATCH


def read_structured(body: bytes) -> CloudEvent | Refusal:
    """Return the event that JSON text is, or the first refusal that applies; never raises."""
    root = decode_object(body)
    if type(root) is Refusal:
        return root
    found = _screened(root)
    if found is not None:
        return found
    data = _data(root)
    if type(data) is Refusal:
        return data
    return _event({name: root[name] for name in root if name not in {"data", "data_base64"}}, data)


# Modes -----------------------------------------------------------------------------------


def _batch(body: bytes) -> list[CloudEvent | Refusal]:
    """Return the events of a batch; an empty one has none."""
    body = body.strip()
    found = array_items(body) if body.startswith(b"[") else [body]
    if found == [body]:
        value = decode_json(body)
        return [] if value == [] else [value if type(value) is Refusal else Refusal.SCHEMA_MISMATCH]
    return [one if type(one) is Refusal else read_structured(one) for one in found]


def _binary(headers: Iterable[tuple[str, str | None]], body: bytes | None) -> CloudEvent | Refusal:
    """Return the event whose attributes are headers; only they are screened here, data by its reader.

    A header that stands twice must say the same; None is one that cannot be read.
    """
    if not body:
        return Refusal.NULL_VALUE
    if len(body) > LINE_BYTES_MAX:
        return Refusal.LINE_TOO_LONG
    attributes: dict[str, object] = {}
    for name, value in headers:
        if len(attributes) > ATTRIBUTES_MAX:
            return Refusal.SCHEMA_MISMATCH
        if value is None or attributes.setdefault(name, value) != value:
            return Refusal.SCHEMA_MISMATCH
    return _screened(attributes) or _event(attributes, body)


def _screened(members: Mapping[str, object]) -> Refusal | None:
    """Return what the screen finds in an event; its version is none, whose name has a card's letters."""
    return screen(
        {name: members[name] for name in members if name != "specversion" or members[name] != "1.0"}
    )


def _media(text: str) -> str:
    return text.partition(";")[0].strip(" \t").lower()


def _unescaped(text: str) -> str | None:
    """Return the value of a header, which may stand in quotes as a whole; None when it is none.

    HTTP binding, 3.1.3.2.
    """
    if not (text.isascii() and text.isprintable()):
        return None
    quoted = _QUOTED.fullmatch(text)
    text = text if quoted is None else _ESCAPED.sub(r"\1", quoted.group(1))
    if _LONE_PERCENT.search(text) is not None:
        return None
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None


def _data(root: Mapping[str, object]) -> bytes | Refusal:
    """Return the data of a structured event: JSON, text of another type, or bytes (JSON format, 3.1)."""
    data, encoded = root.get("data"), root.get("data_base64")
    if data is None and encoded is None:
        return Refusal.NULL_VALUE
    if encoded is not None:
        if data is not None or not isinstance(encoded, str):
            return Refusal.SCHEMA_MISMATCH
        try:
            found = binascii.a2b_base64(encoded.encode(), strict_mode=True)
        except (binascii.Error, ValueError):
            return Refusal.SCHEMA_MISMATCH
        return found or Refusal.NULL_VALUE
    kind = root.get("datacontenttype")
    media = "application/json" if not isinstance(kind, str) else _media(kind)
    if media.endswith(("/json", "+json")):
        return _encode(data)
    if not isinstance(data, str):
        return Refusal.SCHEMA_MISMATCH
    return data.encode() or Refusal.NULL_VALUE


# Attributes ------------------------------------------------------------------------------


def _event(attributes: Mapping[str, object], data: bytes) -> CloudEvent | Refusal:
    """Return the event of these attributes; one that is null in JSON is not set."""
    said = {name: value for name, value in attributes.items() if value is not None}
    if len(attributes) > ATTRIBUTES_MAX or not all(map(_is_attribute, said, said.values())):
        return Refusal.SCHEMA_MISMATCH
    if said.get("specversion") != "1.0" or not all(name in said for name in _REQUIRED):
        return Refusal.SCHEMA_MISMATCH
    time = parse_time(said["time"]) if "time" in said else None
    if type(time) is Refusal:
        return time
    label = said.get("dataclassification")
    if label is not None and label not in CLASSIFICATIONS:
        return Refusal.UNKNOWN_CLASSIFICATION
    core = {name: cast("str", said[name]) for name in said if name in _CORE - {"specversion", "time"}}
    more = {name: cast("str | int | bool", said[name]) for name in said if name not in _CORE}
    return CloudEvent(**core, time=time, data=data, extensions=more)


def _is_attribute(name: str, value: object) -> bool:
    """Return whether a name and a value are those of an attribute (CloudEvents, naming and type system)."""
    if _NAME.fullmatch(name) is None or name == "data":
        return False
    if isinstance(value, str):
        is_text = len(value) <= VALUE_CHARS_MAX and _STRING.fullmatch(value) is not None
        match name:
            case "source":
                return is_text and _URI_REFERENCE.fullmatch(value) is not None
            case "dataschema":
                return is_text and None not in (_URI_REFERENCE.fullmatch(value), _URI.fullmatch(value))
            case "datacontenttype":
                return is_text and _MEDIA_TYPE.fullmatch(value) is not None
            case _:
                return is_text or (name not in _CORE and not value)
    if name in _CORE:
        return False
    return isinstance(value, bool) or (type(value) is int and _INTEGER_MIN <= value <= _INTEGER_MAX)
