"""A home: a folder with the embedded log, the keystore and the description of both."""

import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.clock import SystemClock, TrialClock
from privacy_ledger.domain.errors import BadInput, HomeUnusable
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import PARTITIONS_EMBEDDED
from privacy_ledger.domain.values import UtcTime
from privacy_ledger.ports.runtime import Clock, Ids

__all__ = ["Home", "HomeFile", "open_home", "set_trial_clock"]

FORMAT: Final = "privacy-ledger-home"
VERSION: Final = 1
_FILE: Final = "home.json"


class HomeFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `home.json` says."""

    format: str = FORMAT
    version: int = VERSION
    id: str
    partitions: int
    created_at: UtcTime
    trial_started_at: UtcTime | None = None
    trial_anchored_at: UtcTime | None = None


class _Stamp(Struct, frozen=True, kw_only=True):
    """What `home.json` says in every version."""

    format: str
    version: int


class Home(Struct, frozen=True, kw_only=True):
    """An opened home."""

    path: Path
    file: HomeFile
    is_new: bool

    @property
    def clock(self) -> Clock:
        """The home's clock: the machine's, or a trial one."""
        started, anchored = self.file.trial_started_at, self.file.trial_anchored_at
        if started is None or anchored is None:
            return SystemClock()
        return TrialClock(started, anchored_at=anchored)

    @property
    def is_on_trial_time(self) -> bool:
        """Whether the home runs on a given time."""
        return self.file.trial_started_at is not None


def open_home(path: Path, *, ids: Ids, trial: datetime | None = None) -> Home:
    """Return the home at `path`, created when the folder is missing or empty.

    Raises:
        HomeUnusable: the folder holds something else, or a home of another version.
    """
    file = path / _FILE
    try:
        if file.exists():
            return Home(path=path, file=_read(file), is_new=False)
        if path.exists() and any(path.iterdir()):
            raise HomeUnusable(
                "The folder given as home holds other files and no home. "
                "Choose an empty or new folder with --home."
            )
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        real = SystemClock().now()
        said = HomeFile(
            id=ids.token(8).hex(),
            partitions=PARTITIONS_EMBEDDED,
            created_at=real,
            trial_started_at=trial,
            trial_anchored_at=None if trial is None else real,
        )
        _write(file, said)
    except OSError as error:
        raise HomeUnusable(
            f"The home cannot be used ({error.strerror or 'input/output error'}). "
            "Choose a folder that you may write to with --home."
        ) from None
    return Home(path=path, file=said, is_new=True)


def set_trial_clock(home: Home, at: datetime) -> Home:
    """Return the home with its trial clock moved forward to `at`.

    Raises:
        BadInput: the home runs on real time, or `at` lies behind its clock.
    """
    if not home.is_on_trial_time:
        raise BadInput(
            Refusal.TIME_INVALID,
            "This home runs on real time. Give --trial-clock when the home is created.",
        )
    if at < home.clock.now():
        raise BadInput(Refusal.TIME_INVALID, "A trial clock moves forward only. Give a later time.")
    moved = msgspec.structs.replace(home.file, trial_started_at=at, trial_anchored_at=SystemClock().now())
    _write(home.path / _FILE, moved)
    return msgspec.structs.replace(home, file=moved)


def _read(file: Path) -> HomeFile:
    content = file.read_bytes()
    try:
        # First what every version has in common: another one may hold members of its own.
        stamp = msgspec.json.decode(content, type=_Stamp)
        if stamp.format == FORMAT and stamp.version == VERSION:
            return msgspec.json.decode(content, type=HomeFile)
    except (msgspec.DecodeError, UnicodeError):
        raise HomeUnusable(
            "home.json cannot be read. Restore it from a backup, or choose another home."
        ) from None
    raise HomeUnusable(
        f"This home has version {stamp.version}, and this program reads {VERSION}. "
        "Use the program that wrote it."
    )


def _write(file: Path, said: HomeFile) -> None:
    """Replace the file in one step, so that a crash leaves the old or the new one."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".home-")
    with os.fdopen(handle, "wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(said)))
        out.flush()
        os.fsync(out.fileno())
    Path(name).replace(file)
