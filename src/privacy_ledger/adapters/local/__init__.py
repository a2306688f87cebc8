"""The embedded log: one SQLite file that several processes append to and read."""

from privacy_ledger.adapters.local.log import LocalLog

__all__ = ["LocalLog"]
