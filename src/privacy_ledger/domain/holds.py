"""What keeps records from being removed: holds on one category of a person, and legal duties.

A hold is put on somebody's category by hand (GDPR Art. 17(3)(b), (e)); a duty is a rule of the
registry and holds for everybody. Both decide by category alone, which a record's headers say.
"""

from datetime import datetime

from msgspec import Struct

from privacy_ledger.domain.events import HoldPlaced
from privacy_ledger.domain.events.control import HoldGround
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category

__all__ = ["Hold", "Postponed", "duties_of", "held_categories", "still_held"]


class Hold(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A hold in force; `request` is its name."""

    request: str
    category: Category
    ground: HoldGround
    placed_at: datetime
    until: datetime | None = None

    @staticmethod
    def of(fact: HoldPlaced) -> "Hold":
        """Return the hold that a fact places."""
        return Hold(
            request=fact.request, category=fact.category, ground=fact.ground,
            placed_at=fact.occurred_at, until=fact.until,
        )  # fmt: skip


class Postponed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A removal that a hold put off, as far as it concerns held records; they serve nothing it took.

    `below`: the offset of what asked for it, which is how far it reaches. Without purposes, category and
    field it takes everything: the person is erased. `has_own_keys` and `field` as in the cut.
    """

    cause: str
    below: int
    request: str = ""
    purposes: tuple[str, ...] = ()
    category: Category | None = None
    has_own_keys: bool = False
    field: bytes = b""

    @property
    def takes_everything(self) -> bool:
        """Whether the person is erased."""
        return not self.purposes and self.category is None and not self.field

    def takes(
        self, category: Category, place: int, purposes: tuple[str, ...], *, always: str, field: bytes
    ) -> bool:
        """Return whether the removal leaves a record nothing that it may serve.

        `purposes`: what the record serves; `always`: the purpose that cannot be taken; `place` and
        `field`: those of the record.
        """
        if place >= self.below:
            return False
        if self.purposes:
            return all(purpose in self.purposes and purpose != always for purpose in purposes)
        if self.field:
            return field == self.field
        return self.category is None or self.category is category


def held_categories(holds: tuple[Hold, ...]) -> tuple[Category, ...]:
    """Return the categories that holds keep, each once, in order.

    Evidence is among them: a consent is never removed before what it allows.
    """
    return tuple(sorted({Category.EVIDENCE, *(hold.category for hold in holds)})) if holds else ()


def still_held(holds: tuple[Hold, ...], *, at: datetime) -> tuple[Hold, ...]:
    """Return the holds that are not over at the time of a tick."""
    return tuple(hold for hold in holds if hold.until is None or at < hold.until)


def duties_of(rules: Rules) -> tuple[tuple[Category, str], ...]:
    """Return each category that a legal duty keeps, with the purpose that is the duty."""
    return tuple((row.id, row.duty) for row in rules.registry.categories if row.duty is not None)
