"""Hints: what a command asks of whoever runs a pass. A lost one is given again; none changes a fold."""

import msgspec
from msgspec import Struct

from privacy_ledger.ports.log import NewRecord, Row

__all__ = ["Redrive", "hint_of", "record_of"]


class Redrive(Struct, frozen=True, kw_only=True, tag="redrive"):
    """Take the subject up again that is parked at this record of the pass's source."""

    pass_name: str
    partition: int
    offset: int


def record_of(hint: Redrive, key: bytes) -> NewRecord:
    """Return a hint as a record of the hints' one partition."""
    return NewRecord(0, key, msgspec.json.encode(hint))


def hint_of(row: Row) -> Redrive | None:
    """Return the hint of a record; None: it is of another kind, or another build's."""
    try:
        return msgspec.json.decode(row.value or b"", type=Redrive)
    except msgspec.MsgspecError:
        return None
