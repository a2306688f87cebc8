"""A canary scanner: whether given values stand anywhere in files, in any common disguise.

Tests plant values of made-up people, erase them, and scan every byte of every file that the
system wrote. A value is looked for as it is, in other cases and character sets, encoded, escaped,
hashed, and inside compressed members.
"""

import base64
import errno
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from itertools import compress, count
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes

from msgspec import Struct

__all__ = ["Hit", "Scanner", "disguises"]

TOKEN_BYTES_MIN: Final = 5
CHUNK_BYTES: Final = 1 << 20
GRAM_BYTES: Final = 4
INDEXED_BYTES_MIN: Final = 2 * GRAM_BYTES - 1
"""Any run of seven bytes covers four aligned ones, wherever it starts."""
MEMBER_BYTES_MAX: Final = 16 << 20
MEMBERS_MAX: Final = 4096
DEPTH_MAX: Final = 2
_MEMBER: Final = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")
_WBITS_GZIP: Final = 31
_WBITS_ZLIB: Final = 15


class Hit(Struct, frozen=True, order=True):
    """One leak: the file, the token's name, how it was disguised, and the offset in bytes.

    Inside a compressed member the offset is the member's; in a file's name it is 0.
    """

    path: Path
    name: str
    encoding: str
    offset: int


def disguises(token: bytes) -> dict[str, bytes]:
    """Return the patterns to look for, by encoding, where they differ from each other."""
    found: dict[str, bytes] = {"raw": token}
    try:
        text = token.decode()
    except UnicodeDecodeError:
        text = ""
    if text:
        found |= {"lower": text.lower().encode(), "upper": text.upper().encode()}
        for case, value in (("", text), ("lower, ", text.lower()), ("upper, ", text.upper())):
            found[f"{case}utf-16-le"] = value.encode("utf-16-le")
            found[f"{case}utf-16-be"] = value.encode("utf-16-be")
        found |= _json(text)
    for phase in range(3):
        found[f"base64, phase {phase}"] = _base64(token, phase, b"+/")
        found[f"base64url, phase {phase}"] = _base64(token, phase, b"-_")
    found |= {"hex": token.hex().encode(), "HEX": token.hex().upper().encode()}
    found["percent"] = quote_from_bytes(token, safe="").encode()
    found["percent, path"] = quote_from_bytes(token, safe="/@:").encode()
    found["percent, every byte"] = b"".join(b"%%%02X" % byte for byte in token)
    found["percent, every byte, lower"] = b"".join(b"%%%02x" % byte for byte in token)
    for algorithm in ("md5", "sha1", "sha256"):
        digest = hashlib.new(algorithm, token, usedforsecurity=False).digest()
        found[algorithm] = digest
        found[f"{algorithm}, hex"] = digest.hex().encode()
        found[f"{algorithm}, HEX"] = digest.hex().upper().encode()
    return {
        encoding: pattern
        for encoding, pattern in found.items()
        if len(pattern) >= TOKEN_BYTES_MIN and next(e for e, p in found.items() if p == pattern) == encoding
    }


