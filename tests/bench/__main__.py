"""`poe bench`: what the engine costs, as ratios to doing nothing and to its rivals in the same run.

Each figure is events per CPU-second of a process of its own. The kinds are interleaved, so that a
busy host slows them alike, and every produced view is compared with what was expected. A bar that
is not met is said; only a view of ours that is not exact makes the exit code 1.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
from msgspec import structs

from privacy_ledger.testing.broker import BrokerUnavailable, running_broker
from tests.bench.compare import Compare
from tests.bench.growth import Cell, Growth, plot
from tests.bench.keystore import Keystores
from tests.bench.latency import Latency
from tests.bench.memory import Memory
from tests.bench.report import Report, inexact, report_of, text
from tests.bench.run import FULL, QUICK, Bench, Measured, Size
from tests.bench.screening import Screening
from tests.bench.topology import Topology

__all__ = ["main"]

KINDS: Final = (
    "core",
    "rivals",
    "topology",
    "ingest",
    "screen",
    "memory",
    "restore",
    "latency",
    "keystore",
)

WITHOUT_BROKER: Final = frozenset({"ingest", "keystore", "screen"})


def main(arguments: Sequence[str]) -> int:
    """Measure, print the report, write it where asked; return 1 when a view of ours was not exact."""
    chosen = _parser().parse_args(arguments)
    size = QUICK if chosen.quick else FULL
    if chosen.rounds:
        size = structs.replace(size, rounds=chosen.rounds, growth_rounds=chosen.rounds)
    folder = Path(tempfile.mkdtemp(prefix="privacy-ledger-bench-"))
    try:
        report = _measured(folder, size, only=frozenset(chosen.only), with_growth=chosen.growth)
    except BrokerUnavailable as error:
        print(f"KAFKA: NOT RUN ({error})")
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(text(report))
    if chosen.out is not None:
        chosen.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
        print(f"Written: {chosen.out}")
    if report.growth:
        chosen.plot.write_text(plot(report.growth), encoding="utf-8")
        print(f"Written: {chosen.plot}")
    return 1 if inexact(report) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="poe bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, no more")
    parser.add_argument("--rounds", type=int, help="how often each kind is measured")
    parser.add_argument("--only", action="append", choices=KINDS, default=[], help="these kinds; repeatable")
    parser.add_argument(
        "--growth", action="store_true", help="cost by partitions, subjects and workers instead"
    )
    parser.add_argument("--out", type=Path, help="write the report as JSON here")
    parser.add_argument(
        "--plot", type=Path, default=Path("growth.svg"), help="where the plot of --growth goes"
    )
    return parser


def _measured(folder: Path, size: Size, *, only: frozenset[str], with_growth: bool) -> Report:
    """Run everything that was chosen on one broker; embedded ingest, screen and keystore need none."""
    with ExitStack() as stack:
        bootstrap, kind = "", "none"
        if with_growth or not only or only - WITHOUT_BROKER:
            broker = stack.enter_context(running_broker())
            bootstrap, kind = broker.bootstrap, broker.kind
        bench = Bench(folder, size, bootstrap=bootstrap)
        cells: list[Cell] = []
        if with_growth:
            cells = Growth(bench).run()
        if only or not with_growth:
            kinds = list(_kinds(bench, only or frozenset(KINDS)))
            for number in range(size.rounds):
                for measured in kinds:
                    measured.round(number)
        return report_of(
            bench.figures, machine=_machine(), broker=kind, size=size, missing=bench.missing, growth=cells
        )


def _kinds(bench: Bench, only: frozenset[str]) -> list[Measured]:
    kinds: list[Measured] = []
    if only & {"core", "rivals"}:
        kinds.append(Compare(bench, with_rivals="rivals" in only))
    if only & {"topology", "ingest", "restore"}:
        topology = Topology(
            bench, with_ingest="ingest" in only, with_fold="topology" in only, with_restore="restore" in only
        )
        kinds.append(topology)
    if only & {"memory", "restore"}:
        kinds.append(Memory(bench, with_memory="memory" in only, with_restore="restore" in only))
    if "screen" in only:
        kinds.append(Screening(bench))
    if "latency" in only:
        kinds.append(Latency(bench))
    if "keystore" in only:
        kinds.append(Keystores(bench))
    return kinds


def _machine() -> dict[str, str]:
    return {
        "python": platform.python_version(), "machine": platform.machine(),
        "cpus": str(os.cpu_count()), "load": f"{os.getloadavg()[0]:.1f}",
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
