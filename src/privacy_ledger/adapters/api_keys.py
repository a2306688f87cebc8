"""The keys of the HTTP service, in one file that only its owner reads.

A key is 256 random bits. Kept is its SHA-256: there is nothing to guess, so a slow hash would only make each
request slow. What is given is compared in constant time.
"""

import fcntl
import hashlib
import hmac
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, structs

from privacy_ledger.domain.errors import BadInput, HomeUnusable
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import UtcTime
from privacy_ledger.ports.runtime import Clock, Ids

__all__ = ["KEYS_MAX", "ApiKey", "ApiKeyFile", "Keyring"]

KEYS_MAX: Final = 10_000
_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32
_KEY: Final = re.compile(r"plk_([0-9a-f]{16})_([0-9a-f]{64})")
_OPEN_TO_OTHERS: Final = 0o077
_NOBODY: Final = hashlib.sha256(b"").hexdigest()


class ApiKey(Struct, frozen=True, kw_only=True):
    """What a key may do. `formats` and `types`: of events; no types are all types.

    `registers`: what it sends may make people known.
    """

    id: str
    source: str
    formats: tuple[str, ...]
    types: tuple[str, ...] = ()
    registers: bool = True
    digest: str
    created_at: UtcTime
    revoked_at: UtcTime | None = None


class _File(Struct, frozen=True):
    version: int
    keys: tuple[ApiKey, ...]


class ApiKeyFile:
    """Makes, lists and revokes keys; several processes may do so at once."""

    def __init__(self, path: Path, *, ids: Ids, clock: Clock) -> None:
        """Take the file; it is made with the first key."""
        self._path = path
        self._ids = ids
        self._clock = clock

    def create(
        self, source: str, *, formats: tuple[str, ...], types: tuple[str, ...] = (), registers: bool = True
    ) -> tuple[ApiKey, str]:
        """Return a new key, and what its holder sends; the latter is kept nowhere."""
        secret = self._ids.token(_SECRET_BYTES).hex()
        key = ApiKey(
            id=self._ids.token(_ID_BYTES).hex(), source=source, formats=formats, types=types,
            registers=registers, digest=_digest(secret), created_at=self._clock.now(),
        )  # fmt: skip
        with self._locked():
            keys = _read(self._path)
            if len(keys) >= KEYS_MAX:
                raise HomeUnusable(
                    f"There are {KEYS_MAX:,} API keys. Move their file away and begin another."
                )
            _write(self._path, (*keys, key))
        return key, f"plk_{key.id}_{secret}"

    def keys(self) -> tuple[ApiKey, ...]:
        """Return every key, revoked or not, oldest first."""
        return _read(self._path)

    def revoke(self, identifier: str) -> ApiKey:
        """Return a key, revoked from now on; idempotent.

        Raises:
            BadInput: there is no such key.
        """
        with self._locked():
            keys = {key.id: key for key in _read(self._path)}
            key = keys.get(identifier)
            if key is None:
                raise BadInput(
                    Refusal.ENTRY_UNKNOWN, "There is no such API key. See `privacy-ledger api keys list`."
                )
            if key.revoked_at is None:
                keys[identifier] = key = structs.replace(key, revoked_at=self._clock.now())
                _write(self._path, tuple(keys.values()))
            return key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the right to change the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class Keyring:
    """The keys as they are now: the file is looked at again every second."""

    def __init__(
        self, path: Path, *, every_s: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the file; raises `HomeUnusable` where it cannot be used."""
        self._path = path
        self._every_s = every_s
        self._monotonic = monotonic
        self._looked_at = monotonic()
        self._state = _state(path)
        self._keys: Mapping[str, ApiKey] = {key.id: key for key in _read(path)}

    def find(self, text: str) -> ApiKey | None:
        """Return the key that a text is, unless it is unknown or revoked; takes as long for either.

        Raises:
            HomeUnusable: the file was changed, and cannot be used any more: nobody is let in.
        """
        self._look()
        match = _KEY.fullmatch(text)
        key = None if match is None else self._keys.get(match.group(1))
        given = _digest("" if match is None else match.group(2))
        is_equal = hmac.compare_digest(given, _NOBODY if key is None else key.digest)
        return key if key is not None and is_equal and key.revoked_at is None else None

    def _look(self) -> None:
        now = self._monotonic()
        if now - self._looked_at < self._every_s:
            return
        state = _state(self._path)
        if state != self._state:
            self._keys = {}
            self._keys = {key.id: key for key in _read(self._path)}
            self._state = state
        self._looked_at = now


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> tuple[ApiKey, ...]:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & _OPEN_TO_OTHERS:
                raise HomeUnusable("The file of API keys is open to others (chmod 600). Nobody is let in.")
            return msgspec.json.decode(file.read(), type=_File).keys
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise HomeUnusable(f"The file of API keys cannot be read ({error.strerror}).") from None
    except (msgspec.DecodeError, UnicodeError):
        raise HomeUnusable("The file of API keys cannot be read. Restore it, or remove it.") from None


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    """Replace the file in one step; a new file of this kind is its owner's alone."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".api-keys-")
    with os.fdopen(handle, "wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(_File(1, keys))))
        out.flush()
        os.fsync(out.fileno())
    Path(name).replace(path)
