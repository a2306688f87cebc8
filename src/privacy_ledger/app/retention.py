"""What the law keeps of a person: by which hold or duty, on what ground, and until when.

Asked before an erasure for its plan, and after it for what is left: then these rows are all there are.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.app._evidence import PersonRows
from privacy_ledger.app._terms import INDEX_GROUP
from privacy_ledger.domain.events import HoldPlaced, RetainedCategory, event_type
from privacy_ledger.domain.events.control import HoldGround
from privacy_ledger.domain.key_release import Kind, class_of
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, SubjectRef, start_of
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import header
from privacy_ledger.ports.passes import Views
from privacy_ledger.streams.states import PERMISSIONS, IndexRow

__all__ = ["GROUNDS", "NOTHING", "Kept", "KeptItem", "Retention", "ground_text", "items_of"]

GROUNDS: Final[dict[HoldGround, str]] = {
    "legal_obligation": "a legal obligation (GDPR Art. 17(3)(b))",
    "legal_claims": "legal claims (GDPR Art. 17(3)(e))",
}
"""What the grounds are called in receipts."""
_PLACED: Final = event_type(HoldPlaced).encode()

RulesOf = Callable[[SubjectRef], Awaitable[Rules]]


class KeptItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Records of one category that stay for one reason; `until` None: nobody knows yet."""

    category: Category
    records: int
    ground: HoldGround
    until: datetime | None = None


class Kept(Struct, frozen=True, kw_only=True):
    """What is kept of one reference: itemised, and by record id; `months` of its categories."""

    items: tuple[KeptItem, ...] = ()
    records: frozenset[bytes] = frozenset()
    months: frozenset[tuple[Category, int]] = frozenset()

    @property
    def ground(self) -> str:
        """The grounds in words, each once."""
        return "; ".join(dict.fromkeys(GROUNDS[item.ground] for item in self.items))

    @property
    def until(self) -> datetime | None:
        """When the last of it goes, where that is known."""
        ends = [item.until for item in self.items]
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else None

    @property
    def categories(self) -> tuple[RetainedCategory, ...]:
        """What a control fact says of it."""
        return tuple(
            RetainedCategory(category=item.category, ground=item.ground, until=item.until)
            for item in self.items
        )


NOTHING: Final = Kept()


class Retention:
    """Looks at a reference: what the passes hold of it, under the rules in force."""

    def __init__(self, *, rows: PersonRows, vault: KeyVault, views: Views, rules: RulesOf) -> None:
        """Take the ports, and how the rules in force for a reference are found."""
        self._rows_of = rows
        self._vault = vault
        self._views = views
        self._rules = rules

    async def of(self, ref: SubjectRef, *, among: Callable[[IndexRow], bool] | None = None) -> Kept:
        """Return what the law keeps of a reference, as far as the passes have folded it.

        `among`: only of these records.
        """
        rows = tuple(row for row in await self._views.live(ref) if among is None or among(row))
        if not rows:
            return NOTHING
        permissions = await self._views.get(PERMISSIONS, ref) or Permissions()
        return _kept_of(rows, permissions, await self._rules(ref))

    async def groups(self, ref: SubjectRef, *, is_sure: bool) -> tuple[str, ...]:
        """Return the key groups that an erasure spares.

        With a category that a law keeps goes the key of the tags: a later record of it may be a copy.
        With a hold go the keys of what passes keep: who is late must still read which holds there were.
        `is_sure`: every pass has folded the request; before that whatever may be kept is spared.
        """
        if is_sure:
            kept = {item.category for item in (await self.of(ref)).items}
        else:
            kept = await self._maybe_held(ref)
        rules, is_held = await self._rules(ref), Category.EVIDENCE in kept
        if not is_sure:
            kept |= {row.id for row in rules.registry.categories if row.duty is not None}
        groups = self._vault.live_groups(ref)
        found = [group for group in groups if class_of(group) in kept]
        if any(rules.duty(category) is not None for category in map(_category, found)):
            found.append(INDEX_GROUP)
        if is_held and found:
            found += [group for group in groups if class_of(group) is Kind.STATE]
        return tuple(found)

    async def _maybe_held(self, ref: SubjectRef) -> set[Category]:
        """Return the categories on which a hold was ever placed, by the log itself."""
        found: set[Category] = set()
        for row in await self._rows_of.of(ref):
            if row.value is not None and header(row.headers, "ce_type") == _PLACED:
                found |= {msgspec.json.decode(row.value, type=_Placed).category, Category.EVIDENCE}
        return found


class _Placed(Struct):
    category: Category


def _category(group: str) -> Category:
    return Category(group.partition("+")[0])


def _kept_of(rows: tuple[IndexRow, ...], permissions: Permissions, rules: Rules) -> Kept:
    """Return what is kept of live rows, oldest reason first."""
    of_category: dict[Category, list[IndexRow]] = {}
    for row in rows:
        of_category.setdefault(row.category, []).append(row)
    items: list[KeptItem] = []
    kept: list[IndexRow] = []
    for category, mine in sorted(of_category.items()):
        found = [
            KeptItem(category=category, records=len(mine), ground=hold.ground, until=hold.until)
            for hold in permissions.holds
            if category in {hold.category, Category.EVIDENCE}
        ]
        if rules.duty(category) is not None:
            months = rules.retention_months(category) or 0
            end = start_of(max(row.month for row in mine) + months + 1)
            found.append(KeptItem(category=category, records=len(mine), ground="legal_obligation", until=end))
        items += found
        kept += mine if found else ()
    return Kept(
        items=tuple(dict.fromkeys(items)),
        records=frozenset(row.record_id for row in kept),
        months=frozenset((row.category, row.month) for row in kept),
    )


def items_of(found: tuple[Kept, ...]) -> tuple[KeptItem, ...]:
    """Return what is kept of all references of a person, one line for each category and reason."""
    merged: dict[tuple[Category, HoldGround, datetime | None], int] = {}
    for item in (item for kept in found for item in kept.items):
        name = (item.category, item.ground, item.until)
        merged[name] = merged.get(name, 0) + item.records
    return tuple(
        KeptItem(category=category, records=records, ground=ground, until=until)
        for (category, ground, until), records in merged.items()
    )


def ground_text(item: KeptItem) -> str:
    """Return one item as a line for people."""
    end = "until the hold is lifted" if item.until is None else f"until {item.until:%Y-%m-%d}"
    return f"{item.records:,} {item.category}, for {GROUNDS[item.ground]}, {end}"
