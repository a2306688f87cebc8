"""The command on a home of its own, for each test or for a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.cli import Cli, enrolled, new_cli
from tests.cli.forks import Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Yield the server that forks for every command."""
    server = Forks()
    yield server
    server.close()


@pytest.fixture
def cli(tmp_path: Path, forks: Forks) -> Cli:
    """Return the command on a home that does not exist yet."""
    return new_cli(tmp_path / "cli", forks)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Cli:
    """Return a home in which person 1 enrolled; copied, never changed."""
    cli = new_cli(tmp_path_factory.mktemp("template") / "cli", forks)
    assert cli.ingest([enrolled(1)]).code == 0
    return cli


@pytest.fixture
def used(template: Cli, tmp_path: Path) -> Cli:
    """Return a home of the test's own in which person 1 enrolled."""
    return template.copied(tmp_path / "used")
