"""The whole topology over sealed records, its restore, and the embedded ingest that makes them."""

import shutil
from typing import Final

from msgspec import structs

from tests.bench.bars import Kind
from tests.bench.measure import Figure
from tests.bench.processes import do
from tests.bench.run import Bench
from tests.bench.tasks import Ingest, Ledger, Noop, Prepare, RestoreSealed, SealedFill, SealedFold

__all__ = ["Topology"]

LEDGER: Final = "ledger.events.v1"


class Topology:
    """Measured over a copy of the ledger of its own each round: core writes to its source."""

    def __init__(self, bench: Bench, *, with_ingest: bool, with_fold: bool, with_restore: bool) -> None:
        """Prepare nothing yet: the first ingest makes the records."""
        self._bench = bench
        self._with_ingest = with_ingest
        self._with_fold = with_fold
        self._with_restore = with_restore
        self.ledger: Ledger | None = None

    def round(self, number: int) -> None:
        """Ingest into a fresh home; fold what the first one holds, and restore that."""
        bench = self._bench
        size = bench.size
        home = bench.folder / f"ingest-{number}"
        if number == 0 or self._with_ingest:
            ingest = Ingest(folder=str(home), lines=size.lines, learners=size.learners)
            bench.measure(Kind.INGEST, lambda: do(ingest, Figure))
        if number > 0:
            shutil.rmtree(home, ignore_errors=True)
            home = bench.folder / "ingest-0"
        if self._with_fold or self._with_restore:
            ledger = self.ledger = self.ledger or do(Prepare(folder=str(home)), Ledger)
            self._fold(number, str(home), ledger)

    def _fold(self, number: int, home: str, ledger: Ledger) -> None:
        bench = self._bench
        prefix = f"{bench.prefix}sealed-{number}."
        last = do(SealedFill(bootstrap=bench.bootstrap, home=home, prefix=prefix), int)
        noop = Noop(bootstrap=bench.bootstrap, topic=prefix + LEDGER, targets=(last,))
        bench.measure(Kind.NOOP_SEALED, lambda: do(noop, Figure))
        folder = bench.fresh(f"topology-{number}")
        fold = SealedFold(
            bootstrap=bench.bootstrap, folder=str(folder), home=home, prefix=prefix,
            ledger=ledger, last=last,
        )  # fmt: skip
        bench.measure(Kind.TOPOLOGY, lambda: do(fold, Figure))
        if self._with_restore:
            restore = RestoreSealed(
                bootstrap=bench.bootstrap, prefix=prefix, original=str(folder),
                folder=str(bench.fresh(f"restored-{number}")),
            )  # fmt: skip
            figure = bench.measure(Kind.RESTORE_SEALED, lambda: do(restore, Figure))
            if figure is not None:
                live = structs.replace(figure, events=int(figure.more["live_records"]), more={})
                bench.measure(Kind.RESTORE_LIVE, lambda: live)
        bench.drop(prefix)
