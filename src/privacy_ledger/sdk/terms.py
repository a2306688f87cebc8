"""The terms between an application and its sender: bounds, figures, refusals, and what a spool is."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct

from privacy_ledger.sdk.events import Encoded

__all__ = ["RESERVE", "Flushed", "Limits", "Refused", "SpoolLike", "Ticket"]

RESERVE: Final = 5
"""One part in so many of the buffer is kept free for what must not be dropped."""


class Limits(Struct, frozen=True, kw_only=True):
    """The bounds of a producer: what waits in memory, or with a spool on disk.

    `when_full` says what becomes of an event that must not be dropped when there is no room: it waits up to
    `block_s` and is then refused with `BufferFull`, or is refused at once. A batch is sent when it is full,
    or `linger_s` after its first event. Pauses between attempts are drawn from 0 to a bound that doubles
    from `backoff_first_s` to `backoff_max_s`.
    """

    buffer_events: int = 10_000
    buffer_bytes: int = 1 << 24
    spooled_events: int = 100_000
    when_full: Literal["block", "raise"] = "block"
    block_s: float = 30.0
    batch_events: int = 500
    batch_bytes: int = 1 << 20
    linger_s: float = 0.2
    backoff_first_s: float = 0.2
    backoff_max_s: float = 30.0


class Flushed(Struct, frozen=True, kw_only=True):
    """What became of all events of this process, in counts that add up to those that were emitted.

    `sent`: the service answered that it has them (what an earlier process had spooled counts, too).
    `pending`: in memory, and lost when the process ends; some may have arrived. `spooled`: on disk, and
    sent by the next process. `refused`: told to `on_refused`. `dropped`: usage for which there was no room.
    """

    sent: int = 0
    pending: int = 0
    spooled: int = 0
    refused: int = 0
    dropped: int = 0


class Refused(Struct, frozen=True, kw_only=True):
    """An event that the ledger does not take, by its id and type, and the reason code why."""

    id: str
    type: str
    reason: str


class Ticket(Protocol):
    """Where a spooled event lies."""

    @property
    def length(self) -> int:
        """How many bytes it takes there."""
        ...


class SpoolLike(Protocol):
    """What a `Sender` needs of a spool; it is called under the sender's lock, but for `read`."""

    def open(self, source: str) -> Sequence[Ticket]:
        """Return what ended processes left, oldest first."""
        ...

    def put(self, event: Encoded) -> Ticket | None:
        """Return where an event lies now, or None: there is no room."""
        ...

    def read(self, ticket: Ticket) -> Encoded | None:
        """Return a spooled event, or None: the key does not open it, and it stays where it is."""
        ...

    def done(self, ticket: Ticket) -> None:
        """Forget an event that was sent or refused."""
        ...

    def forget(self) -> None:
        """Let go of what was inherited by a fork."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...
