"""SendGrid's event webhook: what became of messages, one event an object; the provider posts arrays.

Pure, and total: any bytes give `Parsed` or a `Refusal`. Source: SendGrid, "Event Webhook reference".
"""

import re
from datetime import datetime
from typing import Final, Literal

from privacy_ledger.adapters.formats.email_reports import Reason, clicked, message_of, report, suppressed
from privacy_ledger.adapters.formats.json_lines import decode_canonical
from privacy_ledger.adapters.formats.times import epoch_time
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

_TOKEN: Final = re.compile(r"[A-Za-z0-9_.:=\-]{1,255}")
_DROPPED: Final[
    dict[str, Literal["bounced", "complained", "content", "invalid", "other", "unsubscribed"]]
] = {
    "bounced address": "bounced",
    "invalid": "invalid",
    "spam content (if spam checker app enabled)": "content",
    "spam reporting address": "complained",
    "unsubscribed address": "unsubscribed",
}
"""Why the provider did not even send: what it knew already."""
_WISHES: Final[dict[object, Reason]] = {"complained": "complained", "unsubscribed": "unsubscribed"}


def parse(line: bytes) -> Parsed | Refusal:
    """Return the facts of one event, or the first refusal that applies; never raises."""
    decoded = decode_canonical(line)
    if type(decoded) is Refusal:
        return decoded
    root, canonical = decoded
    said_at = epoch_time(root.get("timestamp"))
    at = EPOCH if type(said_at) is Refusal else said_at
    facts = _facts(root, at=at)
    if type(facts) is Refusal:
        return facts
    if type(said_at) is Refusal:
        return said_at
    event_id = root.get("sg_event_id")
    is_id = isinstance(event_id, str) and _TOKEN.fullmatch(event_id) is not None
    return report(
        facts,
        address=root.get("email"),
        own=root,
        agent=root.get("useragent"),
        at=at,
        source_event_id=event_id if is_id and isinstance(event_id, str) else None,
        canonical=canonical,
    )


def _facts(root: dict[str, object], *, at: datetime) -> tuple[Fact, ...] | Refusal:
    """Return what one event says."""
    name = root.get("event")
    if not isinstance(name, str):
        return Refusal.SCHEMA_MISMATCH
    message = message_of(root.get("sg_message_id"))
    match name:
        case "processed" | "deferred" | "delivered":
            return (EmailDeliveryReported(occurred_at=at, message=message, outcome=name),)
        case "bounce":
            # A block is for now: the address itself is fine.
            is_permanent = root.get("type") != "blocked"
            return (
                EmailDeliveryReported(
                    occurred_at=at, message=message, outcome="bounced", reason="bounced",
                    is_permanent=is_permanent,
                ),
            )  # fmt: skip
        case "dropped":
            reason = root.get("reason")
            why = _DROPPED.get(reason.lower(), "other") if isinstance(reason, str) else "other"
            drop = EmailDeliveryReported(occurred_at=at, message=message, outcome="dropped", reason=why)
            # Of a wish that the provider knows this may be the only word that ever comes.
            return (drop, *suppressed(_WISHES[why], at=at)) if why in _WISHES else (drop,)
        case "open":
            is_automatic = root.get("sg_machine_open") is True
            return (EmailOpened(occurred_at=at, message=message, is_automatic=is_automatic),)
        case "click":
            return (clicked(root.get("url"), address=root.get("email"), message=message, at=at),)
        case "spamreport":
            return suppressed("complained", at=at)
        case "unsubscribe" | "group_unsubscribe":
            return suppressed("unsubscribed", at=at)
        case "group_resubscribe":
            return (EmailSuppressionChanged(occurred_at=at, is_suppressed=False),)
        case _:
            return Refusal.UNKNOWN_EVENT
