"""The lane of crash points: every point, recovered one by one, and a sample of pairs."""

import argparse
import asyncio
import os
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from privacy_ledger.testing.crashes import Crashes, Report, Run, enumerate_crashes, scratch
from privacy_ledger.testing.faults import Point
from tests.crash.scenarios import HOME_SCENARIOS, OnHome

SLICES = 8
"""Parts of a scenario that run apart, so that the processors are busy to the end."""


def main() -> int:
    """Run what the arguments ask for; return 0 when nothing is broken and all of it ran."""
    asked = _arguments().parse_args()
    scenarios = [kind for kind in HOME_SCENARIOS if not asked.scenario or kind.name in asked.scenario]
    if asked.at:
        return _repeat(scenarios, [Point.read(text) for text in asked.at])
    started = time.monotonic()
    tasks = [(kind, number) for number in range(SLICES) for kind in scenarios]
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        reports = list(pool.map(partial(_slice, pairs=asked.pairs, seed=asked.seed), tasks))
    points = sum(report.points for report in reports)
    ran, recovered = sum(report.ran for report in reports), sum(report.recovered for report in reports)
    pairs = sum(report.pairs for report in reports)
    violations = [violation for report in reports for violation in report.violations]
    for violation in violations:
        print(violation)
    for kind in scenarios:
        of_kind = [report for report in reports if report.scenario == kind.name]
        count, doubles = sum(r.points for r in of_kind), sum(r.pairs for r in of_kind)
        broken = sum(len(r.violations) for r in of_kind)
        print(f"{kind.name:>16}: {count} points, {doubles} pairs, {broken} violations")
    print(
        f"{points} points, {pairs} pairs, {len(violations)} violations"
        f" (commit {_commit()}, seed {asked.seed}, {time.monotonic() - started:.0f} s)"
    )
    if ran < points or recovered < points:
        print(f"Only {min(ran, recovered)} of {points} points ran.")
        return 1
    return 1 if violations else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crash-points", description=__doc__)
    names = [kind.name for kind in HOME_SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="only these (default: all)")
    parser.add_argument("--at", action="append", help="end at this point; twice: then at one of the recovery")
    parser.add_argument("--pairs", type=int, default=1000, help="pairs to sample, over all scenarios")
    parser.add_argument("--seed", type=int, default=1, help="chooses the pairs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    return parser


def _slice(task: tuple[type[OnHome], int], *, pairs: int, seed: int) -> Report:
    """Run one part of a scenario in this process."""
    kind, number = task
    share = -(-pairs // (len(HOME_SCENARIOS) * SLICES))
    with scratch() as folder:
        return asyncio.run(
            enumerate_crashes(kind(), folder, pairs=share, seed=seed, every=True, slice_of=(number, SLICES))
        )


def _repeat(scenarios: Sequence[type[OnHome]], points: Sequence[Point]) -> int:
    """Run one scenario with these ends, and say what is broken."""
    (kind,) = scenarios

    async def once() -> Run:
        with scratch() as folder:
            crashes = Crashes(kind(), folder)
            await crashes.prepare()
            await crashes.calm()
            return await crashes.run(*points)

    run = asyncio.run(once())
    for violation in run.violations:
        print(violation)
    print(f"{len(run.violations)} violations at {', then '.join(map(str, points))}")
    return 1 if run.violations else 0


def _commit() -> str:
    """Return the commit that ran, with a + where the tree differs from it."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return name + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()
