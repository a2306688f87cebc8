"""Lines of a format that the operator declared: read by its mapping alone, pure and total."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from privacy_ledger.adapters.formats.json_lines import decode_canonical, decode_json
from privacy_ledger.adapters.formats.mapping import Build, Case, Id, Mapping, Member, Role, Time
from privacy_ledger.adapters.formats.minimise import (
    course_key,
    device_of,
    is_action,
    is_code,
    plain_path,
    plain_target,
)
from privacy_ledger.adapters.formats.openedx import user_id_identity, username_identity
from privacy_ledger.adapters.formats.times import epoch_time, parse_time
from privacy_ledger.domain.events import Fact, event_type
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import EPOCH
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

__all__ = ["Mapped", "UnfitError", "plain_member"]

_PER_SECOND: Final = {"epoch_s": 1, "epoch_ms": 10**3, "epoch_us": 10**6}
_PLACE_DIGITS_MAX: Final = 4
_NUMBER_MAX: Final = 10**15
_TOKEN: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,255}")
_COURSE: Final = re.compile(r"[0-9]{1,19}|[A-Za-z][A-Za-z0-9_.\-]{0,63}")
_COURSE_ID: Final = re.compile(r"[0-9]{11}|[0-9a-fA-F]{16}")
_ADDRESS: Final = re.compile(r"[^@/:]+@[^@/:]+\.[A-Za-z]{2,}")


class UnfitError(Exception):
    """A member of a line is not what its fact declares."""


class Mapped:
    """The parser of one mapping; a `Format`."""

    def __init__(self, mapping: Mapping) -> None:
        """Take the mapping."""
        self._mapping = mapping

    @property
    def name(self) -> str:
        """What its source is called where nobody says otherwise."""
        return self._mapping.name

    def __call__(self, line: bytes, /) -> Parsed | Refusal:
        """Return the facts of one line, or the first refusal that applies; never raises."""
        decoded = decode_canonical(line)
        if type(decoded) is Refusal:
            return decoded
        root, canonical = decoded
        for member in self._mapping.texts:
            root = _opened(root, member)
        case = next((one for one in self._mapping.cases if _fits(one, root)), None)
        if case is None:
            return Refusal.UNKNOWN_EVENT
        said_at = _time(_at(root, self._mapping.time.path), self._mapping.time)
        at = EPOCH if type(said_at) is Refusal else said_at
        try:
            deed, fact = _fact(case.actor, root, at=at), _fact(case.other, root, at=at)
        except UnfitError:
            return Refusal.SCHEMA_MISMATCH
        # The documented order of reasons: what the event is, then its time, then its people.
        if type(said_at) is Refusal:
            return said_at
        return self._parsed(root, canonical, deed, fact, at=said_at)

    def _parsed(
        self, root: dict[str, object], canonical: bytes, deed: Fact | None, fact: Fact | None, *, at: datetime
    ) -> Parsed | Refusal:
        """Return what a line says of its people; `deed` of who acts, `fact` of the other one."""
        mapping = self._mapping
        actor, other = _identities(root, mapping.actor), _identities(root, mapping.other)
        if type(actor) is Refusal or type(other) is Refusal:
            return Refusal.ID_INVALID
        people = _people(actor, other, deed=deed, fact=fact)
        if type(people) is Refusal:
            return people
        has_actor = bool(actor) and bool(people) and people[0].identities[: len(actor)] == actor
        agent, session = _found(root, mapping.agent), _token(_found(root, mapping.session))
        address = _found(root, mapping.address)
        # What concerns somebody else who is not known is nobody's: no session tells who that was.
        own = deed is not None and not people
        nobodys = deed or fact
        return Parsed(
            people=people,
            unattributed=() if people or nobodys is None else (nobodys,),
            device=device_of(agent, occurred_at=at)
            if has_actor and isinstance(agent, str) and agent
            else None,
            address=address if has_actor and isinstance(address, str) else None,
            occurred_at=at,
            source_event_id=_token(_found(root, mapping.id)),
            anonymous=f"session:{session}" if session is not None and (has_actor or own) else None,
            digest_input=canonical,
        )


# Where things lie -------------------------------------------------------------------------------


def _at(root: object, path: str) -> object:
    """Return what lies at a path of member names and places in lists, or None."""
    for step in path.split("."):
        if isinstance(root, dict):
            root = root.get(step)
        elif isinstance(root, list) and step.isdecimal() and len(step) <= _PLACE_DIGITS_MAX:
            root = root[int(step)] if int(step) < len(root) else None
        else:
            return None
    return root


def _found(root: dict[str, object], path: str | None) -> object:
    return None if path is None else _at(root, path)


def _opened(root: dict[str, object], member: str) -> dict[str, object]:
    """Return an object in which JSON that stands as text in a member is opened; other text stays."""
    text = root.get(member)
    if not isinstance(text, str):
        return root
    found = decode_json(text.encode())
    return root if type(found) is Refusal else {**root, member: found}


def _fits(case: Case, root: dict[str, object]) -> bool:
    """Return whether each member is one of those that are wanted; 1 is not true, and not "1"."""
    for path, wanted in case.when:
        found = _at(root, path)
        if not isinstance(found, str | int | float) or (isinstance(found, bool), found) not in wanted:
            return False
    return True


def _time(value: object, said: Time) -> datetime | Refusal:
    """Return the instant that a value says."""
    per_second = _PER_SECOND.get(said.kind)
    if per_second is None:
        return parse_time(value, assume_utc=said.kind == "iso_utc")
    return epoch_time(value, per_second=per_second)


def _token(value: object) -> str | None:
    """Return an opaque identifier of an event or a session, or None."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and _TOKEN.fullmatch(value) is not None else None


