"""A process that opened a keystore leaves no core dump, however it dies."""

import subprocess
import sys
from pathlib import Path

import pytest

OPENED = """
import asyncio, ctypes, resource, sys
from pathlib import Path
from privacy_ledger.bootstrap import open_runtime
from tests.unit.home import settings

async def main():
    async with open_runtime(settings(Path(sys.argv[1])), prepare=False):
        print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_a_process_with_keys_cannot_be_dumped(tmp_path: Path) -> None:
    """Neither into a file nor into a program, and its limit cannot be raised again."""
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(tmp_path)],
        capture_output=True, check=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout == "(0, 0) 0\n"
