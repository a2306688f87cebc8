"""Corners of what is erased by itself, and of what is rectified: the sharpest case of each rule."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count

from msgspec import structs

from privacy_ledger.domain import events as e
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import NOBODY, Category, RecordId, SubjectRef
from privacy_ledger.streams import subject_view
from privacy_ledger.streams.held import HELD, Parked
from privacy_ledger.streams.record import Record, Removed
from privacy_ledger.streams.states import INDEX, PERMISSIONS, Parts
from privacy_ledger.streams.subject_view import Stamped
from privacy_ledger.testing.memory import MemoryPass
from privacy_ledger.testing.oracle import Oracle
from tests.simulation.logs import BOOKS, BROKEN_COURSE, INITIAL, breaks, run_pass

ADA = SubjectRef(b"a" * 16)
BIO, GOAL = b"bio-bio-", b"goal-goa"
_number = count(1)


def _day(month: int, day: int) -> datetime:
    return datetime(2026, month, day, 12, tzinfo=UTC)


NOW = _day(3, 20)
BEFORE = _day(3, 10)


def _control(body: e.ControlFact | e.ControlRecord) -> Record:
    return Record(
        partition=0, offset=0, ref=NOBODY if isinstance(body, e.ControlRecord) else ADA,
        record_id=RecordId(next(_number).to_bytes(16, "big")), type=e.event_type(body), body=body,
        occurred_at=NOW, received_at=NOW,
    )  # fmt: skip


def _sent(body: e.Fact, *purposes: str, field: bytes = b"") -> Record:
    number = next(_number)
    return Record(
        partition=0, offset=0, ref=ADA, record_id=RecordId(number.to_bytes(16, "big")),
        type=e.event_type(body), body=body, occurred_at=getattr(body, "occurred_at", NOW), received_at=NOW,
        category=body.category, purposes=purposes, field=field,
        tag=number.to_bytes(8, "big"), digest=number.to_bytes(8, "big"),
    )  # fmt: skip


def _bio(value: str, at: datetime = BEFORE) -> Record:
    return _sent(e.ProfileFieldSet(occurred_at=at, field="bio", value=value), "account.manage", field=BIO)


def _goal(value: str, at: datetime = BEFORE) -> Record:
    return _sent(e.ProfileFieldSet(occurred_at=at, field="goal", value=value), "account.manage", field=GOAL)


def _viewed(at: datetime) -> Record:
    return _sent(e.UsagePageViewed(occurred_at=at, course="alpha"), "improve.analyse")


def _granted() -> Record:
    body = e.ConsentGranted(occurred_at=_day(1, 1), purpose="improve.analyse", notice="n.v1")
    return _sent(body, "rights.fulfil")


def _withdrawn() -> Record:
    return _sent(e.ConsentWithdrawn(occurred_at=NOW, purpose="improve.analyse"), "rights.fulfil")


def _copy(original: Record) -> Record:
    return structs.replace(original, record_id=RecordId(next(_number).to_bytes(16, "big")))


def _restated(original: Record, place: int, **values: object) -> Record:
    body = structs.replace(original.body, **values)
    return structs.replace(_copy(original), body=body, instead=place)


def _superseded(*originals: Record, request: str = "07" * 16) -> Record:
    category = originals[0].category
    assert category is not None
    records = tuple(original.record_id.hex() for original in originals)
    return _control(e.RecordsSuperseded(request=request, occurred_at=NOW, category=category, records=records))


def _field_erased(field: bytes, until: datetime = NOW, *, request: str = "06" * 16) -> Record:
    return _control(e.FieldErasureRequested(request=request, occurred_at=until, field=field.hex()))


def _category_erased(category: Category, until: datetime = NOW, *, request: str = "05" * 16) -> Record:
    return _control(
        e.ErasureRequested(request=request, occurred_at=until, scope="category", category=category)
    )


def _purpose_erased(purpose: str, until: datetime = NOW) -> Record:
    return _control(
        e.ErasureRequested(request="04" * 16, occurred_at=until, scope="purpose", purpose=purpose)
    )


def _restricted() -> Record:
    return _control(e.RestrictionStarted(request="02" * 16, occurred_at=NOW, ground="accuracy"))


def _lifted() -> Record:
    return _control(e.RestrictionLifted(request="03" * 16, occurred_at=NOW, notified_at=NOW))


def _minor() -> Record:
    return _control(e.MinorStatusDeclared(request="08" * 16, occurred_at=NOW, is_minor=True))


def _tick(at: datetime) -> Record:
    return _control(e.Tick(at=at))


def _adopted(book: str) -> Record:
    """Adopt a book: usage lives 1 month under `a`, 2 under `b`."""
    return _control(e.RulesAdopted(at=NOW, registry_offset=1, digest=book * 64))


def _log(*records: Record) -> list[Record]:
    """Return a log of a person who is known since 2025: the first of `records` is at offset 1."""
    registered = e.SubjectRegistered(
        request="01" * 16, occurred_at=NOW, not_before=datetime(2025, 1, 1, tzinfo=UTC)
    )
    return [
        structs.replace(record, offset=offset)
        for offset, record in enumerate((_control(registered), *records))
    ]


def _run(log: Sequence[Record]) -> MemoryPass:
    """Run a log, and compare what lives, what was removed and why, and the view with the oracle."""
    right = Oracle(INITIAL, BOOKS, breaks=breaks).expect(log).subjects[ADA]
    done = run_pass({record.offset: record for record in log})
    done.run(log)
    assert {row.record_id: row.purposes for _, row in done.scan(INDEX, ADA)} == right.live
    removed = {key[16:]: (str(one.cause), one.request) for key, one in done.tombstones()}
    assert removed == right.removed
    assert _view(done) == right.subject_view
    assert _is_parked(done) is right.is_parked
    return done


def _is_parked(done: MemoryPass) -> bool:
    held = done.load(HELD, ADA)
    return isinstance(held, Parked)


def _view(done: MemoryPass) -> subject_view.SubjectPart:
    return subject_view.merge(done.view(subject_view.TABLE, ADA) or Parts({}))


def _live(done: MemoryPass) -> list[int]:
    return sorted(row.offset for _, row in done.scan(INDEX, ADA))


def _causes(done: MemoryPass, log: Sequence[Record]) -> dict[int, str]:
    offsets = {record.record_id: record.offset for record in log}
    return {offsets[RecordId(key[16:])]: str(one.cause) for key, one in done.tombstones()}


# Erasure smaller than the person ----------------------------------------------------------------


def test_an_erased_field_leaves_the_others() -> None:
    """Whatever its records' age: what was set after the instant, and stands before, goes too."""
    log = _log(_bio("x"), _goal("y"), _bio("z", _day(3, 19)), _field_erased(BIO, _day(3, 15)))
    done = _run(log)
    assert _live(done) == [2]
    assert _causes(done, log) == {1: "erased", 3: "erased"}


