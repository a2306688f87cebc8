"""What the contract of keystores asks of a test: where a keystore is, and what it has for operators."""

from pathlib import Path
from typing import Protocol

from privacy_ledger.adapters.keystore.restoring import Restored
from privacy_ledger.ports.keeping import KeyKeeper
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.observe import KeyCacheFigures

__all__ = ["KeptVault", "Place"]


class KeptVault(KeyVault, Protocol):
    """A keystore with its operators' side."""

    @property
    def keeper(self) -> KeyKeeper:
        """The same keystore, for operators."""
        ...

    @property
    def cache_figures(self) -> KeyCacheFigures:
        """How many keys are in memory."""
        ...

    def forget_idle(self) -> None:
        """Forget what needs to be forgotten though nobody asks."""
        ...


class Place(Protocol):
    """Where the test's own keystore is."""

    keys: Path

    def open(self) -> KeptVault:
        """Open it once more; the test's end closes it."""
        ...

    def restore(self, backup: Path) -> Restored:
        """Put a backup in its place."""
        ...

    def lose(self) -> None:
        """Lose the keystore, but not its keys."""
        ...

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass for leases."""
        ...
