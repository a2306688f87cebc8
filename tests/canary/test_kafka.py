"""Canaries go through a cluster: broker, changelogs, stores, PostgreSQL and its write-ahead log."""

import shutil
import subprocess
import sys
from copy import copy
from pathlib import Path
from typing import Final

import pytest
from msgspec import structs

from privacy_ledger.testing.broker import BrokerProcess
from privacy_ledger.testing.postgres import PostgresProcess
from privacy_ledger.testing.scanner import Scanner
from tests.canary.kafka import CanaryCluster, run

PEOPLE: Final = 20
SEED: Final = 12


@pytest.mark.timeout(900)
async def test_no_byte_of_a_cluster_gives_a_canary_away(
    broker_process: BrokerProcess, postgres: PostgresProcess, tmp_path: Path
) -> None:
    """Nor does any copy of it open afterwards; the receipts of the erasure hold on this log as well."""
    async with run(broker_process, postgres, tmp_path, people=PEOPLE, seed=SEED) as found:
        report, hunt, it, left = found
        again = copy(hunt)
        again.report = structs.replace(report)
        token = it.people[15].tokens["answer"].encode()
        (tmp_path / "said" / "late.log").write_bytes(b"no such answer: " + token)
        again.after({"output and logs": [tmp_path / "said"]})
        assert report.faults() == ()
        assert left == 0
        assert [fault.count("late.log: 15 answer, raw") for fault in again.report.faults()] == [1]
        # What the last roll has made worthless is still there to be tried: the write-ahead log keeps it.
        kept = Scanner({str(n): form for n, form in enumerate(hunt.wrapped)}, is_raw_only=True)
        assert kept.scan([postgres.data / "pg_wal", tmp_path / "copies"]) != []
        _check_proofs(it)


def _check_proofs(it: CanaryCluster) -> None:
    """Inclusion, growth and the offline program, for erasures that were made on a real broker."""
    files = sorted((it.folder / "receipts").rglob("*.json"))
    key = it.run("audit", "key")["verifier_key"]
    program = it.folder / "check.py"
    it.run("receipt", "verifier", "-o", program)
    report, grown = it.run("audit", "verify"), it.run("audit", "checkpoint", "--from", "1")
    verified = it.run("receipt", "verify", files[0], "--key", key)["verified"]
    alone = [sys.executable, "-I", str(program)]
    changed = it.folder / "changed.json"
    shutil.copy(files[0], changed)
    changed.write_text(changed.read_text().replace('"cause":"request"', '"cause":"restore"'))
    codes = [
        subprocess.run([*alone, str(file), key], capture_output=True, check=False).returncode
        for file in (*files, changed)
    ]
    assert len(files) >= 2
    assert verified
    assert codes == [0] * len(files) + [1]
    assert (report["faults"], report["leaves"] >= len(files)) == ([], True)
    assert grown["consistency"]
