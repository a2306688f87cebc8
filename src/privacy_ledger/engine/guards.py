"""What stops a partition when its records cannot be read, and what does not."""

from collections.abc import Sequence
from typing import Final

from privacy_ledger.domain.errors import LedgerError, UnknownKey
from privacy_ledger.domain.values import NOBODY
from privacy_ledger.streams.record import Record, Undecodable

__all__ = ["ControlUnreadable", "is_nobodys", "refuse_foreign_keystore"]

UNKNOWN_IN_A_ROW_MAX: Final = 20


class ControlUnreadable(LedgerError):
    """A control record for all cannot be read: the partition stops until it can."""


def is_nobodys(record: Record) -> bool:
    """Return whether an unreadable record belongs to no subject of this partition.

    Raises:
        ControlUnreadable: it is a control record for all.
    """
    body = record.body
    reason = body.reason if isinstance(body, Undecodable) else ""
    if record.ref == NOBODY:
        raise ControlUnreadable(
            f"partition {record.partition} offset {record.offset}: a control record cannot be "
            f"read ({reason}). Check the keystore and the build, then start the worker again."
        )
    return reason in ("key_length", "wrong_partition")


def refuse_foreign_keystore(records: Sequence[Record], run: int, *, partition: int) -> int:
    """Stop when a run of records all name keys that this keystore never held.

    `run` and the returned figure: how many of them in a row stood at the end of a slice. It goes over
    batches: where records come one by one, a wrong keystore would otherwise park one person after the other.

    Raises:
        UnknownKey: there are more than a few.
    """
    for record in records:
        unknown = isinstance(record.body, Undecodable) and record.body.reason == "unknown_key"
        run = run + 1 if unknown else 0
        if run > UNKNOWN_IN_A_ROW_MAX:
            raise UnknownKey(
                f"partition {partition}: more than {UNKNOWN_IN_A_ROW_MAX} records in a "
                "row name keys that this keystore never held. Check PRIVACY_LEDGER_KEYSTORE."
            )
    return run
