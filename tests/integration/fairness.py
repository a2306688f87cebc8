"""The lane of fairness: somebody with very many records is lifted while others' data flows.

Everybody is in one partition, and one worker folds it. What others send is timed from its append to
the row of their view that shows it, in a quiet time and while the records are read again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.app._own import OwnRecords
from privacy_ledger.app.ingest import Ingest, Source
from privacy_ledger.bootstrap import Runtime, open_runtime, rules_in_force, subjects_of
from privacy_ledger.domain.events import ConsentGranted
from privacy_ledger.domain.key_release import COLLECT
from privacy_ledger.domain.topics import LEDGER_UNATTRIBUTED, view_topic
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.declaration import CORE
from privacy_ledger.ports.keys import Identity
from privacy_ledger.streams import subject_view
from tests.bench.measure import percentile
from tests.integration.cluster import Cluster
from tests.unit.home import parse, played

__all__ = ["RATIO_MAX", "FairnessReport", "run"]

RATIO_MAX: Final = 1.5
NAMESPACE: Final = "openedx:user_id"
BIG: Final = "1"
OTHERS: Final = 400
RATE: Final = 20.0
"""Events of others a second: each is seen long before its person's next one."""
QUIET_S: Final = 40.0
LOAD: Final = 10_000
POLL_S: Final = 0.002
WAIT_S: Final = 1800.0
PURPOSE: Final = "improve.analyse"
VIEW: Final = view_topic("subject_view")


class FairnessReport(Struct, frozen=True, kw_only=True):
    """What came of it; waits in milliseconds."""

    records: int
    refold_s: float
    slices: int
    quiet_p99_ms: float
    busy_p99_ms: float
    busy_max_ms: float
    quiet_events: int
    busy_events: int
    is_whole: bool

    @property
    def ratio(self) -> float:
        """How much longer others wait while the records are read again, at the 99th percentile."""
        return self.busy_p99_ms / self.quiet_p99_ms

    @property
    def is_fair(self) -> bool:
        """Whether the bound holds, and nothing of the large subject is lost or doubled."""
        return self.is_whole and self.ratio <= RATIO_MAX


class _Flow:
    """Events of others at an even pace, and how long each took to be seen."""

    def __init__(self, runtime: Runtime, own: OwnRecords, refs: Sequence[SubjectRef]) -> None:
        self._runtime = runtime
        self._own = own
        self._refs = refs
        self._due: dict[bytes, float] = {}
        self.waits_ms: list[float] = []

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[list[float]]:
        """Let data flow, and yield the waits so far; at the end all that was sent has been seen."""
        self.waits_ms = []
        stopping = asyncio.Event()
        # Where the view ends is asked before the first event goes out: a row before it is never looked at.
        after = await self._runtime.log.end(VIEW, 0) - 1
        sending = asyncio.create_task(self._send(stopping))
        watching = asyncio.create_task(self._watch(after))
        try:
            yield self.waits_ms
            stopping.set()
            await sending
            async with asyncio.timeout(WAIT_S):
                while self._due and not watching.done():  # noqa: ASYNC110 - another process writes the view
                    await asyncio.sleep(POLL_S)
            if watching.done():
                watching.result()
        finally:
            sending.cancel()
            watching.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)

    async def _send(self, stopping: asyncio.Event) -> None:
        number, due = 0, time.perf_counter()
        while not stopping.is_set():
            ref = self._refs[number % len(self._refs)]
            fact = ConsentGranted(
                occurred_at=self._runtime.clock.now(), purpose=PURPOSE, notice="n.v1", is_assumed=False
            )  # fmt: skip
            record = self._own.sealed(ref, fact)
            self._due[ref] = time.perf_counter()
            await self._own.append((record,))
            number, due = number + 1, due + 1 / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def _watch(self, after: int) -> None:
        while True:
            rows = await self._runtime.log.read(VIEW, 0, after=after, limit=5000)
            now = time.perf_counter()
            for row in rows:
                since = self._due.pop(row.key[:16], None)
                if since is not None:
                    self.waits_ms.append((now - since) * 1000)
                after = row.offset
            await asyncio.sleep(POLL_S)


async def run(bootstrap: str, folder: Path, *, records: int, quiet_s: float = QUIET_S) -> FairnessReport:
    """Restrict somebody, send so many of their records, and lift them while others' data flows."""
    cluster = Cluster(bootstrap, folder, partitions=1)
    await cluster.create()
    try:
        async with open_runtime(cluster.settings) as runtime:
            cluster.worker()
            return await _measured(runtime, records, quiet_s)
    finally:
        for worker in cluster.workers:
            worker.end()


async def _measured(runtime: Runtime, records: int, quiet_s: float) -> FairnessReport:
    names = [str(number) for number in range(10, 10 + OTHERS)]
    await _load(runtime, [played(name, event=f"e{name}") for name in (BIG, *names)])
    subjects = await subjects_of(runtime)
    await subjects.restrict(f"{NAMESPACE}:{BIG}", ground="accuracy")
    for start in range(0, records, LOAD):
        count = min(LOAD, records - start)
        await _load(runtime, [played(BIG, event=f"m{start + n}") for n in range(count)])
        await runtime.passes.settle(timeout_s=WAIT_S)
    found = runtime.vault.find(tuple(Identity(NAMESPACE, name) for name in (BIG, *names)))
    big, *refs = [one.ref for one in found if one is not None]
    own = OwnRecords(
        log=runtime.log, vault=runtime.vault, codec=runtime.codec, clock=runtime.clock,
        ids=runtime.ids, rules=await rules_in_force(runtime),
    )  # fmt: skip
    flow = _Flow(runtime, own, refs)
    async with flow.flowing() as waits:
        await asyncio.sleep(quiet_s)
    quiet = sorted(waits)
    before = (await runtime.views.position(CORE, 0)).slices
    async with flow.flowing() as waits:
        started = time.monotonic()
        lifted = await subjects.lift(f"{NAMESPACE}:{BIG}", notified_at=runtime.clock.now())
        async with asyncio.timeout(WAIT_S):
            # Another process folds: how far it is can only be looked at.
            while not (position := await runtime.views.position(CORE, 0)).has_passed(lifted[0]):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S * 10)
        refold_s = time.monotonic() - started
    busy = sorted(waits)
    view = await runtime.views.get(subject_view.TABLE, big)
    counts = {} if view is None else subject_view.merge(view).counts
    return FairnessReport(
        records=records, refold_s=refold_s, slices=position.slices - before,
        quiet_p99_ms=percentile(quiet, 0.99), busy_p99_ms=percentile(busy, 0.99), busy_max_ms=busy[-1],
        quiet_events=len(quiet), busy_events=len(busy),
        is_whole=counts.get("video.played.v1") == records + 1,
    )  # fmt: skip


async def _load(runtime: Runtime, lines: Sequence[bytes]) -> None:
    """Ingest as an edge that waits for no pass."""
    r = runtime
    lane = LedgerCodec(r.released_to(COLLECT), partitions=r.partitions, stream=LEDGER_UNATTRIBUTED)
    ingest = Ingest(
        log=r.log, vault=r.released_to(COLLECT), codec=r.codec, lane_codec=lane, views=r.views, clock=r.clock,
        ids=r.ids, rules=await rules_in_force(r),
    )  # fmt: skip
    source = Source(name="test", parse=parse, default_consents=(PURPOSE,))
    summary = await ingest.run(enumerate(lines, start=1), source)
    assert not summary.refused, summary.reasons
