"""Text with its disguises taken off, layer by layer: escapes, entities, other digits, base64, hex.

Pure and total. Each layer is linear in the text and their number is bounded; what is wrapped
deeper than that is told, so that nothing is passed unread.
"""

import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

__all__ = ["LAYERS_MAX", "WrappedTooDeep", "hidden_in", "layers_of", "plain"]

LAYERS_MAX: Final = 8
"""A link within a link within a link is encoded three times."""
PLAIN_CACHED: Final = 4096

_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]+")
_ENTITY: Final = re.compile(r"&(?:#|[A-Za-z]{2,8};)")
_ESCAPED: Final = re.compile(r"\\+u([0-9a-fA-F]{4})|\\+[nrt]")
_RUN: Final = re.compile(r"[A-Za-z0-9+/_\-]{16,}")
_HEX_RUN: Final = re.compile(r"[0-9a-fA-F]{24,}")
_TEXTLIKE: Final = re.compile(rb"[\t\n\r -~]{11,}")
_DIGITS_MIN: Final = 12
_QUANTUM: Final = 4
_WRAPS: Final = str.maketrans("-_", "+/")
_BLANKS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_INVISIBLE: Final = frozenset("\u034f\u180b\u180c\u180d\u20e3")
_DOTS: Final = frozenset("\u00b7\u2022\u2024\u2027\u2219\u22c5\u3002\u30fb\uff61\uff65")
_DASHES: Final = frozenset("\u2043\u2212\u30fc\uff70")
_FULL_WIDTH: Final = range(0xFF01, 0xFF5F)
_FULL_WIDTH_OFFSET: Final = 0xFEE0
_VARIATIONS: Final = range(0xFE00, 0xFE10)


class WrappedTooDeep(Exception):
    """Text is encoded more often than any reader would undo."""


def plain(text: str) -> str:
    """Return text with digits, spaces, dashes and dots of all scripts as ASCII, and no invisible marks."""
    return text if text.isascii() else _NOT_ASCII.sub(_plain_run, text)


def layers_of(text: str) -> Iterator[str]:
    """Yield plain text, then it with percent signs, entities and backslashes undone, while that changes it.

    Raises:
        WrappedTooDeep: it still changes after `LAYERS_MAX` layers.
    """
    text = plain(text)
    yield text
    for _ in range(LAYERS_MAX):
        inner = text
        if "%" in inner:
            inner = plain(unquote(inner, errors="replace"))
        if "&" in inner and _ENTITY.search(inner) is not None:
            inner = plain(html.unescape(inner))
        if "\\" in inner:
            inner = plain(_ESCAPED.sub(_unescaped, inner).replace("\\", ""))
        if inner == text:
            return
        text = inner
        yield text
    raise WrappedTooDeep


def hidden_in(text: str) -> Iterator[str]:
    """Yield the texts that base64, of either alphabet and from any character on, or hex hides in plain text.

    What decodes to no text is left out. At most six texts for a run of characters, each shorter than it.
    """
    joined = text.replace("\r", "").replace("\n", "") if "\n" in text else text
    for match in _RUN.finditer(joined):
        run = match.group().translate(_WRAPS)
        if run.islower():  # an id in hex: what base64 makes of a digit begins with a capital
            continue
        for start in range(_QUANTUM):
            if (found := _from_base64(run[start:])) is not None:
                yield found
    for match in _HEX_RUN.finditer(text):
        for run in (match.group(), match.group()[1:]):
            if (found := _text_of(bytes.fromhex(run[: len(run) // 2 * 2]))) is not None:
                yield found


def _from_base64(run: str) -> str | None:
    """Return the text of a base64 run, or None."""
    rest = len(run) % _QUANTUM
    run = run[:-1] if rest == 1 else run + "A" * (-len(run) % _QUANTUM)
    # Text in two-byte units has a zero byte beside each ASCII character.
    return _text_of(binascii.a2b_base64(run).replace(b"\0", b""))


def _text_of(raw: bytes) -> str | None:
    """Return bytes as plain text, or None when they hold neither a word's worth of text nor many digits."""
    if _TEXTLIKE.search(raw) is not None:
        return plain(raw.decode(errors="replace"))
    if raw.isascii():
        return None
    text = plain(raw.decode(errors="ignore"))
    return text if sum(map(text.count, "0123456789")) >= _DIGITS_MIN else None


def _unescaped(match: re.Match[str]) -> str:
    """Return the character of a JSON escape; a line end or a tab is a space."""
    number = match.group(1)
    return " " if number is None else chr(int(number, 16))


def _plain_run(match: re.Match[str]) -> str:
    return match.group().translate(_PLAIN)


class _Plain(dict[int, str]):
    """What each character stands for, found when it is first met; bounded."""

    def __missing__(self, code: int) -> str:
        found = _plain_char(chr(code))
        if len(self) >= PLAIN_CACHED:
            self.clear()
        self[code] = found
        return found


_PLAIN: Final = _Plain()


def _plain_char(char: str) -> str:
    """Return the ASCII that a character looks like, nothing for what is invisible, else the character."""
    digit = unicodedata.digit(char, -1)
    if digit >= 0:
        return str(digit)
    code = ord(char)
    if code in _FULL_WIDTH:
        return chr(code - _FULL_WIDTH_OFFSET)
    category = unicodedata.category(char)
    if category in {"Zs", "Zl", "Zp"} or char in _BLANKS:
        return " "
    if category == "Cf" or code in _VARIATIONS or char in _INVISIBLE:
        return ""
    if category == "Pd" or char in _DASHES:
        return "-"
    return "." if char in _DOTS else char
