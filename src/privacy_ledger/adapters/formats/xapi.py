"""xAPI 1.0.3 and 2.0 statements: each becomes facts about the people whom it names.

Pure, and total: any bytes give `Parsed` or a `Refusal`. Order of reasons: the bytes, the statement
(`SCHEMA_MISMATCH`), its verb (`UNKNOWN_EVENT`), its time, its people (`ID_INVALID`).

Who: the actor, or each member of a group that acted, with what was done. Then the agents that are
the object, the instructors, the team, and further agents and groups of the context, each with the
role that they had. A group is no person: its own identifier is nobody's. What one without members
did waits in the unattributed lane, if the statement names nobody else, and is nobody's otherwise.
Nothing is recorded of an authority, which is a store's credential, nor of people in a
sub-statement, which tells no fact. No statement joins two identifiers: each Agent has one (Data,
2.4.2.1).

A voiding statement (2.3.2) is a claim of its actor, kept as such; it removes nothing.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from privacy_ledger.adapters.formats.arrays import ITEMS_MAX, array_items
from privacy_ledger.adapters.formats.json_lines import check_bytes, decode_canonical, decode_object
from privacy_ledger.adapters.formats.xapi_facts import Said, facts_of, said_of
from privacy_ledger.adapters.formats.xapi_rules import instant_of, statement_of
from privacy_ledger.adapters.formats.xapi_shape import Named, Party, Statement
from privacy_ledger.domain.events import Fact, UsageOther
from privacy_ledger.domain.identifiers import account_of, mbox_sha1sum_of, openid_of
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import EPOCH
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

Members = dict[str, Any]

__all__ = ["ACCOUNT", "MBOX_SHA1SUM", "OPENID", "PEOPLE_MAX", "STATEMENTS_MAX", "parse", "statements"]

ACCOUNT: Final = "xapi:account"
MBOX_SHA1SUM: Final = "xapi:mbox_sha1sum"
OPENID: Final = "xapi:openid"
PEOPLE_MAX: Final = 100
"""A statement that names more people than this is refused whole, as no statement."""
STATEMENTS_MAX: Final = ITEMS_MAX
"""A line of more is refused whole: as many valid statements do not fit into the longest line."""
_OBJECT: Final = "xapi.object"
_INSTRUCTOR: Final = "xapi.instructor"
_TEAM: Final = "xapi.team"
_CONTEXT: Final = "xapi.context"
# What a store may set or leave out, and so may differ between copies of one statement (2.3.1).
_CORE: Final = ("objectType", "actor", "verb", "object", "result", "context")
_PARTIES: Final = ("instructor", "team")
_encode = msgspec.json.Encoder(order="sorted").encode


class _StatementResult(Struct, frozen=True, forbid_unknown_fields=True):
    """What a store answers to a query (2.5)."""

    statements: list[msgspec.Raw]
    more: str = ""


_decode_result = msgspec.json.Decoder(_StatementResult).decode


def statements(
    lines: Iterable[tuple[int, bytes | Refusal]],
) -> Iterator[tuple[int, bytes | Refusal]]:
    """Yield each statement of each line, with the line's number, in order; a refusal as it is.

    A line is a statement, an array of them, or a store's answer to a query; each statement has an
    outcome of its own. What is none of these, or holds none, comes as it is.
    """
    for number, line in lines:
        if type(line) is Refusal:
            yield number, line
        else:
            for one in _items(line):
                yield number, one


def parse(line: bytes, *, received_at: datetime | None, takes_unknown: bool = True) -> Parsed | Refusal:
    """Return the facts of one statement, or the first refusal that applies; never raises.

    `received_at` is the time of a statement without `timestamp` and `stored`, as a record store would
    set it (2.4.7); None: such a statement is refused. `takes_unknown`: a verb of no known vocabulary is
    `usage.other`.
    """
    decoded = decode_canonical(line)
    if type(decoded) is Refusal:
        return decoded
    root, _ = decoded
    statement = statement_of(root)
    if statement is None:
        return Refusal.SCHEMA_MISMATCH
    roles = _roles(statement)
    if sum(len(agents) for agents, _ in roles) > PEOPLE_MAX:
        return Refusal.SCHEMA_MISMATCH
    said = said_of(statement, names=_names(roles))
    occurred_at = _time(statement, received_at=received_at)
    at = EPOCH if type(occurred_at) is Refusal else occurred_at
    facts = facts_of(said, at=at, takes_unknown=takes_unknown)
    if type(facts) is Refusal:
        return facts
    if type(occurred_at) is Refusal:
        return occurred_at
    people = _people(roles, facts, said, at=occurred_at)
    if type(people) is Refusal:
        return people
    return Parsed(
        people=people,
        unattributed=() if people else facts,
        device=None,
        occurred_at=occurred_at,
        source_event_id=None if statement.id is UNSET else statement.id.lower(),
        anonymous=None,
        digest_input=_encode(_immutable(root)),
    )


# Lines -----------------------------------------------------------------------------------


def _items(line: bytes) -> list[bytes | Refusal]:
    """Return the statements of a line; the line itself where it is no collection, or an empty one."""
    start = line[:1]
    if start == b"[":
        return array_items(line)
    if not (start == b"{" and b'"statements"' in line):
        return [line]
    refusal = check_bytes(line)
    if refusal is not None:
        return [refusal]
    try:
        if type(decode_object(line)) is Refusal:  # each statement is screened for itself
            return [line]
        found = _decode_result(line).statements
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return [line]
    if len(found) > STATEMENTS_MAX:
        return [Refusal.LINE_TOO_LONG]
    return [bytes(one).strip() for one in found] or [line]


def _time(statement: Statement, *, received_at: datetime | None) -> datetime | Refusal:
    """Return when it happened: its timestamp, else when it was stored, else when it came (2.4.7).

    One that came is new each time: it is no time by which what was erased is told from what is new.
    """
    found: datetime | Refusal | None = None
    for text in (statement.timestamp, statement.stored):
        if text is not UNSET:
            instant = instant_of(text)
            if type(instant) is Refusal:
                return instant
            found = found or instant
    return found or received_at or Refusal.TIME_MISSING


def _immutable(root: Members) -> Members:
    """Return what must be equal in two copies of one statement (2.3.1).

    Left out: how verbs are displayed and activities defined. Members of a group have no order, and
    a single activity of a context is a list of one (2.4.6.2).
    """
    found: Members = {name: root[name] for name in _CORE if name in root}
    found["actor"] = _unordered(root["actor"])
    found["verb"] = root["verb"]["id"]
    thing = root["object"]
    if thing.get("objectType") == "SubStatement":
        found["object"] = _immutable(thing)
    else:
        found["object"] = _unordered(_undefined(thing))
    context = root.get("context")
    if context is not None:
        found["context"] = context = dict(context)
        for name in _PARTIES:
            if name in context:
                context[name] = _unordered(context[name])
        for name in ("contextAgents", "contextGroups"):
            if name in context:
                context[name] = [{key: _unordered(one[key]) for key in sorted(one)} for one in context[name]]
        if "contextActivities" in context:
            context["contextActivities"] = {
                name: [_undefined(one) for one in (given if isinstance(given, list) else (given,))]
                for name, given in context["contextActivities"].items()
            }
    return found


def _undefined(activity: Members) -> Members:
    """Return an activity, or what else stands in its place, without its definition."""
    return {name: value for name, value in activity.items() if name != "definition"}


def _unordered(party: object) -> object:
    """Return an agent or a group, its members in one order."""
    if isinstance(party, dict) and "member" in party:
        return {**party, "member": sorted(party["member"], key=_encode)}
    return party


# People ----------------------------------------------------------------------------------

_Roles = list[tuple[list[Named], str | None]]
"""Agents by the role that they have; the first have none, for they acted."""


def _roles(statement: Statement) -> _Roles:
    """Return the agents of a statement, those who acted first."""
    thing, context = statement.object, statement.context
    found: _Roles = [(_agents(statement.actor), None)]
    if thing.object_type == "Agent":
        found.append(([thing], _OBJECT))
    elif thing.object_type == "Group":
        found.append((_members(thing), _OBJECT))
    if context is not UNSET:
        found.append((_agents(context.instructor), _INSTRUCTOR))
        found.append((_agents(context.team), _TEAM))
        if context.context_agents is not UNSET:
            found.append(([one.agent for one in context.context_agents], _CONTEXT))
        if context.context_groups is not UNSET:
            found += [(_members(one.group), _CONTEXT) for one in context.context_groups]
    return found


def _agents(party: Party | UnsetType) -> list[Named]:
    if party is UNSET:
        return []
    return _members(party) if party.object_type == "Group" else [party]


def _members(named: Named) -> list[Named]:
    return [] if named.member is UNSET else list(named.member)


def _names(roles: _Roles) -> frozenset[str]:
    """Return what the people are called, to be struck from paths and the names of things."""
    found: set[str] = set()
    for agents, _ in roles:
        for agent in agents:
            if agent.mbox is not UNSET:
                address = agent.mbox.removeprefix("mailto:")
                found.update((address, address.partition("@")[0]))
            elif agent.account is not UNSET:
                found.add(agent.account.name)
            elif agent.mbox_sha1sum is not UNSET:
                found.add(agent.mbox_sha1sum)
            if agent.name is not UNSET:
                found.add(agent.name)
    return frozenset(found)


def _people(
    roles: _Roles, facts: tuple[Fact, ...], said: Said, *, at: datetime
) -> tuple[PersonFacts, ...] | Refusal:
    """Return each person once, with what was done or with the first other role; empty = nobody."""
    found: dict[Identity, tuple[Fact, ...]] = {}
    for agents, role in roles:
        for agent in agents:
            identity = _identity(agent)
            if identity is None:
                return Refusal.ID_INVALID
            if identity not in found:
                found[identity] = (
                    facts if role is None else (UsageOther(occurred_at=at, course=said.course, action=role),)
                )
    return tuple([PersonFacts(identities=(one,), facts=its) for one, its in found.items()])


def _identity(agent: Named) -> Identity | None:
    """Return the canonical identity of an Agent, or None when it is beyond what an identity may be."""
    if agent.mbox is not UNSET:
        namespace, value = MBOX_SHA1SUM, mbox_sha1sum_of(agent.mbox)
    elif agent.mbox_sha1sum is not UNSET:
        namespace, value = MBOX_SHA1SUM, agent.mbox_sha1sum.lower()
    elif agent.account is not UNSET:
        namespace, value = ACCOUNT, account_of(agent.account.home_page, agent.account.name)
    elif agent.openid is not UNSET:
        namespace, value = OPENID, openid_of(agent.openid)
    else:
        return None
    return None if value is None else Identity(namespace, value)
