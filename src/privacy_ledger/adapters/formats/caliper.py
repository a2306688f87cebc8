"""Caliper 1.1 and 1.2 events: each becomes facts about the people whom it names.

Pure, and total: any bytes give `Parsed` or a `Refusal`. Order of reasons: the bytes, the event
(`SCHEMA_MISMATCH`), its type and action (`UNKNOWN_EVENT`), its time, its people (`ID_INVALID`).
Contexts count by their name; none is fetched, and one that is not Caliper's, also of an entity, is
refused, for it could give the terms another meaning.

Who: the actor, or each member of a group that acted, with what was done. Of a grade, an answer or a post:
whoever's attempt or message it is has it, and an actor who is somebody else only that something was
done. Then whoever else the event names, each with the
role that they had. Nothing is recorded of the authors of what was read or watched. No event joins two
identifiers. A description of an entity, which an envelope may hold beside events, is no event.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.formats.arrays import ITEMS_MAX, array_items, split
from privacy_ledger.adapters.formats.caliper_entities import (
    NOBODY,
    Entities,
    Entity,
    is_unnamed,
    person_identity,
)
from privacy_ledger.adapters.formats.caliper_facts import (
    GRADED,
    HANDED_IN,
    POSTED,
    Said,
    deed_of,
    grade_of,
    is_known,
    plain_deed,
    said_of,
)
from privacy_ledger.adapters.formats.json_lines import check_bytes, decode_canonical, decode_object
from privacy_ledger.adapters.formats.minimise import device_of
from privacy_ledger.adapters.formats.times import parse_time
from privacy_ledger.domain.events import Fact, UsageOther
from privacy_ledger.domain.identifiers import has_control
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import EPOCH
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

__all__ = ["PEOPLE_MAX", "events", "parse"]

PEOPLE_MAX: Final = 100
"""An event that names more people than this is refused whole, as no event."""
IRI_CHARS_MAX: Final = 1024
_SESSION: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:.{1,255}")
"""An IRI: a blank node, or a name within one platform, is another session in another event."""
_CONTEXT: Final = re.compile(
    r"https?://purl\.imsglobal\.org/ctx/caliper/v1p[12](?:/[A-Za-z]{1,64}-extension)?"
)
_VERSION: Final = re.compile(r"https?://purl\.imsglobal\.org/ctx/caliper/v1p[12]")
_ID: Final = re.compile(
    r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE
)
_REQUIRED: Final = ("actor", "object")
_ENTITIES: Final = (
    *_REQUIRED, "edApp", "federatedSession", "generated", "group", "membership", "referrer", "session",
    "target",
)  # fmt: skip
_LEARNERS: Final = (("object", "assignee"), ("generated", "attempt", "assignee"), ("generated", "assignee"))
"""Where an event of an attempt says whose it was."""
_WRITERS: Final = (("object", "creators"),)
_MADE: Final = ("assignee", "annotator", "commenter", "creator", "rater", "scoredBy", "user", "withAgents")
_ROLES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("object", ("object",)),
    ("target", ("target",)),
    *((role, (place, role)) for place in ("object", "target", "generated") for role in _MADE),
    *(("assignee", (place, "attempt", "assignee")) for place in ("object", "target", "generated")),
    ("replyTo", ("object", "replyTo", "creators")),
    ("user", ("session", "user")),
    ("user", ("federatedSession", "user")),
    ("member", ("membership", "member")),
)
"""Whom an event names beside the actor: their role, and where."""
_CREATORS: Final = ("creators", ("object", "creators"))
"""Whose message it is: of other things their authors are nobody here."""

_OWNER: Final = "owner"
"""The role of those whose work an event is about."""
_Named = list[tuple[str, list[Entity]]]


class _Envelope(Struct, frozen=True, rename="camel"):
    """What a sensor sends: events of one version."""

    sensor: str
    send_time: str
    data_version: str
    data: list[msgspec.Raw]


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def events(lines: Iterable[tuple[int, bytes | Refusal]]) -> Iterator[tuple[int, bytes | Refusal]]:
    """Return each event of each line, with the line's number, in order; a refusal as it is.

    A line is an event, an array of them, or an envelope, whose version counts for events without a
    context; each event has an outcome of its own. An envelope that is none, or holds none, is one refusal.
    """
    return split(lines, _items)


def parse(line: bytes) -> Parsed | Refusal:
    """Return the facts of one event, or the first refusal that applies; never raises."""
    decoded = decode_canonical(line)
    if type(decoded) is Refusal:
        return decoded
    root, canonical = decoded
    if not _is_event(root):
        return Refusal.SCHEMA_MISMATCH
    if not is_known(root.get("type"), root.get("action")):
        return Refusal.UNKNOWN_EVENT
    entities = Entities(root)
    if not all(map(_is_context, entities.contexts)):
        return Refusal.SCHEMA_MISMATCH
    roles = _named(root, entities)
    if sum(len(people) for _, people in roles) > PEOPLE_MAX:
        return Refusal.SCHEMA_MISMATCH
    for _, named in roles:
        entities.note(named)
    said = said_of(root, entities, names=entities.names())
    occurred_at = parse_time(root.get("eventTime"))
    at = EPOCH if type(occurred_at) is Refusal else occurred_at
    kind = (said.type, said.action)
    fact = grade_of(said, at=at) if kind == GRADED else deed_of(said, at=at)
    deed = plain_deed(said, at=at) if kind == GRADED or any(role == _OWNER for role, _ in roles) else fact
    if type(fact) is Refusal or type(deed) is Refusal:
        return Refusal.SCHEMA_MISMATCH
    if type(occurred_at) is Refusal:
        return occurred_at
    people = _people(roles, deed, fact, said)
    if type(people) is Refusal:
        return people
    session = _own_session(root, entities)
    agent = _client(session, entities, "userAgent")
    has_actor = _has_actor(root, entities, roles[0][1])
    return Parsed(
        people=people,
        unattributed=() if people else (fact,),
        device=device_of(agent, occurred_at=occurred_at) if has_actor and agent is not None else None,
        address=_client(session, entities, "ipAddress") if has_actor else None,
        occurred_at=occurred_at,
        source_event_id=str(root["id"]).lower(),
        anonymous=_mark(session) if has_actor or not people else None,
        digest_input=canonical,
    )


# Lines -----------------------------------------------------------------------------------


def _items(line: bytes) -> list[bytes | Refusal]:
    """Return the events of a line; the line itself where it is none, or an empty array."""
    if not (line.startswith(b"{") and b'"dataVersion"' in line and b'"data"' in line):
        return array_items(line) if line.startswith(b"[") else [line]
    refusal = check_bytes(line)
    if refusal is not None:
        return [refusal]
    root = decode_object(line)
    if type(root) is Refusal or "dataVersion" not in root:  # each event is screened for itself
        return [line]
    try:
        envelope = _decode_envelope(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return [Refusal.SCHEMA_MISMATCH]
    is_sound = _VERSION.fullmatch(envelope.data_version) is not None and envelope.sensor and envelope.data
    if not is_sound or type(parse_time(envelope.send_time)) is Refusal:
        return [Refusal.SCHEMA_MISMATCH]
    if len(envelope.data) > ITEMS_MAX:
        return [Refusal.LINE_TOO_LONG]
    start = b'{"@context":"' + envelope.data_version.encode() + b'",'
    return [_with_context(bytes(one).strip(), start) for one in envelope.data]


def _with_context(event: bytes, start: bytes) -> bytes:
    """Return an event with the version of its envelope, where it has no context of its own."""
    try:
        members = _decode_members(event)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return event
    return start + event[1:] if members and "@context" not in members else event


# The event -------------------------------------------------------------------------------


def _is_event(root: Mapping[str, object]) -> bool:
    """Return whether an object has the members of an event, of the types that they have."""
    iri = root.get("id")
    return (
        _is_context(root.get("@context"))
        and isinstance(iri, str)
        and _ID.fullmatch(iri) is not None
        and isinstance(root.get("type"), str)
        and isinstance(root.get("action"), str)
        and all(root.get(name) is not None for name in _REQUIRED)
        and all(_is_entity(root[name]) for name in _ENTITIES if root.get(name) is not None)
    )


def _is_context(value: object) -> bool:
    """Return whether a context is Caliper's own, by name; several are, too, if each is."""
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and _CONTEXT.fullmatch(name) for name in names)


