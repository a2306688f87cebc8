"""A format that the operator declares: a file says which line is which event, and where its members lie.

A mapping is TOML. It names paths and never values: what it does not name is not read, so that it is an
allow-list by its form. A member is taken only as its fact's field declares it: paths and addresses
without identifiers, codes and actions as plain words, courses as a key or a number behind a prefix.

    format = 1
    name = "our-lms"
    time = { path = "timecreated", is = "epoch_s" }
    [[person.actor]]
    path = "userid"
    namespace = "lms:user_id"
    is = "number"
    [[event]]
    when = { eventname = "course_viewed" }
    actor = { type = "usage.page_viewed.v1", course = { path = "courseid", prefix = "course-" } }
"""

import re
import tomllib
from typing import Annotated, Any, Final, Literal, cast, get_args

import msgspec
from msgspec import Meta, Struct

from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.events import (
    COLLECTION_EVENTS,
    DeviceObserved,
    Fact,
    LocationDerived,
    RegionDerived,
    RevealRecorded,
    event_type,
)
from privacy_ledger.domain.events.base import LABEL
from privacy_ledger.domain.refusals import Refusal

__all__ = [
    "EVENTS",
    "MAPPING_BYTES_MAX",
    "SOURCE_NAME",
    "Build",
    "Case",
    "Id",
    "Mapping",
    "Member",
    "Role",
    "Scalar",
    "Time",
    "members_of",
    "read",
]

MAPPING_BYTES_MAX: Final = 1 << 18
_OURS: Final = (DeviceObserved, LocationDerived, RegionDerived, RevealRecorded)
"""What the ledger derives, or says itself."""
EVENTS: Final[dict[str, type[Fact]]] = {
    event_type(kind): kind for kind in COLLECTION_EVENTS if kind not in _OURS
}
"""What a mapping may make of a line, by type."""
_BY_LEDGER: Final = frozenset({"occurred_at", "is_assumed"})
"""Members of facts that no mapping sets."""
_CODE_CHARS: Final = 255
_NAMESPACE: Final = re.compile(r"(?!lane:|link:|ledger:|xapi:)[a-z][a-z0-9-]{0,30}:[a-z][a-z0-9_]{0,30}")
_PREFIX: Final = re.compile(r"[a-z][a-z0-9-]{0,30}[:-]")
SOURCE_NAME: Final = re.compile(r"[a-z][a-z0-9._-]{0,62}")
"""What a source is called: a name that no header, log line or path can misread."""
_PLACE: Final = re.compile(r"line [0-9]+, column [0-9]+")

Scalar = str | int | float | bool
Role = Literal["code", "action", "course", "path", "plain"]
"""How a member's value is made harmless, by the field that it goes to."""


class Time(Struct, frozen=True, forbid_unknown_fields=True, rename={"kind": "is"}):
    """Where a line's time lies and what it is: text with an offset, text in UTC, or a count since 1970."""

    path: str
    kind: Literal["iso", "iso_utc", "epoch_s", "epoch_ms", "epoch_us"] = "iso"


class Id(Struct, frozen=True, forbid_unknown_fields=True, rename={"kind": "is"}):
    """Where an id of a person lies; the same id under the same namespace is the same person.

    `nobody`: values that stand for nobody, such as the id of a guest. `base` is where an id of the same
    block lies: a number below `unit` counts from the multiple of `unit` at or below that one.
    """

    path: str
    namespace: str
    kind: Literal["number", "text"] = "number"
    nobody: tuple[str | int, ...] = ()
    base: str | None = None
    unit: Annotated[int, Meta(ge=1, le=10**18)] = 1


