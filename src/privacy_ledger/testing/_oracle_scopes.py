"""What an oracle knows of erasures smaller than a person: what they name, and what may not come back."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from msgspec import Struct

from privacy_ledger.domain.events import ErasureRequested, FieldErasureRequested
from privacy_ledger.domain.rules import ALWAYS
from privacy_ledger.domain.values import Category
from privacy_ledger.streams.record import Record

__all__ = ["Scope", "is_within", "purposes_erased", "scope_of"]


class Scope(Struct, frozen=True):
    """A category, a purpose or a profile field that was erased, with all that had occurred in it."""

    kind: Literal["category", "purpose", "field"]
    name: str
    until: datetime


def scope_of(fact: ErasureRequested | FieldErasureRequested) -> Scope | None:
    """Return what an erasure names; None: the person, or nothing that may be erased by itself."""
    if isinstance(fact, FieldErasureRequested):
        return Scope("field", fact.field, fact.occurred_at)
    if fact.scope == "category" and fact.category not in (None, Category.EVIDENCE):
        return Scope("category", str(fact.category), fact.occurred_at)
    if fact.scope == "purpose" and fact.purpose not in (None, ALWAYS):
        return Scope("purpose", str(fact.purpose), fact.occurred_at)
    return None


def is_within(record: Record, scope: Scope) -> bool:
    """Return whether a record is one of an erased category or field, whenever it occurred."""
    if record.category is Category.EVIDENCE:
        return False
    if scope.kind == "category":
        return record.category == scope.name
    return scope.kind == "field" and record.field == bytes.fromhex(scope.name)


def purposes_erased(erased: Iterable[Scope], occurred_at: datetime) -> frozenset[str]:
    """Return the purposes that an event of that instant came too late for."""
    return frozenset(one.name for one in erased if one.kind == "purpose" and occurred_at <= one.until)
