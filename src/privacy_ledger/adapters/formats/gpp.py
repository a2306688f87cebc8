"""The Global Privacy Platform string: what a person chose, section by section.

Pure and bounded: text in, values or `SIGNAL_INVALID` out. Names of fields are those of the sections'
specifications. Sections are read whose layout is known here; of the others only the number is told.

Source: IAB Tech Lab, Global Privacy Platform: consent string specification (header, base64url of six bits
a character, Fibonacci coding), and the sections "EU TCF v2", "US Privacy", "US National" and of US states.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from privacy_ledger.adapters.formats.gpp_sections import LAYOUTS, NAMES
from privacy_ledger.domain.refusals import Refusal

__all__ = ["CHARS_MAX", "SECTIONS_MAX", "Fields", "Gpp", "decode", "decode_section"]

CHARS_MAX: Final = 1 << 14
"""A string of more characters is refused; one with every section, and vendors, is shorter."""
SECTIONS_MAX: Final = 64
"""As many sections, and no higher number of one."""

Value = int | bool | str | datetime | tuple[int, ...]
Fields = dict[str, Value]

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_SIX_BITS: Final = {char: f"{place:06b}" for place, char in enumerate(_ALPHABET)}
_HEADER_TYPE: Final = 3
_HEADER_VERSION: Final = 1
_US_PRIVACY: Final = re.compile(r"1([YN\-])([YN\-])([YN\-])")
_TWO: Final = 2
_LETTERS: Final = 26
_TCF_LISTS: Final = (
    ("SpecialFeatureOptIns", 12),
    ("PurposeConsents", 24),
    ("PurposeLegitimateInterests", 24),
)
"""Lists of the EU's string, of one bit a number."""
_GPC_SEGMENT: Final = 1
_SEGMENTS_MAX: Final = 4
"""As many segments follow a section; a point more is in none of them."""
_TENTH: Final = timedelta(milliseconds=100)


class Gpp(Struct, frozen=True):
    """What a string says: its section numbers in order, the fields of those that are read, by name.

    `unread`: the numbers of the sections whose layout, or version, is not known here.
    """

    section_ids: tuple[int, ...]
    sections: dict[str, Fields]
    unread: tuple[int, ...]


class _MalformedError(Exception):
    """The text is not what it says to be."""


class _UnknownLayoutError(Exception):
    """A section, or a version of one, whose layout is not known."""


class _Bits:
    """Bits of base64url text, taken from the left; there is none without a character."""

    def __init__(self, text: str) -> None:
        if not text:
            raise _MalformedError
        try:
            self._bits = "".join([_SIX_BITS[char] for char in text])
        except KeyError:
            raise _MalformedError from None
        self._at = 0

    def take(self, count: int) -> int:
        """Return the next bits as a number, the highest first."""
        end = self._at + count
        if end > len(self._bits):
            raise _MalformedError
        taken, self._at = self._bits[self._at : end], end
        return int(taken, 2)

    def letters(self) -> str:
        """Return two letters of six bits each."""
        places = (self.take(6), self.take(6))
        if max(places) >= _LETTERS:
            raise _MalformedError
        return "".join(_ALPHABET[place] for place in places)

    def instant(self) -> datetime:
        """Return a time, counted in tenths of a second since 1970."""
        return datetime(1970, 1, 1, tzinfo=UTC) + self.take(36) * _TENTH

    def fibonacci(self) -> int:
        """Return a number from its Fibonacci code, which two ones in a row end."""
        total, weight, following, last = 0, 1, 2, 0
        while True:
            bit = self.take(1)
            if bit and last:
                return total
            total += weight * bit
            if total > SECTIONS_MAX or weight > SECTIONS_MAX:
                raise _MalformedError
            weight, following, last = following, weight + following, bit


