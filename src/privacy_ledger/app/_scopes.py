"""Scopes smaller than the person: which records lie in one, and what the log still holds of them."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from privacy_ledger.app._evidence import PersonRows
from privacy_ledger.domain.events import ErasureRequested, FieldErasureRequested
from privacy_ledger.domain.permissions import scope_of
from privacy_ledger.domain.values import REF_BYTES, Category, SubjectRef
from privacy_ledger.ports.keys import DataKey, KeyVault, Withheld
from privacy_ledger.ports.log import Row, header
from privacy_ledger.streams.states import IndexRow

__all__ = [
    "Scope",
    "ScopeKind",
    "ScopeRemains",
    "instant_of",
    "newest",
    "newest_of",
    "request_of",
    "scope_erased",
    "scope_named",
    "scope_remains",
]

ScopeKind = Literal["category", "purpose", "field"]
_SEALED: Final = 1
_KID: Final = slice(1, 33)


class Scope(Struct, frozen=True, kw_only=True):
    """A category, a purpose, or a profile field by its keyed name in hex."""

    kind: ScopeKind
    value: str

    @property
    def name(self) -> str:
        """How permissions, progress records and receipts call it."""
        return f"{self.kind}:{self.value}"

    @property
    def category(self) -> Category | None:
        """The category, where it is one."""
        return Category(self.value) if self.kind == "category" else None

    def holds(self, row: IndexRow) -> bool:
        """Return whether a live record lies in it; for a purpose: whether it serves that one."""
        if self.kind == "category":
            return row.category == self.value
        if self.kind == "purpose":
            return self.value in row.purposes
        return row.field is not None and row.field.hex() == self.value

    def takes(self, row: IndexRow) -> bool:
        """Return whether a live record goes with it: one that serves another purpose, too, stays for that."""
        return self.holds(row) and (self.kind != "purpose" or row.purposes == (self.value,))

    def may_hold(self, row: Row) -> bool:
        """Return whether a record of the log lies in it, whatever other purposes it serves."""
        if self.kind == "purpose":
            return self.value.encode() in (header(row.headers, "purposes") or b"").split(b",")
        return self.has_collected(row)

    def has_collected(self, row: Row) -> bool:
        """Return whether a sealed record of the log was collected in it, and in nothing beside it."""
        if self.kind == "category":
            return header(row.headers, "category") == self.value.encode()
        if self.kind == "purpose":
            return header(row.headers, "purposes") == self.value.encode()
        return header(row.headers, "field") == self.value.encode()


class ScopeRemains(Struct, kw_only=True):
    """Sealed records of a scope that the log still holds, up to the request.

    `live`: without a later tombstone. `readable`: whose key is there. `kids`: of the keys that are
    destroyed, in hex.
    """

    records: int
    live: int
    readable: int
    kids: tuple[str, ...]


def scope_named(name: str) -> Scope:
    """Return the scope that `Scope.name` names."""
    kind, _, value = name.partition(":")
    kinds: dict[str, ScopeKind] = {"category": "category", "purpose": "purpose", "field": "field"}
    return Scope(kind=kinds[kind], value=value)


def scope_erased(body: object) -> Scope | None:
    """Return the scope that a fact erases, where it is less than the person."""
    match body:
        case FieldErasureRequested():
            return Scope(kind="field", value=body.field)
        case ErasureRequested() if (name := scope_of(body)) is not None:
            return scope_named(name)
        case _:
            return None


async def request_of(rows: PersonRows, ref: SubjectRef, request: str) -> Row | None:
    """Return the first control fact with this request id in the subject's partition, or None."""
    wanted = request.encode()
    for row in await rows.of(ref):
        if row.value is not None and header(row.headers, "kid") is None and wanted in row.value:
            return row
    return None


def instant_of(row: Row) -> datetime:
    """Return when what a record of the ledger tells occurred."""
    return datetime.fromisoformat((header(row.headers, "ce_time") or b"").decode())


async def scope_remains(
    rows: PersonRows,
    vault: KeyVault,
    ref: SubjectRef,
    scope: Scope,
    *,
    request: str,
    below: int,
    but: frozenset[bytes] = frozenset(),
) -> ScopeRemains:
    """Return what the log still holds of a scope before the request at `below`, by an own reading.

    A record counts that was collected in the scope alone, or that this request removed. `but`: the ids of
    records that are left out, because the law keeps them.
    """
    kids: dict[bytes, bytes] = {}
    live: set[bytes] = set()
    others: dict[bytes, bytes] = {}
    for row in await rows.of(ref):
        if row.key[REF_BYTES:] in but:
            continue
        if row.value is None:
            live.discard(row.key)
            if header(row.headers, "request") == request.encode() and row.key in others:
                kids[row.key] = others[row.key]
        elif row.value[:1] == bytes((_SEALED,)) and _place(row) < below:
            if scope.has_collected(row):
                kids[row.key] = row.value[_KID]
                live.add(row.key)
            else:
                others[row.key] = row.value[_KID]
    distinct = tuple(dict.fromkeys(kids.values()))
    opened = vault.open_keys(distinct) if distinct else {}
    readable = {kid for kid, key in opened.items() if isinstance(key, DataKey | Withheld)}
    return ScopeRemains(
        records=len(kids),
        live=len(live),
        readable=sum(kid in readable for kid in kids.values()),
        kids=tuple(kid.hex() for kid in distinct if kid not in readable),
    )


def newest(rows: Iterable[Row], *, now: datetime) -> datetime:
    """Return the latest time at which one of these records occurred, or now where that is later."""
    return max([now, *map(instant_of, rows)])


async def newest_of(rows: PersonRows, ref: SubjectRef, scope: Scope, *, now: datetime) -> datetime:
    """Return the latest time at which a record of a scope occurred, or now where that is later.

    The log is read, and no view, which may lag: what it misses could come back after the erasure.
    """
    found = [row for row in await rows.of(ref) if row.value is not None and scope.may_hold(row)]
    return newest(found, now=now)


def _place(row: Row) -> int:
    """Return where a record stands in its subject's history."""
    instead = header(row.headers, "instead")
    return row.offset if instead is None else int(instead)
