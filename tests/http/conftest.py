"""The command's fixtures: a home that does not exist yet, and one in which person 1 enrolled."""

from tests.cli.conftest import cli, forks, template, used

__all__ = ["cli", "forks", "template", "used"]
