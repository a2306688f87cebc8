"""What is left to do for erasures after their commands: take them up again, say when they are final.

Whoever does the daily work calls this: a home's worker, the worker that writes the ticks, `keys
rotate` and `keys roll`, `erase --resume`. Every call may be repeated, and may be cut short anywhere.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct

from privacy_ledger.app import _receipt
from privacy_ledger.app._bytes import FirstSeen, without_bytes
from privacy_ledger.app._evidence import PersonRows, is_said
from privacy_ledger.app._requests import Saga, SagaNotes, read_sagas
from privacy_ledger.app.erasure import Erasure, ErasureOutcome
from privacy_ledger.app.retention import KeptItem
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.events import ErasureFinal
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.keeping import KeyKeeper
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.observe import Erasures, Meters
from privacy_ledger.ports.runtime import Clock, Ids

__all__ = ["ErasureCare", "ErasureStatus"]


class ErasureStatus(Struct, frozen=True, kw_only=True):
    """How far the erasure of one reference, or of a scope of it, came; nothing about the person.

    `epoch`: the newest key-encryption key at the shred; with it goes the last copy. The times are of
    what was seen: since `unreadable_at` no key opens online, since `derived_clean_at` no projection
    and no index names the person, and at `bytes_gone_at` the ledger held no sealed record any more.
    """

    state: Literal["requested", "incomplete", "retained", "completed", "final"]
    scope: str
    leaf: str | None
    open_steps: tuple[str, ...]
    requested_at: datetime
    unreadable_at: datetime | None
    derived_clean_at: datetime | None
    bytes_gone_at: datetime | None
    completed_at: datetime | None
    final_at: datetime | None
    epoch: int | None
    is_handed_over: bool
    is_overdue: bool
    retained: tuple[KeptItem, ...] = ()


class ErasureCare:
    """Looks after all erasures of a ledger."""

    def __init__(  # noqa: PLR0913 - each is a port of its own, given by name
        self,
        *,
        log: EventLog,
        rows: PersonRows,
        vault: KeyVault,
        keeper: KeyKeeper,
        codec: Codec,
        clock: Clock,
        ids: Ids,
        erasures: Sequence[Erasure],
        meters: Meters,
        first_seen: FirstSeen,
    ) -> None:
        """Take the ports, the sagas, and whoever looks on; `first_seen`: what earlier looks found."""
        self._log = log
        self._rows = rows
        self._vault = vault
        self._keeper = keeper
        self._clock = clock
        self._erasures = tuple(erasures)
        self._meters = meters
        self._first_seen = first_seen
        self._notes = SagaNotes(log, codec, clock=clock, ids=ids)

    # Open erasures --------------------------------------------------------------------------

    async def tend(self) -> Erasures:
        """Go on with every open erasure whose pause is over, and return, and let others see, what is open."""
        await self.resume(is_due_only=True)
        return await self.look()

    async def resume(self, *, is_due_only: bool = False) -> tuple[ErasureOutcome, ...]:
        """Go on with every open erasure, of a person or of less; as `Erasure.resume`."""
        found = [await one.resume(is_due_only=is_due_only) for one in self._erasures]
        return tuple(outcome for some in found for outcome in some)

    async def look(self) -> Erasures:
        """Return how many erasures are open, and since when; whoever looks on sees it too."""
        now = self._clock.now()
        sagas = (await read_sagas(self._log)).values()
        still_open = [saga for saga in sagas if not saga.is_completed and not saga.rests]
        oldest = min((saga.opened_at for saga in still_open), default=now)
        seen = Erasures(
            still_open=len(still_open),
            overdue=sum(saga.is_overdue(now) for saga in still_open),
            oldest_s=(now - oldest).total_seconds(),
        )
        self._meters.note(seen)
        return seen

    # The end of the last copy ---------------------------------------------------------------

    async def finalise(self) -> int:
        """Say of each completed erasure, once, when no copy of its keys opens; return how many were said.

        That is when every epoch is destroyed up to the newest one at the shred. Of less than a person a
        record may have shared its key with records that stay: then it is when its bytes are gone, too.
        """
        waiting = [
            saga for saga in (await read_sagas(self._log)).values() if saga.is_completed and not saga.is_final
        ]
        if not waiting:
            return 0
        held = [epoch.number for epoch in self._keeper.standing().epochs if epoch.created_at is not None]
        said = 0
        for saga in waiting:
            epoch = saga.epoch
            if epoch is None:  # shredded by a build that noted none: no copy made before now is missed
                await self._notes.note(saga, "bounded", epoch=self._vault.standing_of(saga.ref).epoch)
                continue
            if any(number <= epoch for number in held) or not await self._is_unreadable(saga):
                continue
            if not await is_said(self._rows, saga.ref, ErasureFinal, saga.request):
                fact = ErasureFinal(request=saga.request, occurred_at=self._clock.now(), epoch=epoch)
                await self._notes.fact(saga, fact)
            await self._notes.note(saga, "final", epoch=epoch)
            said += 1
        return said

    async def _is_unreadable(self, saga: Saga) -> bool:
        return all([await one.is_unreadable(saga) for one in self._erasures if one.is_mine(saga)])

    # The end of the bytes -------------------------------------------------------------------

    async def look_for_bytes(self) -> int:
        """Note of each completed erasure, once, that its sealed records left the ledger; return how many.

        It is an observation of this moment. In a home, compact first: a look sees rows, and only a
        compaction that could finish leaves no bytes of theirs behind.
        """
        waiting = [
            saga for saga in (await read_sagas(self._log)).values() if saga.is_completed and saga.has_bytes
        ]
        gone = await without_bytes(self._log, {saga.ref for saga in waiting}, first_seen=self._first_seen)
        noted = [saga for saga in waiting if saga.ref in gone]
        for saga in noted:
            await self._notes.note(saga, "gone")
        return len(noted)

    # Receipts -------------------------------------------------------------------------------

    async def hand_over(self, file: bytes) -> ErasureStatus:
        """Note that the person has a receipt, of which `file` is a whole copy, and destroy its salt here.

        From then on the receipt's commitment can no longer be opened here, and no receipt is given
        again. `requests.v1` keeps which random reference has which leaf; nobody is found by that
        reference. Asked twice it changes nothing.

        Raises:
            BadInput: the file holds no receipt of a completed erasure of this ledger.
        """
        saga = await self._of_file(file)
        if not saga.is_handed_over:
            want = _receipt.salt_want(saga.ref, saga.request, handed=len(saga.handed))
            self._vault.shred(want.ref, now=self._clock.now(), group=want.group)
            await self._notes.note(saga, "handed")
        return _status(saga, now=self._clock.now())

    async def of_file(self, file: bytes) -> ErasureStatus:
        """Return how far the erasure came whose receipt a file holds.

        Raises:
            BadInput: as with `hand_over`.
        """
        return _status(await self._of_file(file), now=self._clock.now())

    async def _of_file(self, file: bytes) -> Saga:
        leaf = _receipt.leaf_of(file)
        for saga in (await read_sagas(self._log)).values():
            has_receipt = saga.is_completed or saga.rests
            if leaf is not None and has_receipt and saga.leaf == leaf:
                return saga
        raise BadInput(
            Refusal.RECEIPT_UNKNOWN,
            "This file holds no receipt of an erasure of this ledger. Give a file that "
            "`erase SUBJECT -o DIR` has written, unchanged.",
        )

    async def status(self, refs: Sequence[SubjectRef]) -> tuple[ErasureStatus, ...]:
        """Return how far the erasure of each reference came, oldest request first; none where none was."""
        wanted, now = frozenset(refs), self._clock.now()
        found = [saga for saga in (await read_sagas(self._log)).values() if saga.ref in wanted]
        return tuple(_status(saga, now=now) for saga in sorted(found, key=lambda saga: saga.opened_at))


def _status(saga: Saga, *, now: datetime) -> ErasureStatus:
    state: Literal["requested", "incomplete", "retained", "completed", "final"] = "requested"
    if saga.is_final:
        state = "final"
    elif saga.is_completed:
        state = "completed"
    elif saga.rests:
        state = "retained"
    elif saga.tries:
        state = "incomplete"
    return ErasureStatus(
        state=state, scope=saga.scope or "person",
        leaf=saga.leaf if saga.is_completed or saga.rests else None,
        open_steps=() if saga.is_completed or saga.rests else saga.open_steps, requested_at=saga.opened_at,
        unreadable_at=saga.done.get("shredded"), derived_clean_at=saga.done.get("derived"),
        bytes_gone_at=saga.done.get("gone"), completed_at=saga.done.get("completed"),
        final_at=saga.done.get("final"), epoch=saga.epoch,
        is_handed_over=saga.is_handed_over, is_overdue=saga.is_overdue(now),
        retained=saga.kept if saga.rests else (),
    )  # fmt: skip
