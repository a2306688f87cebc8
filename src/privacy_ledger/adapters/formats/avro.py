"""Records of Apache Avro in the framing of a schema registry, read by their writer's schema.

The schema comes from outside, as the bytes do. It is rebuilt from an allow-list before anything is read
by it: no type that takes no bytes outside of a union, none that holds itself, and no items that are more than
their bytes. So what a record costs is bounded by its length. Needs the extra `avro`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Final, cast

import msgspec
from msgspec import Struct

from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.refusals import Refusal

try:
    import fastavro
except ImportError:  # pragma: no cover - the extra is installed where tests run
    fastavro = None  # type: ignore[assignment] # the extra is not installed

__all__ = [
    "SCHEMA_BYTES_MAX",
    "SCHEMA_DEPTH_MAX",
    "SCHEMA_PARTS_MAX",
    "VALUE_BYTES_MAX",
    "record_of",
    "require_avro",
]

VALUE_BYTES_MAX: Final = 1 << 18
SCHEMA_BYTES_MAX: Final = 1 << 16
SCHEMA_PARTS_MAX: Final = 2000
"""Of a schema whose named types are written out wherever they are used."""
SCHEMA_DEPTH_MAX: Final = 16
ITEM_PARTS_PER_BYTE: Final = 4
SCHEMAS_CACHED: Final = 64
_PRIMITIVES: Final = frozenset(("boolean", "int", "long", "float", "double", "string"))
_MAGIC: Final = b"\0"
_PREFIX_BYTES: Final = 5
"""A zero byte, and the number by which a registry knows the schema."""
_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, object]).decode


class _UnfitError(Exception):
    """A schema is beyond what is read here."""


class _Type(Struct, frozen=True, gc=False):
    """A type as it is read: rebuilt, with the fewest bytes that it takes, and the parts that it has."""

    schema: object
    bytes_min: int
    parts: int


def require_avro() -> None:
    """Return when Avro can be read.

    Raises:
        BadInput: the extra is not installed.
    """
    if not _is_installed():
        raise BadInput(
            Refusal.SCHEMA_MISMATCH,
            'Avro needs an extra that is not installed: python -m pip install "privacy-ledger[avro]".',
        )


def record_of(value: bytes, schema: Mapping[str, object]) -> dict[str, object] | Refusal:
    """Return the record in a value of a registry's framing, or why it is none; never raises.

    `LINE_TOO_LONG`: more than `VALUE_BYTES_MAX`. `SCHEMA_MISMATCH`: no framing, a schema that is none or
    beyond its bounds, bytes that are no record of it, or more than one. Not screened: take nothing from it.
    Without the extra every value is a mismatch: ask `require_avro` first.
    """
    if len(value) > VALUE_BYTES_MAX:
        return Refusal.LINE_TOO_LONG
    document = _encode(schema)
    plain = _plain(document) if _is_installed() and len(document) <= SCHEMA_BYTES_MAX else None
    if plain is None or not value.startswith(_MAGIC) or len(value) < _PREFIX_BYTES:
        return Refusal.SCHEMA_MISMATCH
    stream = BytesIO(value[_PREFIX_BYTES:])
    try:
        found: object = fastavro.schemaless_reader(stream, plain, None)
    except (EOFError, LookupError, ValueError, TypeError, OverflowError):
        return Refusal.SCHEMA_MISMATCH
    if stream.read(1) or not isinstance(found, dict):
        return Refusal.SCHEMA_MISMATCH
    return cast("dict[str, object]", found)


def _is_installed() -> bool:
    return fastavro is not None


@lru_cache(maxsize=SCHEMAS_CACHED)
def _plain(document: bytes) -> dict[str, object] | None:
    """Return a record's schema rebuilt from what is read of it, or None; bounded cache."""
    try:
        found = _Reader().read(_decode(document), depth=0).schema
    except _UnfitError:
        return None
    if not isinstance(found, dict) or found.get("type") != "record":
        return None
    try:
        return cast("dict[str, object]", fastavro.parse_schema(found))
    except (
        fastavro.schema.SchemaParseException,
        fastavro.schema.UnknownType,
        ValueError,
        TypeError,
        LookupError,
    ):
        return None


