"""The command's fixtures, and a service on a real port that answers as a test says."""

from collections.abc import Iterator

import pytest

from tests.cli.conftest import cli, forks
from tests.sdk.service import Service, serving

__all__ = ["cli", "forks", "service"]


@pytest.fixture
def service() -> Iterator[Service]:
    """Yield a service that takes everything until it is told otherwise."""
    with serving() as found:
        yield found
