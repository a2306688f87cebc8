"""The erasure of a person (GDPR Art. 17), a saga for each of their references.

Durable request, fence, shred, derived stores, tombstones, own verification, receipt. Its state is
events: whoever runs it next, after a crash at any point, goes on where the last one stopped. Every
step may be repeated. `completed` is never said while a step is open, or a store that `stores`
knows has another outcome than `erased` or `nothing held`.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from privacy_ledger.app import _receipt
from privacy_ledger.app._erasure_outcome import ErasureOutcome, ErasurePlan, counted
from privacy_ledger.app._evidence import PersonRows, Remains, is_said, remains_of, waiting_of, without_request
from privacy_ledger.app._receipt import Receipt, StoreOutcome
from privacy_ledger.app._requests import Cause, Progress, Saga, SagaNotes, SagaReader, read_sagas, record
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.app.retention import NOTHING, Kept, Retention, items_of
from privacy_ledger.app.stores import DONE, UNREACHABLE, StoreRegistry
from privacy_ledger.domain.events import (
    ErasureCompleted,
    ErasureIncomplete,
    ErasureRequested,
    ErasureRetained,
)
from privacy_ledger.domain.topics import REQUESTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.keys import DataKey, KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.passes import Passes, Views
from privacy_ledger.ports.runtime import Clock, Ids
from privacy_ledger.streams.states import PERMISSIONS

__all__ = ["STEPS", "WAIT_S", "Erasure", "ErasureOutcome", "ErasurePlan"]

STEPS: Final = ("opened", "requested", "fenced", "shredded", "derived", "tombstones", "verified", "receipt")
"""The steps of a saga, in order; each is written to `requests.v1` when it is done."""
WAIT_S: Final = 30.0

OnStep = Callable[[SubjectRef, str], None]
Step = tuple[str, Callable[[Saga], Awaitable[bool]]]


class Erasure:
    """Plans, runs and resumes erasures."""

    def __init__(  # noqa: PLR0913 - every collaborator is named once, here
        self,
        *,
        log: EventLog,
        rows: PersonRows,
        sagas: SagaReader,
        vault: KeyVault,
        codec: Codec,
        views: Views,
        passes: Passes,
        stores: StoreRegistry,
        retention: Retention,
        clock: Clock,
        ids: Ids,
        audit: AuditLog,
        build: str,
        wait_s: float = WAIT_S,
    ) -> None:
        """Take the ports; `build` is the program's version, `wait_s` bounds each wait for passes.

        `rows`: the reading that its steps share with the stores and with who knows what a law keeps.
        """
        self._log = log
        self._rows_of = rows
        self._sagas = sagas
        self._vault = vault
        self._views = views
        self._passes = passes
        self._stores = stores
        self._retention = retention
        self._clock = clock
        self._ids = ids
        self._audit = audit
        self._notes = SagaNotes(log, codec, clock=clock, ids=ids)
        self._build = build
        self._wait_s = wait_s

    async def plan(self, refs: Sequence[SubjectRef]) -> ErasurePlan:
        """Return what would be removed; nothing changes."""
        records: dict[str, int] = {}
        for ref in refs:
            for category, count in (await self._counts(ref)).items():
                records[category] = records.get(category, 0) + count
        kept = items_of(tuple([await self._retention.of(ref) for ref in refs]))
        return ErasurePlan(references=len(refs), records=dict(sorted(records.items())), retained=kept)

    async def erase(
        self, refs: Sequence[SubjectRef], *, cause: Cause = "request", on_step: OnStep | None = None
    ) -> tuple[ErasureOutcome, ...]:
        """Erase a person: every reference, one saga each; asking twice gives the same receipts.

        Every request is durable before anything of anybody is destroyed. A receipt is given again
        until it was handed over.
        """
        self._rows_of.forget(*refs)
        sagas = await self._open(refs, cause=cause)
        for saga in sagas:
            await self._request(saga, on_step)
        return await self._run(sagas, on_step)

    async def resume(
        self, *, is_due_only: bool = False, on_step: OnStep | None = None
    ) -> tuple[ErasureOutcome, ...]:
        """Go on with every erasure that is not completed, oldest request first.

        `is_due_only`: leave those alone whose pause is not over, or on which somebody else works. One of
        which only what the law keeps is left goes on by itself when that changes.
        """
        now = self._clock.now()
        sagas = [
            saga
            for saga in (await read_sagas(self._log)).values()
            if self.is_mine(saga)
            and not saga.is_completed
            and (not is_due_only or saga.rests or saga.due_at <= now)
            and not (saga.rests and await self._is_kept(saga))
        ]
        sagas.sort(key=lambda saga: saga.opened_at)
        self._rows_of.forget(*(saga.ref for saga in sagas))
        for saga in sagas:
            await self._request(saga, on_step)
        return await self._run(sagas, on_step)

    async def reconcile(self, *, on_step: OnStep | None = None) -> tuple[ErasureOutcome, ...]:
        """Erase again in the log whom the keystore ended and a restored log does not know to be.

        The keys are gone already: nothing of them can be read before this either.
        """
        missing = await without_request(self._log, frozenset(self._vault.ended_refs()))
        return await self.erase(missing, cause="restore", on_step=on_step)

    async def unfinished(self) -> int:
        """Return how many erasures are not completed, without those that rest: the law keeps something."""
        sagas = (await read_sagas(self._log)).values()
        return sum(not saga.is_completed and not saga.rests for saga in sagas)

    def is_mine(self, saga: Saga) -> bool:
        """Return whether it is the erasure of a whole person."""
        return saga.scope is None

    async def is_unreadable(self, saga: Saga) -> bool:
        """Return whether no key opens what a completed erasure removed: all of a person's are destroyed."""
        return saga.is_completed

    async def _is_kept(self, saga: Saga) -> bool:
        """Return whether the law still keeps what the receipt says, for the same reasons."""
        kept = (await self._kept(saga)).items
        return [(i.category, i.ground) for i in kept] == [(i.category, i.ground) for i in saga.kept]

    # Opening --------------------------------------------------------------------------------

    async def _open(self, refs: Sequence[SubjectRef], *, cause: Cause) -> list[Saga]:
        """Return the saga of each reference: the one that was opened before, or a new one."""
        known: dict[SubjectRef, Saga] = {}
        for saga in filter(self.is_mine, (await self._sagas.of(*refs)).values()):
            best = known.get(saga.ref)
            if best is None or (saga.is_completed and not best.is_completed):
                known[saga.ref] = saga
        request = self._ids.token().hex()
        sagas, openings = [], []
        for ref in refs:
            found = known.get(ref)
            if found is None:
                now, counts = self._clock.now(), await self._counts(ref)
                held = await self._stores.count(ref)
                found = Saga(
                    request=request, ref=ref, opened_at=now, cause=cause, counts=counts, held=held,
                    done={"opened": now},
                )  # fmt: skip
                opening = Progress(
                    request=request, ref=ref.hex(), step="opened", at=now, cause=cause, counts=counts,
                    held=held,
                )  # fmt: skip
                openings.append(record(opening, partitions=self._log.partitions(REQUESTS)))
            sagas.append(found)
        if openings:
            # All references of a person together: a crash leaves all of them opened, or none.
            await self._log.append(REQUESTS, openings)
        return sagas

    async def _counts(self, ref: SubjectRef) -> dict[str, int]:
        return counted(await self._views.live(ref))

    async def _request(self, saga: Saga, on_step: OnStep | None) -> None:
        """Make the request durable in the subject's own partition, once.

        An ingest that opens a saga has requested it already, and the passes may have begun: to look
        into the stores then would count what they left.
        """
        if "requested" in saga.done:
            return
        is_new = saga.is_counted and saga.held is None
        if is_new:  # opened by a build that asked no store
            saga.held = await self._stores.count(saga.ref)
        if saga.last_at is None or not await is_said(self._rows_of, saga.ref, ErasureRequested, saga.request):
            cause = "request" if saga.cause == "link" else saga.cause
            fact = ErasureRequested(request=saga.request, occurred_at=saga.opened_at, cause=cause)
            await self._notes.fact(saga, fact)
        await self._notes.note(saga, "requested", held=saga.held if is_new else None)
        if on_step is not None:
            on_step(saga.ref, "requested")

    # Running --------------------------------------------------------------------------------

    async def _run(self, sagas: Sequence[Saga], on_step: OnStep | None) -> tuple[ErasureOutcome, ...]:
        """Run what is left of sagas: the keys of all of them first, for these wait for no store."""
        unread = self._unread()
        begun = [
            [] if self._is_over(saga) else await self._carry_out(saga, unread, on_step) for saga in sagas
        ]
        return tuple([
            await self._finish(saga, open_steps, on_step)
            for saga, open_steps in zip(sagas, begun, strict=True)
        ])  # fmt: skip

    def _unread(self) -> Sequence[Step]:
        """Return the steps after which nobody reads the person."""
        return (("fenced", self._fence), ("shredded", self._shred))

    def _cleared(self) -> Sequence[Step]:
        """Return the steps after which no store holds anything of the person."""
        return (("derived", self._derived), ("tombstones", self._tombstones))

    async def _verified(self, saga: Saga) -> tuple[StoreOutcome, ...]:
        """Return what became of every store, by its own answer."""
        stores = await self._stores.verify(saga.ref, held=saga.held)
        # Every reference was minted for an identity; a crash may have lost their number.
        return (
            *stores, StoreOutcome(store="keystore identities", outcome="erased", count=saga.identities)
        )  # fmt: skip

    async def _destroyed(self, saga: Saga) -> tuple[str, ...]:
        """Return the ids of the keys that sealed what the log still holds."""
        return (await self._remains(saga)).kids

    async def _kept(self, saga: Saga) -> Kept:
        """Return what the law keeps, once every pass has folded the request."""
        return await self._retention.of(saga.ref)

    def _is_over(self, saga: Saga) -> bool:
        return saga.is_completed and not self._has_lost_salt(saga)

    async def _finish(self, saga: Saga, open_steps: list[str], on_step: OnStep | None) -> ErasureOutcome:
        """Run a saga to its end, or say what is open."""
        if self._is_over(saga):
            return self._outcome(saga)
        open_steps += await self._carry_out(saga, self._cleared(), on_step)
        stores, kept = await self._verified(saga), await self._kept(saga)
        left = {*DONE, "retained"} if kept.items else DONE
        hindered = [f"{one.store}: {one.outcome}" for one in stores if one.outcome not in left]
        if open_steps or hindered:
            return await self._incomplete(saga, (*open_steps, "verified", *hindered))
        if kept.items:
            await self._retain(saga, stores, kept, on_step)
            return self._outcome(saga)
        await self._done(saga, "verified", on_step)
        await self._complete(saga, stores, on_step)
        return self._outcome(saga)

    async def _carry_out(self, saga: Saga, steps: Iterable[Step], on_step: OnStep | None) -> list[str]:
        """Run steps in order, and return those that stay open, such as one that cannot reach a store."""
        open_steps: list[str] = []
        for name, step in steps:
            try:
                is_done = await step(saga)
            except UNREACHABLE:
                is_done = False
            if is_done:
                await self._done(saga, name, on_step)
            else:
                open_steps.append(name)
        return open_steps

    async def _fence(self, saga: Saga) -> bool:
        """Wait until every pass has folded the request: nothing of the person is used any more."""
        await self._settle(saga)
        permissions = await self._views.get(PERMISSIONS, saga.ref)
        return permissions is None or permissions.is_ended

    async def _settle(self, saga: Saga) -> None:
        """Wait until every pass has folded what was said of a person.

        All that is theirs lies in their partition: those of others are waited for only where it is
        not known what place is to be reached.
        """
        offsets = None if saga.said is None else dict((saga.said,))
        await self._passes.settle(offsets, timeout_s=self._wait_s)

    async def _shred(self, saga: Saga) -> bool:
        """Forget the identities, end the reference and destroy every key of it and of its lanes.

        What the law keeps is spared, and goes the same way when that is over.
        """
        is_again = "shredded" in saga.done
        if is_again and not saga.spared:
            return True
        spare = await self._retention.groups(saga.ref, is_sure="fenced" in saga.done)
        if is_again and set(spare) >= set(saga.spared):
            return True
        now = self._clock.now()
        saga.identities += self._vault.erase_identities(saga.ref, now=now)
        self._vault.end(saga.ref, now=now, spare=spare)
        own = self._vault.shred(saga.ref, now=now, spare=spare)
        lanes = self._vault.end_lanes(saga.ref, now=now)
        saga.kids = tuple(dict.fromkeys((*saga.kids, *own.kids, *lanes.kids)))
        saga.epoch, saga.spared = self._vault.standing_of(saga.ref).epoch, spare
        if is_again:
            await self._notes.note(saga, "released", kids=own.kids, epoch=saga.epoch, spared=spare)
        return True

    async def _derived(self, saga: Saga) -> bool:
        """Purge every store, and return whether no projection and no index names the person any more."""
        await self._keep_kids(saga)
        if "fenced" not in saga.done:  # nobody knows yet what a hold or a law keeps
            return False
        await self._passes.settle(timeout_s=self._wait_s)
        await self._stores.purge(saga.ref)
        kept = await self._retention.of(saga.ref)
        live = [row for row in await self._views.live(saga.ref) if row.record_id not in kept.records]
        return not live and not await self._views.answering(saga.ref)

    async def _keep_kids(self, saga: Saga) -> None:
        """Note the keys of the person's records and lanes beside those that were destroyed just now.

        After a crash between shred and note only the records name them, and those go. The keys do not
        wait for this: the ledger is read from its beginning.
        """
        if "shredded" not in saga.done:
            return
        remains = await self._remains(saga)
        waiting = await waiting_of(self._log, self._vault, saga.ref)
        named = dict.fromkeys((*remains.kids, *waiting.kids))
        if missing := tuple(kid for kid in named if kid not in saga.kids):
            saga.kids += missing
            await self._notes.note(saga, "shredded", kids=missing, spared=saga.spared)

    async def _remains(self, saga: Saga) -> Remains:
        """Return what is left of a person beside what the law keeps."""
        kept = await self._retention.of(saga.ref)
        return await remains_of(self._rows_of, self._vault, saga.ref, but=kept.records)

    async def _tombstones(self, saga: Saga) -> bool:
        """Return whether every record of the person has a later tombstone in the log."""
        return not (await self._remains(saga)).live

    # Ending ---------------------------------------------------------------------------------

    async def _incomplete(self, saga: Saga, open_steps: tuple[str, ...]) -> ErasureOutcome:
        """Say what is open, where that was not said before; the saga is resumed."""
        if saga.is_completed:  # only its receipt was to be made anew
            return self._outcome(saga)
        now = self._clock.now()
        if saga.open_steps != open_steps:
            fact = ErasureIncomplete(request=saga.request, occurred_at=now, open_steps=open_steps)
            await self._notes.fact(saga, fact)
        await self._notes.note(saga, "incomplete", open_steps=open_steps)
        saga.open_steps = open_steps
        return self._outcome(saga)

    async def _retain(
        self, saga: Saga, stores: Sequence[StoreOutcome], kept: Kept, on_step: OnStep | None
    ) -> None:
        """Write a receipt that itemises what stays, and say so, where that was not said before."""
        await self._catch_up(saga)
        if not await self._is_kept(saga) or self._has_lost_salt(saga):
            await self._issue(saga, stores, kept)
            if on_step is not None:
                on_step(saga.ref, "receipt")
        leaf = saga.leaf or ""
        await self._audit.append(bytes.fromhex(leaf))
        if not await is_said(self._rows_of, saga.ref, ErasureRetained, leaf):
            fact = ErasureRetained(
                request=saga.request, occurred_at=self._clock.now(), receipt=leaf, kept=kept.categories
            )  # fmt: skip
            await self._notes.fact(saga, fact)
            await self._settle(saga)
        if not saga.rests:
            await self._notes.note(saga, "retained")

    async def _complete(self, saga: Saga, stores: Sequence[StoreOutcome], on_step: OnStep | None) -> None:
        """Write the receipt, its leaf and the completion; each once, whatever crashed before."""
        await self._catch_up(saga)
        if saga.receipt is None or saga.kept or self._has_lost_salt(saga):
            await self._issue(saga, stores)
            if on_step is not None:
                on_step(saga.ref, "receipt")
        if saga.leaf is None:
            saga.leaf = _receipt.leaf_hash(self._document(saga) or b"")
        await self._audit.append(bytes.fromhex(saga.leaf))
        if not await is_said(self._rows_of, saga.ref, ErasureCompleted, saga.request):
            fact = ErasureCompleted(
                request=saga.request, occurred_at=self._clock.now(), receipt=saga.leaf
            )  # fmt: skip
            await self._notes.fact(saga, fact)
            await self._settle(saga)
        await self._done(saga, "completed", on_step)

    # Receipts -------------------------------------------------------------------------------

    async def _issue(self, saga: Saga, stores: Sequence[StoreOutcome], kept: Kept = NOTHING) -> None:
        """Make the receipt, and keep it without its salt, which is made from a key of its own.

        That key exists before the note: after a crash between the two the same salt is made again.
        Somebody else may write a receipt meanwhile: the first one is the saga's, for both.
        """
        want = _receipt.salt_want(saga.ref, saga.request, handed=len(saga.handed))
        (key,) = self._vault.sealing_keys((want,), now=self._clock.now())
        made = await self._receipt(saga, stores, kept, salt=_receipt.salt_of(key))
        document = _receipt.canonical(made)
        await self._notes.note(
            saga, "receipt", receipt=_receipt.without_salt(document).decode(), salt=key.kid.hex(),
            leaf=_receipt.leaf_hash(document), replaces=saga.leaf, kept=kept.items,
        )  # fmt: skip
        await self._catch_up(saga)

    async def _catch_up(self, saga: Saga) -> None:
        """Take over what is written of a saga's end: somebody else may have gone on with it meanwhile."""
        written = (await self._sagas.of(saga.ref))[saga.request, saga.ref]
        saga.receipt, saga.salt, saga.leaf = written.receipt, written.salt, written.leaf
        saga.kept, saga.rests, saga.handed = written.kept, written.rests, written.handed
        saga.done = {**saga.done, **written.done}

    def _document(self, saga: Saga) -> bytes | None:
        """Return the receipt as the person gets it; None where there is none, or it was handed over."""
        if saga.receipt is None or saga.is_handed_over:
            return None
        if saga.salt is None:  # written by a build that kept the salt with it
            return saga.receipt
        key = self._salt_key(saga)
        return _receipt.with_salt(saga.receipt, _receipt.salt_of(key)) if isinstance(key, DataKey) else None

    def _salt_key(self, saga: Saga) -> object:
        kid = bytes.fromhex(saga.salt or "")
        return self._vault.open_keys((kid,)).get(kid)

    def _has_lost_salt(self, saga: Saga) -> bool:
        """Return whether the salt is gone though nobody destroyed it: with a keystore that was restored."""
        is_kept = saga.receipt is not None and saga.salt is not None and not saga.is_handed_over
        return is_kept and self._salt_key(saga) is None

    async def _receipt(
        self, saga: Saga, stores: Sequence[StoreOutcome], kept: Kept, *, salt: bytes
    ) -> Receipt:
        kids = tuple(dict.fromkeys((*saga.kids, *await self._destroyed(saga))))
        return Receipt(
            receipt=self._ids.token().hex(),
            commitment=_receipt.commitment(salt, ref=saga.ref, request=saga.request),
            salt=salt.hex(),
            cause=saga.cause,
            scope=saga.scope or "person",
            requested_at=saga.opened_at,
            unreadable_at=saga.done.get("released", saga.done["shredded"]),
            completed_at=None if kept.items else self._clock.now(),
            records=saga.counts if saga.is_counted else None,
            stores=tuple(stores),
            keys=_receipt.salted(salt, kids),
            epoch=saga.epoch,
            retained=kept.items,
            build=self._build,
        )

    # Writing --------------------------------------------------------------------------------

    async def _done(self, saga: Saga, step: str, on_step: OnStep | None) -> None:
        """Write that a step is done, once; a step that was done before is only told again."""
        if step not in saga.done:
            if step == "shredded":
                await self._notes.note(
                    saga, step, kids=saga.kids, identities=saga.identities, epoch=saga.epoch,
                    spared=saga.spared,
                )  # fmt: skip
            else:
                await self._notes.note(saga, step)
        if on_step is not None:
            on_step(saga.ref, step)

    def _outcome(self, saga: Saga) -> ErasureOutcome:
        return ErasureOutcome(
            ref=saga.ref,
            request=saga.request,
            is_completed=saga.is_completed,
            is_handed_over=saga.is_handed_over,
            receipt=self._document(saga) if saga.is_completed or saga.rests else None,
            leaf=saga.leaf if saga.is_completed or saga.rests else None,
            open_steps=saga.open_steps if not (saga.is_completed or saga.rests) else (),
            retained=saga.kept if saga.rests and not saga.is_completed else (),
        )
