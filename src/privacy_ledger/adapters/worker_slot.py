"""A worker's place on a machine: a state folder that no other living worker holds, and its name."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.ports.runtime import Ids

__all__ = ["WorkerSlot", "forget_slots", "take_slot"]

SLOTS_MAX: Final = 64
_LOCK: Final = "lock"
_IDENTITY: Final = "identity"


class WorkerSlot(Struct, frozen=True):
    """A held folder, and the identity that goes with what lies in it.

    The identity is random and kept beside the stores: a worker that starts again in the same
    folder is the same worker to its group, and no name of a machine or a person leaves it.
    """

    path: Path
    identity: str
    lock: int
    """The open file that holds the folder; closed, or with the process, it is free."""


def take_slot(folder: Path, *, ids: Ids) -> WorkerSlot:
    """Hold the first state folder that no living worker of this machine holds.

    Raises:
        HomeUnusable: all of them are held.
    """
    for number in range(SLOTS_MAX):
        slot = folder / f"worker-{number}"
        slot.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = _locked(slot)
        if file is not None:
            return WorkerSlot(slot, f"{slot.name}-{_token(slot / _IDENTITY, ids)}", file)
    raise HomeUnusable(
        f"{SLOTS_MAX} workers of this machine hold all state folders. Stop one, or set "
        "PRIVACY_LEDGER_STATE to another folder."
    )


def forget_slots(folder: Path) -> None:
    """Remove the folders of a pass that is run no more, but those that a living worker still holds."""
    for slot in sorted(folder.glob("worker-*")):
        file = _locked(slot)
        if file is not None:
            shutil.rmtree(slot)
            os.close(file)


def _locked(slot: Path) -> int | None:
    """Return an open file that holds the folder, or None where another one does."""
    file = os.open(slot / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _token(file: Path, ids: Ids) -> str:
    """Return the folder's own token; one that a crash cut off is drawn again."""
    kept = file.read_text() if file.exists() else ""
    if len(kept) == 2 * len(ids.token()) and kept.isalnum():
        return kept
    token = ids.token().hex()
    file.write_text(token)
    return token
