"""What is left of one person: an own reading of the ledger, apart from every projection."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from privacy_ledger.app._directory import Directory
from privacy_ledger.domain.events import ControlFact, ErasureRequested, event_type
from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_UNATTRIBUTED
from privacy_ledger.domain.values import REF_BYTES, SubjectRef, partition_of
from privacy_ledger.ports.keys import DataKey, KeyVault, Withheld
from privacy_ledger.ports.log import EventLog, Row, header

__all__ = [
    "PersonRows",
    "Remains",
    "Waiting",
    "is_said",
    "remains_of",
    "waiting_of",
    "without_request",
]

_PAGE = 2000
PEOPLE_KEPT = 16
ROWS_KEPT = 20_000
"""A person with more is read again at each step: their rows are not held in memory."""
_SEALED = 1
_REQUESTED = event_type(ErasureRequested).encode()
_KID = slice(1, 33)


class Remains(Struct, kw_only=True):
    """Sealed records of a person that the log still holds.

    `live`: without a later tombstone. `readable`: whose key is still there, for whomever it
    opens; `unknown`: whose key this keystore never held. `kids` in hex.
    """

    records: int
    live: int
    readable: int
    unknown: int
    kids: tuple[str, ...]


class Waiting(Struct, kw_only=True):
    """How many events of a person's sessions open in the lane.

    `kids`: in hex, every key that those sessions ever had.
    """

    readable: int
    kids: tuple[str, ...]


class PersonRows:
    """Every record and tombstone of a person, by an own reading of the ledger.

    All erasures of a process share one reading, which goes on from where it ended, and the steps of
    one erasure share the person's rows: each step sees all that is there by then. Begin each run
    with `forget`.
    """

    def __init__(self, log: EventLog) -> None:
        """Start with nothing read."""
        self._partitions = log.partitions(LEDGER_EVENTS)
        self._directory = Directory(log, LEDGER_EVENTS, _owner_of)
        self._kept: dict[SubjectRef, list[Row]] = {}

    async def of(self, ref: SubjectRef) -> Sequence[Row]:
        """Return the rows of a reference as of now, oldest first."""
        rows = self._kept.pop(ref, [])
        after = rows[-1].offset if rows else -1
        rows += await self._directory.rows(partition_of(ref, self._partitions), {ref}, after=after)
        while len(self._kept) >= PEOPLE_KEPT:
            del self._kept[next(iter(self._kept))]
        if len(rows) <= ROWS_KEPT:
            self._kept[ref] = rows
        return tuple(rows)

    def forget(self, *refs: SubjectRef) -> None:
        """Read the rows of these references anew the next time."""
        for ref in refs:
            self._kept.pop(ref, None)


def _owner_of(row: Row) -> bytes:
    return row.key[:REF_BYTES]


async def remains_of(
    rows: PersonRows, vault: KeyVault, ref: SubjectRef, *, but: frozenset[bytes] = frozenset()
) -> Remains:
    """Return what the log still holds of a reference, and what of it can be read.

    `but`: the ids of records that are left out, because the law keeps them.
    """
    kids: dict[bytes, bytes] = {}
    live: set[bytes] = set()
    for row in await rows.of(ref):
        if row.key[REF_BYTES:] in but:
            continue
        if row.value is None:
            live.discard(row.key)
        elif row.value[:1] == bytes((_SEALED,)) and header(row.headers, "kid") is not None:
            kids[row.key] = row.value[_KID]
            live.add(row.key)
    distinct = tuple(dict.fromkeys(kids.values()))
    opened = vault.open_keys(distinct)
    readable = {kid for kid, key in opened.items() if isinstance(key, DataKey | Withheld)}
    return Remains(
        records=len(kids),
        live=len(live),
        readable=sum(kid in readable for kid in kids.values()),
        unknown=sum(kid not in opened for kid in kids.values()),
        kids=tuple(kid.hex() for kid in distinct),
    )


async def waiting_of(log: EventLog, vault: KeyVault, ref: SubjectRef) -> Waiting:
    """Return what the lane still holds of a person: under the references of the sessions joined to it.

    Sessions whose keys are destroyed hold nothing that opens: their part of the topic is not read.
    """
    keys = vault.lane_keys(ref)
    lanes = frozenset(key.lane for key in keys if not key.is_destroyed)
    partitions = log.partitions(LEDGER_UNATTRIBUTED)
    kids: list[bytes] = []
    for partition in sorted({partition_of(lane, partitions) for lane in lanes}):
        after = -1
        while rows := await log.read(LEDGER_UNATTRIBUTED, partition, after=after, limit=_PAGE):
            kids += [
                row.value[_KID] for row in rows if row.value is not None and row.key[:REF_BYTES] in lanes
            ]
            after = rows[-1].offset
    distinct = tuple(dict.fromkeys(kids))
    opened = vault.open_keys(distinct) if distinct else {}
    return Waiting(
        readable=sum(isinstance(opened.get(kid), DataKey | Withheld) for kid in kids),
        kids=tuple(key.kid.hex() for key in keys),
    )


async def is_said(rows: PersonRows, ref: SubjectRef, kind: type[ControlFact], request: str) -> bool:
    """Return whether a reference's partition holds a control fact of this kind about this request."""
    kind_name, wanted = event_type(kind).encode(), request.encode()
    for row in await rows.of(ref):
        if header(row.headers, "ce_type") == kind_name and row.value is not None and wanted in row.value:
            return True
    return False


async def without_request(log: EventLog, refs: frozenset[SubjectRef]) -> list[SubjectRef]:
    """Return those of the references that have records in the log and no request for their erasure.

    It reads the whole log, and no projection: what a projection knew of them is unreadable.
    """
    present: dict[SubjectRef, None] = {}
    requested: set[SubjectRef] = set()
    for partition in range(log.partitions(LEDGER_EVENTS)) if refs else ():
        after = -1
        while page := await log.read(LEDGER_EVENTS, partition, after=after, limit=_PAGE):
            for row in page:
                ref = SubjectRef(row.key[:REF_BYTES])
                if ref in refs:
                    present[ref] = None
                    if header(row.headers, "ce_type") == _REQUESTED and _is_of_person(row):
                        requested.add(ref)
            after = page[-1].offset
    return [ref for ref in present if ref not in requested]


def _is_of_person(row: Row) -> bool:
    """Return whether a request for erasure asks for the whole person."""
    try:
        return msgspec.json.decode(row.value or b"", type=ErasureRequested).scope == "person"
    except msgspec.DecodeError:
        return False
