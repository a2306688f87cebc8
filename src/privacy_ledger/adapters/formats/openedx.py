"""The Open edX tracking log: one line of JSON as facts about the people it concerns.

Both shapes: the older one (`event_type`, `time`, `username`, `event` at the root) and the newer
one (`name`, `timestamp`, `context`, `data`). Pure, and total: any bytes give `Parsed` or a
`Refusal`. An address is handed on to be looked up and dropped, the agent only as families, and of each
event only the fields that its fact declares.
"""

import re
import unicodedata
from datetime import datetime
from typing import Final

from privacy_ledger.adapters.formats.json_lines import decode_canonical
from privacy_ledger.adapters.formats.minimise import device_of
from privacy_ledger.adapters.formats.openedx_facts import (
    Line,
    deed_of,
    fact_of,
    names_subject,
    payload_of,
)
from privacy_ledger.adapters.formats.times import parse_time
from privacy_ledger.domain.events import Fact
from privacy_ledger.domain.identifiers import has_control
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import EPOCH
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

__all__ = [
    "UNNAMED_ACTIVITY",
    "USERNAME",
    "USER_ID",
    "parse",
    "user_id_identity",
    "username_identity",
]

USER_ID: Final = "openedx:user_id"
USERNAME: Final = "openedx:username"
USERNAME_CHARS_MAX: Final = 255
UNNAMED_ACTIVITY: Final = "edx.activity.unnamed"
"""The action of a line that says only who was active, and when."""
_SAYING: Final = frozenset(("event_type", "name", "event", "data"))
_ANONYMOUS: Final = frozenset(("anonymous", "anonymoususer"))
"""What the platform logs as a username where nobody is logged in."""

_USER_ID: Final = re.compile(r"[0-9]{1,19}")
_USER_ID_MAX: Final = (1 << 63) - 1
_TOKEN: Final = re.compile(r"[A-Za-z0-9_.:\-]{8,255}")


def parse(line: bytes) -> Parsed | Refusal:
    """Return the facts of one line, or the first refusal that applies; never raises."""
    decoded = decode_canonical(line)
    if type(decoded) is Refusal:
        return decoded
    root, canonical = decoded
    read = _line(root)
    if type(read) is Refusal:
        return read
    occurred_at = parse_time(root.get("time") or root.get("timestamp"))
    fact = fact_of(read, at=EPOCH if type(occurred_at) is Refusal else occurred_at)
    # The documented order of reasons: what the event is, then its time, then its people.
    if type(fact) is Refusal:
        return fact
    if type(occurred_at) is Refusal:
        return occurred_at
    people = _people(root, read, fact, at=occurred_at)
    if type(people) is Refusal:
        return people
    persons, has_actor = people
    # A session and an agent are the acting person's: never those of whom the event is about.
    is_about_actor = has_actor or not persons
    agent = root.get("agent") or read.context.get("agent")
    address = root.get("ip") or read.context.get("ip")
    return Parsed(
        people=persons,
        unattributed=() if persons else (fact,),
        device=device_of(agent, occurred_at=occurred_at)
        if has_actor and isinstance(agent, str) and agent
        else None,
        address=address if has_actor and isinstance(address, str) else None,
        occurred_at=occurred_at,
        source_event_id=_token(root.get("event_id")) or _token(root.get("id")),
        anonymous=_anonymous(root, read.context) if is_about_actor else None,
        digest_input=canonical,
    )


def user_id_identity(value: object) -> Identity | Refusal | None:
    """Return the canonical identity of a numeric user id: 3, "3" and "03" are one.

    None when the value is blank, which is no subject; `ID_INVALID` when it is no user id.
    """
    if value is None or value == "":
        return None
    if type(value) is int:
        number = value
    elif isinstance(value, str):
        if _USER_ID.fullmatch(value) is None:
            return Refusal.ID_INVALID if value.strip() else None
        number = int(value)
    else:
        return Refusal.ID_INVALID
    if not 0 < number <= _USER_ID_MAX:
        return Refusal.ID_INVALID
    return Identity(USER_ID, str(number))


