"""The keystore in one SQLite file, with its key-encryption keys in a folder apart."""

from privacy_ledger.adapters.keystore.kek import FileKeks, Keks
from privacy_ledger.adapters.keystore.sqlite import SqliteKeyVault

__all__ = ["FileKeks", "Keks", "SqliteKeyVault"]
