"""Whoever holds copies of everything, and tries to read with them: an independent attack on sealed bytes.

It shares no code with the keystore or the codec. It takes wrapped keys out of any copy of a keystore
by its layout, and out of any bytes by trying each place in them; it unwraps with every
key-encryption key that is left; and it opens envelopes without their associated data, for AES-GCM
encrypts as AES-CTR does, and who has the key needs no tag.
"""

import hashlib
import hmac
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from msgspec import Struct

from privacy_ledger.testing.scanner import Scanner

__all__ = [
    "BLOCK_BYTES",
    "Envelope",
    "KeyRow",
    "Opened",
    "committed",
    "envelopes_in",
    "keks_in",
    "key_rows_in",
    "open_with",
    "opened_by_force",
    "unwrapped",
    "unwrapped_anywhere",
]

VERSION: Final = b"\x01"
KID_BYTES: Final = 32
NONCE_BYTES: Final = 12
WRAPPED_BYTES: Final = 60
KEK_BYTES: Final = 32
BLOCK_BYTES: Final = 16
HEAD_BYTES: Final = 4096
"""Of an envelope's ciphertext: more than the longest event without its body."""
_SQLITE: Final = b"SQLite format 3\0"
_FIRST_BLOCK: Final = b"\0\0\0\x02"
_SECOND_BLOCK: Final = b"\0\0\0\x03"
_ZEROS_MAX: Final = 5
"""A random nonce of twelve bytes has no more of them but once in a billion."""


class Envelope(Struct, frozen=True):
    """A sealed value that was found: its key's id, its nonce, and the beginning of its ciphertext."""

    kid: bytes
    nonce: bytes
    head: bytes


class KeyRow(Struct, frozen=True):
    """A key of a keystore as a copy holds it: of whom, for what, and wrapped; None when it is gone."""

    kid: bytes
    ref: bytes
    group: str
    wrapped: bytes | None


class Opened(Struct, frozen=True, kw_only=True):
    """How many envelopes were tried with how many keys, and those that opened with their text."""

    envelopes: int
    keys: int
    texts: tuple[tuple[Envelope, bytes], ...]

    def holding(self, tokens: Iterable[bytes]) -> int:
        """Return how many of the texts hold one of these values."""
        wanted = tuple(tokens)
        return sum(any(token in text for token in wanted) for _, text in self.texts)


def committed(secret: bytes) -> bytes:
    """Return the id of a key: HKDF-Expand(SHA-256, key, "kid/v1", 32) of RFC 5869."""
    return hmac.digest(secret, b"kid/v1\x01", hashlib.sha256)


# Sealed values ----------------------------------------------------------------------------------


def envelopes_in(paths: Iterable[Path], kids: Collection[bytes]) -> dict[tuple[bytes, bytes], Envelope]:
    """Return every envelope in any byte of these places that is sealed under one of these keys."""
    scanner = Scanner({kid.hex(): VERSION + kid for kid in kids}, is_raw_only=True)
    found: dict[tuple[bytes, bytes], Envelope] = {}
    for hit in scanner.scan(path for path in paths if path.exists()):
        if hit.encoding != "raw":
            continue
        with hit.path.open("rb") as file:
            file.seek(hit.offset + 1)
            kid, nonce, head = file.read(KID_BYTES), file.read(NONCE_BYTES), file.read(HEAD_BYTES)
        if len(nonce) == NONCE_BYTES and head:
            found.setdefault((kid, nonce), Envelope(kid, nonce, head))
    return found


def open_with(envelopes: Iterable[Envelope], secrets: Iterable[bytes]) -> Opened:
    """Try every envelope with every key; one opens where the key commits to the envelope's id.

    The text is what AES-CTR gives for the whole head: it ends where the value does, in noise.
    """
    by_kid = {committed(secret): secret for secret in secrets}
    tried, texts = 0, []
    for envelope in envelopes:
        tried += 1
        if (secret := by_kid.get(envelope.kid)) is not None:
            texts.append((envelope, _decrypted(secret, envelope.nonce, envelope.head)))
    return Opened(envelopes=tried, keys=len(by_kid), texts=tuple(texts))


