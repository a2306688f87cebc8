"""Postmark's webhooks: one object an event, told apart by its `RecordType`.

Pure, and total: any bytes give `Parsed` or a `Refusal`. Source: Postmark, "Webhooks", one page a type.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from privacy_ledger.adapters.formats.email_reports import (
    Reason,
    clicked,
    is_wish,
    message_of,
    report,
    suppressed,
)
from privacy_ledger.adapters.formats.json_lines import decode_canonical
from privacy_ledger.adapters.formats.times import parse_time
from privacy_ledger.domain.events import (
    EmailDeliveryReported,
    EmailOpened,
    EmailSuppressionChanged,
    Fact,
)
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import EPOCH
from privacy_ledger.ports.formats import Parsed

__all__ = ["parse"]

_AT: Final = {
    "Bounce": "BouncedAt",
    "Click": "ReceivedAt",
    "Delivery": "DeliveredAt",
    "Open": "ReceivedAt",
    "SpamComplaint": "BouncedAt",
    "SubscriptionChange": "ChangedAt",
}
"""The member that holds the time, by type of record."""
_PERMANENT: Final = frozenset(("BadEmailAddress", "HardBounce", "ManuallyDeactivated"))
_NO_BOUNCE: Final = frozenset(("AutoResponder", "AddressChange", "ChallengeVerification", "OpenRelayTest"))
"""Answers of mailboxes, of people and of tests: nothing about whether the message arrived."""
_SUPPRESSED: Final[dict[object, Reason]] = {
    "HardBounce": "bounced",
    "ManualSuppression": "unsubscribed",
    "SpamComplaint": "complained",
}


def parse(
    line: bytes, *, received_at: datetime | None = None, takes_untimed: bool = True
) -> Parsed | Refusal:
    """Return the facts of one event, or the first refusal that applies; never raises.

    `received_at`: when an event without a time happened, if `takes_untimed`; else it is refused. A wish is
    never refused for that: it registers nobody, so it brings nobody back.
    """
    decoded = decode_canonical(line)
    if type(decoded) is Refusal:
        return decoded
    root, canonical = decoded
    kind = root.get("RecordType")
    if not isinstance(kind, str):
        return Refusal.SCHEMA_MISMATCH
    said_at = parse_time(root.get(_AT.get(kind, "")))
    is_untimed = said_at is Refusal.TIME_MISSING
    if is_untimed and received_at is not None:
        said_at = received_at
    at = EPOCH if type(said_at) is Refusal else said_at
    facts = _facts(kind, root, at=at)
    if type(facts) is Refusal:
        return facts
    if type(said_at) is Refusal:
        return said_at
    if is_untimed and not takes_untimed and not is_wish(facts):
        return Refusal.TIME_MISSING
    own = root.get("Metadata")
    return report(
        facts,
        address=_address(root),
        own=own if isinstance(own, Mapping) else {},
        agent=root.get("UserAgent"),
        at=at,
        source_event_id=_event_id(kind, root),
        canonical=canonical,
    )


def _address(root: dict[str, object]) -> object:
    return root.get("Recipient") or root.get("Email")


def _facts(kind: str, root: dict[str, object], *, at: datetime) -> tuple[Fact, ...] | Refusal:
    """Return what one event says."""
    message = message_of(root.get("MessageID"))
    match kind:
        case "Delivery":
            return (EmailDeliveryReported(occurred_at=at, message=message, outcome="delivered"),)
        case "Bounce":
            return _bounced(root.get("Type"), message=message, at=at)
        case "SpamComplaint":
            return suppressed("complained", at=at)
        case "Open":
            return (EmailOpened(occurred_at=at, message=message),)
        case "Click":
            return (clicked(root.get("OriginalLink"), address=_address(root), message=message, at=at),)
        case "SubscriptionChange":
            is_suppressed = root.get("SuppressSending")
            if not isinstance(is_suppressed, bool):
                return Refusal.SCHEMA_MISMATCH
            if is_suppressed:
                return suppressed(_reason(root), at=at)
            return (EmailSuppressionChanged(occurred_at=at, is_suppressed=False),)
        case _:
            return Refusal.UNKNOWN_EVENT


def _reason(root: dict[str, object]) -> Reason | None:
    """Return why sending was ended; what the recipient did is a wish, whatever it is called."""
    said = root.get("SuppressionReason")
    reason = _SUPPRESSED.get(said) if isinstance(said, str) else None
    return "unsubscribed" if reason is None and root.get("Origin") == "Recipient" else reason


def _bounced(kind: object, *, message: str | None, at: datetime) -> tuple[Fact, ...] | Refusal:
    """Return what a bounce says: it may be a person's wish in disguise."""
    if not isinstance(kind, str):
        return Refusal.SCHEMA_MISMATCH
    if kind == "Unsubscribe":
        return suppressed("unsubscribed", at=at)
    if kind in {"SpamComplaint", "SpamNotification"}:
        return suppressed("complained", at=at)
    if kind == "Subscribe":
        return (EmailSuppressionChanged(occurred_at=at, is_suppressed=False),)
    if kind in _NO_BOUNCE:
        return Refusal.UNKNOWN_EVENT
    return (
        EmailDeliveryReported(
            occurred_at=at, message=message, outcome="bounced", reason="bounced",
            is_permanent=kind in _PERMANENT,
        ),
    )  # fmt: skip


def _event_id(kind: str, root: dict[str, object]) -> str | None:
    """Return the provider's id of a bounce or a complaint; its other events have none of their own."""
    number = root.get("ID")
    if type(number) is not int or number <= 0 or number.bit_length() > 64:  # noqa: PLR2004 - of 64 bits
        return None
    return f"{kind}:{number}"