class Scanner:
    """Patterns of the tokens, indexed so that one look at every fourth byte finds all of them.

    Stateless between scans; a file is read in chunks that overlap by the longest pattern.
    """

    def __init__(self, tokens: Mapping[str, bytes], *, is_raw_only: bool = False) -> None:
        """Take the values to look for, by the name that a hit gives them.

        `is_raw_only`: as they are, in no disguise.

        Raises:
            ValueError: a token is so short that chance alone would find it.
        """
        self._grams: dict[int, list[tuple[int, bytes]]] = {}
        self._short: list[bytes] = []
        self._owners: dict[bytes, list[tuple[str, str]]] = {}
        for name, token in tokens.items():
            if len(token) < TOKEN_BYTES_MIN:
                raise ValueError(f"Token {name} has fewer than {TOKEN_BYTES_MIN} bytes. Plant a longer one.")
            for encoding, pattern in ({"raw": token} if is_raw_only else disguises(token)).items():
                self._owners.setdefault(pattern, []).append((name, encoding))
        for pattern in self._owners:
            self._index(pattern)
        self._longest = max((len(pattern) for pattern in self._owners), default=1)

    def scan(self, paths: Iterable[Path]) -> list[Hit]:
        """Return every leak in the files at or below `paths`, in their order, and in their names.

        A file that is removed or renamed meanwhile is looked for again, under whatever name.

        Raises:
            OSError: a file cannot be read; nothing is skipped silently.
        """
        return [hit for path in paths for hit in self._below(path)]

    def find(self, data: bytes) -> list[tuple[int, str, str]]:
        """Return (offset, token name, encoding) of every leak in `data`, compressed members too."""
        return sorted({*self._plain(data), *self._members(data, DEPTH_MAX)})

    # Files --------------------------------------------------------------------------------

    def _below(self, path: Path) -> Iterator[Hit]:
        seen: set[Path] = set()
        is_moving = True
        while is_moving:
            is_moving = False
            for file in [one for one in _files(path) if one not in seen]:
                seen.add(file)
                try:
                    yield from self._file(file, root=path)
                except FileNotFoundError:
                    is_moving = True

    def _file(self, path: Path, *, root: Path) -> Iterator[Hit]:
        seen = set()
        name = str(path.relative_to(root.parent)).encode()
        for _, token, encoding in self._plain(name):
            yield Hit(path, token, f"file name, {encoding}", 0)
        with path.open("rb", buffering=0) as file:
            base, carry = 0, b""
            for chunk, size in self._chunks(file):
                data = carry + chunk
                for offset, token, encoding in self._plain(data):
                    hit = Hit(path, token, encoding, base + offset)
                    if hit not in seen:
                        seen.add(hit)
                        yield hit
                for match in _MEMBER.finditer(data, max(0, len(carry) - 2)):
                    position = base + match.start()
                    yield from self._file_member(path, file, position, match.group())
                base += len(carry) + size
                carry = (data if len(chunk) == size else chunk)[-self._longest :]
                base -= len(carry)

    def _chunks(self, file: FileIO) -> Iterator[tuple[bytes, int]]:
        """Yield the bytes of a file with their number; of many zeros only as many as may be in a token.

        Logs reserve room with zeros, mostly in holes, which are not even read.
        """
        handle, at, end = file.fileno(), 0, os.fstat(file.fileno()).st_size
        while at < end:
            start = _data_from(handle, at, end)
            if start - at > self._longest:
                yield bytes(self._longest), start - at
                at = start
                continue
            os.lseek(handle, at, os.SEEK_SET)
            chunk = file.read(CHUNK_BYTES)
            if not chunk:
                return  # it was cut meanwhile
            is_empty = chunk.count(0) == len(chunk) > self._longest
            yield chunk[: self._longest] if is_empty else chunk, len(chunk)
            at += len(chunk)

    def _file_member(self, path: Path, file: FileIO, position: int, magic: bytes) -> Iterator[Hit]:
        inflated = _inflate(_blocks(file.fileno(), position), magic)
        for token, encoding in self._inside(inflated, magic, DEPTH_MAX):
            yield Hit(path, token, encoding, position)

    # Bytes --------------------------------------------------------------------------------

    def _index(self, pattern: bytes) -> None:
        if len(pattern) < INDEXED_BYTES_MIN:
            self._short.append(pattern)
            return
        # The middle is rarer than the edges: headers of encodings and domains of addresses repeat.
        start = (len(pattern) - INDEXED_BYTES_MIN) // 2
        for at in range(start, start + GRAM_BYTES):
            gram = int.from_bytes(pattern[at : at + GRAM_BYTES], "little")
            self._grams.setdefault(gram, []).append((at, pattern))

    def _plain(self, data: bytes) -> Iterator[tuple[int, str, str]]:
        words = memoryview(data)[: len(data) // GRAM_BYTES * GRAM_BYTES].cast("@I")
        for word in compress(count(), map(self._grams.__contains__, words)):
            for at, pattern in self._grams[words[word]]:
                offset = word * GRAM_BYTES - at
                if offset >= 0 and data.startswith(pattern, offset):
                    yield from ((offset, *owner) for owner in self._owners[pattern])
        for pattern in self._short:
            offset = data.find(pattern)
            while offset >= 0:
                yield from ((offset, *owner) for owner in self._owners[pattern])
                offset = data.find(pattern, offset + 1)

    def _members(self, data: bytes, depth: int) -> Iterator[tuple[int, str, str]]:
        for number, match in enumerate(_MEMBER.finditer(data)):
            if number >= MEMBERS_MAX:
                return
            inflated = _inflate(iter((data[match.start() :],)), match.group())
            for token, encoding in self._inside(inflated, match.group(), depth):
                yield match.start(), token, encoding

    def _inside(self, inflated: bytes, magic: bytes, depth: int) -> Iterator[tuple[str, str]]:
        if not inflated:
            return
        found = {(token, encoding) for _, token, encoding in self._plain(inflated)}
        if depth > 1:
            found |= {(token, encoding) for _, token, encoding in self._members(inflated, depth - 1)}
        kind = "gzip" if magic.startswith(b"\x1f") else "zlib"
        for token, encoding in sorted(found):
            yield token, f"{kind}, {encoding}"


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    yield from (file for file in sorted(path.rglob("*")) if file.is_file() and not file.is_symlink())


def _blocks(handle: int, position: int) -> Iterator[bytes]:
    """Yield a file's bytes from a place on; who reads elsewhere in it is not disturbed."""
    while block := os.pread(handle, 1 << 16, position):
        yield block
        position += len(block)


def _data_from(handle: int, at: int, end: int) -> int:
    """Return where a file's next bytes lie that are no hole."""
    try:
        return os.lseek(handle, at, os.SEEK_DATA)
    except OSError as error:
        return end if error.errno == errno.ENXIO else at  # a file system may know of no holes


def _inflate(blocks: Iterator[bytes], magic: bytes) -> bytes:
    """Return what a compressed member holds, up to where it breaks or to the bound."""
    machine = zlib.decompressobj(_WBITS_GZIP if magic.startswith(b"\x1f") else _WBITS_ZLIB)
    inflated = bytearray()
    try:
        for block in blocks:
            inflated += machine.decompress(block, MEMBER_BYTES_MAX - len(inflated))
            if machine.eof or len(inflated) >= MEMBER_BYTES_MAX:
                break
    except zlib.error:
        pass  # a torn or chance member: what came out so far is looked at all the same
    return bytes(inflated)


def _base64(token: bytes, phase: int, altchars: bytes) -> bytes:
    """Return the characters that depend on the token alone, when `phase` bytes stand before it."""
    encoded = base64.b64encode(bytes(phase) + token, altchars=altchars)
    first = (8 * phase + 5) // 6
    last = 8 * (phase + len(token)) // 6
    return encoded[first:last]


def _json(text: str) -> dict[str, bytes]:
    ascii_only = json.dumps(text)[1:-1]
    units = text.encode("utf-16-be")
    escaped = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
    return {
        "json": ascii_only.encode(),
        "json, solidus": ascii_only.replace("/", "\\/").encode(),
        "json, UPPER": re.sub(r"\\u[0-9a-f]{4}", lambda m: "\\u" + m[0][2:].upper(), ascii_only).encode(),
        "json, every character": "".join(f"\\u{unit}" for unit in escaped).encode(),
        "json, every character, UPPER": "".join(f"\\u{unit.upper()}" for unit in escaped).encode(),
    }
