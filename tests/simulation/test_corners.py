"""Corners that random logs meet too seldom: rules that change while a subject is frozen."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count

from msgspec import structs

from privacy_ledger.domain import events as e
from privacy_ledger.domain.values import NOBODY, Category, RecordId, SubjectRef
from privacy_ledger.streams.held import TICKS
from privacy_ledger.streams.record import Record, Removed, Undecodable
from privacy_ledger.streams.states import INDEX
from privacy_ledger.testing.memory import MemoryPass
from privacy_ledger.testing.oracle import Oracle
from tests.simulation.logs import BOOKS, INITIAL, run_pass

ADA = SubjectRef(b"a" * 16)
_number = count(1)


def _day(month: int, day: int) -> datetime:
    return datetime(2026, month, day, 12, tzinfo=UTC)


def _appended(body: e.ControlFact | e.ControlRecord, at: datetime) -> Record:
    return Record(
        partition=0, offset=0, ref=NOBODY if isinstance(body, e.ControlRecord) else ADA,
        record_id=RecordId(next(_number).to_bytes(16, "big")), type=e.event_type(body), body=body,
        occurred_at=at, received_at=at,
    )  # fmt: skip


def _sent(body: e.Fact | Undecodable, name: str, category: Category, purpose: str, at: datetime) -> Record:
    number = next(_number)
    return Record(
        partition=0, offset=0, ref=ADA, record_id=RecordId(number.to_bytes(16, "big")), type=name, body=body,
        occurred_at=getattr(body, "occurred_at", at), received_at=at, category=category,
        purposes=(purpose,), tag=number.to_bytes(8, "big"), digest=number.to_bytes(8, "big"),
    )  # fmt: skip


def _viewed(happened: datetime, at: datetime) -> Record:
    body = e.UsagePageViewed(occurred_at=happened, course="alpha")
    return _sent(body, e.event_type(body), Category.USAGE, "improve.analyse", at)


def _tick(at: datetime) -> Record:
    return _appended(e.Tick(at=at), at)


def _adopted(book: str, at: datetime) -> Record:
    """Adopt a book: usage lives 1 month under `a`, 2 under `b`."""
    return _appended(e.RulesAdopted(at=at, registry_offset=1, digest=book * 64), at)


def _with_consent(*records: Record) -> list[Record]:
    registered = e.SubjectRegistered(
        request="01" * 16, occurred_at=_day(3, 1), not_before=datetime(2025, 1, 1, tzinfo=UTC)
    )
    granted = e.ConsentGranted(occurred_at=_day(1, 1), purpose="improve.analyse", notice="n.v1")
    name = e.event_type(granted)
    log = [
        _appended(registered, _day(3, 1)),
        _sent(granted, name, Category.EVIDENCE, "rights.fulfil", _day(3, 1)),
        _adopted("a", _day(3, 1)),
        *records,
    ]
    return [structs.replace(record, offset=offset) for offset, record in enumerate(log)]


def _restricted() -> Record:
    return _appended(
        e.RestrictionStarted(request="02" * 16, occurred_at=_day(3, 2), ground="claims"), _day(3, 2)
    )


def _lifted() -> Record:
    return _appended(
        e.RestrictionLifted(request="03" * 16, occurred_at=_day(6, 1), notified_at=_day(6, 1)), _day(6, 1)
    )


def _run(log: Sequence[Record]) -> MemoryPass:
    by_offset = {record.offset: record for record in log}
    done = run_pass(by_offset)
    done.run(log)
    return done


def _live(done: MemoryPass) -> list[int]:
    return sorted(row.offset for _, row in done.scan(INDEX, ADA))


def _causes(done: MemoryPass) -> dict[bytes, str]:
    return {key[16:]: str(tombstone.cause) for key, tombstone in done.tombstones()}


def _expect(log: Sequence[Record]) -> None:
    """Compare what lives and what was removed, and why, with the oracle."""
    right, done = Oracle(INITIAL, BOOKS).expect(log).subjects[ADA], _run(log)
    assert {row.record_id: row.purposes for _, row in done.scan(INDEX, ADA)} == right.live
    assert _causes(done) == {record_id: cause for record_id, (cause, _) in right.removed.items()}


def _without(log: Sequence[Record], offset: int) -> list[Record]:
    """Return the log after one record's tombstone was written and the cleaner took the record."""
    gone = structs.replace(log[offset], offset=len(log), body=Removed(is_ours=True))
    return [*(record for record in log if record.offset != offset), gone]


def test_a_tick_under_restriction_reaches_only_what_came_before_it() -> None:
    """A record that longer periods let in after the tick stays, though an elder of its month goes."""
    log = _with_consent(
        _restricted(), _viewed(_day(3, 20), _day(3, 30)), _tick(_day(5, 2)), _adopted("b", _day(5, 3)),
        _viewed(_day(3, 21), _day(5, 4)), _lifted(),
    )  # fmt: skip
    _expect(log)
    assert _live(_run(_without(log, 4))) == _live(_run(log)) == [1, 7]


def _flipped() -> tuple[Record, ...]:
    """Return two ticks of one month under book `a`, and between them `b` and an old record."""
    return (
        _tick(_day(5, 2)), _adopted("b", _day(5, 3)), _viewed(_day(3, 20), _day(5, 4)),
        _adopted("a", _day(5, 5)), _tick(_day(5, 6)),
    )  # fmt: skip


def test_a_second_tick_of_a_month_counts_when_rules_changed_between_for_the_restricted() -> None:
    """The record that came between the ticks is due at the second one."""
    log = _with_consent(_restricted(), *_flipped(), _lifted())
    _expect(log)
    assert _live(_run(log)) == [1]


def test_a_second_tick_of_a_month_counts_when_rules_changed_between_for_the_parked() -> None:
    """A rebuild that never meets the discarded record lets both ticks pass."""
    poison = _sent(Undecodable("x"), "usage.page_viewed.v1", Category.USAGE, "improve.analyse", _day(3, 2))
    discarded = e.RecordDiscarded(request="04" * 16, occurred_at=_day(6, 1), record=poison.record_id.hex())
    log = _with_consent(poison, *_flipped(), _appended(discarded, _day(6, 1)))
    _expect(log)
    assert _live(_run(_without(log, 3))) == _live(_run(log)) == [1]


def test_a_withdrawal_before_a_tick_is_why_a_record_went_at_the_lift() -> None:
    """A lift catches up in the order of the log, so the purpose's key dies as without restriction."""
    withdrawn = e.ConsentWithdrawn(occurred_at=_day(4, 1), purpose="improve.analyse")
    name = e.event_type(withdrawn)
    log = _with_consent(
        _viewed(_day(3, 1), _day(3, 1)), _restricted(),
        _sent(withdrawn, name, Category.EVIDENCE, "rights.fulfil", _day(4, 1)), _tick(_day(5, 2)), _lifted(),
    )  # fmt: skip
    _expect(log)
    assert set(_causes(_run(log)).values()) == {"withdrawn"}


def test_nothing_waits_any_more_for_one_who_was_erased_while_restricted() -> None:
    """The ticks that waited for the lift would name the person for ever."""
    erased = e.ErasureRequested(request="05" * 16, occurred_at=_day(5, 3))
    log = _with_consent(_restricted(), _tick(_day(5, 2)), _appended(erased, _day(5, 3)))
    assert len(list(_run(log[:-1]).scan(TICKS, ADA))) == 1
    assert list(_run(log).scan(TICKS, ADA)) == []