def test_a_fence_takes_in_the_very_instant_that_it_names() -> None:
    """What occurred a moment later is new."""
    until = _day(3, 15)
    log = _log(_field_erased(BIO, until), _bio("x", until), _bio("y", until + timedelta(microseconds=1)))
    done = _run(log)
    assert _causes(done, log) == {2: "scope_erased"}


def test_the_latest_instant_of_a_scope_counts() -> None:
    """A second request that names an earlier one opens nothing again."""
    log = _log(
        _category_erased(Category.PROFILE, _day(3, 15)),
        _category_erased(Category.PROFILE, _day(3, 5), request="55" * 16),
        _bio("x", BEFORE),
    )
    assert _causes(_run(log), log) == {3: "scope_erased"}


def test_a_used_request_erases_nothing_and_fences_nothing() -> None:
    """As with all control facts, a second one with the same id has no effect."""
    log = _log(_bio("x"), _field_erased(BIO, request="01" * 16), _goal("y"))
    assert _live(_run(log)) == [1, 3]


def test_a_scope_goes_at_once_under_restriction() -> None:
    """Erasure does not wait for the lift."""
    log = _log(_bio("x"), _restricted(), _bio("y"), _field_erased(BIO))
    done = _run(log)
    assert _live(done) == []
    assert _view(done).profile == {}


def test_a_rebuild_from_a_cleaned_log_keeps_the_fence() -> None:
    """The erased record is gone from the log, and its late copy is refused all the same."""
    original = _bio("x")
    log = _log(original, _field_erased(BIO), _copy(original))
    gone = structs.replace(log[1], offset=len(log), body=Removed(is_ours=True))
    cleaned = [log[0], *log[2:], gone]
    rebuilt = run_pass({record.offset: record for record in cleaned})
    rebuilt.run(cleaned)
    assert _live(_run(log)) == _live(rebuilt) == []
    assert _run(log).load(PERMISSIONS, ADA) == rebuilt.load(PERMISSIONS, ADA)


def test_the_fence_stands_between_the_person_and_the_period() -> None:
    """`scope_erased` comes after `before_subject` and before `past_retention`."""
    log = _log(
        _category_erased(Category.USAGE), _tick(NOW), _viewed(_day(1, 5)),
        _viewed(datetime(2024, 12, 31, tzinfo=UTC)),
    )  # fmt: skip
    assert _causes(_run(log), log) == {3: "scope_erased", 4: "before_subject"}


def test_an_erased_purpose_is_missing_for_what_occurred_before() -> None:
    """A consent still stands, so what occurs later is taken; a minor is refused as a minor."""
    log = _log(
        _granted(), _purpose_erased("improve.analyse", _day(3, 15)), _viewed(_day(3, 15)),
        _viewed(_day(3, 16)), _minor(), _viewed(_day(3, 15)),
    )  # fmt: skip
    causes = _causes(_run(log), log)
    assert causes == {3: "scope_erased", 4: "withdrawn", 6: "minor_unapproved"}