def opened_by_force(
    envelopes: Sequence[Envelope], secrets: Iterable[bytes], *, known: Mapping[tuple[bytes, bytes], bytes]
) -> int:
    """Try every pair of an envelope and a key, whatever the envelope says of its key; return successes.

    `known`: the first block of the text of each envelope, from when it could be read.
    """
    tried = [one for one in envelopes if len(one.head) >= BLOCK_BYTES and (one.kid, one.nonce) in known]
    counters = b"".join(one.nonce + _FIRST_BLOCK for one in tried)
    held = int.from_bytes(b"".join(one.head[:BLOCK_BYTES] for one in tried))
    wanted = [known[one.kid, one.nonce] for one in tried]
    count = 0
    for secret in secrets:
        # AES-CTR block by block, for all envelopes in one call: a counter mode of one's own.
        encryptor = Cipher(algorithms.AES(secret), modes.ECB()).encryptor()  # noqa: S305 - counters, not text
        stream = int.from_bytes(encryptor.update(counters) + encryptor.finalize())
        text = (stream ^ held).to_bytes(len(counters))
        blocks = (text[at : at + BLOCK_BYTES] for at in range(0, len(text), BLOCK_BYTES))
        count += sum(map(bytes.__eq__, blocks, wanted))
    return count


def _decrypted(secret: bytes, nonce: bytes, ciphertext: bytes) -> bytes:
    decryptor = Cipher(algorithms.AES(secret), modes.CTR(nonce + _FIRST_BLOCK)).decryptor()
    return decryptor.update(ciphertext) + decryptor.finalize()


# Keys -------------------------------------------------------------------------------------------


def keks_in(paths: Iterable[Path]) -> tuple[bytes, ...]:
    """Return every key-encryption key that lies in a file of its own in these places."""
    found: dict[bytes, None] = {}
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.stat().st_size == KEK_BYTES:
                found[file.read_bytes()] = None
    return tuple(found)


def key_rows_in(paths: Iterable[Path]) -> tuple[KeyRow, ...]:
    """Return the keys of every copy of a keystore in these places, each with its write-ahead log.

    A copy is read from a copy of its own: nothing is changed, and a log beside it counts.
    """
    found: list[KeyRow] = []
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and _starts_as_sqlite(file):
                found += _rows_of(file)
    return tuple(found)


def _starts_as_sqlite(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_SQLITE)) == _SQLITE


def _rows_of(file: Path) -> Iterator[KeyRow]:
    with tempfile.TemporaryDirectory(prefix="copied-") as folder:
        copy = Path(folder) / "keystore.db"
        shutil.copy(file, copy)
        log = file.with_name(f"{file.name}-wal")
        if log.exists():
            shutil.copy(log, f"{copy}-wal")
        with closing(sqlite3.connect(copy)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if not {"keys", "material"} <= names:
                return
            rows = connection.execute(
                "SELECT k.kid, k.ref, k.grp, m.wrapped FROM keys k LEFT JOIN material m ON m.id = k.id"
            ).fetchall()
    yield from (KeyRow(*row) for row in rows)


def unwrapped(
    wrapped: Iterable[bytes], keks: Sequence[bytes], *, kids: Collection[bytes]
) -> dict[bytes, bytes]:
    """Return the keys, by id, that any key-encryption key takes out of these wrapped forms.

    What comes out is a key where it commits to one of `kids`; the place it is bound to is not needed.
    """
    found: dict[bytes, bytes] = {}
    for form in {form for form in wrapped if len(form) == WRAPPED_BYTES}:
        for kek in keks:
            secret = _decrypted(kek, form[:NONCE_BYTES], form[NONCE_BYTES : NONCE_BYTES + KEK_BYTES])
            if (kid := committed(secret)) in kids:
                found[kid] = secret
    return found


def unwrapped_anywhere(data: bytes, keks: Sequence[bytes], *, kids: Collection[bytes]) -> dict[bytes, bytes]:
    """Return the keys, by id, that lie wrapped at any offset of `data`, whatever its layout."""
    found: dict[bytes, bytes] = {}
    places = [
        at
        for at in range(len(data) - NONCE_BYTES - KEK_BYTES + 1)
        if data.count(0, at, at + NONCE_BYTES) <= _ZEROS_MAX
    ]
    blocks = b"".join(
        nonce + _FIRST_BLOCK + nonce + _SECOND_BLOCK
        for at in places
        for nonce in (data[at : at + NONCE_BYTES],)
    )
    for kek in keks:
        # As above, for all places at once.
        encryptor = Cipher(algorithms.AES(kek), modes.ECB()).encryptor()  # noqa: S305 - counters, not text
        stream = encryptor.update(blocks) + encryptor.finalize()
        for number, at in enumerate(places):
            key_bytes = int.from_bytes(stream[number * KEK_BYTES : (number + 1) * KEK_BYTES])
            held = int.from_bytes(data[at + NONCE_BYTES : at + NONCE_BYTES + KEK_BYTES])
            secret = (key_bytes ^ held).to_bytes(KEK_BYTES)
            if (kid := committed(secret)) in kids:
                found[kid] = secret
    return found
