import base64
import gzip
import hashlib
import json
import random
import sqlite3
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from privacy_ledger.testing.scanner import CHUNK_BYTES, Hit, Scanner

EMAIL = "Zoë.Quill+canary@example.com"
KEY = bytes(random.Random(7).randbytes(32))
TOKENS = {"email": EMAIL.encode(), "key": KEY, "name": b"Canaria Quillfeather"}

Leak = Callable[[bytes], bytes]


def _utf16(order: str) -> Leak:
    return lambda value: value.decode().encode(f"utf-16-{order}")


def _base64(before: bytes) -> Leak:
    return lambda value: base64.b64encode(before + value + b"?")


def _hashed(name: str) -> Leak:
    return lambda value: hashlib.new(name, value).digest()


TEXT_LEAKS: dict[str, Leak] = {
    "lower": lambda value: value.decode().lower().encode(),
    "upper": lambda value: value.decode().upper().encode(),
    "utf-16-le": _utf16("le"),
    "utf-16-be": _utf16("be"),
    "json": lambda value: json.dumps({"v": value.decode()}).encode(),
    "json, every character": lambda value: "".join(f"\\u{ord(c):04x}" for c in value.decode()).encode(),
    "percent": lambda value: quote(value.decode(), safe="").encode(),
}
BINARY_LEAKS: dict[str, Leak] = {
    "raw": lambda value: value,
    "base64, phase 0": _base64(b""),
    "base64, phase 1": _base64(b"a"),
    "base64, phase 2": _base64(b"ab"),
    "base64url": lambda value: base64.urlsafe_b64encode(b"x" + value),
    "hex": lambda value: value.hex().encode(),
    "HEX": lambda value: value.hex().upper().encode(),
    "percent, every byte": lambda value: "".join(f"%{byte:02X}" for byte in value).encode(),
    "md5": _hashed("md5"),
    "sha1": _hashed("sha1"),
    "sha256": _hashed("sha256"),
    "sha256, hex": lambda value: hashlib.sha256(value).hexdigest().encode(),
    "gzip": lambda value: gzip.compress(b"before " + value + b" after"),
    "zlib": lambda value: zlib.compress(b"before " + value + b" after"),
    "gzip in zlib": lambda value: zlib.compress(gzip.compress(value)),
}
LEAKS = [
    *((name, kind, leak) for name in ("email", "name") for kind, leak in TEXT_LEAKS.items()),
    *((name, kind, leak) for name in TOKENS for kind, leak in BINARY_LEAKS.items()),
]
PLACES = (0, 1, 4097, CHUNK_BYTES - 3, CHUNK_BYTES + 1)


@pytest.mark.parametrize(("name", "kind", "leak"), LEAKS, ids=[f"{name}-{kind}" for name, kind, _ in LEAKS])
def test_a_planted_leak_is_found_wherever_it_stands(tmp_path: Path, name: str, kind: str, leak: Leak) -> None:
    """Every token is found in every disguise, at the start, anywhere, and across chunks."""
    noise = random.Random(kind).randbytes(CHUNK_BYTES + 5000)
    planted = leak(TOKENS[name])
    for place in PLACES:
        (tmp_path / "segment").write_bytes(noise[:place] + planted + noise[place:])
        assert {hit.name for hit in Scanner(TOKENS).scan([tmp_path])} == {name}


def test_a_hit_says_where_and_how(tmp_path: Path) -> None:
    """A hit names the file, the token, its disguise and the offset, once."""
    path = tmp_path / "deep" / "segment.log"
    path.parent.mkdir()
    path.write_bytes(bytes(CHUNK_BYTES - 10) + KEY + bytes(10))
    assert Scanner(TOKENS).scan([tmp_path]) == [Hit(path, "key", "raw", CHUNK_BYTES - 10)]


