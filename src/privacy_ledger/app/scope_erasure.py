"""The erasure of less than a person: one category, one purpose, or one profile field.

The same saga as for a person, with other steps: keys that seal what the scope holds seal nothing
more, the request is durable, the passes remove and fold again, keys are destroyed, the log is read
by itself, and the person gets a receipt. What is collected after the request stays.
"""

from collections.abc import Sequence

from privacy_ledger.app._erasure_outcome import counted
from privacy_ledger.app._receipt import StoreOutcome
from privacy_ledger.app._requests import Asked, Progress, Saga, record
from privacy_ledger.app._scopes import (
    Scope,
    ScopeRemains,
    instant_of,
    newest_of,
    request_of,
    scope_named,
    scope_remains,
)
from privacy_ledger.app.erasure import Erasure, ErasureOutcome, ErasurePlan, OnStep, Step
from privacy_ledger.app.retention import Kept
from privacy_ledger.app.stores import UNREACHABLE, PassIndex
from privacy_ledger.domain.events import ControlFact, ErasureRequested, FieldErasureRequested
from privacy_ledger.domain.holds import held_categories
from privacy_ledger.domain.key_release import class_of
from privacy_ledger.domain.topics import REQUESTS
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.streams.states import PERMISSIONS, IndexRow

__all__ = ["ScopeErasure"]


