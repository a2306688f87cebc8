"""An erasure's receipt: what was destroyed where, free of anything about the person.

The receipt goes to the person; only the hash of its canonical form becomes a leaf of the audit
log. The commitment proves to whoever holds reference and request that the receipt is about them.
"""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct

from privacy_ledger.app.retention import KeptItem
from privacy_ledger.domain import merkle
from privacy_ledger.domain.key_release import Kind
from privacy_ledger.domain.values import REF_BYTES, SubjectRef
from privacy_ledger.ports.keys import DataKey, KeyWant

__all__ = [
    "NOT_REACHED",
    "Receipt",
    "StoreOutcome",
    "canonical",
    "commitment",
    "leaf_hash",
    "leaf_of",
    "salt_of",
    "salt_want",
    "salted",
    "with_salt",
    "without_salt",
]

_SALT_BYTES: Final = 16

ARTICLE: Final = "GDPR Art. 17(1); privacy policy: Account Deletion"
"""The right that a receipt answers."""
NOT_REACHED: Final = (
    "anonymised releases: what was published holds no record of anybody and is not changed",
    "windows that were sealed before the request",
    (
        "events of nobody known that no login linked, or whose move was interrupted before a restore of the "
        "keystore or an upgrade: they go within 14 days"
    ),
    "exports, and copies that a recipient outside this ledger holds",
)


class StoreOutcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one store; `count`: how many things of the person it held, or still holds.

    None: nothing is left there, and what it held was not counted before the request. What is
    retained has a ground, and an end where one is known.
    """

    store: str
    outcome: Literal["erased", "nothing held", "retained", "unreachable", "unsupported"]
    count: int | None
    ground: str = ""
    until: datetime | None = None


class Receipt(Struct, frozen=True, kw_only=True):
    """The receipt. `records` counts live records by category, `keys` salted hashes of key ids.

    `records` None: they were not counted before the request, which an ingest made.

    `epoch`: the newest key-encryption key at the shred: no copy of a key lies under a younger one.
    `scope`: the person, or what else was erased; a profile field is named by a keyed hash.

    `retained`: what the law keeps, why and until when. Where there is any the erasure is not complete,
    and `completed_at` is null: another receipt takes the place of this one when the last of it went.
    """

    receipt: str
    version: int = 3
    scope: str = "person"
    article: str = ARTICLE
    commitment: str
    salt: str
    cause: str
    requested_at: datetime
    unreadable_at: datetime
    completed_at: datetime | None
    records: dict[str, int] | None
    stores: tuple[StoreOutcome, ...]
    keys: tuple[str, ...]
    epoch: int | None
    retained: tuple[KeptItem, ...] = ()
    not_reached: tuple[str, ...] = NOT_REACHED
    later: tuple[str, ...] = (
        "ledger bytes: removed by compaction within 25 hours and the cleaner's time",
        "keystore copies and backups: final within 8 days, when the epochs of their keys are destroyed",
    )
    build: str


def canonical(receipt: Struct) -> bytes:
    """Return the receipt's bytes: JSON with sorted members."""
    return msgspec.json.encode(receipt, order="sorted")


def leaf_hash(document: bytes) -> str:
    """Return the Merkle leaf hash of a canonical receipt, in hex."""
    return merkle.leaf_hash(document).hex()


def leaf_of(file: bytes) -> str | None:
    """Return the leaf hash of the receipt in a receipt file, in hex; None where it is none."""
    try:
        found = msgspec.json.decode(file, type=dict[str, object])["receipt"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        return None
    return leaf_hash(msgspec.json.encode(found, order="sorted"))


# The salt ---------------------------------------------------------------------------------


def salt_want(ref: bytes, request: str, *, handed: int = 0) -> KeyWant:
    """Return which key of the keystore the salt of a saga's receipt is made from.

    `handed`: how many of its receipts were handed over; their salts are destroyed.

    It has a reference of its own, which is nobody's: it outlives the person's keys until the
    receipt is handed over, and nothing can be found by it without reference and request.
    """
    own = hashlib.sha256(b"receipt salt\0" + ref + bytes.fromhex(request)).digest()[:REF_BYTES]
    return KeyWant(SubjectRef(own), Kind.RECEIPT, handed)


def salt_of(key: DataKey) -> bytes:
    """Return the salt: the same as long as the key exists, and gone with it."""
    return hmac.digest(key.secret, b"receipt salt/v1", "sha256")[:_SALT_BYTES]


def without_salt(document: bytes) -> bytes:
    """Return a canonical receipt without its salt: what the ledger may keep."""
    return msgspec.json.encode({**_members(document), "salt": ""}, order="sorted")


def with_salt(document: bytes, salt: bytes) -> bytes:
    """Return the canonical receipt of which `without_salt` was kept, byte for byte."""
    return msgspec.json.encode({**_members(document), "salt": salt.hex()}, order="sorted")


def _members(document: bytes) -> dict[str, object]:
    return msgspec.json.decode(document, type=dict[str, object])


def commitment(salt: bytes, *, ref: bytes, request: str) -> str:
    """Return the salted commitment to a reference and a request, in hex."""
    return hashlib.sha256(salt + ref + bytes.fromhex(request)).hexdigest()


def salted(salt: bytes, kids: Sequence[str]) -> tuple[str, ...]:
    """Return key ids as salted hashes, sorted, so that no two receipts can be matched."""
    return tuple(sorted(hashlib.sha256(salt + bytes.fromhex(kid)).hexdigest() for kid in kids))
