"""The registry's documents as values, and the look-ups that decisions use.

Ages, periods, purposes and bases are versioned data with source and confidence, never constants of
the code (invariant I6). A `Registry` is published once by content hash; it is in force in a
partition from the `RulesAdopted` record that names it.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from privacy_ledger.domain.values import Category, Grain, LawfulBasis, Provenance

__all__ = [
    "ALWAYS",
    "CategoryRule",
    "Defaults",
    "EventRule",
    "Product",
    "PurposeRule",
    "Registry",
    "Rules",
    "is_family",
]

ALWAYS: Final = "rights.fulfil"
"""The purpose that every live record serves: answering the person's own rights (Art. 15)."""

SERVED_MAX: Final = 1000
"""Lists of purposes, per event type, whose answer is kept; records of few different ones exist."""

Confidence = Annotated[str, Meta(pattern="^(read|general|proposal)$")]


class _Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the registry: every row says where it comes from and how sure that is."""

    source: str
    confidence: Confidence


class PurposeRule(_Row, frozen=True, kw_only=True):
    """A purpose of processing, its lawful basis and its W3C DPV term."""

    id: str
    basis: LawfulBasis
    dpv: str
    clauses: tuple[str, ...]
    is_forbidden: bool = False


class CategoryRule(_Row, frozen=True, kw_only=True):
    """A category of personal data: the grain of its keys and how long its records live.

    `retention_months` None means: as long as the account lives. `duty`: the purpose whose law keeps
    every record until its retention is due, whoever asks for its removal.
    """

    id: Category
    grain: Grain
    retention_months: Annotated[int, Meta(ge=1)] | None = None
    duty: str | None = None
    dpv: str
    provenance: tuple[Provenance, ...]


class EventRule(_Row, frozen=True, kw_only=True):
    """An event type: its category and the purposes that it may serve; `study.*` stands for any study."""

    type: str
    category: Category
    purposes: tuple[str, ...]


class Product(_Row, frozen=True, kw_only=True):
    """An anonymised product and its policy (`anonymised-analytics` D1-D5).

    One data subject touches at most `cells_max` cells of a window, each with at most `clip`;
    each release costs `rho` of zero-concentrated differential privacy.
    """

    id: str
    title: str
    period: Annotated[str, Meta(pattern="^(day)$")]
    purpose: str
    cells_max: Annotated[int, Meta(ge=1, le=64)]
    clip: Annotated[int, Meta(ge=1)]
    rho: Annotated[str, Meta(pattern=r"^0\.\d{1,12}$")]
    lateness_hours: Annotated[int, Meta(ge=0)]
    horizon_days: Annotated[int, Meta(ge=1)]
    horizon_rho: Annotated[str, Meta(pattern=r"^\d+(\.\d{1,12})?$")]
    delta: Annotated[str, Meta(pattern=r"^0\.\d{1,12}$")]


class Defaults(_Row, frozen=True, kw_only=True):
    """What a source cannot know; records that use a default are marked `assumed`."""

    notice: str
    jurisdiction: Annotated[str, Meta(pattern="^[A-Z]{2}$")]


class Registry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One complete registry document."""

    version: Annotated[int, Meta(ge=1)]
    purposes: tuple[PurposeRule, ...]
    categories: tuple[CategoryRule, ...]
    events: tuple[EventRule, ...]
    products: tuple[Product, ...]
    defaults: Defaults


class Rules:
    """A registry, indexed for decisions; immutable after construction."""

    __slots__ = ("_categories", "_consent", "_events", "_products", "_purposes", "_served", "registry")

    def __init__(self, registry: Registry) -> None:
        """Index `registry`."""
        self.registry = registry
        self._purposes = {row.id: row for row in registry.purposes}
        self._categories = {row.id: row for row in registry.categories}
        self._events = {row.type: row for row in registry.events}
        self._products = {row.id: row for row in registry.products}
        self._served: dict[tuple[str, tuple[str, ...]], bool] = {}
        self._consent = frozenset(row.id for row in registry.purposes if row.basis is LawfulBasis.CONSENT)

    @property
    def consent_purposes(self) -> frozenset[str]:
        """The purposes whose basis is consent (GDPR Art. 6(1)(a))."""
        return self._consent

    def purpose(self, purpose: str) -> PurposeRule | None:
        """Return the rule of a purpose, or None when it is unknown."""
        return self._purposes.get(purpose)

    def is_allowed(self, purpose: str) -> bool:
        """Return whether the purpose is known and not forbidden."""
        rule = self._purposes.get(purpose)
        return rule is not None and not rule.is_forbidden

    def may_serve(self, event: EventRule, purposes: tuple[str, ...]) -> bool:
        """Return whether each purpose is one of an event type's, known and not forbidden."""
        key = (event.type, purposes)
        answer = self._served.get(key)
        if answer is None:
            answer = all(_is_named(purpose, event) and self.is_allowed(purpose) for purpose in purposes)
            if len(self._served) < SERVED_MAX:
                self._served[key] = answer
        return answer

    def category(self, category: Category) -> CategoryRule | None:
        """Return the rule of a category, or None when it is unknown."""
        return self._categories.get(category)

    def duty(self, category: Category) -> str | None:
        """Return the purpose whose law keeps records of a category, or None where none does."""
        rule = self._categories.get(category)
        return None if rule is None else rule.duty

    def event(self, event_type: str) -> EventRule | None:
        """Return the rule of an event type, or None when it is unknown."""
        return self._events.get(event_type)

    def product(self, product: str) -> Product | None:
        """Return the policy of an analytics product, or None when it is unknown."""
        return self._products.get(product)

    def retention_months(self, category: Category) -> int | None:
        """Return how many whole months records of the category live after their own month.

        None: no due date while the account lives. Unknown category: 0, the strictest reading.
        """
        rule = self._categories.get(category)
        return 0 if rule is None else rule.retention_months

    def key_group(self, category: Category, purposes: tuple[str, ...]) -> str:
        """Return the name of the key group that seals a record of these purposes.

        A record that one consent alone allows has the group (category, purpose), so a purpose,
        too, has a key (`fine-print` 17).
        """
        if len(purposes) == 1 and purposes[0] in self._consent:
            return f"{category}+{purposes[0]}"
        return str(category)


def is_family(purpose: str) -> bool:
    """Return whether a rule names every purpose of a family, such as `study.*`."""
    return purpose.endswith(".*")


def _is_named(purpose: str, event: EventRule) -> bool:
    return purpose in event.purposes or f"{purpose.partition('.')[0]}.*" in event.purposes