def _is_entity(value: object) -> bool:
    """Return whether a value is an IRI, or an object with a type and, if any, an IRI."""
    if isinstance(value, dict):
        iri = value.get("id", "_:")
        return isinstance(value.get("type"), str) and isinstance(iri, str) and _is_iri(iri)
    return isinstance(value, str) and _is_iri(value)


def _is_iri(text: str) -> bool:
    return 0 < len(text) <= IRI_CHARS_MAX and not has_control(text)


def _has_actor(root: Mapping[str, object], entities: Entities, actors: list[Entity]) -> bool:
    """Return whether one person acted, and not a group: of that it may be anybody who was there."""
    actor = entities.of(root.get("actor"))
    return [one.id for one in actors] == [actor.id] and not is_unnamed(actor)


def _own_session(root: Mapping[str, object], entities: Entities) -> Entity:
    """Return the session in which it happened; a login names it as the target. `NOBODY`: there is none.

    Or it is another person's than the actor's, by any description of it in the event: what they do there must
    not join the two, and their address and device are not the actor's.
    """
    session = entities.of(root.get("session"))
    if not session.id:
        session = entities.of(root.get("target"))
        if session.type != "Session":
            return NOBODY
    described = (entities.of(root.get(name)) for name in _ENTITIES)
    users = [session, *(one for one in described if one.id == session.id)]
    actors = set(map(person_identity, entities.people(root.get("actor"))))
    is_own = all(
        actors.issuperset(map(person_identity, entities.people(one.members.get("user")))) for one in users
    )
    return session if is_own else NOBODY


