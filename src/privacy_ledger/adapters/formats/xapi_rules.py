"""What makes decoded JSON a statement of xAPI 1.0.3 or 2.0, and a timestamp an instant.

Rules: xAPI 1.0.3, Part Two (Data), by their numbers there; IEEE 9274.1.1 (xAPI 2.0) for
`contextAgents` and `contextGroups`. Requirements upon a record store that answers over HTTP, such
as signatures and attachments' bytes, are none here.
"""

import re
from datetime import datetime
from operator import attrgetter
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from privacy_ledger.adapters.formats.times import parse_time
from privacy_ledger.adapters.formats.xapi_shape import (
    IRI,
    UUID,
    Activity,
    Context,
    ContextActivities,
    Definition,
    Named,
    Party,
    Result,
    Score,
    Statement,
    Thing,
    Verb,
)
from privacy_ledger.domain.refusals import Refusal

__all__ = ["VOIDED", "activities_of", "instant_of", "is_activity", "statement_of"]

VOIDED: Final = "http://adlnet.gov/expapi/verbs/voided"
AUTHORITY_AGENTS: Final = 2

_TIMESTAMP: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,12})?"
    r"(?:[Zz]|\+[0-9]{2}(?::?[0-9]{2})?|-(?!00(?::?00)?\Z)[0-9]{2}(?::?[0-9]{2})?)?"
)
_COMPONENTS: Final[dict[str, tuple[str, ...]]] = {
    "choice": ("choices",),
    "sequencing": ("choices",),
    "likert": ("scale",),
    "matching": ("source", "target"),
    "performance": ("steps",),
}
_LISTS: Final = ("choices", "scale", "source", "target", "steps")
_PARTY: Final = ("name", "mbox", "mbox_sha1sum", "openid", "account")
_SUB: Final = ("actor", "verb", "object", "result", "context", "timestamp", "attachments")
_MEMBERS: Final[dict[str, frozenset[str]]] = {
    "Activity": frozenset(("id", "definition")),
    "GroupActivity": frozenset(("id", "definition")),
    "Agent": frozenset(_PARTY),
    "Group": frozenset((*_PARTY, "member")),
    "StatementRef": frozenset(("id",)),
    "SubStatement": frozenset(_SUB),
}

_FOREIGN: Final = {
    kind: attrgetter(*sorted(set(Thing.__struct_fields__) - allowed - {"object_type"}))
    for kind, allowed in _MEMBERS.items()
}
_UUID_FORM: Final = re.compile(UUID)
_IRI_FORM: Final = re.compile(IRI)


def statement_of(root: dict[str, object]) -> Statement | None:
    """Return the statement that decoded JSON is, or None; never raises.

    `timestamp` and `stored` are only text here: what instant they name is asked of `instant_of`.
    """
    try:
        said = msgspec.convert(root, Statement)
    except (msgspec.ValidationError, RecursionError):
        return None
    is_sound = (
        _is_party(said.actor)
        and (said.authority is UNSET or _is_authority(said.authority))
        and _is_told(said.verb, said.object, said.result, said.context)
        and not (said.version is not UNSET and said.version.startswith("1") and _is_later(said))
    )
    return said if is_sound else None


def instant_of(text: str) -> datetime | Refusal:
    """Return the instant of a timestamp in UTC, or why it is none (Data 4.5; RFC 3339 in 2.0).

    An offset of minus zero says that the offset is unknown, and is refused, as is a time without an
    offset. Of ISO 8601 only the extended form with seconds is read, to the microsecond.
    """
    return Refusal.TIME_INVALID if _TIMESTAMP.fullmatch(text) is None else parse_time(text)


def is_activity(thing: Thing) -> bool:
    """Return whether an object is an activity, which it is unless it says otherwise."""
    return thing.object_type is UNSET or thing.object_type in {"Activity", "GroupActivity"}


def activities_of(around: ContextActivities) -> list[Activity]:
    """Return the activities of a context: parents, groupings, categories, others."""
    found: list[Activity] = []
    for given in (around.parent, around.grouping, around.category, around.other):
        if given is not UNSET:
            found += given if isinstance(given, list) else [given]
    return found


# Rules between members -------------------------------------------------------------------


def _is_told(verb: Verb, thing: Thing, result: Result | UnsetType, context: Context | UnsetType) -> bool:
    """Return whether what a statement or a sub-statement says holds together."""
    return (
        (verb.id != VOIDED or thing.object_type == "StatementRef")
        and _is_thing(thing)
        and (result is UNSET or result.score is UNSET or _is_score(result.score))
        and (context is UNSET or _is_context(context, has_activity=is_activity(thing)))
    )


