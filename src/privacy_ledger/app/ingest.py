"""Ingest: lines of a producer become sealed records, each person's in their own partition.

Order: parse, identify, admit (fail closed), split per person, keys, seal, append. The edge's
decision is a fast pre-check; the passes decide in log order.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from privacy_ledger.app._members import Members
from privacy_ledger.app._ports import Ports, Seen
from privacy_ledger.app._run import Run
from privacy_ledger.app._terms import TermsBook
from privacy_ledger.app._verdicts import LineReport, Outcome, Summary
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.ports.atlas import Atlas
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.formats import Format
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.passes import Passes, Views
from privacy_ledger.ports.runtime import Clock, Ids

__all__ = [
    "BATCH_BYTES_MAX",
    "LINES_PER_BATCH",
    "Ingest",
    "LineReport",
    "OpenIngest",
    "Outcome",
    "Source",
    "Summary",
    "batches",
]

LINES_PER_BATCH: Final = 1000
BATCH_BYTES_MAX: Final = 1 << 25
"""A batch ends early above this many bytes: one line may be as long as a thousand usual ones."""


class Source(Struct, frozen=True, kw_only=True):
    """Who sends the lines, and what they may do.

    `is_authoritative`: may mint references, and with `registers_addresses` also for who is known by an
    address alone, who may have been erased by another id. `is_import`: a declared historical import, which
    lifts the sixty-day rule and nothing else. `default_consents`: granted for every subject of
    the run, marked assumed, but never against a withdrawal or objection of theirs.
    """

    name: str
    parse: Format
    is_authoritative: bool = True
    registers_addresses: bool = False
    is_import: bool = False
    default_consents: tuple[str, ...] = ()


class Ingest:
    """The use case; one instance may run many times, one run at a time."""

    def __init__(  # noqa: PLR0913 - every collaborator is named once, here
        self,
        *,
        log: EventLog,
        vault: KeyVault,
        codec: Codec,
        lane_codec: Codec,
        views: Views,
        clock: Clock,
        ids: Ids,
        rules: Rules,
        passes: Passes | None = None,
        atlas: Atlas | None = None,
        seen: Seen | None = None,
    ) -> None:
        """Take the ports.

        `lane_codec` binds `ledger.unattributed.v1`. `atlas`: where addresses are; None: nobody asks.
        `passes`: a run first waits until the views
        have passed what is in the log, so that nobody is refused for a grant not yet folded.
        `seen`: the embedded log's `live_tags`; None makes `duplicate` advisory.
        """
        self._ports = Ports(
            log=log, vault=vault, codec=codec, lane_codec=lane_codec, views=views, clock=clock,
            ids=ids, book=TermsBook(rules), atlas=atlas, passes=passes, seen=seen,
        )  # fmt: skip

    async def run(
        self,
        lines: Iterable[tuple[int, bytes | Refusal]],
        source: Source,
        *,
        on_line: Callable[[LineReport], None] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Summary:
        """Ingest lines, numbered from 1 and in order; return what became of them.

        Blank lines are passed over. Everything that is counted is durable when `on_progress` tells
        how many lines were read so far. Running the same lines again accepts none of them.

        Raises:
            BadInput: a default consent is for no purpose that consent allows; nothing was read.
            KeyUnavailable: the keystore cannot be reached; earlier batches are durable.
            StoreFull: no space is left; earlier batches are durable.
        """
        for purpose in source.default_consents:
            self._check_consent(purpose)
        if self._ports.passes is not None:
            await self._ports.passes.settle()
        run = _run_of(self._ports, source, with_reports=on_line is not None)
        await run.start()
        for batch in batches(lines):
            for report in await run.batch(batch):
                if on_line is not None:
                    on_line(report)
            if on_progress is not None:
                on_progress(run.summary.read)
        atlas = self._ports.atlas
        run.summary.location_fault = None if atlas is None else atlas.fault
        return run.summary

    async def begin(self, *, wait_s: float = 30.0) -> "OpenIngest":
        """Return an ingest that takes batches of several sources in turn, once the views have caught up.

        Raises:
            NotCaughtUp: they did not move for `wait_s`.
        """
        if self._ports.passes is not None:
            await self._ports.passes.settle(timeout_s=wait_s)
        return OpenIngest(self._ports)

    def _check_consent(self, purpose: str) -> None:
        rules = self._ports.book.rules
        usable = sorted(p for p in rules.consent_purposes if rules.is_allowed(p))
        if purpose not in usable:
            raise BadInput(
                Refusal.UNKNOWN_PURPOSE,
                f"A default consent names no purpose that rests on consent. Those are: {', '.join(usable)}.",
            )


class OpenIngest:
    """Batches of several sources in turn, over one picture of their subjects, for a short while.

    What others decide meanwhile, such as a withdrawal, it does not see; the passes do, in log order. So
    whoever holds one begins another within seconds. After an error it is of no use: begin another.
    """

    def __init__(self, ports: Ports) -> None:
        """Take the ports; nothing is read yet."""
        self._ports = ports
        self._members = Members(ports)
        self._runs: dict[Source, Run] = {}

    async def take(
        self, source: Source, lines: Sequence[bytes | Refusal], *, numbers: Sequence[int] | None = None
    ) -> list[LineReport]:
        """Ingest lines, none of them blank, and return a report for each, in order; all is durable then.

        `numbers`: where each lies at its source, for dead letters (default: its place, from 1).

        Raises:
            KeyUnavailable: the keystore cannot be reached. What was appended stays; repeat the batch.
            LogUnavailable: nor can the log.
            StoreFull: no space is left.
        """
        run = self._runs.get(source)
        if run is None:
            run = _run_of(self._ports, source, with_reports=True, members=self._members)
            await run.start()
            self._runs[source] = run
        places = range(1, len(lines) + 1) if numbers is None else numbers
        return await run.batch(tuple(zip(places, lines, strict=True)))


def _run_of(ports: Ports, source: Source, *, with_reports: bool, members: Members | None = None) -> Run:
    return Run(
        ports, source=source.name, parse=source.parse, may_mint=source.is_authoritative,
        registers_addresses=source.registers_addresses,
        is_import=source.is_import, default_consents=source.default_consents,
        with_reports=with_reports, members=members,
    )  # fmt: skip


def batches(lines: Iterable[tuple[int, bytes | Refusal]]) -> Iterator[list[tuple[int, bytes | Refusal]]]:
    """Yield the lines in lists that are bounded in number and in bytes."""
    batch: list[tuple[int, bytes | Refusal]] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line[1])
        if len(batch) == LINES_PER_BATCH or size > BATCH_BYTES_MAX:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
