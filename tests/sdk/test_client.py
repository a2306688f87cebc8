"""The facades over a real connection: what is sent, sent again, refused, dropped, and said at the end."""

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import structs

from privacy_ledger.domain.events import (
    CertificateIssued,
    ConsentGranted,
    Fact,
    VideoPaused,
)
from privacy_ledger.sdk import (
    BufferFull,
    Event,
    EventInvalid,
    Flushed,
    HttpTransport,
    Ledger,
    LedgerClosed,
    Limits,
    Refused,
    SyncLedger,
    TransportInvalid,
)
from privacy_ledger.sdk.transport import pause_s
from tests.sdk.service import (
    AT,
    CANARY,
    KEY,
    QUICK,
    Answer,
    Request,
    Service,
    accepted,
    enrolled,
    event,
    granted,
    paused,
    problem,
    registered,
    results,
)

TINY = structs.replace(QUICK, buffer_events=5, when_full="raise")


@dataclass
class Told:
    """What the callbacks were told."""

    refused: list[Refused] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)


@dataclass
class Gate:
    """An answer that waits until it is let go."""

    asked: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: Request) -> Answer:
        """Wait, and accept."""
        self.asked.set()
        self.open.wait(20)
        return accepted(request)


# What is sent ----------------------------------------------------------------------------------


async def test_events_are_sent_in_order_as_the_service_takes_them(service: Service) -> None:
    """With the key, in one batch, each under its own id."""
    async with Ledger(service.transport(), source="our-lms", limits=QUICK) as ledger:
        for number in range(3):
            await ledger.emit(granted(number))
        flushed = await ledger.aclose()

    assert flushed == Flushed(sent=3)
    assert service.ids == ["granted-0", "granted-1", "granted-2"]
    assert {one.fields["Authorization"] for one in service.requests} == {f"Bearer {KEY}"}
    assert service.requests[0].events[0] == {
        "id": "granted-0", "subject": "openedx:user_id:1",
        "event": {
            "type": "consent.granted.v1", "occurred_at": AT.isoformat().replace("+00:00", "Z"),
            "purpose": "improve.analyse", "notice": "platform-privacy-policy.v1", "is_assumed": False,
        },
    }  # fmt: skip


def test_threads_share_one_ledger(service: Service) -> None:
    """The facade without asyncio: every event once."""
    with SyncLedger(service.transport(), source="our-lms", limits=QUICK) as ledger:

        def work(start: int) -> None:
            for number in range(start, start + 100):
                ledger.emit(granted(number))

        threads = [threading.Thread(target=work, args=(100 * one,)) for one in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        flushed = ledger.flush()

    assert flushed == Flushed(sent=400)
    assert sorted(service.ids) == sorted(f"granted-{number}" for number in range(400))


def test_an_event_of_a_group_names_each_of_it(service: Service) -> None:
    """In one event, which the service splits."""
    fact = CertificateIssued(course="course-v1:Example+One+2026", occurred_at=AT)
    with SyncLedger(service.transport(), source="our-lms", limits=QUICK) as ledger:
        ledger.emit(Event(subjects=("openedx:user_id:1", "openedx:user_id:2"), fact=fact))
        ledger.flush()

    assert service.requests[0].events[0]["subjects"] == ["openedx:user_id:1", "openedx:user_id:2"]


def test_an_id_is_made_once_and_is_random() -> None:
    """Thirty-two hexadecimal digits unless the application has one."""
    fact = VideoPaused(video="v", occurred_at=AT)
    one, other = Event.of("openedx:user_id:1", fact), Event.of("openedx:user_id:1", fact)

    assert one.id != other.id
    assert len(one.id) == 32


# What is sent again ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        problem(500, "internal"), problem(503, "busy"), problem(408, "slow"), problem(401, "key-invalid"),
        (200, {}, b"{"), (200, {}, b'{"results": [], "counts": {}}'), (302, {"Location": "/"}, b""),
    ],
)  # fmt: skip
def test_what_has_no_answer_is_sent_again_as_it_was(service: Service, first: Answer) -> None:
    """With the same ids and the same Idempotency-Key: neither the events nor the batch are others."""
    service.script.append(first)
    with SyncLedger(service.transport(), source="our-lms", limits=QUICK) as ledger:
        for number in range(2):
            ledger.emit(granted(number))
        flushed = ledger.flush()

    again, once_more = service.requests
    assert flushed == Flushed(sent=2)
    assert again.events == once_more.events
    assert again.fields["Idempotency-Key"] == once_more.fields["Idempotency-Key"]


