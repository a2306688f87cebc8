"""Key-encryption keys by epoch, one file each, in a folder that only the owner reads."""

import errno
import os
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from privacy_ledger.domain.errors import KekMissing, KeyUnavailable, LedgerError, StoreFull
from privacy_ledger.ports.runtime import Ids

__all__ = ["FIRST_EPOCH", "KEK_BYTES", "FileKeks", "Keks", "owner_only", "storage_error", "sync_folder"]

FIRST_EPOCH: Final = 1
KEK_BYTES: Final = 32
_OTHERS: Final = 0o077


class Keks(Protocol):
    """The key-encryption keys; each wrapped key stores the epoch that wrapped it."""

    def epochs(self) -> tuple[int, ...]:
        """Return the epochs whose keys are there, oldest first."""
        ...

    def current(self) -> tuple[int, bytes]:
        """Return the newest epoch and its key: what is wrapped now is wrapped under it.

        Raises:
            KekMissing: there is none.
            KeyUnavailable: it cannot be read.
        """
        ...

    def get(self, epoch: int) -> bytes:
        """Return the key of an epoch.

        Raises:
            KekMissing: it is not there; the message names the epoch.
            KeyUnavailable: it must not be used; so does this message.
        """
        ...

    def create(self, epoch: int, *, ids: Ids) -> None:
        """Create an epoch's key durably; one that is there is left as it is."""
        ...

    def destroy(self, epoch: int) -> None:
        """Destroy an epoch's key, durable on return; idempotent."""
        ...


class FileKeks:
    """`epoch-<n>.kek` files of 32 random bytes, mode 0600, in a folder of mode 0700.

    The folder lies outside the home: a copy of the keystore alone opens nothing. A key that was
    read stays in memory until its file is gone, or the process ends.
    """

    def __init__(self, directory: Path) -> None:
        """Take the folder; nothing is read or created yet."""
        self._directory = directory
        self._read: dict[int, bytes] = {}

    def __repr__(self) -> str:
        """Return the folder and never a key."""
        return f"FileKeks({str(self._directory)!r})"

    @property
    def directory(self) -> Path:
        """Return the folder; the shred journal lies there too."""
        return self._directory

    def epochs(self) -> tuple[int, ...]:
        """Return the epochs that have a file, oldest first; none when the folder is missing."""
        try:
            names = [entry.name for entry in self._directory.iterdir()]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise storage_error(error, self._directory) from error
        numbers = (name.removeprefix("epoch-").removesuffix(".kek") for name in names if _is_kek(name))
        held = tuple(sorted(int(number) for number in numbers))
        for epoch in [epoch for epoch in self._read if epoch not in held]:
            del self._read[epoch]  # another process destroyed it
        return held

    def current(self) -> tuple[int, bytes]:
        """Return the newest epoch and its key."""
        epochs = self.epochs()
        if not epochs:
            raise KekMissing(
                f"There is no key-encryption key in {self._directory}. "
                "Restore that folder from its backup, or point PRIVACY_LEDGER_KEYS to it.",
                epoch=None,
            )
        return epochs[-1], self.get(epochs[-1])

    def get(self, epoch: int) -> bytes:
        """Return the key of an epoch; read once per process."""
        known = self._read.get(epoch)
        if known is None:
            known = self._read[epoch] = self._load(epoch)
        return known

    def create(self, epoch: int, *, ids: Ids) -> None:
        """Create an epoch's key durably; another process's file of that epoch is left as it is.

        The file is written apart and linked in when it is complete, so a crash leaves no half key.
        """
        path = self._path(epoch)
        part = self._directory / f".part-{ids.token(8).hex()}"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner_only(self._directory)
            _write_new(part, ids.token(KEK_BYTES))
            try:
                with suppress(FileExistsError):
                    os.link(part, path)
            finally:
                part.unlink()
            sync_folder(self._directory)
        except OSError as error:
            raise storage_error(error, self._directory) from error

    def destroy(self, epoch: int) -> None:
        """Overwrite and remove an epoch's file; the blocks of a snapshot or an SSD are beyond its reach."""
        path = self._path(epoch)
        self._read.pop(epoch, None)
        try:
            with path.open("r+b") as file:
                file.write(bytes(KEK_BYTES))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
            sync_folder(self._directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(error, path) from error

    def written_at(self, epoch: int) -> datetime:
        """Return when an epoch's file was written."""
        try:
            return datetime.fromtimestamp(self._path(epoch).stat().st_mtime, UTC)
        except OSError as error:
            raise storage_error(error, self._path(epoch)) from error

    def _load(self, epoch: int) -> bytes:
        path = self._path(epoch)
        try:
            owner_only(self._directory)
            owner_only(path)
            key = path.read_bytes()
        except FileNotFoundError:
            raise KekMissing(
                f"The key-encryption key of epoch {epoch} is not in {self._directory}. Restore that folder "
                "from its backup; if the epoch was destroyed, what it wrapped is gone for good.",
                epoch=epoch,
            ) from None
        except OSError as error:
            raise storage_error(error, path) from error
        if len(key) != KEK_BYTES:
            raise KeyUnavailable(
                f"The key-encryption key of epoch {epoch} is not {KEK_BYTES} bytes long. "
                "Restore its file from a backup."
            )
        return key

    def _path(self, epoch: int) -> Path:
        return self._directory / f"epoch-{epoch}.kek"


def owner_only(path: Path) -> None:
    """Check that group and others have no right to a file or folder.

    Raises:
        KeyUnavailable: they have; the message holds the command that takes it away.
    """
    mode = path.stat().st_mode
    if mode & _OTHERS:
        wanted = "700" if stat.S_ISDIR(mode) else "600"
        raise KeyUnavailable(
            f"{path} is open to other users of this machine (mode {stat.S_IMODE(mode):04o}). "
            f"Run: chmod {wanted} {path}"
        )


def sync_folder(directory: Path) -> None:
    """Make new names in a folder durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def storage_error(error: OSError, path: Path) -> LedgerError:
    """Return what an operating system's error means for the keystore."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFull(f"There is no space left for {path}; nothing changed. Free space and try again.")
    return KeyUnavailable(f"{path} cannot be used ({error.strerror}). Check its folder and its rights.")


def _is_kek(name: str) -> bool:
    return name.startswith("epoch-") and name.endswith(".kek") and name[6:-4].isdecimal()


def _write_new(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