def test_every_offset_around_a_chunks_edge_is_seen(tmp_path: Path) -> None:
    """No alignment hides a token that lies across two chunks."""
    scanner = Scanner(TOKENS)
    path = tmp_path / "segment"
    for place in range(CHUNK_BYTES - 36, CHUNK_BYTES + 4):
        path.write_bytes(bytes(place) + KEY + bytes(50))
        assert scanner.scan([path]) == [Hit(path, "key", "raw", place)]


@pytest.mark.parametrize("before", [0, CHUNK_BYTES, 3 * CHUNK_BYTES - 7, 3 * CHUNK_BYTES])
@pytest.mark.parametrize("after", [0, 11, CHUNK_BYTES, 2 * CHUNK_BYTES + 5])
def test_a_token_between_zeros_is_found_where_it_is(tmp_path: Path, before: int, after: int) -> None:
    """Room that a log reserved is passed over quickly, and what ends or begins with zeros is not missed."""
    token = b"\0\0\0" + KEY + b"\0\0\0"
    path = tmp_path / "segment.index"
    path.write_bytes(bytes(before) + token + bytes(after))
    sparse = tmp_path / "segment.timeindex"
    with sparse.open("wb") as file:
        file.seek(before)
        file.write(token)
        file.truncate(before + len(token) + after)
    assert Scanner({"key": token}, is_raw_only=True).scan([sparse]) == [Hit(sparse, "key", "raw", before)]
    assert Scanner({"key": token}, is_raw_only=True).scan([path]) == [Hit(path, "key", "raw", before)]


def test_a_file_named_after_a_person_is_a_leak(tmp_path: Path) -> None:
    """Names of files and folders are scanned as well."""
    (tmp_path / "Canaria Quillfeather.csv").write_bytes(b"")
    assert [hit.encoding for hit in Scanner(TOKENS).scan([tmp_path])] == ["file name, raw"]


def test_a_database_is_scanned_with_its_write_ahead_log(tmp_path: Path) -> None:
    """What SQLite has deleted but not overwritten is found."""
    connection = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (v TEXT)")
    connection.execute("INSERT INTO t VALUES (?)", (EMAIL,))
    connection.execute("DELETE FROM t")
    found = {hit.path.name for hit in Scanner(TOKENS).scan([tmp_path])}
    connection.close()
    assert "ledger.sqlite-wal" in found


def test_random_bytes_raise_no_alarm(tmp_path: Path) -> None:
    """Sixteen megabytes of noise hold nothing, for some five hundred patterns."""
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(16 << 20))
    assert Scanner(_tokens(20)).scan([tmp_path]) == []


def test_a_token_that_chance_would_find_is_refused() -> None:
    """A token of four bytes is no evidence."""
    with pytest.raises(ValueError, match="fewer than 5 bytes"):
        Scanner({"short": b"abcd"})


def test_the_scanner_keeps_up_with_a_disk(tmp_path: Path) -> None:
    """Fifty megabytes a second, for some five hundred patterns; half of it on a busy machine."""
    (tmp_path / "noise").write_bytes(random.Random(2).randbytes(16 << 20))
    scanner = Scanner(_tokens(20))
    started = time.process_time()
    scanner.scan([tmp_path])
    assert 16 / (time.process_time() - started) > 25


def _tokens(count: int) -> dict[str, bytes]:
    draw = random.Random(3)
    return {f"t{n}": f"canary-{draw.randbytes(6).hex()}@example.com".encode() for n in range(count)}


def test_a_file_that_is_renamed_meanwhile_is_found_under_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker renames what it is about to remove: its bytes are still there."""
    token = b"a-token-of-twenty-chars"
    (tmp_path / "a.log").write_bytes(b"nothing")
    (tmp_path / "b.log").write_bytes(b"before " + token)
    right = Path.open

    def opened(self: Path, *args: Any, **more: Any) -> Any:  # noqa: ANN401 - as it is called
        if self.name == "a.log":
            (tmp_path / "b.log").rename(tmp_path / "b.log.deleted")
        return right(self, *args, **more)

    monkeypatch.setattr(Path, "open", opened)
    assert [hit.path.name for hit in Scanner({"t": token}).scan([tmp_path])] == ["b.log.deleted"]
