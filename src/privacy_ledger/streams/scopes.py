"""What an erasure of less than the person removes, and what a correction does."""

from privacy_ledger.domain.events import ErasureRequested, FieldErasureRequested, RecordsSuperseded
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import ALWAYS, Rules
from privacy_ledger.domain.values import Category
from privacy_ledger.streams import sparing
from privacy_ledger.streams.held import Cut
from privacy_ledger.streams.removal import is_fine

__all__ = ["erased", "superseded"]


def erased(fact: ErasureRequested | FieldErasureRequested, rules: Rules, *, offset: int) -> Cut | None:
    """Return what goes of a category, a purpose or a field; None: nothing can be meant.

    Evidence, and what answers the person's own rights, go with the person alone. Keys that records
    share are destroyed by who asked, who knows which of them sealed nothing since.
    """
    match fact:
        case ErasureRequested(scope="category", category=Category() as category):
            if category is Category.EVIDENCE:
                return None
            is_own = is_fine(rules, category)
            return Cut(Refusal.ERASED, offset, fact.request, category=category, has_own_keys=is_own)
        case ErasureRequested(scope="purpose", purpose=str() as purpose):
            if purpose == ALWAYS:
                return None
            return Cut(Refusal.ERASED, offset, fact.request, purposes=(purpose,))
        case FieldErasureRequested():
            field = bytes.fromhex(fact.field)
            return Cut(Refusal.ERASED, offset, fact.request, field=field, has_own_keys=True)
        case _:
            return None


def superseded(fact: RecordsSuperseded, permissions: Permissions, rules: Rules, *, offset: int) -> Cut | None:
    """Return the records that are stated again; None where it names none, or a hold or a law keeps them."""
    if not fact.records or sparing.keeps(permissions, fact.category, rules):
        return None
    is_own = is_fine(rules, fact.category)
    return Cut(
        Refusal.RECTIFIED,
        offset,
        fact.request,
        category=fact.category,
        record_ids=tuple(sorted(bytes.fromhex(one) for one in fact.records)),
        has_own_keys=is_own,
        has_shared_keys=not is_own,
    )
