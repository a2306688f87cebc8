"""The only place where bytes become events, and events bytes.

A collection fact is sealed under the subject's key of its group; control facts and records are
not sealed and carry a `mac`. Every header is bound: as associated data, or by the mac.
"""

import hmac
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeVar, Union

import msgspec

from privacy_ledger.adapters import envelope
from privacy_ledger.domain.errors import SchemaMismatch
from privacy_ledger.domain.events import (
    COLLECTION_EVENTS,
    CONTROL_FACTS,
    CONTROL_RECORDS,
    ControlFact,
    ControlRecord,
    Fact,
    Tick,
    event_type,
)
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import (
    EPOCH,
    NOBODY,
    Category,
    SubjectRef,
    partition_of,
    record_key,
    split_key,
)
from privacy_ledger.ports import keys as released
from privacy_ledger.ports.codec import HEARTBEAT_KEY, Origin, Payload
from privacy_ledger.ports.keys import DataKey, KeyVault, Shredded
from privacy_ledger.ports.log import Headers, NewRecord, Row
from privacy_ledger.streams.record import Body, Erased, Heartbeat, Record, Removed, Undecodable, Withheld

__all__ = ["LedgerCodec", "describe", "stamp"]

T = TypeVar("T")
_Keys = dict[bytes, DataKey | Shredded | released.Withheld]
PAYLOAD_BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 64
_AnyControl = Union[CONTROL_FACTS + CONTROL_RECORDS]  # type: ignore[valid-type] # noqa: UP007
_CATEGORIES: Final = {category.value.encode(): category for category in Category}
_SEALED_TYPES: Final = {event_type(kind).encode(): event_type(kind) for kind in COLLECTION_EVENTS}
_FACT_HEADERS: Final = (
    "ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type", "category", "purposes",
    "basis", "notice", "jurisdiction", "received", "schema", "kid", "gen", "tag", "digest",
)  # fmt: skip
_FIELD: Final = "field"
_INSTEAD: Final = "instead"
_TYPE_AT: Final = _FACT_HEADERS.index("ce_type")
_encode_json = msgspec.json.Encoder().encode
_AT: Final = re.compile(r" - at `([^`]*)`$")
_EXPECTED: Final = re.compile(r"^Expected `([^`]+)`")


