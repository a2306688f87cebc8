"""The one parser of times from outside: microseconds, UTC, and a reason for what is no instant."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from privacy_ledger.domain.refusals import Refusal

__all__ = ["YEAR_MAX", "YEAR_MIN", "clock_seconds", "epoch_time", "parse_time"]

YEAR_MIN: Final = 1970
YEAR_MAX: Final = 9998
_TEXT_CHARS_MAX: Final = 64
_EPOCH_DIGITS_MAX: Final = 18
_MICROSECONDS: Final = 10**6
# Old loggers wrote the offset twice or more (38 characters and up); the same offset again says
# nothing new. More than six digits of a fraction are cut to microseconds.
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,]([0-9]{1,12}))?"
    r"(?:([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)\4{0,3})?"
)
_CLOCK: Final = re.compile(r"PT(?:([0-9]{1,5})H)?(?:([0-9]{1,6})M)?(?:([0-9]{1,8}(?:\.[0-9]{1,9})?)S)?")
_DATE_OR_HOUR: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt ][0-9]{2}:[0-9]{2})?")


def parse_time(value: object, *, assume_utc: bool = False) -> datetime | Refusal:
    """Return the instant in UTC, or why the value is none; never raises.

    Takes ISO 8601 text with an offset. A naive time is refused, unless the format declares its
    times to be UTC (`assume_utc`). Numbers are refused: only a format that declares an epoch may
    turn them into text first.
    """
    if value is None or value == "":
        return Refusal.TIME_MISSING
    if not isinstance(value, str) or len(value) > _TEXT_CHARS_MAX:
        return Refusal.TIME_INVALID
    text = value.strip()
    if not text:
        return Refusal.TIME_MISSING
    match = _TIME.fullmatch(text)
    if match is None:
        return Refusal.TIME_NAIVE if _DATE_OR_HOUR.fullmatch(text) else Refusal.TIME_INVALID
    day, clock, fraction, offset = match.groups()
    try:
        instant = datetime.fromisoformat(
            f"{day}T{clock}.{fraction[:6]:0<6}{(offset or '').upper()}"
            if fraction
            else f"{day}T{clock}{(offset or '').upper()}"
        )
        if offset is None:
            if not assume_utc:
                return Refusal.TIME_NAIVE
            instant = instant.replace(tzinfo=UTC)
        if instant.tzinfo is not UTC:
            instant = instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return Refusal.TIME_INVALID
    return instant if YEAR_MIN <= instant.year <= YEAR_MAX else Refusal.TIME_INVALID


def clock_seconds(text: str) -> float | None:
    """Return the seconds of an ISO 8601 duration of hours, minutes and seconds, or None for other text."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def epoch_time(value: object, *, per_second: int = 1) -> datetime | Refusal:
    """Return the instant that a count since 1970 says, or why it is none; never raises.

    Takes numbers, and text that is one; `per_second` is a divisor of a million.
    """
    if value is None or value == "":
        return Refusal.TIME_MISSING
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= _EPOCH_DIGITS_MAX:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Refusal.TIME_INVALID
    if not abs(value) < 10**_EPOCH_DIGITS_MAX:
        return Refusal.TIME_INVALID
    try:
        instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
            microseconds=value * (_MICROSECONDS // per_second)
        )
    except OverflowError:
        return Refusal.TIME_INVALID
    return instant if YEAR_MIN <= instant.year <= YEAR_MAX else Refusal.TIME_INVALID