def test_a_service_that_is_not_there_is_asked_until_it_is(service: Service) -> None:
    """A connection that is refused is no answer."""
    port, service.port = service.port, 1
    transport = service.transport(timeout_s=1)
    service.port = port
    with SyncLedger(transport, source="our-lms", limits=QUICK) as ledger:
        ledger.emit(granted())
        unsent = ledger.flush(timeout_s=0.3)
        transport._port = port  # noqa: SLF001 - the service comes up where the transport asks
        sent = ledger.flush()

    assert (unsent, sent) == (Flushed(pending=1), Flushed(sent=1))


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_that_was_asked_for_is_kept(service: Service, status: int) -> None:
    """Nothing is sent before it is over."""
    service.script.append(problem(status, "rate-limited", Retry_After="1"))
    began = time.monotonic()
    with SyncLedger(service.transport(), source="our-lms", limits=QUICK) as ledger:
        ledger.emit(granted())
        flushed = ledger.flush()

    assert flushed == Flushed(sent=1)
    assert time.monotonic() - began >= 1


def test_a_pause_until_a_date_is_read_by_the_services_own_clock(service: Service) -> None:
    """It may be another than ours."""
    now = datetime(2001, 1, 1, 12, tzinfo=UTC)
    form = "%a, %d %b %Y %H:%M:%S GMT"
    until = now.replace(second=1).strftime(form)
    service.script.append(problem(503, "busy", Retry_After=until, Date=now.strftime(form)))
    began = time.monotonic()
    with SyncLedger(service.transport(), source="our-lms", limits=QUICK) as ledger:
        ledger.emit(granted())
        flushed = ledger.flush()

    assert flushed == Flushed(sent=1)
    assert time.monotonic() - began < 10


# What is refused -------------------------------------------------------------------------------


def test_a_refused_event_is_told_by_its_reason_and_never_sent_again(service: Service) -> None:
    """The others of its batch are taken."""
    told = Told()
    service.script.append(results("accepted", "consent_missing", "duplicate", "unattributed"))
    with SyncLedger(
        service.transport(), source="our-lms", limits=QUICK, on_refused=told.refused.append
    ) as ledger:
        for number in range(4):
            ledger.emit(granted(number))
        flushed = ledger.flush()

    assert flushed == Flushed(sent=3, refused=1)
    assert told.refused == [Refused(id="granted-1", type="consent.granted.v1", reason="consent_missing")]
    assert len(service.ids) == 4


def test_a_batch_that_is_refused_as_a_whole_is_halved_to_the_one_that_is_at_fault(service: Service) -> None:
    """The others get through."""

    def answer(request: Request) -> Answer:
        is_bad = any(one["id"] == "granted-5" for one in request.events)
        return problem(413, "body-too-large") if is_bad else accepted(request)

    told = Told()
    service.script.extend([answer] * 20)
    with SyncLedger(
        service.transport(), source="our-lms", limits=QUICK, on_refused=told.refused.append
    ) as ledger:
        for number in range(8):
            ledger.emit(granted(number))
        flushed = ledger.flush()

    assert flushed == Flushed(sent=7, refused=1)
    assert [(one.id, one.reason) for one in told.refused] == [("granted-5", "body-too-large")]


