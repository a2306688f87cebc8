"""The one decision on a collection event: which purposes it may serve, or why it is refused.

The same function is the fast pre-check at the edge and the exact decision of the passes in log
order (architecture: admission). Unknown means no.
"""

from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.events import ConsentGranted, ConsentWithdrawn, Fact, ObjectionRaised, event_type
from privacy_ledger.domain.permissions import Permissions, category_scope, field_scope, purpose_scope
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, LawfulBasis, month_of

__all__ = ["FUTURE_TOLERANCE", "Candidate", "admit", "has_effect", "is_past_retention", "purposes_in_force"]

FUTURE_TOLERANCE: Final = timedelta(minutes=5)
_NEVER_TOO_EARLY: Final = frozenset({event_type(ConsentWithdrawn), event_type(ObjectionRaised)})
"""A clock that runs ahead must not keep a consent alive."""


class Candidate(Struct, frozen=True, gc=False):
    """What the decision looks at; `purposes` is sorted and as collected, `field` as in the record."""

    type: str
    category: Category
    purposes: tuple[str, ...]
    occurred_at: datetime
    received_at: datetime
    field: bytes = b""


def admit(
    permissions: Permissions,
    candidate: Candidate,
    rules: Rules,
    *,
    last_tick: datetime | None,
    is_known_copy: bool | None,
) -> Refusal | tuple[str, ...]:
    """Return the purposes in force for the event, sorted, or the first refusal that applies.

    `is_known_copy`: None when no live record has this tag; True when one has it with the same
    digest (a duplicate); False when one has it with another digest (an id used twice). Order of
    precedence: that of `Refusal`.
    """
    rule = rules.event(candidate.type)
    if rule is None or rule.category is not candidate.category:
        return Refusal.UNKNOWN_EVENT
    is_ahead = candidate.occurred_at > candidate.received_at + FUTURE_TOLERANCE
    if is_ahead and candidate.type not in _NEVER_TOO_EARLY:
        return Refusal.TIME_FUTURE
    if not rules.may_serve(rule, candidate.purposes):
        return Refusal.UNKNOWN_PURPOSE
    if permissions.is_ended and rules.duty(candidate.category) is None:
        return Refusal.SUBJECT_ERASED
    if not permissions.is_registered:
        return Refusal.SUBJECT_UNKNOWN
    if (
        permissions.not_before is not None
        and candidate.occurred_at < permissions.not_before
        and candidate.category is not Category.EVIDENCE
    ):
        return Refusal.BEFORE_SUBJECT
    if permissions.cleared and _is_cleared(permissions, candidate, rules):
        return Refusal.SCOPE_ERASED
    if last_tick is not None and is_past_retention(
        candidate.category, candidate.occurred_at, rules, at=last_tick
    ):
        return Refusal.PAST_RETENTION
    if is_known_copy is not None:
        return Refusal.DUPLICATE if is_known_copy else Refusal.ID_REUSED
    if permissions.is_ended:
        return (str(rules.duty(candidate.category)),)  # the law asks for it; it serves nothing else
    purposes = purposes_in_force(permissions, candidate, rules)
    if not purposes:
        if permissions.is_minor and not permissions.is_approved:
            return Refusal.MINOR_UNAPPROVED
        if _served_what_was_cleared(permissions, candidate):
            return Refusal.SCOPE_ERASED
        return Refusal.CONSENT_MISSING
    return purposes


def purposes_in_force(permissions: Permissions, candidate: Candidate, rules: Rules) -> tuple[str, ...]:
    """Return those of the candidate's purposes that may use it: valid when collected, and now.

    A purpose based on consent takes only events that occurred after the grant in force.
    """
    consent = rules.consent_purposes
    blocked = permissions.is_minor and not permissions.is_approved
    kept = []
    for purpose in candidate.purposes:
        if purpose in permissions.objections:
            continue
        if (
            permissions.cleared
            and permissions.is_cleared(purpose_scope(purpose), candidate.occurred_at)
            and purpose != rules.duty(candidate.category)
        ):
            continue
        if purpose in consent:
            since = permissions.grants.get(purpose)
            if blocked or since is None or candidate.occurred_at < since:
                continue
        kept.append(purpose)
    return tuple(kept)


def _is_cleared(permissions: Permissions, candidate: Candidate, rules: Rules) -> bool:
    """Return whether an event lies in a category or a profile field whose past was erased.

    What the law keeps is taken however late it comes.
    """
    scope = category_scope(candidate.category)
    if permissions.is_cleared(scope, candidate.occurred_at) and rules.duty(candidate.category) is None:
        return True
    return bool(candidate.field) and permissions.is_cleared(
        field_scope(candidate.field), candidate.occurred_at
    )


def _served_what_was_cleared(permissions: Permissions, candidate: Candidate) -> bool:
    at = candidate.occurred_at
    return any(permissions.is_cleared(purpose_scope(purpose), at) for purpose in candidate.purposes)


def is_past_retention(category: Category, occurred_at: datetime, rules: Rules, *, at: datetime) -> bool:
    """Return whether a record of this category and time is due at `at`.

    Periods are whole months after the month of occurrence; None never falls due.
    """
    months = rules.retention_months(category)
    return months is not None and month_of(occurred_at) + months < month_of(at)


def has_effect(fact: Fact, rules: Rules) -> bool:
    """Return whether a fact may change permissions under the rules in force.

    Consent exists for purposes based on consent (GDPR Art. 7), objection for those based on a
    legitimate interest (Art. 21): nothing else can be withdrawn or objected to.
    """
    match fact:
        case ConsentGranted() | ConsentWithdrawn():
            return fact.purpose in rules.consent_purposes
        case ObjectionRaised():
            rule = rules.purpose(fact.purpose)
            return rule is not None and rule.basis is LawfulBasis.LEGITIMATE_INTEREST
        case _:
            return True