def _mark(session: Entity) -> str | None:
    """Return the session, marked as what it is; None where its name is of this event or vocabulary alone."""
    is_named = _SESSION.fullmatch(session.id) is not None and not is_unnamed(session)
    return f"session:{session.id}" if is_named else None


def _client(session: Entity, entities: Entities, member: str) -> str | None:
    """Return what the client of a session, which 1.2 may name, says of itself."""
    value = entities.at(session, "client").members.get(member)
    return value if isinstance(value, str) and value else None


# People ----------------------------------------------------------------------------------


def _named(root: Mapping[str, object], entities: Entities) -> _Named:
    """Return whom an event names, with their roles: the actor first, then whose work it is about."""
    actors = entities.people(root.get("actor"))
    found = [("actor", actors)]
    owners = next((people for path in _owners(root) if (people := _at(root, entities, path))), [])
    if owners:
        found.append((_OWNER, owners))
    if root.get("type") == "SessionEvent" and not actors:
        # A system ends a session by itself: what happened concerns whose session it was.
        found.append(("actor", _at(root, entities, ("object", "user"))))
    roles = (*_ROLES, _CREATORS) if root.get("type") == "MessageEvent" else _ROLES
    return [*found, *((role, people) for role, path in roles if (people := _at(root, entities, path)))]


def _owners(root: Mapping[str, object]) -> tuple[tuple[str, ...], ...]:
    """Return where an event says whose work it is about, if it is about work."""
    kind = (root.get("type"), root.get("action"))
    if kind == GRADED or kind in HANDED_IN:
        return _LEARNERS
    return _WRITERS if kind == POSTED else ()


def _at(root: Mapping[str, object], entities: Entities, path: tuple[str, ...]) -> list[Entity]:
    """Return the people at a path of members; a thing that stands there is nobody."""
    value: object = root.get(path[0])
    for name in path[1:]:
        if value is None:
            return []
        value = entities.of(value).members.get(name)
    if value is None:
        return []
    if len(path) > 1:
        return entities.people(value)
    entity = entities.of(value)
    return entities.people(value) if entity.type in {"Person", "Group"} else []


def _people(roles: _Named, deed: Fact, fact: Fact, said: Said) -> tuple[PersonFacts, ...] | Refusal:
    """Return each person once, with what was done, or with the first other role; empty = nobody."""
    found: dict[Identity, Fact] = {}
    at = deed.occurred_at  # type: ignore[attr-defined] # every collection fact
    for role, people in roles:
        for person in people:
            if is_unnamed(person):
                continue
            identity = person_identity(person)
            if identity is None:
                return Refusal.ID_INVALID
            if role == _OWNER:
                found[identity] = fact
            elif role == "actor":
                found.setdefault(identity, deed)
            else:
                found.setdefault(
                    identity, UsageOther(occurred_at=at, course=said.course, action=f"caliper.{role}")
                )
    return tuple([PersonFacts(identities=(one,), facts=(its,)) for one, its in found.items()])
