"""Messages of the Open edX event bus as lines of its format, with the schemas that a folder holds.

On the topic a message names its schema by a registry's number. Here the writer's schemas are files, as
`openedx-events` publishes them, named by the type of the event: nobody asks a registry, and nothing but
the headers' type chooses among them.
"""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from privacy_ledger.adapters.formats.avro import SCHEMA_BYTES_MAX
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.refusals import Refusal

__all__ = ["BusMessages", "schemas_in"]

_SUFFIX: Final = "_schema.avsc"
_TYPE: Final = "ce_type"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, object]).decode


class BusMessages:
    """Makes a line of a message; the key is not read: it may be somebody's name."""

    def __init__(self, schemas: Mapping[str, msgspec.Raw]) -> None:
        """Take the schema of each type."""
        self._schemas = schemas

    def __call__(self, headers: Iterable[tuple[str, bytes]], value: bytes) -> bytes | Refusal:
        """Return the line, or why it is none; never raises. `UNKNOWN_EVENT`: its type has no schema here."""
        found: dict[str, str] = {}
        for name, raw in headers:
            if name.startswith("ce_") or name.lower() == "content-type":
                try:
                    found[name] = raw.decode()
                except UnicodeDecodeError:
                    return Refusal.NOT_UTF8
        schema = self._schemas.get(found.get(_TYPE, ""))
        if schema is None:
            return Refusal.UNKNOWN_EVENT
        return _encode({"headers": found, "value": base64.b64encode(value).decode(), "schema": schema})


def schemas_in(folder: Path) -> dict[str, msgspec.Raw]:
    """Return the schemas of a folder by the type of event: `org+openedx+…+v1_schema.avsc` and the like.

    Raises:
        BadInput: there is none, or one cannot be read.
    """
    found: dict[str, msgspec.Raw] = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            document = path.read_bytes()
            if len(document) <= SCHEMA_BYTES_MAX:
                _decode(document)
                found[path.name.removesuffix(_SUFFIX).replace("+", ".")] = msgspec.Raw(document)
                continue
        except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
            pass
        raise BadInput(
            Refusal.SCHEMA_MISMATCH,
            f"{path.name} is no schema that can be read here. Check the folder.",
        )
    if not found:
        raise BadInput(
            Refusal.SCHEMA_MISMATCH,
            f"The folder holds no schema. Those of openedx-events are named TYPE{_SUFFIX}, with + for a dot.",
        )
    return found
