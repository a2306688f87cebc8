"""What a pass is given: where it may write, what it may do, say and take over, how its states are sealed."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from privacy_ledger.engine.aftermath import Aftermath
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.moving import claim_moved, refuse_unclaimed
from privacy_ledger.engine.outlet import Outlet
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog, PassLog
from privacy_ledger.ports.runtime import Clock
from privacy_ledger.streams.roster import Claim

__all__ = ["LiveMover", "Means", "Mover", "NoMoves"]


class Mover(Protocol):
    """Takes over the processors that moved to a pass."""

    async def claims(self, partition: int, cycle: PartitionCycle) -> Mapping[str, Claim]:
        """Fence the passes that something moved from, and return where they stood, by processor.

        Raises:
            ProcessorMoved: something came here, and the build does not say from where.
        """
        ...


class LiveMover:
    """The mover of a declared pass."""

    def __init__(
        self,
        declaration: PassDeclaration,
        *,
        log: EventLog,
        vault: KeyVault,
        states: StateCodec,
        clock: Clock,
    ) -> None:
        """Take what it needs."""
        self._declaration = declaration
        self._log = log
        self._vault = vault
        self._states = states
        self._clock = clock

    async def claims(self, partition: int, cycle: PartitionCycle) -> Mapping[str, Claim]:
        """Take over what moved here and was not taken yet."""
        await refuse_unclaimed(self._log, self._declaration, partition, cycle=cycle)
        return await claim_moved(
            self._log, self._declaration, partition, cycle=cycle, states=self._states,
            vault=self._vault, now=self._clock.now(),
        )  # fmt: skip


class NoMoves:
    """The mover of a replay: it takes nothing from anybody."""

    async def claims(self, partition: int, cycle: PartitionCycle) -> Mapping[str, Claim]:  # noqa: ARG002 - muted
        """Return nothing."""
        return {}


class Means(Struct, frozen=True, kw_only=True):
    """The means of one pass; those of a replay reach nothing but what is its own."""

    log: PassLog
    aftermath: Aftermath
    outlet: Outlet
    mover: Mover
    states: StateCodec
