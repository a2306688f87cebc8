"""Readers of version N read the data of version N-1, through a chain of upcasters.

Every event in production is at version 1, so the mechanism is proved with a chain of its own.
"""

import json
from datetime import UTC, datetime

import msgspec
import pytest

from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.events import COLLECTION_EVENTS, ProfileFieldSet, event_type
from privacy_ledger.domain.upcasters import UPCASTERS, Chain, Document, Upcaster, upcast

OLD = "profile.field_set.v0"
NEW = "profile.field_set.v1"
OLD_BYTES = (
    b'{"type":"profile.field_set.v0","occurred_at":"2026-01-31T23:00:00Z","name":"city","value":"Utrecht"}'
)


def rename(document: Document) -> Document:
    """Return the document with the old member `name` under its later name `field`."""
    field = document.pop("name")
    return {**document, "field": field}


CHAIN: Chain = {OLD: Upcaster(target=NEW, change=rename)}


def test_a_reader_of_version_one_reads_data_of_version_zero() -> None:
    """Old bytes, upcast, decode into the event of today."""
    reached, document = upcast(OLD, json.loads(OLD_BYTES), chain=CHAIN)
    event = msgspec.convert(document, ProfileFieldSet)

    assert reached == NEW
    assert event == ProfileFieldSet(
        occurred_at=datetime(2026, 1, 31, 23, tzinfo=UTC), field="city", value="Utrecht"
    )


def test_a_reader_of_version_one_refuses_version_zero_without_the_chain() -> None:
    """The chain is what makes old data readable, not a lenient decoder."""
    _, document = upcast(OLD, json.loads(OLD_BYTES))

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, ProfileFieldSet)


def test_several_versions_are_climbed_in_order() -> None:
    """Each step sees what the step before it made."""
    chain = {
        "a.done.v1": Upcaster(target="a.done.v2", change=lambda old: {**old, "steps": "2"}),
        "a.done.v2": Upcaster(target="a.done.v3", change=lambda old: {**old, "steps": f"{old['steps']}3"}),
    }

    assert upcast("a.done.v1", {"type": "a.done.v1"}, chain=chain) == (
        "a.done.v3",
        {"type": "a.done.v3", "steps": "23"},
    )


def test_a_current_document_is_returned_as_it_is() -> None:
    """Most records need no step, and pay for none."""
    document: Document = {"type": NEW}

    assert upcast(NEW, document, chain=CHAIN) == (NEW, document)


def test_the_given_document_is_left_alone() -> None:
    """The log's own record stays what was written."""
    document = json.loads(OLD_BYTES)

    upcast(OLD, document, chain=CHAIN)

    assert document == json.loads(OLD_BYTES)


@pytest.mark.parametrize("target", ["a.done.v1", "a.done.v0", "b.done.v2", "a.done", "a.done.vx"])
def test_a_step_that_leads_to_no_later_version_is_a_broken_promise(target: str) -> None:
    """So a chain cannot run in a circle, and cannot turn one event into another."""
    chain = {"a.done.v1": Upcaster(target=target, change=dict)}

    with pytest.raises(InvariantViolation, match="no later version"):
        upcast("a.done.v1", {}, chain=chain)


def test_every_chain_in_production_ends_at_a_current_event() -> None:
    """No step leads to a version that no class reads, and none starts at one that is current."""
    current = set(map(event_type, COLLECTION_EVENTS))

    assert current.isdisjoint(UPCASTERS)
    assert {step.target for step in UPCASTERS.values()} <= current | set(UPCASTERS)
