"""Lines of JSON from outside: bounded before they are decoded, and decoded strictly.

`json` and most parsers keep the last of two equal keys, recurse without a bound, or pass half a
surrogate pair on. Each of these makes two readers see two events in one line, so each is refused.
"""

import json
import re
import zlib
from collections.abc import Iterator
from io import BufferedReader, RawIOBase
from typing import BinaryIO, Final, cast

import msgspec

from privacy_ledger.adapters.formats.screen import screen
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.refusals import Refusal

__all__ = [
    "DEPTH_MAX",
    "INFLATED_BYTES_MAX",
    "LINE_BYTES_MAX",
    "check_bytes",
    "decode_canonical",
    "decode_json",
    "decode_object",
    "read_lines",
]

LINE_BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 64
INFLATED_BYTES_MAX: Final = 1 << 34
INFLATION_RATIO_MAX: Final = 256
INFLATION_FREE_BYTES: Final = 1 << 24
"""Below this much output the ratio is not looked at: short repetitive logs deflate very well."""

_CHUNK_BYTES: Final = 1 << 16
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31
_BOM: Final = b"\xef\xbb\xbf"
# An unterminated string runs to the end, so that no input makes this look at a byte twice.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS: Final = b"[]{}"
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="sorted").encode


class _DuplicateKeyError(ValueError):
    """One object has a key twice."""


def check_bytes(line: bytes, *, size_max: int = LINE_BYTES_MAX, depth_max: int = DEPTH_MAX) -> Refusal | None:
    """Return why these bytes may not be decoded, or None; looks at bytes only and never raises.

    Order: too long, not UTF-8, a NUL byte, too deep.
    """
    if len(line) > size_max:
        return Refusal.LINE_TOO_LONG
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError:
            return Refusal.NOT_UTF8
    if b"\0" in line:
        return Refusal.NUL_BYTE
    # The number of opening brackets bounds the depth; only many of them are worth a walk.
    if line.count(b"{") + line.count(b"[") > depth_max and _depth(line) > depth_max:
        return Refusal.TOO_DEEP
    return None


def decode_json(line: bytes, *, size_max: int = LINE_BYTES_MAX, depth_max: int = DEPTH_MAX) -> object:
    """Return the decoded value, or the first `Refusal` that applies; never raises.

    A lone surrogate and a number out of range are no JSON here.
    """
    found = _decoded(line, size_max=size_max, depth_max=depth_max)
    return found if type(found) is Refusal else found[0]


def decode_object(
    line: bytes, *, size_max: int = LINE_BYTES_MAX, depth_max: int = DEPTH_MAX
) -> dict[str, object] | Refusal:
    """Return the decoded object, or the first refusal that applies; never raises.

    It is not screened: take nothing from it.
    """
    found = _object(line, size_max=size_max, depth_max=depth_max)
    return found if type(found) is Refusal else found[0]


def decode_canonical(
    line: bytes, *, size_max: int = LINE_BYTES_MAX, depth_max: int = DEPTH_MAX
) -> tuple[dict[str, object], bytes] | Refusal:
    """Return the decoded and screened object, and its JSON with sorted keys and no gaps.

    Else the first refusal that applies: as `decode_object`, and then what `screen` finds. Every
    format reads its lines by this. Never raises.
    """
    found = _object(line, size_max=size_max, depth_max=depth_max)
    return found if type(found) is Refusal else screen(found[0]) or found


def _object(line: bytes, *, size_max: int, depth_max: int) -> tuple[dict[str, object], bytes] | Refusal:
    found = _decoded(line, size_max=size_max, depth_max=depth_max)
    if type(found) is Refusal:
        return found
    value, canonical = found
    if isinstance(value, dict):
        return value, canonical
    # JSON's null has a code of its own: upstream tools write it for a tombstone, which it is not.
    return Refusal.NULL_VALUE if value is None else Refusal.NOT_AN_OBJECT


def _decoded(line: bytes, *, size_max: int, depth_max: int) -> tuple[object, bytes] | Refusal:
    refusal = check_bytes(line, size_max=size_max, depth_max=depth_max)
    if refusal is not None:
        return refusal
    try:
        value: object = _decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return Refusal.NOT_JSON
    canonical = _encode(value)
    return Refusal.DUPLICATE_KEY if _has_duplicate_key(line, canonical) else (value, canonical)


def read_lines(
    stream: BinaryIO,
    *,
    line_bytes_max: int = LINE_BYTES_MAX,
    inflated_bytes_max: int = INFLATED_BYTES_MAX,
) -> Iterator[tuple[int, bytes | Refusal]]:
    """Yield (line number from 1, stripped line) of each line that is not blank, in order.

    A longer line comes as `LINE_TOO_LONG` and is never held whole. Gzip is told by its first two
    bytes; a byte-order mark at the start is dropped.

    Raises:
        BadInput: compressed input is damaged, or inflates beyond its bounds.
    """
    plain, start = _opened(stream, inflated_bytes_max=inflated_bytes_max)
    number = 0
    while True:
        line = start + plain.readline(max(0, line_bytes_max + 2 - len(start)))
        start = b""
        if not line:
            return
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) > line_bytes_max and len(line.rstrip(b"\r\n")) > line_bytes_max:
            _discard_line(plain, line)
            yield number, Refusal.LINE_TOO_LONG
            continue
        line = line.strip()
        if line:
            yield number, line


