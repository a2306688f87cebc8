"""A CloudEvent of an HTTP request or a Kafka message, as the one line that it is in structured mode.

Rules: CloudEvents 1.0.2, HTTP protocol binding, 3.1 and 3.2, and Kafka protocol binding, 3.2 and 3.3. So an
event has one reader and one digest, however it came.
"""

import base64
from collections.abc import Iterable
from typing import Final

import msgspec

from privacy_ledger.adapters.formats.cloudevents import CloudEvent, read_http, read_kafka
from privacy_ledger.domain.refusals import Refusal

__all__ = ["structured", "structured_message"]

_JSON: Final = ("/json", "+json")
_OPTIONAL: Final = ("datacontenttype", "dataschema", "subject")
_validate = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode


def structured(headers: Iterable[tuple[str, str]], body: bytes) -> bytes | Refusal:
    """Return the event of these header fields and this body as JSON text, or why it is none; never raises.

    It is not screened as a whole: whoever reads the line does that.
    """
    found = read_http(headers, body)
    if len(found) != 1:
        return Refusal.SCHEMA_MISMATCH
    event = found[0]
    return event if type(event) is Refusal else _line(event)


def structured_message(headers: Iterable[tuple[str, bytes]], value: bytes | None) -> bytes | Refusal:
    """Return the event of a Kafka message as JSON text, or why it is none; never raises; as `structured`."""
    event = read_kafka(headers, value)
    return event if type(event) is Refusal else _line(event)


def _line(event: CloudEvent) -> bytes:
    document: dict[str, object] = {
        "specversion": "1.0", "id": event.id, "source": event.source, "type": event.type, **event.extensions,
    }  # fmt: skip
    document.update({name: value for name in _OPTIONAL if (value := getattr(event, name)) is not None})
    if event.time is not None:
        document["time"] = event.time
    if _is_json(event):
        document["data"] = msgspec.Raw(event.data)
    else:
        document["data_base64"] = base64.b64encode(event.data).decode()
    return _encode(document)


def _is_json(event: CloudEvent) -> bool:
    """Return whether the data are what a type of JSON says; without a type they are (JSON format, 3.1)."""
    media = (event.datacontenttype or "application/json").partition(";")[0].strip(" \t").lower()
    if not media.endswith(_JSON):
        return False
    try:
        event.data.decode()
        _validate(event.data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True
