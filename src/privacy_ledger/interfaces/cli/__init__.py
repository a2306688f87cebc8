"""The command `privacy-ledger`: data on standard output, talk on standard error."""

from privacy_ledger.interfaces.cli.main import main

__all__ = ["main"]
