"""One example of any event, built from its field types alone."""

import re
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from privacy_ledger.domain.events.collection import PROGRAMME

T = TypeVar("T", bound=msgspec.Struct)
INSTANT = datetime(2026, 2, 28, 12, 30, tzinfo=UTC)


def example(kind: type[T], *, is_full: bool) -> T:
    """Return an event with every field filled, or with the required ones only."""
    described = inspect.type_info(kind)
    if not isinstance(described, inspect.StructType):
        message = f"{kind.__name__} is no struct"
        raise TypeError(message)
    return kind(**_members(described, is_full=is_full))


def _members(described: inspect.StructType, *, is_full: bool) -> dict[str, Any]:
    return {field.name: _value(field.type) for field in described.fields if is_full or field.required}


def _value(wanted: inspect.Type) -> Any:  # noqa: ANN401 - any JSON value
    match wanted:
        case inspect.Metadata():
            return _value(wanted.type)
        case inspect.UnionType():
            return _value(next(kind for kind in wanted.types if not isinstance(kind, inspect.NoneType)))
        case inspect.StrType():
            return _text(wanted)
        case inspect.LiteralType():
            return wanted.values[0]
        case inspect.EnumType():
            return next(iter(wanted.cls))
        case inspect.StructType():
            return wanted.cls(**_members(wanted, is_full=True))
        case inspect.TupleType():
            return tuple(_value(item) for item in wanted.item_types)
        case inspect.VarTupleType():
            return (_value(wanted.item_type),)
        case inspect.DateTimeType():
            return INSTANT
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return wanted.ge or 0
        case inspect.FloatType():
            return 0.5
        case _:
            message = f"Teach tests/schemas/examples.py how to fill {type(wanted).__name__}."
            raise TypeError(message)


def _text(wanted: inspect.StrType) -> str:
    if wanted.pattern is None:
        return "x" * min(wanted.max_length or 8, 8)
    if wanted.pattern == PROGRAMME:
        return "study.reading"
    if wanted.pattern.startswith("^[A-Za-z]{1,12}_"):
        return "pay_example"
    if wanted.pattern == "^[A-Z]{2}-[A-Z0-9]{1,3}$":
        return "US-CA"
    if wanted.pattern == "^[a-z]{2,16}$":
        return "visa"
    parts = re.fullmatch(r"\^\[(.).*\]\{(\d+)\}\$", wanted.pattern)
    if parts is None:
        message = f"Teach tests/schemas/examples.py how to match {wanted.pattern}."
        raise TypeError(message)
    return parts[1] * int(parts[2])
