"""The erasure of a person (GDPR Art. 17), a saga for each of their references.

Durable request, fence, shred, derived stores, tombstones, own verification, receipt. Its state is
events: whoever runs it next, after a crash at any point, goes on where the last one stopped. Every
step may be repeated. `completed` is never said while a step is open.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from privacy_ledger.app import _receipt
from privacy_ledger.app._evidence import Remains, remains_of, rows_of, without_request
from privacy_ledger.app._receipt import Receipt, StoreOutcome
from privacy_ledger.app._requests import Cause, Progress, Saga, read_sagas, record
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.domain.errors import KeyUnavailable, NotCaughtUp
from privacy_ledger.domain.events import (
    ControlFact,
    ErasureCompleted,
    ErasureIncomplete,
    ErasureRequested,
)
from privacy_ledger.domain.topics import LEDGER_EVENTS, REQUESTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.passes import Passes, Views
from privacy_ledger.ports.runtime import Clock, Ids
from privacy_ledger.streams.states import PERMISSIONS

__all__ = ["STEPS", "Erasure", "ErasureOutcome", "ErasurePlan"]

STEPS: Final = ("opened", "requested", "fenced", "shredded", "derived", "tombstones", "verified", "receipt")
"""The steps of a saga, in order; each is written to `requests.v1` when it is done."""
WAIT_S: Final = 30.0
POLL_S: Final = 0.1

OnStep = Callable[[SubjectRef, str], None]


class ErasurePlan(Struct, frozen=True, kw_only=True):
    """What an erasure would remove: live records by category, over all references."""

    references: int
    records: dict[str, int]


class ErasureOutcome(Struct, frozen=True, kw_only=True):
    """How far the erasure of one reference came; `receipt` is its canonical JSON, for the person."""

    ref: SubjectRef
    request: str
    is_completed: bool
    receipt: bytes | None
    leaf: str | None
    open_steps: tuple[str, ...]


class Erasure:
    """Plans, runs and resumes erasures."""

    def __init__(  # noqa: PLR0913 - every collaborator is named once, here
        self,
        *,
        log: EventLog,
        vault: KeyVault,
        codec: Codec,
        views: Views,
        passes: Passes,
        clock: Clock,
        ids: Ids,
        audit: AuditLog,
        build: str,
        wait_s: float = WAIT_S,
    ) -> None:
        """Take the ports; `build` is the program's version, `wait_s` bounds each wait for passes."""
        self._log = log
        self._vault = vault
        self._codec = codec
        self._views = views
        self._passes = passes
        self._clock = clock
        self._ids = ids
        self._audit = audit
        self._build = build
        self._wait_s = wait_s

    async def plan(self, refs: Sequence[SubjectRef]) -> ErasurePlan:
        """Return what would be removed; nothing changes."""
        records: dict[str, int] = {}
        for ref in refs:
            for category, count in (await self._counts(ref)).items():
                records[category] = records.get(category, 0) + count
        return ErasurePlan(references=len(refs), records=dict(sorted(records.items())))

    async def erase(
        self, refs: Sequence[SubjectRef], *, cause: Cause = "request", on_step: OnStep | None = None
    ) -> tuple[ErasureOutcome, ...]:
        """Erase a person: every reference, one saga each; asking twice gives the same receipts.

        Every request is durable before anything of anybody is destroyed.
        """
        sagas = await self._open(refs, cause=cause)
        for saga in sagas:
            await self._request(saga, on_step)
        return tuple([await self._run(saga, on_step) for saga in sagas])

    async def resume(self, *, on_step: OnStep | None = None) -> tuple[ErasureOutcome, ...]:
        """Go on with every erasure that is not completed, oldest request first."""
        sagas = [s for s in (await read_sagas(self._log)).values() if not s.is_completed]
        sagas.sort(key=lambda saga: saga.opened_at)
        for saga in sagas:
            await self._request(saga, on_step)
        return tuple([await self._run(saga, on_step) for saga in sagas])

    async def reconcile(self, *, on_step: OnStep | None = None) -> tuple[ErasureOutcome, ...]:
        """Erase again in the log whom the keystore ended and a restored log does not know to be.

        The keys are gone already: nothing of them can be read before this either.
        """
        missing = await without_request(self._log, frozenset(self._vault.ended_refs()))
        return await self.erase(missing, cause="restore", on_step=on_step)

    async def unfinished(self) -> int:
        """Return how many erasures are not completed."""
        return sum(not saga.is_completed for saga in (await read_sagas(self._log)).values())

    # Opening --------------------------------------------------------------------------------

    async def _open(self, refs: Sequence[SubjectRef], *, cause: Cause) -> list[Saga]:
        """Return the saga of each reference: the one that was opened before, or a new one."""
        known: dict[SubjectRef, Saga] = {}
        for saga in (await read_sagas(self._log)).values():
            best = known.get(saga.ref)
            if best is None or (saga.is_completed and not best.is_completed):
                known[saga.ref] = saga
        request = self._ids.token().hex()
        sagas, openings = [], []
        for ref in refs:
            found = known.get(ref)
            if found is None:
                now, counts = self._clock.now(), await self._counts(ref)
                found = Saga(
                    request=request, ref=ref, opened_at=now, cause=cause, counts=counts, done={"opened": now}
                )
                opening = Progress(
                    request=request, ref=ref.hex(), step="opened", at=now, cause=cause, counts=counts
                )
                openings.append(record(opening, partitions=self._log.partitions(REQUESTS)))
            sagas.append(found)
        if openings:
            # All references of a person together: a crash leaves all of them opened, or none.
            await self._log.append(REQUESTS, openings)
        return sagas

    async def _counts(self, ref: SubjectRef) -> dict[str, int]:
        counts: dict[str, int] = {}
        for row in await self._views.live(ref):
            counts[str(row.category)] = counts.get(str(row.category), 0) + 1
        return dict(sorted(counts.items()))

    async def _request(self, saga: Saga, on_step: OnStep | None) -> None:
        """Make the request durable in the subject's own partition; a second one has no effect."""
        if "requested" in saga.done:
            return
        cause = "request" if saga.cause == "link" else saga.cause
        fact = ErasureRequested(request=saga.request, occurred_at=saga.opened_at, cause=cause)
        await self._fact(saga, fact)
        await self._done(saga, "requested", on_step)

    # Running --------------------------------------------------------------------------------

    async def _run(self, saga: Saga, on_step: OnStep | None) -> ErasureOutcome:
        """Run what is left of a saga; a store that cannot be reached leaves its step open."""
        if saga.is_completed:
            return _outcome(saga)
        open_steps: list[str] = []
        steps = (
            ("fenced", self._fence), ("shredded", self._shred), ("derived", self._derived),
            ("tombstones", self._tombstones), ("verified", self._verify),
        )  # fmt: skip
        for name, step in steps:
            try:
                is_done = await step(saga)
            except (NotCaughtUp, KeyUnavailable):
                is_done = False
            if is_done:
                await self._done(saga, name, on_step)
            else:
                open_steps.append(name)
        if open_steps:
            return await self._incomplete(saga, tuple(open_steps))
        await self._complete(saga, on_step)
        return _outcome(saga)

    async def _fence(self, saga: Saga) -> bool:
        """Wait until every pass has folded the request: nothing of the person is used any more."""
        await self._passes.settle(timeout_s=self._wait_s)
        permissions = await self._views.get(PERMISSIONS, saga.ref)
        return permissions is None or permissions.is_ended

    async def _shred(self, saga: Saga) -> bool:
        """Forget the identities, end the reference and destroy every key of it."""
        if "shredded" in saga.done:
            return True
        # Before the keys go, so that a crash between shred and note loses no key id.
        remains = await remains_of(self._log, self._vault, saga.ref)
        now = self._clock.now()
        saga.identities += self._vault.erase_identities(saga.ref, now=now)
        self._vault.end(saga.ref, now=now)
        report = self._vault.shred(saga.ref, now=now)
        saga.kids = tuple(dict.fromkeys((*saga.kids, *report.kids, *remains.kids)))
        return True

    async def _derived(self, saga: Saga) -> bool:
        """Return whether no version of a projection answers for the person any more; the fence may."""
        await self._passes.settle(timeout_s=self._wait_s)
        return not await self._views.live(saga.ref) and not await self._views.answering(saga.ref)

    async def _tombstones(self, saga: Saga) -> bool:
        """Wait, within bounds, until every record of the person has a later tombstone in the log."""
        deadline = time.monotonic() + self._wait_s
        while True:
            remains = await remains_of(self._log, self._vault, saga.ref)
            if not remains.live:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
            await self._passes.settle(timeout_s=self._wait_s)

    async def _verify(self, saga: Saga) -> bool:
        """Look for the person anew: no key, no identity, no projection, no live record."""
        return (
            _is_gone(await remains_of(self._log, self._vault, saga.ref))
            and self._vault.is_ended(saga.ref)
            and self._vault.erase_identities(saga.ref, now=self._clock.now()) == 0
            and await self._derived(saga)
        )

    # Ending ---------------------------------------------------------------------------------

    async def _incomplete(self, saga: Saga, open_steps: tuple[str, ...]) -> ErasureOutcome:
        """Say which steps are open; the saga is resumed."""
        now = self._clock.now()
        fact = ErasureIncomplete(request=saga.request, occurred_at=now, open_steps=open_steps)
        await self._fact(saga, fact)
        note = Progress(
            request=saga.request, ref=saga.ref.hex(), step="incomplete", at=now, open_steps=open_steps
        )
        await self._write(note)
        saga.open_steps = open_steps
        return _outcome(saga)

    async def _complete(self, saga: Saga, on_step: OnStep | None) -> None:
        """Write the receipt, its leaf and the completion; each once, whatever crashed before."""
        if saga.receipt is None:
            document = _receipt.canonical(await self._receipt(saga))
            saga.receipt, saga.leaf = document, _receipt.leaf_hash(document)
            await self._done(saga, "receipt", on_step)
        leaf = saga.leaf = saga.leaf or _receipt.leaf_hash(saga.receipt)
        await self._audit.append(bytes.fromhex(leaf))
        if not await self._is_said_completed(saga):
            fact = ErasureCompleted(request=saga.request, occurred_at=self._clock.now(), receipt=leaf)
            await self._fact(saga, fact)
            await self._passes.settle(timeout_s=self._wait_s)
        await self._done(saga, "completed", on_step)

    async def _receipt(self, saga: Saga) -> Receipt:
        salt = self._ids.token()
        remains = await remains_of(self._log, self._vault, saga.ref)
        kids = tuple(dict.fromkeys((*saga.kids, *remains.kids)))
        live = sum(saga.counts.values())
        return Receipt(
            receipt=self._ids.token().hex(),
            commitment=_receipt.commitment(salt, ref=saga.ref, request=saga.request),
            salt=salt.hex(),
            cause=saga.cause,
            requested_at=saga.opened_at,
            unreadable_at=saga.done["shredded"],
            completed_at=self._clock.now(),
            records=saga.counts,
            stores=(
                _store("ledger", max(remains.records, live)),
                _store("projections", live),
                _store("keystore keys", len(kids)),
                # Every reference was minted for an identity; a crash may have lost their number.
                StoreOutcome(store="keystore identities", outcome="erased", count=saga.identities),
            ),
            keys=_receipt.salted(salt, kids),
            build=self._build,
        )

    async def _is_said_completed(self, saga: Saga) -> bool:
        """Return whether the partition holds this saga's completion already."""
        wanted = saga.request.encode()
        async for row in rows_of(self._log, saga.ref):
            said = dict(row.headers).get("ce_type") == b"erasure.completed.v1"
            if said and row.value is not None and wanted in row.value:
                return True
        return False

    # Writing --------------------------------------------------------------------------------

    async def _fact(self, saga: Saga, fact: ControlFact) -> None:
        token = self._ids.token()
        row = self._codec.control_fact(saga.ref, token, fact, received_at=self._clock.now())
        await self._log.append(LEDGER_EVENTS, (row,))

    async def _done(self, saga: Saga, step: str, on_step: OnStep | None) -> None:
        """Write that a step is done, once; a step that was done before is only told again."""
        if step not in saga.done:
            saga.done[step] = now = self._clock.now()
            note = Progress(
                request=saga.request, ref=saga.ref.hex(), step=step, at=now,
                kids=saga.kids if step == "shredded" else (),
                identities=saga.identities if step == "shredded" else 0,
                receipt=saga.receipt.decode() if step == "receipt" and saga.receipt else None,
                leaf=saga.leaf if step == "receipt" else None,
            )  # fmt: skip
            await self._write(note)
        if on_step is not None:
            on_step(saga.ref, step)

    async def _write(self, progress_: Progress) -> None:
        await self._log.append(REQUESTS, (record(progress_, partitions=self._log.partitions(REQUESTS)),))


def _is_gone(remains: Remains) -> bool:
    """Return whether nothing of a person is live, readable, or under a key that is not known."""
    return not (remains.live or remains.readable or remains.unknown)


def _store(name: str, count: int) -> StoreOutcome:
    return StoreOutcome(store=name, outcome="erased" if count else "nothing held", count=count)


def _outcome(saga: Saga) -> ErasureOutcome:
    return ErasureOutcome(
        ref=saga.ref,
        request=saga.request,
        is_completed=saga.is_completed,
        receipt=saga.receipt if saga.is_completed else None,
        leaf=saga.leaf if saga.is_completed else None,
        open_steps=saga.open_steps if not saga.is_completed else (),
    )