def decode(text: str) -> Gpp | Refusal:
    """Return what a whole string says, or `SIGNAL_INVALID`; never raises.

    Each section that the header names must be there, in its order, and no other.
    """
    if len(text) > CHARS_MAX:
        return Refusal.SIGNAL_INVALID
    header, *parts = text.split("~", SECTIONS_MAX + 1)
    sections: dict[str, Fields] = {}
    unread: list[int] = []
    try:
        ids = _section_ids(_Bits(header))
        if len(ids) != len(parts):
            return Refusal.SIGNAL_INVALID
        for number, part in zip(ids, parts, strict=True):
            try:
                sections[NAMES[number]] = _section(NAMES[number], part)
            except (KeyError, _UnknownLayoutError):
                unread.append(number)
    except _MalformedError:
        return Refusal.SIGNAL_INVALID
    return Gpp(ids, sections, tuple(unread))


def decode_section(name: str, text: str) -> Fields | Refusal:
    """Return the fields of one section by its name, or `SIGNAL_INVALID`; never raises."""
    if len(text) > CHARS_MAX or name not in NAMES.values():
        return Refusal.SIGNAL_INVALID
    try:
        return _section(name, text)
    except (_MalformedError, _UnknownLayoutError):
        return Refusal.SIGNAL_INVALID


def _section_ids(bits: _Bits) -> tuple[int, ...]:
    """Return the numbers of the sections, rising."""
    if (bits.take(6), bits.take(6)) != (_HEADER_TYPE, _HEADER_VERSION):
        raise _MalformedError
    found: list[int] = []
    last = 0
    for _ in range(bits.take(12)):
        is_range = bits.take(1)
        first = last + bits.fibonacci()
        last = first + bits.fibonacci() if is_range else first
        if last > SECTIONS_MAX:
            raise _MalformedError
        found += range(first, last + 1)
    return tuple(found)


def _section(name: str, text: str) -> Fields:
    """Return the fields of a section."""
    if name == "uspv1":
        return _us_privacy(text)
    core, *rest = text.split(".", _SEGMENTS_MAX)
    bits, segments = _Bits(core), [_Bits(segment) for segment in rest]
    version = bits.take(6)
    if name == "tcfeuv2":
        if version != _TWO:
            raise _UnknownLayoutError
        return _tcf(bits)
    layout = LAYOUTS.get((name, version))
    if layout is None:
        raise _UnknownLayoutError
    found: Fields = {"Version": version}
    found |= {field: bits.take(2) for field in layout.first}
    found["SensitiveDataProcessing"] = tuple([bits.take(2) for _ in range(layout.sensitive)])
    field = "KnownChildSensitiveDataConsents"
    found[field] = (
        bits.take(2) if layout.children is None else tuple([bits.take(2) for _ in range(layout.children)])
    )
    found |= {field: bits.take(2) for field in layout.rest}
    return found | _gpc(segments if layout.has_gpc else [])


def _gpc(segments: list[_Bits]) -> Fields:
    """Return whether a segment of Global Privacy Control is there, and what it says; of two the stricter."""
    said = [bool(segment.take(1)) for segment in segments if segment.take(2) == _GPC_SEGMENT]
    return {"GpcSegmentIncluded": True, "Gpc": any(said)} if said else {"GpcSegmentIncluded": False}


def _us_privacy(text: str) -> Fields:
    """Return the three letters of the older US string."""
    match = _US_PRIVACY.fullmatch(text)
    if match is None:
        raise _MalformedError
    notice, sale, covered = match.groups()
    return {"Version": 1, "Notice": notice, "OptOutSale": sale, "LspaCovered": covered}


def _tcf(bits: _Bits) -> Fields:
    """Return the core segment of the EU's string up to its vendors, which are nobody's here."""
    found: Fields = {"Version": _TWO, "Created": bits.instant(), "LastUpdated": bits.instant()}
    found |= {"CmpId": bits.take(12), "CmpVersion": bits.take(12), "ConsentScreen": bits.take(6)}
    found |= {"ConsentLanguage": bits.letters(), "VendorListVersion": bits.take(12)}
    found |= {"PolicyVersion": bits.take(6), "IsServiceSpecific": bool(bits.take(1))}
    found["UseNonStandardStacks"] = bool(bits.take(1))
    for field, count in _TCF_LISTS:
        found[field] = tuple([number + 1 for number in range(count) if bits.take(1)])
    found["PurposeOneTreatment"] = bool(bits.take(1))
    found["PublisherCountryCode"] = bits.letters()
    return found
