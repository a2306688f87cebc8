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
from pathlib import Path
from typing import Final

from msgspec import structs

from privacy_ledger.adapters.keystore.address import place_of
from privacy_ledger.logging import configure
from privacy_ledger.testing.broker import BrokerUnavailable, running_broker
from privacy_ledger.testing.crashes import Crashes, Report, Run, enumerate_crashes, scratch
from privacy_ledger.testing.faults import Point
from privacy_ledger.testing.postgres import PostgresUnavailable, running_postgres
from tests.crash.kafka import NAME as ENGINE
from tests.crash.kafka import Engines
from tests.crash.kafka_erasure import NAME as SAGAS
from tests.crash.kafka_erasure import Sagas
from tests.crash.scenarios import HOME_SCENARIOS, OnHome
from tests.integration.cluster import Cluster

NAMES = (*(kind.name for kind in HOME_SCENARIOS), ENGINE, SAGAS)
SLICES = 2
"""Parts of a scenario that run apart, so that the processors are busy to the end."""
PAIRS = 2000


def main() -> int:
    """Run what the arguments ask for; return 0 when nothing is broken and all of it ran."""
    asked = _arguments().parse_args()
    configure(level="ERROR")
    wanted = asked.scenario or NAMES
    kinds = [kind for kind in HOME_SCENARIOS if kind.name in wanted]
    points = [Point.read(text) for text in asked.at or ()]
    if points:
        (name,) = wanted
        report = _on_kafka(name, points) if name in KAFKA_SCENARIOS else _repeated(kinds[0], points)
        return 1 if _told(report) or shortfalls([report], pairs=0) else 0
    started = time.monotonic()
    reports = homes(kinds, jobs=asked.jobs, pairs=asked.pairs, seed=asked.seed, every=True)
    code = 0
    for name in KAFKA_SCENARIOS:
        if name not in wanted:
            continue
        try:
            reports.append(_on_kafka(name, ()))
        except (BrokerUnavailable, PostgresUnavailable) as unavailable:
            print(f"{name}: NOT RUN: {unavailable}")
            code = 1
    code = max([code, *map(_told, reports)])
    for sentence in shortfalls(reports, pairs=asked.pairs if kinds else 0):
        print(sentence)
        code = 1
    count, pairs = sum(r.points for r in reports), sum(r.pairs for r in reports)
    broken = sum(len(r.violations) for r in reports)
    print(
        f"{count} points, {pairs} pairs, {broken} violations"
        f" (commit {_commit()}, seed {asked.seed}, {time.monotonic() - started:.0f} s)"
    )
    return code


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crash-points", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=NAMES, help="only these (default: all)")
    parser.add_argument("--at", action="append", help="end at this point; twice: then at one of the recovery")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs to sample, over all scenarios")
    parser.add_argument("--seed", type=int, default=1, help="chooses the pairs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    return parser


def _told(report: Report) -> int:
    """Print a report; return 1 where something is broken or did not run."""
    for violation in report.violations:
        print(violation)
    broken = len(report.violations)
    print(f"{report.scenario:>16}: {report.points} points, {report.pairs} pairs, {broken} violations")
    return 1 if report.violations else 0


def shortfalls(reports: Sequence[Report], *, pairs: int) -> list[str]:
    """Return what did not run though it was enumerated or asked for, one sentence each."""
    found = []
    for report in reports:
        if not report.points:
            found.append(f"{report.scenario:>16}: no point was enumerated")
        ran = min(report.ran, report.recovered)
        if ran < report.points:
            found.append(f"{report.scenario:>16}: only {ran} of {report.points} points ran")
    if (sampled := sum(report.pairs for report in reports)) < pairs:
        found.append(f"only {sampled} of {pairs} pairs ran")
    return found


def homes(
    kinds: Sequence[type[OnHome]], *, jobs: int | None, pairs: int, seed: int, every: bool
) -> list[Report]:
    """Run the points of these scenarios in several processes, and return a report of each.

    With `every` what is left at each point is recovered, else each distinct state once.
    """
    tasks = [(kind, number) for number in range(SLICES) for kind in kinds]
    share = -(-pairs // max(1, len(tasks)))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        slices = list(pool.map(partial(_slice, pairs=share, seed=seed, every=every), tasks))
    return [_joined([report for report in slices if report.scenario == kind.name]) for kind in kinds]


def _joined(reports: Sequence[Report]) -> Report:
    """Return the report of a scenario from those of its parts."""
    return Report(
        scenario=reports[0].scenario,
        points=sum(report.points for report in reports),
        ran=sum(report.ran for report in reports),
        recovered=sum(report.recovered for report in reports),
        pairs=sum(report.pairs for report in reports),
        violations=tuple(violation for report in reports for violation in report.violations),
    )


def _slice(task: tuple[type[OnHome], int], *, pairs: int, seed: int, every: bool) -> Report:
    """Run one part of a scenario in this process."""
    kind, number = task
    with scratch() as folder:
        return asyncio.run(
            enumerate_crashes(kind(), folder, pairs=pairs, seed=seed, every=every, slice_of=(number, SLICES))
        )


def _repeated(kind: type[OnHome], points: Sequence[Point]) -> Report:
    """Run one scenario of a home with these ends."""

    async def once() -> Run:
        with scratch() as folder:
            crashes = Crashes(kind(), folder)
            await crashes.prepare()
            await crashes.calm()
            return await crashes.run(*points)

    run = asyncio.run(once())
    return Report(
        scenario=kind.name, points=1, ran=1, recovered=1, pairs=len(points) - 1, violations=run.violations
    )


async def _engines(bootstrap: str, folder: Path, points: Sequence[Point]) -> Report:
    """End engines on a broker of our own."""
    cluster = Cluster(bootstrap, folder, partitions=1)
    await cluster.create()
    async with Engines.opened(cluster) as engines:
        return await engines.enumerated(points)


async def _sagas(bootstrap: str, folder: Path, points: Sequence[Point]) -> Report:
    """End erasures on a broker and a keystore server of our own."""
    cluster = Cluster(bootstrap, folder, partitions=2)
    with running_postgres() as server:
        cluster.settings = structs.replace(cluster.settings, keystore=place_of(server.url()))
        await cluster.create()
        async with Sagas.opened(cluster) as sagas:
            return await sagas.enumerated(points)


KAFKA_SCENARIOS: Final = {ENGINE: _engines, SAGAS: _sagas}


def _on_kafka(name: str, points: Sequence[Point]) -> Report:
    """Run a scenario on a broker of our own at these points, or at every one of its."""
    with running_broker() as broker, scratch() as folder:
        return asyncio.run(KAFKA_SCENARIOS[name](broker.bootstrap, folder, points))


def _commit() -> str:
    """Return the commit that ran, with a + where the tree differs from it."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return name + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()
