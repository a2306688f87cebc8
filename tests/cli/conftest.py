"""The command on a home of its own, for each test or for a module."""

from pathlib import Path

import pytest

from tests.cli.cli import Cli, new_cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return the command on a home that does not exist yet."""
    return new_cli(tmp_path / "cli")
