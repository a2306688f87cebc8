"""Formats: what a producer's line says, once it is decoded, screened and minimised."""

from datetime import datetime
from typing import Protocol

from msgspec import Struct

from privacy_ledger.domain.events import DeviceObserved, Fact
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.keys import Identity

__all__ = ["Format", "Parsed", "PersonFacts", "TimedFormat"]


class PersonFacts(Struct, frozen=True, kw_only=True, gc=False):
    """One person's identities, canonical, and the facts about that person; never logged."""

    identities: tuple[Identity, ...]
    facts: tuple[Fact, ...]

    def __repr__(self) -> str:
        """Return counts only."""
        return f"PersonFacts({len(self.identities)} identities, {len(self.facts)} facts)"


class Parsed(Struct, frozen=True, kw_only=True, gc=False):
    """What one line says; never logged.

    `people`: the acting person first, if known, then the person the event is about, in an order
    that every reading of the line gives again. Empty when the line names nobody: then
    `unattributed` has its facts. `anonymous` is the line's session, else client id, also beside
    people: then the line links that session to the acting person. `device` concerns the first of
    `people` and stands in no other field. `address` is where they were on the network: it is looked up and
    dropped. `digest_input` is the decoded line before minimisation,
    in a canonical encoding: it holds identifiers, so hash it with a key and drop it.
    `may_register`: the line may make its people known; one that may not is of nobody, with what
    `unattributed` says instead, unless one of them is known. Where that is nothing, it is refused as
    `SUBJECT_UNKNOWN`.
    """

    people: tuple[PersonFacts, ...]
    unattributed: tuple[Fact, ...]
    device: DeviceObserved | None
    occurred_at: datetime
    source_event_id: str | None
    anonymous: str | None
    digest_input: bytes
    may_register: bool = True
    address: str | None = None

    def __repr__(self) -> str:
        """Return counts only."""
        return f"Parsed({len(self.people)} people, {len(self.unattributed)} unattributed)"

    @property
    def is_joint(self) -> bool:
        """Return whether the line concerns more than one person."""
        return len(self.people) > 1


class Format(Protocol):
    """A parser of one line, or of one event of a line that holds several."""

    def __call__(self, line: bytes, /) -> Parsed | Refusal:
        """Return what a line says, or the first refusal that applies; never raises."""
        ...


class TimedFormat(Protocol):
    """A parser of events that may have no time of their own."""

    def __call__(self, line: bytes, /, *, received_at: datetime, takes_untimed: bool) -> Parsed | Refusal:
        """Return what an event says, as of `received_at` where it has no time and may be taken so."""
        ...
