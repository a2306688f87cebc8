"""Placeholder until its commands are written."""
import click
def register(group: click.Group) -> None:
    """Add commands."""