def _is_party(party: Party) -> bool:
    return _is_named(party, is_group=party.object_type == "Group")


def _is_group(party: Party) -> bool:
    return party.object_type == "Group" and _is_named(party, is_group=True)


def _is_named(named: Named, *, is_group: bool) -> bool:
    """Return whether somebody has the one identifier of an Agent, or is a Group (2.4.2)."""
    names = (named.mbox, named.mbox_sha1sum, named.openid, named.account)
    count = len(names) - names.count(UNSET)
    if not is_group:
        return count == 1 and named.member is UNSET
    if named.member is UNSET:
        return count == 1
    return count <= 1 and all(one.object_type != "Group" and _is_party(one) for one in named.member)


def _is_authority(party: Party) -> bool:
    """Return whether this is an Agent, or the two without a name of a three-legged OAuth (2.4.9)."""
    if party.object_type != "Group":
        return _is_party(party)
    names = (party.mbox, party.mbox_sha1sum, party.openid, party.account)
    is_pair = party.member is not UNSET and len(party.member) == AUTHORITY_AGENTS
    return is_pair and names.count(UNSET) == len(names) and _is_party(party)


def _is_thing(thing: Thing) -> bool:
    """Return whether an object has the members of its kind, and no others (2.4.4)."""
    kind = "Activity" if thing.object_type is UNSET else thing.object_type
    foreign = _FOREIGN[kind](thing)
    if foreign.count(UNSET) < len(foreign):
        return False
    match kind:
        case "Activity" | "GroupActivity":
            return _is_iri(thing.id) and (thing.definition is UNSET or _is_definition(thing.definition))
        case "Agent" | "Group":
            return _is_named(thing, is_group=kind == "Group")
        case "StatementRef":
            return thing.id is not UNSET and _UUID_FORM.match(thing.id) is not None
        case _:
            return _is_sub_statement(thing)


def _is_sub_statement(thing: Thing) -> bool:
    """Return whether a sub-statement is whole, and holds no other (2.4.4.3)."""
    if thing.actor is UNSET or thing.verb is UNSET or thing.object is UNSET:
        return False
    if thing.object.object_type == "SubStatement" or not _is_party(thing.actor):
        return False
    if thing.timestamp is not UNSET and instant_of(thing.timestamp) is Refusal.TIME_INVALID:
        return False
    return _is_told(thing.verb, thing.object, thing.result, thing.context)


def _is_definition(definition: Definition) -> bool:
    """Return whether the lists of an interaction are those of its type, each id once (2.4.4.1)."""
    kind = definition.interaction_type
    lists = [(name, found) for name in _LISTS if (found := getattr(definition, name)) is not UNSET]
    if kind is UNSET:
        return not lists and definition.correct_responses_pattern is UNSET
    allowed = _COMPONENTS.get(kind, ())
    return all(name in allowed and len({one.id for one in found}) == len(found) for name, found in lists)


def _is_score(score: Score) -> bool:
    """Return whether `min` is below `max`, and `raw` between them (2.4.5.1)."""
    low = -float("inf") if score.min is UNSET else score.min
    high = float("inf") if score.max is UNSET else score.max
    return low < high and (score.raw is UNSET or low <= score.raw <= high)


def _is_context(context: Context, *, has_activity: bool) -> bool:
    """Return whether a context names people rightly, and a revision of an activity only (2.4.6)."""
    if not has_activity and not (context.revision is UNSET and context.platform is UNSET):
        return False
    if context.instructor is not UNSET and not _is_party(context.instructor):
        return False
    if context.team is not UNSET and not _is_group(context.team):
        return False
    agents = () if context.context_agents is UNSET else context.context_agents
    groups = () if context.context_groups is UNSET else context.context_groups
    if not all(one.agent.object_type != "Group" and _is_party(one.agent) for one in agents):
        return False
    if not all(_is_group(one.group) for one in groups):
        return False
    around = context.context_activities
    return around is UNSET or all(
        one.definition is UNSET or _is_definition(one.definition) for one in activities_of(around)
    )


def _is_later(said: Statement) -> bool:
    """Return whether a statement has members that came with xAPI 2.0."""
    inner = () if said.object.context is UNSET else (said.object.context,)
    outer = () if said.context is UNSET else (said.context,)
    return any(one.context_agents is not UNSET or one.context_groups is not UNSET for one in (*outer, *inner))


def _is_iri(text: str | UnsetType) -> bool:
    return text is not UNSET and _IRI_FORM.match(text) is not None
