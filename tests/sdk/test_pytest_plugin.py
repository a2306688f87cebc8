"""The fixture of producers' tests: what was emitted, in memory, at once, and said without values."""

import time

import pytest

from privacy_ledger.domain.events import ConsentGranted, VideoPaused
from privacy_ledger.sdk import EventInvalid, HttpTransport, Ledger, SyncLedger
from privacy_ledger.testing.pytest_plugin import LedgerEvents
from tests.sdk.service import AT, CANARY, KEY, Service, event, granted, paused, registered

NOWHERE = "https://ledger.example.com"


def test_what_a_ledger_emits_is_found_by_type_and_members(ledger_events: LedgerEvents) -> None:
    """The type as a class or as its tag; the subject among its members."""
    with SyncLedger(HttpTransport(NOWHERE, key=KEY), source="our-lms") as ledger:
        ledger.emit(paused(3))
        ledger.emit(granted())

    found = ledger_events.assert_emitted(VideoPaused, video="v1", position_ms=3, subject="openedx:user_id:1")
    assert found.id == "paused-3"
    assert ledger_events.assert_emitted("consent.granted.v1", occurred_at=AT).id == "granted-0"
    assert len(ledger_events.all) == 2
    assert ledger_events.of(VideoPaused) == (found,)


async def test_nothing_is_sent(ledger_events: LedgerEvents, service: Service) -> None:
    """Though the service is there."""
    async with Ledger(service.transport(), source="our-lms") as ledger:
        await ledger.emit(granted())

    ledger_events.assert_emitted(ConsentGranted)
    assert service.requests == []


def test_a_failure_names_types_and_members_and_no_value(ledger_events: LedgerEvents) -> None:
    """Nothing, another type, or the closest of the type."""
    said = []
    for number in range(3):
        with SyncLedger(HttpTransport(NOWHERE, key=KEY), source="our-lms") as ledger:
            if number == 1:
                ledger.emit(registered())
            if number == 2:
                ledger.emit(event(VideoPaused(video=CANARY, position_ms=1, occurred_at=AT)))
        with pytest.raises(AssertionError) as caught:
            ledger_events.assert_emitted(VideoPaused, video="other", position_ms=1, nothing=0)
        said.append(str(caught.value))

    assert said == [
        "video.paused.v1 was not emitted, but nothing.",
        "video.paused.v1 was not emitted, but account.registered.v1.",
        "video.paused.v1 was emitted 1 times; the closest differs in nothing, video.",
    ]
    with pytest.raises(AssertionError, match=r"but account.registered.v1, video.paused.v1 was\.$"):
        ledger_events.assert_nothing_emitted()


def test_an_event_that_is_none_is_refused_in_a_test_as_well(ledger_events: LedgerEvents) -> None:
    """A test does not hide what would fail."""
    with SyncLedger(HttpTransport(NOWHERE, key=KEY), source="our-lms") as ledger, pytest.raises(EventInvalid):
        ledger.emit(event(VideoPaused(video="v" * 300, occurred_at=AT)))

    ledger_events.assert_nothing_emitted()


def test_it_takes_less_than_10_ms(ledger_events: LedgerEvents) -> None:
    """A ledger, an event and its assertion."""
    took = []
    for _ in range(10):
        began = time.perf_counter()
        with SyncLedger(HttpTransport(NOWHERE, key=KEY), source="our-lms") as ledger:
            ledger.emit(granted())
        ledger_events.assert_emitted(ConsentGranted, purpose="improve.analyse")
        took.append(time.perf_counter() - began)

    assert min(took) < 0.01