class LedgerCodec:
    """Seals, signs, opens and checks the records of `ledger.events.v1`."""

    def __init__(self, vault: KeyVault, *, partitions: int, stream: str = LEDGER_EVENTS) -> None:
        """Take the keystore; `stream` is the logical name that associated data binds."""
        self._vault = vault
        self._partitions = partitions
        self._stream = stream
        self._mac_key = vault.secret("control-mac")
        self._payload = msgspec.json.Decoder(Payload)
        self._control = msgspec.json.Decoder(_AnyControl)

    # Writing -----------------------------------------------------------------------------

    def fact(
        self,
        key: DataKey,
        record_id: bytes,
        fact: Fact,
        origin: Origin,
        *,
        source_id: str | None = None,
        joint: str | None = None,
    ) -> NewRecord:
        """Return a sealed record of one fact about the subject of `key`.

        Raises:
            SchemaMismatch: the fact breaks its own schema; nothing of it is quoted.
        """
        kind = event_type(fact)
        plain = _encode_json(Payload(fact=fact, id=source_id, joint=joint))
        _read_strictly(self._payload.decode, plain, kind)
        occurred_at: datetime = getattr(fact, "occurred_at", origin.received_at)
        values: tuple[bytes, ...] = (  # in the order of `_FACT_HEADERS`
            b"1.0",
            record_id.hex().encode(),
            kind.encode(),
            origin.source.encode("ascii"),
            stamp(occurred_at),
            b"application/json",
            fact.category.encode(),
            ",".join(origin.purposes).encode(),
            origin.basis.encode(),
            origin.notice.encode("ascii"),
            origin.jurisdiction.encode("ascii"),
            stamp(origin.received_at),
            kind.encode(),
            key.kid[:16].hex().encode(),
            b"%d" % key.generation,
            origin.tag.hex().encode(),
            origin.digest.hex().encode(),
        )
        full = record_key(key.ref, record_id)
        names: tuple[str, ...] = _FACT_HEADERS
        if origin.field:
            names, values = (*names, _FIELD), (*values, origin.field.hex().encode())
        if origin.instead is not None:
            names, values = (*names, _INSTEAD), (*values, b"%d" % origin.instead)
        bound = envelope.aad_of(self._stream, full, names, values)
        sealed = envelope.seal(key, plain, bound)
        headers: Headers = tuple(zip(names, values, strict=True))
        return NewRecord(partition_of(key.ref, self._partitions), full, sealed, headers)

    def control_fact(
        self, ref: SubjectRef, record_id: bytes, fact: ControlFact, *, received_at: datetime
    ) -> NewRecord:
        """Return a signed control fact of one subject, for the subject's own partition."""
        partition = partition_of(ref, self._partitions)
        return self._signed(ref, record_id, partition, fact, fact.occurred_at, received_at)

    def control_record(
        self, record_id: bytes, partition: int, event: ControlRecord, *, received_at: datetime
    ) -> NewRecord:
        """Return a signed control record for one partition; the registrar writes all of them."""
        return self._signed(NOBODY, record_id, partition, event, event.at, received_at)

    def tombstone(self, ref: bytes, record_id: bytes, *, cause: str, request: str) -> NewRecord:
        """Return the null value that frees a record's bytes, signed, with its cause."""
        key = record_key(ref, record_id)
        headers: Headers = (("cause", cause.encode("ascii")), ("request", request.encode("ascii")))
        return NewRecord(partition_of(ref, self._partitions), key, None, self._with_mac(key, headers, b""))

    def _signed(
        self,
        ref: SubjectRef,
        record_id: bytes,
        partition: int,
        event: ControlFact | ControlRecord,
        occurred_at: datetime,
        received_at: datetime,
    ) -> NewRecord:
        kind = event_type(event)
        value = _encode_json(event)
        _read_strictly(self._control.decode, value, kind)
        key = record_key(ref, record_id)
        headers: Headers = (
            ("ce_specversion", b"1.0"),
            ("ce_id", record_id.hex().encode()),
            ("ce_type", kind.encode()),
            ("ce_source", b"privacy-ledger"),
            ("ce_time", stamp(occurred_at)),
            ("content-type", b"application/json"),
            ("received", stamp(received_at)),
            ("schema", kind.encode()),
        )
        return NewRecord(partition, key, value, self._with_mac(key, headers, value))

    def _with_mac(self, key: bytes, headers: Headers, value: bytes) -> Headers:
        """Return the headers with the mac over stream, key, headers and value."""
        bound = envelope.aad(self._stream, key, headers)
        return (*headers, ("mac", envelope.mac(self._mac_key, bound + value).hex().encode()))

    # Reading -----------------------------------------------------------------------------

    def decode(self, rows: Sequence[Row]) -> list[Record]:
        """Return a record per row, in order; what cannot be read comes as a typed body.

        Raises:
            KeyUnavailable: the keystore cannot be reached; keep the position and retry.
        """
        kids = {row.value[1:33] for row in rows if row.value and row.value[0] == envelope.VERSION}
        keys = self._vault.open_keys(tuple(kids)) if kids else {}
        return [self._record(row, keys) for row in rows]

    def _record(self, row: Row, keys: _Keys) -> Record:
        """Return one record; never raises for bad bytes."""
        if len(row.key) != 32:  # noqa: PLR2004 - ref and record id
            is_beat = row.key.startswith(HEARTBEAT_KEY)
            return _bare(row, Heartbeat() if is_beat else Undecodable("key_length"))
        if row.value is not None and row.headers:
            names, values = zip(*row.headers, strict=True)
            if names == _FACT_HEADERS and values[_TYPE_AT] in _SEALED_TYPES:
                return self._fact_record(row, values, keys)
        return self._other_record(row, keys)

    def _fact_record(self, row: Row, values: tuple[bytes, ...], keys: _Keys) -> Record:
        """Return a sealed record with exactly the headers that `fact` writes: nearly every one."""
        _, _, kind, _, time, _, category, purposes, _, _, _, received, _, _, generation, tag, digest = values
        key = row.key
        ref, record_id = split_key(key)
        name = _SEALED_TYPES[kind]
        try:
            occurred_at = datetime.fromisoformat(time.decode())
            received_at = _instant(received)
            if partition_of(ref, self._partitions) != row.partition:
                return _bare(row, Undecodable("wrong_partition"))
            return Record(
                partition=row.partition,
                offset=row.offset,
                ref=ref,
                record_id=record_id,
                type=name,
                body=self._open(
                    row, name, keys, envelope.aad_of(self._stream, key, _FACT_HEADERS, values), category
                ),
                occurred_at=occurred_at,
                received_at=received_at,
                category=_CATEGORIES[category],
                purposes=_purposes(purposes),
                generation=int(generation),
                tag=bytes.fromhex(tag.decode()),
                digest=bytes.fromhex(digest.decode()),
            )
        except (KeyError, ValueError):
            return _bare(row, Undecodable("headers"))
        except (TypeError, AttributeError):
            if None in values:  # a foreign producer's header without a value
                return _bare(row, Undecodable("headers"))
            raise

    def _other_record(self, row: Row, keys: _Keys) -> Record:
        """Return a tombstone, a control record, or one with headers of its own."""
        if any(value is None for _, value in row.headers):
            return _bare(row, Removed(is_ours=False) if row.value is None else Undecodable("headers"))
        if row.value is None:
            return _bare(row, Removed(is_ours=self._has_right_mac(row)))
        headers = dict(row.headers)
        try:
            kind = headers["ce_type"]
            occurred_at = datetime.fromisoformat(headers["ce_time"].decode())
            received_at = datetime.fromisoformat(headers["received"].decode())
            if kind not in _SEALED_TYPES:
                # What is sealed and of no known type, a later build wrote: a later one can read it.
                body = self._sealed_unknown(row) or self._open_control(row)
                return _bare(row, body, kind.decode(), occurred_at, received_at)
            ref, record_id = split_key(row.key)
            if partition_of(ref, self._partitions) != row.partition:
                return _bare(row, Undecodable("wrong_partition"))
            bound = envelope.aad(self._stream, row.key, row.headers)
            return Record(
                partition=row.partition,
                offset=row.offset,
                ref=ref,
                record_id=record_id,
                type=kind.decode(),
                body=self._open(row, kind.decode(), keys, bound, headers["category"]),
                occurred_at=occurred_at,
                received_at=received_at,
                category=_CATEGORIES[headers["category"]],
                purposes=_purposes(headers["purposes"]),
                generation=int(headers["gen"]),
                tag=bytes.fromhex(headers["tag"].decode()),
                digest=bytes.fromhex(headers["digest"].decode()),
                field=bytes.fromhex(headers.get(_FIELD, b"").decode()),
                instead=None if (instead := headers.get(_INSTEAD)) is None else int(instead),
            )
        except (KeyError, ValueError):
            return _bare(row, Undecodable("headers"))

    def _open(self, row: Row, kind: str, keys: _Keys, bound: bytes, category: bytes) -> Body:
        """Return the sealed fact that is bound to `bound`, or why it cannot be had."""
        value = row.value or b""
        key = keys.get(value[1:33])
        if isinstance(key, Shredded):
            return Erased()
        if key is None:
            return Undecodable("unknown_key" if value[:1] == b"\x01" else "envelope")
        if key.ref != row.key[:16]:
            return Undecodable("foreign_key")
        if isinstance(key, released.Withheld):
            # The headers are not checked by the seal here; the key at least is one of what they say.
            is_of = key.group.partition("+")[0].encode() == category
            return Withheld() if is_of else Undecodable("envelope")
        try:
            plain = envelope.open_sealed(key, value, bound)
            payload = _read_strictly(self._payload.decode, plain, kind)
        except envelope.EnvelopeBroken:
            return Undecodable("envelope")
        except SchemaMismatch:
            return Undecodable("schema")
        fact: Fact = payload.fact
        return fact if event_type(fact) == kind else Undecodable("type")

    def payload(self, row: Row) -> Payload | None:
        """Return the whole payload of one sealed record, for exports; None when unreadable."""
        value = row.value or b""
        key = self._vault.open_keys((value[1:33],)).get(value[1:33])
        if not isinstance(key, DataKey) or key.ref != row.key[:16]:
            return None
        bound = envelope.aad(self._stream, row.key, row.headers)
        try:
            plain = envelope.open_sealed(key, value, bound)
            return _read_strictly(self._payload.decode, plain, "payload")
        except (envelope.EnvelopeBroken, SchemaMismatch):
            return None

    def _sealed_unknown(self, row: Row) -> Undecodable | None:
        """Return the reason for a sealed record of an event type that this build does not know."""
        if (row.value or b"")[:1] != bytes([envelope.VERSION]):
            return None
        in_place = partition_of(split_key(row.key)[0], self._partitions) == row.partition
        return Undecodable("unknown_type" if in_place else "wrong_partition")

    def _open_control(self, row: Row) -> Body:
        """Return a control event whose mac is right and that fits its key."""
        if not self._has_right_mac(row):
            return Undecodable("mac")
        try:
            event = _read_strictly(self._control.decode, row.value or b"", "control")
        except SchemaMismatch:
            return Undecodable("schema")
        is_for_all = row.key[:16] == NOBODY
        if isinstance(event, ControlRecord) is not is_for_all:
            return Undecodable("key_type")
        if is_for_all or partition_of(row.key, self._partitions) == row.partition:
            body: Body = event
            return body
        return Undecodable("wrong_partition")

    def _has_right_mac(self, row: Row) -> bool:
        """Return whether the last header is the right mac over all that stands before it."""
        if not row.headers or row.headers[-1][0] != "mac":
            return False
        expected = self._with_mac(row.key, row.headers[:-1], row.value or b"")[-1][1]
        return hmac.compare_digest(expected, row.headers[-1][1])


