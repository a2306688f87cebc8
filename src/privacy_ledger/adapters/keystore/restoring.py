"""Puts a backup in the place of a keystore, and applies the shred journal before anybody reads it."""

from pathlib import Path
from typing import Final, cast

from msgspec import Struct

from privacy_ledger.adapters.keystore._cache import LEASE_S, boot_seconds
from privacy_ledger.adapters.keystore._copies import load, verified
from privacy_ledger.adapters.keystore._database import Database
from privacy_ledger.adapters.keystore._journal import ShredJournal
from privacy_ledger.adapters.keystore._marks import Marks
from privacy_ledger.adapters.keystore._recorder import Recorder
from privacy_ledger.adapters.keystore._vault import JOURNAL_NAME
from privacy_ledger.adapters.keystore.address import KeystorePlace
from privacy_ledger.adapters.keystore.kek import FileKeks
from privacy_ledger.adapters.keystore.opening import open_database
from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.ports.runtime import Ids

__all__ = ["Restored", "restore_keystore"]

_NUMBERS: Final = ("revision", "restored", "epoch", "report")
"""What only grows, whatever copy takes the place of which."""
_NEXT: Final = ("revision", "restored")
"""What a restore itself counts up."""


class Restored(Struct, frozen=True, kw_only=True):
    """What a restore did: keys in the backup, and entries of the journal that were applied to it."""

    keys: int
    applied: int


def restore_keystore(
    place: KeystorePlace, backup: Path, keks: FileKeks, *, ids: Ids, beside_others: bool = False
) -> Restored:
    """Replace a keystore, lost or not, by a backup whose keys all open; durable on return.

    One transaction puts the rows in and applies the journal: a crash leaves the old keystore or the
    restored one, and nobody ever sees a restored one that is behind. Keys that were made after the
    backup are lost: what they sealed is unreadable. So nobody may hold keys meanwhile, unless
    `beside_others` says that it was thought of.

    Raises:
        HomeUnusable: the file is no whole backup, or another process holds keys.
        InvariantViolation: a key in it does not open.
        KeyUnavailable: it needs an epoch that was destroyed, or its journal is not the one here.
    """
    found = verified(backup, keks, ids=ids)
    database = open_database(place)
    try:
        recorder = Recorder(database, ShredJournal(keks.directory / JOURNAL_NAME), Marks(found.pepper), ids)
        with database.write():
            if not beside_others:
                _refuse_while_used(database)
            before = {name: database.number(name) for name in _NUMBERS}
            load(database, backup)
            for name in _NUMBERS:
                database.set_number(name, max(before[name], database.number(name)) + (name in _NEXT))
            applied = recorder.catch_up()
            if not applied:  # otherwise it was done with the rest
                recorder.destroy_ended()
        database.scrub()
    finally:
        database.close()
    return Restored(keys=found.keys, applied=applied)


def _refuse_while_used(database: Database) -> None:
    now = database.lease_now(boot_seconds())
    question = "SELECT count(*) FROM leases WHERE until >= ? AND until <= ?"
    holders = cast("int", database.select(question, (now, now + LEASE_S))[0][0])
    if holders:
        raise HomeUnusable(
            f"{holders} processes hold keys of the keystore: what they seal meanwhile could be lost. "
            f"Stop workers and commands, wait {LEASE_S:.0f} seconds, and repeat."
        )
