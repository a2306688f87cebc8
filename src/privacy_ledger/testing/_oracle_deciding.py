"""How an oracle decides on an event: under what was said of the person so far."""

from datetime import datetime

from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, LawfulBasis
from privacy_ledger.streams.record import Record
from privacy_ledger.testing._oracle_keeping import Keeping
from privacy_ledger.testing._oracle_scopes import Scope, is_within, purposes_erased
from privacy_ledger.testing._oracle_terms import malformed

__all__ = ["Deciding"]


class Deciding(Keeping):
    """What one subject allowed, and what of theirs is taken."""

    def forget(self, rules: Rules) -> None:
        """Start again."""
        super().forget(rules)
        self.not_before: datetime | None = None
        self.is_minor_unapproved = False
        self.erased: list[Scope] = []
        self.grants: dict[str, datetime] = {}
        self.objected: set[str] = set()

    def basis(self, purpose: str) -> LawfulBasis | None:
        """Return the basis of a purpose under the rules in force; None: there is no such purpose."""
        bases = {row.id: row.basis for row in self.rules.registry.purposes}
        return bases.get(purpose)

    def refusal(self, record: Record, in_force: tuple[str, ...]) -> Refusal | None:
        found = malformed(record, self.rules)
        if found is not None:
            return found
        if self.not_before is None:
            return Refusal.SUBJECT_UNKNOWN
        if record.occurred_at < self.not_before and record.category is not Category.EVIDENCE:
            return Refusal.BEFORE_SUBJECT
        if self.duty(record) is None and any(
            is_within(record, one) and record.occurred_at <= one.until for one in self.erased
        ):
            return Refusal.SCOPE_ERASED
        stale_or_copy = self.stale_or_copy(record, self.rules, self.tick)
        if stale_or_copy is not None:
            return stale_or_copy
        if in_force:
            return None
        if self.is_minor_unapproved:
            return Refusal.MINOR_UNAPPROVED
        return Refusal.SCOPE_ERASED if self.late(record) & {*record.purposes} else Refusal.CONSENT_MISSING

    def duty(self, record: Record) -> str | None:
        return None if record.category is None else self.rules.duty(record.category)

    def late(self, record: Record) -> frozenset[str]:
        """Return the purposes that a record came too late for; what the law keeps never does."""
        return purposes_erased(self.erased, record.occurred_at) - {str(self.duty(record))}

    def in_force(self, occurred_at: datetime | None) -> frozenset[str]:
        """Return the purposes in force now, for an event of that instant or for use (None)."""
        found = set()
        for purpose in self.rules.registry.purposes:
            if purpose.is_forbidden or purpose.id in self.objected:
                continue
            if purpose.id in self.rules.consent_purposes:
                granted_at = self.grants.get(purpose.id)
                is_covered = granted_at is not None and (occurred_at is None or occurred_at >= granted_at)
                if self.is_minor_unapproved or not is_covered:
                    continue
            found.add(purpose.id)
        return frozenset(found)
