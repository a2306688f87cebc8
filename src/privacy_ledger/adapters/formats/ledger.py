"""The ledger's own format: one line of JSON is one typed fact about one person, or the same about several.

    {"id": "evt-1", "subject": "openedx:user_id:42", "event": {"type": "payment.confirmed.v1", ...}}

For producers that speak in the ledger's own events, such as a payment processor's webhook or the SDK. Pure
and total: any bytes give `Parsed` or a `Refusal`. An event has the fields of its schema and no others, and
each is made harmless as a mapping's would be: paths and addresses without identifiers, plain codes.
`subjects` instead of `subject` names a group, whose members have one record each.
"""

import re
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.formats.json_lines import decode_canonical
from privacy_ledger.adapters.formats.mapped import UnfitError, plain_member
from privacy_ledger.adapters.formats.mapping import EVENTS, Member, members_of
from privacy_ledger.adapters.formats.subjects import subject_identity
from privacy_ledger.adapters.formats.times import parse_time
from privacy_ledger.domain.events import Fact
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

__all__ = ["SUBJECTS_MAX", "TAKEN", "parse"]

TAKEN: Final = EVENTS
"""What another program may say here, by type: all but what the ledger derives, or says itself."""
SUBJECTS_MAX: Final = 16
_MEMBERS: Final = {name: members_of(kind) for name, kind in TAKEN.items()}
_SAID_BY_ALL: Final = frozenset({"type", "occurred_at", "is_assumed"})
"""Members that no role makes harmless; that a consent is assumed is only said by whoever runs the ledger."""
_ID: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,255}")


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    event: dict[str, object]
    subject: str | None = None
    subjects: tuple[str, ...] = ()
    id: str | None = None


def parse(line: bytes) -> Parsed | Refusal:
    """Return the fact of one line, or the first refusal that applies; never raises."""
    decoded = decode_canonical(line)
    if type(decoded) is Refusal:
        return decoded
    root, canonical = decoded
    try:
        said = msgspec.convert(root, _Line)
    except msgspec.ValidationError:
        return Refusal.SCHEMA_MISMATCH
    found = _fact(said.event)
    if type(found) is Refusal:
        return found
    identities = _identities(said)
    if type(identities) is Refusal:
        return identities
    if said.id is not None and _ID.fullmatch(said.id) is None:
        return Refusal.ID_INVALID
    fact, occurred_at = found
    return Parsed(
        people=tuple(PersonFacts(identities=(one,), facts=(fact,)) for one in identities),
        unattributed=(),
        device=None,
        occurred_at=occurred_at,
        source_event_id=said.id,
        anonymous=None,
        digest_input=canonical,
    )


def _identities(said: _Line) -> tuple[Identity, ...] | Refusal:
    """Return whom a line is about: one person, or several who differ."""
    names = said.subjects if said.subject is None else (said.subject, *said.subjects)
    if not names or len(names) > SUBJECTS_MAX or (said.subject is not None and said.subjects):
        return Refusal.SCHEMA_MISMATCH
    found: list[Identity] = []
    for name in names:
        identity = subject_identity(name)
        if type(identity) is Refusal:
            return identity
        found.append(identity)
    return tuple(found) if len(set(found)) == len(found) else Refusal.ID_INVALID


def _fact(event: dict[str, object]) -> tuple[Fact, datetime] | Refusal:
    """Return the fact and its time, or why it is none."""
    name = event.get("type")
    kind = TAKEN.get(name) if isinstance(name, str) else None
    if kind is None:
        return Refusal.UNKNOWN_EVENT
    members = _MEMBERS[str(name)]
    occurred_at = parse_time(event.get("occurred_at"))
    if type(occurred_at) is Refusal:
        return occurred_at
    if not event.keys() <= members.keys() | _SAID_BY_ALL or event.get("is_assumed"):
        return Refusal.SCHEMA_MISMATCH
    try:
        plain = {
            member: value if role == "plain" else plain_member(value, Member(member), role)
            for member, role in members.items()
            if (value := event.get(member)) is not None
        }
        found = msgspec.convert({**plain, "type": name, "occurred_at": occurred_at}, kind)
    except (UnfitError, msgspec.ValidationError):
        return Refusal.SCHEMA_MISMATCH
    return found, occurred_at
