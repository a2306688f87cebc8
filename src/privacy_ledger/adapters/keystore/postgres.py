"""The keystore in PostgreSQL, shared by the processes of many machines."""

from collections.abc import Callable

from privacy_ledger.adapters.keystore._cache import boot_seconds
from privacy_ledger.adapters.keystore._postgres import PostgresStore
from privacy_ledger.adapters.keystore._vault import StoredKeyVault
from privacy_ledger.adapters.keystore.address import PostgresAddress
from privacy_ledger.adapters.keystore.kek import FileKeks
from privacy_ledger.ports.runtime import Ids

__all__ = ["PostgresKeyVault"]


class PostgresKeyVault(StoredKeyVault):
    """A `KeyVault` in a schema of a database; the folder of keys is one that all machines share.

    What it destroys is unreadable at once and for every process. Its wrapped bytes stay in tables,
    write-ahead log, standbys and backups until the key-encryption keys of their epochs are destroyed.
    """

    def __init__(
        self,
        address: PostgresAddress,
        keks: FileKeks,
        *,
        ids: Ids,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        """Open the keystore, and create it with the first key-encryption key where both are new.

        Raises:
            HomeUnusable: the schema is of another layout, or its server may lose what it commits.
            KeyUnavailable: server, key-encryption key or journal cannot be used; the message says which.
        """
        super().__init__(PostgresStore(address), keks, ids=ids, clock=clock)