def username_identity(value: object) -> Identity | Refusal | None:
    """Return the canonical identity of a username: its NFC form, at most 255 characters.

    None when the value is blank or the platform's word for nobody; `ID_INVALID` for a value that
    is no text, too long, or holds control or unassigned characters.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        return Refusal.ID_INVALID
    if not value.isascii():
        if len(value) > 4 * USERNAME_CHARS_MAX:
            return Refusal.ID_INVALID
        value = unicodedata.normalize("NFC", value)
    if not value.strip() or value.lower() in _ANONYMOUS:
        return None
    if len(value) > USERNAME_CHARS_MAX or has_control(value):
        return Refusal.ID_INVALID
    return Identity(USERNAME, value)


def _line(root: dict[str, object]) -> Line | Refusal:
    """Return the parts of a line that its fact may be made of."""
    name = root.get("event_type") or root.get("name")
    context = root.get("context")
    if context is None or context == "":
        context = {}
    if not isinstance(context, dict) or not (name is None or isinstance(name, str)):
        return Refusal.SCHEMA_MISMATCH
    if name is None and not _SAYING.intersection(root):
        name = UNNAMED_ACTIVITY
    if not name:
        return Refusal.UNKNOWN_EVENT
    payload = payload_of(name, root["event"] if "event" in root else root.get("data"))
    if type(payload) is Refusal:
        return payload
    source = root.get("event_source") or context.get("event_source")
    page = root.get("page") or context.get("page")
    return Line(
        name=name,
        is_browser=source == "browser",
        context=context,
        payload=payload,
        page=page if isinstance(page, str) else "",
        names=_names(root, context),
    )


def _names(root: dict[str, object], context: dict[str, object]) -> tuple[str, ...]:
    """Return the usernames of the line, to be struck from its paths."""
    found = (root.get("username"), context.get("username"))
    return tuple({name for name in found if isinstance(name, str) and name})


def _people(
    root: dict[str, object], line: Line, fact: Fact, *, at: datetime
) -> tuple[tuple[PersonFacts, ...], bool] | Refusal:
    """Return the people of a line with their facts, and whether the first of them acted."""
    context = line.context
    actor = _actor(root, context)
    if type(actor) is Refusal:
        return actor
    subject = _subject(line)
    if type(subject) is Refusal:
        return subject
    if not actor and not subject:
        return (), False
    if not actor:
        return (PersonFacts(identities=subject, facts=(fact,)),), False
    if not subject or not set(actor).isdisjoint(subject):
        bound = tuple(dict.fromkeys(actor + subject))
        if len({identity.namespace for identity in bound}) < len(bound):
            return Refusal.ID_INVALID  # one person with two numbers or two names
        return (PersonFacts(identities=bound, facts=(fact,)),), True
    # A name and a number that do not stand together in one place may be two people's: they stay
    # apart here, and a line that has both in one place joins them.
    deed = deed_of(line, fact, at=at)
    return (
        PersonFacts(identities=actor, facts=(deed,)),
        PersonFacts(identities=subject, facts=(fact,)),
    ), True


def _actor(root: dict[str, object], context: dict[str, object]) -> tuple[Identity, ...] | Refusal:
    """Return the identities of the person who acted: number first, then name; empty = nobody."""
    ids = (user_id_identity(context.get("user_id")), user_id_identity(root.get("user_id")))
    names = (username_identity(root.get("username")), username_identity(context.get("username")))
    found: list[Identity] = []
    for first, second in (ids, names):
        if type(first) is Refusal or type(second) is Refusal:
            return Refusal.ID_INVALID
        if first is not None and second is not None and first != second:
            return Refusal.ID_INVALID  # a line that contradicts itself must not join two people
        identity = first if first is not None else second
        if identity is not None:
            found.append(identity)
    return tuple(found)


def _subject(line: Line) -> tuple[Identity, ...] | Refusal:
    """Return the identities of the person whom the event itself names; empty = nobody."""
    user_id, username = names_subject(line)
    identity = user_id_identity(user_id)
    if identity is None:
        return ()
    name = username_identity(username)
    if type(identity) is Refusal or type(name) is Refusal:
        return Refusal.ID_INVALID
    return (identity,) if name is None else (identity, name)


def _anonymous(root: dict[str, object], context: dict[str, object]) -> str | None:
    """Return the session, else the client id, marked as what it is; None without either."""
    session = _token(root.get("session")) or _token(context.get("session"))
    if session is not None:
        return f"session:{session}"
    client = _token(context.get("client_id"))
    return None if client is None else f"client:{client}"


def _token(value: object) -> str | None:
    """Return an opaque identifier of a session, client or event, or None."""
    if isinstance(value, str) and _TOKEN.fullmatch(value) is not None:
        return value
    return None
