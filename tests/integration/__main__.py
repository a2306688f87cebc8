"""The long lanes: `python -m tests.integration LANE [--runs N]`; each prints what it really did.

A lane runs on a broker of its own. It ends with code 1 where an event was lost or doubled, or a
bound was passed.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from privacy_ledger.logging import configure
from privacy_ledger.testing.broker import running_broker
from privacy_ledger.testing.broker_cluster import running_cluster
from tests.integration import chaos, coordinator, fairness, pressure, zombie
from tests.integration.light import Verdict

STALL_S: Final = 15.0
SEED: Final = 340
FAIR_RECORDS: Final = (200_000, 1_000_000)


def kills(run: int) -> bool:
    """Kill workers while 300,000 events flow."""
    with running_broker() as broker, tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            chaos.run(
                broker.bootstrap, Path(folder), events=chaos.EVENTS_LONG, kills=chaos.KILLS_LONG,
                seed=SEED + run,
            )
        )  # fmt: skip
    say(run, report.verdict, f"{report.kills} kills, {report.takeovers} take-overs")
    return report.verdict.is_exact


def zombies(run: int) -> bool:
    """Freeze workers past their session."""
    with running_broker() as broker, tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(zombie.run(broker.bootstrap, Path(folder), pauses=zombie.PAUSES_LONG))
    say(run, report.verdict, f"{report.pauses} zombies, {report.fenced} fenced, {report.rejoined} rejoined")
    return report.verdict.is_exact and report.fenced >= report.pauses and report.rejoined == report.pauses


def paused_coordinator(run: int) -> bool:
    """Freeze the coordinator, under aiokafka's default settings and under ours, alone and among three."""
    is_good = True
    for nodes in (1, 3):
        for has_defaults in (True, False):
            with running_cluster(nodes) as brokers, tempfile.TemporaryDirectory() as folder:
                report = asyncio.run(
                    coordinator.run(
                        brokers, Path(folder), pauses=coordinator.PAUSES_LONG,
                        has_client_defaults=has_defaults,
                    )
                )  # fmt: skip
            whose = "aiokafka's defaults" if has_defaults else "our settings"
            say(
                run, report.verdict,
                f"brokers {nodes}, {whose}: {report.pauses} pauses of {coordinator.PAUSE_S:.0f} s, "
                f"{report.shares} shares, longest stall after a resume {report.longest_stall_s:.1f} s "
                f"(bound {STALL_S:.0f} s)",
            )  # fmt: skip
            is_good = is_good and report.verdict.is_exact and report.longest_stall_s <= STALL_S
    return is_good


def under_pressure(run: int) -> bool:
    """Send a burst and a hot subject to a worker with a bounded memory."""
    with running_broker() as broker, tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            pressure.run(broker.bootstrap, Path(folder), events=pressure.EVENTS_LONG, seed=SEED + run)
        )
    say(run, report.verdict, pressure.describe(report))
    return report.verdict.is_exact and report.is_bounded


def fair_refolds(run: int) -> bool:
    """Lift somebody with very many records while others' data flows; two sizes."""
    is_good = True
    for records in FAIR_RECORDS:
        with running_broker() as broker, tempfile.TemporaryDirectory() as folder:
            report = asyncio.run(fairness.run(broker.bootstrap, Path(folder), records=records))
        print(
            f"run {run}: {records:,} records read again in {report.refold_s:.1f} s, {report.slices} slices; "
            f"others append to view p99 {report.quiet_p99_ms:.0f} ms quiet ({report.quiet_events}), "
            f"{report.busy_p99_ms:.0f} ms meanwhile ({report.busy_events}, at most "
            f"{report.busy_max_ms:.0f} ms): ratio {report.ratio:.2f} (bound {fairness.RATIO_MAX}); "
            f"{'whole' if report.is_whole else 'NOT WHOLE'}",
            flush=True,
        )
        is_good = is_good and report.is_fair
    return is_good


LANES: Final[dict[str, Callable[[int], bool]]] = {
    "kills": kills,
    "zombies": zombies,
    "coordinator": paused_coordinator,
    "pressure": under_pressure,
    "fairness": fair_refolds,
}


def say(run: int, verdict: Verdict, what: str) -> None:
    """Print one run's line."""
    print(
        f"run {run}: {verdict.events} events, {what}; lost {verdict.lost}, doubled {verdict.doubled}",
        flush=True,
    )


def commit() -> str:
    """Return the commit that is measured, and whether the tree differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short=10", "HEAD") + (" with changes" if git("status", "--porcelain") else "")


def main() -> int:
    """Run one lane as often as asked."""
    parser = argparse.ArgumentParser(prog="poe chaos", description=__doc__)
    parser.add_argument("lane", choices=LANES, nargs="?", default="kills")
    parser.add_argument("--runs", type=int, default=1)
    chosen = parser.parse_args()
    configure(level="ERROR")  # what the test's own clients say of a broker that stands still is no news
    print(f"lane {chosen.lane}, {chosen.runs} runs, commit {commit()}", flush=True)
    started = time.monotonic()
    good = [LANES[chosen.lane](run) for run in range(1, chosen.runs + 1)]
    print(f"{sum(good)} of {len(good)} runs good, in {time.monotonic() - started:.0f} s")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