def test_a_callback_that_fails_stops_nothing(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged by the name of its error."""

    def fails(_: Refused) -> None:
        raise RuntimeError(CANARY)

    service.script.append(results("consent_missing"))
    with SyncLedger(service.transport(), source="our-lms", limits=QUICK, on_refused=fails) as ledger:
        ledger.emit(granted(0))
        ledger.flush()
        ledger.emit(granted(1))
        flushed = ledger.flush()

    assert flushed == Flushed(sent=1, refused=1)
    assert "RuntimeError" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    ("fact", "path"),
    [
        (VideoPaused(video="v" * 256, occurred_at=AT), "$.event.video"),
        (VideoPaused(video="v", occurred_at=datetime(2026, 1, 1)), "$.event.occurred_at"),  # noqa: DTZ001
        (VideoPaused(video="v", position_ms=-1, occurred_at=AT), "$.event.position_ms"),
        (ConsentGranted(purpose=CANARY * 20, notice="n", occurred_at=AT), "$.event.purpose"),
    ],
)  # fmt: skip
def test_an_event_that_is_none_is_refused_where_it_is_emitted(
    service: Service, fact: Fact, path: str
) -> None:
    """By its path, without its value."""
    with (
        SyncLedger(service.transport(), source="our-lms", limits=QUICK) as ledger,
        pytest.raises(EventInvalid) as caught,
    ):
        ledger.emit(event(fact))

    assert caught.value.path == path
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("subject", ["", "42", CANARY, "openedx:user_id:", "x:y:" + "z" * 600])
def test_a_subject_that_names_nobody_is_refused(service: Service, subject: str) -> None:
    """It is not quoted."""
    with (
        SyncLedger(service.transport(), source="our-lms", limits=QUICK) as ledger,
        pytest.raises(EventInvalid, match=r"\$\.subjects") as caught,
    ):
        ledger.emit(Event.of(subject, VideoPaused(video="v", occurred_at=AT)))

    assert CANARY not in str(caught.value)


# A full buffer ---------------------------------------------------------------------------------


def test_usage_is_dropped_and_counted_and_all_else_raises_when_there_is_no_room(service: Service) -> None:
    """A part of the buffer is kept free for what must not be dropped; the gap is told once."""
    gate, told = Gate(), Told()
    service.script.append(gate)
    with SyncLedger(service.transport(), source="our-lms", limits=TINY, on_gap=told.gaps.append) as ledger:
        ledger.emit(granted(0))
        gate.asked.wait(5)
        for number in range(1, 9):
            ledger.emit(paused(number))
        ledger.emit(granted(9))
        with pytest.raises(BufferFull) as caught:
            ledger.emit(granted(10))
        full = ledger.figures
        gate.open.set()
        flushed = ledger.flush()

    assert caught.value.event_type == "consent.granted.v1"
    assert full == Flushed(pending=5, dropped=5)
    assert flushed == Flushed(sent=5, dropped=5)
    assert told.gaps == [5]


async def test_a_consent_waits_for_room_without_blocking_the_loop(service: Service) -> None:
    """And is sent once there is some."""
    gate = Gate()
    service.script.append(gate)
    limits = structs.replace(TINY, buffer_events=1, when_full="block", block_s=10.0)
    async with Ledger(service.transport(), source="our-lms", limits=limits) as ledger:
        await ledger.emit(granted(0))
        waiting = asyncio.create_task(ledger.emit(granted(1)))
        await asyncio.sleep(0.1)
        was_waiting = not waiting.done()
        gate.open.set()
        await waiting
        flushed = await ledger.aclose()

    assert was_waiting
    assert flushed == Flushed(sent=2)


@pytest.mark.parametrize("is_async", [True, False])
async def test_waiting_for_room_has_an_end(service: Service, is_async: bool) -> None:  # noqa: FBT001 - a case
    """Then the application is told, and nothing is counted as emitted."""
    gate = Gate()
    service.script.append(gate)
    limits = Limits(linger_s=0.01, buffer_events=1, block_s=0.2)
    ledger = SyncLedger(service.transport(), source="our-lms", limits=limits).open()
    other = Ledger(service.transport(), source="our-lms", limits=limits)
    async with other:

        async def emit(number: int) -> None:
            if is_async:
                await other.emit(granted(number))
            else:
                await asyncio.to_thread(ledger.emit, granted(number))

        await emit(0)
        began = time.monotonic()
        with pytest.raises(BufferFull):
            await emit(1)
        took = time.monotonic() - began
        gate.open.set()
        assert await other.aclose() == Flushed(sent=1 if is_async else 0)
    assert await asyncio.to_thread(ledger.close) == Flushed(sent=0 if is_async else 1)
    assert took < 5


# The end ---------------------------------------------------------------------------------------


async def test_closing_ends_within_its_bound_and_says_what_was_not_sent(service: Service) -> None:
    """A service that does not answer holds nobody up."""
    gate = Gate()
    service.script.append(gate)
    ledger = Ledger(service.transport(), source="our-lms", limits=QUICK)
    async with ledger:
        for number in range(5):
            await ledger.emit(granted(number))
        began = time.monotonic()
        flushed = await ledger.aclose(timeout_s=0.3)
        took = time.monotonic() - began
    gate.open.set()

    assert flushed == Flushed(pending=5)
    assert took < 2
    assert await ledger.aclose() == flushed


def test_closing_does_not_wait_for_a_pause_that_is_longer_than_its_bound(service: Service) -> None:
    """It says at once what is left."""
    service.script.append(problem(503, "busy", Retry_After="60"))
    ledger = SyncLedger(service.transport(), source="our-lms", limits=QUICK).open()
    ledger.emit(granted())
    began = time.monotonic()
    flushed = ledger.close(timeout_s=20)

    assert flushed == Flushed(pending=1)
    assert time.monotonic() - began < 5


async def test_a_closed_ledger_takes_nothing(service: Service) -> None:
    """Nor does one that was not opened."""
    ledger = Ledger(service.transport(), source="our-lms")
    with pytest.raises(LedgerClosed):
        await ledger.emit(granted())
    async with ledger:
        pass
    with pytest.raises(LedgerClosed):
        await ledger.emit(granted())


# What is said of anybody -----------------------------------------------------------------------


def test_no_value_of_a_person_is_in_a_log_line_an_error_or_a_repr(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """However it ends; nor is the key, or a word of the service."""
    caplog.set_level(logging.DEBUG)
    told = Told()
    service.script.extend([problem(500, f"{CANARY} x"), problem(503, "busy"), results(f"{CANARY} x")])
    transport = service.transport()
    with SyncLedger(transport, source="our-lms", limits=QUICK, on_refused=told.refused.append) as ledger:
        ledger.emit(registered())
        ledger.flush()
    unsent = SyncLedger(HttpTransport("http://127.0.0.1:1", key=KEY), source="our-lms", limits=QUICK).open()
    unsent.emit(registered())
    unsent.close(timeout_s=0.2)

    assert told.refused == [Refused(id="r-1", type="account.registered.v1", reason="refused")]
    said = caplog.text + repr([registered(), transport, ledger, told])
    assert "busy" in said
    assert "openedx:user_id" not in said
    assert KEY not in said
    assert CANARY not in said


@pytest.mark.parametrize(
    "changed",
    [
        {"url": "ledger.example.com"}, {"url": "ftp://ledger.example.com"}, {"url": "http://ledger.example.com"},
        {"url": "https://ledger.example.com:x"}, {"url": "https://ledger.example.com?key=1"},
        {"key": ""}, {"key": f"{KEY}\r\nX: 1"}, {"key": "ключ"},
    ],
)  # fmt: skip
def test_an_address_or_a_key_that_cannot_be_used_is_said_at_once(changed: dict[str, Any]) -> None:
    """Without the key."""
    said: dict[str, Any] = {"url": "https://ledger.example.com", "key": KEY, **changed}
    with pytest.raises(TransportInvalid) as caught:
        HttpTransport(said.pop("url"), **said)

    assert KEY not in str(caught.value)


def test_what_must_not_be_dropped_is_all_but_usage() -> None:
    """Consent, account, payment, certificates wait; videos and pages may be lost."""
    from privacy_ledger.sdk.events import encode  # noqa: PLC0415 - not part of the public surface

    fact = ConsentGranted(purpose="improve.analyse", notice="n", occurred_at=AT)
    assert [encode(one).is_droppable for one in (event(fact), registered(), enrolled(1), paused())] == [
        False, False, False, True,
    ]  # fmt: skip


def test_pauses_are_drawn_below_a_bound_that_doubles() -> None:
    """From nothing to the bound; after a pause that was asked for comes a little more."""
    for failures, bound in ((1, 0.2), (2, 0.4), (5, 3.2), (9, 30.0), (10**6, 30.0)):
        drawn = [pause_s(failures, None, first_s=0.2, max_s=30.0) for _ in range(400)]
        assert 0 <= min(drawn) < bound / 4
        assert bound * 3 / 4 < max(drawn) <= bound
    asked = [pause_s(3, 7.0, first_s=0.2, max_s=30.0) for _ in range(100)]
    assert 7.0 <= min(asked) <= max(asked) <= 7.2
    assert len(set(asked)) > 50
