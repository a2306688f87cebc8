"""Formats: what a producer's line says, once it is decoded, screened and minimised."""

from collections.abc import Callable
from datetime import datetime

from msgspec import Struct

from privacy_ledger.domain.events import DeviceObserved, Fact
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.keys import Identity

__all__ = ["Format", "Parsed", "PersonFacts"]


class PersonFacts(Struct, frozen=True, gc=False):
    """One person of a line: all ids the line gives them, and what it says about them.

    No identities: somebody whom the line does not name.
    """

    identities: tuple[Identity, ...]
    facts: tuple[Fact, ...]

    def __repr__(self) -> str:
        """Return counts only."""
        return f"PersonFacts({len(self.identities)} identities, {len(self.facts)} facts)"


class Parsed(Struct, frozen=True, kw_only=True, gc=False):
    """One line. `people` in an order that a later reading of the same line gives again.

    `anonymous` is the producer's id of the session, `digest_input` the canonical decoded event
    before minimisation, `device` belongs to the first person.
    """

    people: tuple[PersonFacts, ...]
    occurred_at: datetime
    digest_input: bytes
    device: DeviceObserved | None = None
    source_event_id: str | None = None
    anonymous: str | None = None
    joint: bool = False

    def __repr__(self) -> str:
        """Return counts only."""
        return f"Parsed({len(self.people)} people)"


Format = Callable[[bytes], Parsed | Refusal]
"""A parser of one line: what it says, or why it cannot be used."""
