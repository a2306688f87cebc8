"""The ports of an ingest, in one value."""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from privacy_ledger.app._terms import TermsBook
from privacy_ledger.ports.atlas import Atlas
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.passes import Passes, Views
from privacy_ledger.ports.runtime import Clock, Ids

__all__ = ["Pair", "Ports", "Seen"]

Pair = tuple[bytes, bytes]
"""A reference, and a tag as it stands in the record's header."""
Seen = Callable[[int, Sequence[Pair]], Mapping[Pair, bytes]]
"""Exact look-up of live tags in a partition: the digest header of each pair that has a record."""


class Ports(Struct, frozen=True, kw_only=True):
    """What every part of an ingest shares; `lane_codec` binds `ledger.unattributed.v1`."""

    log: EventLog
    vault: KeyVault
    codec: Codec
    lane_codec: Codec
    views: Views
    clock: Clock
    ids: Ids
    book: TermsBook
    atlas: Atlas | None
    passes: Passes | None
    seen: Seen | None
