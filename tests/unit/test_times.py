from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.times import YEAR_MAX, YEAR_MIN, parse_time
from privacy_ledger.domain.refusals import Refusal

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T12:00:00.123456+00:00", NOON.replace(microsecond=123456)),
        ("2026-03-01T12:00:00+00:00", NOON),
        ("2026-03-01T12:00:00Z", NOON),
        ("2026-03-01t12:00:00z", NOON),
        ("2026-03-01 12:00:00+00", NOON),
        ("2026-03-01T12:00:00+0000", NOON),
        ("2026-03-01T08:00:00.1234567-04:00", NOON.replace(microsecond=123456)),
        ("2026-03-01T12:00:00.5Z", NOON.replace(microsecond=500000)),
        ("2026-03-01T12:00:00,25Z", NOON.replace(microsecond=250000)),
        ("2026-03-01T12:00:00.123456+00:00+00:00", NOON.replace(microsecond=123456)),
        ("2026-03-01T12:00:00.123456+00:00+00:00+00:00", NOON.replace(microsecond=123456)),
        ("  2026-03-01T17:30:00+05:30\n", NOON),
    ],
)
def test_a_form_that_platforms_write_is_its_instant_in_utc(text: str, expected: datetime) -> None:
    """Offsets are resolved, fractions cut to microseconds, doubled offsets read once."""
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        (None, Refusal.TIME_MISSING),
        ("", Refusal.TIME_MISSING),
        ("  ", Refusal.TIME_MISSING),
        ("2026-03-01T12:00:00", Refusal.TIME_NAIVE),
        ("2026-03-01T12:00:00.123456", Refusal.TIME_NAIVE),
        ("2026-03-01T12:00", Refusal.TIME_NAIVE),
        ("2026-03-01", Refusal.TIME_NAIVE),
        ("2026-03-01T12:00:00+00:00-04:00", Refusal.TIME_INVALID),
        ("2026-13-01T12:00:00Z", Refusal.TIME_INVALID),
        ("2026-02-30T12:00:00Z", Refusal.TIME_INVALID),
        ("2026-03-01T24:00:00Z", Refusal.TIME_INVALID),
        ("2026-03-01T12:00:60Z", Refusal.TIME_INVALID),
        ("2026-03-01T12:00:00+99:00", Refusal.TIME_INVALID),
        ("0000-01-01T00:00:00Z", Refusal.TIME_INVALID),
        ("0001-01-01T00:00:00+14:00", Refusal.TIME_INVALID),
        ("9999-12-31T23:59:59-14:00", Refusal.TIME_INVALID),
        ("1969-12-31T23:59:59Z", Refusal.TIME_INVALID),
        ("10000-01-01T00:00:00Z", Refusal.TIME_INVALID),
        ("2026-W09-7T12:00:00Z", Refusal.TIME_INVALID),
        ("٢٠٢٦-03-01T12:00:00Z", Refusal.TIME_INVALID),
        ("yesterday", Refusal.TIME_INVALID),
        ("1" * 10_000, Refusal.TIME_INVALID),
        (1772366400, Refusal.TIME_INVALID),
        (1772366400.5, Refusal.TIME_INVALID),
        ("1772366400", Refusal.TIME_INVALID),
        (True, Refusal.TIME_INVALID),
        (["2026-03-01T12:00:00Z"], Refusal.TIME_INVALID),
    ],
)
def test_what_is_no_instant_is_refused_with_its_reason(value: object, refusal: Refusal) -> None:
    """A missing, a naive and an invalid time are three different reasons."""
    assert parse_time(value) is refusal


def test_a_naive_time_is_utc_where_the_format_declares_it() -> None:
    """The declaration belongs to the format, never to the value."""
    assert parse_time("2026-03-01T12:00:00", assume_utc=True) == NOON


@settings(deadline=None)
@given(st.text() | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]{0,20}[Z+0-9:-]{0,12}"))
def test_no_text_raises(text: str) -> None:
    """Every text is an instant within the years, or a refusal."""
    result = parse_time(text)
    assert isinstance(result, Refusal) or YEAR_MIN <= result.year <= YEAR_MAX


@settings(deadline=None)
@given(st.datetimes(datetime(YEAR_MIN, 1, 2), datetime(YEAR_MAX, 12, 30), timezones=st.timezones()))  # noqa: DTZ001 - hypothesis adds the zone
def test_an_instant_survives_its_iso_form(instant: datetime) -> None:
    """Reading what was written gives the same instant."""
    offset = instant.utcoffset()
    if offset is None or offset.total_seconds() % 60:
        return  # offsets with seconds are from before there were standard times
    assert parse_time(instant.isoformat()) == instant.astimezone(UTC)
