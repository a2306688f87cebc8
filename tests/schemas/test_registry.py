"""The registry's data files agree with each other and with the classes."""

from collections.abc import Callable

import pytest
from msgspec import structs

from privacy_ledger.adapters import registry
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Registry
from privacy_ledger.domain.values import Category, Provenance

SEED = registry.seed()
Change = Callable[[Registry], Registry]


def change_event(**fields: object) -> Change:
    """Return a change of the first event row's fields."""
    return lambda rules: structs.replace(
        rules, events=(structs.replace(rules.events[0], **fields), *rules.events[1:])
    )


def change_duty(duty: str, **fields: object) -> Change:
    """Return a change of what every category is kept for."""
    return lambda rules: structs.replace(
        rules,
        categories=tuple(structs.replace(row, duty=duty, **fields) for row in rules.categories),
    )


def test_the_seed_survives_its_encoding() -> None:
    """Encoding and decoding give the same registry, the same bytes and so the same name."""
    document = registry.encode(SEED)

    assert registry.decode(document) == SEED
    assert registry.encode(registry.decode(document)) == document
    assert registry.digest(document) == registry.digest(registry.encode(registry.seed()))


def test_the_digest_is_sha256_in_hex() -> None:
    """The name of a registry can be checked with any tool."""
    assert registry.digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_rows_stand_in_the_order_of_their_ids() -> None:
    """Moving a row in a data file does not make a new registry."""
    assert [row.type for row in SEED.events] == sorted(row.type for row in SEED.events)
    assert [row.id for row in SEED.purposes] == sorted(row.id for row in SEED.purposes)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (change_event(purposes=("world.dominate",)), Refusal.UNKNOWN_PURPOSE),
        (change_event(purposes=("sale",)), Refusal.UNKNOWN_PURPOSE),
        (change_event(purposes=()), Refusal.UNKNOWN_PURPOSE),
        (change_event(purposes=("account.manage", "account.manage")), Refusal.SCHEMA_MISMATCH),
        (lambda rules: structs.replace(rules, purposes=()), Refusal.UNKNOWN_PURPOSE),
        (lambda rules: structs.replace(rules, categories=()), Refusal.SCHEMA_MISMATCH),
        (lambda rules: structs.replace(rules, events=rules.events * 2), Refusal.SCHEMA_MISMATCH),
        (change_duty("world.dominate"), Refusal.UNKNOWN_PURPOSE),
        (change_duty("improve.analyse"), Refusal.SCHEMA_MISMATCH),
        (change_duty("tax.comply", retention_months=None), Refusal.SCHEMA_MISMATCH),
        (
            lambda rules: structs.replace(
                rules, products=(structs.replace(rules.products[0], purpose="ads"),)
            ),
            Refusal.UNKNOWN_PURPOSE,
        ),
    ],
    ids=["unknown", "forbidden", "none", "twice", "always", "no category", "two rows", "duty",
         "no law", "no end", "product"],
)
def test_rows_that_contradict_each_other_are_refused(change: Change, refusal: Refusal) -> None:
    """A registry like this is neither seeded nor read."""
    with pytest.raises(BadInput) as caught:
        registry.decode(registry.encode(change(SEED)))

    assert caught.value.refusal is refusal


@pytest.mark.parametrize(
    "change",
    [
        change_event(category=Category.PROFILE),
        change_event(type="account.renamed.v1"),
        lambda rules: structs.replace(rules, events=rules.events[1:]),
        lambda rules: structs.replace(rules, categories=rules.categories[1:]),
        lambda rules: structs.replace(
            rules,
            categories=tuple(
                structs.replace(row, provenance=(Provenance.INFERRED,)) for row in rules.categories
            ),
        ),
    ],
    ids=["category", "type", "no row", "no category", "provenance"],
)
def test_rows_that_contradict_the_classes_are_refused(change: Change) -> None:
    """Every event class has a row of its category and provenance, and every row has a class."""
    with pytest.raises(BadInput):
        registry.check_coverage(change(SEED))


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b'{"version":"one"}', b"\xff\xfe"])
def test_bytes_that_are_no_registry_are_refused(document: bytes) -> None:
    """Foreign bytes on the registry's topic put no rule in force."""
    with pytest.raises(BadInput):
        registry.decode(document)
