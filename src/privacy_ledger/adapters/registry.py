"""The registry as bytes, and the seed that the package carries as data files."""

import hashlib
import tomllib
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any, Final

import msgspec

from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.events import COLLECTION_EVENTS, event_type
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import ALWAYS, CategoryRule, EventRule, PurposeRule, Registry, is_family
from privacy_ledger.domain.values import Category, LawfulBasis

__all__ = ["check", "check_coverage", "decode", "digest", "encode", "seed"]

_SEED_PACKAGE: Final = "privacy_ledger.domain.registry"
_SEED_VERSION: Final = 1
_SEED_FILES: Final = ("purposes", "categories", "events", "products", "defaults")
"""One TOML file each, with one table of the same name."""

_DECODER: Final = msgspec.json.Decoder(Registry)


def seed() -> Registry:
    """Return the registry of the package's data files, rows in the order of their ids.

    Raises:
        BadInput: a file does not hold what its name says, or the rows contradict each other or the
            event classes.
    """
    folder = resources.files(_SEED_PACKAGE)
    tables: dict[str, Any] = {"version": _SEED_VERSION}
    for name in _SEED_FILES:
        tables |= tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
    for name, column in (("purposes", "id"), ("categories", "id"), ("events", "type"), ("products", "id")):
        tables[name] = sorted(tables[name], key=_by(column))
    try:
        registry = msgspec.convert(tables, Registry)
    except msgspec.ValidationError as error:
        raise _mismatch(error) from None
    check(registry)
    check_coverage(registry)
    return registry


def encode(registry: Registry) -> bytes:
    """Return the canonical JSON of a registry: members sorted, rows in their own order."""
    return msgspec.json.encode(registry, order="sorted")


def digest(document: bytes) -> str:
    """Return the SHA-256 of an encoded registry in hex: the name under which it is adopted."""
    return hashlib.sha256(document).hexdigest()


def decode(document: bytes) -> Registry:
    """Return the registry of an encoded document, checked within itself.

    A document that was adopted long ago may lack rows for events of today, so the classes are not
    consulted here.

    Raises:
        BadInput: the bytes are no registry, or its rows contradict each other.
    """
    try:
        registry = _DECODER.decode(document)
    except msgspec.ValidationError as error:
        raise _mismatch(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _contradiction("The registry is not a JSON document. Publish one that `encode` made.") from None
    check(registry)
    return registry


def check(registry: Registry) -> None:
    """Check that ids are unique and that every row names only rows that exist.

    Raises:
        BadInput: names the first row that does not, and what to do about it.
    """
    _check_unique("purpose", (row.id for row in registry.purposes))
    _check_unique("category", (row.id for row in registry.categories))
    _check_unique("event", (row.type for row in registry.events))
    _check_unique("product", (row.id for row in registry.products))
    usable = frozenset(row.id for row in registry.purposes if not row.is_forbidden)
    if ALWAYS not in usable:
        raise _unknown_purpose(f"There is no usable purpose {ALWAYS}, which every record serves. Add it.")
    categories = frozenset(row.id for row in registry.categories)
    for category in registry.categories:
        if category.duty is not None:
            _check_duty(category, registry.purposes, usable)
    for event in registry.events:
        if not event.purposes:
            raise _unknown_purpose(f"Event {event.type} serves no purpose. Name one, or do not collect it.")
        _check_unique(f"purpose of {event.type}", event.purposes)
        for purpose in event.purposes:
            if not is_family(purpose):
                _check_purpose(purpose, usable, of=f"Event {event.type}")
        if event.category not in categories:
            raise _contradiction(f"Event {event.type} has category {event.category} without a row. Add one.")
    for product in registry.products:
        _check_purpose(product.purpose, usable, of=f"Product {product.id}")


def check_coverage(registry: Registry) -> None:
    """Check that the rows and this program's event classes and categories agree, both ways.

    Raises:
        BadInput: names the first that does not, and what to do about it.
    """
    categories = {row.id: row for row in registry.categories}
    for category in Category:
        if category not in categories:
            raise _contradiction(f"Category {category} has no row. Add one with its grain and retention.")
    rows = {row.type: row for row in registry.events}
    for kind in COLLECTION_EVENTS:
        name = event_type(kind)
        row = rows.pop(name, None)
        if row is None:
            raise _contradiction(f"Event {name} has no row. Add one with its category and purposes.")
        _check_class(row, categories[kind.category], category=kind.category, provenance=kind.provenance)
    if rows:
        raise _contradiction(f"No class has the event type {min(rows)}. Remove the row, or add the class.")


def _by(column: str) -> Callable[[dict[str, object]], str]:
    return lambda row: str(row.get(column, ""))


def _check_class(row: EventRule, rule: CategoryRule, *, category: Category, provenance: str) -> None:
    if row.category is not category:
        raise _contradiction(
            f"Event {row.type} has category {row.category} here and {category} in its class. "
            "Change the one that is wrong."
        )
    if provenance not in rule.provenance:
        raise _contradiction(
            f"Event {row.type} is {provenance}, which category {category} does not list. "
            "Add it to the category's provenance, or correct the class."
        )


def _check_duty(category: CategoryRule, purposes: Iterable[PurposeRule], usable: frozenset[str]) -> None:
    """Check that a duty is one of law, and that it ends."""
    _check_purpose(str(category.duty), usable, of=f"Category {category.id}")
    bases = {row.id: row.basis for row in purposes}
    if bases[str(category.duty)] is not LawfulBasis.LEGAL_OBLIGATION:
        raise _contradiction(
            f"Category {category.id} names {category.duty} as its duty, which no law asks for. "
            "Name a purpose whose basis is A6-1-c."
        )
    if category.retention_months is None:
        raise _contradiction(
            f"Category {category.id} is kept by a duty without an end. Give it retention_months."
        )


def _check_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _contradiction(f"There are two rows for {what} {name}. Keep one.")
        seen.add(name)


def _check_purpose(purpose: str, usable: frozenset[str], *, of: str) -> None:
    if purpose not in usable:
        raise _unknown_purpose(
            f"{of} names purpose {purpose}, which is unknown or forbidden. Use a purpose that has a row."
        )


def _unknown_purpose(message: str) -> BadInput:
    return BadInput(Refusal.UNKNOWN_PURPOSE, message)


def _contradiction(message: str) -> BadInput:
    return BadInput(Refusal.SCHEMA_MISMATCH, message)


def _mismatch(error: msgspec.ValidationError) -> BadInput:
    _, separator, path = str(error).rpartition(" - at `")
    where = path.rstrip("`") if separator else "$"
    return _contradiction(f"The registry does not match its schema at {where}. Correct that member.")
