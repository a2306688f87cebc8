"""What a worker lets others see of its work: figures and states of passes, never of a person.

The engine notes what it sees per cycle or rarer; adapters turn it into metrics, spans and answers
to health checks. Nothing here can carry a reference, a key or an id: there is no field for it.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

__all__ = [
    "LABELS",
    "SILENT",
    "Assigned",
    "Compaction",
    "Cycle",
    "CycleOutcome",
    "Erasures",
    "Followed",
    "KeyCacheFigures",
    "Lag",
    "Meters",
    "Outstanding",
    "Restoring",
    "Revoked",
    "Seen",
    "Standing",
    "Stands",
]

LABELS: Final = frozenset(
    {
        "pass",
        "partition",
        "projection",
        "topic",
        "event_type",
        "state",
        "outcome",
        "reason",
        "command",
        "role",
        "purpose",
        "category",
    }
)
"""The only names by which figures and spans are told apart; none of them can name a person."""


class Standing(StrEnum):
    """Where an assigned partition stands."""

    ACQUIRING = "acquiring"
    """Assigned: fencing, restoring and checking."""
    RUNNING = "running"
    """Restored, and folding."""
    WAITING = "waiting"
    """Tried again within seconds, by itself."""
    STOPPED = "stopped"
    """Tried again now and then; it needs somebody."""


class CycleOutcome(StrEnum):
    """How the transaction of a cycle ended."""

    COMMITTED = "committed"
    FENCED = "fenced"
    """A newer owner of the partition exists; nothing was written."""
    FAILED = "failed"
    """Aborted, or of unknown fate until the partition is acquired again."""


class Assigned(Struct, frozen=True, kw_only=True):
    """These partitions of a pass are this worker's, and no others."""

    pass_name: str
    partitions: tuple[int, ...]


class Revoked(Struct, frozen=True, kw_only=True):
    """No partition of the pass is this worker's until the next `Assigned`."""

    pass_name: str


class Stands(Struct, frozen=True, kw_only=True):
    """An assigned partition stands otherwise than before; `outcome` names the error, if one led there."""

    pass_name: str
    partition: int
    standing: Standing
    outcome: str = ""


class Restoring(Struct, frozen=True, kw_only=True):
    """How far a restore is: records read, records a second, and seconds to its end."""

    pass_name: str
    partition: int
    records: int
    rate: float
    eta_s: float


class Cycle(Struct, frozen=True, kw_only=True):
    """One cycle whose transaction has ended; `decided` counts tombstones by their cause.

    Only one that was committed had an effect. `unreadable` counts records that were set aside,
    `foreign` tombstones that somebody else wrote into the ledger.
    """

    pass_name: str
    partition: int
    outcome: CycleOutcome
    records: int
    unreadable: int
    writes: int
    decided: Mapping[str, int]
    fold_s: float
    commit_s: float
    foreign: int = 0


class Lag(Struct, frozen=True, kw_only=True):
    """How far a pass came, and how far it is behind the ledger, in one partition.

    `position` is the offset of the last applied record. `records` are the offsets up to the stable
    end that were not passed: at most so many records, for compaction and transactions leave gaps.
    `seconds` bounds the age of the oldest record that was not folded, by its `received`; None when
    nothing was folded here yet.
    """

    pass_name: str
    partition: int
    position: int
    records: int
    seconds: float | None


class Outstanding(Struct, frozen=True, kw_only=True):
    """What was decided and is not done, counted up to a bound; `last_tick` is the time in force.

    `busy`: subjects whose records are read again. `parked`: those who wait for an operator.

    `joining` names the projections that are still brought up beside the pass's own work.
    """

    pass_name: str
    partition: int
    parked: int
    tombstones: int
    shreds: int
    last_tick: datetime | None
    joining: tuple[str, ...] = ()
    busy: int = 0


class Followed(Struct, frozen=True, kw_only=True):
    """A partition that another worker owns and this one follows, with the offsets left to apply."""

    pass_name: str
    partition: int
    left: int


class Erasures(Struct, frozen=True, kw_only=True):
    """How many erasures of the whole ledger are not complete, and for how long the oldest is open.

    `overdue`: those that are open for more than 24 hours, which is an alarm.
    """

    still_open: int
    overdue: int
    oldest_s: float


class Compaction(Struct, frozen=True, kw_only=True):
    """How the broker compacts a topic, as far as a client can see.

    `idle`: partitions that hold records and got none for long, which are never compacted. `late`:
    those that move and still hold what was replaced long ago. `lag_s`: the age of the oldest such
    record that was found; 0 where none is late.
    """

    topic: str
    idle: int
    late: int
    lag_s: float


Seen = Assigned | Revoked | Stands | Restoring | Cycle | Lag | Outstanding | Followed | Erasures | Compaction


class Meters(Protocol):
    """Takes what was seen; quick, and never raises."""

    def note(self, seen: Seen) -> None:
        """Take one sight."""
        ...


class _Silent:
    def note(self, seen: Seen) -> None:
        """Take nothing in."""


SILENT: Final[Meters] = _Silent()
"""Nobody looks: the default."""


class KeyCacheFigures(Struct, frozen=True, kw_only=True):
    """The open keys of this process, and how often it was asked for one since its start."""

    opened: int
    sealing: int
    asked: int
    missed: int
