"""The keystore in one SQLite file, shared by the processes of one machine."""

from collections.abc import Callable
from pathlib import Path

from privacy_ledger.adapters.keystore._cache import boot_seconds
from privacy_ledger.adapters.keystore._store import Store
from privacy_ledger.adapters.keystore._vault import JOURNAL_NAME, StoredKeyVault
from privacy_ledger.adapters.keystore.kek import FileKeks
from privacy_ledger.ports.runtime import Ids

__all__ = ["JOURNAL_NAME", "SqliteKeyVault"]


class SqliteKeyVault(StoredKeyVault):
    """A `KeyVault` in a file; what it destroys is gone from the file and its write-ahead log."""

    def __init__(
        self, path: Path, keks: FileKeks, *, ids: Ids, clock: Callable[[], float] = boot_seconds
    ) -> None:
        """Open the keystore, and create it with the first key-encryption key where both are new.

        Raises:
            HomeUnusable: the file is no keystore, or this SQLite cannot erase what it deletes.
            KeyUnavailable: file, key-encryption key or journal cannot be used; the message says which.
        """
        super().__init__(Store(path), keks, ids=ids, clock=clock)
