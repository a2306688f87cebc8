"""The account of released keys: closed reports, each with its hash in the audit log.

A report counts keys by role, purpose, category and outcome, over all processes. It never changes once
it is closed, so anybody who has it can prove by the log that it is the one of that time.
"""

import msgspec
from msgspec import Struct

from privacy_ledger.app.audit import AuditLog
from privacy_ledger.domain.merkle import leaf_hash
from privacy_ledger.ports.keeping import KeyKeeper, ReleaseCount, ReleaseReport
from privacy_ledger.ports.runtime import Clock

__all__ = ["Accounted", "KeyReleases"]


class Accounted(Struct, frozen=True, kw_only=True):
    """A closed report, its leaf hash in hex, and the leaf's place in the audit log; None: not there."""

    report: ReleaseReport
    leaf: str
    index: int | None


class KeyReleases:
    """Closes reports and puts their hashes into the audit log."""

    def __init__(self, keeper: KeyKeeper, *, audit: AuditLog, clock: Clock) -> None:
        """Take the keystore, the audit log and the clock."""
        self._keeper = keeper
        self._audit = audit
        self._clock = clock

    def running(self) -> tuple[ReleaseCount, ...]:
        """Return what was counted since the last report; each process adds to it every few seconds."""
        return self._keeper.released()

    async def closed(self) -> tuple[Accounted, ...]:
        """Return the closed reports, oldest first, as the audit log knows them."""
        return tuple([await self._accounted(report) for report in self._keeper.reports()])

    async def account(self) -> tuple[Accounted, ...]:
        """Close the running report, and append what the audit log does not hold yet; return that.

        Idempotent: a crash in between leaves a closed report whose leaf the next call appends, and
        two processes at once append each leaf once.

        Raises:
            Fenced: others appended to the audit log again and again; call it again.
        """
        self._keeper.close_report(now=self._clock.now())
        added = []
        for one in await self.closed():
            if one.index is None:
                index = await self._audit.append(bytes.fromhex(one.leaf))
                added.append(msgspec.structs.replace(one, index=index))
        return tuple(added)

    async def _accounted(self, report: ReleaseReport) -> Accounted:
        leaf = leaf_hash(msgspec.json.encode(report))
        proof = await self._audit.prove(leaf)
        return Accounted(report=report, leaf=leaf.hex(), index=None if proof is None else proof.index)
