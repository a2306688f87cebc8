"""The fixture that every test of this folder uses."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from privacy_ledger.testing.broker import Broker
from tests.characterisation.stage import Stage, open_stage


@pytest_asyncio.fixture
async def stage(kafka: Broker, tmp_path: Path) -> AsyncIterator[Stage]:
    """Yield topics of the test's own, and a Faust application's view of them."""
    async with open_stage(kafka.bootstrap, tmp_path) as opened:
        yield opened