# People -----------------------------------------------------------------------------------------


def _identities(root: dict[str, object], ids: Sequence[Id]) -> tuple[Identity, ...] | Refusal:
    """Return the canonical identities of one person, in the order of the mapping; empty = nobody."""
    found: dict[str, Identity] = {}
    for one in ids:
        value = _at(root, one.path)
        if isinstance(value, str | int) and value in {0, "0"}:
            continue
        known = user_id_identity(value) if one.kind == "number" else username_identity(value)
        if type(known) is Refusal:
            return known
        if known is None:
            continue
        if known.value in map(str, one.nobody):
            continue
        whole = _in_block(known.value, one, root)
        if whole is None or "@" in whole:
            return Refusal.ID_INVALID  # an address is no id: it may be that of somebody who was erased
        mine = Identity(one.namespace, whole)
        if found.setdefault(one.namespace, mine) != mine:
            return Refusal.ID_INVALID  # a line that contradicts itself must not join two people
    return tuple(found.values())


def _in_block(value: str, one: Id, root: dict[str, object]) -> str | None:
    """Return the whole of a number that was given within the block of another one; None: of none."""
    if one.base is None or one.kind != "number" or int(value) >= one.unit:
        return value
    base = user_id_identity(_at(root, one.base))
    if base is None or type(base) is Refusal or int(base.value) < one.unit:
        return None
    return str(int(base.value) // one.unit * one.unit + int(value))


def _people(
    actor: tuple[Identity, ...], other: tuple[Identity, ...], *, deed: Fact | None, fact: Fact | None
) -> tuple[PersonFacts, ...] | Refusal:
    """Return the people of a line, each with what concerns them; who acts first."""
    if not set(actor).isdisjoint(other):
        bound = tuple(dict.fromkeys(actor + other))
        if len({identity.namespace for identity in bound}) < len(bound):
            return Refusal.ID_INVALID  # one person with two numbers or two names
        said = fact or deed
        return () if said is None else (PersonFacts(identities=bound, facts=(said,)),)
    return tuple(
        PersonFacts(identities=identities, facts=(said,))
        for identities, said in ((actor, deed), (other, fact))
        if identities and said is not None
    )


# Facts ------------------------------------------------------------------------------------------


def _fact(build: Build | None, root: dict[str, object], *, at: datetime) -> Fact | None:
    """Return a fact; a member that is absent, null or empty is left out."""
    if build is None:
        return None
    members: dict[str, object] = {**build.fixed}
    for name, (member, role) in build.members.items():
        value = _at(root, member.path)
        if value is not None and value != "":
            members[name] = plain_member(value, member, role)
    members |= {"type": event_type(build.kind), "occurred_at": at}
    try:
        return msgspec.convert(members, build.kind, strict=False)
    except msgspec.ValidationError:
        raise UnfitError from None


def plain_member(value: object, member: Member, role: Role) -> object:
    """Return a value as its field may hold it: without identifiers of people, within bounds.

    Raises:
        UnfitError: it is not what the field takes.
    """
    if isinstance(value, dict | list):
        raise UnfitError
    if member.times != 1:
        return round(_number(value) * member.times)
    found: object
    match role:
        case "course":
            found = _course(value, member.prefix)
        case "path":
            found = (plain_target(value) or plain_path(value)) if isinstance(value, str) else None
        case "action":
            found = value if isinstance(value, str) and is_action(value) else None
        case "code":
            text = value if isinstance(value, str) else None if isinstance(value, bool) else str(value)
            found = text if is_code(text) and _ADDRESS.fullmatch(text or "") is None else None
        case _:
            return value
    if found is None:
        raise UnfitError
    return found


def _number(value: object) -> float:
    """Return a number, also where it stands as text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise UnfitError from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _NUMBER_MAX:
        raise UnfitError
    return value


def _course(value: object, prefix: str) -> str | None:
    """Return a course's key: one of the platform's forms, or a short name or number behind a prefix."""
    if not prefix:
        return course_key(value)
    text = "" if isinstance(value, bool) else str(value)
    is_word = _COURSE.fullmatch(text) is not None
    if not is_word or (not text.isdecimal() and _COURSE_ID.search(text) is not None):
        return None
    return prefix + text
