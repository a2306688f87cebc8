"""`HOME/worker.lock`: who runs the passes of a home."""

import fcntl
import os
from pathlib import Path

from privacy_ledger.domain.errors import HomeUnusable

__all__ = ["WorkerLock"]


class WorkerLock:
    """An advisory lock that the operating system frees when its holder dies, however it dies."""

    def __init__(self, path: Path) -> None:
        """Know the file; it is created when first tried."""
        self._path = path
        self._file: int | None = None

    def try_acquire(self) -> bool:
        """Return whether this process holds the lock now; never waits."""
        if self._file is not None:
            return True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            raise HomeUnusable("The home cannot be written to. Check --home and its permissions.") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Free the lock; idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
