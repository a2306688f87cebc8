"""The erasure of less than a person: one category, one purpose, or one profile field.

The same saga as for a person, with other steps: keys that seal what the scope holds seal nothing
more, the request is durable, the passes remove and fold again, keys are destroyed, the log is read
by itself, and the person gets a receipt. What is collected after the request stays.
"""

from collections.abc import Sequence
from typing import Final

from privacy_ledger.app._erasure_outcome import counted
from privacy_ledger.app._receipt import StoreOutcome
from privacy_ledger.app._requests import Progress, Saga, read_sagas, record
from privacy_ledger.app._scopes import (
    Scope,
    ScopeRemains,
    instant_of,
    newest,
    request_of,
    scope_named,
    scope_remains,
)
from privacy_ledger.app.erasure import Erasure, ErasureOutcome, ErasurePlan, OnStep, Step
from privacy_ledger.app.retention import NOTHING, Kept
from privacy_ledger.domain.events import ControlFact, ErasureRequested, FieldErasureRequested
from privacy_ledger.domain.holds import held_categories
from privacy_ledger.domain.key_release import class_of
from privacy_ledger.domain.topics import LEDGER_EVENTS, REQUESTS
from privacy_ledger.domain.values import Category, SubjectRef, partition_of
from privacy_ledger.streams.states import PERMISSIONS, IndexRow

__all__ = ["ScopeErasure"]

_PAGE: Final = 2000


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

        One that was begun goes on; after one that is complete it is asked for anew, for what was
        collected since.
        """
        sagas = await self._begin(wanted)
        for saga in sagas:
            await self._request(saga, on_step)
        return await self._run(sagas, on_step)

    # Opening --------------------------------------------------------------------------------

    def _is_mine(self, saga: Saga) -> bool:
        return saga.scope is not None

    async def _begin(self, wanted: Sequence[tuple[SubjectRef, Scope]]) -> list[Saga]:
        open_sagas = {
            (saga.ref, saga.scope): saga
            for saga in (await read_sagas(self._log)).values()
            if self._is_mine(saga) and not saga.is_completed
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
        if await request_of(self._log, saga.ref, saga.request) is None:
            scope = scope_named(saga.scope or "")
            fact = await self._fact(saga, scope)
            # As late as can be: what is sealed from here on is under keys that stay.
            saga.groups = self._retire(saga, scope)
            await self._notes.note(saga, "retired", groups=saga.groups)
            await self._notes.fact(saga, fact)
        await self._notes.note(saga, "requested")
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
        partition = partition_of(saga.ref, self._log.partitions(LEDGER_EVENTS))
        at, offsets = self._clock.now(), [row.offset for row in await self._rows(saga.ref, scope)]
        for start in range(0, len(offsets), _PAGE):
            rows = await self._log.read_at(LEDGER_EVENTS, partition, offsets[start : start + _PAGE])
            at = newest(rows, now=at)
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
        asked = await request_of(self._log, saga.ref, saga.request)
        return asked is not None and permissions.is_cleared(saga.scope or "", instant_of(asked))

    async def _shred(self, saga: Saga) -> bool:
        """Destroy what the keystore had for the scope before the request."""
        if "shredded" in saga.done:
            return True
        if "fenced" not in saga.done:
            return False  # nobody knows yet what a hold keeps
        now, held = self._clock.now(), await self._held(saga)
        if any(class_of(group) in held for group in saga.groups):
            return False  # until the hold is lifted
        for group, bound in sorted(saga.groups.items()):
            report = self._vault.shred(saga.ref, now=now, group=group, below=bound)
            saga.kids = tuple(dict.fromkeys((*saga.kids, *report.kids)))
        saga.epoch = self._vault.standing_of(saga.ref).epoch
        # Each record of a field has a key of its own, which the passes destroy with it.
        is_field = scope_named(saga.scope or "").kind == "field"
        return not is_field or not (await self._left(saga)).readable

    async def _held(self, saga: Saga) -> frozenset[Category]:
        """Return the categories that a hold keeps: their keys are spared until it is lifted."""
        permissions = await self._views.get(PERMISSIONS, saga.ref)
        return frozenset() if permissions is None else frozenset(held_categories(permissions.holds))

    async def _kept(self, saga: Saga) -> Kept:
        """Return nothing: what a hold keeps of a scope leaves its erasure open until the lift."""
        del saga
        return NOTHING

    async def _derived(self, saga: Saga) -> bool:
        """Return whether no index names a record of the scope that stood before the request."""
        await self._passes.settle(timeout_s=self._wait_s)
        scope, below = scope_named(saga.scope or ""), await self._below(saga)
        return not any(row.place < below for row in await self._rows(saga.ref, scope))

    async def _tombstones(self, saga: Saga) -> bool:
        return not (await self._left(saga)).live

    async def _verified(self, saga: Saga) -> tuple[StoreOutcome, ...]:
        """Return what became of the records and their keys, by a reading of the log."""
        remains = await self._left(saga)
        counts = {
            "ledger": remains.records - remains.readable,
            "keystore": len({*saga.kids, *remains.kids}),
        }
        found = [
            StoreOutcome(
                store=store,
                count=count,
                outcome="erased" if count or any(saga.counts.values()) else "nothing held",
            )
            for store, count in counts.items()
        ]
        if remains.readable:
            found.append(
                StoreOutcome(
                    store="ledger, sealed with records that stay", outcome="erased", count=remains.readable,
                    ground="removed; the bytes go with the next compaction, their key stays",
                )
            )  # fmt: skip
        return tuple(found)

    async def _destroyed(self, saga: Saga) -> tuple[str, ...]:
        return (await self._left(saga)).kids

    async def _left(self, saga: Saga) -> ScopeRemains:
        scope, below = scope_named(saga.scope or ""), await self._below(saga)
        return await scope_remains(self._log, self._vault, saga.ref, scope, request=saga.request, below=below)

    async def _below(self, saga: Saga) -> int:
        """Return the offset of the request; before it is durable nothing is looked for."""
        asked = await request_of(self._log, saga.ref, saga.request)
        return 0 if asked is None else asked.offset
