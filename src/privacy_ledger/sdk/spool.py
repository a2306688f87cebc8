"""Unsent events on disk, encrypted: they survive the end of the process, and are gone once they are sent.

Every event is written before it counts as emitted, so that even `kill -9` loses none; what is not yet on the
platter is lost with the machine's power. A process writes segments of its own under a lock that ends with it;
the next ledger that opens the folder sends what is there, with the same ids. Needs the extra `spool`.
"""

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.sdk.errors import SpoolUnusable
from privacy_ledger.sdk.events import EVENT_BYTES_MAX, Encoded
from privacy_ledger.sdk.terms import RESERVE, Ticket

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    raise SpoolUnusable(
        "A spool needs what the extra `spool` brings: `pip install 'privacy-ledger[spool]'`."
    ) from None

__all__ = ["KEY_BYTES", "Spool"]

KEY_BYTES: Final = 32
SEGMENT_BYTES: Final = 1 << 20
_NONCE: Final = 12
_TAG: Final = 16
_LENGTH: Final = struct.Struct(">I")
_FRAME_MAX: Final = EVENT_BYTES_MAX + 4096
_SUFFIX: Final = ".spool"
_NEW: Final = ".new"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Encoded).decode


class _Segment(Struct, eq=False):
    """A file of frames; it is deleted when none of them is live."""

    path: Path
    file: int
    size: int = 0
    frames: int = 0
    live: int = 0


class _Place(Struct, frozen=True, eq=False):
    """Where the ciphertext of an event lies, with its nonce."""

    segment: _Segment
    number: int
    offset: int
    length: int


class Spool:
    """A `SpoolLike` in a folder that several processes may share; AES-256-GCM under the application's key.

    A frame is bound to its producer, its file and its place, so that none can be moved or exchanged. An event
    that the key does not open stays where it is. Local disks only: the lock is `flock`.
    """

    def __init__(self, folder: Path, *, key: bytes, bytes_max: int = 1 << 26) -> None:
        """Take a folder, which is made, and 32 random bytes; those of this process stay below `bytes_max`.

        Raises:
            SpoolUnusable: the key is none, or the folder cannot be made.
        """
        if len(key) != KEY_BYTES:
            raise SpoolUnusable(
                "A spool's key is 32 random bytes, such as `secrets.token_bytes(32)` kept safe."
            )
        self._cipher = AESGCM(key)
        self._folder = folder
        self._bytes_max = bytes_max
        self._source = b""
        self._segments: list[_Segment] = []
        self._current: _Segment | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            raise SpoolUnusable("The spool's folder cannot be made. Give one that can be written.") from None

    def __repr__(self) -> str:
        """Return nothing of the key."""
        return "Spool()"

    def open(self, source: str) -> Sequence[Ticket]:
        """Return what ended processes left, oldest first; what a living one holds is its own.

        Raises:
            SpoolUnusable: the folder cannot be read.
        """
        self._source = source.encode()
        try:
            paths = sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
            return [place for path in paths for place in self._claimed(path)]
        except OSError:
            raise SpoolUnusable("The spool's folder cannot be read. Check its owner and mode.") from None

    def put(self, event: Encoded) -> Ticket | None:
        """Return where an event lies now, or None: there is no room, here or on the device."""
        plain = _encode(event)
        length = _NONCE + len(plain) + _TAG
        bound = self._bytes_max - (self._bytes_max // RESERVE if event.is_droppable else 0)
        if sum(one.size for one in self._segments) + _LENGTH.size + length > bound:
            return None
        try:
            segment = self._written_to()
        except OSError:
            return None
        nonce = os.urandom(_NONCE)
        sealed = self._cipher.encrypt(nonce, plain, self._bound_to(segment, segment.frames))
        frame = _LENGTH.pack(length) + nonce + sealed
        try:
            whole = os.pwrite(segment.file, frame, segment.size) == len(frame)
        except OSError:
            whole = False
        if not whole:
            with suppress(OSError):
                os.ftruncate(segment.file, segment.size)
            return None
        place = _Place(segment, segment.frames, segment.size + _LENGTH.size, length)
        segment.size += len(frame)
        segment.frames += 1
        segment.live += 1
        return place

    def read(self, ticket: Ticket) -> Encoded | None:
        """Return a spooled event, or None: it cannot be read with this key."""
        if not isinstance(ticket, _Place):
            return None
        try:
            frame = os.pread(ticket.segment.file, ticket.length, ticket.offset)
            aad = self._bound_to(ticket.segment, ticket.number)
            return _decode(self._cipher.decrypt(frame[:_NONCE], frame[_NONCE:], aad))
        except (OSError, InvalidTag, ValueError, msgspec.MsgspecError):
            return None

    def done(self, ticket: Ticket) -> None:
        """Forget an event; its file is deleted with the last one in it."""
        if isinstance(ticket, _Place):
            ticket.segment.live -= 1
            if not ticket.segment.live:
                self._delete(ticket.segment)

    def forget(self) -> None:
        """Close this process's copies of the files; the parent's lock stays with the parent."""
        self.close()

    def close(self) -> None:
        """Close the files; what is in them waits for the next ledger that opens the folder."""
        segments, self._segments, self._current = self._segments, [], None
        for segment in segments:
            os.close(segment.file)

    def _claimed(self, path: Path) -> list[Ticket]:
        """Return what lies in a file whose process has ended; none if another has it."""
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        segment = _Segment(path, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = os.fstat(file).st_nlink > 0
        except BlockingIOError:
            is_free = False
        if not is_free:
            os.close(file)
            return []
        self._segments.append(segment)
        places: list[Ticket] = list(_frames(segment))
        if not places:
            self._delete(segment)
        return places

    def _written_to(self) -> _Segment:
        """Return the file that is written to: of this process, locked before others can see it."""
        if self._current is not None and self._current.size < SEGMENT_BYTES:
            return self._current
        path = self._folder / f"{os.urandom(16).hex()}{_SUFFIX}"
        new = path.with_suffix(_NEW)
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        new.rename(path)
        self._current = _Segment(path, file)
        self._segments.append(self._current)
        return self._current

    def _delete(self, segment: _Segment) -> None:
        with suppress(OSError):
            segment.path.unlink(missing_ok=True)
        os.close(segment.file)
        self._segments.remove(segment)
        if self._current is segment:
            self._current = None

    def _bound_to(self, segment: _Segment, number: int) -> bytes:
        return b"\0".join((self._source, segment.path.name.encode(), str(number).encode()))


def _frames(segment: _Segment) -> Iterator[_Place]:
    """Yield the frames of a file; one that was cut off by the end of its process was never counted."""
    end = os.fstat(segment.file).st_size
    while segment.size + _LENGTH.size <= end:
        head = os.pread(segment.file, _LENGTH.size, segment.size)
        (length,) = _LENGTH.unpack(head)
        start = segment.size + _LENGTH.size
        if not _NONCE + _TAG < length <= _FRAME_MAX or start + length > end:
            return
        yield _Place(segment, segment.frames, start, length)
        segment.size = start + length
        segment.frames += 1
        segment.live += 1