@lru_cache(maxsize=64)
def _instant(header: bytes) -> datetime:
    """Return the instant of a header that is the same for a whole batch of records."""
    return datetime.fromisoformat(header.decode())


@lru_cache(maxsize=256)
def _purposes(header: bytes) -> tuple[str, ...]:
    """Return the purposes of a header; there are few different ones."""
    return tuple(header.decode().split(",")) if header else ()


def stamp(instant: datetime) -> bytes:
    """Return an instant as an ASCII header: RFC 3339, UTC, microseconds."""
    utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    text = _encode_json(utc)  # "…Z", without a fraction of zero; several times as fast as `isoformat`
    return text[1:-2] + (b"+00:00" if utc.microsecond else b".000000+00:00")


def describe(error: Exception, event_kind: str) -> SchemaMismatch:
    """Return our error for a decoder's: path and expected type only, never a value."""
    text = str(error) if isinstance(error, msgspec.ValidationError) else ""
    at, expected = _AT.search(text), _EXPECTED.search(text)
    return SchemaMismatch(
        event_type=event_kind,
        path=at.group(1) if at else "$",
        expected=expected.group(1) if expected else "",
    )


def _read_strictly(decode: Callable[[bytes], T], data: bytes, kind: str) -> T:
    """Return the decoded value; size and depth are checked on the bytes first.

    Raises:
        SchemaMismatch: too large, too deep, not UTF-8, or not the schema.
    """
    if len(data) > PAYLOAD_BYTES_MAX or data.count(b"[") + data.count(b"{") > 100 * DEPTH_MAX:
        raise SchemaMismatch(event_type=kind, path="$", expected="a bounded document")
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise describe(error, kind) from None


def _bare(
    row: Row,
    body: Body,
    kind: str = "",
    occurred_at: datetime = EPOCH,
    received_at: datetime = EPOCH,
) -> Record:
    """Return a record that is no collection event, or could not be read."""
    ref, record_id = split_key(row.key)
    return Record(
        partition=row.partition,
        offset=row.offset,
        ref=ref,
        record_id=record_id,
        type=kind or (event_type(Tick) if isinstance(body, ControlRecord) else ""),
        body=body,
        occurred_at=occurred_at,
        received_at=received_at,
    )
