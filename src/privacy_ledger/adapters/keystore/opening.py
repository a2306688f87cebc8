"""Opens a keystore, wherever it is."""

from pathlib import Path

from privacy_ledger.adapters.keystore._database import Database
from privacy_ledger.adapters.keystore._store import Store
from privacy_ledger.adapters.keystore._vault import StoredKeyVault
from privacy_ledger.adapters.keystore.address import KeystorePlace
from privacy_ledger.adapters.keystore.kek import FileKeks
from privacy_ledger.adapters.keystore.sqlite import SqliteKeyVault
from privacy_ledger.ports.runtime import Ids

__all__ = ["open_database", "open_keystore"]


def open_keystore(place: KeystorePlace, keks: FileKeks, *, ids: Ids) -> StoredKeyVault:
    """Open a keystore, and create it where it is new.

    Raises:
        HomeUnusable: there is something else, or what may lose keys.
        KeyUnavailable: it cannot be reached, or its key-encryption keys or journal cannot be used.
    """
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        return SqliteKeyVault(place, keks, ids=ids)
    # Loaded where it is used: a home needs no driver.
    from privacy_ledger.adapters.keystore.postgres import PostgresKeyVault  # noqa: PLC0415

    return PostgresKeyVault(place, keks, ids=ids)


def open_database(place: KeystorePlace) -> Database:
    """Open what holds a keystore's rows, and create it empty where it is new; for a restore only."""
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        return Store(place)
    from privacy_ledger.adapters.keystore._postgres import PostgresStore  # noqa: PLC0415 - as above

    return PostgresStore(place)
