"""Instants as whole microseconds since 1970, exact in both directions."""

from datetime import datetime, timedelta
from typing import Final

from privacy_ledger.domain.values import EPOCH

__all__ = ["instant", "microseconds"]

_MICROSECOND: Final = timedelta(microseconds=1)


def microseconds(when: datetime) -> int:
    """Return the microseconds from 1970 to an instant; negative before it."""
    return (when - EPOCH) // _MICROSECOND


def instant(value: int) -> datetime:
    """Return the UTC instant of a count of microseconds."""
    return EPOCH + value * _MICROSECOND
