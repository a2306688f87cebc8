"""`poe canary`: the long run of the canaries, through a home and a cluster; prints counts and a verdict.

It ends with code 1 where a token was found outside of what was handed out, where an envelope or a key
of the erased opens, where a planted leak was missed, or where a part could not run.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.logging import configure
from privacy_ledger.testing.broker import BrokerUnavailable, running_process
from privacy_ledger.testing.canary_home import Said
from privacy_ledger.testing.canary_run import CanaryReport
from privacy_ledger.testing.postgres import PostgresUnavailable, running_postgres
from tests.canary import home, kafka
from tests.cli.forks import Forks

__all__ = ["Verdict", "main"]

PEOPLE: Final = 1_000


class Verdict(Struct, frozen=True, kw_only=True):
    """What a part of the run came to; `not_run` says why there is no report."""

    part: str
    passed: bool
    faults: tuple[str, ...] = ()
    not_run: str | None = None
    report: CanaryReport | None = None
    seconds: float = 0.0


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for; return 0 when all of it ran and passed."""
    asked = _arguments().parse_args(arguments)
    configure(level="ERROR")
    parts = [asked.only] if asked.only else list(PARTS)
    verdicts = [_judged(part, people=asked.people, seed=asked.seed) for part in parts]
    if asked.json:
        document = {"commit": _commit(), "people": asked.people, "seed": asked.seed, "verdicts": verdicts}
        print(msgspec.json.encode(document).decode())
    else:
        for verdict in verdicts:
            print(_text(verdict))
        print(f"commit {_commit()}, seed {asked.seed}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="poe canary", description=__doc__)
    parser.add_argument("--people", type=int, default=PEOPLE, help="how many; one of ten is erased")
    parser.add_argument("--seed", type=int, default=1, help="makes the people and their tokens")
    parser.add_argument("--only", choices=sorted(PARTS), help="one part (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser


def _through_a_home(folder: Path, people: int, seed: int) -> tuple[CanaryReport, tuple[str, ...]]:
    server = Forks()

    def command(words: Sequence[str], environment: Mapping[str, str], where: Path) -> Said:
        return server.run(words, folder=where, environment=environment)

    try:
        report, _, _ = home.run(folder, people=people, seed=seed, command=command)
    finally:
        server.close()
    return report, report.faults()


def _through_a_cluster(folder: Path, people: int, seed: int) -> tuple[CanaryReport, tuple[str, ...]]:
    with running_process() as broker, running_postgres() as postgres:

        async def hunted() -> tuple[CanaryReport, int]:
            async with kafka.run(broker, postgres, folder, people=people, seed=seed) as found:
                report, _, _, left = found
                return report, left

        report, left = asyncio.run(hunted())
    late = (f"{left} envelopes of the erased are still in the broker's files",) if left else ()
    return report, (*report.faults(), *late)


PARTS: Final[dict[str, Callable[[Path, int, int], tuple[CanaryReport, tuple[str, ...]]]]] = {
    "home": _through_a_home,
    "kafka": _through_a_cluster,
}


def _judged(part: str, *, people: int, seed: int) -> Verdict:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="canaries-") as folder:
        try:
            report, faults = PARTS[part](Path(folder), people, seed)
        except (BrokerUnavailable, PostgresUnavailable) as unavailable:
            return Verdict(part=part, passed=False, not_run=str(unavailable))
    seconds = round(time.monotonic() - started, 1)
    return Verdict(part=part, passed=not faults, faults=faults, report=report, seconds=seconds)


def _text(verdict: Verdict) -> str:
    report = verdict.report
    if report is None:
        return f"{verdict.part}: NOT RUN: {verdict.not_run}"
    lines = [
        (
            f"{verdict.part}: {report.people} people, {report.erased} erased, {report.tokens} tokens; "
            f"{report.files} files, {report.size:,} bytes; {report.planted} leaks planted, "
            f"{report.planted - len(report.missed)} found; {verdict.seconds:.0f} s"
        ),
        (
            f"  hits before {len(report.hits_before)}, after {len(report.hits_after)} "
            f"(handed out: {report.handed_out}); {report.envelopes} envelopes, {report.keys} keys, "
            f"{report.pairs:,} pairs tried: opened {report.opened + report.opened_final}; live processes "
            f"asked {report.asked} times: released {report.released}"
        ),
        *(f"  FAULT: {fault}" for fault in verdict.faults),
        f"  {'PASSED' if verdict.passed else 'FAILED'}",
    ]
    return "\n".join(lines)


def _commit() -> str:
    """Return the commit that ran, with a + where the tree differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain") else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
