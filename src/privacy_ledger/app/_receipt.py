"""An erasure's receipt: what was destroyed where, free of anything about the person.

The receipt goes to the person; only the hash of its canonical form becomes a leaf of the audit
log. The commitment proves to whoever holds reference and request that the receipt is about them.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct

from privacy_ledger.domain import merkle

__all__ = ["NOT_REACHED", "Receipt", "StoreOutcome", "canonical", "commitment", "leaf_hash", "salted"]

NOT_REACHED: Final = (
    "anonymised releases: what was published holds no record of anybody and is not changed",
    "windows that were sealed before the request",
    "copies that a recipient outside this ledger holds",
)


class StoreOutcome(Struct, frozen=True, kw_only=True):
    """What became of one store; `count`: how many things of the person it held."""

    store: str
    outcome: Literal["erased", "nothing held", "unreachable"]
    count: int


class Receipt(Struct, frozen=True, kw_only=True):
    """The receipt. `records` counts live records by category, `keys` salted hashes of key ids."""

    receipt: str
    version: int = 1
    commitment: str
    salt: str
    cause: str
    requested_at: datetime
    unreadable_at: datetime
    completed_at: datetime
    records: dict[str, int]
    stores: tuple[StoreOutcome, ...]
    keys: tuple[str, ...]
    not_reached: tuple[str, ...] = NOT_REACHED
    later: tuple[str, ...] = (
        "ledger bytes: removed by compaction within 25 hours and the cleaner's time",
        "keystore copies and backups: final within 8 days, when the epochs of their keys are destroyed",
    )
    build: str


def canonical(receipt: Receipt) -> bytes:
    """Return the receipt's bytes: JSON with sorted members."""
    return msgspec.json.encode(receipt, order="sorted")


def leaf_hash(document: bytes) -> str:
    """Return the Merkle leaf hash of a canonical receipt, in hex."""
    return merkle.leaf_hash(document).hex()


def commitment(salt: bytes, *, ref: bytes, request: str) -> str:
    """Return the salted commitment to a reference and a request, in hex."""
    return hashlib.sha256(salt + ref + bytes.fromhex(request)).hexdigest()


def salted(salt: bytes, kids: Sequence[str]) -> tuple[str, ...]:
    """Return key ids as salted hashes, sorted, so that no two receipts can be matched."""
    return tuple(sorted(hashlib.sha256(salt + bytes.fromhex(kid)).hexdigest() for kid in kids))
