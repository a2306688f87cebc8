"""The export of one person (GDPR Art. 15 and 20): their own facts, read from the ledger itself.

Built by a scan of the subject's partition, apart from every projection: the records of the person
that have no later tombstone, decrypted, also while they are held by a restriction. A record is
about one person by law L1, so nobody else's values can be in it.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Union

import msgspec
from msgspec import Struct

from privacy_ledger.app._evidence import PersonRows
from privacy_ledger.app._scopes import scope_erased
from privacy_ledger.domain.events import (
    COLLECTION_EVENTS,
    CONTROL_FACTS,
    ControlFact,
    Fact,
    RecordsSuperseded,
    event_type,
)
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.log import Row, header
from privacy_ledger.ports.runtime import Clock
from privacy_ledger.streams.record import Erased, Record

__all__ = ["MANIFEST", "RIGHTS", "Export", "ExportFile", "Exported", "Manifest"]

MANIFEST: Final = "manifest.json"
RIGHTS: Final = "rights.json"
"""What was done for the person: registration, restrictions, requests. Ids, codes and times."""

_AnyFact = Union[COLLECTION_EVENTS]  # type: ignore[valid-type] # noqa: UP007 - from the list
_AnyControl = Union[CONTROL_FACTS]  # type: ignore[valid-type] # noqa: UP007 - from the list


class Exported(Struct, frozen=True, kw_only=True):
    """One record: what was collected, when, from whom and for what; `id` is the producer's own.

    `record` is the ledger's own, random: a correction names it.
    """

    record: str
    type: str
    occurred_at: datetime
    received_at: datetime
    category: str
    purposes: tuple[str, ...]
    basis: str
    notice: str
    source: str
    id: str | None
    fact: _AnyFact

    def __repr__(self) -> str:
        """Return the type only."""
        return f"Exported({self.type})"


class _Right(Struct, frozen=True, kw_only=True):
    """One control fact."""

    type: str
    occurred_at: datetime
    fact: _AnyControl


class ExportFile(Struct, frozen=True, kw_only=True):
    """One file of an export, as the manifest names it."""

    path: str
    records: int
    bytes: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """The manifest; `unreadable` counts records that exist and could not be decrypted now."""

    version: int = 1
    exported_at: datetime
    records: int
    unreadable: int
    erased: int
    files: tuple[ExportFile, ...]


class Export:
    """Reads one person's facts from the ledger."""

    def __init__(self, *, rows: PersonRows, codec: Codec, clock: Clock) -> None:
        """Take the ports."""
        self._rows = rows
        self._codec = codec
        self._clock = clock

    async def export(self, refs: Sequence[SubjectRef]) -> dict[str, bytes]:
        """Return the files of an export by relative path: one per category, rights, and manifest.

        Settle the passes first: a record that they will refuse stands in it until they have.
        """
        by_category: dict[str, list[Exported]] = {}
        rights: list[_Right] = []
        unreadable = erased = 0
        for ref in refs:
            live = await self._live(ref)
            records = self._codec.decode(live)
            gone = _gone(live, records)
            for row, record in zip(live, records, strict=True):
                body = record.body
                if record.record_id in gone:
                    continue
                if isinstance(body, ControlFact):
                    rights.append(_Right(type=event_type(body), occurred_at=body.occurred_at, fact=body))
                elif isinstance(body, Fact):
                    found = self._exported(row, record, body)
                    by_category.setdefault(found.category, []).append(found)
                elif isinstance(body, Erased):
                    erased += 1
                else:
                    unreadable += 1
        files = {
            f"{category}.json": _document(sorted(records, key=_when))
            for category, records in sorted(by_category.items())
        }
        counts = {f"{category}.json": len(records) for category, records in by_category.items()}
        files[RIGHTS] = _document(sorted(rights, key=_when))
        counts[RIGHTS] = len(rights)
        manifest = Manifest(
            exported_at=self._clock.now(),
            records=sum(len(records) for records in by_category.values()),
            unreadable=unreadable,
            erased=erased,
            files=tuple(_file(path, counts[path], content) for path, content in files.items()),
        )
        files[MANIFEST] = _document(manifest)
        return files

    async def _live(self, ref: SubjectRef) -> list[Row]:
        """Return the records of a reference without a later tombstone, oldest first."""
        found: dict[bytes, Row] = {}
        for row in await self._rows.of(ref):
            if row.value is None:
                found.pop(row.key, None)
            else:
                found[row.key] = row
        return sorted(found.values(), key=lambda row: row.offset)

    def _exported(self, row: Row, record: Record, fact: Fact) -> Exported:
        payload = self._codec.payload(row)
        return Exported(
            record=record.record_id.hex(),
            type=record.type,
            occurred_at=record.occurred_at,
            received_at=record.received_at,
            category=str(record.category),
            purposes=record.purposes,
            basis=_text(row, "basis"),
            notice=_text(row, "notice"),
            source=_text(row, "ce_source"),
            id=None if payload is None else payload.id,
            fact=fact,
        )


def _gone(rows: Sequence[Row], records: Sequence[Record]) -> frozenset[bytes]:
    """Return the records that a correction or a smaller erasure removed, whoever has folded it yet.

    A correction and what it states again come together; so no export shows a value twice. An original
    of which nothing was stated again, since a hold or a law keeps it, stays.
    """
    gone: set[bytes] = set()
    restated = {record.tag for record in records if record.instead is not None}
    by_id = {bytes(record.record_id): record for record in records}
    for at, record in enumerate(records):
        body = record.body
        if isinstance(body, RecordsSuperseded):
            names = map(bytes.fromhex, body.records)
            gone.update(name for name in names if name in by_id and by_id[name].tag in restated)
        scope = scope_erased(body)
        if scope is not None:
            gone.update(
                earlier.record_id
                for row, earlier in zip(rows[:at], records[:at], strict=True)
                if scope.has_collected(row)
            )
    return frozenset(gone)


def _when(entry: Exported | _Right) -> datetime:
    return entry.occurred_at


def _text(row: Row, name: str) -> str:
    return (header(row.headers, name) or b"").decode("ascii")


def _document(content: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=2)


def _file(path: str, records: int, content: bytes) -> ExportFile:
    digest = hashlib.sha256(content).hexdigest()
    return ExportFile(path=path, records=records, bytes=len(content), sha256=digest)
