"""Codecs: records and states as bytes."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Protocol, TypeVar, Union

from msgspec import Struct

from privacy_ledger.domain.events import COLLECTION_EVENTS, ControlFact, ControlRecord, Fact
from privacy_ledger.domain.values import LawfulBasis, SubjectRef
from privacy_ledger.ports.keys import DataKey
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.streams.protocol import Emit
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import Changes, Table

__all__ = ["HEARTBEAT_KEY", "Codec", "Decoder", "Origin", "Partial", "PartialCodec", "Payload", "StateCodec"]

T = TypeVar("T")
HEARTBEAT_KEY: Final = b"\0hb"
"""The key of the records that let an idle compacted partition roll and compact."""

_AnyFact = Union[COLLECTION_EVENTS]  # type: ignore[valid-type] # noqa: UP007 - from the list


class Payload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is sealed: the fact, the producer's own id, and the id that joins split records."""

    fact: _AnyFact
    id: str | None = None
    joint: str | None = None

    def __repr__(self) -> str:
        """Return the type only."""
        return "Payload(...)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Return nothing of the value."""
        return []


class Origin(Struct, frozen=True, kw_only=True, gc=False):
    """Under which terms a fact was collected; stands in the clear headers.

    `field` and `instead` as in `Record`; a record that has none has no such header.
    """

    source: str
    purposes: tuple[str, ...]
    basis: LawfulBasis
    notice: str
    jurisdiction: str
    received_at: datetime
    tag: bytes
    digest: bytes
    field: bytes = b""
    instead: int | None = None


class Partial(Struct, frozen=True, kw_only=True):
    """One partition's exact sums for a sealed window; readable in the trust zone only."""

    release: str
    partition: int
    cells: dict[str, int]
    subjects: int


class Decoder(Protocol):
    """Reads ledger records, and can make none."""

    def decode(self, rows: Sequence[Row]) -> list[Record]:
        """Return a record per row; raises `KeyUnavailable` when keys cannot be reached."""
        ...


class Codec(Decoder, Protocol):
    """Ledger records: the only place where bytes become events, and events bytes."""

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
        """Return a sealed record of one fact about the subject of `key`."""
        ...

    def control_fact(
        self, ref: SubjectRef, record_id: bytes, fact: ControlFact, *, received_at: datetime
    ) -> NewRecord:
        """Return a signed control fact for the subject's own partition."""
        ...

    def control_record(
        self, record_id: bytes, partition: int, event: ControlRecord, *, received_at: datetime
    ) -> NewRecord:
        """Return a signed control record for one partition."""
        ...

    def tombstone(self, ref: bytes, record_id: bytes, *, cause: str, request: str) -> NewRecord:
        """Return the null value that frees a record's bytes."""
        ...

    def payload(self, row: Row) -> Payload | None:
        """Return the whole payload of one sealed record, or None when nobody can read it."""
        ...


class StateCodec(Protocol):
    """States of one pass: sealed per subject where they hold values of a person."""

    def topic(self, table: Table[T]) -> str:
        """Return the topic that is the table's changelog in this pass."""
        ...

    def group(self, table: Table[T]) -> str:
        """Return the key group that seals the table in this pass."""
        ...

    def unused_generation(self, table: Table[T]) -> int:
        """Return the first generation that no key of the table's group has reached, for anybody."""
        ...

    def changelog_key(self, table: Table[T], key: bytes) -> bytes:
        """Return the key of a state in its changelog topic."""
        ...

    def seal(
        self, changes: Sequence[Changes], *, generation: Callable[[bytes], int], now: datetime
    ) -> list[list[bytes | None]]:
        """Return, per table, the sealed value of each change; None deletes, also where the person ended."""
        ...

    def open_many(self, table: Table[T], items: Sequence[tuple[bytes, bytes | None]]) -> list[T | None]:
        """Return the values of (key, sealed) pairs; None where absent or shredded."""
        ...


class PartialCodec(Protocol):
    """Partial aggregates: what leaves a pass for the anonymised analytics."""

    def partial(self, emit: Emit, *, now: datetime) -> NewRecord:
        """Return a partial aggregate, sealed under the window's own key."""
        ...

    def open_partial(self, row: Row) -> Partial | None:
        """Return a partial aggregate, or None when its window's key is gone."""
        ...
