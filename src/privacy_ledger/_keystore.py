"""Where the keystore of a home or a cluster is, and how it is opened: a part of the wiring."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.keystore import FileKeks, KeystorePlace, StoredKeyVault, open_keystore
from privacy_ledger.adapters.keystore.restoring import Restored, restore_keystore
from privacy_ledger.adapters.local.home import Home, open_home
from privacy_ledger.adapters.no_dumps import forbid_dumps
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.app.daily_keys import DailyKeys
from privacy_ledger.app.key_care import KeyCare
from privacy_ledger.app.key_releases import KeyReleases
from privacy_ledger.domain.errors import HomeUnusable, KeyUnavailable
from privacy_ledger.domain.key_release import Caller, Grant
from privacy_ledger.ports.keeping import KeyKeeper
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.runtime import Clock, Ids, Wrap
from privacy_ledger.settings import Settings

__all__ = [
    "KeyPlaces",
    "OpenedKeystore",
    "Restorer",
    "care_of",
    "open_vault",
    "places_of",
    "restorer_for",
]


class KeyPlaces(Struct, frozen=True, kw_only=True):
    """Three things that lie apart: wrapped keys, the keys that wrap them, and backups of the former."""

    keystore: KeystorePlace
    keys: Path
    backups: Path


class OpenedKeystore(Struct, frozen=True, kw_only=True):
    """An open keystore, as each caller sees it, and as operators do; `bare` is it without a wrap."""

    keeper: KeyKeeper
    restorer: "Restorer"
    bare: StoredKeyVault
    places: KeyPlaces
    wrap: Wrap

    def released_to(self, caller: Caller) -> KeyVault:
        """Return the keystore with the keys that are released to a declared caller, and no others."""
        return self.wrap("vault", self.bare.released_to(caller))

    def released_to_pass(self, name: str, grant: Grant) -> KeyVault:
        """Return the keystore with the keys that a pass needs, and no others."""
        return self.wrap("vault", self.bare.released_to_pass(name, grant))

    def forget_idle(self) -> None:
        """Forget keys that others shredded, and every key of a process that uses none; call it often.

        A keystore that cannot be reached is no error here: no key is left in memory then.
        """
        with suppress(KeyUnavailable):
            self.bare.forget_idle()

    def releases(self, audit: AuditLog, *, clock: Clock) -> KeyReleases:
        """Return the account of the keys that were released."""
        return KeyReleases(self.keeper, audit=audit, clock=clock)

    def daily(self, audit: Callable[[], AuditLog], *, clock: Clock, ids: Ids) -> DailyKeys:
        """Return the daily roll of the epoch; each look has a connection of its own."""

        @contextmanager
        def open_care() -> Iterator[KeyCare]:
            bare = open_keystore(self.places.keystore, FileKeks(self.places.keys), ids=ids)
            try:
                yield KeyCare(self.wrap("keeper", bare.keeper), clock=clock, backups=self.places.backups)
            finally:
                bare.close()

        async def account() -> None:
            await self.releases(audit(), clock=clock).account()

        return DailyKeys(open_care, account=account, clock=clock)

    def close(self) -> None:
        """Close the keystore for all callers; idempotent."""
        self.wrap("vault", self.bare).close()


def places_of(settings: Settings, home: Home | None) -> KeyPlaces:
    """Return where the keystore of a home is, or of the cluster when there is no home.

    Raises:
        HomeUnusable: the keys would lie inside the home.
    """
    name = "cluster" if home is None else home.file.id
    data = settings.data_home / "privacy-ledger"
    keys = settings.keys or data / "keys" / name
    if home is not None and keys.resolve().is_relative_to(home.path.resolve()):
        raise HomeUnusable(
            "The key folder lies inside the home: a copy of the home would carry its keys. "
            "Set PRIVACY_LEDGER_KEYS to a folder outside."
        )
    return KeyPlaces(
        keystore=settings.keystore or (data if home is None else home.path) / "keystore.db",
        keys=keys,
        backups=settings.key_backups or data / "key-backups" / name,
    )


def open_vault(places: KeyPlaces, *, ids: Ids, wrap: Wrap) -> OpenedKeystore:
    """Open a keystore, and create it where it is new; from then on this process leaves no core dump."""
    forbid_dumps()
    bare = open_keystore(places.keystore, FileKeks(places.keys), ids=ids)
    return OpenedKeystore(
        wrap=wrap, keeper=wrap("keeper", bare.keeper), bare=bare, places=places,
        restorer=wrap("keeper", Restorer(places, ids=ids)),
    )  # fmt: skip


class Restorer:
    """Puts backups in the place of a keystore that may be lost."""

    def __init__(self, places: KeyPlaces, *, ids: Ids) -> None:
        """Take where everything lies; nothing is opened yet."""
        self._places = places
        self._ids = ids

    def restore(self, backup: Path, *, beside_others: bool = False) -> Restored:
        """Restore a backup; refused while a process holds keys, unless told to."""
        return restore_keystore(
            self._places.keystore, backup, FileKeks(self._places.keys), ids=self._ids,
            beside_others=beside_others,
        )  # fmt: skip


def restorer_for(settings: Settings) -> Restorer:
    """Return what restores the keystore of a home or a cluster; the keystore may be lost.

    Raises:
        HomeUnusable: there is no home of which it could be.
    """
    ids = SystemIds()
    if settings.cluster is None and not settings.home.exists():
        raise HomeUnusable("There is no home here. Restore the home first, then its keystore.")
    home = None if settings.cluster is not None else open_home(settings.home, ids=ids)
    return Restorer(places_of(settings, home), ids=ids)


def care_of(keystore: OpenedKeystore, clock: Clock) -> KeyCare:
    """Return the care of a keystore: its epochs and backups."""
    return KeyCare(keystore.keeper, clock=clock, backups=keystore.places.backups)
