"""Records that commands append about one subject: sealed facts of their own, and control facts."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from privacy_ledger.app._terms import INDEX_GROUP, OWN_SOURCE, TermsBook, digest_of, field_of, tag_of
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.events import (
    ConsentWithdrawn,
    ControlFact,
    Fact,
    MinorStatusDeclared,
    ObjectionRaised,
)
from privacy_ledger.domain.keyed_hash import KeyedHash
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.keys import KeyVault, KeyWant
from privacy_ledger.ports.log import EventLog, NewRecord
from privacy_ledger.ports.runtime import Clock, Ids

__all__ = ["OwnRecords", "last_offsets"]

_ROLE: Final = "own"


class OwnRecords:
    """Appends what the ledger itself says about a subject; returns {partition: last offset}."""

    def __init__(
        self, *, log: EventLog, vault: KeyVault, codec: Codec, clock: Clock, ids: Ids, rules: Rules
    ) -> None:
        """Take the ports and the rules in force."""
        self._log = log
        self._vault = vault
        self._codec = codec
        self._clock = clock
        self._ids = ids
        self._book = TermsBook(rules)

    async def append(self, records: Sequence[NewRecord]) -> dict[int, int]:
        """Append in order; return the last offset of each partition."""
        offsets = await self._log.append(LEDGER_EVENTS, records) if records else ()
        return last_offsets(records, offsets)

    def sealed(self, ref: SubjectRef, fact: Fact) -> NewRecord:
        """Return a fact as a sealed record; each call is an event of its own, never a copy.

        Raises:
            RefusedByPolicy: the rules do not know the event, or the reference was ended.
        """
        terms = self._book.of(fact)
        if terms is None:
            raise RefusedByPolicy(
                Refusal.UNKNOWN_EVENT,
                "The rules in force do not know this event. Adopt a registry that has it.",
            )
        if isinstance(fact, ConsentWithdrawn | ObjectionRaised):
            # It destroys the keys of what was collected before it. A new consent may come before
            # anybody has folded this one: what it allows must not share a key with that.
            self._vault.retire(ref, purpose=fact.purpose)
        now, event = self._clock.now(), self._ids.token()
        (index,) = self._vault.sealing_keys((KeyWant(ref, INDEX_GROUP, 0),), now=now)
        if terms.is_fine:
            (key,) = self._vault.fresh_keys(((ref, terms.group),), now=now)
        else:
            (key,) = self._vault.sealing_keys((KeyWant(ref, terms.group),), now=now)
        index_key = KeyedHash(index.secret)
        origin = self._book.origin(
            terms,
            source=OWN_SOURCE,
            received_at=now,
            tag=tag_of(index_key, source=OWN_SOURCE, event=event, role=_ROLE),
            digest=digest_of(index_key, content=sha256(event).digest(), role=_ROLE),
            field=field_of(index_key, fact),
        )
        return self._codec.fact(key, self._ids.token(), fact, origin, source_id=event.hex())

    def control(self, ref: SubjectRef, fact: ControlFact) -> NewRecord:
        """Return a control fact as a signed record.

        Where it takes consents back, the keys that seal for them seal nothing more.
        """
        if isinstance(fact, MinorStatusDeclared) and fact.is_minor and not fact.is_approved:
            for purpose in sorted(self._book.rules.consent_purposes):
                self._vault.retire(ref, purpose=purpose)
        return self._codec.control_fact(ref, self._ids.token(), fact, received_at=self._clock.now())


def last_offsets(records: Sequence[NewRecord], offsets: Sequence[int]) -> dict[int, int]:
    """Return the last offset of each partition that was appended to."""
    found: dict[int, int] = {}
    for record, offset in zip(records, offsets, strict=True):
        found[record.partition] = offset
    return found
