"""What an e-mail provider reports of a message, as facts about whom it went to.

A report never registers anybody. Who is named by the operator's own `ledger_subject` is that person, and
a report of one whom nobody knows is refused, to be sent again; otherwise the address stands for whom it is
known to stand for. What is about no such person waits in the unattributed lane without address and
message, good for rates only.

Of agents the families stay, of links host and path. Addresses of machines, places, coordinates, texts of
servers and of the message, tags and other members are never read.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from msgspec import structs

from privacy_ledger.adapters.formats.minimise import course_key, device_of, is_code, plain_target
from privacy_ledger.adapters.formats.subjects import subject_identity
from privacy_ledger.adapters.formats.xapi import MBOX_SHA1SUM
from privacy_ledger.domain.events import (
    ConsentWithdrawn,
    DeviceObserved,
    EmailClicked,
    EmailDeliveryReported,
    EmailOpened,
    EmailSuppressionChanged,
    Fact,
)
from privacy_ledger.domain.identifiers import mbox_sha1sum_of
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed, PersonFacts
from privacy_ledger.ports.keys import Identity

__all__ = [
    "NAMED_SUBJECT",
    "PROMOTION",
    "Reason",
    "clicked",
    "is_wish",
    "message_of",
    "report",
    "suppressed",
]

NAMED_SUBJECT: Final = "ledger_subject"
"""The member by which a platform tells a partner whom something concerns; it comes back in webhooks."""
PROMOTION: Final = "comm.promote"
"""The purpose that ends with an unsubscription or a complaint (GDPR Art. 7(3) and 21(3))."""

_WORD: Final = r"(?:[A-Za-z]?[a-z]{1,19}|[A-Z]{1,4})[0-9]{0,2}|[0-9]{1,3}"
_WORDS: Final = re.compile(rf"(?:{_WORD})(?:[_.\-](?:{_WORD})){{0,9}}")

Reason = Literal["bounced", "complained", "other", "unsubscribed"]


def message_of(value: object) -> str | None:
    """Return a provider's id of a message, or None where it is none, or holds an address."""
    return value if isinstance(value, str) and is_code(value) and "@" not in value else None


def clicked(url: object, *, address: object, message: str | None, at: datetime) -> EmailClicked:
    """Return that a link was followed; a target that is no web address is left out.

    A link in a message is often made for its one reader, and ends in a token that lets them in, or in
    their address in other letters. So of its path only plain words and course keys stay, and not the
    reader's own name, as their address has it.
    """
    local = address.partition("@")[0] if isinstance(address, str) else ""
    target = plain_target(url, names={local} if local else ()) if isinstance(url, str) else None
    if target is not None:
        host, *path = target.split("/")
        target = "/".join([host, *map(_plain_word, path)])
    return EmailClicked(occurred_at=at, message=message, target=target)


def suppressed(reason: Reason | None, *, at: datetime) -> tuple[Fact, ...]:
    """Return that a provider sends a person nothing more, and the withdrawal that a wish of theirs means."""
    fact = EmailSuppressionChanged(occurred_at=at, is_suppressed=True, reason=reason)
    if reason in {"complained", "unsubscribed"}:
        return fact, ConsentWithdrawn(occurred_at=at, purpose=PROMOTION)
    return (fact,)


def is_wish(facts: tuple[Fact, ...]) -> bool:
    """Return whether facts end a consent, because the person asked for it."""
    return any(isinstance(fact, ConsentWithdrawn) for fact in facts)


def report(
    facts: tuple[Fact, ...],
    *,
    address: object,
    own: Mapping[str, Any],
    agent: object,
    at: datetime,
    source_event_id: str | None,
    canonical: bytes,
) -> Parsed | Refusal:
    """Return what a report says of whom it concerns; `own` holds the operator's members.

    `ID_INVALID`: the operator's name of the person is none.
    """
    identity = _identity(address, own.get(NAMED_SUBJECT))
    if type(identity) is Refusal:
        return identity
    is_named = bool(own.get(NAMED_SUBJECT))
    return Parsed(
        people=() if identity is None else (PersonFacts(identities=(identity,), facts=facts),),
        unattributed=() if is_named else tuple(map(_bare, facts[:1])),
        device=_device(facts[0], agent, at=at) if identity is not None else None,
        occurred_at=at,
        source_event_id=source_event_id,
        anonymous=None,
        digest_input=canonical,
        may_register=False,
    )


def _plain_word(segment: str) -> str:
    """Return a segment of a path that is plain words or a course's key, else `:id`."""
    is_kept = not segment or _WORDS.fullmatch(segment) is not None or course_key(segment) is not None
    return segment if is_kept else ":id"


def _identity(address: object, subject: object) -> Identity | Refusal | None:
    """Return whom the operator names, else whom the address may be; None: nobody."""
    if subject is not None and subject != "":
        return subject_identity(subject) if isinstance(subject, str) else Refusal.ID_INVALID
    found = mbox_sha1sum_of(address) if isinstance(address, str) else None
    return None if found is None else Identity(MBOX_SHA1SUM, found)


def _device(fact: Fact, agent: object, *, at: datetime) -> DeviceObserved | None:
    """Return the device of whom opened or clicked; a program that opens by itself is not theirs."""
    is_theirs = isinstance(fact, EmailClicked) or (isinstance(fact, EmailOpened) and not fact.is_automatic)
    return device_of(agent, occurred_at=at) if is_theirs and isinstance(agent, str) and agent else None


def _bare(fact: Fact) -> Fact:
    """Return a fact without what would tie it to others of one message."""
    if isinstance(fact, EmailClicked | EmailDeliveryReported | EmailOpened):
        return structs.replace(fact, message=None)
    return fact
