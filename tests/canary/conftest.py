"""The command for the canaries' home: forked from a server that has imported it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from privacy_ledger.testing.canary_home import Command, Said
from tests.cli.forks import Forks


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    """Yield what runs a command of the program."""
    server = Forks()

    def run(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Said:
        return server.run(words, folder=folder, environment=environment)

    yield run
    server.close()