class ScopeErasure(Erasure):
    """Plans, runs and resumes erasures of a category, a purpose or a field."""

    async def plan_scope(self, wanted: Sequence[tuple[SubjectRef, Scope]]) -> ErasurePlan:
        """Return what would be removed, by category; nothing changes."""
        records: dict[str, int] = {}
        for ref, scope in wanted:
            for category, count in (await self._counts_of(ref, scope)).items():
                records[category] = records.get(category, 0) + count
        return ErasurePlan(references=len(wanted), records=dict(sorted(records.items())))

    async def erase_scope(
        self, wanted: Sequence[tuple[SubjectRef, Scope]], *, on_step: OnStep | None = None
    ) -> tuple[ErasureOutcome, ...]:
        """Erase a scope of each reference: one saga each, with a receipt.

        One that was begun goes on; after one that is complete, or rests on a hold, it is asked for anew,
        for what was collected since.
        """
        self._rows_of.forget(*(ref for ref, _ in wanted))
        sagas = await self._begin(wanted)
        for saga in sagas:
            await self._request(saga, on_step)
        return await self._run(sagas, on_step)

    def is_mine(self, saga: Saga) -> bool:
        """Return whether it is the erasure of less than a person."""
        return saga.scope is not None

    async def is_unreadable(self, saga: Saga) -> bool:
        """Return whether no key opens what was removed, or nothing of it is in the log any more."""
        self._rows_of.forget(saga.ref)
        return not (await self._left(saga)).readable

    # Opening --------------------------------------------------------------------------------

    async def _begin(self, wanted: Sequence[tuple[SubjectRef, Scope]]) -> list[Saga]:
        open_sagas = {
            (saga.ref, saga.scope): saga
            for saga in (await self._sagas.of(*(ref for ref, _ in wanted))).values()
            if self.is_mine(saga) and not (saga.is_completed or saga.rests)
        }
        request = self._ids.token().hex()
        sagas, openings = [], []
        for ref, scope in wanted:
            saga = open_sagas.get((ref, scope.name))
            if saga is None:
                now, counts = self._clock.now(), await self._counts_of(ref, scope)
                saga = Saga(
                    request=request, ref=ref, opened_at=now, cause="request", counts=counts,
                    done={"opened": now}, scope=scope.name,
                )  # fmt: skip
                opening = Progress(
                    request=request, ref=ref.hex(), step="opened", at=now, counts=counts, scope=scope.name
                )
                openings.append(record(opening, partitions=self._log.partitions(REQUESTS)))
            sagas.append(saga)
        if openings:
            await self._log.append(REQUESTS, openings)
        return sagas

    async def _counts_of(self, ref: SubjectRef, scope: Scope) -> dict[str, int]:
        return counted(filter(scope.takes, await self._views.live(ref)))

    async def _rows(self, ref: SubjectRef, scope: Scope) -> list[IndexRow]:
        return [row for row in await self._views.live(ref) if scope.holds(row)]

    async def _request(self, saga: Saga, on_step: OnStep | None) -> None:
        """Let the scope's keys seal nothing more, and make the request durable.

        Which keys these are is noted before; those that are made later are spared. Where a request was
        not made after all, its keys are asked for anew.
        """
        if "requested" in saga.done:
            return
        if await request_of(self._rows_of, saga.ref, saga.request) is None:
            scope = scope_named(saga.scope or "")
            fact = await self._fact(saga, scope)
            # As late as can be: what is sealed from here on is under keys that stay.
            saga.groups = self._retire(saga, scope)
            await self._notes.note(saga, "retired", groups=saga.groups)
            await self._notes.fact(saga, fact)
        await self._notes.note(saga, "requested", asked=await self._asked(saga))
        if on_step is not None:
            on_step(saga.ref, "requested")

    def _retire(self, saga: Saga, scope: Scope) -> dict[str, int]:
        if scope.kind == "category":
            return self._vault.retire(saga.ref, category=scope.category)
        return self._vault.retire(saga.ref, purpose=scope.value) if scope.kind == "purpose" else {}

    async def _fact(self, saga: Saga, scope: Scope) -> ControlFact:
        """Return the request, with the instant up to which nothing of the scope comes back.

        A producer's clock may run ahead: what it said so far counts as before the request.
        """
        at = await newest_of(self._rows_of, saga.ref, scope, now=self._clock.now())
        if scope.kind == "field":
            return FieldErasureRequested(request=saga.request, occurred_at=at, field=scope.value)
        if scope.kind == "purpose":
            return ErasureRequested(
                request=saga.request, occurred_at=at, scope="purpose", purpose=scope.value
            )
        return ErasureRequested(
            request=saga.request, occurred_at=at, scope="category", category=scope.category
        )

    # Steps ----------------------------------------------------------------------------------

    def _unread(self) -> Sequence[Step]:
        """Return the steps before which nothing of other stores is waited for: the fold destroys by row."""
        return (("fenced", self._fence),)

    def _cleared(self) -> Sequence[Step]:
        return (("shredded", self._shred), ("derived", self._derived), ("tombstones", self._tombstones))

    async def _fence(self, saga: Saga) -> bool:
        """Wait until every pass has folded the request; a person who was erased meanwhile is fenced too."""
        await self._settle(saga)
        permissions = await self._views.get(PERMISSIONS, saga.ref)
        if permissions is None or permissions.is_ended:
            return True
        asked = await self._asked(saga)
        return asked is not None and permissions.is_cleared(saga.scope or "", asked.until)

    async def _shred(self, saga: Saga) -> bool:
        """Destroy what the keystore had for the scope before the request.

        What a hold keeps is spared, and goes the same way when that is lifted.
        """
        is_again = "shredded" in saga.done
        if is_again and not saga.spared:
            return True
        if "fenced" not in saga.done:
            return False  # nobody knows yet what a hold keeps
        held = await self._held(saga)
        spare = tuple(sorted(group for group in saga.groups if class_of(group) in held))
        if is_again and set(spare) >= set(saga.spared):
            return True
        now, kids = self._clock.now(), saga.kids
        for group, bound in sorted(saga.groups.items()):
            if group not in spare:
                report = self._vault.shred(saga.ref, now=now, group=group, below=bound)
                saga.kids = tuple(dict.fromkeys((*saga.kids, *report.kids)))
        saga.epoch, saga.spared = self._vault.standing_of(saga.ref).epoch, spare
        if is_again:
            new = tuple(kid for kid in saga.kids if kid not in kids)
            await self._notes.note(saga, "released", kids=new, epoch=saga.epoch, spared=spare)
        # Each record of a field has a key of its own, which the passes destroy with it.
        is_field = scope_named(saga.scope or "").kind == "field"
        return not is_field or not (await self._left(saga)).readable

    async def _held(self, saga: Saga) -> frozenset[Category]:
        """Return the categories that a hold keeps: their keys are spared until it is lifted."""
        permissions = await self._views.get(PERMISSIONS, saga.ref)
        return frozenset() if permissions is None else frozenset(held_categories(permissions.holds))

    async def _kept(self, saga: Saga) -> Kept:
        """Return what a hold keeps of the scope, as it stood before the request."""
        scope, below = scope_named(saga.scope or ""), await self._below(saga)
        return await self._retention.of(
            saga.ref, among=lambda row: row.place < below and scope.holds(row)
        )  # fmt: skip

    async def _derived(self, saga: Saga) -> bool:
        """Return whether no index names a record of the scope that stood before the request."""
        await self._passes.settle(timeout_s=self._wait_s)
        kept = await self._kept(saga)
        return not any([await self._named(index, saga, kept) for index in await self._stores.indexes()])

    async def _named(self, index: PassIndex, saga: Saga, kept: Kept) -> int:
        """Return how many records of the scope a pass still knows, beside those that the law keeps."""
        scope, below = scope_named(saga.scope or ""), await self._below(saga)
        return sum(
            row.place < below and scope.holds(row) and row.record_id not in kept.records
            for row in await index.rows(saga.ref)
        )

    async def _tombstones(self, saga: Saga) -> bool:
        return not (await self._left(saga)).live

    async def _verified(self, saga: Saga) -> tuple[StoreOutcome, ...]:
        """Return what became of the records and their keys, by a reading of the log and of each pass."""
        remains, kept = await self._left(saga), await self._kept(saga)
        has_held = any(saga.counts.values())
        counts = {
            "ledger": remains.records - remains.readable,
            "keystore": len({*saga.kids, *remains.kids}),
        }
        found = [
            StoreOutcome(store=store, count=count, outcome="erased" if count or has_held else "nothing held")
            for store, count in counts.items()
        ]
        found += [await self._outcome_of(index, saga, kept) for index in await self._stores.indexes()]
        if remains.readable:
            found.append(
                StoreOutcome(
                    store="ledger, sealed with records that stay", outcome="erased", count=remains.readable,
                    ground="removed; the bytes go with the next compaction, their key stays",
                )
            )  # fmt: skip
        if kept.items:
            found.append(
                StoreOutcome(
                    store="ledger, held", outcome="retained", count=len(kept.records), ground=kept.ground,
                    until=kept.until,
                )
            )  # fmt: skip
        return tuple(found)

    async def _outcome_of(self, index: PassIndex, saga: Saga, kept: Kept) -> StoreOutcome:
        """Return whether a pass has let go of the scope; where the person is parked it has not yet."""
        try:
            left = await self._named(index, saga, kept)
        except UNREACHABLE:
            return StoreOutcome(store=index.name, outcome="unreachable", count=0)
        if left:
            return StoreOutcome(store=index.name, outcome="unreachable", count=left)
        has_held = any(saga.counts.values())
        return StoreOutcome(
            store=index.name, outcome="erased" if has_held else "nothing held", count=None if has_held else 0
        )

    async def _destroyed(self, saga: Saga) -> tuple[str, ...]:
        return (await self._left(saga)).kids

    async def _left(self, saga: Saga) -> ScopeRemains:
        scope, kept = scope_named(saga.scope or ""), await self._kept(saga)
        return await scope_remains(
            self._rows_of, self._vault, saga.ref, scope, request=saga.request, below=await self._below(saga),
            but=kept.records,
        )  # fmt: skip

    async def _below(self, saga: Saga) -> int:
        """Return the offset of the request; before it is durable nothing is looked for."""
        asked = await self._asked(saga)
        return 0 if asked is None else asked.offset

    async def _asked(self, saga: Saga) -> Asked | None:
        """Return where the request stands: the first one with its id counts; None: it is not there yet."""
        if saga.asked is None:
            row = await request_of(self._rows_of, saga.ref, saga.request)
            saga.asked = None if row is None else Asked(row.offset, instant_of(row))
        return saga.asked
