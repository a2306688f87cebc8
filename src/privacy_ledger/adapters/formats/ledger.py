"""The ledger's own format: one line of JSON is one typed fact about one person.

    {"id": "evt-1", "subject": "openedx:user_id:42", "event": {"type": "payment.confirmed.v1", ...}}

For producers that speak in the ledger's own events, such as a payment processor's webhook. Pure and
total: any bytes give `Parsed` or a `Refusal`. An event has the fields of its schema and no others.
"""

import re
from datetime import datetime
from typing import Any, Final, Union

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.formats.json_lines import decode_canonical
from privacy_ledger.adapters.formats.subjects import subject_identity
from privacy_ledger.adapters.formats.times import parse_time
from privacy_ledger.domain.events import Fact, PaymentConfirmed, event_type
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed, PersonFacts

__all__ = ["parse"]

TAKEN: Final[tuple[type[Fact], ...]] = (PaymentConfirmed,)
"""What another program may say here. All else of a person comes in the platform's own formats."""
_NAMES: Final = frozenset(map(event_type, TAKEN))
_AnyFact: Any = Union[TAKEN]  # noqa: UP007 - from the list
_ID: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,255}")


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    subject: str
    event: dict[str, object]
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
    identity = subject_identity(said.subject)
    if type(identity) is Refusal:
        return identity
    if said.id is not None and _ID.fullmatch(said.id) is None:
        return Refusal.ID_INVALID
    fact, occurred_at = found
    return Parsed(
        people=(PersonFacts(identities=(identity,), facts=(fact,)),),
        unattributed=(),
        device=None,
        occurred_at=occurred_at,
        source_event_id=said.id,
        anonymous=None,
        digest_input=canonical,
    )


def _fact(event: dict[str, object]) -> tuple[Fact, datetime] | Refusal:
    """Return the fact and its time, or why it is none."""
    name = event.get("type")
    if not isinstance(name, str) or name not in _NAMES:
        return Refusal.UNKNOWN_EVENT
    occurred_at = parse_time(event.get("occurred_at"))
    if type(occurred_at) is Refusal:
        return occurred_at
    try:
        found: Fact = msgspec.convert({**event, "occurred_at": occurred_at}, _AnyFact)
    except msgspec.ValidationError:
        return Refusal.SCHEMA_MISMATCH
    return found, occurred_at