def _depth(line: bytes) -> int:
    """Return how deep brackets outside of strings are nested."""
    depth = deepest = 0
    for byte in _STRING.sub(b"", line).translate(None, _NOT_BRACKETS):
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _has_duplicate_key(line: bytes, canonical: bytes) -> bool:
    """Return whether an object at any depth of valid JSON has a key twice; exact.

    Every key brings a colon. They are counted in the line and in what was decoded, written again:
    strings have the same number in both, and a lost key leaves fewer. When the counts are equal
    none was lost; otherwise a slow parser, which sees every key, decides.
    """
    colons = line.count(b":")
    if b"\\u003" in line:  # a colon may be written as its number
        colons += line.count(b"\\u003a") + line.count(b"\\u003A")
    if colons == canonical.count(b":"):
        return False
    try:
        json.loads(line, object_pairs_hook=_refuse_duplicates, parse_int=len, parse_float=len)
    except _DuplicateKeyError:
        return True
    return False


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
    """Raise when two pairs have one key."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise _DuplicateKeyError


def _discard_line(stream: BinaryIO, line: bytes) -> None:
    """Read up to the end of the line that was begun, in bounded pieces."""
    while line and not line.endswith(b"\n"):
        line = stream.readline(_CHUNK_BYTES)


def _opened(stream: BinaryIO, *, inflated_bytes_max: int) -> tuple[BinaryIO, bytes]:
    """Return the stream, inflated when it is compressed, and the bytes already taken of it."""
    start = stream.read(2)
    if start != _GZIP_MAGIC:
        # A first line of one byte ends within these two; nobody has read further yet.
        return (stream, start) if b"\n" not in start else (_rejoined(start, stream), b"")
    inflated = _Inflated(stream, start, bytes_max=inflated_bytes_max)
    return cast("BinaryIO", BufferedReader(inflated, _CHUNK_BYTES)), b""


def _rejoined(start: bytes, stream: BinaryIO) -> BinaryIO:
    """Return a stream of the bytes already taken and all that follows."""
    return cast("BinaryIO", BufferedReader(_Rejoined(start, stream), _CHUNK_BYTES))


class _Rejoined(RawIOBase):
    """Bytes already taken from a stream, and then the stream."""

    def __init__(self, start: bytes, stream: BinaryIO) -> None:
        self._start = start
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        piece, self._start = self._start, b""
        piece = piece or self._stream.read(len(view))
        view[: len(piece)] = piece
        return len(piece)


class _Inflated(RawIOBase):
    """A gzip stream, of one or several members, inflated piece by piece within bounds."""

    def __init__(self, stream: BinaryIO, start: bytes, *, bytes_max: int) -> None:
        self._stream = stream
        self._pending = start
        self._bytes_max = bytes_max
        self._inflater = zlib.decompressobj(_GZIP_WINDOW)
        self._taken = len(start)
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        while True:
            if self._inflater.eof and not self._next_member():
                return 0
            if not self._pending:
                self._pending = self._read()
                if not self._pending:
                    raise BadInput(
                        Refusal.NOT_JSON,
                        "The compressed input ends early. Copy the file again, whole.",
                    )
            try:
                piece = self._inflater.decompress(self._pending, len(view))
            except zlib.error:
                raise BadInput(
                    Refusal.NOT_JSON,
                    "The compressed input is damaged. Copy the file again, or inflate it yourself.",
                ) from None
            self._pending = self._inflater.unconsumed_tail
            self._given += len(piece)
            self._check_bounds()
            if piece:
                view[: len(piece)] = piece
                return len(piece)

    def _next_member(self) -> bool:
        """Return whether another member follows; padding of zero bytes is skipped."""
        rest = self._inflater.unused_data.lstrip(b"\0")
        while not rest:
            chunk = self._read()
            if not chunk:
                return False
            rest = chunk.lstrip(b"\0")
        self._pending = rest
        self._inflater = zlib.decompressobj(_GZIP_WINDOW)
        return True

    def _read(self) -> bytes:
        chunk = self._stream.read(_CHUNK_BYTES)
        self._taken += len(chunk)
        return chunk

    def _check_bounds(self) -> None:
        """Raise when so much came out of so little that it is no log."""
        is_bomb = self._given > INFLATION_FREE_BYTES and self._given > self._taken * INFLATION_RATIO_MAX
        if is_bomb or self._given > self._bytes_max:
            raise BadInput(
                Refusal.LINE_TOO_LONG,
                "The compressed input inflates beyond its bound. Inflate it yourself, and look at "
                "it before you hand it in.",
            )
