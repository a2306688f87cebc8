"""Bodies of requests: read piece by piece, inflated within a bound, and paid for out of one room.

All requests together hold no more than the room has. What one takes it gives back when it is answered.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from privacy_ledger.interfaces.http.problems import Kind, Problem

__all__ = ["BODY_BYTES_MAX", "ROOM_BYTES", "Held", "Inflater", "Room", "read_body"]

BODY_BYTES_MAX: Final = 1 << 24
"""A request has at most so many bytes, as they come and inflated."""
ROOM_BYTES: Final = 1 << 27
BODY_S: Final = 30.0
MEMBERS_MAX: Final = 64
_COPIES: Final = 2
"""A byte is held twice: in the body, and in the event that is cut out of it."""
_PIECE: Final = 1 << 16
_GZIP_WINDOW: Final = 31
_RETRY: Final = {"Retry-After": "1"}


class Room:
    """The bytes that all requests together may hold."""

    def __init__(self, bytes_max: int = ROOM_BYTES) -> None:
        """Take the bound."""
        self._left = bytes_max

    @contextmanager
    def hold(self) -> Iterator["Held"]:
        """Yield what counts the bytes of one request, and gives them back at the end."""
        held = Held(self)
        try:
            yield held
        finally:
            self._left += held.count

    def take(self, count: int) -> None:
        """Take bytes.

        Raises:
            Problem: there are not so many left; nothing was taken.
        """
        if count > self._left:
            raise Problem(Kind.BUSY, headers=_RETRY)
        self._left -= count


class Held:
    """What one request holds of the room."""

    def __init__(self, room: Room) -> None:
        """Hold nothing yet."""
        self._room = room
        self.count = 0

    def add(self, size: int) -> None:
        """Hold a piece more, with the copy that will be made of it; raises as `Room.take` does."""
        self._room.take(_COPIES * size)
        self.count += _COPIES * size


class Inflater:
    """A gzip body (RFC 1952), of one or several members, inflated within a bound.

    Never more than the bound and one piece is in memory, whatever the body claims to be.
    """

    def __init__(self, bytes_max: int = BODY_BYTES_MAX) -> None:
        """Take the bound."""
        self._left = bytes_max
        self._members = 1
        self._inflater = zlib.decompressobj(_GZIP_WINDOW)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what a piece inflates to, in small pieces.

        Raises:
            Problem: it is beyond the bound, or damaged.
        """
        while piece:
            if self._inflater.eof:
                self._next_member()
            try:
                out = self._inflater.decompress(piece, min(_PIECE, self._left + 1))
            except zlib.error:
                raise Problem(Kind.ENCODING_DAMAGED) from None
            self._left -= len(out)
            if self._left < 0:
                raise Problem(Kind.BODY_TOO_LARGE)
            if out:
                yield out
            piece = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail

    def end(self) -> Iterator[bytes]:
        """Yield what was held back; raises as `feed` does, also when the body ends early."""
        while not self._inflater.eof:
            try:
                out = self._inflater.decompress(b"", min(_PIECE, self._left + 1))
            except zlib.error:
                raise Problem(Kind.ENCODING_DAMAGED) from None
            self._left -= len(out)
            if self._left < 0:
                raise Problem(Kind.BODY_TOO_LARGE)
            if not out:
                break
            yield out
        if not self._inflater.eof:
            raise Problem(Kind.ENCODING_DAMAGED)

    def _next_member(self) -> None:
        self._members += 1
        if self._members > MEMBERS_MAX:
            raise Problem(Kind.ENCODING_DAMAGED)
        self._inflater = zlib.decompressobj(_GZIP_WINDOW)


async def read_body(
    pieces: AsyncIterator[bytes], held: Held, *, encoding: str, bytes_max: int = BODY_BYTES_MAX
) -> bytes:
    """Return a whole body; `encoding` is that of `Content-Encoding`, in lower case or empty.

    Raises:
        Problem: another encoding than gzip, too large, damaged, too slow, or no room for it.
    """
    if encoding not in {"", "identity", "gzip"}:
        raise Problem(Kind.MEDIA_TYPE, headers={"Accept-Encoding": "gzip"})
    try:
        async with asyncio.timeout(BODY_S):
            return await _read(pieces, held, is_gzip=encoding == "gzip", bytes_max=bytes_max)
    except TimeoutError:
        raise Problem(Kind.BODY_SLOW, headers={"Connection": "close"}) from None


async def _read(pieces: AsyncIterator[bytes], held: Held, *, is_gzip: bool, bytes_max: int) -> bytes:
    body = bytearray()
    inflater = Inflater(bytes_max) if is_gzip else None
    came = 0
    async for piece in pieces:
        came += len(piece)
        if came > bytes_max:
            raise Problem(Kind.BODY_TOO_LARGE)
        for plain in (piece,) if inflater is None else inflater.feed(piece):
            held.add(len(plain))
            body += plain
    if inflater is not None:
        for plain in inflater.end():
            held.add(len(plain))
            body += plain
    return bytes(body)