class Member(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a member lies.

    `prefix` stands before a course's own id; `times` multiplies a number, to a whole one.
    """

    path: str
    prefix: str = ""
    times: int = 1


class Build(Struct, frozen=True):
    """How a fact is made: its type, what is said once and for all, and where the rest lies."""

    kind: type[Fact]
    fixed: dict[str, Scalar]
    members: dict[str, tuple[Member, Role]]


class Case(Struct, frozen=True):
    """Which lines are an event, and what they say of who acts and of somebody else."""

    when: tuple[tuple[str, frozenset[tuple[bool, Scalar]]], ...]
    actor: Build | None
    other: Build | None


class Mapping(Struct, frozen=True):
    """A mapping as it is used; `name` is that of its source, `texts` are members that hold JSON as text."""

    name: str
    time: Time
    actor: tuple[Id, ...]
    other: tuple[Id, ...]
    cases: tuple[Case, ...]
    id: str | None
    session: str | None
    agent: str | None
    address: str | None
    texts: tuple[str, ...]


class _Event(Struct, frozen=True, forbid_unknown_fields=True):
    when: dict[str, Scalar | tuple[Scalar, ...]]
    actor: dict[str, Any] | None = None
    other: dict[str, Any] | None = None


class _People(Struct, frozen=True, forbid_unknown_fields=True):
    actor: tuple[Id, ...]
    other: tuple[Id, ...] = ()


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    name: str
    time: Time
    person: _People
    event: tuple[_Event, ...]
    id: str | None = None
    session: str | None = None
    agent: str | None = None
    address: str | None = None
    json: tuple[str, ...] = ()


def read(document: bytes) -> Mapping:
    """Return the mapping that a file declares.

    Raises:
        BadInput: it says something that cannot be meant; the message says what and where.
    """
    said = _file(document)
    for name, ids in (("actor", said.person.actor), ("other", said.person.other)):
        for number, one in enumerate(ids):
            if _NAMESPACE.fullmatch(one.namespace) is None:
                raise _wrong("a namespace is such as `lms:user_id`", f"$.person.{name}[{number}].namespace")
            if one.namespace.endswith(":user_id") and one.kind != "number":
                raise _wrong("a `user_id` is a number", f"$.person.{name}[{number}].is")
    if SOURCE_NAME.fullmatch(said.name) is None:
        raise _wrong("a name is lower-case letters, digits and dashes, such as our-lms", "$.name")
    if not said.person.actor:
        raise _wrong("name who acts", "$.person.actor")
    if not said.event:
        raise _wrong("name at least one event", "$.event")
    return Mapping(
        name=said.name,
        time=said.time,
        actor=said.person.actor,
        other=said.person.other,
        cases=tuple(_case(one, said, at=f"$.event[{number}]") for number, one in enumerate(said.event)),
        id=said.id,
        session=said.session,
        agent=said.agent,
        address=said.address,
        texts=said.json,
    )


def members_of(kind: type[Fact]) -> dict[str, Role]:
    """Return the members of a fact that a mapping may set, in order, and how each is made harmless."""
    return {
        field.encode_name: _role(field.encode_name, field.type)
        for field in msgspec.structs.fields(kind)
        if field.encode_name not in _BY_LEDGER
    }


def _file(document: bytes) -> _File:
    if len(document) > MAPPING_BYTES_MAX:
        raise _wrong(f"it is longer than {MAPPING_BYTES_MAX:,} bytes", "its end")
    try:
        found = tomllib.loads(document.decode())
    except UnicodeDecodeError:
        raise _wrong("it is not UTF-8", "its bytes") from None
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        raise _wrong("it is no TOML", place.group() if place else "its end") from None
    try:
        return msgspec.convert(found, _File)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `")
        raise _wrong(reason, path.rstrip("`") or "$") from None


def _case(event: _Event, said: _File, *, at: str) -> Case:
    if event.actor is None and event.other is None:
        raise _wrong("it says nothing of anybody: give `actor`, `other` or both", at)
    if event.other is not None and not said.person.other:
        raise _wrong("nobody is named in `[[person.other]]`", f"{at}.other")
    if not event.when:
        raise _wrong("it takes every line: say which", f"{at}.when")
    when = tuple(
        (path, frozenset((isinstance(one, bool), one) for one in _several(wanted)))
        for path, wanted in event.when.items()
    )
    return Case(
        when=when,
        actor=None if event.actor is None else _build(event.actor, at=f"{at}.actor"),
        other=None if event.other is None else _build(event.other, at=f"{at}.other"),
    )


def _several(wanted: Scalar | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _build(said: dict[str, Any], *, at: str) -> Build:
    kind = EVENTS.get(str(said.get("type")))
    if kind is None:
        raise _wrong("there is no such type; `privacy-ledger formats types` lists them", f"{at}.type")
    known = members_of(kind)
    fixed: dict[str, Scalar] = {}
    members: dict[str, tuple[Member, Role]] = {}
    for name, value in said.items():
        if name == "type":
            continue
        if name not in known:
            raise _wrong(f"{event_type(kind)} has no such member; it has {_list(known)}", f"{at}.{name}")
        if isinstance(value, dict):
            members[name] = _member(value, at=f"{at}.{name}"), known[name]
        elif isinstance(value, get_args(Scalar)):
            fixed[name] = cast("Scalar", value)
        else:
            raise _wrong("a member is a value or { path = … }", f"{at}.{name}")
    required = [
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if field.required and field.encode_name in known
    ]
    if missing := [name for name in required if name not in fixed and name not in members]:
        raise _wrong(f"{event_type(kind)} needs {_list(missing)}", at)
    return Build(kind, fixed, members)


def _member(said: dict[str, object], *, at: str) -> Member:
    try:
        found = msgspec.convert(said, Member)
    except msgspec.ValidationError:
        raise _wrong("a member is { path = … }, with `prefix` or `times`", at) from None
    if found.prefix and _PREFIX.fullmatch(found.prefix) is None:
        raise _wrong("a prefix is lower-case letters, digits and dashes, and ends with - or :", at)
    return found


def _role(name: str, of: object) -> Role:
    """Return how values of a field are made harmless: by its label, or as an identifier."""
    marks = _marks(of)
    schema = next((meta.extra_json_schema for meta in marks if meta.extra_json_schema), {})
    match schema.get(LABEL):
        case "course.key":
            return "course"
        case "usage.path":
            return "path"
        case None if any(meta.max_length == _CODE_CHARS for meta in marks):
            return "action" if name == "action" else "code"
        case _:
            return "plain"


def _marks(of: object) -> list[Meta]:
    """Return the marks of a type and of what it is made of, outermost first."""
    found = [meta for meta in getattr(of, "__metadata__", ()) if isinstance(meta, Meta)]
    for inner in get_args(of):
        if not isinstance(inner, Meta):
            found += _marks(inner)
    return found


def _list(names: object) -> str:
    return ", ".join(cast("list[str]", names)) or "none"


def _wrong(what: str, at: str) -> BadInput:
    return BadInput(
        Refusal.SCHEMA_MISMATCH,
        f"The mapping cannot be used, at {at}: {what}. Correct it, then run "
        "`privacy-ledger formats check MAPPING FILE`.",
    )
