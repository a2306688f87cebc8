"""The keystore in a SQLite file or in PostgreSQL, with its key-encryption keys in a folder apart."""

from privacy_ledger.adapters.keystore._vault import StoredKeyVault
from privacy_ledger.adapters.keystore.address import KeystorePlace, PostgresAddress
from privacy_ledger.adapters.keystore.kek import FileKeks, Keks
from privacy_ledger.adapters.keystore.opening import open_keystore
from privacy_ledger.adapters.keystore.sqlite import SqliteKeyVault

__all__ = [
    "FileKeks",
    "Keks",
    "KeystorePlace",
    "PostgresAddress",
    "SqliteKeyVault",
    "StoredKeyVault",
    "open_keystore",
]
