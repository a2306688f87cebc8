"""The entities of a Caliper event: each may stand as an object, or as its IRI only.

Rules: Caliper 1.1 and 1.2, on entities and their coercion. An IRI stands for the object that has this id
elsewhere in the event, if there is one. Extensions are never read.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final, cast

from msgspec import Struct

from privacy_ledger.domain.identifiers import person_of
from privacy_ledger.ports.keys import Identity

__all__ = ["COURSES", "NOBODY", "Entities", "Entity", "is_unnamed", "person_identity"]

COURSES: Final = frozenset(("CourseOffering", "CourseSection"))
_GROUPS: Final = COURSES | {"Group", "Organization"}
_CONTEXT: Final = "@context"
_SOFTWARE: Final = "SoftwareApplication"
_PERSON: Final = "Person"
_UNNAMED: Final = re.compile(r"_:|https?://purl\.imsglobal\.org(?:/|\Z)", re.IGNORECASE)
"""Blank nodes, and the vocabulary itself: a person whose IRI lies there is anybody."""
_NAMES: Final = ("name", "firstName", "lastName", "email")
_NAME_CHARS_MIN: Final = 4


class Entity(Struct, frozen=True, gc=False):
    """An entity: its IRI, its type, and its members; the type is blank where nothing tells it."""

    id: str
    type: str
    members: Mapping[str, object]

    def __repr__(self) -> str:
        """Return the type only."""
        return f"Entity({self.type})"


NOBODY: Final = Entity("", "", {})


class Entities:
    """The entities of one event, by their IRIs."""

    def __init__(self, root: Mapping[str, object]) -> None:
        """Read every object of the event, but for extensions; `contexts` are those that stand in them."""
        self._known: dict[str, Entity] = {}
        self._people: set[str] = set()
        self._called: set[str] = set()
        self.contexts: list[object] = []
        self._software = root.get("edApp")
        for members in _objects(root):
            if _CONTEXT in members:
                self.contexts.append(members[_CONTEXT])
            if not isinstance(members.get("id"), str):
                continue
            found = _entity(members)
            if found.type == _PERSON:
                self._people.add(found.id)
                self._called.update(_called(members))
            known = self._known.get(found.id)
            # Of two that say different things, a person counts: they are personal until shown otherwise.
            if known is None or (known.type != _PERSON and found.type == _PERSON):
                self._known[found.id] = found

    def of(self, value: object) -> Entity:
        """Return the entity that a member holds; `NOBODY` where it holds none."""
        if isinstance(value, str):
            return self._known.get(value, Entity(value, "", {}))
        if isinstance(value, dict):
            found = _entity(value)
            if len(found.members) <= (1 if found.type == "" else 2) and found.id in self._known:
                return self._known[found.id]
            return found
        return NOBODY

    def at(self, entity: Entity, *path: str) -> Entity:
        """Return the entity that lies at a path of members from another one."""
        for name in path:
            entity = self.of(entity.members.get(name))
        return entity

    def chain(self, entity: Entity, member: str) -> Iterator[Entity]:
        """Yield an entity, and then each that it is a part of by a member; bounded by the event."""
        seen: set[int] = set()
        while entity is not NOBODY and id(entity.members) not in seen:
            seen.add(id(entity.members))
            yield entity
            entity = self.of(entity.members.get(member))

    def people(self, value: object) -> list[Entity]:
        """Return whom a member names: a person, each of a list, each member of a group; software is nobody.

        A group may hold groups. An IRI of which nothing tells what it is, in a place where people are named,
        is a person.
        """
        found: list[Entity] = []
        seen: set[int] = set()
        stack = [value]
        while stack:
            one = stack.pop()
            if isinstance(one, list):
                stack += reversed(one)
                continue
            entity = self.of(one)
            if entity.id in self._people or entity.type not in _GROUPS:
                if self._is_person(entity):
                    found.append(entity)
            elif id(entity.members) not in seen:
                seen.add(id(entity.members))
                stack.append(entity.members.get("members"))
        return found

    def names(self) -> frozenset[str]:
        """Return what the people are called, to be struck from paths and the names of things.

        Names, what other systems call them, their IRIs and the last parts of those; a short number is left,
        for things have short numbers, too.
        """
        lasts = [
            iri.rstrip("/").replace("#", "/").replace(":", "/").rpartition("/")[2] for iri in self._people
        ]
        called = (*lasts, *self._called)
        told = {name for name in called if len(name) >= _NAME_CHARS_MIN or not name.isdecimal()}
        return frozenset((told | self._people) - {""})

    def _is_person(self, entity: Entity) -> bool:
        if entity.id in self._people:
            return True
        return bool(entity.id) and entity.type != _SOFTWARE and entity.id != self._software

    def note(self, people: Collection[Entity]) -> None:
        """Take further entities as people: those who are named where people are named."""
        for person in people:
            self._people.add(person.id)
            self._known.setdefault(person.id, person)
            self._called.update(_called(person.members))


def is_unnamed(entity: Entity) -> bool:
    """Return whether an entity has no IRI of its own: a blank node, or the vocabulary's own term."""
    return _UNNAMED.match(entity.id) is not None


def person_identity(person: Entity) -> Identity | None:
    """Return the canonical identity of a person; None when the IRI is beyond what an identity may be."""
    found = person_of(person.id)
    return None if found is None else Identity(*found)


def _entity(members: Mapping[str, object]) -> Entity:
    iri, kind = members.get("id"), members.get("type")
    return Entity(iri if isinstance(iri, str) else "", kind if isinstance(kind, str) else "", members)


def _called(members: Mapping[str, object]) -> Iterator[str]:
    """Yield the names of a person, and the identifiers that other systems know them by."""
    others = members.get("otherIdentifiers")
    for one in others if isinstance(others, list) else ():
        if isinstance(one, dict) and isinstance(name := one.get("identifier"), str):
            yield name
    for member in _NAMES:
        if isinstance(name := members.get(member), str):
            yield name


def _objects(root: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """Yield every object below a root, outermost first."""
    stack: list[object] = [value for name, value in root.items() if name != "extensions"]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif isinstance(value, dict):
            members = cast("dict[str, object]", value)
            yield members
            stack += [inner for name, inner in members.items() if name != "extensions"]