class _Reader:
    """One reading of a schema; named types are known once they are whole, so that none holds itself."""

    def __init__(self) -> None:
        self._known: dict[str, _Type] = {}

    def read(self, schema: object, *, depth: int) -> _Type:
        """Return a type.

        Raises:
            _UnfitError: it is none that is read here, or beyond the bounds.
        """
        if depth > SCHEMA_DEPTH_MAX:
            raise _UnfitError
        found = self._type(schema, depth=depth + 1)
        if found.parts > SCHEMA_PARTS_MAX:
            raise _UnfitError
        return found

    def _type(self, schema: object, *, depth: int) -> _Type:
        if isinstance(schema, str):
            if schema in _PRIMITIVES:
                return _Type(schema, 1, 1)
            name = schema.rpartition(".")[2]
            if name not in self._known:
                raise _UnfitError
            known = self._known[name]
            return _Type(name, known.bytes_min, known.parts)
        if isinstance(schema, list):
            return self._union(schema, depth=depth)
        if not isinstance(schema, dict):
            raise _UnfitError
        kind = schema.get("type")
        match kind:
            case "record":
                return self._record(schema, depth=depth)
            case "enum":
                return self._enum(schema)
            case "array":
                items = self._items(schema.get("items"), depth=depth)
                return _Type({"type": "array", "items": items.schema}, 1, 1 + items.parts)
            case "map":
                items = self._items(schema.get("values"), depth=depth)
                return _Type({"type": "map", "values": items.schema}, 1, 1 + items.parts)
            case _:
                return self.read(kind, depth=depth)  # a type in an object of its own, with marks for others

    def _items(self, schema: object, *, depth: int) -> _Type:
        items = self.read(schema, depth=depth)
        if items.parts > ITEM_PARTS_PER_BYTE * items.bytes_min:
            raise _UnfitError
        return items

    def _union(self, branches: Sequence[object], *, depth: int) -> _Type:
        """Return a union, in which alone a branch may take no bytes: its number takes one."""
        found = [
            _Type("null", 0, 1) if branch == "null" else self.read(branch, depth=depth) for branch in branches
        ]
        if not found or any(isinstance(one.schema, list) for one in found):
            raise _UnfitError
        return _Type([one.schema for one in found], 1, 1 + sum(one.parts for one in found))

    def _record(self, schema: Mapping[str, object], *, depth: int) -> _Type:
        fields = schema.get("fields")
        if not isinstance(fields, list) or not fields:
            raise _UnfitError
        plain: list[dict[str, object]] = []
        bytes_min, parts = 0, 1
        for field in fields:
            if not isinstance(field, dict) or not isinstance(field.get("name"), str):
                raise _UnfitError
            found = self.read(field.get("type"), depth=depth)
            plain.append({"name": field["name"], "type": found.schema})
            bytes_min, parts = bytes_min + found.bytes_min, parts + found.parts
        if len({cast("str", field["name"]) for field in plain}) < len(plain):
            raise _UnfitError
        name = self._name(schema)
        return self._note(name, _Type({"type": "record", "name": name, "fields": plain}, bytes_min, parts))

    def _enum(self, schema: Mapping[str, object]) -> _Type:
        symbols = schema.get("symbols")
        if not isinstance(symbols, list) or not symbols or not all(isinstance(one, str) for one in symbols):
            raise _UnfitError
        name = self._name(schema)
        return self._note(name, _Type({"type": "enum", "name": name, "symbols": symbols}, 1, 1))

    def _name(self, schema: Mapping[str, object]) -> str:
        """Return the last part of a name, which no other type may have: namespaces are not kept."""
        name = schema.get("name")
        if not isinstance(name, str):
            raise _UnfitError
        name = name.rpartition(".")[2]
        if (
            not name.isidentifier()
            or not name.isascii()
            or name in self._known
            or name in _PRIMITIVES | {"null"}
        ):
            raise _UnfitError
        return name

    def _note(self, name: str, found: _Type) -> _Type:
        self._known[name] = found
        return found
