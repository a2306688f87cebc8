"""A search of every byte of many places, which proves in each run that it finds what is there.

Before it is believed, leaks are planted: in a copy of real bytes of each place, in each encoding, and
every one of them must be found. A search that misses one is no evidence, and says so.
"""

import base64
import gzip
import hashlib
import json
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from msgspec import Struct

from privacy_ledger.testing.scanner import Hit, Scanner

__all__ = ["LEAKS", "PLANTED_MIN", "Proof", "Search", "Searched", "frozen", "prove"]

PLANTED_MIN: Final = 50
GROUP: Final = 4000
"""Tokens that one scanner looks for: more of them take more memory than they save time."""
FREEZES: Final = 20
_AROUND_BYTES: Final = 192 << 10
"""Of the real bytes of a place around a planted leak."""

Leak = Callable[[bytes], bytes]


def _hashed(name: str, *, as_hex: bool = False) -> Leak:
    def leak(value: bytes) -> bytes:
        digest = hashlib.new(name, value, usedforsecurity=False).digest()
        return digest.hex().encode() if as_hex else digest

    return leak


LEAKS: Final[Mapping[str, Leak]] = {
    "raw": bytes,
    "upper": bytes.upper,
    "utf-16-le": lambda value: value.decode().encode("utf-16-le"),
    "utf-16-be": lambda value: value.decode().upper().encode("utf-16-be"),
    "base64": base64.b64encode,
    "base64 behind one": lambda value: base64.b64encode(b"a" + value),
    "base64url behind two": lambda value: base64.urlsafe_b64encode(b"ab" + value),
    "hex": lambda value: value.hex().encode(),
    "HEX": lambda value: value.hex().upper().encode(),
    "percent": lambda value: quote(value.decode() + "/ ü", safe="").encode(),
    "every byte as percent": lambda value: b"".join(b"%%%02X" % byte for byte in value),
    "json": lambda value: json.dumps({"said": value.decode()}).encode(),
    "json escapes": lambda value: "".join(f"\\u{char:04x}" for char in value).encode(),
    "md5": _hashed("md5"),
    "sha1": _hashed("sha1"),
    "sha256": _hashed("sha256"),
    "sha256 as hex": _hashed("sha256", as_hex=True),
    "gzip": lambda value: gzip.compress(b"before " + value + b" after"),
    "zlib": lambda value: zlib.compress(b"before " + value),
    "gzip in zlib": lambda value: zlib.compress(gzip.compress(value)),
}
"""Ways in which a value may leave: written apart from what the scanner itself knows."""


class Proof(Struct, frozen=True, kw_only=True):
    """How many leaks were planted, and those that were not found, as (place, encoding)."""

    planted: int
    missed: tuple[tuple[str, str], ...]

    @property
    def holds(self) -> bool:
        """Whether enough was planted and all of it found."""
        return self.planted >= PLANTED_MIN and not self.missed


class Searched(Struct, frozen=True, kw_only=True):
    """What a search went through, and the hits by place."""

    files: int
    size: int
    hits: Mapping[str, tuple[Hit, ...]]

    def outside(self, *allowed: str) -> tuple[Hit, ...]:
        """Return the hits in places where there must be none."""
        return tuple(hit for place, hits in self.hits.items() if place not in allowed for hit in hits)


class Search:
    """The tokens that are looked for, in groups, so that there may be very many."""

    def __init__(self, tokens: Mapping[str, bytes]) -> None:
        """Take them by the name that a hit gives them."""
        names = list(tokens)
        self._groups = [
            {name: tokens[name] for name in names[at : at + GROUP]} for at in range(0, len(names), GROUP)
        ]
        self._only: Scanner | None = None

    def run(self, places: Mapping[str, Sequence[Path]]) -> Searched:
        """Return what is found in every byte and every file's name; a path that is not there is empty.

        Where there are many groups a scanner is dropped before the next one is made: each is large.
        """
        there = {place: [path for path in paths if path.exists()] for place, paths in places.items()}
        hits: dict[str, list[Hit]] = {place: [] for place in places}
        for group in self._groups:
            scanner = self._scanner(group)
            for place, paths in there.items():
                hits[place] += scanner.scan(paths)
            del scanner
        files = [file for paths in there.values() for file in _files(paths)]
        return Searched(
            files=len(files),
            size=sum(file.stat().st_size for file in files),
            hits={place: tuple(found) for place, found in hits.items()},
        )

    def _scanner(self, group: Mapping[str, bytes]) -> Scanner:
        """Return what looks for a group; a single one is kept for the next run."""
        if len(self._groups) > 1:
            return Scanner(group)
        if self._only is None:
            self._only = Scanner(group)
        return self._only


def prove(
    places: Mapping[str, Sequence[Path]], *, seed: int, leaks: Mapping[str, Leak] | None = None
) -> Proof:
    """Plant a leak in each encoding into a copy of real bytes of each place, and search for them.

    `leaks`: otherwise all of `LEAKS`. Nothing is written into the places themselves.
    """
    leaks = LEAKS if leaks is None else leaks
    draw = random.Random(f"planted {seed}")
    tokens, wanted = {}, {}
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        for place, paths in places.items():
            around = _some_bytes([path for path in paths if path.exists()], draw)
            for number, (encoding, leak) in enumerate(leaks.items()):
                token = "".join(draw.choices("ghijklmnopqrstuvwxyz", k=24)).encode()
                name = f"{place}, {encoding}"
                tokens[name], wanted[name] = token, (place, encoding)
                at = draw.randrange(len(around) + 1)
                file = Path(folder) / f"{len(wanted)}-{number}"
                file.write_bytes(around[:at] + leak(token) + around[at:])
        found = {
            hit.name for hits in Search(tokens).run({"all": [Path(folder)]}).hits.values() for hit in hits
        }
    missed = tuple(where for name, where in wanted.items() if name not in found)
    return Proof(planted=len(wanted), missed=missed)


def frozen(places: Mapping[str, Sequence[Path]], folder: Path) -> dict[str, list[Path]]:
    """Return the same places as they are now, in a folder: what others remove meanwhile stays there.

    Files are linked where that is possible, else copied; it is done again where one vanished.

    Raises:
        OSError: a file cannot be read, or files vanish all the time.
    """
    held: dict[str, list[Path]] = {}
    for number, (place, paths) in enumerate(places.items()):
        held[place] = []
        for which, path in enumerate(path for path in paths if path.exists()):
            target = folder / f"{number}-{which}"
            for left in reversed(range(FREEZES)):
                try:
                    _hold(path, target)
                    break
                except FileNotFoundError:
                    shutil.rmtree(target)
                    if not left:
                        raise
            held[place].append(target)
    return held


def _hold(path: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in [path] if path.is_file() else _files([path]):
        inside = target / (file.name if file == path else file.relative_to(path))
        inside.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, inside)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            shutil.copy(file, inside)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_file():
            yield path
        else:
            yield from (file for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def _some_bytes(paths: Sequence[Path], draw: random.Random) -> bytes:
    """Return the beginning of a place's largest file, or noise where it has none."""
    largest = max(_files(paths), key=lambda file: file.stat().st_size, default=None)
    if largest is None:
        return draw.randbytes(4096)
    with largest.open("rb") as file:
        return file.read(_AROUND_BYTES)