def test_an_event_serves_the_purposes_that_are_left() -> None:
    """Only with none left is it refused; a record that had another purpose stays for that one."""
    body = e.CourseCompleted(occurred_at=BEFORE, course="alpha")
    both = "course.deliver", "qa.instructors"
    log = _log(_sent(body, *both), _purpose_erased("course.deliver"), _sent(body, *both))
    done = _run(log)
    assert [row.purposes for _, row in done.scan(INDEX, ADA)] == [("qa.instructors",)] * 2


def test_evidence_is_neither_erased_nor_fenced_nor_superseded() -> None:
    """What proves a consent stays as long as the account."""
    granted = _granted()
    log = _log(
        granted, _category_erased(Category.EVIDENCE), _purpose_erased("rights.fulfil"),
        _superseded(granted), _granted(),
    )  # fmt: skip
    assert _live(_run(log)) == [1, 5]


# Rectification ------------------------------------------------------------------------------------


def test_a_restated_value_does_not_win_over_a_later_one() -> None:
    """It takes the place of its original, which was overruled already."""
    original = _bio("x")
    log = _log(original, _bio("y"), _superseded(original), _restated(original, 1, value="z"))
    done = _run(log)
    assert _view(done).profile == {"bio": Stamped(2, "y")}
    assert _causes(done, log) == {1: "rectified"}


def test_a_record_that_is_restated_twice_stands_where_the_first_stood() -> None:
    """Each rectification names the record of the one before."""
    first = _bio("x")
    second = _restated(first, 1, value="y")
    log = _log(
        first, _superseded(first), second, _bio("later"), _superseded(second, request="77" * 16),
        _restated(second, 1, value="z"),
    )  # fmt: skip
    done = _run(log)
    assert [row.place for _, row in done.scan(INDEX, ADA)] == [1, 4]
    assert _view(done).profile == {"bio": Stamped(4, "later")}


def test_a_rectification_is_seen_under_a_restriction_that_began_after_the_original() -> None:
    """It acts at once: the view shows what is right, and not what was wrong."""
    original = _bio("x")
    log = _log(original, _restricted(), _superseded(original), _restated(original, 1, value="y"))
    assert _view(_run(log)).profile == {"bio": Stamped(1, "y")}


def test_a_restated_record_is_held_where_its_original_was() -> None:
    """What came under restriction folds into nothing until the lift, restated or not."""
    original = _bio("x")
    log = _log(_restricted(), original, _superseded(original), _restated(original, 2, value="y"), _lifted())
    assert _view(_run(log[:-1])).profile == {}
    assert _view(_run(log)).profile == {"bio": Stamped(2, "y")}


def test_a_withdrawal_that_waits_for_the_lift_reaches_what_was_restated_after_it() -> None:
    """A new consent lets the restated record in; the old withdrawal still reaches its place."""
    original = _viewed(BEFORE)
    log = _log(
        _granted(), original, _restricted(), _withdrawn(), _granted(), _superseded(original),
        _restated(original, 2, course="beta"), _viewed(BEFORE), _lifted(),
    )  # fmt: skip
    assert _causes(_run(log), log) == {2: "rectified", 7: "withdrawn"}


def test_a_tick_that_waits_for_the_lift_reaches_what_was_restated_after_it() -> None:
    """Longer periods let the restated record in; it was due already where it stands."""
    original = _viewed(BEFORE)
    log = _log(
        _granted(), original, _restricted(), _adopted("a"), _tick(_day(5, 2)), _adopted("b"),
        _superseded(original), _restated(original, 2, course="beta"), _viewed(BEFORE), _lifted(),
    )  # fmt: skip
    assert _causes(_run(log), log) == {2: "rectified", 8: "retention"}


def test_a_restated_record_is_a_duplicate_while_its_original_lives() -> None:
    """A rectification by a used request has no effect, and neither has what follows it."""
    original = _bio("x")
    log = _log(original, _superseded(original, request="01" * 16), _restated(original, 1, value="y"))
    assert _causes(_run(log), log) == {3: Refusal.DUPLICATE}


def test_what_was_erased_meanwhile_does_not_come_back_restated() -> None:
    """Somebody clears a field while it is being rectified."""
    original = _bio("x")
    log = _log(original, _field_erased(BIO), _superseded(original), _restated(original, 1, value="y"))
    assert _causes(_run(log), log) == {1: "erased", 4: "scope_erased"}


def test_a_discard_in_vain_does_not_park_what_was_restated() -> None:
    """The record that the discard names is gone by then; the one in its place can be folded.

    The discard frees its parked subject because its request is new, and has no effect at its own
    offset because a fact that waited in between used that request.
    """
    body = e.CourseCompleted(occurred_at=BEFORE, course=BROKEN_COURSE)
    original = _sent(body, "course.deliver")
    discarded = e.RecordDiscarded(request="09" * 16, occurred_at=NOW, record=original.record_id.hex())
    log = _log(
        original, _field_erased(GOAL, request="09" * 16), _superseded(original),
        _restated(original, 1, course="alpha"), _control(discarded),
    )  # fmt: skip
    assert not _is_parked(_run(log))
